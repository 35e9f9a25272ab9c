//! Does not hear clients for a moment that ask more than they may: of sandboxes, and of networks
//! that have no guard (`kernel::nft`), which would not let such questions come this far.
//!
//! To read a question and drop it costs some microseconds, which a container can have spent
//! hundreds of thousands of times a second. So the kernel drops them, with a filter on the sockets
//! (socket(7), `SO_ATTACH_FILTER`): the time that takes is the sender's.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

use socket2::{SockFilter, SockRef};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use super::counts::{DnsCounts, DnsRefusal};
use super::rates::LONGEST_PAUSE;
use super::served_sockets::ServedSockets;

/// How long a client is not heard. What it may ask again by then is answered within a millisecond
/// or so, in which the questions of others still find room. If it goes on and on, each time is twice
/// the one before, up to [`LONGEST_PAUSE`].
const PAUSE: Duration = Duration::from_millis(50);
/// How long a client must ask no more than it may for the next pause to be short again.
const REST: Duration = Duration::from_secs(1);
/// The most clients that are not heard at the same time: a filter of 600 instructions, of 4,096
/// that the kernel takes.
const MAX_SHUT_OUT: usize = 64;
/// Reports of floods that wait; the same client is reported again and again.
const REPORTS: usize = 64;

/// Whose questions the filters of a server drop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ShutOut {
    /// Those of the clients that ask too much.
    Clients,
    /// All, since all are of one client.
    All,
}

/// Reports floods to the guard of a server.
#[derive(Debug, Clone)]
pub(super) struct FloodReports(mpsc::Sender<IpAddr>);

impl FloodReports {
    /// Opens the way to a guard.
    pub(super) fn channel() -> (Self, mpsc::Receiver<IpAddr>) {
        let (reports, floods) = mpsc::channel(REPORTS);

        (Self(reports), floods)
    }

    /// Reports that a client asks more than it may.
    pub(super) fn report(&self, client: IpAddr) {
        // If the guard has not come to others yet, the next question reports it again.
        let _ = self.0.try_send(client);
    }
}

/// The filters of a server's sockets.
#[derive(Debug, Clone)]
pub(super) struct FloodGuard {
    sockets: Arc<ServedSockets>,
    shut_out: ShutOut,
    counts: Arc<DnsCounts>,
}

impl FloodGuard {
    /// Guards these sockets.
    pub(super) fn new(
        sockets: Arc<ServedSockets>,
        shut_out: ShutOut,
        counts: Arc<DnsCounts>,
    ) -> Self {
        Self { sockets, shut_out, counts }
    }

    /// Shuts out whoever is reported, each for a moment; until the last who reports is gone.
    pub(super) async fn run(self, floods: &mut mpsc::Receiver<IpAddr>) {
        let mut pauses = Pauses::default();
        let mut dropped = self.dropped();
        // What an earlier session shut out is let in again.
        self.apply(&pauses);
        loop {
            let next = pauses.next_end();
            let over = async {
                match next {
                    Some(next) => sleep_until(next).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                flood = floods.recv() => {
                    let Some(client) = flood else { return };
                    if !pauses.begin(client, Instant::now()) {
                        continue;
                    }
                    tracing::debug!(%client, "A container asks too many DNS questions");
                }
                () = over => pauses.end(Instant::now()),
            }
            self.apply(&pauses);
            let now = self.dropped();
            self.counts.add(DnsRefusal::Flooded, now.saturating_sub(dropped));
            dropped = now;
        }
    }

    fn apply(&self, pauses: &Pauses) {
        for (ip, udp, tcp) in self.sockets.iter() {
            let of_family =
                pauses.shut_out.keys().copied().filter(|client| client.is_ipv4() == ip.is_ipv4());
            let program = match self.shut_out {
                ShutOut::All if pauses.shut_out.is_empty() => Vec::new(),
                ShutOut::All => vec![ret(DROP)],
                ShutOut::Clients => program(of_family),
            };
            for socket in [SockRef::from(&**udp), SockRef::from(&**tcp)] {
                let set = if program.is_empty() {
                    // There may be none.
                    let _ = socket.detach_filter();
                    Ok(())
                } else {
                    socket.attach_filter(&program)
                };
                if let Err(error) = set {
                    tracing::debug!(%error, "Failed to filter DNS questions");
                }
            }
        }
    }

    /// Counts the datagrams that the kernel has dropped on the sockets so far.
    fn dropped(&self) -> u64 {
        self.sockets.iter().map(|(_, udp, _)| drops(udp.as_fd()).unwrap_or(0)).sum()
    }
}

/// Who is not heard, and how long.
#[derive(Debug, Default)]
struct Pauses {
    shut_out: BTreeMap<IpAddr, Pause>,
    /// Those that are heard again, and were not a moment ago.
    over: BTreeMap<IpAddr, Pause>,
}

#[derive(Debug, Clone, Copy)]
struct Pause {
    until: Instant,
    length: Duration,
}

impl Pauses {
    /// Shuts out a client; tells whether it was heard before, and is not now.
    fn begin(&mut self, client: IpAddr, now: Instant) -> bool {
        if self.shut_out.contains_key(&client) || self.shut_out.len() >= MAX_SHUT_OUT {
            return false;
        }
        self.over.retain(|_, pause| now < pause.until + REST);
        let last = self.over.remove(&client);
        let length = last.map_or(PAUSE, |last| (last.length * 2).min(LONGEST_PAUSE));
        self.shut_out.insert(client, Pause { until: now + length, length });

        true
    }

