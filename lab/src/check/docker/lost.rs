//! Containers whose interface or endpoint somebody removed get it back unchanged; and an address
//! that Docker assigns again belongs to the new container at once.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::pair::{Pair, Relay};
use crate::check::{Notes, PATIENCE, ms};
use crate::wait_until;

/// The calls by which Docker says that an endpoint is gone.
const FAREWELL: [&str; 3] =
    ["/NetworkDriver.Leave", "/NetworkDriver.DeleteEndpoint", "/IpamDriver.ReleaseAddress"];

/// The agent's state, and copies of it: of before `c1` was there, and of when it was on one
/// network.
const STATE: &str = "/var/lib/overlay/agent/agent.redb";
const KEPT_BEFORE: &str = "/run/agent.redb.before";
const KEPT: &str = "/run/agent.redb.kept";

/// What is removed by whom, in words, and how.
type Hand = (&'static str, fn(&Pair) -> Result<()>);

/// What is done to `c1`, which is on both networks.
const HANDS: [Hand; 6] = [
    ("an interface removed in the container", inside),
    ("the networks' ends of both removed", near_ends),
    ("an older copy of the agent's state", older),
    ("both of it at once", |pair| near_ends(pair).and_then(|()| older(pair))),
    ("a copy of the state from before the container", before),
    ("that and the networks' ends removed", |pair| near_ends(pair).and_then(|()| before(pair))),
];

pub(in crate::check) fn run(rounds: u32, notes: &mut Notes) -> Result<()> {
    let pair = Pair::new(notes, false)?;
    // The engine assigns the addresses of one, we those of the other.
    pair.create_on_both(&["plain"])?;
    let six = ["--ipv6", "--subnet", "10.80.0.0/16", "--subnet", "fd80::/64"];
    pair.create_on_both(&[&["--ipam-driver", "overlay-wg"], six.as_slice(), &["ours"]].concat())?;
    keep(&pair, KEPT_BEFORE)?;
    for (host, name) in [(0, "c1"), (1, "other")] {
        pair.serve(host, "plain", name)?;
    }
    keep(&pair, KEPT)?;
    for (host, name) in [(0, "c1"), (1, "other")] {
        pair.docker(host, &["network", "connect", "ours", name])?;
    }
    whole(&pair)?;
    taken(&pair, rounds, notes)?;
    // Docker removes what was made again as if it were the original.
    pair.docker(0, &["network", "disconnect", "plain", "c1"])?;
    pair.docker(0, &["network", "connect", "plain", "c1"])?;
    whole(&pair)?;
    refused(&pair)?;
    given_again(&pair, rounds, notes)?;

    pair.finish()
}

/// Both containers reach each other by their addresses on both networks.
fn whole(pair: &Pair) -> Result<()> {
    for network in ["plain", "ours"] {
        for (host, from, to) in [(0, "c1", "other"), (1, "other", "c1")] {
            let format = format!("{{{{.NetworkSettings.Networks.{network}.IPAddress}}}}");
            let address = pair.docker(1 - host, &["inspect", "-f", &format, to])?;
            pair.reaches(host, from, &address).with_context(|| format!("on {network}"))?;
        }
    }

    Ok(())
}

/// Returns all settings of the interfaces of `c1`, except for interface indices and who made a
/// route.
fn interfaces(pair: &Pair) -> Result<String> {
    const SCRIPT: &str = "(ip -br link; ip -br -4 addr; ip -br -6 addr show scope global) | sed 's/@[^ ]*//;s/ \\+/ /g' | sort; \
                          (ip route; ip -6 route | grep -v -e fe80 -e multicast) | sed 's/proto 79 //;s/ *$//' | sort; \
                          ip -o link | grep -o ': eth.* mtu [0-9]*' | sed 's/@[^:]*//' | sort";
    let enter = format!("--net={}", pair.namespace(0, "c1")?);

    Ok(pair
        .cluster
        .host(0)
        .try_command("nsenter")?
        .args([&enter, "sh", "-c", SCRIPT])
        .run()?
        .stdout)
}

fn taken(pair: &Pair, rounds: u32, notes: &mut Notes) -> Result<()> {
    let before = interfaces(pair)?;
    for (what, hand) in HANDS {
        let mut worst = Duration::ZERO;
        for _ in 0..rounds {
            hand(pair)?;
            let start = Instant::now();
            let is_back = || interfaces(pair).is_ok_and(|now| now == before);
            wait_until(PATIENCE, "everything is as before", is_back).with_context(|| {
                format!("{what}:\n{before}\nnow\n{}", interfaces(pair).unwrap_or_default())
            })?;
            worst = worst.max(start.elapsed());
            whole(pair)?;
        }
        notes.say(&format!("{what}, {rounds} times: as before after {} at the latest", ms(worst)));
    }
    let problems =
        || Ok::<_, anyhow::Error>(pair.cluster.ctl_json(0, &["status"])?["problems"].clone());
    wait_until(PATIENCE, "no problem is left", || {
        problems().is_ok_and(|all| all.as_array().is_some_and(Vec::is_empty))
    })
    .map(drop)
    .with_context(|| format!("{:?}", problems()))
}

fn inside(pair: &Pair) -> Result<()> {
    let enter = format!("--net={}", pair.namespace(0, "c1")?);
    let script = "ip link del $(ip -o -4 addr | grep -o 'eth[0-9]* *inet 10.80' | cut -d' ' -f1)";

    pair.cluster.host(0).try_command("nsenter")?.args([&enter, "sh", "-c", script]).run().map(drop)
}

fn near_ends(pair: &Pair) -> Result<()> {
    let script = "for n in /run/overlay/netns/*; do for l in $(nsenter --net=$n ip -o link | grep -o 'ov[0-9a-f]\\{12\\}'); do \
                  nsenter --net=$n ip link del $l; done; done";

    pair.cluster.host(0).try_command("sh")?.args(["-c", script]).run().map(drop)
}

/// Keeps a copy of the agent's state as it is.
fn keep(pair: &Pair, copy: &str) -> Result<()> {
    pair.cluster.ctl(0, &["stop"])?;
    pair.cluster.host(0).try_command("cp")?.args([STATE, copy]).run()?;

    pair.cluster.ctl(0, &["start"]).map(drop)
}

fn older(pair: &Pair) -> Result<()> {
    restore(pair, KEPT)
}

fn before(pair: &Pair) -> Result<()> {
    restore(pair, KEPT_BEFORE)
}

fn restore(pair: &Pair, copy: &str) -> Result<()> {
    pair.cluster.agent(0)?.kill()?;
    pair.cluster.host(0).try_command("cp")?.args([copy, STATE]).run()?;

    pair.cluster.ctl(0, &["start"]).map(drop)
}

/// Only Docker may remove an endpoint of a running container.
fn refused(pair: &Pair) -> Result<()> {
    let detach = ["detach", "--network", "ours", "--name", "c1"];
    let output = pair.cluster.host(0).try_command("overlayctl")?.args(detach).output()?;
    let command = output
        .stderr
        .split('`')
        .nth(1)
        .with_context(|| format!("no remedy: {}", output.stderr))?
        .to_owned();
    ensure!(
        output.status.code() == Some(1) && command.starts_with("docker network disconnect ours "),
        "{command}"
    );
    let words: Vec<_> = command.split(' ').skip(1).collect();
    pair.docker(0, &words)?;
    pair.docker(0, &["network", "connect", "ours", "c1"])?;

    whole(pair)
}

/// A container is removed and Docker's call that says so is lost; the next one gets its address.
fn given_again(pair: &Pair, rounds: u32, notes: &mut Notes) -> Result<()> {
    let address_of = |pair: &Pair, name: &str| {
        pair.docker(0, &["inspect", "-f", "{{.NetworkSettings.Networks.plain.IPAddress}}", name])
    };
    pair.take_door(0)?;
    let lose: Vec<&str> = FAREWELL.iter().flat_map(|call| ["--lose", call]).collect();
    let mut worst = Duration::ZERO;
    for _ in 0..rounds {
        let relay = Relay::with_late(pair, 0, &lose)?;
        pair.serve(0, "plain", "old")?;
        pair.reaches(1, "other", "old")?;
        let old = address_of(pair, "old")?;
        pair.docker(0, &["rm", "-f", "old"])?;
        pair.serve(0, "plain", "new")?;
        let start = Instant::now();
        ensure!(address_of(pair, "new")? == old, "the engine gave another address than {old}");
        let names = || pair.cluster.endpoint_names(1);
        let is_new = || {
            names().is_ok_and(|all| {
                all.iter().any(|name| name == "new") && all.iter().all(|name| name != "old")
            })
        };
        wait_until(PATIENCE, "the other host sees the new one", is_new)
            .with_context(|| format!("{:?}", names()))?;
        worst = worst.max(start.elapsed());
        pair.reaches(1, "other", "new")?;
        drop(relay);
        let relay = Relay::with_late(pair, 0, &[])?;
        pair.docker(0, &["rm", "-f", "new"])?;
        drop(relay);
    }
    notes.say(&format!(
        "an address given again {rounds} times: seen elsewhere after {} at the latest",
        ms(worst)
    ));

    pair.give_door_back(0)
}
