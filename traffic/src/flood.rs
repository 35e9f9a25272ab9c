//! `flood`: how many datagrams of one size arrive per second with less than 1 % loss.
//!
//! The sender sends at some rate for a moment, asks how many arrived, and searches for the highest
//! rate with almost no loss. With `--trains` it passes up to 64 datagrams to the system per call,
//! as QUIC implementations do (`UDP_SEGMENT`).

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::socket::{setsockopt, sockopt};
use serde::{Deserialize, Serialize};

use crate::announcement::announce_listener;
use crate::connection::resolve;
use crate::search::{RateResult, Search};
use crate::signal::{is_stopped, stop_on_signal};

/// The header: the number of the step, the kind of the datagram, and the size of each datagram.
const HEADER: usize = 8;
/// The kind of a datagram that is counted.
const COUNT: u8 = 0;
/// The kind of a datagram that asks how many arrived.
const ASK: u8 = 1;
/// How many datagrams are sent or received at a time.
const AT_ONCE: usize = 64;
/// The longest datagram, in bytes.
const LONGEST: usize = 65_507;
/// The size of the socket buffers in bytes: bursts must be lost in the tunnel or not at all.
const BUFFER: usize = 4 << 20;
/// How long an answer may take before it is requested again.
const REPEAT: Duration = Duration::from_millis(100);
/// How long a step may wait for its answer, which is longer than a queue of 4,000 datagrams takes.
const PATIENCE: Duration = Duration::from_secs(3);
/// A slow first step, which makes sessions and fills caches.
const WARM_UP: (f64, Duration) = (2000.0, Duration::from_millis(300));

/// The two ends.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum End {
    /// Receive and count, until killed
    Serve {
        /// Address and port to listen on; trains are received on the port after it
        #[arg(long, value_name = "ADDR:PORT", default_value = "0.0.0.0:5203")]
        listen: SocketAddr,
    },
    /// Search for the highest rate
    Client(Options),
}

/// Options of `flood client`.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Address or name of the other end
    host: String,
    /// Its port
    #[arg(long, default_value_t = 5203)]
    port: u16,
    /// Payload of each datagram, in bytes
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(16..=9000))]
    size: u16,
    /// Seconds of each step of the search
    #[arg(long, default_value_t = 0.4)]
    step_seconds: f64,
    /// Pass many datagrams to the system per call
    #[arg(long)]
    trains: bool,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

/// The result of a client.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Summary {
    /// The payload of each datagram, in bytes.
    pub size: u16,
    /// The highest rate that arrived with less than 1 % loss.
    pub datagrams_per_second: f64,
    /// The same rate, as payload.
    pub gbit_per_second: f64,
    /// How many steps the search took.
    pub steps: u32,
}

/// Runs one end.
///
/// # Errors
///
/// If there is no socket, or nothing answers.
pub fn run(end: &End) -> Result<()> {
    match end {
        End::Serve { listen } => serve(*listen),
        End::Client(options) => client(options),
    }
}

fn serve(listen: SocketAddr) -> Result<()> {
    let singles = open(listen).with_context(|| format!("cannot listen on {listen}"))?;
    let behind = SocketAddr::new(listen.ip(), singles.local_addr()?.port() + 1);
    let trains = open(behind).with_context(|| format!("cannot listen on {behind}"))?;
    setsockopt(&trains, sockopt::UdpGroSegment, &true).context("cannot take trains")?;
    announce_listener(singles.local_addr()?)?;

    std::thread::spawn(move || count(&trains, 8, LONGEST));
    count(&singles, AT_ONCE, 9216)
}

