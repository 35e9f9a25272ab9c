//! `ping`: ICMP echoes, with loss, round-trip times and the longest silence.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::mem::MaybeUninit;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use nix::libc::MSG_DONTWAIT;
use serde::{Deserialize, Serialize};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::connection::resolve;
use crate::icmp;
use crate::signal::{is_stopped, stop_on_signal};

/// How long resolving the name may take.
const RESOLVE: Duration = Duration::from_secs(10);

/// Options of `ping`.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Address or name to ping
    target: String,
    /// Number of echoes; 0 continues until interrupted
    #[arg(long, short, default_value_t = 4)]
    count: u32,
    /// Count from the first echo that is answered: those before it are in no figure
    #[arg(long)]
    from_first_answer: bool,
    /// Milliseconds between two echoes
    #[arg(long, default_value_t = 200)]
    interval_ms: u64,
    /// Milliseconds to wait for the last answers
    #[arg(long, default_value_t = 1000)]
    timeout_ms: u64,
    /// Bytes of payload
    #[arg(long, short, default_value_t = 56, value_parser = clap::value_parser!(u16).range(..=65_000))]
    size: u16,
    /// Fill the payload with this text, repeated
    #[arg(long, value_name = "TEXT")]
    marker: Option<String>,
    /// Use IPv6 only
    #[arg(long, short = '6')]
    ipv6: bool,
    /// Print only the summary
    #[arg(long, short)]
    quiet: bool,
    /// Print the summary as JSON
    #[arg(long)]
    json: bool,
}

/// Sends echoes and prints the results.
///
/// # Errors
///
/// If the target cannot be resolved or sent to, or nothing answers at all.
pub fn run(options: &Options) -> Result<()> {
    let addresses = resolve(&options.target, RESOLVE)?;
    let to = addresses.into_iter().find(|address| address.is_ipv6() || !options.ipv6);
    let to = to.with_context(|| format!("{} has no IPv6 address", options.target))?;
    stop_on_signal()?;

    let mut pinger = Pinger::new(to, options)?;
    pinger.ping()?;
    let summary = pinger.summary();
    summary.print(&options.target, options.json)?;

    if summary.received == 0 {
        bail!("{} does not answer", options.target);
    }
    Ok(())
}

/// What is said beside the figures once the echoes flow.
pub const FIRST_ANSWER: &str = "the first answer came";

struct Pinger<'a> {
    socket: Socket,
    to: IpAddr,
    id: u16,
    payload: Vec<u8>,
    options: &'a Options,
    start: Instant,
    sent: Vec<Instant>,
    waiting: BTreeMap<u16, usize>,
    /// The number of the first echo that was answered.
    first_answered: Option<usize>,
    /// When each answer came, and its round-trip time.
    answers: Vec<(Instant, Duration)>,
    refused: Option<std::io::Error>,
}

impl<'a> Pinger<'a> {
    fn new(to: IpAddr, options: &'a Options) -> Result<Self> {
        let (domain, protocol) = if to.is_ipv4() {
            (Domain::IPV4, Protocol::ICMPV4)
        } else {
            (Domain::IPV6, Protocol::ICMPV6)
        };
        let socket = Socket::new(domain, Type::RAW, Some(protocol))
            .context("cannot open a raw socket (are you root?)")?;
        let id = rand::random();
        let marker = options.marker.as_deref().unwrap_or("overlay-lab ").bytes();
        let payload = marker.cycle().take(options.size.into()).collect();

        Ok(Self {
            socket,
            to,
            id,
            payload,
            options,
            start: Instant::now(),
            sent: Vec::new(),
            waiting: BTreeMap::new(),
            first_answered: None,
            answers: Vec::new(),
            refused: None,
        })
    }

    fn ping(&mut self) -> Result<()> {
        let interval = Duration::from_millis(self.options.interval_ms);
        for next in 1.. {
            self.send();
            if self.has_sent_all() {
                break;
            }
            self.receive_until(self.start + interval * next, false)?;
            if is_stopped() {
                break;
            }
        }

        self.receive_until(Instant::now() + Duration::from_millis(self.options.timeout_ms), true)
    }

    fn has_sent_all(&self) -> bool {
        let count = usize::try_from(self.options.count).unwrap_or(usize::MAX);

        count != 0 && self.sent.len() - self.uncounted() >= count
    }

