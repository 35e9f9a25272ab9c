//! Small network programs for hosts and containers on which nothing else is installed.

pub(crate) mod capture;
pub(crate) mod change;
pub(crate) mod checksum;
pub(crate) mod crowd;
pub(crate) mod datagrams;
mod enrolled_node;
pub(crate) mod fetch;
pub(crate) mod fill;
pub(crate) mod flood;
pub(crate) mod flows;
pub(crate) mod forge;
pub(crate) mod hostile;
pub(crate) mod hostile_node;
pub(crate) mod http_server;
pub(crate) mod icmp;
pub(crate) mod initiations;
pub(crate) mod ping;
pub(crate) mod plugin;
pub(crate) mod processes;
pub(crate) mod questions;
mod search;
pub(crate) mod successor;
pub(crate) mod throughput;
pub(crate) mod uapi;
pub(crate) mod usage;

use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

static STOPPED: AtomicBool = AtomicBool::new(false);

extern "C" fn stop(_: i32) {
    STOPPED.store(true, Ordering::Relaxed);
}

/// Makes SIGINT and SIGTERM set a flag instead of ending the program, so that it can report its
/// results.
///
/// # Errors
///
/// If the kernel refuses.
#[expect(unsafe_code, reason = "a signal handler is installed")]
pub(crate) fn stop_on_signal() -> Result<()> {
    let action = SigAction::new(SigHandler::Handler(stop), SaFlags::empty(), SigSet::empty());
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        // SAFETY: the handler only stores to an atomic, which is allowed at any point of the
        // program.
        unsafe { sigaction(signal, &action) }.context("cannot handle signals")?;
    }

    Ok(())
}

/// Returns whether SIGINT or SIGTERM was received.
pub(crate) fn is_stopped() -> bool {
    STOPPED.load(Ordering::Relaxed)
}

/// Raises the limit of descriptors to what the system allows: tools that are many hosts at once
/// need more than a process may have by default.
///
/// # Errors
///
/// If the kernel refuses.
pub(crate) fn raise_descriptor_limit() -> Result<()> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;

    setrlimit(Resource::RLIMIT_NOFILE, most, most).context("cannot raise the limit of descriptors")
}

/// Resolves `host` with the system's resolver, within a deadline that the resolver itself does not
/// have.
///
/// # Errors
///
/// If the name is unknown, or nothing answers in time.
pub(crate) fn resolve(host: &str, within: Duration) -> Result<Vec<IpAddr>> {
    use std::net::ToSocketAddrs as _;

    let bare = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    if let Ok(address) = bare.parse() {
        return Ok(vec![address]);
    }

    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        sender.send((bare.as_str(), 0).to_socket_addrs().map(Iterator::collect::<Vec<_>>))
    });
    let found = receiver
        .recv_timeout(within)
        .with_context(|| format!("no name server answered for {host}"))?;
    let addresses: Vec<_> = found
        .with_context(|| format!("cannot resolve {host}"))?
        .into_iter()
        .map(|address| address.ip())
        .collect();
    if addresses.is_empty() {
        bail!("{host} has no address");
    }

    Ok(addresses)
}

/// Connects to the first of `addresses` that answers before `deadline`.
///
/// # Errors
///
/// If none does; the last error is returned.
pub(crate) fn connect(addresses: &[SocketAddr], deadline: Instant) -> Result<TcpStream> {
    let mut problem = None;
    for address in addresses {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break;
        }
        match TcpStream::connect_timeout(address, left) {
            Ok(stream) => return Ok(stream),
            Err(error) => {
                problem =
                    Some(anyhow::Error::new(error).context(format!("cannot connect to {address}")))
            }
        }
    }

    Err(problem.unwrap_or_else(|| anyhow::anyhow!("no answer in time")))
}
