//! The throughput of one TCP stream between two containers, compared with other userspace WireGuard
//! implementations between the same hosts.
//!
//! Streams must flow. How fast they are is reported but not judged, because it depends on the
//! machine, too; `overlay-lab bench --gate` judges.

use anyhow::Result;

use super::{Notes, median, throughput};
use crate::cluster::Cluster;
use crate::competitor_tunnel::CompetitorTunnel;
use crate::stock::Stock;

/// How many seconds each measurement takes.
const SECONDS: &str = "2";

pub(super) fn run(rounds: u32, notes: &mut Notes) -> Result<()> {
    let cluster = Cluster::new(2)?;
    cluster.ctl(0, &["network", "create", "net"])?;
    let sink = cluster.serve(1, "net", "sink", &["throughput", "serve"], "listening")?;
    let bare = cluster.host(1).try_command("overlay-lab")?.args(["throughput", "serve"]).spawn()?;
    let tunnels: Vec<CompetitorTunnel> = Stock::ALL
        .into_iter()
        .filter(|stock| stock.is_installed())
        .map(|stock| CompetitorTunnel::start(stock, cluster.host(0), cluster.host(1)))
        .collect::<Result<_>>()?;
    for stock in Stock::ALL.into_iter().filter(|stock| !stock.is_installed()) {
        notes
            .say(&format!("{} is not installed here: that comparison is skipped", stock.program()));
    }

    let mut ours = Vec::new();
    let mut theirs = vec![Vec::new(); tunnels.len()];
    for _ in 0..rounds {
        ours.push(throughput(cluster.container(0, "net", "load")?, "sink", SECONDS)?);
        for (tunnel, figures) in tunnels.iter().zip(&mut theirs) {
            figures.push(throughput(
                cluster.host(0).try_command("overlay-lab")?,
                &tunnel.address(),
                SECONDS,
            )?);
        }
    }

    let own = median(&mut ours);
    notes.say(&format!("overlay: {own:.2} Gbit/s, median of {rounds} ({ours:.2?})"));
    for (tunnel, figures) in tunnels.iter().zip(&mut theirs) {
        let figure = median(figures);
        notes.say(&format!(
            "{}: {figure:.2} Gbit/s ({figures:.2?}); the overlay has {:.1} times that",
            tunnel.stock().program(),
            own / figure
        ));
    }
    if cfg!(debug_assertions) {
        notes.say("not a release build: the figures mean nothing");
    }

    drop((tunnels, bare, sink));
    for host in cluster.lab().hosts() {
        CompetitorTunnel::forget(host)?;
    }
    cluster.finish()
}
