//! Throughput between containers of two engines: ours with Docker, ours without, and Swarm's own
//! overlay (VXLAN, unencrypted).
//!
//! Streams must flow. How fast they are is reported but not judged, because it depends on the
//! machine, too.

use anyhow::Result;

use super::pair::Pair;
use crate::check::{Notes, PATIENCE, median, throughput};
use crate::docker::IMAGE;
use crate::wait_until;

/// How many seconds each measurement takes.
const SECONDS: &str = "2";

pub(in crate::check) fn run(rounds: u32, notes: &mut Notes) -> Result<()> {
    let pair = Pair::new(notes, false)?;
    pair.create_on_both(&["net"])?;
    let sink = ["/bin/overlay-lab", "throughput", "serve"];
    let run = |host: usize, network: &str, name: &str, what: &[&str]| {
        let run = ["run", "-d", "--name", name, "--network", network, IMAGE];
        pair.docker(host, &[run.as_slice(), what].concat())
    };
    run(1, "net", "sink", &sink)?;
    run(0, "net", "load", &[])?;
    pair.cluster.ctl(0, &["network", "create", "plain"])?;
    let plain =
        pair.cluster.serve(1, "plain", "plain-sink", &["throughput", "serve"], "listening")?;
    swarm(&pair)?;
    run(1, "swarm", "swarm-sink", &sink)?;
    run(0, "swarm", "swarm-load", &[])?;

    let mut figures = [Vec::new(), Vec::new(), Vec::new()];
    let inside = |name| pair.engines[0].docker(&["exec", name, "/bin/overlay-lab"]);
    for (name, to) in [("load", "sink"), ("swarm-load", "swarm-sink")] {
        wait_until(PATIENCE, "the sink is found", || {
            inside(name).is_ok_and(|command| throughput(command, to, "0.1").is_ok())
        })?;
    }
    for _ in 0..rounds {
        figures[0].push(throughput(inside("load")?, "sink", SECONDS)?);
        figures[1].push(throughput(
            pair.cluster.container(0, "plain", "plain-load")?,
            "plain-sink",
            SECONDS,
        )?);
        figures[2].push(throughput(inside("swarm-load")?, "swarm-sink", SECONDS)?);
    }
    let [docker, own, vxlan] = figures.each_mut().map(|figures| median(figures));
    notes.say(&format!(
        "containers of Docker on our network: {docker:.2} Gbit/s ({:.2?})",
        figures[0]
    ));
    notes.say(&format!(
        "our plain namespaces: {own:.2} Gbit/s ({:.2?}); Docker has {:.2} of that",
        figures[1],
        docker / own
    ));
    notes.say(&format!(
        "Swarm's overlay, in clear: {vxlan:.2} Gbit/s ({:.2?}); ours has {:.2} of that",
        figures[2],
        docker / vxlan
    ));
    if cfg!(debug_assertions) {
        notes.say("not a release build: the figures mean nothing");
    }
    drop(plain);
    for (host, names) in [(0, ["load", "swarm-load"]), (1, ["sink", "swarm-sink"])] {
        pair.docker(host, &[&["rm", "-f"], names.as_slice()].concat())?;
    }
    for host in [1, 0] {
        pair.docker(host, &["swarm", "leave", "--force"])?;
        pair.cluster.host(host).try_command("rm")?.args(["-rf", "/var/lib/docker"]).run()?;
    }

    pair.finish()
}

/// Makes a swarm of both engines, with an overlay network that containers may be put on.
fn swarm(pair: &Pair) -> Result<()> {
    let address = |host: usize| pair.cluster.host(host).address().to_string();
    pair.docker(0, &["swarm", "init", "--advertise-addr", &address(0)])?;
    let token = pair.docker(0, &["swarm", "join-token", "-q", "worker"])?;
    pair.docker(
        1,
        &[
            "swarm",
            "join",
            "--advertise-addr",
            &address(1),
            "--token",
            &token,
            &format!("{}:2377", address(0)),
        ],
    )?;
    pair.docker(
        0,
        &[
            "network",
            "create",
            "-d",
            "overlay",
            "--attachable",
            "--subnet",
            "10.99.0.0/16",
            "swarm",
        ],
    )
    .map(drop)
}
