//! One node turns hostile, and does all at once whatever it may and may not, with thousands of
//! connections without a certificate, while a container floods its name server: the commands of all
//! others are answered, new hosts join, and neither control nor an agent grows or has much to do.
//!
//! The attack is `overlay-lab hostile-node` and `overlay-lab questions`; everything is measured on
//! the honest hosts. All hosts share this machine's cores with the attack.

mod commands;
mod costs;

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use overlay_traffic::questions::ASKING;
use overlay_traffic::wait::rest;

use self::commands::Commands;
use self::costs::Costs;
use super::{Notes, PATIENCE, ms, percentile};
use crate::cluster::Cluster;
use crate::command::Running;
use crate::tool::hostile_node::{ATTACKING, BAIT, Tally};
use crate::wait_until;

/// The honest hosts that are there all the time; the first has control.
const HONEST: usize = 3;
/// The host that joins and leaves.
const JOINER: usize = 3;
/// The host whose node is hostile.
const HOSTILE: usize = 4;
/// The host whose container floods its name server.
const FLOODED: usize = 2;
/// The name of the hostile node.
const NAME: &str = "hostile";
/// The length of a round.
const ROUND: Duration = Duration::from_secs(10);
/// Connections without a certificate in a round: 33,000 in ten minutes.
const STRANGERS: u32 = 550;
/// The pause between two joins.
const PAUSE: Duration = Duration::from_secs(2);
/// By how much the bars of time and load are higher for programs that are not optimized, which take
/// about three times as long for everything, and run beside other tests.
const SLOWNESS: u32 = if cfg!(debug_assertions) { 3 } else { 1 };
/// How long 99 of 100 commands of others may take.
const COMMAND: Duration = Duration::from_secs(1).saturating_mul(SLOWNESS);
/// How long a host may take from `join` to its first page from another host.
const JOIN: Duration = Duration::from_secs(3).saturating_mul(SLOWNESS);
/// How much control and an agent may grow, in KiB.
const CONTROL_GROWTH: u64 = 64 << 10;
const AGENT_GROWTH: u64 = 16 << 10;
/// How much of a core an agent may use.
const AGENT_LOAD: f64 = 0.1 * SLOWNESS as f64;
/// How long the tools may take to end.
const END: Duration = Duration::from_secs(60);

pub(super) fn run(rounds: u32, notes: &mut Notes) -> Result<()> {
    let cluster = Cluster::new(HOSTILE + 1)?;
    cluster.ctl(0, &["network", "create", "net"])?;
    for host in [JOINER, HOSTILE] {
        cluster.ctl(host, &["leave"])?;
    }
    let services: Vec<_> = (0..HONEST)
        .map(|host| cluster.serve_http(host, "net", &format!("service{host}")))
        .collect::<Result<_>>()?;

    let quiet = honest_life(&cluster, ROUND / 2)?;
    quiet.say("before", notes);
    let costs = Costs::begin(&cluster)?;
    let attack = Attack::begin(&cluster, rounds)?;
    let life = honest_life(&cluster, ROUND * rounds)?;
    let costs = costs.end(&cluster)?;
    let tally = attack.end(notes)?;

    if SLOWNESS > 1 {
        notes.say(&format!(
            "not a release build: bars of time and load are {SLOWNESS} times as high"
        ));
    }
    life.say("under attack", notes);
    costs.say(notes);
    say(&tally, notes);
    remove(&cluster, notes)?;
    judge(&tally)?;
    life.judge()?;
    costs.judge()?;
    drop(services);
    finish(cluster)
}

/// Both floods, as long as the check has rounds.
struct Attack {
    node: Running,
    questions: Running,
}

impl Attack {
    /// Starts them, and waits until they go on.
    fn begin(cluster: &Cluster, rounds: u32) -> Result<Self> {
        let token = cluster.ctl_json(0, &["token", "create"])?;
        let line = token["join"].as_str().context("no join line")?;
        let seconds = (ROUND.as_secs() * u64::from(rounds)).to_string();
        let strangers = (STRANGERS * rounds).to_string();
        let ask = ["questions", "--seconds", &seconds];
        let questions = cluster.serve(FLOODED, "net", "flood", &ask, ASKING)?;
        let whom = ["--name", NAME, "--network", "net", "--steal", "service0"];
        let node = cluster.host(HOSTILE).try_command("overlay-lab")?;
        let node = node.args(["hostile-node", "--join", line, "--seconds", &seconds]);
        let mut node = node.args(["--strangers", &strangers]).args(whom).spawn()?;
        wait_until(PATIENCE, "the attack goes on", || {
            node.stdout().contains(ATTACKING) || !node.is_running()
        })?;
        ensure!(node.is_running(), "the hostile node ended: {}", node.stderr());

        Ok(Self { node, questions })
    }

    /// Waits for their end; returns what the hostile node got.
    fn end(self, notes: &mut Notes) -> Result<Tally> {
        let questions = self.questions.wait(END)?;
        notes.say(&format!("a container: {}", questions.stdout.lines().last().unwrap_or_default()));
        let output = self.node.wait(END)?;
        let last = output.stdout.lines().last().unwrap_or_default();

        serde_json::from_str(last).with_context(|| format!("no tally: {}", output.stderr))
    }
}

/// What honest hosts saw.
struct Life {
    commands: Commands,
    joins: Vec<Joined>,
}

/// A host that joined.
struct Joined {
    /// After how long `join` ended.
    joined: Duration,
    /// After how long it had fetched a page from another host.
    fetched: Duration,
}

