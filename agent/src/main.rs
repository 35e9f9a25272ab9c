//! `overlayd`: reads its arguments, tells its log to standard error, and runs the node.

use std::io::IsTerminal as _;
use std::process::ExitCode;

use clap::Parser as _;
use overlay_agent::config::{Arguments, Config, Other};
use overlay_agent::docker::door;
use overlay_agent::kernel::heap;
use overlay_agent::{node, state};
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let filter = EnvFilter::try_from_env("OVERLAY_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    std::panic::set_hook(Box::new(|panic| {
        if !state::panic_is_contained() {
            tracing::error!(%panic, "Fault in the agent");
        }
    }));

    let done = match arguments.other {
        Some(Other::Door(options)) => keep_door(options),
        None => run(arguments.config),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(config: Config) -> anyhow::Result<()> {
    config.check()?;
    heap::share();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().thread_name("agent").build()?;

    runtime.block_on(node::run(config)).map_err(anyhow::Error::from)
}

fn keep_door(options: door::Options) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;

    runtime.block_on(door::run(options)).map_err(anyhow::Error::from)
}
