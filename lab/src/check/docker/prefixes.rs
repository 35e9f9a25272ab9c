//! The plain command works on every host whatever bridges the others have, and its prefix is none
//! of theirs.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ipnet::Ipv4Net;

use super::pair::Pair;
use crate::check::{Notes, PATIENCE, ms, percentile};
use crate::docker::IMAGE;
use crate::wait_until;

/// How soon other hosts must know about a bridge, and about its removal.
const SOON: Duration = Duration::from_secs(1);
/// From this number of rounds on, one host also uses up every prefix, which takes half a minute.
const THOROUGH: u32 = 20;
/// How many bridges a host can still make although another one has taken every prefix there is.
const SPARE: usize = 3;

pub(in crate::check) fn run(rounds: u32, notes: &mut Notes) -> Result<()> {
    let pair = Pair::new(notes, false)?;
    pair.start_ordinary_project(0)?;
    heard(&pair, rounds.min(6), notes)?;
    unheard(&pair, rounds, notes)?;
    if rounds >= THOROUGH {
        used_up(&pair, notes)?;
    }

    pair.finish()
}

fn prefix(pair: &Pair, host: usize, network: &str) -> Result<Ipv4Net> {
    let format = "{{(index .IPAM.Config 0).Subnet}}";

    pair.docker(host, &["network", "inspect", "-f", format, network])?.parse().context("a prefix")
}

/// Returns the IPv4 prefixes of an engine's bridges.
fn bridges(pair: &Pair, host: usize) -> Result<BTreeSet<Ipv4Net>> {
    let names = pair
        .docker(host, &["network", "ls", "--filter", "driver=bridge", "--format", "{{.Name}}"])?;

    names.lines().map(|name| prefix(pair, host, name)).collect()
}

/// Returns whether a host prevents Docker from choosing a prefix.
fn keeps(pair: &Pair, host: usize, prefix: Ipv4Net) -> bool {
    let list = ["-4", "route", "show", "tos", "0xfc", &prefix.to_string()];
    let shown = pair.cluster.host(host).try_command("ip").and_then(|ip| ip.args(list).run());

    shown.is_ok_and(|shown| !shown.stdout.trim().is_empty())
}

/// A bridge that the other host knows about gets a prefix of its own, and a container there can be
/// on both networks.
fn heard(pair: &Pair, rounds: u32, notes: &mut Notes) -> Result<()> {
    let (mut kept, mut free) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        let here = usize::try_from(round % 2)?;
        let there = 1 - here;
        pair.docker(there, &["network", "create", "ordinary"])?;
        let taken = prefix(pair, there, "ordinary")?;
        kept.push(wait_until(PATIENCE, "the bridge is heard of", || keeps(pair, here, taken))?);
        pair.create(here, &["plain"])?;
        pair.wait_for_network(there, "plain")?;
        let (own, others) = (prefix(pair, here, "plain")?, bridges(pair, there)?);
        ensure!(!others.contains(&own), "{own} is the prefix of a bridge of host{}", there + 1);
        pair.serve(there, "plain", "on-both")?;
        pair.docker(there, &["network", "connect", "ordinary", "on-both"])?;
        pair.docker(there, &["rm", "-f", "on-both"])?;
        pair.docker(here, &["network", "rm", "plain"])?;
        pair.wait_for_removal(there, "plain")?;
        pair.docker(there, &["network", "rm", "ordinary"])?;
        free.push(wait_until(PATIENCE, "its prefix is free again", || !keeps(pair, here, taken))?);
    }
    let (kept, free) = (percentile(&kept, 95), percentile(&free, 95));
    notes.say(&format!(
        "a bridge is heard of by the other host after {}, its end after {} (p95)",
        ms(kept),
        ms(free)
    ));
    ensure!(kept <= SOON && free <= SOON, "bridges become known too late");

    Ok(())
}

/// The plain command works right after a bridge was made or removed on another host, whether or not
/// this host knows yet.
fn unheard(pair: &Pair, rounds: u32, notes: &mut Notes) -> Result<()> {
    let mut clashes = 0;
    for round in 0..rounds {
        let here = usize::try_from(round % 2)?;
        let there = 1 - here;
        let made = if round % 4 < 2 { "create" } else { "rm" };
        if made == "rm" {
            pair.docker(there, &["network", "create", "ordinary"])?;
        }
        pair.docker(there, &["network", made, "ordinary"])?;
        pair.create(here, &["plain"])
            .with_context(|| format!("round {round}, after network {made} elsewhere"))?;
        pair.docker(here, &["run", "--rm", "--network", "plain", IMAGE, "true"])?;
        clashes += usize::from(bridges(pair, there)?.contains(&prefix(pair, here, "plain")?));
        pair.wait_for_network(there, "plain")?;
        pair.docker(there, &["run", "--rm", "--network", "plain", IMAGE, "true"])?;
        pair.docker(here, &["network", "rm", "plain"])?;
        pair.wait_for_removal(there, "plain")?;
        if made == "create" {
            pair.docker(there, &["network", "rm", "ordinary"])?;
        }
    }
    notes.say(&format!(
        "the plain command at the instant at which a bridge comes or goes elsewhere: {rounds} of {rounds}, {clashes} with its prefix"
    ));

    Ok(())
}

/// One host takes every prefix there is; the other can still make bridges and networks of ours.
fn used_up(pair: &Pair, notes: &mut Notes) -> Result<()> {
    let all = "n=0; while docker network create all$n >/dev/null 2>/run/said; do n=$((n+1)); done; echo $n; cat /run/said";
    let said = pair.engines[1].shell(all)?.deadline(PATIENCE * 3).run()?.stdout;
    let (made, why) = said.split_once('\n').context("a count")?;
    let made: usize = made.parse().context("a count")?;
    ensure!(made > 20 && why.contains("address pool"), "host2 made {made} bridges, then: {why}");
    for number in 0..SPARE {
        pair.docker(0, &["network", "create", &format!("spare{number}")])?;
    }
    pair.create(0, &["plain"])?;
    pair.serve(0, "plain", "one")?;
    pair.wait_for_network(1, "plain")?;
    pair.serve(1, "plain", "two")?;
    pair.reaches(0, "one", "two")?;
    for (host, name) in [(0, "one"), (1, "two")] {
        pair.docker(host, &["rm", "-f", name])?;
    }
    pair.docker(0, &["network", "rm", "plain", "spare0", "spare1", "spare2"])?;
    let remove = format!("docker network rm $(seq -f all%g 0 {})", made - 1);
    pair.engines[1].shell(&remove)?.deadline(PATIENCE * 3).run()?;
    notes.say(&format!(
        "host2 has {made} more bridges and no prefix left: host1 makes {SPARE}, and a plain network"
    ));

    Ok(())
}
