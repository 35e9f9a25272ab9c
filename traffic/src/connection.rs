//! Finding and reaching the other end within a deadline.

use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

/// Resolves `host` with the system's resolver, within a deadline that the resolver itself does not
/// have.
///
/// # Errors
///
/// If the name is unknown, or nothing answers in time.
pub fn resolve(host: &str, within: Duration) -> Result<Vec<IpAddr>> {
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
pub fn connect(addresses: &[SocketAddr], deadline: Instant) -> Result<TcpStream> {
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
