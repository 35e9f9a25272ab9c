//! A host's address changes under load, on either end and on both: packets flow again within a second.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;

use super::{Notes, PATIENCE, PingSummary};
use crate::cluster::Cluster;
use crate::lab::Lab;
use crate::process::rest;
use crate::wait::wait_until;

/// Longest silence, in milliseconds.
const BAR_MS: f64 = 1000.0;
/// Between two changes: others must learn of one before the next.
const PAUSE: Duration = Duration::from_millis(2_500);
/// Host 1 is control. A container on host 2 sends, one on host 3 answers.
const SENDER: usize = 1;
const ANSWERER: usize = 2;
/// The exit code that says so.
const CONTROL_AWAY: i32 = 3;
/// By how much the other address of a host is higher.
const OTHER: u32 = 100;

pub(super) fn run(rounds: u32, notes: &mut Notes) -> Result<()> {
    let cluster = Cluster::on(Lab::builder(3).ipv6(None).start()?)?;
    cluster.ctl(0, &["network", "create", "net"])?;
    let sink = cluster.serve(ANSWERER, "net", "sink", &["throughput", "serve"], "listening")?;
    let mut there = [false; 3];

    for (what, hosts) in
        [("the answering end", &[ANSWERER][..]), ("the sending end", &[SENDER]), ("both ends", &[SENDER, ANSWERER])]
    {
        let transfer = ["throughput", "client", "--seconds", "100000", "sink"];
        let transfer = cluster.container(SENDER, "net", "transfer")?.args(transfer).spawn()?;
        let ping = ["ping", "--json", "--count=0", "--interval-ms=1", "sink"];
        let mut ping = cluster.container(SENDER, "net", "pinger")?.args(ping).spawn()?;
        wait_until(PATIENCE, "the ping is attached", || {
            cluster.endpoint_names(0).is_ok_and(|names| names.contains(&"pinger".to_owned())) || !ping.is_running()
        })?;
        rest(PAUSE);
        for _ in 0..rounds {
            for host in hosts {
                there[*host] = !there[*host];
                renumber(&cluster, *host, there[*host])?;
            }
            rest(PAUSE);
        }
        ping.signal(Signal::SIGTERM)?;
        transfer.signal(Signal::SIGTERM)?;
        let summary: PingSummary =
            serde_json::from_str(&ping.wait(PATIENCE)?.stdout).context("no figures from the ping")?;
        let output = transfer.wait(PATIENCE)?;
        ensure!(output.status.success(), "{what}: the transfer broke: {}", output.stderr);
        notes.say(&format!(
            "address of {what} changed {rounds} times: {} of {} echoes answered, longest silence {:.0} ms",
            summary.received, summary.sent, summary.longest_silence_ms
        ));
        ensure!(summary.longest_silence_ms <= BAR_MS, "{what}: {:.0} ms of silence", summary.longest_silence_ms);
    }
    for host in [SENDER, ANSWERER] {
        if there[host] {
            renumber(&cluster, host, false)?;
        }
        wait_for_answer(&cluster, host)?;
    }

    drop(sink);
    cluster.finish()
}

/// Waits until control answers a host: the connection that it had may have gone with an address.
fn wait_for_answer(cluster: &Cluster, host: usize) -> Result<()> {
    let name = format!("asked-by-{host}");
    let create = || cluster.host(host).try_command("overlayctl")?.args(["network", "create", &name]).output();
    // A refusal is an answer, too.
    let answers = || create().is_ok_and(|output| output.status.code() != Some(CONTROL_AWAY));
    wait_until(PATIENCE, "control answers", answers)?;

    cluster.ctl(host, &["network", "rm", &name]).map(drop)
}

/// Takes a host's address away and gives it the other one, with the route that went along.
fn renumber(cluster: &Cluster, host: usize, other: bool) -> Result<()> {
    let first = cluster.host(host).plan().ipv4;
    let second = Ipv4Addr::from_bits(first.to_bits() + OTHER);
    let (old, new) = if other { (first, second) } else { (second, first) };
    let topology = cluster.lab().topology();
    let (len, gateway) = (topology.ipv4.prefix_len(), topology.gateway_v4());
    let batch = format!(
        "address del {old}/{len} dev eth0\naddress add {new}/{len} dev eth0\nroute replace default via {gateway}\n"
    );

    cluster.host(host).try_command("ip")?.args(["-batch", "-"]).input(&batch)?.run().map(drop)
}
