//! `overlay-lab uapi`: configures a userspace WireGuard implementation, for comparisons and
//! interoperation.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

/// How long the implementation may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Sends standard input to the control socket of the interface `name` and prints the answer.
///
/// # Errors
///
/// If nothing is listening, or the answer is an error.
#[expect(clippy::print_stdout, reason = "this is a command line")]
pub(crate) fn run(name: &str) -> Result<()> {
    let mut request = String::new();
    std::io::stdin().read_to_string(&mut request)?;
    let path = format!("/var/run/wireguard/{name}.sock");
    let mut stream =
        UnixStream::connect(&path).with_context(|| format!("cannot connect to {path}"))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(request.as_bytes())?;

    let mut answer = Vec::new();
    let mut buffer = [0; 4096];
    // An answer ends with an empty line; the connection may stay open.
    while !answer.ends_with(b"\n\n") {
        match stream.read(&mut buffer).context("no answer")? {
            0 => break,
            length => answer.extend_from_slice(&buffer[..length]),
        }
    }
    let answer = String::from_utf8_lossy(&answer);
    print!("{answer}");
    ensure!(answer.contains("errno=0\n"), "{name} refuses its configuration");
    Ok(())
}
