//! The command line of Overlay: reads what was asked, calls the agent on its local socket, and says
//! what came of it.
//!
//! No decision about the overlay is made here; the agent and control make them.

mod addresses;
mod cli;
mod client;
mod cmd;
mod confirm;
mod failure;
mod join_text;
mod output;
mod pidfd;
mod policy_text;
mod runtime_files;
mod sandbox;
mod setup;
mod spawn;
mod state;
mod time;
mod usage;
mod values;
mod view;
mod wait;

use std::process::ExitCode;

use clap::Parser;

use crate::cli::Cli;
use crate::cmd::Context;
use crate::output::{Form, Output};

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage::answer(&error),
    };
    let output = match Output::of_process(&cli.global.form) {
        Ok(output) => output,
        Err(failure) => return Output::plain(Form::Json).fail(&failure),
    };
    let context = Context { socket: cli.global.socket, output };
    // One thread: `run` moves the process into new namespaces, which the kernel does a thread at a
    // time.
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            return context
                .output
                .fail(&failure::storage("the runtime cannot start", &error).into());
        }
    };

    match runtime.block_on(cli::dispatch(cli.command, &context)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => context.output.fail(&failure),
    }
}
