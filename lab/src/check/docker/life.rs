//! Docker's containers come and go, engines and agents are killed: no address is assigned twice,
//! nothing is left, and running containers go on.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use overlay_traffic::wait::rest;

use super::pair::{BEHIND, PLUGIN, Pair, Relay};
use crate::check::{Notes, PATIENCE, ms, percentile};
use crate::docker::IMAGE;
use crate::tool::plugin::Answered;
use crate::wait_until;

/// One container in so many is killed.
const KILLED: u32 = 10;
/// How many containers are started at a time.
const AT_A_TIME: u32 = 4;
/// How long it may take until the addresses of containers that ended unnoticed are free again.
const HEALED: Duration = Duration::from_secs(40);

/// How long the calls that give a container its interface may take, for 99 of 100 containers.
const CALLS: Duration = Duration::from_millis(200);

/// Starts and removes containers on both engines, a tenth of them killed.
pub(in crate::check) fn churn(rounds: u32, notes: &mut Notes) -> Result<()> {
    let pair = Pair::new(notes, false)?;
    let mut relays = Vec::new();
    for host in [0, 1] {
        pair.take_door(host)?;
        relays.push(Relay::start(&pair, host, PLUGIN, BEHIND, 0)?);
    }
    pair.create_on_both(&["net"])?;
    for (host, name) in [(0, "anchor1"), (1, "anchor2")] {
        pair.serve(host, "net", name)?;
    }
    let before = [ours(&pair, 0)?, ours(&pair, 1)?];
    let (start, mut seen) = (Instant::now(), 0);
    for first in (0..rounds).step_by(usize::try_from(AT_A_TIME)?) {
        seen += batch(&pair, first, rounds.min(first + AT_A_TIME))?;
    }
    let rate = f64::from(rounds) / start.elapsed().as_secs_f64();
    wait_until(HEALED, "only the anchors are listed", || {
        pair.cluster.endpoint_names(0).is_ok_and(|names| names.len() == 2)
    })?;
    unchanged(&pair, &before)?;
    reached(&pair)?;
    notes.say(&format!(
        "{rounds} containers on two engines, {} killed, {rate:.1} a second; {seen} live addresses compared, none twice",
        rounds / KILLED
    ));
    let mut calls = Vec::new();
    for (host, relay) in relays.into_iter().enumerate() {
        calls.extend(relay.calls()?);
        drop(relay);
        pair.give_door_back(host)?;
    }
    interfaces(&calls, notes)?;

    pair.finish()
}

fn batch(pair: &Pair, first: u32, end: u32) -> Result<usize> {
    let mut running = Vec::new();
    for number in first..end {
        let name = format!("c{number}");
        let run = ["run", "-d", "--name", &name, "--network", "net", IMAGE];
        running.push((number, pair.engines[usize::try_from(number % 2)?].docker(&run)?.spawn()?));
    }
    for (number, run) in running {
        let output = run.wait(PATIENCE)?;
        ensure!(output.status.success(), "container {number} failed: {}", output.stderr);
    }
    let seen = pair.cluster.distinct_addresses(0)?;
    for number in first..end {
        let (host, name) = (usize::try_from(number % 2)?, format!("c{number}"));
        if number % KILLED == 0 {
            pair.docker(host, &["kill", &name])?;
        }
        pair.docker(host, &["rm", "-f", &name])?;
    }

    Ok(seen)
}

/// Checks how long Docker waited for interfaces: both calls of each endpoint together.
fn interfaces(calls: &[Answered], notes: &mut Notes) -> Result<()> {
    let refused = |call: &&Answered| call.status != 200 || call.answer.contains("\"Err\"");
    if let Some(call) = calls.iter().find(refused) {
        bail!("{} was refused: {}", call.call.path, call.answer);
    }
    let mut times: BTreeMap<String, f64> = BTreeMap::new();
    for call in calls.iter().filter(|call| {
        call.call.path.ends_with(".CreateEndpoint") || call.call.path.ends_with(".Join")
    }) {
        let body: serde_json::Value = serde_json::from_str(&call.call.body)?;
        *times.entry(body["EndpointID"].to_string()).or_default() += call.ms;
    }
    let times: Vec<_> =
        times.into_values().map(|ms| Duration::from_secs_f64(ms / 1_000.0)).collect();
    let slow = percentile(&times, 99);
    notes.say(&format!(
        "CreateEndpoint and Join together: p50 {}, p99 {} of {}; {} calls, none refused",
        ms(percentile(&times, 50)),
        ms(slow),
        times.len(),
        calls.len()
    ));
    ensure!(slow <= CALLS || cfg!(debug_assertions), "p99 {} is past {}", ms(slow), ms(CALLS));

    Ok(())
}

