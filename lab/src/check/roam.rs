//! A host's address changes under load, at either end and at both: packets flow again within a
//! second.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context, Result};
use overlay_traffic::wait::rest;

use super::traffic::{self, HEAVY, Marks, Sink, Traffic};
use super::{Notes, PATIENCE};
use crate::cluster::Cluster;
use crate::lab::Lab;
use crate::wait_until;

/// The longest silence, in milliseconds.
pub(super) const BAR_MS: f64 = 1000.0;
/// The time between two changes, in which others learn of the first.
const PAUSE: Duration = Duration::from_millis(2_500);
/// Host 1 is control. A container on host 2 sends, one on host 3 answers.
const SENDER: usize = 1;
const ANSWERER: usize = 2;
/// The exit code of `overlayctl` if control cannot be reached.
const CONTROL_AWAY: i32 = 3;
/// By how much a host's other address is higher.
const OTHER: u32 = 100;

/// A round consists of one change of the receiver's address, one of the sender's, and one of both
/// at the same time.
pub(super) fn run(rounds: u32, notes: &mut Notes) -> Result<()> {
    let cluster = Cluster::on(Lab::builder(3).ipv6(None).start()?)?;
    cluster.ctl(0, &["network", "create", "net"])?;
    let sink = cluster.serve(ANSWERER, "net", "sink", &["throughput", "serve"], "listening")?;
    let mut there = [false; 3];

    for (what, hosts) in [
        ("address of the answering end changed", &[ANSWERER][..]),
        ("address of the sending end changed", &[SENDER]),
        ("addresses of both ends changed", &[SENDER, ANSWERER]),
    ] {
        let to = Sink { network: "net", name: "sink" };
        let traffic = Traffic::start(&cluster, SENDER, &to, HEAVY)?;
        let mut marks = Marks::default();
        rest(PAUSE);
        for _ in 0..rounds {
            marks.mark();
            for host in hosts {
                there[*host] = !there[*host];
                renumber(&cluster, *host, there[*host])?;
            }
            rest(PAUSE);
        }
        let noticed = traffic.end().context(what)?;
        traffic::judge(what, &marks, &noticed, BAR_MS, notes)?;
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

/// Waits until control answers a host, whose connection may have been lost with its address.
fn wait_for_answer(cluster: &Cluster, host: usize) -> Result<()> {
    let name = format!("asked-by-{host}");
    let create = || {
        cluster.host(host).try_command("overlayctl")?.args(["network", "create", &name]).output()
    };
    // A refusal is an answer, too.
    let answers = || create().is_ok_and(|output| output.status.code() != Some(CONTROL_AWAY));
    wait_until(PATIENCE, "control answers", answers)?;

    cluster.ctl(host, &["network", "rm", &name]).map(drop)
}

/// Replaces a host's address by the other one, and restores the route that is lost with it.
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
