//! Two networks with the same prefix on the same hosts: both work, and nothing crosses between
//! them.

use anyhow::{Result, ensure};

use super::{MARKER, Notes, sealed};
use crate::cluster::Cluster;

const PREFIX: &str = "10.77.0.0/16";
const ADDRESS: &str = "10.77.3.3";

pub(super) fn run(_: u32, notes: &mut Notes) -> Result<()> {
    let cluster = Cluster::new(2)?;
    let mut servers = Vec::new();
    for network in ["red", "blue"] {
        cluster.ctl(0, &["network", "create", network, "--subnet", PREFIX])?;
        servers.push(serve(&cluster, network)?);
    }

    sealed(cluster.lab(), notes, |notes| {
        for network in ["red", "blue"] {
            let server = format!("{network}-server");
            for host in [0, 1] {
                cluster.fetch(host, network, "client", &server)?;
                let output = fetch(&cluster, host, network, ADDRESS)?;
                ensure!(
                    output.stdout == format!("hello from {server}\n"),
                    "{network}: {} {}",
                    output.stdout,
                    output.stderr
                );
            }
            notes.say(&format!("{network}: {ADDRESS} is {server}, from both hosts"));
        }
        for (network, other) in
            [("red", "blue-server"), ("blue", "red-server"), ("red", "blue-server.blue")]
        {
            let output = fetch(&cluster, 0, network, other)?;
            ensure!(!output.status.success(), "{other} can be reached from {network}");
        }
        notes.say("neither knows the other's names");
        Ok(())
    })?;

    let ping = ["ping", "--count=2", "--marker", MARKER, ADDRESS];
    cluster.container(0, "red", "pinger")?.args(ping).run()?;
    drop(servers);
    cluster.finish()
}

fn serve(cluster: &Cluster, network: &str) -> Result<crate::Running> {
    let name = format!("{network}-server");
    let run = [
        "run",
        "--network",
        network,
        "--name",
        &name,
        "--ip",
        ADDRESS,
        "--",
        "overlay-lab",
        "serve-http",
        "--name",
        &name,
    ];
    let running = cluster.host(1).try_command("overlayctl")?.args(run).spawn()?;
    crate::wait_until(super::PATIENCE, "the server listens", || {
        running.stdout().contains("listens on")
    })?;

    Ok(running)
}

fn fetch(cluster: &Cluster, host: usize, network: &str, to: &str) -> Result<crate::CommandOutput> {
    let url = format!("http://{to}:8080/hello");

    cluster.container(host, network, "client")?.args(["fetch", "--timeout=3", &url]).output()
}
