//! What whoever started a program waits for.

use std::fmt::Display;
use std::io::Write as _;

use anyhow::{Context as _, Result};

/// Writes a line to standard output at once, even where that is a pipe.
///
/// # Errors
///
/// If it cannot be written.
pub fn announce(line: impl Display) -> Result<()> {
    let mut output = std::io::stdout().lock();
    writeln!(output, "{line}")
        .and_then(|()| output.flush())
        .context("cannot write to standard output")
}

/// Tells where a program listens.
///
/// # Errors
///
/// If it cannot be written.
pub(crate) fn announce_listener(address: std::net::SocketAddr) -> Result<()> {
    announce(format_args!("listening on {address}"))
}