/// Counts the datagrams of each step and answers requests.
fn count(socket: &UdpSocket, at_once: usize, longest: usize) -> Result<()> {
    let mut received = Received::new(at_once, longest);
    let mut current = (0, 0_u64);
    loop {
        let count = received.fill(socket)?;
        for index in 0..count {
            let Some((step, kind, size)) = parse(received.datagram(index)) else { continue };
            if step != current.0 {
                current = (step, 0);
            }
            if kind == COUNT {
                current.1 += received.datagram(index).len().div_ceil(size) as u64;
            } else if let Some(from) = received.sender(index) {
                let mut answer = [0; 12];
                answer[..4].copy_from_slice(&step.to_be_bytes());
                answer[4..].copy_from_slice(&current.1.to_be_bytes());
                // The client asks again if this is lost.
                let _ = socket.send_to(&answer, from);
            }
        }
    }
}

fn parse(datagram: &[u8]) -> Option<(u32, u8, usize)> {
    let [a, b, c, d, kind, _, high, low] = *datagram.first_chunk::<HEADER>()?;

    Some((
        u32::from_be_bytes([a, b, c, d]),
        kind,
        usize::from(u16::from_be_bytes([high, low])).max(1),
    ))
}

fn header(step: u32, kind: u8, size: u16) -> [u8; HEADER] {
    let ([a, b, c, d], [high, low]) = (step.to_be_bytes(), size.to_be_bytes());

    [a, b, c, d, kind, 0, high, low]
}

fn open(address: SocketAddr) -> Result<UdpSocket> {
    let socket = UdpSocket::bind(address)?;
    // Without the privilege the system's limit applies.
    let _ = setsockopt(&socket, sockopt::RcvBufForce, &BUFFER);
    let _ = setsockopt(&socket, sockopt::SndBufForce, &BUFFER);

    Ok(socket)
}

#[expect(clippy::print_stdout, reason = "this is a command line")]
fn client(options: &Options) -> Result<()> {
    stop_on_signal()?;
    let address = *resolve(&options.host, PATIENCE)?.first().context("the name has no address")?;
    let port = options.port + u16::from(options.trains);
    let mut sender = Sender::new(SocketAddr::new(address, port), options)?;
    sender.step(WARM_UP.0, WARM_UP.1)?;

    let duration = Duration::try_from_secs_f64(options.step_seconds)?;
    let mut search = Search::new();
    while let Some(rate) = search.rate()
        && !is_stopped()
    {
        search.note(sender.step(rate, duration)?);
    }

    let rate = search.best();
    let summary = Summary {
        size: options.size,
        datagrams_per_second: rate,
        gbit_per_second: rate * f64::from(options.size) * 8.0 / 1e9,
        steps: search.steps(),
    };
    if options.json {
        println!("{}", serde_json::to_string(&summary)?);
    } else {
        println!(
            "{:.0} datagrams of {} bytes a second, {:.3} Gbit/s, found in {} steps",
            summary.datagrams_per_second, summary.size, summary.gbit_per_second, summary.steps
        );
    }
    Ok(())
}

struct Sender {
    socket: UdpSocket,
    size: u16,
    /// How many datagrams one message contains.
    train: usize,
    number: u32,
    burst: Vec<u8>,
}

impl Sender {
    fn new(to: SocketAddr, options: &Options) -> Result<Self> {
        let any = if to.is_ipv6() { "[::]:0" } else { "0.0.0.0:0" };
        let socket = open(any.parse()?)?;
        socket.connect(to)?;
        socket.set_read_timeout(Some(REPEAT))?;
        let size = usize::from(options.size);
        let train = if options.trains { (LONGEST / size).min(AT_ONCE) } else { 1 };
        if options.trains {
            setsockopt(&socket, sockopt::UdpGsoSegment, &i32::from(options.size))
                .context("cannot send trains")?;
        }

        Ok(Self { socket, size: options.size, train, number: 0, burst: vec![0x5A; size * train] })
    }

