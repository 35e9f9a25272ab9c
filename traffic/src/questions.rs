//! `questions`: floods the first name server of this host or container with questions,
//! over UDP and TCP, as fast as it can.

use std::fs;
use std::io::Write as _;
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::announcement::announce;
use crate::signal::{is_stopped, stop_on_signal};

/// The output once the flood goes on.
pub const ASKING: &str = "asking";
/// The file that names the name server.
const RESOLVERS: &str = "/etc/resolv.conf";
/// Sockets that questions come from.
const SOCKETS: usize = 16;
/// TCP connections that are held at a time; the oldest gives way.
const STREAMS: usize = 64;
/// How many questions are sent between two looks at the rest.
const AT_ONCE: usize = 1_024;
/// How long a TCP connection may take.
const CONNECT: Duration = Duration::from_millis(20);

/// Options of `questions`.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Seconds that it goes on
    #[arg(long)]
    seconds: u64,
    /// Ask for this name, and for others below it
    #[arg(long, default_value = "flood.example")]
    name: String,
}

/// Asks until the time is up or it is stopped, and prints how many questions were sent and
/// answered.
///
/// # Errors
///
/// If no name server is configured.
#[expect(clippy::print_stdout, reason = "this is a command line")]
pub fn run(options: &Options) -> Result<()> {
    stop_on_signal()?;
    let server = SocketAddr::new(name_server()?, 53);
    let sockets: Vec<_> = (0..SOCKETS).map(|_| socket(server)).collect::<Result<_>>()?;
    announce(ASKING)?;
    let ends = Instant::now() + Duration::from_secs(options.seconds);
    let (mut streams, mut sent, mut answered) = (Vec::new(), 0_u64, 0_u64);
    let mut buffer = [0; 512];
    while Instant::now() < ends && !is_stopped() {
        for number in 0..AT_ONCE {
            let question = question(&options.name, sent);
            let socket = &sockets[number % SOCKETS];
            // What the kernel drops was no question.
            sent += u64::from(socket.send(&question).is_ok());
            answered += u64::from(socket.recv(&mut buffer).is_ok());
        }
        if let Ok(mut stream) = TcpStream::connect_timeout(&server, CONNECT) {
            // A length and no message.
            let _ = stream.write_all(&[0xFF, 0xFF]);
            streams.push(stream);
        }
        streams.drain(..streams.len().saturating_sub(STREAMS));
    }
    println!("{sent} questions sent, {answered} answered");

    Ok(())
}

fn socket(server: SocketAddr) -> Result<UdpSocket> {
    let any: IpAddr = match server {
        SocketAddr::V4(_) => [0; 4].into(),
        SocketAddr::V6(_) => [0; 16].into(),
    };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(server)?;
    socket.set_nonblocking(true)?;

    Ok(socket)
}

fn name_server() -> Result<IpAddr> {
    let text = fs::read_to_string(RESOLVERS).with_context(|| format!("cannot read {RESOLVERS}"))?;
    let server =
        text.lines().find_map(|line| line.strip_prefix("nameserver ")?.trim().parse().ok());

    server.with_context(|| format!("{RESOLVERS} names no server"))
}

/// Makes a question for an address: every other one for a name of its own, which no cache knows.
fn question(name: &str, number: u64) -> Vec<u8> {
    let [_, _, _, _, _, _, high, low] = number.to_be_bytes();
    // An id, recursion desired, one question (RFC 1035, section 4.1.1).
    let mut bytes = vec![high, low, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    let own = format!("q{number}");
    let labels = (number % 2 == 1).then_some(own.as_str()).into_iter().chain(name.split('.'));
    for label in labels.filter(|label| !label.is_empty() && label.len() < 64) {
        bytes.push(u8::try_from(label.len()).unwrap_or(63));
        bytes.extend(label.as_bytes());
    }
    bytes.extend([0, 0, 1, 0, 1]);

    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_is_one_for_an_address_in_the_internet() {
        let text = b"\x07service\0\0\x01\0\x01";

        assert!(question("service", 2).ends_with(text));
        assert!(question("service", 3).ends_with(text));
        assert!(question("service", 3)[12..].starts_with(b"\x02q3"));
    }
}
