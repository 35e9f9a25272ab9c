//! The data path does not need control: traffic, restarted agents and new containers on known
//! networks, while control is dead.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;

use super::{MARKER, Notes, PATIENCE, ms, unreadable};
use crate::cluster::Cluster;
use crate::wait_until;

/// How long traffic may take to be back after both agents were killed.
const BAR: Duration = Duration::from_secs(2);

pub(super) fn run(rounds: u32, notes: &mut Notes) -> Result<()> {
    let mut cluster = Cluster::new(2)?;
    cluster.ctl(0, &["network", "create", "net"])?;
    let server = cluster.serve_http(1, "net", "service2")?;
    cluster.fetch(0, "net", "service1", "service2")?;

    // Throughout, something is sent that must not be readable.
    let capture = cluster.lab().capture(Some(MARKER))?;
    let ping = ["ping", "--quiet", "--count=0", "--interval-ms=50", "--marker", MARKER, "service2"];
    let ping = cluster.container(0, "net", "pinger")?.args(ping).spawn()?;
    for round in 1..=rounds {
        without_control(&mut cluster, round, notes)?;
    }
    ping.signal(Signal::SIGTERM)?;
    ping.wait(PATIENCE)?;
    unreadable(capture, notes)?;

    drop(server);
    cluster.finish()
}

fn without_control(cluster: &mut Cluster, round: u32, notes: &mut Notes) -> Result<()> {
    let control = cluster.control()?;
    control.kill()?;
    cluster.fetch(0, "net", "service1", "service2")?;
    notes.say("control is dead: fetched all the same");

    let back = restart_agents(cluster)?;
    notes.say(&format!("both agents killed and started: traffic back after {}", ms(back)));
    ensure!(back <= BAR, "traffic took {back:?} to come back");

    let name = format!("service{}", 2 + round);
    let late = cluster.serve_http(0, "net", &name)?;
    cluster.fetch(0, "net", "near", &name)?;
    notes.say("a new container runs on the known network");

    cluster.restart(&control)?;
    let known = wait_until(PATIENCE, "control learns what happened meanwhile", || {
        cluster
            .ctl_json(1, &["endpoint", "ls"])
            .is_ok_and(|list| list.to_string().contains(&format!("\"{name}\"")))
    })?;
    cluster.fetch(1, "net", "far", &name)?;
    notes.say(&format!(
        "control is back: the other host knows the new container after {}",
        ms(known)
    ));
    drop(late);

    Ok(())
}

/// Kills both agents, starts them again, and returns how long after the start a fetch works.
fn restart_agents(cluster: &mut Cluster) -> Result<Duration> {
    let agents = [cluster.agent(0)?, cluster.agent(1)?];
    for agent in &agents {
        agent.kill()?;
    }
    let start = Instant::now();
    for agent in &agents {
        cluster.restart(agent)?;
    }
    wait_until(PATIENCE, "the fetch works again", || {
        cluster.fetch(0, "net", "service1", "service2").is_ok()
    })?;

    Ok(start.elapsed())
}
