//! The log: lines enter a bounded queue, and one thread writes them to standard error.
//!
//! Logging neither blocks nor fails, whatever happens to standard error: a full disk, or a pipe
//! that nobody reads or that is closed. Failed writes are retried once a second; lines that do not
//! fit into the queue meanwhile are counted, and a line reports them as soon as it can be written.

mod queue;
mod sink;

use std::io;
use std::panic::PanicHookInfo;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use overlay_core::instant::rfc3339;
use tracing_subscriber::filter::{LevelFilter, ParseError, Targets};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::{Condition, unix_now};
use queue::Queue;
use sink::{Sink, StandardError};

/// How soon a failed write is retried.
const RETRY: Duration = Duration::from_secs(1);
/// How long writing the last lines may take when the process ends.
const FLUSH: Duration = Duration::from_secs(1);

/// The log of this process. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Log(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    queue: Mutex<Queue>,
    /// Signals that there is something to write.
    filled: Condvar,
    /// Signals that everything is written.
    emptied: Condvar,
}

impl Log {
    /// Makes this the log of the process: events of `tracing` that pass `filter` go to standard
    /// error.
    ///
    /// # Errors
    ///
    /// If no thread can be started.
    pub fn start(filter: Targets, ansi: bool) -> io::Result<Self> {
        let log = Self::to(StandardError::new())?;
        let lines = tracing_subscriber::fmt::layer()
            .with_writer(log.clone())
            .with_ansi(ansi)
            // Errors of formatting would be reported by a write to standard error that panics when
            // it fails.
            .log_internal_errors(false);
        tracing_subscriber::registry().with(lines).with(filter).init();

        Ok(log)
    }

    fn to(sink: impl Sink) -> io::Result<Self> {
        let log = Self::default();
        let shared = Arc::clone(&log.0);
        thread::Builder::new().name("log".to_owned()).spawn(move || shared.write_all_to(sink))?;

        Ok(log)
    }

    /// Logs panics, except those that `is_contained` says will be reported as an error.
    pub fn log_panics(&self, is_contained: fn() -> bool) {
        let log = self.clone();
        std::panic::set_hook(Box::new(move |panic: &PanicHookInfo<'_>| {
            if !is_contained() {
                tracing::error!(%panic, "Fault");
                // The process may end before the thread gets to write it.
                log.flush();
            }
        }));
    }

    /// Waits briefly until everything is written, and not at all while nothing can be written.
    pub fn flush(&self) {
        let idle = |queue: &mut Queue| !queue.is_idle() && queue.error().is_none();

        drop(self.0.emptied.wait_timeout_while(self.0.lock(), FLUSH, idle));
    }

    /// Returns a condition while lines cannot be written.
    pub fn condition(&self) -> Option<Condition> {
        self.0.lock().condition(Instant::now())
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_all_to(&self, mut sink: impl Sink) {
        loop {
            let lines = self.next_lines();
            let mut rest = &lines[..];
            while !rest.is_empty() {
                match sink.write(rest) {
                    Ok(written) => rest = &rest[written.min(rest.len())..],
                    Err(error) => self.pause(&error),
                }
            }
        }
    }

    /// Waits for lines. After a loss, the first one reports it.
    fn next_lines(&self) -> Vec<u8> {
        let mut queue = self.lock();
        queue.written();
        if let Some(losses) = queue.take_losses() {
            queue.begin(Instant::now());
            return format!(
                "{}  WARN overlay_daemon::log: Lost lines of this log lost={} since={} why={:?}\n",
                rfc3339(unix_now()),
                losses.lines,
                rfc3339(losses.since),
                losses.why
            )
            .into_bytes();
        }
        self.emptied.notify_all();
        let mut queue = self
            .filled
            .wait_while(queue, |queue| queue.is_empty())
            .unwrap_or_else(PoisonError::into_inner);
        queue.begin(Instant::now());

        queue.take()
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "nothing tells when a disk has room again, or a pipe a reader"
    )]
    fn pause(&self, error: &io::Error) {
        self.lock().failed(error, unix_now());
        self.emptied.notify_all();
        thread::sleep(RETRY);
    }
}

/// A line being written into the queue.
#[derive(Debug)]
pub struct Line<'a>(&'a Shared);

impl<'a> MakeWriter<'a> for Log {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        Line(&self.0)
    }
}

impl io::Write for Line<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.lock().push(line, unix_now());
        self.0.filled.notify_one();

        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The environment variable that sets the log filter.
pub const VARIABLE: &str = "OVERLAY_LOG";

/// Reads the log filter from [`VARIABLE`]; the default is `info`, also for a value that is not a
/// valid filter, whose error is the second value.
///
/// Filters on spans are not supported: they would add a regular expression engine to every program.
pub fn filter() -> (Targets, Option<ParseError>) {
    read_filter(&std::env::var_os(VARIABLE).unwrap_or_default().to_string_lossy())
}

fn read_filter(text: &str) -> (Targets, Option<ParseError>) {
    let usual = || Targets::new().with_default(LevelFilter::INFO);
    if text.is_empty() {
        return (usual(), None);
    }

    match text.parse() {
        Ok(filter) => (filter, None),
        Err(error) => (usual(), Some(error)),
    }
}

#[cfg(test)]
#[path = "log_tests.rs"]
mod tests;
