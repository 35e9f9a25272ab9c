//! A removed node is refused by every host that hears one that knows, whether control can be
//! reached or not; where a network has a lease, by all others when it has run out.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use overlay_traffic::ping::FIRST_ANSWER;

use super::{Notes, PATIENCE, PingSummary, ms};
use crate::cluster::Cluster;
use crate::command::Running;
use crate::wait_until;

/// The host that is removed.
const EVICTED: usize = 3;
/// The host that hears nobody but the removed one, in the last case.
const LONELY: usize = 4;
/// The lease of the network.
const LEASE: Duration = Duration::from_secs(10);
/// How soon traffic must be back once control can be reached: the longest pause between two
/// attempts, and two seconds.
const BACK: Duration = Duration::from_secs(4);

/// What is cut while a node is removed.
struct Case {
    what: &'static str,
    /// The hosts that cannot reach control.
    without_control: &'static [usize],
    /// The pairs of hosts between which nothing passes.
    partitions: &'static [(usize, usize)],
    /// The hosts that must refuse the removed one in time.
    hearers: &'static [usize],
    bar: Duration,
}

const CASES: [Case; 3] = [
    Case {
        what: "control up",
        without_control: &[],
        partitions: &[],
        hearers: &[0, 1, 2, LONELY],
        bar: Duration::from_secs(2),
    },
    Case {
        what: "the removed node cut off from control",
        without_control: &[EVICTED],
        partitions: &[],
        hearers: &[0, 1, 2, LONELY],
        bar: Duration::from_secs(2),
    },
    Case {
        what: "all but one cut off from control, one of them hearing it at second hand",
        without_control: &[1, 2, EVICTED, LONELY],
        partitions: &[(0, 2), (0, LONELY), (1, LONELY), (2, LONELY)],
        hearers: &[0, 1, 2],
        bar: Duration::from_secs(3),
    },
];

pub(super) fn run(rounds: u32, notes: &mut Notes) -> Result<()> {
    let cluster = Cluster::new(5)?;
    let lease = format!("{}s", LEASE.as_secs());
    cluster.ctl(0, &["network", "create", "net", "--lease", &lease])?;
    let mut servers = Vec::new();
    for host in [0, 1, 2, LONELY] {
        servers.push(cluster.serve_http(host, "net", &format!("service{host}"))?);
    }
    for _ in 0..rounds {
        for case in &CASES {
            evict(&cluster, case, notes).with_context(|| case.what)?;
        }
    }
    drop(servers);
    cluster.finish()
}

fn evict(cluster: &Cluster, case: &Case, notes: &mut Notes) -> Result<()> {
    let name = cluster.host(EVICTED).name().to_owned();
    let streams = [1, 2, LONELY].map(|host| (host, stream(cluster, host)));
    let streams: Vec<_> =
        streams.into_iter().map(|(host, stream)| Ok((host, stream?))).collect::<Result<_>>()?;
    cut(cluster, case)?;
    let cut_at = Instant::now();
    cluster.ctl(0, &["node", "rm", &name])?;
    let (removed, removed_unix) = (Instant::now(), unix_ms());

    let mut refused = Vec::new();
    for &host in case.hearers {
        wait_until(PATIENCE, "it is no peer", || !has_peer(cluster, host, &name))?;
        refused.push(removed.elapsed());
    }
    let is_told = || {
        status(cluster, EVICTED).contains(" was removed by host1 at ")
            && status(cluster, EVICTED).contains("\"expelled\"")
    };
    wait_until(PATIENCE, "the removed node says by whom it was removed", is_told)?;
    let told = removed.elapsed();
    if !case.hearers.contains(&LONELY) {
        let is_lapsed = || status(cluster, LONELY).contains("the lease of network net is 10 s");
        wait_until(LEASE + PATIENCE, "the lease has run out", is_lapsed)?;
        notes.say(&format!(
            "{}: the host that heard nobody stopped {} after it was cut off, by the lease",
            case.what,
            ms(cut_at.elapsed())
        ));
    }
    let lasts = streams.into_iter().map(|(host, stream)| Ok((host, last(stream)? - removed_unix)));
    let lasts: Vec<(usize, f64)> = lasts.collect::<Result<_>>()?;
    let told_peers: Vec<_> = lasts.iter().filter(|(host, _)| case.hearers.contains(host)).collect();
    let packets: Vec<_> = told_peers.iter().map(|(_, last)| format!("{last:.0} ms")).collect();
    let all: Vec<_> = refused.iter().map(|after| ms(*after)).collect();
    notes.say(&format!(
        "{}: last packet {} after the removal, no peer any more after {}; it says so itself after \
         {}",
        case.what,
        packets.join(", "),
        all.join(", "),
        ms(told),
    ));
    let bar = case.bar.as_secs_f64() * 1_000.0;
    ensure!(refused.iter().all(|after| *after <= case.bar), "refused after {all:?}");
    ensure!(told_peers.iter().all(|(_, last)| *last <= bar), "packets passed until {packets:?}");

    heal(cluster, case)?;
    let healed = Instant::now();
    for (from, to) in [(1, 2), (2, LONELY), (LONELY, 0)] {
        wait_until(PATIENCE, "the others reach each other", || {
            cluster.fetch(from, "net", "client", &format!("service{to}")).is_ok()
        })?;
    }
    let back = healed.elapsed();
    if !case.without_control.is_empty() {
        notes.say(&format!(
            "{}: healed, all others reach each other after {}",
            case.what,
            ms(back)
        ));
        ensure!(back <= BACK, "traffic took {back:?} to come back");
    }
    cluster.ctl(EVICTED, &["leave"])?;
    cluster.ctl(EVICTED, &["join", cluster.join_line()])?;

    Ok(())
}