/// Returns what Overlay has on the host: links that wait for Docker, and the contents of our
/// networks' namespaces.
fn ours(pair: &Pair, host: usize) -> Result<String> {
    const SCRIPT: &str = "ip -o link | grep -o 'ovc[0-9a-f]*' | sort -u; for n in /run/overlay/netns/*; do echo $n; \
                          nsenter --net=$n ip -o link | wc -l; nsenter --net=$n ip route | sort; done";

    Ok(pair.cluster.host(host).try_command("sh")?.args(["-c", SCRIPT]).run()?.stdout)
}

fn unchanged(pair: &Pair, before: &[String; 2]) -> Result<()> {
    for (host, before) in before.iter().enumerate() {
        let same = || ours(pair, host).is_ok_and(|now| now == *before);
        wait_until(HEALED, "nothing is left in the kernel", same).with_context(|| {
            format!("on host{}:\n{before}\nnow\n{:?}", host + 1, ours(pair, host))
        })?;
    }

    Ok(())
}

/// Checks that both anchors reach each other by name.
fn reached(pair: &Pair) -> Result<()> {
    pair.reaches(0, "anchor1", "anchor2")?;
    pair.reaches(1, "anchor2", "anchor1").map(drop)
}

/// Kills and restarts engines and agents at random moments, while containers kept by live-restore
/// run.
pub(in crate::check) fn kills(rounds: u32, notes: &mut Notes) -> Result<()> {
    let mut pair = Pair::new(notes, true)?;
    pair.create_on_both(&["net"])?;
    for (host, name) in [(0, "anchor1"), (1, "anchor2")] {
        pair.serve(host, "net", name)?;
    }
    reached(&pair)?;
    let before = [ours(&pair, 0)?, ours(&pair, 1)?];
    let mut done = [0u32; 3];
    for round in 0..rounds {
        let host = usize::try_from(rand::random_range(0..2u32))?;
        let name = format!("r{round}");
        // Something is under way when it happens.
        let run = pair.engines[host]
            .docker(&["run", "-d", "--name", &name, "--network", "net", IMAGE])?
            .spawn()?;
        rest(Duration::from_millis(rand::random_range(0..600)));
        let what = usize::try_from(round % 3)?;
        match what {
            0 => pair.engines[host].stop_daemon("KILL")?,
            1 => pair.engines[host].stop_daemon("TERM")?,
            _ => {
                let agent = pair.cluster.agent(host)?;
                agent.kill()?;
                pair.cluster.restart(&agent)?;
                pair.cluster.wait_for_agent(host)?;
            }
        }
        if what < 2 {
            pair.engines[host].start_daemon()?;
        }
        done[what] += 1;
        // Whether that container started is up to the engine; what matters here is that nothing of
        // it remains.
        let _ = run.wait(PATIENCE);
        let removed =
            || pair.docker(host, &["rm", "-f", &name]).is_ok() || !listed(&pair, host, &name);
        wait_until(PATIENCE, "the container is removed", removed)?;
        let addresses = addresses(&pair)?;
        ensure!(addresses == 2, "round {round}: {addresses} anchors answer");
    }
    wait_until(HEALED, "only the anchors are listed", || {
        pair.cluster.endpoint_names(0).is_ok_and(|names| names.len() == 2)
    })
    .with_context(|| format!("{:?}", pair.cluster.endpoint_names(0)))?;
    unchanged(&pair, &before)?;
    reached(&pair)?;
    notes.say(&format!(
        "dockerd killed {} times and ended {} times, agents killed {} times: anchors reach each other, nothing left",
        done[0], done[1], done[2]
    ));

    pair.finish()
}

fn listed(pair: &Pair, host: usize, name: &str) -> bool {
    pair.docker(host, &["ps", "-aq", "--filter", &format!("name={name}")])
        .is_ok_and(|ids| !ids.is_empty())
}

/// Counts the anchors that reach the other by address, without DNS.
fn addresses(pair: &Pair) -> Result<usize> {
    let mut answering = 0;
    for (host, from, to) in [(0, "anchor1", "anchor2"), (1, "anchor2", "anchor1")] {
        answering +=
            usize::from(pair.reaches(host, from, &pair.cluster.address_of(0, to)?).is_ok());
    }

    Ok(answering)
}
