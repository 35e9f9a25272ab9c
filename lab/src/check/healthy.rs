//! A normal day: containers start, fetch a page by name and end, agents and control are restarted
//! now and then, and no host ever reports a problem.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use overlay_traffic::wait::rest;

use super::Notes;
use crate::cluster::Cluster;
use crate::command::Running;
use crate::host::Host;

/// The number of hosts.
const HOSTS: usize = 8;
/// The number of hosts if there is only one round.
const FEW: usize = 3;
/// How long a round takes if there is only one; otherwise it takes a minute.
const SHORT: Duration = Duration::from_secs(30);
/// The networks that containers are started on, in turn.
const NETWORKS: [&str; 2] = ["red", "blue"];
/// How often each host is asked whether it has problems, and how often it starts a container.
const LOOK: Duration = Duration::from_secs(5);
const VISIT: Duration = Duration::from_secs(3);
/// The interval at which daemons are killed and restarted, one at a time; one of them is control.
const RESTART: Duration = Duration::from_secs(40);
const SHORT_RESTART: Duration = Duration::from_secs(10);
/// Milliseconds between two echoes from each host to the next one.
const PACE: &str = "200";
/// The exit codes of `overlayctl` for problems, and for an agent that does not answer.
const PROBLEMS: i32 = 1;
const NO_AGENT: i32 = 3;
/// An agent that takes longer than this to restart is silent, and others are right to report it.
const SILENT: Duration = Duration::from_secs(5);
/// How soon its path must be reported as up again.
const BACK: Duration = Duration::from_secs(2);

pub(super) fn run(minutes: u32, notes: &mut Notes) -> Result<()> {
    let (hosts, long, restart) = match minutes {
        1 => (FEW, SHORT, SHORT_RESTART),
        _ => (HOSTS, Duration::from_secs(60) * minutes, RESTART),
    };
    let mut cluster = Cluster::new(hosts)?;
    let residents = move_in(&cluster)?;
    let days: Vec<_> =
        cluster.lab().hosts().iter().map(|host| Day::of(host.clone(), hosts)).collect();

    let is_over = AtomicBool::new(false);
    let restarts = thread::scope(|scope| {
        let (is_over, days) = (&is_over, &days);
        for day in days {
            scope.spawn(move || day.visit_until(is_over));
            scope.spawn(move || day.look_until(days, is_over));
        }
        let restarts = restart_for(&mut cluster, days, long, restart);
        is_over.store(true, Ordering::Relaxed);
        restarts
    })?;

    judge(&days, hosts, long, restarts, notes)?;
    drop(residents);
    cluster.finish()
}

/// Starts a server on each host and network, and echoes from each host to the next.
fn move_in(cluster: &Cluster) -> Result<Vec<Running>> {
    let hosts = cluster.lab().hosts().len();
    let mut residents = Vec::new();
    for network in NETWORKS {
        cluster.ctl(0, &["network", "create", network])?;
        for host in 0..hosts {
            residents.push(cluster.serve_http(host, network, &server(host))?);
        }
    }
    for host in 0..hosts {
        let next = server((host + 1) % hosts);
        let ping = ["ping", "--quiet", "--count=0", "--interval-ms", PACE, &next];
        residents.push(
            cluster.container(host, NETWORKS[0], &format!("echo{host}"))?.args(ping).spawn()?,
        );
    }

    Ok(residents)
}

fn server(host: usize) -> String {
    format!("server{host}")
}

/// Kills and restarts daemons, one at a time: agents in turn, and control as the second.
fn restart_for(
    cluster: &mut Cluster,
    days: &[Day],
    long: Duration,
    every: Duration,
) -> Result<usize> {
    let begin = Instant::now();
    let mut restarts = 0;
    while begin.elapsed() + every < long {
        rest(every);
        if restarts == 1 {
            let control = cluster.control()?;
            control.kill()?;
            cluster.restart(&control)?;
        } else {
            let host = restarts % days.len();
            let agent = cluster.agent(host)?;
            let _alone = days[host].alone();
            days[host].restart_begins();
            agent.kill()?;
            cluster.restart(&agent)?;
            cluster.wait_for_agent(host)?;
            days[host].restart_ends();
        }
        restarts += 1;
    }
    rest(long.saturating_sub(begin.elapsed()));

    Ok(restarts)
}

/// When an agent was killed, and when it answered again.
#[derive(Clone, Copy)]
struct Restart {
    begun: Instant,
    ended: Option<Instant>,
}

/// The events on one host.
struct Day {
    host: Host,
    hosts: usize,
    /// Held while a container starts and while the agent is restarted, so that they exclude each
    /// other.
    door: Mutex<()>,
    /// The last restart of its agent.
    restart: Mutex<Option<Restart>>,
    visits: AtomicUsize,
    looks: AtomicUsize,
    /// How many requests during a restart of the agent got no answer.
    unanswered: AtomicUsize,
    /// How many requests rightly reported another agent, which took long to restart, as silent.
    told: AtomicUsize,
    failed: Mutex<Vec<String>>,
}