/// Starts a stream of echoes from the host that will be removed, and waits until it flows.
fn stream(cluster: &Cluster, host: usize) -> Result<Running> {
    let to = format!("service{host}");
    cluster.fetch(EVICTED, "net", "client", &to)?;
    let name = format!("stream{host}");
    let ping = ["ping", "--json", "--count=0", "--interval-ms=20", &to];
    let stream = cluster.container(EVICTED, "net", &name)?.args(ping).spawn()?;
    wait_until(PATIENCE, "the stream flows", || stream.stderr().contains(FIRST_ANSWER))?;

    Ok(stream)
}

/// Ends a stream, and returns when the last answer came, in milliseconds since 1970.
fn last(stream: Running) -> Result<f64> {
    stream.signal(Signal::SIGTERM)?;
    let output = stream.wait(PATIENCE)?;
    let summary: PingSummary = serde_json::from_str(&output.stdout)
        .with_context(|| format!("no figures: {}", output.stderr))?;

    summary.silences.last().map(|silence| silence.since_unix_ms).context("it was never refused")
}

fn has_peer(cluster: &Cluster, host: usize, name: &str) -> bool {
    let listed = cluster.ctl_json(host, &["peers"]);

    listed.is_ok_and(|peers| peers.to_string().contains(&format!("\"{name}\"")))
}

/// Returns what a host says of itself.
fn status(cluster: &Cluster, host: usize) -> String {
    // It fails where something is wrong, and says it all the same.
    let command = cluster.host(host).try_command("overlayctl");
    let output = command.and_then(|command| command.args(["status", "--json"]).output());

    output.map(|output| output.stdout).unwrap_or_default()
}

fn cut(cluster: &Cluster, case: &Case) -> Result<()> {
    for &(one, other) in case.partitions {
        cluster.lab().partition(one, other)?;
    }
    let rules = "table inet lab_cut { chain out { type filter hook output priority 0; \
                 tcp dport 7443 reject with tcp reset; }; chain in { type filter hook input \
                 priority 0; tcp sport 7443 reject with tcp reset; }; }";
    for &host in case.without_control {
        cluster.host(host).try_command("nft")?.arg(rules).run()?;
    }

    Ok(())
}

fn heal(cluster: &Cluster, case: &Case) -> Result<()> {
    for &(one, other) in case.partitions {
        cluster.lab().heal(one, other)?;
    }
    for &host in case.without_control {
        cluster.host(host).try_command("nft")?.arg("delete table inet lab_cut").run()?;
    }

    Ok(())
}

fn unix_ms() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64() * 1_000.0
}
