//! `throughput`: how much TCP carries, and whether it arrives unaltered.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike as _;
use serde::Serialize;

use crate::announcement::announce_listener;
use crate::checksum::Checksum;
use crate::connection::{connect, resolve};
use crate::signal::{is_stopped, stop_on_signal};
use crate::wait::rest;

/// The first bytes of every stream; another byte says whether checksums are wanted.
const MAGIC: [u8; 7] = *b"OVLTP3\n";
/// How many bytes are written and read at a time: one system call moves a full TSO frame and more.
const PIECE: usize = 256 * 1024;
/// How long it may take to connect.
const CONNECT: Duration = Duration::from_secs(10);
/// How long a stream may pause before it counts as broken.
const PATIENCE: Duration = Duration::from_secs(60);

/// The two ends.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum End {
    /// Receive, until killed
    Serve {
        /// Address and port to listen on
        #[arg(long, value_name = "ADDR:PORT", default_value = "0.0.0.0:5201")]
        listen: SocketAddr,
    },
    /// Send, and print how fast it went
    Client(Options),
}

/// Options of `throughput client`.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Address or name of the other end
    host: String,
    /// Its port
    #[arg(long, default_value_t = 5201)]
    port: u16,
    /// Number of TCP streams
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=64))]
    streams: u8,
    /// Seconds to send for
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// Send at most this much over each stream, in Mbit/s
    #[arg(long, value_name = "MBIT")]
    rate: Option<f64>,
    /// Compare checksums over all that was sent and received
    #[arg(long)]
    verify: bool,
    /// Send this text, repeated, instead of random bytes
    #[arg(long, value_name = "TEXT")]
    marker: Option<String>,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

/// Runs one end.
///
/// # Errors
///
/// If a stream cannot be made, breaks, or arrives altered.
pub fn run(end: &End) -> Result<()> {
    match end {
        End::Serve { listen } => serve(*listen),
        End::Client(options) => client(options),
    }
}

fn serve(listen: SocketAddr) -> Result<()> {
    let listener =
        TcpListener::bind(listen).with_context(|| format!("cannot listen on {listen}"))?;
    announce_listener(listener.local_addr()?)?;
    for stream in listener.incoming() {
        let Ok(stream) = stream else { continue };
        // A broken stream is reported by the sending end.
        std::thread::spawn(move || receive(stream));
    }

    Ok(())
}

fn receive(mut stream: TcpStream) -> Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut head = [0; MAGIC.len() + 1];
    stream.read_exact(&mut head)?;
    ensure!(head.starts_with(&MAGIC), "not our protocol");
    let verify = head[MAGIC.len()] == 1;

    let mut buffer = vec![0; PIECE];
    let mut total = Total::default();
    let (mut last, mut longest) = (Instant::now(), Duration::ZERO);
    loop {
        let length = stream.read(&mut buffer)?;
        longest = longest.max(last.elapsed());
        last = Instant::now();
        match length {
            0 => break,
            length => total.add(&buffer[..length], verify),
        }
    }

    stream.write_all(&total.to_bytes())?;
    stream.write_all(&u64::try_from(longest.as_micros())?.to_be_bytes())?;
    stream.write_all(
        &u64::try_from(processor_time(UsageWho::RUSAGE_THREAD)?.as_micros())?.to_be_bytes(),
    )?;
    Ok(())
}

/// What a stream carried.
#[derive(Default)]
struct Total {
    bytes: u64,
    checksum: Checksum,
}

impl Total {
    fn add(&mut self, piece: &[u8], verify: bool) {
        self.bytes += piece.len() as u64;
        if verify {
            self.checksum.update(piece);
        }
    }

    fn to_bytes(&self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.bytes.to_be_bytes());
        bytes[8..].copy_from_slice(&self.checksum.clone().finish().to_be_bytes());
        bytes
    }
}

/// The result of a client.
#[derive(Debug, Serialize)]
struct Summary {
    bytes: u64,
    seconds: f64,
    gbit_per_second: f64,
    streams: u8,
    verified: bool,
    /// The longest time in which a receiver got nothing, in milliseconds.
    longest_pause_ms: f64,
    /// Processor seconds of both ends.
    cpu_seconds: f64,
}

