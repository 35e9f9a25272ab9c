//! The host's firewall drops everything it could forward, is flushed, and is loaded again:
//! containers do not notice.

use anyhow::{Context, Result};

use super::{MARKER, Notes, sealed};
use crate::cluster::Cluster;

pub(super) fn run(_: u32, notes: &mut Notes) -> Result<()> {
    let cluster = Cluster::new(2)?;
    cluster.ctl(0, &["network", "create", "net"])?;
    let server = cluster.serve_http(1, "net", "service2")?;

    sealed(cluster.lab(), notes, |notes| {
        for step in ["dropping", "flushed", "dropping again"] {
            for host in cluster.lab().hosts() {
                match step {
                    "flushed" => {
                        host.try_command("nft")?.args(["flush", "ruleset"]).run().map(drop)?
                    }
                    _ => host.set_firewall_drop_forward()?,
                }
            }
            cluster
                .fetch(0, "net", "service1", "service2")
                .with_context(|| format!("firewall {step}"))?;
            let ping = ["ping", "--count=5", "--interval-ms=20", "--marker", MARKER, "service2"];
            cluster
                .container(0, "net", "pinger")?
                .args(ping)
                .run()
                .with_context(|| format!("firewall {step}"))?;
            notes.say(&format!("firewall {step}: fetch and ping work"));
        }
        Ok(())
    })?;

    drop(server);
    for host in cluster.lab().hosts() {
        host.try_command("nft")?.args(["flush", "ruleset"]).run()?;
    }
    cluster.finish()
}