    /// Lets in whose pause is over.
    fn end(&mut self, now: Instant) {
        let over = self.shut_out.extract_if(.., |_, pause| pause.until <= now);
        self.over.extend(over);
    }

    fn next_end(&self) -> Option<Instant> {
        self.shut_out.values().map(|pause| pause.until).min()
    }
}

/// What a filter returns of a packet: nothing, or all of it.
const DROP: u32 = 0;
const PASS: u32 = u32::MAX;
/// Instructions (linux/bpf_common.h): to load a word of the packet (`BPF_LD | BPF_W | BPF_ABS`),
/// to compare it (`BPF_JMP | BPF_JEQ | BPF_K`), and to decide (`BPF_RET | BPF_K`).
const LOAD: u16 = 0x20;
const COMPARE: u16 = 0x15;
const RETURN: u16 = 0x06;
/// Where the packet's network header is, to [`LOAD`] (`SKF_NET_OFF` of linux/filter.h).
const NETWORK_HEADER: u32 = (-0x10_0000_i32).cast_unsigned();
/// Where the source address is in the header of each family.
const SOURCE_V4: u32 = 12;
const SOURCE_V6: u32 = 8;

fn ret(len: u32) -> SockFilter {
    SockFilter::new(RETURN, 0, 0, len)
}

/// Writes a filter that drops what comes from these addresses, all of one family; empty for none.
fn program(clients: impl Iterator<Item = IpAddr>) -> Vec<SockFilter> {
    let mut program = Vec::new();
    for client in clients {
        let (source, words): (u32, Vec<u32>) = match client {
            IpAddr::V4(v4) => (SOURCE_V4, vec![v4.to_bits()]),
            IpAddr::V6(v6) => {
                let words = v6.octets();
                let words = words.chunks_exact(4).filter_map(|bytes| bytes.first_chunk().copied());
                (SOURCE_V6, words.map(u32::from_be_bytes).collect())
            }
        };
        let mut rest = words.len();
        for (at, word) in (0..).zip(words) {
            rest -= 1;
            program.push(SockFilter::new(LOAD, 0, 0, NETWORK_HEADER + source + 4 * at));
            // One that differs leads past the other words, and the end.
            let past = u8::try_from(2 * rest + 1).unwrap_or(u8::MAX);
            program.push(SockFilter::new(COMPARE, 0, past, word));
        }
        program.push(ret(DROP));
    }
    if !program.is_empty() {
        program.push(ret(PASS));
    }

    program
}

/// The number of words that `SO_MEMINFO` gives, and which is that of packets dropped
/// (linux/sock_diag.h).
const MEMINFO: usize = 9;
const MEMINFO_DROPS: usize = 8;

#[expect(unsafe_code, reason = "no crate has this option of getsockopt(2)")]
fn drops(socket: BorrowedFd<'_>) -> io::Result<u64> {
    let mut words = [0_u32; MEMINFO];
    let mut len = libc::socklen_t::try_from(size_of_val(&words)).map_err(io::Error::other)?;
    // SAFETY: the descriptor is open, and the kernel writes no more than `len` bytes.
    let done = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_MEMINFO,
            words.as_mut_ptr().cast(),
            &raw mut len,
        )
    };

    if done == 0 { Ok(words[MEMINFO_DROPS].into()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
#[path = "flood_guard_tests.rs"]
mod tests;