    /// Returns how many of the echoes sent are in no figure.
    fn uncounted(&self) -> usize {
        if !self.options.from_first_answer {
            return 0;
        }

        self.first_answered.unwrap_or(self.sent.len())
    }

    fn send(&mut self) {
        // Sequence numbers have 16 bits on the wire; the oldest unanswered echo gives up its
        // number.
        let number = self.sent.len();
        let sequence = u16::try_from(number & 0xFFFF).unwrap_or(0);
        self.sent.push(Instant::now());
        self.waiting.insert(sequence, number);
        let message = icmp::request(self.to, self.id, sequence, &self.payload);
        let to = SockAddr::from(SocketAddr::new(self.to, 0));
        // "Unreachable" is a loss like any other: the target may come back.
        self.refused = self.socket.send_to(&message, &to).err().or(self.refused.take());
    }

    /// Receives answers until `deadline`, or, if this is the `last` wait, until none is missing.
    fn receive_until(&mut self, deadline: Instant, last: bool) -> Result<()> {
        let mut buffer = vec![MaybeUninit::uninit(); usize::from(u16::MAX)];
        while !(is_stopped() && !last || last && self.waiting.is_empty()) {
            let left = deadline.saturating_duration_since(Instant::now());
            // When late, take what is there: the kernel's timeouts are coarser than short
            // intervals.
            let flags = if left.is_zero() { MSG_DONTWAIT } else { 0 };
            // Less than a microsecond would be zero, which means no timeout.
            self.socket.set_read_timeout(Some(left.max(Duration::from_micros(1))))?;
            match self.socket.recv_from_with_flags(&mut buffer, flags) {
                Ok((length, from)) => {
                    self.note(&buffer[..length], from.as_socket().map(|from| from.ip()))
                }
                Err(error) if is_transient(&error) => {
                    if left.is_zero() {
                        break;
                    }
                }
                Err(error) => {
                    self.refused = Some(error);
                    if left.is_zero() {
                        break;
                    }
                }
            }
        }

        Ok(())
    }

    fn note(&mut self, received: &[MaybeUninit<u8>], from: Option<IpAddr>) {
        let now = Instant::now();
        if from != Some(self.to) {
            return;
        }
        let received = initialised(received);
        let Some(sequence) = icmp::reply(self.to, self.id, &self.payload, received) else { return };
        let Some(number) = self.waiting.remove(&sequence) else { return };
        let rtt = now - self.sent[number];
        self.first_answered.get_or_insert(number);
        self.answers.push((now, rtt));
        if self.options.json && self.answers.len() == 1 {
            // Nobody is left to tell when standard error is closed.
            let _ = writeln!(std::io::stderr(), "{FIRST_ANSWER}");
        }
        if !self.options.quiet && !self.options.json {
            announce(self.to, number, rtt);
        }
    }

    fn summary(&self) -> Summary {
        let received = self.answers.len();
        let total: Duration = self.answers.iter().map(|(_, rtt)| *rtt).sum();
        let mean =
            total.checked_div(u32::try_from(received).unwrap_or(u32::MAX)).unwrap_or_default();
        let uncounted = self.uncounted();
        let start = self.sent.get(uncounted).copied().unwrap_or(self.start);
        let gaps = gaps(start, &self.answers, self.sent.last().copied());
        let long = Duration::from_millis(self.options.interval_ms) * 2;
        let (now, unix_now) = (Instant::now(), SystemTime::now());
        let unix_ms = |at: Instant| {
            let since = (unix_now - (now - at)).duration_since(UNIX_EPOCH);
            ms(since.unwrap_or_default())
        };
        let silences = gaps.iter().filter(|(_, gap)| *gap > long);
        let mut rtts: Vec<_> = self.answers.iter().map(|(_, rtt)| *rtt).collect();
        rtts.sort_unstable();

        Summary {
            target: self.to,
            sent: self.sent.len() - uncounted,
            received,
            rtt_min_ms: ms(quantile(&rtts, 0)),
            rtt_mean_ms: ms(mean),
            rtt_p50_ms: ms(quantile(&rtts, 50)),
            rtt_p99_ms: ms(quantile(&rtts, 99)),
            rtt_max_ms: ms(quantile(&rtts, 100)),
            longest_silence_ms: ms(gaps.iter().map(|(_, gap)| *gap).max().unwrap_or_default()),
            silences: silences
                .map(|(at, gap)| Silence { since_unix_ms: unix_ms(*at), ms: ms(*gap) })
                .collect(),
            error: self.refused.as_ref().map(ToString::to_string),
        }
    }
}

