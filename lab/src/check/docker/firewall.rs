//! The firewalls of hosts make no difference to containers on our networks, and we do not change
//! firewalls.

use anyhow::{Context, Result, ensure};

use super::pair::Pair;
use crate::check::{Notes, PATIENCE};
use crate::wait_until;

/// How soon names must work again after the rules inside a container were flushed, in milliseconds.
const HEALED_MS: u128 = 1_000;
/// A reload of firewalld, as far as it matters: all rules are flushed, its own are added again, and
/// forwarding is dropped.
const RELOAD: &str = "nft flush ruleset; nft 'table inet firewalld { chain filter_FORWARD { type filter hook forward priority 10; policy drop; }; \
     chain filter_INPUT { type filter hook input priority 10; policy accept; }; }'";
/// Changes to the host's firewall: a name and the commands.
const BLOWS: [(&str, &str); 6] = [
    ("FORWARD policy DROP", "iptables -P FORWARD DROP; ip6tables -P FORWARD DROP"),
    ("iptables -F", "iptables -F; iptables -t nat -F; ip6tables -F"),
    ("nft flush ruleset", "nft flush ruleset"),
    ("firewall reload", RELOAD),
    (
        "a table that drops all forwarding",
        "nft 'table inet strict { chain forward { type filter hook forward priority 0; policy drop; }; }'",
    ),
    ("nft flush ruleset again", "nft flush ruleset"),
];

pub(in crate::check) fn run(rounds: u32, notes: &mut Notes) -> Result<()> {
    let pair = Pair::new(notes, true)?;
    nothing_added(&pair, notes)?;
    for (host, name) in [(0, "one"), (1, "two")] {
        pair.serve(host, "net", name)?;
    }
    pair.reaches(0, "one", "two")?;
    pair.reaches(1, "two", "one")?;
    let flows = [(0, "one", "two"), (1, "two", "one")]
        .map(|(host, from, to)| pair.flow(host, from, &pair.cluster.address_of(0, to)?));
    let flows = flows.into_iter().collect::<Result<Vec<_>>>()?;
    let mut slowest = 0;
    for _ in 0..rounds {
        for (what, commands) in BLOWS {
            for host in [0, 1] {
                pair.cluster
                    .host(host)
                    .try_command("sh")?
                    .args(["-c", commands])
                    .run()
                    .with_context(|| what)?;
            }
            slowest = slowest.max(names(&pair).with_context(|| what)?);
        }
        for host in [0, 1] {
            pair.engines[host].stop_daemon("TERM")?;
            pair.engines[host].start_daemon()?;
        }
        slowest = slowest.max(names(&pair).context("restart of dockerd")?);
        slowest = slowest.max(flushed_inside(&pair)?);
    }
    let mut echoes = 0;
    for flow in flows {
        echoes += flow.unbroken()?;
    }
    notes.say(&format!(
        "{} changes of the firewall and a restart of dockerd, {rounds} times on both hosts: {echoes} echoes, 0 lost; names after {slowest} ms at the latest",
        BLOWS.len()
    ));
    ensure!(slowest <= HEALED_MS, "names were away for {slowest} ms");

    pair.finish()
}

/// Counts rules and chains, except for those by which Docker protects the addresses that it assigns
/// itself: since version 28 each has a rule in the table `raw`, which names `docker_gwbridge`.
fn rules(pair: &Pair) -> Result<usize> {
    const LIST: &str = "nft -a list ruleset | awk '/^table/ { raw = $3 == \"raw\" } \
                        !raw && /handle/ && !/docker_gwbridge/ { count++ } END { print count + 0 }'";
    let output = pair.cluster.host(0).try_command("sh")?.args(["-c", LIST]).run()?;

    output.stdout.trim().parse().context("a count")
}

/// Overlay adds nothing to the host's rules; those for `docker_gwbridge` are Docker's own.
fn nothing_added(pair: &Pair, notes: &mut Notes) -> Result<()> {
    let bridge = || pair.docker(0, &["network", "inspect", "docker_gwbridge"]).is_ok();
    wait_until(PATIENCE, "docker_gwbridge is there", bridge)?;
    let with_bridge = rules(pair)?;
    pair.create_on_both(&["net"])?;
    for (host, name) in [(0, "one"), (1, "two")] {
        pair.serve(host, "net", name)?;
    }
    pair.reaches(0, "one", "two")?;
    let with_containers = rules(pair)?;
    ensure!(with_bridge == with_containers, "{with_bridge} rules became {with_containers}");
    let text = pair.cluster.host(0).try_command("nft")?.args(["list", "ruleset"]).run()?.stdout;
    ensure!(
        !text.contains("overlay") && !text.contains("ovt"),
        "ours is among the host's rules: {text}"
    );
    for (host, name) in [(0, "one"), (1, "two")] {
        pair.docker(host, &["rm", "-f", name])?;
    }
    notes.say(&format!("{with_bridge} rules and chains on the host with Docker, {with_containers} with a network of ours and containers on it"));

    Ok(())
}

/// Returns how long it takes until both containers find each other by name, in milliseconds.
fn names(pair: &Pair) -> Result<u128> {
    let mut slowest = 0;
    for (host, from, to) in [(0, "one", "two"), (1, "two", "one")] {
        slowest = slowest.max(pair.reaches(host, from, to)?.as_millis());
    }

    Ok(slowest)
}

/// Flushes the rules inside a container's namespace, which redirect its DNS queries.
fn flushed_inside(pair: &Pair) -> Result<u128> {
    let enter = format!("--net={}", pair.namespace(0, "one")?);
    pair.cluster.host(0).try_command("nsenter")?.args([&enter, "nft", "flush", "ruleset"]).run()?;
    let looked_up = || {
        let found =
            pair.engines[0].docker(&["exec", "one", "nslookup", "-type=a", "two.net"])?.output()?;
        Ok::<_, anyhow::Error>(found.status.success())
    };
    let healed =
        wait_until(PATIENCE, "names are back in the container", || looked_up().unwrap_or(false))?;

    Ok(healed.as_millis())
}
