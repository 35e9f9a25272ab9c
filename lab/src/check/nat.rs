//! Hosts behind a router that translates addresses: one is reached whenever it calls, and two
//! report why they cannot reach each other.

use std::time::Instant;

use anyhow::{Context, Result};

use super::truth::{GONE, SAID, ask, has, told};
use super::{Notes, ms};
use crate::cluster::Cluster;
use crate::lab::Lab;
use crate::wait_until;

pub(super) fn run(rounds: u32, notes: &mut Notes) -> Result<()> {
    let lab = Lab::builder(3).routed().ipv6(None).start()?;
    lab.translate(&[1, 2])?;
    let cluster = Cluster::on(lab)?;
    cluster.ctl(0, &["network", "create", "net"])?;
    let server = cluster.serve_http(1, "net", "server1")?;
    for _ in 0..rounds {
        // Only host 1 calls: host 2 sends nothing by itself.
        cluster.fetch(0, "net", "caller", "server1").context("a call to a host behind NAT")?;

        let begin = Instant::now();
        let asks = ask(&cluster, "net", 2, 1)?;
        wait_until(SAID, "both are behind NAT", || {
            has(&cluster, 2, "peer-silent", "this host is behind NAT")
        })
        .with_context(|| told(&cluster, 2))?;
        let said = begin.elapsed();
        cluster.lab().translate(&[])?;
        let healed = Instant::now();
        wait_until(GONE, "they reach each other", || !has(&cluster, 2, "peer-silent", ""))
            .with_context(|| told(&cluster, 2))?;
        notes.say(&format!(
            "two hosts behind NAT: said after {}, gone after {}",
            ms(said),
            ms(healed.elapsed())
        ));
        drop(asks);
        cluster.lab().translate(&[1, 2])?;
    }

    drop(server);
    cluster.finish()
}