/// The result of a ping.
#[derive(Debug, Serialize)]
struct Summary {
    target: IpAddr,
    sent: usize,
    received: usize,
    rtt_min_ms: f64,
    rtt_mean_ms: f64,
    rtt_p50_ms: f64,
    rtt_p99_ms: f64,
    rtt_max_ms: f64,
    longest_silence_ms: f64,
    /// Times without an answer that were longer than two intervals.
    silences: Vec<Silence>,
    error: Option<String>,
}

/// A time without an answer.
#[derive(Debug, Serialize, Deserialize)]
pub struct Silence {
    /// When it began, in milliseconds since 1970.
    pub since_unix_ms: f64,
    /// How long it was, in milliseconds.
    pub ms: f64,
}

/// Lists the times between two answers, each with its beginning. When echoes were sent after the
/// last answer, the time between those two is one, too.
fn gaps(
    start: Instant,
    answers: &[(Instant, Duration)],
    last_sent: Option<Instant>,
) -> Vec<(Instant, Duration)> {
    let answered = || answers.iter().map(|(at, _)| *at);
    let ends = answered().chain(last_sent);

    std::iter::once(start)
        .chain(answered())
        .zip(ends)
        .map(|(one, next)| (one, next.saturating_duration_since(one)))
        .collect()
}

impl Summary {
    #[expect(clippy::print_stdout, reason = "this is a command line")]
    fn print(&self, name: &str, json: bool) -> Result<()> {
        if json {
            println!("{}", serde_json::to_string(self)?);
            return Ok(());
        }
        println!(
            "{name} ({}): {} sent, {} received, {} lost; rtt min/mean/max {:.3}/{:.3}/{:.3} ms; longest silence {:.0} ms",
            self.target,
            self.sent,
            self.received,
            self.sent - self.received,
            self.rtt_min_ms,
            self.rtt_mean_ms,
            self.rtt_max_ms,
            self.longest_silence_ms,
        );
        if let Some(error) = &self.error {
            println!("last error: {error}");
        }
        Ok(())
    }
}

#[expect(clippy::print_stdout, reason = "this is a command line")]
fn announce(from: IpAddr, number: usize, rtt: Duration) {
    println!("answer {} from {from} in {:.3} ms", number + 1, ms(rtt));
}

/// Returns the given percentile of the sorted `times`.
fn quantile(times: &[Duration], percent: usize) -> Duration {
    times.get(times.len().saturating_sub(1) * percent / 100).copied().unwrap_or_default()
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

fn is_transient(error: &std::io::Error) -> bool {
    use std::io::ErrorKind;

    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
}

#[expect(unsafe_code, reason = "socket2 receives into uninitialised memory")]
fn initialised(bytes: &[MaybeUninit<u8>]) -> &[u8] {
    // SAFETY: the callers pass what recv_from reports to have written.
    unsafe { bytes.assume_init_ref() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silence_that_nothing_ends_counts() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let answers = [(at(1), Duration::ZERO), (at(11), Duration::ZERO)];

        let answered = gaps(start, &answers, Some(at(10)));
        let lost = gaps(start, &answers, Some(at(900)));

        let times = |gaps: Vec<(Instant, Duration)>| {
            gaps.into_iter().map(|(_, gap)| gap.as_millis()).collect::<Vec<_>>()
        };
        assert_eq!((times(answered), times(lost)), (vec![1, 10, 0], vec![1, 10, 889]));
    }

    #[test]
    fn quantiles_are_times_that_were_measured() {
        let times: Vec<_> = (1..=101).map(Duration::from_millis).collect();

        assert_eq!(quantile(&times, 0), Duration::from_millis(1));
        assert_eq!(quantile(&times, 50), Duration::from_millis(51));
        assert_eq!(quantile(&times, 99), Duration::from_millis(100));
        assert_eq!(quantile(&times, 100), Duration::from_millis(101));
        assert_eq!(quantile(&[], 50), Duration::ZERO);
    }
}
