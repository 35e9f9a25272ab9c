//! `overlayd`: reads its arguments, tells its log to standard error, and runs the node.

use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;

use clap::Parser as _;
use overlay_agent::config::{Arguments, Config, Other};
use overlay_agent::docker::door;
use overlay_agent::kernel::heap;
use overlay_agent::{node, state};
use overlay_daemon::log::{self, Log};
use overlay_daemon::{descriptors, descriptors::Descriptors};

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    // Before anything else is opened.
    let descriptors = Descriptors::new();
    let (filter, unknown) = log::filter(&["OVERLAY_LOG", "RUST_LOG"]);
    let log = match Log::start(filter, std::io::stderr().is_terminal()) {
        Ok(log) => log,
        Err(error) => {
            // Nobody is left to tell when standard error is closed.
            let _ = writeln!(std::io::stderr(), "overlayd: no thread for the log: {error}");
            return ExitCode::FAILURE;
        }
    };
    log.take_panics(state::panic_is_contained);
    if let Some(variable) = unknown {
        tracing::warn!(variable, "What is to be logged is not understood, logging info and above");
    }
    if let Err(error) = descriptors::raise_limit() {
        tracing::warn!(%error, "Failed to raise the limit of open files");
    }

    let done = match arguments.other {
        Some(Other::Door(options)) => keep_door(options),
        None => run(arguments.config, log.clone(), descriptors),
    };
    let code = match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    };
    log.flush();

    code
}

fn run(config: Config, log: Log, descriptors: Descriptors) -> anyhow::Result<()> {
    config.check()?;
    heap::share();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().thread_name("agent").build()?;

    runtime.block_on(node::run(config, log, descriptors)).map_err(anyhow::Error::from)
}

fn keep_door(options: door::Options) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;

    runtime.block_on(door::run(options)).map_err(anyhow::Error::from)
}
