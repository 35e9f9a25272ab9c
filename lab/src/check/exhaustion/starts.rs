//! Containers that start one after another while something is wrong, with `overlayctl run` and with
//! Docker; each of them fetches a page by name.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use overlay_traffic::wait::rest;

use crate::command::CommandOutput;
use crate::docker::{DockerDaemon, IMAGE};
use crate::host::Host;

/// The network that Docker's containers are on.
pub(super) const DOCKER_NETWORK: &str = "dnet";
/// The page that containers fetch.
const PAGE: &str = "http://service:8080/hello";
/// The time between two starts.
const PAUSE: Duration = Duration::from_millis(100);

/// Where containers are started.
#[derive(Clone)]
pub(super) struct Starting {
    pub(super) host: Host,
    pub(super) engine: Option<DockerDaemon>,
    /// Texts of which a failed start must contain one; if there are none, no start may fail.
    pub(super) refusals: &'static [&'static str],
}

/// Containers that are started one after another until [`Starts::end`].
pub(super) struct Starts {
    is_over: Arc<AtomicBool>,
    runtimes: Vec<(&'static str, JoinHandle<Result<Count>>)>,
}

/// How many started, and how many failed as they may.
#[derive(Default)]
struct Count {
    started: usize,
    refused: usize,
}

impl Starts {
    /// Begins to start containers.
    pub(super) fn begin(starting: &Starting) -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let plain = ("run", Starting { engine: None, ..starting.clone() });
        let docker = starting.engine.is_some().then(|| ("Docker", starting.clone()));
        let runtimes = [Some(plain), docker].into_iter().flatten().map(|(name, starting)| {
            let is_over = Arc::clone(&is_over);
            (name, thread::spawn(move || starting.go_on_until(&is_over)))
        });

        Self { runtimes: runtimes.collect(), is_over }
    }

    /// Waits for the last containers to end, and describes how many there were.
    pub(super) fn end(self) -> Result<String> {
        self.is_over.store(true, Ordering::Relaxed);
        let mut told = Vec::new();
        for (name, runtime) in self.runtimes {
            let Ok(count) = runtime.join() else { bail!("the thread of {name} panicked") };
            let Count { started, refused } = count.with_context(|| format!("a start by {name}"))?;
            ensure!(started > 0, "no container of {name} started, {refused} were refused");
            told.push(format!("{started} starts by {name} ({refused} refused)"));
        }

        Ok(told.join(", "))
    }
}

impl Starting {
    fn go_on_until(&self, is_over: &AtomicBool) -> Result<Count> {
        let mut count = Count::default();
        while !is_over.load(Ordering::Relaxed) {
            let output = self.start(count.started + count.refused)?;
            if output.status.success() {
                count.started += 1;
            } else {
                let is_allowed = self.refusals.iter().any(|words| output.stderr.contains(words));
                ensure!(is_allowed, "failed after {count}: {}{}", output.stdout, output.stderr);
                count.refused += 1;
            }
            rest(PAUSE);
        }

        Ok(count)
    }

    fn start(&self, number: usize) -> Result<CommandOutput> {
        if let Some(engine) = &self.engine {
            let curl =
                ["run", "--rm", "--network", DOCKER_NETWORK, IMAGE, "curl", "-sS", "-m", "5", PAGE];
            return engine.docker(&curl)?.output();
        }
        let name = format!("start{number}");
        let run = ["run", "--network", "net", "--name", &name, "--", "overlay-lab", "fetch", PAGE];

        self.host.try_command("overlayctl")?.args(run).output()
    }
}

impl std::fmt::Display for Count {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} starts and {} refusals", self.started, self.refused)
    }
}
