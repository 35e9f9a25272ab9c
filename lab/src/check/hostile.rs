//! Root in a container with raw sockets attacks containers on its own host and on another one, both
//! hosts, and the gateway: nothing arrives, everything is counted under its reason, and nobody is
//! harmed.

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use overlay_traffic::hostile::{Arrived, READY, Sent};

use super::{Notes, PATIENCE};
use crate::cluster::Cluster;
use crate::command::Running;
use crate::wait_until;

/// The network of attacker and victims, which has both families.
pub(super) const NETWORK: &str = "net";
/// Its prefixes.
pub(super) const PREFIXES: [&str; 4] = ["--subnet", "10.73.0.0/16", "--subnet", "fd00:73::/64"];
/// How many ports of the gateway are tried; all of them from so many rounds on.
const PORTS: u16 = 100;
const ROUNDS_OF_ALL_PORTS: u32 = 100;
/// What is in force for the attacks on a policy.
const POLICY: &str = "[network.net]\ndefault = \"deny\"\n[[rule]]\nname = \"web\"\nfrom = \"any\"\n\
                      to = \"any\"\nallow = [\"tcp/80\"]\n";
/// The counter of attacks on a policy.
const BY_POLICY: &str = "policy";

/// Two hosts, and how containers are started on them. The attacker is on the first one.
pub(super) trait Ground {
    fn cluster(&self) -> &Cluster;

    /// Starts one of this program's tools as root in a container of the network, and waits until
    /// it says that it is ready.
    fn start(&self, host: usize, name: &str, tool: &[&str]) -> Result<Running>;

    /// Has a container of the second host fetch a page from one of the first.
    fn fetch(&self) -> Result<()>;

    /// Returns the gateway, where containers have no route that names it.
    fn gateway(&self) -> Option<String>;
}

/// Hosts whose containers are processes in namespaces.
struct Namespaces(Cluster);

impl Ground for Namespaces {
    fn cluster(&self) -> &Cluster {
        &self.0
    }

    fn start(&self, host: usize, name: &str, tool: &[&str]) -> Result<Running> {
        self.0.serve(host, NETWORK, name, tool, READY)
    }

    fn fetch(&self) -> Result<()> {
        self.0.fetch(1, NETWORK, "visitor", "neighbour")
    }

    fn gateway(&self) -> Option<String> {
        None
    }
}

/// An attack, and what came of it.
struct Outcome {
    sent: Sent,
    counted: u64,
}

pub(super) fn run(rounds: u32, notes: &mut Notes) -> Result<()> {
    let cluster = Cluster::new(2)?;
    cluster.ctl(0, &[&["network", "create", NETWORK][..], &PREFIXES].concat())?;
    let page = cluster.serve_http(0, NETWORK, "neighbour")?;
    let ground = Namespaces(cluster);
    attack(&ground, rounds, notes)?;

    drop(page);
    ground.0.finish()
}

/// Makes all attacks, and checks that none arrives, each is counted, and nobody is harmed.
pub(super) fn attack(ground: &impl Ground, rounds: u32, notes: &mut Notes) -> Result<()> {
    let cluster = ground.cluster();
    let watch = ["hostile", "watch"];
    let victims = [ground.start(0, "near", &watch)?, ground.start(1, "far", &watch)?];
    let watchers = [watcher(cluster, 0)?, watcher(cluster, 1)?];
    wait_until(PATIENCE, "the network works", || ground.fetch().is_ok())?;
    let mut attacker = attacker(ground, rounds)?;
    let first = attacker.stdout();
    let total: usize = first.trim_start_matches(READY).trim().parse().context(first.clone())?;

    let mut outcomes: Vec<Outcome> = Vec::new();
    for done in 0..total {
        if done == first_on_policy(total) {
            enforce(cluster, POLICY, Some("web"))?;
        }
        let before = counts(cluster)?;
        let sent = next(&mut attacker, done)?;
        let counted = wait_for_counts(cluster, &sent, &before)?;
        outcomes.push(Outcome { sent, counted });
    }
    cluster.ctl(0, &["policy", "rollback", "0"])?;
    wait_until(PATIENCE, "nobody is harmed", || ground.fetch().is_ok())?;
    attacker.signal(Signal::SIGUSR1)?;
    attacker.wait(PATIENCE)?;

    let mut arrived = Arrived::new();
    for watcher in victims.into_iter().chain(watchers) {
        for (number, frames) in self::arrived(watcher)? {
            *arrived.entry(number).or_default() += frames;
        }
    }

    report(&outcomes, &arrived, notes)
}

/// How many attacks come before those on a policy: they are the last five.
fn first_on_policy(total: usize) -> usize {
    total.saturating_sub(5)
}

/// Prints what came of each attack, and says whether all is as it must be.
fn report(outcomes: &[Outcome], arrived: &Arrived, notes: &mut Notes) -> Result<()> {
    let (mut bad, mut all) = (Vec::new(), (0, 0));
    notes
        .say(&format!("{:<46} {:>7} {:>7} {:>8}  counter", "attack", "sent", "arrived", "counted"));
    for Outcome { sent, counted } in outcomes {
        let number = u8::try_from(sent.number)?;
        let came = arrived.get(&number).copied().unwrap_or_default() + sent.answers;
        let Sent { name, counter, counts, .. } = sent;
        notes.say(&format!("{name:<46} {:>7} {came:>7} {counted:>8}  {counter}", sent.sent));
        if came > 0 || counted < counts {
            bad.push(format!("{name}: {came} arrived, {counted} of {counts} counted"));
        }
        all = (all.0 + sent.sent, all.1 + 1);
    }
    notes.say(&format!("{} packets of {} attacks were sent", all.0, all.1));
    ensure!(bad.is_empty(), "{}", bad.join("\n"));

    Ok(())
}

