//! A policy that changes over many endpoints on three hosts: it is in force everywhere within a
//! second, and flows that it goes on to allow are not cut.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;

use super::first_packet::Storm;
use super::hostile::{addresses, enforce};
use super::{Notes, PATIENCE, ms, percentile};
use crate::cluster::Cluster;
use crate::command::Running;
use crate::wait_until;

const HOSTS: usize = 3;
/// How often the policy changes.
const CHANGES: u16 = 10;
/// How long a change may take until it is in force on all hosts.
const LIVE: Duration = Duration::from_secs(1);

/// Lets clients reach the server, and has one more rule of its own.
fn policy(change: u16) -> String {
    format!(
        "[network.net]\ndefault = \"deny\"\n[[rule]]\nname = \"flows\"\nfrom = {{ name = \
         \"client*\" }}\nto = {{ name = \"server\" }}\nallow = [\"tcp/5203\", \"udp/5203\"]\n\
         [[rule]]\nname = \"change-{change}\"\nfrom = \"any\"\nto = \"any\"\nallow = \
         [\"tcp/{change}\"]\n"
    )
}

pub(super) fn run(rounds: u32, notes: &mut Notes) -> Result<()> {
    let cluster = Cluster::new(HOSTS)?;
    let subnets = ["--subnet", "10.74.0.0/16", "--subnet", "fd00:74::/64"];
    cluster.ctl(0, &[&["network", "create", "net"][..], &subnets].concat())?;
    let server = cluster.serve(0, "net", "server", &["flows", "serve"], "listening on")?;
    let to = addresses(&cluster, "server")?;
    let mut storms = Vec::new();
    for host in 0..HOSTS {
        let count = rounds / u32::try_from(HOSTS)?;
        let mut storm = Storm::begin(&cluster, host, count.max(1), &to)?;
        storm.attach(&cluster, &format!("h{host}"))?;
        storms.push(storm);
    }
    replace(&cluster, 1)?;
    let clients: Vec<Running> =
        (0..HOSTS).map(|h| client(&cluster, h, &to[0])).collect::<Result<_>>()?;
    wait_until(PATIENCE, "all hosts list all endpoints", || {
        let all = storms.iter().map(Storm::count).sum::<usize>() + 1 + HOSTS;
        (0..HOSTS).all(|host| cluster.endpoints(host).is_ok_and(|rows| rows.len() == all))
    })?;

    let mut times = Vec::new();
    for change in 2..2 + CHANGES {
        times.push(replace(&cluster, change)?);
    }
    for client in clients {
        client.signal(Signal::SIGINT)?;
        let output = client.wait(PATIENCE)?;
        let summary = output.stdout.lines().last().unwrap_or_default();
        let summary: serde_json::Value =
            serde_json::from_str(summary).with_context(|| output.stderr.clone())?;
        ensure!(summary["broken"] == 0, "the policy cut connections: {summary}");
        ensure!(summary["lost"] == 0, "the policy lost datagrams: {summary}");
    }
    for storm in storms {
        storm.end()?;
    }
    drop(server);
    let (slowest, middle) = (percentile(&times, 100), percentile(&times, 50));
    notes.say(&format!(
        "{rounds} endpoints on {HOSTS} hosts: {CHANGES} changes were in force on all of them after \
         {} (median; slowest {}), and cut none of {HOSTS} clients' flows",
        ms(middle),
        ms(slowest)
    ));
    // Programs that are not optimized run beside other tests, and are not judged by speed.
    ensure!(cfg!(debug_assertions) || middle <= LIVE, "a change takes {}", ms(middle));
    cluster.ctl(0, &["policy", "rollback", "0"])?;
    cluster.finish()
}

/// Has another policy replace the live one; returns how long it takes until all hosts are kept to
/// it.
fn replace(cluster: &Cluster, change: u16) -> Result<Duration> {
    let begun = Instant::now();
    enforce(cluster, &policy(change), Some(&format!("change-{change}")))?;

    Ok(begun.elapsed())
}

fn client(cluster: &Cluster, host: usize, server: &str) -> Result<Running> {
    let args = ["flows", "client", server, "--rate", "200", "--connections", "20"];

    cluster.serve(host, "net", &format!("client{host}"), &args, "under way")
}