#[expect(clippy::print_stdout, reason = "this is a command line")]
fn client(options: &Options) -> Result<()> {
    stop_on_signal()?;
    let addresses: Vec<_> = resolve(&options.host, PATIENCE)?
        .iter()
        .map(|ip| SocketAddr::new(*ip, options.port))
        .collect();
    let start = Instant::now();
    let streams: Vec<_> = (0..options.streams)
        .map(|_| {
            let (addresses, options) = (addresses.clone(), options.clone());
            std::thread::spawn(move || send(&addresses, &options))
        })
        .collect();
    let sent: Vec<_> = streams
        .into_iter()
        .map(|stream| stream.join().unwrap_or_else(|_| bail!("a stream panicked")))
        .collect();
    let sent = sent.into_iter().collect::<Result<Vec<_>>>()?;
    let bytes = sent.iter().map(|stream| stream.bytes).sum();
    let longest = sent.iter().map(|stream| stream.longest_pause).max().unwrap_or_default();
    let received: Duration = sent.iter().map(|stream| stream.receiver_time).sum();

    let seconds = start.elapsed().as_secs_f64();
    let summary = Summary {
        bytes,
        seconds,
        gbit_per_second: gbit_per_second(bytes, seconds),
        streams: options.streams,
        verified: options.verify,
        longest_pause_ms: longest.as_secs_f64() * 1000.0,
        cpu_seconds: (processor_time(UsageWho::RUSAGE_SELF)? + received).as_secs_f64(),
    };
    if options.json {
        println!("{}", serde_json::to_string(&summary)?);
    } else {
        let whole = if summary.verified { ", checksums agree" } else { "" };
        println!(
            "{:.3} Gbit/s: {bytes} bytes in {seconds:.2} s over {} stream(s){whole}",
            summary.gbit_per_second, summary.streams
        );
    }
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "a figure for people")]
fn gbit_per_second(bytes: u64, seconds: f64) -> f64 {
    bytes as f64 * 8.0 / seconds / 1e9
}

/// The result of one stream.
struct Sent {
    bytes: u64,
    longest_pause: Duration,
    /// The processor time of the receiver.
    receiver_time: Duration,
}

/// Sends one stream and compares it with what the other end reports to have received.
fn send(addresses: &[SocketAddr], options: &Options) -> Result<Sent> {
    let mut stream = connect(addresses, Instant::now() + CONNECT)?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(&MAGIC)?;
    stream.write_all(&[u8::from(options.verify)])?;

    let piece = piece(options.marker.as_deref());
    let start = Instant::now();
    let duration = Duration::try_from_secs_f64(options.seconds)?;
    let mut total = Total::default();
    while start.elapsed() < duration && !is_stopped() {
        let length = stream.write(&piece).context("the stream broke")?;
        total.add(&piece[..length], options.verify);
        pace(start, total.bytes, options.rate);
    }

    stream.shutdown(Shutdown::Write)?;
    let mut answer = [0; 16];
    stream.read_exact(&mut answer).context("the other end did not say what it received")?;
    ensure!(answer[..8] == total.to_bytes()[..8], "not everything arrived");
    ensure!(answer == total.to_bytes(), "what arrived is not what was sent: the checksums differ");
    let mut micros = || {
        let mut figure = [0; 8];
        stream
            .read_exact(&mut figure)
            .context("the other end did not say how long it waited and worked")?;
        Ok::<_, anyhow::Error>(Duration::from_micros(u64::from_be_bytes(figure)))
    };

    Ok(Sent { bytes: total.bytes, longest_pause: micros()?, receiver_time: micros()? })
}

/// Returns the processor time so far, of this thread or of the whole process.
fn processor_time(who: UsageWho) -> Result<Duration> {
    let usage = getrusage(who)?;
    let time = usage.user_time() + usage.system_time();

    Ok(Duration::from_micros(u64::try_from(time.num_microseconds())?))
}

fn piece(marker: Option<&str>) -> Vec<u8> {
    let mut piece = vec![0; PIECE];
    match marker {
        Some(marker) if !marker.is_empty() => {
            piece.iter_mut().zip(marker.bytes().cycle()).for_each(|(byte, text)| *byte = text);
        }
        _ => rand::fill(&mut piece[..]),
    }

    piece
}

fn pace(start: Instant, bytes: u64, rate: Option<f64>) {
    let Some(mbit) = rate else { return };
    let due = Duration::try_from_secs_f64(gbit_per_second(bytes, 1.0) * 1000.0 / mbit)
        .unwrap_or_default();
    let early = due.saturating_sub(start.elapsed());
    if !early.is_zero() {
        rest(early);
    }
}