/// Lets the attacker make its next attack, and returns what it sent.
fn next(attacker: &mut Running, done: usize) -> Result<Sent> {
    attacker.signal(Signal::SIGUSR1)?;
    // To try every port takes a while.
    wait_until(PATIENCE * 6, "the next attack", || {
        attacker.stdout().lines().count() > done + 1 || !attacker.is_running()
    })?;
    let said = attacker.stdout();
    let line = said.lines().nth(done + 1).with_context(|| attacker.stderr())?;

    Ok(serde_json::from_str(line)?)
}

/// Waits until an attack is counted, and returns by how much its counter grew.
fn wait_for_counts(cluster: &Cluster, sent: &Sent, before: &serde_json::Value) -> Result<u64> {
    let (was, mut now) = (count(before, &sent.counter), 0);
    let counted = wait_until(PATIENCE / 10, "the attack is counted", || {
        now = counts(cluster).map_or(0, |counts| count(&counts, &sent.counter));
        now.saturating_sub(was) >= sent.counts
    });
    // What is missing is told in the table.
    drop(counted);

    Ok(now.saturating_sub(was))
}

fn counts(cluster: &Cluster) -> Result<serde_json::Value> {
    cluster.ctl_json(0, &["policy", "counts"])
}

/// Adds up what a counter of the guard has, or all counters of the policy.
fn count(counts: &serde_json::Value, counter: &str) -> u64 {
    let rows = counts.as_array().map(Vec::as_slice).unwrap_or_default();
    let is_it = |row: &&serde_json::Value| match counter {
        BY_POLICY => row["counter"] != "guard" && row["verdict"] == "deny",
        reason => row["counter"] == "guard" && row["reason"] == reason,
    };

    rows.iter().filter(is_it).filter_map(|row| row["packets"].as_u64()).sum()
}

/// Returns how many packets the first host's policy has refused.
pub(super) fn refused(cluster: &Cluster) -> Result<u64> {
    Ok(count(&counts(cluster)?, BY_POLICY))
}

/// Stops a watcher, and returns what has arrived there.
pub(super) fn arrived(watcher: Running) -> Result<Arrived> {
    watcher.signal(Signal::SIGTERM)?;
    let output = watcher.wait(PATIENCE)?;
    let line = output.stdout.lines().last().unwrap_or_default();

    serde_json::from_str(line).with_context(|| output.stderr.clone())
}

/// Puts a policy in force on all hosts; its last rule is `rule`, or it has none.
pub(super) fn enforce(cluster: &Cluster, policy: &str, rule: Option<&str>) -> Result<()> {
    cluster.put_policy("apply", policy)?;
    let in_force = |host| {
        let counts = cluster.ctl_json(host, &["policy", "counts"]).unwrap_or_default();
        let rows = counts.as_array().cloned().unwrap_or_default();
        let is_it = |row: &&serde_json::Value| match rule {
            Some(rule) => row["rule"] == rule,
            None => row["counter"] == "default",
        };
        rows.iter().filter(is_it).any(|row| row["in_force"] == true)
    };

    let hosts = 0..cluster.lab().hosts().len();

    wait_until(PATIENCE, "the policy is in force", || hosts.clone().all(in_force)).map(drop)
}

/// Starts a container that counts what arrives of attacks.
pub(super) fn victim(cluster: &Cluster, host: usize, name: &str) -> Result<Running> {
    cluster.serve(host, NETWORK, name, &["hostile", "watch"], READY)
}

/// Watches all links of a host.
fn watcher(cluster: &Cluster, host: usize) -> Result<Running> {
    let watch = cluster.host(host).try_command("overlay-lab")?.args(["hostile", "watch"]);
    let mut running = watch.spawn()?;
    wait_until(PATIENCE, READY, || running.stdout().contains(READY) || !running.is_running())?;

    Ok(running)
}

fn attacker(ground: &impl Ground, rounds: u32) -> Result<Running> {
    let cluster = ground.cluster();
    let (near, far) = (addresses(cluster, "near")?, addresses(cluster, "far")?);
    let ports = if rounds < ROUNDS_OF_ALL_PORTS { PORTS } else { u16::MAX };
    let mut args: Vec<String> = ["hostile", "attack"].map(str::to_owned).to_vec();
    args.extend(["--rounds".to_owned(), rounds.to_string()]);
    args.extend(["--ports".to_owned(), ports.to_string()]);
    for (option, both) in [("--near", near), ("--far", far)] {
        args.push(option.to_owned());
        args.extend(both);
    }
    for host in [0, 1] {
        args.extend(["--host".to_owned(), cluster.host(host).address().to_string()]);
    }
    args.extend(ground.gateway().into_iter().flat_map(|at| ["--gateway".to_owned(), at]));
    let args: Vec<_> = args.iter().map(String::as_str).collect();

    ground.start(0, "attacker", &args)
}

/// Returns a container's addresses, IPv4 first.
pub(super) fn addresses(cluster: &Cluster, name: &str) -> Result<Vec<String>> {
    let mut found = Vec::new();
    wait_until(PATIENCE, "the container is listed", || {
        let rows = cluster.endpoints(0).unwrap_or_default();
        let row = rows.into_iter().find(|row| row["name"] == name).unwrap_or_default();
        let all = row["addresses"].as_array().cloned().unwrap_or_default();
        let all = all.iter().filter_map(|address| address.as_str());
        found = all.map(|one| one.split('/').next().unwrap_or_default().to_owned()).collect();
        found.len() == 2
    })?;

    Ok(found)
}
