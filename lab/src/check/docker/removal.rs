//! Networks that are removed while another host uses them, and that are made on two hosts at the
//! same time with different prefixes.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use overlay_traffic::wait::rest;
use serde_json::Value;

use super::pair::Pair;
use crate::check::{Notes, PATIENCE, ms};
use crate::wait_until;

/// One round in so many also tries a removal.
const REMOVALS: u32 = 5;

pub(in crate::check) fn run(rounds: u32, notes: &mut Notes) -> Result<()> {
    let pair = Pair::new(notes, false)?;
    in_use(&pair, rounds.div_ceil(REMOVALS), notes)?;
    forced(&pair, notes)?;
    same_name(&pair, rounds, notes)?;
    explained(&pair, notes)?;

    pair.finish()
}

/// `docker network rm` on a host that does not use the network, while containers on the other host
/// do.
fn in_use(pair: &Pair, rounds: u32, notes: &mut Notes) -> Result<()> {
    pair.create_on_both(&["busy"])?;
    for name in ["busy1", "busy2"] {
        pair.serve(1, "busy", name)?;
    }
    // A container is there before its name is.
    let named = || pair.cluster.lists(1, "busy1") && pair.cluster.lists(1, "busy2");
    wait_until(PATIENCE, "both containers are listed by their names", named)?;
    let flow = pair.flow(1, "busy1", &pair.cluster.address_of(1, "busy2")?)?;
    let mut worst = Duration::ZERO;
    for _ in 0..rounds {
        let before = pair.docker(0, &["network", "inspect", "-f", "{{.Id}}", "busy"])?;
        pair.docker(0, &["network", "rm", "busy"])?;
        let start = Instant::now();
        let is_another = || {
            pair.docker(0, &["network", "inspect", "-f", "{{.Id}}", "busy"])
                .is_ok_and(|id| id != before)
        };
        wait_until(PATIENCE, "the network is back", is_another)?;
        worst = worst.max(start.elapsed());
        pair.serve(0, "busy", "visitor")?;
        pair.reaches(0, "visitor", "busy1")?;
        pair.docker(0, &["rm", "-f", "visitor"])?;
        pair.wait_for_network(1, "busy")?;
    }
    let echoes = flow.unbroken()?;
    notes.say(&format!(
        "{rounds} times removed on host1 while in use on host2: back after {} at the latest; {echoes} echoes on host2, 0 lost",
        ms(worst)
    ));

    Ok(())
}

/// Only `network rm --force` removes a network that containers are on, on all hosts.
fn forced(pair: &Pair, notes: &mut Notes) -> Result<()> {
    pair.cluster.ctl(0, &["network", "rm", "--force", "busy"])?;
    for host in [0, 1] {
        wait_until(PATIENCE, "the network is gone", || {
            pair.docker(host, &["network", "ls", "--format", "{{.Name}}"])
                .is_ok_and(|names| !names.contains("busy"))
                || pair
                    .cluster
                    .ctl_json(host, &["network", "ls"])
                    .is_ok_and(|list| list.as_array().is_some_and(Vec::is_empty))
        })?;
    }
    for name in ["busy1", "busy2"] {
        pair.docker(1, &["rm", "-f", name])?;
    }
    for host in [0, 1] {
        pair.wait_for_removal(host, "busy")?;
    }
    notes.say("removed by force, it is gone on all hosts");

    Ok(())
}

/// Both hosts make the same name at the same time, with different prefixes: one of them wins on
/// both hosts, whichever began first.
fn same_name(pair: &Pair, rounds: u32, notes: &mut Notes) -> Result<()> {
    let mut won = [0u32; 2];
    let mut worst = Duration::ZERO;
    for round in 0..rounds {
        let name = format!("twin{round}");
        let subnets = ["10.90.0.0/16", "10.91.0.0/16"];
        let create = |host: usize| {
            let args = ["network", "create", "-d", "overlay-wg", "--subnet", subnets[host], &name];
            pair.engines[host].docker(&args)?.spawn()
        };
        // Either host may be second.
        let first = usize::try_from(round % 2)?;
        let one = create(first)?;
        rest(Duration::from_millis(rand::random_range(0..30)));
        let other = create(1 - first)?;
        for made in [one, other] {
            made.wait(PATIENCE)?;
        }
        let start = Instant::now();
        let prefix = |host: usize| {
            pair.docker(
                host,
                &["network", "inspect", "-f", "{{(index .IPAM.Config 0).Subnet}}", &name],
            )
        };
        wait_until(
            PATIENCE,
            "both hosts have the same",
            || matches!((prefix(0), prefix(1)), (Ok(one), Ok(other)) if one == other),
        )
        .with_context(|| format!("round {round}: {:?} {:?}", prefix(0), prefix(1)))?;
        worst = worst.max(start.elapsed());
        let winner =
            subnets.iter().position(|subnet| prefix(0).is_ok_and(|prefix| prefix == *subnet));
        let Some(winner) = winner else {
            bail!("round {round}: another prefix than both asked for")
        };
        won[winner] += 1;
        pair.docker(winner, &["network", "rm", &name])?;
        for host in [0, 1] {
            pair.wait_for_removal(host, &name)?;
        }
    }
    notes.say(&format!(
        "{rounds} times the same name at once with different prefixes: equal on both hosts after {} at the latest (host1 won {}, host2 {})",
        ms(worst),
        won[0],
        won[1]
    ));

    Ok(())
}

/// A host that cannot have a network as the others do says why, to everybody.
fn explained(pair: &Pair, notes: &mut Notes) -> Result<()> {
    pair.docker(1, &["network", "create", "stands-in-the-way"])?;
    pair.create(0, &["stands-in-the-way"])?;
    let mut reason = String::new();
    let told = || {
        let list = pair.cluster.ctl_json(0, &["network", "ls"]).unwrap_or(Value::Null);
        let rows = list.as_array().cloned().unwrap_or_default();
        let row = rows.iter().find(|row| row["name"] == "stands-in-the-way");
        let Some(difference) = row.map(|row| row["differs"][0].clone()) else { return false };
        reason = difference["reason"].as_str().unwrap_or_default().to_owned();
        difference["node"] == "host2" && reason.contains("bridge")
    };
    wait_until(PATIENCE, "host1 is told why host2 differs", told)?;
    let text = pair.cluster.ctl(0, &["network", "ls"])?.stdout;
    ensure!(text.contains("stands-in-the-way differs on host2: "), "network ls: {text}");
    pair.docker(1, &["network", "rm", "stands-in-the-way"])?;
    let is_ours = || {
        let driver =
            pair.docker(1, &["network", "inspect", "-f", "{{.Driver}}", "stands-in-the-way"]);
        driver.is_ok_and(|driver| driver == "overlay-wg")
    };
    wait_until(PATIENCE, "host2 has it once nothing stands in the way", is_ours)?;
    pair.docker(0, &["network", "rm", "stands-in-the-way"])?;
    pair.wait_for_removal(1, "stands-in-the-way")?;
    notes.say(&format!("network ls on host1: stands-in-the-way differs on host2: {reason}"));

    Ok(())
}