    /// Sends `rate` datagrams a second and asks how many arrived.
    #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
    fn step(&mut self, rate: f64, duration: Duration) -> Result<RateResult> {
        self.number += 1;
        let header = header(self.number, COUNT, self.size);
        for datagram in self.burst.chunks_mut(usize::from(self.size)) {
            datagram[..HEADER].copy_from_slice(&header);
        }

        let start = Instant::now();
        let mut sent = 0;
        while start.elapsed() < duration && !is_stopped() {
            let due = rounded(start.elapsed().as_secs_f64() * rate).saturating_sub(sent);
            match due / self.train as u64 {
                0 => pause(rate),
                due => {
                    sent += self
                        .send(usize::try_from(due)?.min(AT_ONCE / self.train.min(AT_ONCE)).max(1))?
                }
            }
        }
        let seconds = start.elapsed().as_secs_f64();
        let received = self.ask()?;

        Ok(RateResult { sent: sent as f64 / seconds, received: received as f64 / seconds })
    }

    /// Sends `messages` bursts in one call and returns how many datagrams that were.
    #[expect(unsafe_code, reason = "the libraries here allocate for every message")]
    fn send(&mut self, messages: usize) -> Result<u64> {
        let mut part =
            libc::iovec { iov_base: self.burst.as_mut_ptr().cast(), iov_len: self.burst.len() };
        let mut headers = [EMPTY; AT_ONCE];
        for header in &mut headers {
            header.msg_hdr.msg_iov = &raw mut part;
            header.msg_hdr.msg_iovlen = 1;
        }
        let count = libc::c_uint::try_from(messages.min(AT_ONCE))?;
        // SAFETY: the kernel reads `count` headers, all of which point to `part` and through it to
        // the burst; both outlive the call.
        let sent =
            unsafe { libc::sendmmsg(self.socket.as_raw_fd(), headers.as_mut_ptr(), count, 0) };
        if sent < 0 {
            let error = io::Error::last_os_error();
            // What the tunnel has no room for is lost, which is what is measured.
            let is_loss = matches!(
                error.raw_os_error(),
                Some(libc::ENOBUFS | libc::EAGAIN | libc::ECONNREFUSED)
            );
            ensure!(is_loss, "cannot send: {error}");
            return Ok(messages as u64 * self.train as u64);
        }

        Ok(u64::try_from(sent)? * self.train as u64)
    }

    fn ask(&self) -> Result<u64> {
        let start = Instant::now();
        let mut question = vec![0; usize::from(self.size)];
        question[..HEADER].copy_from_slice(&header(self.number, ASK, self.size));
        let mut answer = [0; 64];
        while start.elapsed() < PATIENCE {
            // A request that is lost is repeated.
            let _ = self.socket.send(&question);
            while let Ok(length) = self.socket.recv(&mut answer) {
                if length == 12 && answer[..4] == self.number.to_be_bytes() {
                    let (_, count) =
                        answer[..12].split_last_chunk::<8>().context("an answer of 12 bytes")?;
                    return Ok(u64::from_be_bytes(*count));
                }
            }
        }

        Ok(0)
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a count of datagrams, far below 2^52"
)]
fn rounded(count: f64) -> u64 {
    count as u64
}

/// Waits until the next few datagrams are due.
fn pause(rate: f64) {
    std::thread::park_timeout(Duration::from_secs_f64((8.0 / rate).clamp(0.000_02, 0.000_5)));
}

const EMPTY: libc::mmsghdr = libc::mmsghdr {
    msg_hdr: libc::msghdr {
        msg_name: std::ptr::null_mut(),
        msg_namelen: 0,
        msg_iov: std::ptr::null_mut(),
        msg_iovlen: 0,
        msg_control: std::ptr::null_mut(),
        msg_controllen: 0,
        msg_flags: 0,
    },
    msg_len: 0,
};

/// The buffers for what one call receives.
struct Received {
    bytes: Vec<u8>,
    longest: usize,
    lengths: Vec<usize>,
    senders: Vec<libc::sockaddr_in>,
}

impl Received {
    fn new(at_once: usize, longest: usize) -> Self {
        let nobody = libc::sockaddr_in {
            sin_family: 0,
            sin_port: 0,
            sin_addr: libc::in_addr { s_addr: 0 },
            sin_zero: [0; 8],
        };

        Self {
            bytes: vec![0; at_once * longest],
            longest,
            lengths: vec![0; at_once],
            senders: vec![nobody; at_once],
        }
    }

