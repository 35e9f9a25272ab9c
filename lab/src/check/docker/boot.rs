//! Docker boots soon whatever the agent does, behind the door; what could not start then runs once the agent is there.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::pair::{BEHIND, PLUGIN, Pair, Relay};
use crate::check::{Notes, PATIENCE, ms, percentile};
use crate::command::Running;
use crate::docker::IMAGE;
use crate::wait::wait_until;

/// How much longer than with a well agent the boot may take.
const BAR: Duration = Duration::from_secs(1);
/// Containers that Docker shall start at its boot.
const CONTAINERS: usize = 4;
/// How long it may take until they run again.
const RUNNING: Duration = Duration::from_secs(30);
/// By how much every answer of the slow agent is late.
const LATE_MS: u32 = 2_000;
/// Where the agent serves behind the relay that makes it slow.
const INNERMOST: &str = "/run/overlay/innermost.sock";

/// What the agent does while Docker boots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Agent {
    Well,
    Down,
    Slow,
    Hung,
}

impl Agent {
    const ALL: [Self; 4] = [Self::Well, Self::Down, Self::Slow, Self::Hung];

    const fn word(self) -> &'static str {
        match self {
            Self::Well => "well",
            Self::Down => "down",
            Self::Slow => "slow",
            Self::Hung => "hung",
        }
    }
}

pub(in crate::check) fn run(rounds: u32, notes: &mut Notes) -> Result<()> {
    let mut pair = Pair::new(notes, false)?;
    pair.move_plugin(0, INNERMOST)?;
    let door = ["door", "--listen", PLUGIN, "--agent", BEHIND];
    let door = pair.cluster.host(0).try_command("overlayd")?.args(door).spawn()?;
    let mut relay = Some(Relay::start(&pair, 0, BEHIND, INNERMOST, 0)?);
    wait_until(PATIENCE, "the door is open", || {
        pair.cluster
            .host(0)
            .try_command("test")
            .is_ok_and(|test| test.args(["-S", PLUGIN]).output().is_ok_and(|output| output.status.success()))
    })?;
    pair.create_on_both(&["net"])?;
    for number in 0..CONTAINERS {
        let name = format!("always{number}");
        let run =
            ["run", "-d", "--restart", "always", "--stop-timeout", "1", "--name", &name, "--network", "net", IMAGE];
        pair.docker(0, &run)?;
    }
    pair.serve(1, "net", "other")?;

    let mut times = vec![Vec::new(); Agent::ALL.len()];
    for round in 0..rounds {
        for (agent, times) in Agent::ALL.into_iter().zip(&mut times) {
            let time =
                boot(&mut pair, agent, &mut relay).with_context(|| format!("round {round}, agent {}", agent.word()))?;
            times.push(time);
        }
    }
    report(&times, notes)?;
    notes.say(&format!("{CONTAINERS} containers with restart=always ran again and reached the other host each time"));
    close(&mut pair, door, relay)?;

    pair.finish()
}

/// Boots the engine while the agent does what is asked, and heals everything afterwards.
fn boot(pair: &mut Pair, agent: Agent, relay: &mut Option<Relay>) -> Result<Duration> {
    pair.engines[0].stop_daemon("TERM")?;
    let daemon = pair.cluster.agent(0)?;
    match agent {
        Agent::Well => {}
        Agent::Down => daemon.kill()?,
        Agent::Slow => {
            *relay = None;
            *relay = Some(Relay::start(pair, 0, BEHIND, INNERMOST, LATE_MS)?);
        }
        Agent::Hung => pair.cluster.host(0).kill(daemon.pid(), "STOP")?,
    }
    let time = pair.engines[0].start_daemon()?;
    match agent {
        Agent::Well => {}
        Agent::Down => pair.cluster.restart(&daemon)?,
        Agent::Slow => {
            *relay = None;
            *relay = Some(Relay::start(pair, 0, BEHIND, INNERMOST, 0)?);
        }
        Agent::Hung => pair.cluster.host(0).kill(daemon.pid(), "CONT")?,
    }
    pair.cluster.wait_for_agent(0)?;
    let runs = |number: usize| {
        let state = pair.docker(0, &["inspect", "-f", "{{.State.Running}}", &format!("always{number}")]);
        state.is_ok_and(|state| state == "true")
    };
    wait_until(RUNNING, "all containers run", || (0..CONTAINERS).all(runs)).with_context(|| {
        let why = |number: usize| {
            pair.docker(0, &["inspect", "-f", "{{.State.Status}} {{.State.Error}}", &format!("always{number}")])
        };
        (0..CONTAINERS).filter_map(|number| why(number).ok()).collect::<Vec<_>>().join("\n")
    })?;
    for number in 0..CONTAINERS {
        pair.reaches(0, &format!("always{number}"), "other")?;
        pair.reaches(1, "other", &format!("always{number}"))?;
    }

    Ok(time)
}

fn report(times: &[Vec<Duration>], notes: &mut Notes) -> Result<()> {
    let baseline = times.first().map(|well| percentile(well, 50)).unwrap_or_default();
    for (agent, times) in Agent::ALL.into_iter().zip(times) {
        let (median, worst) = (percentile(times, 50), percentile(times, 100));
        notes.say(&format!(
            "agent {}: the engine answers after {} (median), {} (worst)",
            agent.word(),
            ms(median),
            ms(worst)
        ));
        let bar = baseline + BAR;
        ensure!(median <= bar, "agent {}: {} is past {}", agent.word(), ms(median), ms(bar));
    }

    Ok(())
}

/// Gives the agent its usual place back.
fn close(pair: &mut Pair, door: Running, relay: Option<Relay>) -> Result<()> {
    drop((door, relay));
    for socket in [PLUGIN, BEHIND] {
        pair.cluster.host(0).try_command("rm")?.args(["-f", socket]).run()?;
    }

    pair.move_plugin(0, PLUGIN)
}