impl Day {
    fn of(host: Host, hosts: usize) -> Self {
        Self {
            host,
            hosts,
            door: Mutex::default(),
            restart: Mutex::default(),
            visits: AtomicUsize::default(),
            looks: AtomicUsize::default(),
            unanswered: AtomicUsize::default(),
            told: AtomicUsize::default(),
            failed: Mutex::default(),
        }
    }

    fn alone(&self) -> MutexGuard<'_, ()> {
        self.door.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn restart_begins(&self) {
        *self.restart() = Some(Restart { begun: Instant::now(), ended: None });
    }

    fn restart_ends(&self) {
        if let Some(restart) = self.restart().as_mut() {
            restart.ended = Some(Instant::now());
        }
    }

    fn restart(&self) -> MutexGuard<'_, Option<Restart>> {
        self.restart.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns whether the agent is being restarted.
    fn is_away(&self) -> bool {
        self.restart().is_some_and(|restart| restart.ended.is_none())
    }

    /// Returns whether others may report that nothing arrives from this host.
    fn is_missed(&self) -> bool {
        self.restart().is_some_and(|restart| {
            let ended = restart.ended.unwrap_or_else(Instant::now);
            ended - restart.begun >= SILENT && ended.elapsed() <= BACK
        })
    }

    fn fail(&self, what: String) {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner).push(what);
    }

    fn visit_until(&self, is_over: &AtomicBool) {
        while !is_over.load(Ordering::Relaxed) {
            let number = self.visits.load(Ordering::Relaxed);
            if let Err(error) = self.visit(number) {
                self.fail(format!("container {number} of {}: {error:#}", self.host.name()));
            }
            self.visits.fetch_add(1, Ordering::Relaxed);
            rest(VISIT);
        }
    }

    /// Starts a container that fetches a page by name from a server of any host, and ends.
    fn visit(&self, number: usize) -> Result<()> {
        let _alone = self.alone();
        let network = NETWORKS[number % NETWORKS.len()];
        let server = server(rand::random_range(0..self.hosts));
        let name = format!("visitor-{}-{number}", self.host.name());
        let url = format!("http://{server}:8080/hello");
        let run =
            ["run", "--network", network, "--name", &name, "--", "overlay-lab", "fetch", &url];
        let answer = self.host.try_command("overlayctl")?.args(run).run()?.stdout;
        ensure!(answer == format!("hello from {server}\n"), "{server} said: {answer}");

        Ok(())
    }

    fn look_until(&self, days: &[Self], is_over: &AtomicBool) {
        while !is_over.load(Ordering::Relaxed) {
            if let Err(error) = self.look(days) {
                self.fail(format!("{}: {error:#}", self.host.name()));
            }
            self.looks.fetch_add(1, Ordering::Relaxed);
            rest(LOOK);
        }
    }

    /// Asks whether there are problems. Only an agent that is being restarted may fail to answer,
    /// and only one that takes long to restart may be reported by others.
    fn look(&self, days: &[Self]) -> Result<()> {
        let was_away = self.is_away();
        let output =
            self.host.try_command("overlayctl")?.args(["status", "--check", "--json"]).output()?;
        if output.status.success() {
            return Ok(());
        }
        let is_unanswered = output.status.code() == Some(NO_AGENT);
        if is_unanswered && (was_away || self.is_away()) {
            self.unanswered.fetch_add(1, Ordering::Relaxed);
            return Ok(());
        }
        let status: serde_json::Value = serde_json::from_str(&output.stdout).unwrap_or_default();
        let names_only_missed = |problem: &serde_json::Value| {
            let text = problem["text"].as_str().unwrap_or_default();
            let named = days.iter().filter(|day| text.contains(&format!("{} (", day.host.name())));

            problem["code"] == "peer-silent"
                && named.clone().count() > 0
                && named.clone().all(Self::is_missed)
        };
        let problems = status["problems"].as_array().cloned().unwrap_or_default();
        let is_right =
            output.status.code() == Some(PROBLEMS) && problems.iter().all(names_only_missed);
        ensure!(
            is_right && !problems.is_empty(),
            "{}: {problems:?}{}",
            output.status,
            output.stderr
        );
        self.told.fetch_add(1, Ordering::Relaxed);

        Ok(())
    }
}

fn judge(
    days: &[Day],
    hosts: usize,
    long: Duration,
    restarts: usize,
    notes: &mut Notes,
) -> Result<()> {
    let sum = |count: fn(&Day) -> &AtomicUsize| -> usize {
        days.iter().map(|day| count(day).load(Ordering::Relaxed)).sum()
    };
    let failed = |day: &Day| day.failed.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let failures: Vec<_> = days.iter().flat_map(failed).collect();
    let (looks, visits) = (sum(|day| &day.looks), sum(|day| &day.visits));
    let minutes = u64::try_from(hosts)? * long.as_secs() / 60;
    notes.say(&format!(
        "{minutes} host-minutes on {hosts} hosts: {looks} looks, {} of them at an agent that was being started and {} that missed one \
         for more than {} s, \
         {visits} containers that fetched and went, {restarts} restarts, {} failures",
        sum(|day| &day.unanswered),
        sum(|day| &day.told),
        SILENT.as_secs(),
        failures.len()
    ));

    ensure!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
    ensure!(looks > 0 && visits > 0 && restarts > 1, "nothing happened");
    Ok(())
}