    /// Waits for datagrams and returns how many there are.
    #[expect(unsafe_code, reason = "the libraries here allocate for every message")]
    fn fill(&mut self, socket: &UdpSocket) -> Result<usize> {
        let mut parts: Vec<_> = self
            .bytes
            .chunks_exact_mut(self.longest)
            .map(|room| libc::iovec { iov_base: room.as_mut_ptr().cast(), iov_len: room.len() })
            .collect();
        let address = libc::socklen_t::try_from(size_of::<libc::sockaddr_in>())?;
        let mut headers: Vec<libc::mmsghdr> = parts
            .iter_mut()
            .zip(&mut self.senders)
            .map(|(part, sender)| {
                let mut header = EMPTY;
                header.msg_hdr.msg_iov = &raw mut *part;
                header.msg_hdr.msg_iovlen = 1;
                header.msg_hdr.msg_name = (&raw mut *sender).cast();
                header.msg_hdr.msg_namelen = address;
                header
            })
            .collect();
        let count = libc::c_uint::try_from(headers.len())?;
        // SAFETY: every header points to its own part of `bytes` and its own sender, all of which
        // outlive the call.
        let received = unsafe {
            let fd = socket.as_raw_fd();
            libc::recvmmsg(
                fd,
                headers.as_mut_ptr(),
                count,
                libc::MSG_WAITFORONE,
                std::ptr::null_mut(),
            )
        };
        let Ok(received) = usize::try_from(received) else {
            let error = io::Error::last_os_error();
            ensure!(error.raw_os_error() == Some(libc::ECONNREFUSED), "cannot receive: {error}");
            return Ok(0);
        };
        for (length, header) in self.lengths.iter_mut().zip(&headers) {
            *length = header.msg_len as usize;
        }

        Ok(received)
    }

    fn datagram(&self, index: usize) -> &[u8] {
        &self.bytes[index * self.longest..][..self.lengths[index]]
    }

    fn sender(&self, index: usize) -> Option<SocketAddr> {
        let sender = self.senders.get(index)?;
        let ip = std::net::Ipv4Addr::from(u32::from_be(sender.sin_addr.s_addr));

        Some(SocketAddr::new(ip.into(), u16::from_be(sender.sin_port)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(port: u16, trains: bool) -> Options {
        Options {
            host: "127.0.0.1".to_owned(),
            port,
            size: 100,
            step_seconds: 0.05,
            trains,
            json: true,
        }
    }

    #[test]
    fn a_header_says_what_it_was_made_of() {
        assert_eq!(parse(&header(7, ASK, 1372)), Some((7, ASK, 1372)));
        assert_eq!(parse(&[0; 7]), None);
    }

    #[test]
    fn what_is_sent_over_loopback_is_counted() {
        let socket = open("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = socket.local_addr().unwrap();
        std::thread::spawn(move || count(&socket, AT_ONCE, 9216));
        let mut sender = Sender::new(address, &options(address.port(), false)).unwrap();

        let step = sender.step(2000.0, Duration::from_millis(50)).unwrap();

        assert!(step.received > 0.0 && step.received <= step.sent, "{step:?}");
    }

    #[test]
    fn trains_are_counted_by_the_datagram() {
        let socket = open("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = socket.local_addr().unwrap();
        setsockopt(&socket, sockopt::UdpGroSegment, &true).unwrap();
        std::thread::spawn(move || count(&socket, 8, LONGEST));
        let mut sender = Sender::new(address, &options(address.port(), true)).unwrap();

        let sent = sender.send(1).unwrap();

        assert_eq!(sent, 64);
        assert_eq!(sender.ask().unwrap(), 0, "they were of no step");
        assert!(sender.step(20_000.0, Duration::from_millis(50)).unwrap().received > 0.0);
    }
}
