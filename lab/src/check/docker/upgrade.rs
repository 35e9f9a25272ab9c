//! Agents are replaced by new ones while Docker works: no command fails, names are found
//! throughout, and containers keep what they have.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::pair::Pair;
use crate::check::upgrade::upgrade;
use crate::check::{Notes, PATIENCE, ms, percentile};
use crate::command::Running;
use crate::docker::IMAGE;
use crate::wait_until;

/// The file by which those at work are told to finish.
const FINISH: &str = "/run/finish";
/// How long somebody at work may take to finish.
const LAST_COMMAND: Duration = Duration::from_secs(60);
/// How many things each worker has done before the first upgrade, and between two.
const PACE: usize = 1;

/// What goes on all the time on the host whose agent is replaced, as one command each. `$n` counts.
const WORK: [(&str, &str); 4] = [
    (
        "containers",
        "docker run --rm --network net IMAGE curl -sS -m 5 -o /dev/null anchor2:8080/hello",
    ),
    ("fetches by name", "docker exec anchor1 curl -sS -m 5 -o /dev/null anchor2:8080/hello"),
    ("networks", "docker network create -d overlay-wg scratch$n && docker network rm scratch$n"),
    (
        "questions",
        "nsenter --net=NETNS dig +short +time=2 +tries=1 @127.0.0.11 anchor2 | grep -x ADDRESS",
    ),
];

/// A round is an upgrade of host1's agent.
pub(in crate::check) fn run(rounds: u32, notes: &mut Notes) -> Result<()> {
    let pair = Pair::new(notes, false)?;
    pair.create_on_both(&["net"])?;
    for (host, name) in [(0, "anchor1"), (1, "anchor2"), (0, "before")] {
        pair.serve(host, "net", name)?;
    }
    pair.reaches(0, "anchor1", "anchor2")?;
    let door = door(&pair)?;
    let flow = pair.flow(0, "anchor1", &pair.cluster.address_of(0, "anchor2")?)?;

    let mut workers =
        WORK.iter().map(|work| Worker::start(&pair, *work)).collect::<Result<Vec<_>>>()?;
    let (mut took, mut starts) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        at_work(&mut workers)?;
        let (upgrade, start) =
            replace(&pair, round).with_context(|| format!("upgrade {}", round + 1))?;
        took.push(upgrade);
        starts.push(start);
    }
    at_work(&mut workers)?;
    pair.cluster.host(0).try_command("touch")?.arg(FINISH).run()?;
    // All of them are heard before any failure is reported.
    let ended: Vec<_> = workers.into_iter().map(|worker| worker.end(notes)).collect();
    let echoes = flow.unbroken();
    notes.say(&format!(
        "{rounds} upgrades took {} at p50, {} at most; a container begun with one starts in {} at most",
        ms(percentile(&took, 50)),
        ms(percentile(&took, 100)),
        ms(percentile(&starts, 100))
    ));
    ended.into_iter().collect::<Result<()>>()?;
    notes.say(&format!("{} echoes, none lost", echoes?));
    ensure!(self::door(&pair)? == door, "the door was begun again");
    pair.cluster.host(0).try_command("rm")?.arg(FINISH).run()?;

    pair.finish()
}

/// Replaces host1's agent while a container starts, and checks that containers are named and
/// reached, and answered; returns how long the upgrade and the container's start took.
fn replace(pair: &Pair, round: u32) -> Result<(Duration, Duration)> {
    let (during, after) = (format!("during{round}"), format!("after{round}"));
    let begin = ["run", "-d", "--stop-timeout", "1", "--network", "net", "--name", &during, IMAGE];
    let starting = pair.engines[0].docker(&begin)?.spawn()?;
    let (_, took) = upgrade(&pair.cluster, 0)?;
    // At once: names that are known are known to the next agent, too.
    for asker in ["anchor1", "before"] {
        pair.fetch(0, asker, "http://anchor2:8080/hello")
            .with_context(|| format!("{asker} at once"))?;
    }
    let started = starting.wait(PATIENCE)?;
    ensure!(started.status.success(), "{during} did not start: {}", started.stderr);
    pair.serve(0, "net", &after)?;
    for name in [&during, &after] {
        pair.reaches(0, name, "anchor2")?;
        pair.reaches(1, "anchor2", name)?;
    }
    pair.reaches(1, "anchor2", "before")?;
    pair.docker(0, &["rm", "-f", &during, &after])?;

    Ok((took, started.elapsed))
}

/// Returns the process that has the plugin's socket.
fn door(pair: &Pair) -> Result<String> {
    let note =
        pair.cluster.host(0).try_command("cat")?.arg("/var/lib/overlay/overlay-door.pid").run()?;

    Ok(note.stdout)
}

/// Waits until each has done something more.
fn at_work(workers: &mut [Worker]) -> Result<()> {
    for worker in workers {
        let goal = worker.done() + PACE;
        wait_until(LAST_COMMAND, "everybody is at work", || worker.done() >= goal)
            .with_context(|| format!("{}: {}", worker.what, worker.running.stderr()))?;
    }

    Ok(())
}

/// Somebody who does the same over and over until told to finish.
struct Worker {
    what: &'static str,
    running: Running,
}

impl Worker {
    fn start(pair: &Pair, (what, command): (&'static str, &str)) -> Result<Self> {
        let command =
            command.replace("IMAGE", IMAGE).replace("NETNS", &pair.namespace(0, "anchor1")?);
        let command = command.replace("ADDRESS", &pair.cluster.address_of(0, "anchor2")?);
        // Milliseconds of each command that succeeds; the words of each that does not.
        let script = format!(
            "n=0; while [ ! -e {FINISH} ]; do n=$((n+1)); t=$(date +%s%3N); \
             if said=$({{ {command}; }} 2>&1); then echo $(($(date +%s%3N)-t)); \
             else echo \"$n failed after $(($(date +%s%3N)-t)) ms: $said\" >&2; sleep 0.1; fi; done"
        );

        Ok(Self { what, running: pair.engines[0].shell(&script)?.spawn()? })
    }

    /// Returns how often it has succeeded so far.
    fn done(&self) -> usize {
        self.running.stdout().lines().count()
    }

    fn end(self, notes: &mut Notes) -> Result<()> {
        let said = self.running.wait(LAST_COMMAND).context(self.what)?;
        let millis = said.stdout.lines().map(|line| Ok(Duration::from_millis(line.parse()?)));
        let times = millis.collect::<Result<Vec<_>>>().context(self.what)?;
        let failed = said.stderr.lines().filter(|line| line.contains(" failed after ")).count();
        notes.say(&format!(
            "{}: {} done, {failed} failed; p50 {}, at most {}",
            self.what,
            times.len(),
            ms(percentile(&times, 50)),
            ms(percentile(&times, 100))
        ));

        ensure!(failed == 0, "{}: {failed} failed:\n{}", self.what, said.stderr);
        Ok(())
    }
}