/// Runs commands on the honest hosts for some time, while another one joins and leaves.
fn honest_life(cluster: &Cluster, time: Duration) -> Result<Life> {
    let (is_over, ends) = (AtomicBool::new(false), Instant::now() + time);
    thread::scope(|scope| {
        let commands = scope.spawn(|| Commands::run(cluster, HONEST, &is_over));
        let joins = join_and_leave(cluster, ends);
        is_over.store(true, Ordering::Relaxed);
        let commands = commands.join().map_err(|_| anyhow!("the thread of commands panicked"))?;

        Ok(Life { commands: commands?, joins: joins? })
    })
}

fn join_and_leave(cluster: &Cluster, ends: Instant) -> Result<Vec<Joined>> {
    let mut joins = Vec::new();
    while joins.is_empty() || Instant::now() < ends {
        let start = Instant::now();
        cluster.ctl(JOINER, &["join", cluster.join_line()])?;
        let joined = start.elapsed();
        let fetched = || cluster.fetch(JOINER, "net", "newcomer", "service1");
        let mut last = fetched();
        while last.is_err() && start.elapsed() < PATIENCE {
            last = fetched();
        }
        last.context("the new host reaches nobody")?;
        joins.push(Joined { joined, fetched: start.elapsed() });
        cluster.ctl(JOINER, &["leave"])?;
        rest(PAUSE.min(ends.saturating_duration_since(Instant::now())));
    }

    Ok(joins)
}

impl Life {
    fn say(&self, when: &str, notes: &mut Notes) {
        self.commands.say(when, notes);
        let of = |pick: fn(&Joined) -> Duration| {
            let times: Vec<_> = self.joins.iter().map(pick).collect();
            format!(
                "{} (median), {} (worst)",
                ms(percentile(&times, 50)),
                ms(percentile(&times, 100))
            )
        };
        notes.say(&format!(
            "{when}: {} joins: joined after {}; a page of another host after {}",
            self.joins.len(),
            of(|join| join.joined),
            of(|join| join.fetched)
        ));
    }

    fn judge(&self) -> Result<()> {
        self.commands.judge(COMMAND)?;
        let worst = self.joins.iter().map(|join| join.fetched).max().unwrap_or_default();
        ensure!(worst <= JOIN, "a new host needs {} to reach others", ms(worst));

        Ok(())
    }
}

fn say(tally: &Tally, notes: &mut Notes) {
    for (kind, attempts) in tally.kinds() {
        let refused = attempts.refused.iter().map(|(why, count)| format!("{count} {why}"));
        let refused = refused.collect::<Vec<_>>().join(", ");
        notes.say(&format!("  {kind}: {} accepted; {refused}", attempts.accepted));
        for said in attempts.said.values().filter(|said| !said.is_empty()) {
            notes.say(&format!("    \"{said}\""));
        }
    }
}

/// Checks that the attack took place, and that nothing was granted that must not be.
fn judge(tally: &Tally) -> Result<()> {
    let kinds = tally.kinds();
    for kind in ["rows", "networks", "blocks", "names of another", "announcements"] {
        ensure!(kinds.get(kind).is_some_and(|attempts| attempts.all() > 0), "there were no {kind}");
    }
    for kind in ["rows beyond the limits", "blocks", "what admins may", "tokens that do not exist"]
    {
        let accepted = kinds.get(kind).map_or(0, |attempts| attempts.accepted);
        ensure!(accepted == 0, "{accepted} {kind} were granted");
    }

    Ok(())
}

/// Removes the hostile node, and then what it made for all: others might use its networks.
fn remove(cluster: &Cluster, notes: &mut Notes) -> Result<()> {
    let start = Instant::now();
    cluster.ctl(0, &["node", "rm", NAME])?;
    wait_until(PATIENCE, "all rows of the hostile node are gone", || {
        (0..HONEST).all(|host| has_no_rows(cluster, host).unwrap_or(false))
    })?;
    let gone = start.elapsed();
    let left = networks(cluster)?;
    let baits: Vec<_> = left.iter().filter(|name| name.starts_with(BAIT)).collect();
    for bait in &baits {
        cluster.ctl(0, &["network", "rm", bait])?;
    }
    let networks = networks(cluster)?;
    ensure!(networks == ["net"], "networks that are left: {networks:?}");
    notes.say(&format!(
        "removed by one command: its rows were gone everywhere after {}; {} networks that it made \
         took a command each",
        ms(gone),
        baits.len()
    ));

    Ok(())
}

fn has_no_rows(cluster: &Cluster, host: usize) -> Result<bool> {
    let is_its = |row: &serde_json::Value| row["node"] == NAME;
    let peers = cluster.ctl_json(host, &["peers"])?;
    let is_peer = peers.as_array().context("peers --json is no list")?.iter().any(is_its);

    Ok(!is_peer && !cluster.endpoints(host)?.iter().any(is_its))
}

fn networks(cluster: &Cluster) -> Result<Vec<String>> {
    let list = cluster.ctl_json(0, &["network", "ls"])?;
    let rows = list.as_array().context("network ls --json is no list")?;

    Ok(rows.iter().filter_map(|row| Some(row["name"].as_str()?.to_owned())).collect())
}

/// Checks that the cluster is as usable as before, and ends it.
fn finish(cluster: Cluster) -> Result<()> {
    for host in [JOINER, HOSTILE] {
        cluster.ctl(host, &["join", cluster.join_line()])?;
        wait_until(PATIENCE, "a host that joins serves others", || {
            let Ok(server) = cluster.serve_http(host, "net", "late") else { return false };
            let fetched = cluster.fetch(1, "net", "client", "late");
            drop(server);

            fetched.is_ok()
        })?;
    }

    cluster.finish()
}
