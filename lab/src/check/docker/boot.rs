//! Docker boots without delay whatever the agent does, thanks to the plugin proxy; containers that
//! could not start then run once the agent is there.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::pair::{BEHIND, Pair, Relay};
use crate::check::{Notes, ms, percentile};
use crate::docker::IMAGE;
use crate::wait_until;

/// How much longer the boot may take than with a working agent.
const BAR: Duration = Duration::from_secs(1);
/// The number of containers that Docker starts at boot.
const CONTAINERS: usize = 4;
/// How long it may take until they run again.
const RUNNING: Duration = Duration::from_secs(30);
/// The delay of every answer of the slow agent, in milliseconds.
const LATE_MS: u32 = 2_000;
/// The agent's socket behind the relay that makes it slow.
const INNERMOST: &str = "/run/overlay/innermost.sock";

/// Commands while the agent is dead, and whether they fail.
const COMMANDS: [(&[&str], bool); 3] = [
    (&["run", "--rm", "--network", "net", IMAGE, "true"], true),
    (&["network", "create", "-d", "overlay-wg", "more"], true),
    (&["rm", "-f", "always0"], false),
];
/// What the error of a failed command must contain: reason and remedy.
const REMEDY: [&str; 2] = ["does not answer on this host", "`overlayctl start`"];
/// How long a command that waits for nothing may take on a busy machine.
const AT_ONCE: Duration = Duration::from_secs(5);

/// The behaviour of the agent while Docker boots.
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
    let mut relay = Some(Relay::start(&pair, 0, BEHIND, INNERMOST, 0)?);
    pair.create_on_both(&["net"])?;
    for number in 0..CONTAINERS {
        let name = format!("always{number}");
        let run = [
            "run",
            "-d",
            "--restart",
            "always",
            "--stop-timeout",
            "1",
            "--name",
            &name,
            "--network",
            "net",
            IMAGE,
        ];
        pair.docker(0, &run)?;
    }
    pair.serve(1, "net", "other")?;

    let mut times = vec![Vec::new(); Agent::ALL.len()];
    for round in 0..rounds {
        for (agent, times) in Agent::ALL.into_iter().zip(&mut times) {
            let time = boot(&mut pair, agent, &mut relay)
                .with_context(|| format!("round {round}, agent {}", agent.word()))?;
            times.push(time);
        }
    }
    report(&times, notes)?;
    notes.say(&format!(
        "{CONTAINERS} containers with restart=always ran again and reached the other host each time"
    ));
    close(&mut pair, relay)?;
    dead(&mut pair, notes)?;

    pair.finish()
}

/// Boots the engine while the agent behaves as asked, and restores everything afterwards.
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
        let state =
            pair.docker(0, &["inspect", "-f", "{{.State.Running}}", &format!("always{number}")]);
        state.is_ok_and(|state| state == "true")
    };
    wait_until(RUNNING, "all containers run", || (0..CONTAINERS).all(runs)).with_context(|| {
        let why = |number: usize| {
            pair.docker(
                0,
                &[
                    "inspect",
                    "-f",
                    "{{.State.Status}} {{.State.Error}}",
                    &format!("always{number}"),
                ],
            )
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

/// How long Docker's commands take while the agent is dead, and what they print.
fn dead(pair: &mut Pair, notes: &mut Notes) -> Result<()> {
    let daemon = pair.cluster.agent(0)?;
    daemon.kill()?;
    for (args, is_refused) in COMMANDS {
        let command = args.join(" ");
        let begun = Instant::now();
        let output = pair.engines[0].docker(args)?.output()?;
        let took = begun.elapsed();
        notes.say(&format!("agent dead: docker {command} takes {}", ms(took)));
        ensure!(took <= AT_ONCE, "docker {command} took {took:?}");
        ensure!(
            output.status.success() != is_refused,
            "docker {command}: {}{}",
            output.stdout,
            output.stderr
        );
        let says = |word: &&str| output.stderr.contains(*word);
        ensure!(!is_refused || REMEDY.iter().all(says), "docker {command} says {}", output.stderr);
    }
    pair.cluster.restart(&daemon)?;
    pair.cluster.wait_for_agent(0)?;

    // What was removed in the meantime is gone on the other host, too.
    let is_gone = || {
        pair.cluster
            .endpoint_names(1)
            .is_ok_and(|names| !names.iter().any(|name| name == "always0"))
    };
    wait_until(RUNNING, "the removed container is gone everywhere", is_gone).map(drop)
}

/// Returns the agent to its usual socket.
fn close(pair: &mut Pair, relay: Option<Relay>) -> Result<()> {
    drop(relay);

    pair.move_plugin(0, BEHIND)
}
