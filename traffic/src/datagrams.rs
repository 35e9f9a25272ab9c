//! `datagrams`: carries bytes in UDP datagrams that must not be fragmented, as QUIC
//! does, and reports how large they were.
//!
//! One datagram at a time is under way; it is sent again, possibly shorter, until the other end has
//! answered.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::errno::Errno;
use serde::Serialize;
use socket2::SockRef;

use crate::announcement::announce_listener;
use crate::checksum::Checksum;
use crate::connection::resolve;
use crate::signal::{is_stopped, stop_on_signal};

/// The header: the number of the datagram, and the checksum over all data up to its end.
const HEADER: usize = 8;
/// How long an answer may take before the datagram is sent again.
const REPEAT: Duration = Duration::from_millis(50);
/// How long a transfer may pause before it counts as broken.
const PATIENCE: Duration = Duration::from_secs(20);
/// The longest datagram, in bytes.
const LONGEST: usize = 65_507;

/// The two ends.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum End {
    /// Receive and answer, until killed
    Serve {
        /// Address and port to listen on
        #[arg(long, value_name = "ADDR:PORT", default_value = "[::]:5202")]
        listen: SocketAddr,
    },
    /// Send datagrams as large as the system believes to fit
    Client(Options),
}

/// Options of `datagrams client`.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Address or name of the other end
    host: String,
    /// Its port
    #[arg(long, default_value_t = 5202)]
    port: u16,
    /// Seconds to send for
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

/// The result of a client.
#[derive(Debug, Serialize)]
struct Summary {
    datagrams: u32,
    bytes: u64,
    /// How many times a datagram was repeated.
    repeats: u64,
    /// The longest time without an answer, in milliseconds.
    longest_pause_ms: f64,
    /// The IP packet length of the last datagram, in bytes.
    last_packet: usize,
}

/// Runs one end.
///
/// # Errors
///
/// If nothing answers any more, or what arrives differs from what was sent.
pub fn run(end: &End) -> Result<()> {
    match end {
        End::Serve { listen } => serve(*listen),
        End::Client(options) => client(options),
    }
}

fn serve(listen: SocketAddr) -> Result<()> {
    let socket = UdpSocket::bind(listen).with_context(|| format!("cannot listen on {listen}"))?;
    announce_listener(socket.local_addr()?)?;
    let mut buffer = vec![0; LONGEST];
    let mut transfer = (None, 0, Checksum::default());
    loop {
        let (length, from) = match socket.recv_from(&mut buffer) {
            Ok(received) => received,
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => continue,
            Err(error) => return Err(error).context("cannot receive"),
        };
        let Some((number, payload)) = parse(&buffer[..length]) else { continue };
        if number == 0 {
            transfer = (Some(from), 0, Checksum::default());
        }
        let (sender, next, checksum) = &mut transfer;
        if *sender != Some(from) {
            continue;
        }
        if number == *next {
            checksum.update(payload);
            *next += 1;
        }
        let mut answer = [0; 12];
        answer[..4].copy_from_slice(&number.to_be_bytes());
        answer[4..].copy_from_slice(&checksum.clone().finish().to_be_bytes());
        // The client asks again if this is lost.
        let _ = socket.send_to(&answer, from);
    }
}

fn parse(datagram: &[u8]) -> Option<(u32, &[u8])> {
    let (header, payload) = datagram.split_first_chunk::<HEADER>()?;
    let (number, _) = header.split_first_chunk::<4>()?;

    Some((u32::from_be_bytes(*number), payload))
}

#[expect(clippy::print_stdout, reason = "this is a command line")]
fn client(options: &Options) -> Result<()> {
    stop_on_signal()?;
    let address = *resolve(&options.host, PATIENCE)?.first().context("the name has no address")?;
    let mut sender = Sender::new(SocketAddr::new(address, options.port))?;
    let end = Instant::now() + Duration::try_from_secs_f64(options.seconds)?;
    while Instant::now() < end && !is_stopped() {
        sender.carry_one()?;
    }

    let summary = sender.summary;
    if options.json {
        println!("{}", serde_json::to_string(&summary)?);
    } else {
        println!(
            "{} datagrams, {} bytes, {} repeated, longest pause {:.0} ms, packets of {} bytes at the end",
            summary.datagrams,
            summary.bytes,
            summary.repeats,
            summary.longest_pause_ms,
            summary.last_packet
        );
    }
    Ok(())
}

struct Sender {
    socket: UdpSocket,
    /// The IP and UDP headers, in bytes.
    headers: usize,
    noise: Vec<u8>,
    checksum: Checksum,
    heard: Instant,
    summary: Summary,
}

impl Sender {
    fn new(to: SocketAddr) -> Result<Self> {
        let any: SocketAddr = if to.is_ipv6() { "[::]:0".parse()? } else { "0.0.0.0:0".parse()? };
        let socket = UdpSocket::bind(any)?;
        forbid_fragments(&socket, to.is_ipv6()).context("cannot forbid fragments")?;
        socket.connect(to)?;
        socket.set_read_timeout(Some(REPEAT))?;
        let mut noise = vec![0; LONGEST];
        rand::fill(&mut noise[..]);
        let summary =
            Summary { datagrams: 0, bytes: 0, repeats: 0, longest_pause_ms: 0.0, last_packet: 0 };

        Ok(Self {
            socket,
            headers: if to.is_ipv6() { 48 } else { 28 },
            noise,
            checksum: Checksum::default(),
            heard: Instant::now(),
            summary,
        })
    }

