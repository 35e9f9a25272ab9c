//! Slow engines: no container loses its endpoint because of them, and none starts without its
//! interface.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};

use super::pair::{Pair, Relay};
use crate::check::{Notes, PATIENCE};
use crate::command::Running;
use crate::docker::{IMAGE, Image};
use crate::wait_until;

/// How long answers are held in the first stage: longer than anything of ours may assume.
const HELD: Duration = Duration::from_secs(14);
/// The stages, in the order in which rounds add them. Those between the first and the last are
/// named by how long the engine is stopped.
pub(in crate::check) const STAGES: [&str; 5] = ["held", "5s", "60s", "300s", "load"];
const STOPPED: [(&str, Duration); 3] = [
    (STAGES[1], Duration::from_secs(5)),
    (STAGES[2], Duration::from_secs(60)),
    (STAGES[3], Duration::from_secs(300)),
];
/// The networks of the check.
const NETWORKS: [&str; 3] = ["net1", "net2", "net3"];
/// The calls of a container's start, in the engine's order.
const STARTING: [&str; 3] =
    ["/IpamDriver.RequestAddress", "/NetworkDriver.CreateEndpoint", "/NetworkDriver.Join"];
/// The calls of a container's end, in the engine's order.
const ENDING: [&str; 3] =
    ["/NetworkDriver.Leave", "/NetworkDriver.DeleteEndpoint", "/IpamDriver.ReleaseAddress"];
/// The number of processes that keep the processors busy, and of containers that start meanwhile.
const LOAD: usize = 30;
const STARTS: usize = 50;
/// How long all of these containers may take.
const LOADED: Duration = Duration::from_secs(400);

/// The first stage holds three answers at the same time; those that follow stop the engine for
/// longer and longer at each call, and the last starts containers under load.
pub(in crate::check) fn run(rounds: u32, notes: &mut Notes) -> Result<()> {
    let has = |notes: &Notes, stage: &str| notes.has_stage(&STAGES, stage, rounds);
    let image = Image::make()?;
    let [first, .., last] = STAGES;
    if has(notes, first) || has(notes, last) {
        let pair = prepare(&image, notes)?;
        if has(notes, first) {
            held(&pair, notes)?;
        }
        if has(notes, last) {
            loaded(&pair, notes)?;
        }
        finish(pair)?;
    }
    let pauses: Vec<_> = STOPPED
        .into_iter()
        .filter(|(stage, _)| has(notes, stage))
        .map(|(_, pause)| pause)
        .collect();
    if !pauses.is_empty() {
        stopped_at_each_call(&image, &pauses, notes)?;
    }

    Ok(())
}

/// Makes two hosts with all networks, a container on each of them on host2, and a socket of host1's
/// agent that a relay can be in front of.
fn prepare(image: &Image, notes: &mut Notes) -> Result<Pair> {
    let pair = Pair::with_image(image, notes, false)?;
    pair.take_door(0)?;
    let relay = Relay::with_late(&pair, 0, &[])?;
    // An engine makes one endpoint of a network at a time, so containers that start at the same
    // time need one network each.
    for network in NETWORKS {
        pair.create_on_both(&["--ipam-driver", "overlay-wg", network])?;
    }
    pair.serve(1, NETWORKS[0], "other")?;
    for network in &NETWORKS[1..] {
        pair.docker(1, &["network", "connect", network, "other"])?;
    }
    drop(relay);

    Ok(pair)
}

fn finish(pair: Pair) -> Result<()> {
    pair.give_door_back(0)?;

    pair.finish()
}

/// What is stopped at one call stops its whole host, so each call has hosts of its own: together
/// they take as long as one.
fn stopped_at_each_call(image: &Image, pauses: &[Duration], notes: &mut Notes) -> Result<()> {
    let calls: Vec<_> = STARTING.into_iter().chain(ENDING).collect();
    let pairs = calls.iter().map(|_| prepare(image, notes)).collect::<Result<Vec<_>>>()?;
    let at_one = |pair: &Pair, call: &str| {
        let stopped = |&pause: &Duration| {
            stopped(pair, call, pause).with_context(|| format!("stopped for {pause:?} at {call}"))
        };
        pauses.iter().map(stopped).collect::<Result<Vec<_>>>()
    };
    let took = std::thread::scope(|scope| {
        let threads: Vec<_> = calls
            .iter()
            .zip(&pairs)
            .map(|(call, pair)| scope.spawn(move || at_one(pair, call)))
            .collect();
        let ended = threads
            .into_iter()
            .map(|thread| thread.join().map_err(|_| anyhow!("a thread panicked"))?);
        // All of them end before any failure is reported.
        ended.collect::<Vec<Result<_>>>().into_iter().collect::<Result<Vec<_>>>()
    })?;
    for (which, pause) in pauses.iter().enumerate() {
        let times =
            calls.iter().zip(&took).map(|(call, took)| format!("{call} {:.0?}", took[which]));
        let times = times.collect::<Vec<_>>().join(", ");
        notes.say(&format!(
            "dockerd stopped for {pause:?}, start and end took: {times}; nothing lost"
        ));
    }

    pairs.into_iter().try_for_each(finish)
}

