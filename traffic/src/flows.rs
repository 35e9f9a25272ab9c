//! `flows`: numbered datagrams at a steady rate and many TCP connections, to an echo
//! server; reports what was lost, repeated or overtaken, which connections broke, and whether the
//! server's name was found all the time.

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::socket::{setsockopt, sockopt};
use serde::{Deserialize, Serialize};

use crate::announcement::{announce, announce_listener};
use crate::connection::{connect, resolve};
use crate::signal::{is_stopped, stop_on_signal};

/// How long the name and each connection may take.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long the last echoes may take.
const SETTLE: Duration = Duration::from_secs(2);
/// How often each connection carries something.
const EXCHANGE: Duration = Duration::from_millis(100);
/// Bytes that the kernel keeps for a socket: thousands of datagrams.
const BUFFER: usize = 8 << 20;
/// How often the name is looked up.
const LOOKUP: Duration = Duration::from_millis(20);
/// Bytes of a message, in a datagram or over a connection.
const MESSAGE: usize = 64;

/// The two ends.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum End {
    /// Send everything back, until killed
    Serve {
        /// The port, for datagrams and connections
        #[arg(long, default_value_t = 5203)]
        port: u16,
    },
    /// Send until interrupted
    Client(Options),
}

/// Options of `flows client`.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Address or name of the other end
    host: String,
    /// Its port
    #[arg(long, default_value_t = 5203)]
    port: u16,
    /// Datagrams a second
    #[arg(long, default_value_t = 1000)]
    rate: u32,
    /// TCP connections
    #[arg(long, default_value_t = 100)]
    connections: u32,
}

/// What a client saw.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// Datagrams that were sent.
    pub sent: u32,
    /// Datagrams whose echo never came.
    pub lost: u32,
    /// Echoes that came more than once.
    pub repeated: u32,
    /// The most numbers that were ahead of a datagram when its echo came.
    pub furthest_overtaken: u32,
    /// The longest time between two echoes, in milliseconds.
    pub longest_silence_ms: u64,
    /// TCP connections.
    pub connections: u32,
    /// Connections that ended or stood still.
    pub broken: u32,
    /// Messages that came back over the connections.
    pub exchanges: u64,
    /// The longest time that one took, in milliseconds.
    pub slowest_exchange_ms: u64,
    /// How often the other end was looked up by its name.
    pub lookups: u32,
    /// Lookups without an answer.
    pub failed_lookups: u32,
    /// The longest time that a lookup took, in milliseconds.
    pub slowest_lookup_ms: u64,
}

/// Runs one end.
///
/// # Errors
///
/// If the kernel refuses a socket, or the other end is not there.
pub fn run(end: &End) -> Result<()> {
    match end {
        End::Serve { port } => serve(*port),
        End::Client(options) => client(options),
    }
}

fn serve(port: u16) -> Result<()> {
    let address = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
    let listener = TcpListener::bind(address)?;
    let socket = UdpSocket::bind(address)?;
    take_everything(&socket)?;
    announce_listener(address)?;
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || echo(stream));
        }
    });
    let mut buffer = [0; MESSAGE];
    loop {
        if let Ok((length, from)) = socket.recv_from(&mut buffer) {
            // What is lost here is lost.
            let _ = socket.send_to(&buffer[..length], from);
        }
    }
}

/// Has the kernel keep what comes while this process does not get to run: what is lost is lost on
/// the way.
fn take_everything(socket: &UdpSocket) -> Result<()> {
    setsockopt(socket, sockopt::RcvBufForce, &BUFFER).context("cannot enlarge the buffer")
}

fn echo(mut stream: TcpStream) {
    let mut message = [0; MESSAGE];
    while stream.read_exact(&mut message).and_then(|()| stream.write_all(&message)).is_ok() {}
}

#[expect(clippy::print_stdout, reason = "this is a command line")]
fn client(options: &Options) -> Result<()> {
    stop_on_signal()?;
    let ip = *resolve(&options.host, PATIENCE)?.first().context("the name has no address")?;
    let address = SocketAddr::new(ip, options.port);
    let (broken, exchanges) = (Arc::new(AtomicU32::new(0)), Arc::new(Exchanges::default()));
    let mut connections = Vec::new();
    for _ in 0..options.connections {
        let stream = connect(&[address], Instant::now() + PATIENCE)?;
        let (broken, exchanges) = (Arc::clone(&broken), Arc::clone(&exchanges));
        connections.push(thread::Builder::new().stack_size(128 << 10).spawn(move || {
            if let Err(_error) = exchange(stream, &exchanges) {
                broken.fetch_add(1, Ordering::Relaxed);
            }
        })?);
    }
    let name = options.host.clone();
    let lookups = thread::spawn(move || look_up(&name));
    announce("under way")?;
    let mut summary = datagrams(address, options.rate)?;
    for connection in connections {
        let _ = connection.join();
    }

    let Ok((lookups, failed, slowest)) = lookups.join() else { anyhow::bail!("the lookups broke") };
    (summary.lookups, summary.failed_lookups, summary.slowest_lookup_ms) =
        (lookups, failed, slowest);
    summary.connections = options.connections;
    summary.broken = broken.load(Ordering::Relaxed);
    summary.exchanges = exchanges.count.load(Ordering::Relaxed);
    summary.slowest_exchange_ms = exchanges.slowest_ms.load(Ordering::Relaxed);
    println!("{}", serde_json::to_string(&summary)?);
    Ok(())
}