    /// Transfers one datagram, of whatever size fits.
    fn carry_one(&mut self) -> Result<()> {
        let number = self.summary.datagrams;
        // The receiver may have a longer datagram than the one repeated, so it may answer any of
        // the sizes tried so far.
        let mut tried: Vec<(usize, u64)> = Vec::new();
        loop {
            ensure!(
                self.heard.elapsed() < PATIENCE,
                "no answer any more, datagrams of {:?} bytes",
                tried.last()
            );
            let length = self.room()?;
            let payload = &self.noise[..length - HEADER];
            let mut checksum = self.checksum.clone();
            checksum.update(payload);
            tried.push((length, checksum.finish()));
            let mut datagram = vec![0; HEADER];
            datagram[..4].copy_from_slice(&number.to_be_bytes());
            datagram.extend_from_slice(payload);
            match self.socket.send(&datagram) {
                Ok(_) => {}
                // The system has learnt of a smaller size, or the destination is unreachable at the
                // moment.
                Err(error) if is_told(&error) => continue,
                Err(error) => return Err(error).context("cannot send"),
            }
            if let Some(answer) = self.answer(number)? {
                let arrived = tried.iter().find(|(_, checksum)| *checksum == answer);
                let (length, _) =
                    *arrived.context("what arrived is not what was sent: the checksums differ")?;
                self.note(length);
                return Ok(());
            }
            self.summary.repeats += 1;
        }
    }

    fn note(&mut self, length: usize) {
        let pause = self.heard.elapsed().as_secs_f64() * 1000.0;
        self.heard = Instant::now();
        if self.summary.datagrams > 0 {
            self.summary.longest_pause_ms = self.summary.longest_pause_ms.max(pause);
        }
        self.checksum.update(&self.noise[..length - HEADER]);
        self.summary.datagrams += 1;
        self.summary.bytes += (length - HEADER) as u64;
        self.summary.last_packet = length + self.headers;
    }

    /// Returns how long a datagram may be, as far as the system knows, in bytes.
    fn room(&self) -> Result<usize> {
        let mtu =
            path_mtu(&self.socket, self.headers == 48).context("cannot ask for the path MTU")?;

        mtu.checked_sub(self.headers)
            .filter(|room| *room > HEADER)
            .context("no room for a datagram")
    }

    fn answer(&self, number: u32) -> Result<Option<u64>> {
        let mut answer = [0; 12];
        loop {
            match self.socket.recv(&mut answer) {
                Ok(12) if answer[..4] == number.to_be_bytes() => {
                    let (_, checksum) =
                        answer.split_last_chunk::<8>().context("an answer of 12 bytes")?;
                    return Ok(Some(u64::from_be_bytes(*checksum)));
                }
                // An answer to a repetition of an earlier datagram.
                Ok(_) => {}
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
                    ) =>
                {
                    return Ok(None);
                }
                Err(error) if is_told(&error) => return Ok(None),
                Err(error) => return Err(error).context("cannot receive"),
            }
        }
    }
}

/// Returns whether an error was caused by an earlier datagram.
fn is_told(error: &io::Error) -> bool {
    let raw = error.raw_os_error().map(Errno::from_raw);

    matches!(
        raw,
        Some(Errno::EMSGSIZE | Errno::ECONNREFUSED | Errno::EHOSTUNREACH | Errno::ENETUNREACH)
    )
}

#[expect(unsafe_code, reason = "no library here wraps these two options for both families")]
fn forbid_fragments(socket: &UdpSocket, is_v6: bool) -> io::Result<()> {
    use std::os::fd::AsRawFd as _;

    let (level, option, value) = if is_v6 {
        (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_DO)
    } else {
        (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DO)
    };
    let length = libc::socklen_t::try_from(size_of_val(&value)).map_err(io::Error::other)?;
    // SAFETY: the kernel reads `length` bytes from `value`, which lives until after the call.
    let result = unsafe {
        libc::setsockopt(
            SockRef::from(socket).as_raw_fd(),
            level,
            option,
            (&raw const value).cast(),
            length,
        )
    };

    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[expect(unsafe_code, reason = "no library here wraps this option for both families")]
fn path_mtu(socket: &UdpSocket, is_v6: bool) -> io::Result<usize> {
    use std::os::fd::AsRawFd as _;

    let (level, option) =
        if is_v6 { (libc::IPPROTO_IPV6, libc::IPV6_MTU) } else { (libc::IPPROTO_IP, libc::IP_MTU) };
    let mut value: libc::c_int = 0;
    let mut length = libc::socklen_t::try_from(size_of_val(&value)).map_err(io::Error::other)?;
    // SAFETY: the kernel writes at most `length` bytes, the size of `value`, which lives until
    // after the call.
    let result = unsafe {
        libc::getsockopt(
            SockRef::from(socket).as_raw_fd(),
            level,
            option,
            (&raw mut value).cast(),
            &raw mut length,
        )
    };

    if result == 0 {
        usize::try_from(value).map_err(io::Error::other)
    } else {
        Err(io::Error::last_os_error())
    }
}