/// Three containers start at the same time, each held at another call, while the engine answers
/// everything else and lists none of their endpoints.
fn held(pair: &Pair, notes: &mut Notes) -> Result<()> {
    let calls = &STARTING;
    let holds: Vec<String> =
        calls.iter().map(|call| format!("{call}={}", HELD.as_millis())).collect();
    let late: Vec<&str> = holds.iter().flat_map(|hold| ["--hold", hold.as_str()]).collect();
    let relay = Relay::with_late(pair, 0, &late)?;
    let start = Instant::now();
    let names = ["held1", "held2", "held3"];
    let runs =
        names.iter().zip(NETWORKS).map(|(name, network)| begin(pair, name, network, PATIENCE));
    for run in runs.collect::<Vec<_>>() {
        let output = run?.wait(HELD + PATIENCE)?;
        ensure!(output.status.success(), "a container did not start: {}", output.stderr);
    }
    ensure!(start.elapsed() >= HELD, "nothing was held");
    for name in names {
        whole(pair, name)?;
    }
    notes.say(&format!(
        "three starts held for {HELD:?} at {}: each has its interface",
        calls.join(", ")
    ));
    pair.docker(0, &[&["rm", "-f"], names.as_slice()].concat())?;
    gone(pair)?;
    drop(relay);

    Ok(())
}

fn begin(pair: &Pair, name: &str, network: &str, deadline: Duration) -> Result<Running> {
    let run = ["run", "-d", "--stop-timeout", "1", "--name", name, "--network", network, IMAGE];

    pair.engines[0].docker(&run)?.deadline(HELD + deadline).spawn()
}

/// A container starts and ends while the engine is stopped at one of the calls; returns how long
/// that took.
fn stopped(pair: &Pair, call: &str, time: Duration) -> Result<Duration> {
    let hold = format!("{call}={}", time.as_millis());
    let pid = pair.engines[0].pid()?.to_string();
    let relay = Relay::with_late(pair, 0, &["--hold", &hold, "--stop", &pid])?;
    let start = Instant::now();
    let output = begin(pair, "slow", NETWORKS[0], time + PATIENCE)?.wait(time + PATIENCE)?;
    ensure!(output.status.success(), "the container did not start: {}", output.stderr);
    whole(pair, "slow")?;
    let remove = pair.engines[0].docker(&["rm", "-f", "slow"])?.deadline(time + PATIENCE).run()?;
    ensure!(remove.status.success(), "the container was not removed: {}", remove.stderr);
    let took = start.elapsed();
    ensure!(took >= time, "dockerd was not stopped");
    gone(pair)?;
    drop(relay);

    Ok(took)
}

/// Checks that a container has the interface that Docker reports, and is reached and named on both
/// hosts.
fn whole(pair: &Pair, name: &str) -> Result<()> {
    let address = pair.docker(
        0,
        &["inspect", "-f", "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", name],
    )?;
    let inside = pair.docker(0, &["exec", name, "ip", "-o", "addr"])?;
    ensure!(inside.contains(&format!("{address}/")), "{name} has no {address}:\n{inside}");
    pair.reaches(1, "other", name)?;

    pair.reaches(0, name, "other").map(drop)
}

/// Checks that nothing is left of the containers of this host.
fn gone(pair: &Pair) -> Result<()> {
    let names = || pair.cluster.endpoint_names(0);
    wait_until(PATIENCE, "only the other container is listed", || {
        names().is_ok_and(|names| names.len() == NETWORKS.len())
    })
    .map(drop)
    .with_context(|| format!("{:?}", names()))
}

/// Starts containers, four at a time, while every processor is overloaded.
fn loaded(pair: &Pair, notes: &mut Notes) -> Result<()> {
    let relay = Relay::with_late(pair, 0, &[])?;
    let busy = format!("timeout {} sh -c 'while :; do :; done'", LOADED.as_secs());
    let spin = || pair.cluster.host(0).try_command("sh")?.args(["-c", &busy]).spawn();
    let load = (0..LOAD).map(|_| spin()).collect::<Result<Vec<_>>>()?;
    let start = Instant::now();
    let names: Vec<String> = (0..STARTS).map(|number| format!("loaded{number}")).collect();
    for some in names.chunks(4) {
        let runs: BTreeMap<_, _> =
            some.iter().map(|name| (name, begin(pair, name, NETWORKS[0], LOADED))).collect();
        for (name, run) in runs {
            let output = run?.wait(LOADED)?;
            ensure!(output.status.success(), "{name} did not start: {}", output.stderr);
        }
    }
    let took = start.elapsed();
    drop(load);
    for name in &names {
        whole(pair, name)?;
    }
    notes.say(&format!(
        "{STARTS} containers started under a load of {LOAD} in {took:.0?}: each has its interface"
    ));
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    pair.docker(0, &[&["rm", "-f"], names.as_slice()].concat())?;
    gone(pair)?;
    drop(relay);

    Ok(())
}
