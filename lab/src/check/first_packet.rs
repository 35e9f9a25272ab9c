//! Containers that send from the first moment on, many at once, in a network whose policy lets
//! nobody send: nothing arrives, on the same host and on another one.

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;

use super::hostile::{addresses, arrived, enforce, refused, victim};
use super::{Notes, PATIENCE};
use crate::cluster::Cluster;
use crate::command::Running;
use crate::wait_until;

const DENY: &str = "[network.net]\ndefault = \"deny\"\n";
const ALLOW: &str = "[network.net]\ndefault = \"deny\"\n[[rule]]\nname = \"all\"\nfrom = \"any\"\n\
                     to = \"any\"\nallow = \"any\"\n";
/// How many namespaces are attached at once.
const AT_ONCE: u32 = 20;
/// Attaches every namespace that it is given, all at once, and waits for all.
const ATTACH: &str = "n=0; for ns in \"$@\"; do n=$((n+1)); overlayctl attach --network net --name \
                      $0-$n --netns $ns >/dev/null & done; wait";

pub(super) fn run(rounds: u32, notes: &mut Notes) -> Result<()> {
    let cluster = Cluster::new(2)?;
    let subnets = ["--subnet", "10.72.0.0/16", "--subnet", "fd00:72::/64"];
    cluster.ctl(0, &[&["network", "create", "net"][..], &subnets].concat())?;
    let victims = [victim(&cluster, 0, "near")?, victim(&cluster, 1, "far")?];
    let to: Vec<_> = [addresses(&cluster, "near")?, addresses(&cluster, "far")?].concat();
    enforce(&cluster, DENY, None)?;

    let (mut started, mut sent) = (0, 0);
    while started < rounds {
        sent += storm(&cluster, &format!("s{started}"), AT_ONCE.min(rounds - started), &to)?;
        started += AT_ONCE.min(rounds - started);
    }
    let counted = refused(&cluster)?;
    let came = came_to(victims)?;
    notes.say(&format!(
        "{started} containers started and sent {sent} packets at once: {came} arrived, {counted} \
         were counted as refused"
    ));
    ensure!(came == 0, "{came} packets arrived before the policy, or past it");
    ensure!(counted > 0 && sent >= u64::from(rounds), "only {sent} sent, {counted} counted");

    // The same arrive where they may; otherwise the check would prove nothing.
    let victims = [victim(&cluster, 0, "near2")?, victim(&cluster, 1, "far2")?];
    let to: Vec<_> = [addresses(&cluster, "near2")?, addresses(&cluster, "far2")?].concat();
    enforce(&cluster, ALLOW, Some("all"))?;
    storm(&cluster, "allowed", 2, &to)?;
    ensure!(came_to(victims)? > 0, "nothing arrives where everything is allowed");
    cluster.ctl(0, &["policy", "rollback", "0"])?;
    cluster.finish()
}

/// Stops the victims; returns how many packets came to them.
fn came_to(victims: [Running; 2]) -> Result<u64> {
    victims.into_iter().map(|victim| Ok(arrived(victim)?.values().sum::<u64>())).sum()
}

/// Starts so many containers at once; returns how many packets they sent.
fn storm(cluster: &Cluster, name: &str, count: u32, to: &[String]) -> Result<u64> {
    let mut storm = Storm::begin(cluster, 0, count, to)?;
    storm.attach(cluster, name)?;

    storm.end()
}

/// Namespaces on one host that send as soon as that goes.
pub(super) struct Storm {
    host: usize,
    namespaces: Vec<String>,
    running: Running,
}

impl Storm {
    /// Makes the namespaces.
    pub(super) fn begin(cluster: &Cluster, host: usize, count: u32, to: &[String]) -> Result<Self> {
        let mut args = vec!["hostile".to_owned(), "storm".into(), "--namespaces".into()];
        args.push(count.to_string());
        for address in to {
            args.extend(["--to".to_owned(), address.clone()]);
        }
        let mut running = cluster.host(host).try_command("overlay-lab")?.args(args).spawn()?;
        wait_until(PATIENCE, "the namespaces are there", || {
            running.stdout().contains('\n') || !running.is_running()
        })?;
        let said = running.stdout();
        let first = said.lines().next().with_context(|| running.stderr())?;
        let namespaces = first.split_whitespace().skip(1).map(str::to_owned).collect();

        Ok(Self { host, namespaces, running })
    }

    /// Attaches all of them at once.
    pub(super) fn attach(&mut self, cluster: &Cluster, name: &str) -> Result<()> {
        let attach = cluster.host(self.host).try_command("sh")?.args(["-c", ATTACH, name]);
        attach.args(&self.namespaces).deadline(PATIENCE * 2).run()?;
        let running = &mut self.running;
        wait_until(PATIENCE, "all have sent", || {
            running.stdout().contains("sent ") || !running.is_running()
        })?;

        Ok(())
    }

    /// Returns how many there are.
    pub(super) fn count(&self) -> usize {
        self.namespaces.len()
    }

    /// Ends them; returns how many packets they sent.
    pub(super) fn end(self) -> Result<u64> {
        self.running.signal(Signal::SIGTERM)?;
        let output = self.running.wait(PATIENCE)?;
        let sent = output.stdout.lines().find_map(|line| line.strip_prefix("sent "));

        Ok(sent.with_context(|| output.stderr.clone())?.parse()?)
    }
}
