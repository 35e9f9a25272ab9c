//! Docker's containers come and go, engines and agents are killed: no address twice, nothing left, who runs goes on.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::docker::Pair;
use super::{Notes, PATIENCE};
use crate::docker::IMAGE;
use crate::process::rest;
use crate::wait::wait_until;

/// One container in so many is killed.
const KILLED: u32 = 10;
/// Containers that are started at a time.
const AT_A_TIME: u32 = 4;
/// How long it may take until what ended unheard is free again.
const HEALED: Duration = Duration::from_secs(40);

/// Starts and removes containers on both engines, a tenth of them killed.
pub(super) fn churn(rounds: u32, notes: &mut Notes) -> Result<()> {
    let pair = Pair::new(false)?;
    pair.docker(0, &["network", "create", "-d", "overlay-wg", "net"])?;
    pair.wait_for_network(1, "net")?;
    for (host, name) in [(0, "anchor1"), (1, "anchor2")] {
        pair.docker(host, &["run", "-d", "--name", name, "--network", "net", IMAGE])?;
    }
    let before = [ours(&pair, 0)?, ours(&pair, 1)?];
    let (start, mut seen) = (Instant::now(), 0);
    for first in (0..rounds).step_by(usize::try_from(AT_A_TIME)?) {
        seen += batch(&pair, first, rounds.min(first + AT_A_TIME))?;
    }
    let rate = f64::from(rounds) / start.elapsed().as_secs_f64();
    wait_until(HEALED, "only the anchors are listed", || names(&pair).is_ok_and(|names| names.len() == 2))?;
    unchanged(&pair, &before)?;
    reached(&pair)?;
    notes.say(&format!(
        "{rounds} containers on two engines, {} killed, {rate:.1} a second; {seen} live addresses compared, none twice",
        rounds / KILLED
    ));

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
    let seen = distinct_addresses(pair)?;
    for number in first..end {
        let (host, name) = (usize::try_from(number % 2)?, format!("c{number}"));
        if number % KILLED == 0 {
            pair.docker(host, &["kill", &name])?;
        }
        pair.docker(host, &["rm", "-f", &name])?;
    }

    Ok(seen)
}

fn distinct_addresses(pair: &Pair) -> Result<usize> {
    let list = pair.cluster.ctl_json(0, &["endpoint", "ls"])?;
    let rows = list.as_array().context("endpoint ls --json is no list")?;
    let addresses: Vec<_> = rows.iter().filter_map(|row| row["addresses"].as_array()).flatten().collect();
    let distinct: BTreeSet<_> = addresses.iter().map(ToString::to_string).collect();
    ensure!(distinct.len() == addresses.len(), "an address is live twice: {list}");

    Ok(addresses.len())
}

fn names(pair: &Pair) -> Result<Vec<String>> {
    let list = pair.cluster.ctl_json(0, &["endpoint", "ls"])?;
    let rows = list.as_array().context("endpoint ls --json is no list")?;

    Ok(rows.iter().filter_map(|row| Some(row["name"].as_str()?.to_owned())).collect())
}

/// What the host has of ours: links that wait for Docker, and what is in our networks' namespaces. The rest is Docker's own.
fn ours(pair: &Pair, host: usize) -> Result<String> {
    const SCRIPT: &str = "ip -o link | grep -o 'ovc[0-9a-f]*' | sort -u; for n in /run/overlay/netns/*; do echo $n; \
                          nsenter --net=$n ip -o link | wc -l; nsenter --net=$n ip route | sort; done";

    Ok(pair.cluster.host(host).try_command("sh")?.args(["-c", SCRIPT]).run()?.stdout)
}

fn unchanged(pair: &Pair, before: &[String; 2]) -> Result<()> {
    for (host, before) in before.iter().enumerate() {
        let same = || ours(pair, host).is_ok_and(|now| now == *before);
        wait_until(HEALED, "nothing is left in the kernel", same)
            .with_context(|| format!("on host{}:\n{before}\nnow\n{:?}", host + 1, ours(pair, host)))?;
    }

    Ok(())
}

/// Both anchors reach each other by name.
fn reached(pair: &Pair) -> Result<()> {
    for (host, from, to) in [(0, "anchor1", "anchor2"), (1, "anchor2", "anchor1")] {
        let url = format!("http://{to}:8080/hello");
        let fetch = ["exec", from, "curl", "-sS", "-m", "3", &url];
        wait_until(PATIENCE, "the anchors reach each other", || pair.docker(host, &fetch).is_ok())?;
    }

    Ok(())
}

/// Kills and restarts engines and agents at random moments, while containers kept by live-restore run.
pub(super) fn kills(rounds: u32, notes: &mut Notes) -> Result<()> {
    let mut pair = Pair::new(true)?;
    pair.docker(0, &["network", "create", "-d", "overlay-wg", "net"])?;
    pair.wait_for_network(1, "net")?;
    for (host, name) in [(0, "anchor1"), (1, "anchor2")] {
        pair.docker(host, &["run", "-d", "--name", name, "--network", "net", IMAGE])?;
    }
    reached(&pair)?;
    let before = [ours(&pair, 0)?, ours(&pair, 1)?];
    let mut done = [0u32; 3];
    for round in 0..rounds {
        let host = usize::try_from(rand::random_range(0..2u32))?;
        let name = format!("r{round}");
        // Something is under way when it happens.
        let run = pair.engines[host].docker(&["run", "-d", "--name", &name, "--network", "net", IMAGE])?.spawn()?;
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
        // Whether that container came up is the engine's affair; that nothing of it stays is ours.
        let _ = run.wait(PATIENCE);
        let removed = || pair.docker(host, &["rm", "-f", &name]).is_ok() || !listed(&pair, host, &name);
        wait_until(PATIENCE, "the container is removed", removed)?;
        let addresses = addresses(&pair)?;
        ensure!(addresses == 2, "round {round}: {addresses} anchors answer");
    }
    wait_until(HEALED, "only the anchors are listed", || names(&pair).is_ok_and(|names| names.len() == 2))
        .with_context(|| format!("{:?}", names(&pair)))?;
    unchanged(&pair, &before)?;
    reached(&pair)?;
    notes.say(&format!(
        "dockerd killed {} times and ended {} times, agents killed {} times: anchors reach each other, nothing left",
        done[0], done[1], done[2]
    ));

    pair.finish()
}

fn listed(pair: &Pair, host: usize, name: &str) -> bool {
    pair.docker(host, &["ps", "-aq", "--filter", &format!("name={name}")]).is_ok_and(|ids| !ids.is_empty())
}

/// Counts the anchors that answer the other by address, which needs no name.
fn addresses(pair: &Pair) -> Result<usize> {
    let list = pair.cluster.ctl_json(0, &["endpoint", "ls"])?;
    let address = |name: &str| {
        let rows = list.as_array()?;
        let row = rows.iter().find(|row| row["name"] == name)?;
        Some(row["addresses"].as_array()?.first()?.as_str()?.to_owned())
    };
    let Some((one, two)) = address("anchor1").zip(address("anchor2")) else { bail!("an anchor is not listed: {list}") };
    let answers = |host: usize, from: &str, to: &str| {
        let url = format!("http://{to}:8080/hello");
        let fetch = ["exec", from, "curl", "-sS", "-m", "3", &url];
        wait_until(PATIENCE, "an anchor answers", || pair.docker(host, &fetch).is_ok()).is_ok()
    };

    Ok(usize::from(answers(0, "anchor1", &two)) + usize::from(answers(1, "anchor2", &one)))
}
