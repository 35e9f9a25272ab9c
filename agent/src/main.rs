//! `overlayd`: reads its arguments, tells its log to standard error, and runs the node.

use std::io::{IsTerminal as _, Write as _};
use std::path::Path;
use std::process::ExitCode;

use overlay_agent::config::{Arguments, Config, DEFAULT_FILE, Other};
use overlay_agent::descriptor_reserves::DescriptorReserves;
use overlay_agent::docker::plugin_proxy;
use overlay_agent::kernel::heap;
use overlay_agent::node::NodeEnd;
use overlay_agent::{Program, node, state};
use overlay_core::message;
use overlay_daemon::descriptors;
use overlay_daemon::log::{self, Log};
use overlay_host::config::{self, EXIT_CODE};

fn main() -> ExitCode {
    let arguments = match configured() {
        Ok(arguments) => arguments,
        Err(refused) => return refused,
    };
    // Before there is another thread: the log has one.
    let is_heap_shared = heap::share();
    // Before anything else is opened.
    let reserves = DescriptorReserves::new();
    let (filter, unknown) = log::filter();
    let log = match Log::start(filter, std::io::stderr().is_terminal()) {
        Ok(log) => log,
        Err(error) => {
            // Nobody is left to tell when standard error is closed.
            let _ = writeln!(std::io::stderr(), "overlayd: no thread for the log: {error}");
            return ExitCode::FAILURE;
        }
    };
    log.log_panics(state::panic_is_contained);
    if let Some(error) = unknown {
        tracing::warn!(%error, "OVERLAY_LOG is not a valid filter, logging info and above");
    }
    if !is_heap_shared {
        tracing::warn!("C library does not share one heap among threads, which costs memory");
    }
    if let Err(error) = descriptors::raise_limit() {
        tracing::warn!(%error, "Failed to raise the limit of open files");
    }

    let done = match arguments.other {
        Some(Other::PluginProxy(options)) => keep_door(options, reserves),
        None => run(arguments.config, log.clone(), reserves),
    };
    let code = match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{}", message::plain(format_args!("{error:#}")));
            ExitCode::FAILURE
        }
    };
    log.flush();

    code
}

/// Reads and checks everything that the agent is told; what is wrong, or that nothing is, is said
/// here.
fn configured() -> Result<Arguments, ExitCode> {
    let wrong = |error: &dyn std::fmt::Display| {
        // Nobody is left to be told when standard error is closed.
        let _ = writeln!(std::io::stderr(), "overlayd: {}", message::plain(error));
        ExitCode::from(EXIT_CODE)
    };
    let arguments: Arguments = config::parse(Path::new(DEFAULT_FILE), std::env::args_os())
        .map_err(|error| wrong(&error))?;
    arguments.config.check().map_err(|error| wrong(&error))?;
    if arguments.config.check_config {
        let _ = writeln!(std::io::stdout(), "the configuration is valid");
        return Err(ExitCode::SUCCESS);
    }

    Ok(arguments)
}

fn run(config: Config, log: Log, reserves: DescriptorReserves) -> anyhow::Result<()> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().thread_name("agent").build()?;

    let binary = std::env::current_exe()?;
    let program = Program { binary, arguments: std::env::args_os().collect() };
    let is_taking_over = config.take_over;
    match runtime.block_on(node::run(program, config, log.clone(), reserves)) {
        Ok(NodeEnd::Stopped) => Ok(()),
        Err(error) if is_taking_over => {
            let error = anyhow::Error::from(error);
            tracing::error!("{}", message::plain(format_args!("{error:#}")));
            log.flush();
            // What this process has is still the other's.
            std::process::exit(1);
        }
        Err(error) => Err(error.into()),
        Ok(NodeEnd::HandedOver) => {
            log.flush();
            // What this process would give back or remove is another's.
            std::process::exit(0);
        }
    }
}

fn keep_door(
    options: plugin_proxy::ProxyOptions,
    reserves: DescriptorReserves,
) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;

    runtime.block_on(plugin_proxy::run(options, reserves)).map_err(anyhow::Error::from)
}
