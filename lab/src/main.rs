//! Hosts made of Linux namespaces, on this machine. All of it is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<_> = std::env::args_os().collect();

    overlay_lab::cli::main(&args)
}