/// Looks a name up again and again; returns how often, how often in vain, and how long the slowest
/// took, in ms.
fn look_up(name: &str) -> (u32, u32, u64) {
    let (mut count, mut failed, mut slowest) = (0, 0, Duration::ZERO);
    while !is_stopped() {
        let begun = Instant::now();
        failed += u32::from(resolve(name, PATIENCE).is_err());
        slowest = slowest.max(begun.elapsed());
        count += 1;
        thread::park_timeout(LOOKUP);
    }

    (count, failed, u64::try_from(slowest.as_millis()).unwrap_or(u64::MAX))
}

/// What all connections carried.
#[derive(Debug, Default)]
struct Exchanges {
    count: AtomicU64,
    slowest_ms: AtomicU64,
}

/// Sends messages over a connection, each of which must come back.
fn exchange(mut stream: TcpStream, exchanges: &Exchanges) -> io::Result<()> {
    let mut number = 0_u64;
    while !is_stopped() {
        let mut message = [0; MESSAGE];
        message[..8].copy_from_slice(&number.to_be_bytes());
        let begun = Instant::now();
        stream.write_all(&message)?;
        let mut answer = [0; MESSAGE];
        stream.read_exact(&mut answer)?;
        if answer != message {
            return Err(io::ErrorKind::InvalidData.into());
        }
        number += 1;
        exchanges.count.fetch_add(1, Ordering::Relaxed);
        let took = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        exchanges.slowest_ms.fetch_max(took, Ordering::Relaxed);
        thread::park_timeout(EXCHANGE);
    }

    Ok(())
}

/// Sends numbered datagrams until interrupted, and waits for the last echoes.
fn datagrams(to: SocketAddr, rate: u32) -> Result<Summary> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    take_everything(&socket)?;
    socket.connect(to)?;
    let receiving = socket.try_clone()?;
    receiving.set_read_timeout(Some(SETTLE))?;
    let receiver = thread::spawn(move || receive(&receiving));
    let begun = Instant::now();
    let mut sent = 0_u32;
    while !is_stopped() {
        let due = begun + Duration::from_secs(1) * sent / rate;
        let early = due.saturating_duration_since(Instant::now());
        if !early.is_zero() {
            thread::park_timeout(early);
            continue;
        }
        let mut message = [0; MESSAGE];
        message[..4].copy_from_slice(&sent.to_be_bytes());
        socket.send(&message).context("cannot send")?;
        sent += 1;
    }
    let Ok((received, summary)) = receiver.join() else { anyhow::bail!("the receiver broke") };

    Ok(Summary { sent, lost: sent - received, ..summary })
}

/// Counts echoes until none come any more; returns how many did, and the rest of what they say.
fn receive(socket: &UdpSocket) -> (u32, Summary) {
    let mut summary = Summary::default();
    let mut seen: Vec<bool> = Vec::new();
    let (mut received, mut highest, mut last) = (0, 0_u32, Instant::now());
    let mut message = [0; MESSAGE];
    loop {
        match socket.recv(&mut message) {
            Ok(MESSAGE) => {}
            Ok(_) => continue,
            Err(_) if is_stopped() => return (received, summary),
            Err(_) => continue,
        }
        let Some(number) = message.first_chunk().map(|bytes| u32::from_be_bytes(*bytes)) else {
            continue;
        };
        let Ok(place) = usize::try_from(number) else { continue };
        if seen.len() <= place {
            seen.resize(place + 1, false);
        }
        if std::mem::replace(&mut seen[place], true) {
            summary.repeated += 1;
            continue;
        }
        received += 1;
        highest = highest.max(number);
        summary.furthest_overtaken = summary.furthest_overtaken.max(highest - number);
        let silence = u64::try_from(last.elapsed().as_millis()).unwrap_or(u64::MAX);
        summary.longest_silence_ms = summary.longest_silence_ms.max(silence);
        last = Instant::now();
    }
}
