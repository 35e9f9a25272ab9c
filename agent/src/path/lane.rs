//! One lane: the loop that carries packets between its TUN queues, its engine and its UDP sockets.
//!
//! The loop decides nothing. It waits in `epoll` until something is there or the engine's time has
//! come, gives every ready descriptor one bounded turn, and empties the engine after each. A
//! descriptor that has more is ready again at the next wait, so no direction and no network can
//! starve another. It never sleeps, and an idle lane does not run; only where answers have been
//! coming at once does it look out for one before it waits (`busy_poll`).

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use overlay_core::NetworkId;
use overlay_dataplane::{Engine, EngineConfig, LaneId};
use tokio::sync::mpsc;

use super::busy_poll::{BusyPoll, Side};
use super::coalesce::{Coalescer, Packets};
use super::command::{LaneCommand, Mailbox};
use super::counters::LaneCounters;
use super::loopback::is_own_outer;
use super::queue::Queue;
use super::report::{LaneEvent, LaneReport};
use super::split::Batch;
use super::steering::{LaneLoad, Steering};
use super::tun::Filled;
use super::udp::{ReceiveBuffers, UdpSockets};

/// How many descriptors one wait reports; more wait for the next turn.
const MAX_READY: usize = 64;
/// Bytes of datagrams opened before they are written out. A super-packet may arrive in two batches,
/// so both must be here to become one again; much more would leave the processor's cache in
/// between. Costs 5 % less time a byte than 32 KiB.
const OPEN_AT_ONCE: usize = 128 * 1024;
/// The shortest wait for an engine whose time has come and stays: a slow lane is better than one
/// that spins.
const MIN_WAIT: Duration = Duration::from_millis(1);

/// Everything one lane owns.
#[derive(Debug)]
pub(crate) struct Lane {
    id: LaneId,
    pub(super) engine: Engine,
    sockets: UdpSockets,
    ports: Arc<[u16]>,
    queues: BTreeMap<NetworkId, Queue>,
    pub(super) mailbox: Arc<Mailbox>,
    events: mpsc::Sender<LaneEvent>,
    epoll: Epoll,
    counters: LaneCounters,
    batch: Batch,
    batches: ReceiveBuffers,
    coalescer: Coalescer,
    steering: Steering,
    busy_poll: BusyPoll,
}

/// What a lane is made of.
pub(crate) struct LaneParts {
    /// How its engine starts.
    pub(crate) engine: EngineConfig,
    /// Its sockets.
    pub(crate) sockets: UdpSockets,
    /// The UDP ports of all lanes.
    pub(crate) ports: Arc<[u16]>,
    /// Where lanes say that they are busy.
    pub(crate) load: Arc<LaneLoad>,
    /// Where its commands come from.
    pub(crate) mailbox: Arc<Mailbox>,
    /// Where its events go.
    pub(crate) events: mpsc::Sender<LaneEvent>,
}

/// Whether a lane carries packets at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LaneStart {
    /// It does.
    Running,
    /// It waits until another process's lane has stopped.
    Waiting,
}

/// Whether a lane goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flow {
    Continue,
    End,
}

/// What a ready descriptor is, as `epoll` carries it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    Mailbox,
    UdpV4,
    UdpV6,
    Tun(NetworkId),
}

impl Lane {
    /// Puts a lane together.
    pub(crate) fn new(parts: LaneParts) -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        epoll.add(&*parts.mailbox, Source::Mailbox.interest())?;
        epoll.add(parts.sockets.v4(), Source::UdpV4.interest())?;
        if let Some(v6) = parts.sockets.v6() {
            epoll.add(v6, Source::UdpV6.interest())?;
        }

        let id = parts.engine.lane;

        Ok(Self {
            id,
            engine: Engine::new(parts.engine),
            sockets: parts.sockets,
            ports: parts.ports,
            queues: BTreeMap::new(),
            mailbox: parts.mailbox,
            events: parts.events,
            epoll,
            counters: LaneCounters::default(),
            batch: Batch::new(),
            batches: ReceiveBuffers::new(),
            coalescer: Coalescer::default(),
            steering: Steering::new(usize::from(id.0), parts.load),
            busy_poll: BusyPoll::default(),
        })
    }

    /// Carries packets until told to end. A lane that takes another process's place waits for its
    /// turn first.
    pub(crate) fn run(mut self, start: LaneStart) -> io::Result<()> {
        if start == LaneStart::Waiting && self.await_turn()? == Flow::End {
            return Ok(());
        }
        let mut ready = [EpollEvent::empty(); MAX_READY];
        loop {
            let count = self.wait(&mut ready)?;
            self.serve_timeout();
            for event in &ready[..count] {
                let Some(source) = Source::from_token(event.data()) else { continue };
                if self.serve(source)? == Flow::End {
                    return Ok(());
                }
            }
        }
    }

    fn wait(&mut self, ready: &mut [EpollEvent]) -> io::Result<usize> {
        let start = Instant::now();
        let poll = self.busy_poll.duration();
        while !poll.is_zero() && start.elapsed() < poll {
            let count = self.poll(ready, EpollTimeout::ZERO)?;
            if count > 0 {
                self.busy_poll.waited(start.elapsed());
                return Ok(count);
            }
            // Whoever is to answer may be waiting for this core.
            std::thread::yield_now();
        }

        let timeout = match self.engine.poll_timeout() {
            None => EpollTimeout::NONE,
            Some(due) => timeout_of(due.saturating_duration_since(Instant::now())),
        };
        let count = self.poll(ready, timeout)?;
        self.busy_poll.waited(start.elapsed());
        Ok(count)
    }

    fn poll(&self, ready: &mut [EpollEvent], timeout: EpollTimeout) -> io::Result<usize> {
        match self.epoll.wait(ready, timeout) {
            Ok(count) => Ok(count),
            Err(Errno::EINTR) => Ok(0),
            Err(error) => Err(error.into()),
        }
    }

    fn serve_timeout(&mut self) {
        let now = Instant::now();
        if self.engine.poll_timeout().is_some_and(|due| due <= now) {
            self.engine.handle_timeout(now);
            self.empty_engine();
        }
    }

    fn serve(&mut self, source: Source) -> io::Result<Flow> {
        match source {
            Source::Mailbox => return self.serve_mailbox(),
            Source::UdpV4 | Source::UdpV6 => self.serve_udp(source),
            Source::Tun(network) => self.serve_tun(network),
        }

        Ok(Flow::Continue)
    }

    fn serve_udp(&mut self, source: Source) {
        let socket = match source {
            Source::UdpV6 => self.sockets.v6(),
            Source::UdpV4 | Source::Mailbox | Source::Tun(_) => Some(self.sockets.v4()),
        };
        let Some(socket) = socket else { return };
        self.busy_poll.served(Side::Udp);
        let count = socket.receive(&mut self.batches, &mut self.counters);
        let now = Instant::now();
        self.steering.turn(now);
        let mut opened = 0;
        for index in 0..count {
            let Some(batch) = self.batches.batch(index) else { continue };
            self.counters.udp_datagrams_in += batch.len();
            self.engine.handle_udp(batch.from, batch.bytes, batch.segment, now);
            opened += batch.bytes.len();
            if opened >= OPEN_AT_ONCE {
                self.deliver();
                opened = 0;
            }
        }
        self.empty_engine();
    }

    fn serve_tun(&mut self, network: NetworkId) {
        let Some(queue) = self.queues.get(&network) else { return };
        self.busy_poll.served(Side::Tun);
        let now = Instant::now();
        self.steering.turn(now);
        let filled = queue.tun.read(&mut self.batch, &mut self.steering, &mut self.counters);
        self.counters.tun_packets_in += self.batch.len() as u64;
        let (host, ports) = (&queue.host, &self.ports);
        let mut looped = 0;
        let packets = self.batch.packets().filter(|packet| {
            let own = !host.is_empty() && is_own_outer(packet, host, ports);
            looped += u64::from(own);
            !own
        });
        self.engine.handle_tun(network, packets, now);
        self.counters.tun_own_outer += looped;
        if let Filled::Gone(error) = filled {
            self.lose_queue(network, &error);
        }
        self.empty_engine();
    }

    fn serve_mailbox(&mut self) -> io::Result<Flow> {
        let mut pending = self.mailbox.take();
        loop {
            if let Some(tables) = pending.tables.take() {
                self.engine.publish(&tables, Instant::now());
            }
            match pending.commands.pop_front() {
                None => break,
                Some(LaneCommand::Freeze(reply)) => {
                    // Nothing that was made may stay behind.
                    self.empty_engine();
                    match self.stand_still(reply)? {
                        Some(since) => pending.add(since),
                        None => return Ok(Flow::End),
                    }
                }
                Some(LaneCommand::Shutdown) => return Ok(Flow::End),
                Some(command) => self.carry_out(command),
            }
        }
        self.empty_engine();

        Ok(Flow::Continue)
    }

    pub(super) fn carry_out(&mut self, command: LaneCommand) {
        match command {
            LaneCommand::AddQueue(network, queue) => self.add_queue(network, queue),
            LaneCommand::RemoveQueue(network) => self.remove_queue(network),
            LaneCommand::WakePeers => self.engine.wake_peers(Instant::now()),
            LaneCommand::Greet => self.engine.greet(Instant::now()),
            LaneCommand::Own(own) => self.engine.know_own(own),
            LaneCommand::Announce => self.engine.announce(Instant::now()),
            LaneCommand::Hurry(node) => self.engine.hurry(node, Instant::now()),
            // The caller may have given up.
            LaneCommand::Report(reply) => drop(reply.send(self.report())),
            // These are for a lane that stands still or waits, or are handled by its loop.
            LaneCommand::Freeze(_) | LaneCommand::Thaw { .. } | LaneCommand::Shutdown => {}
            LaneCommand::Resume(..) | LaneCommand::Begin => {}
        }
    }

    fn add_queue(&mut self, network: NetworkId, queue: Queue) {
        self.remove_queue(network);
        match self.epoll.add(&queue.tun, Source::Tun(network).interest()) {
            Ok(()) => drop(self.queues.insert(network, queue)),
            Err(error) => {
                self.emit(LaneEvent::TunLost { lane: self.id, network, error: error.to_string() })
            }
        }
    }

    fn remove_queue(&mut self, network: NetworkId) {
        if let Some(queue) = self.queues.remove(&network) {
            // Explicitly, because another process may hold the same queue open, which would keep it
            // registered.
            let _ = self.epoll.delete(&queue.tun);
        }
    }

    fn lose_queue(&mut self, network: NetworkId, error: &io::Error) {
        self.remove_queue(network);
        self.emit(LaneEvent::TunLost { lane: self.id, network, error: error.to_string() });
    }

    /// Carries out everything the engine has made.
    pub(super) fn empty_engine(&mut self) {
        while let Some(transmit) = self.engine.poll_transmit() {
            self.sockets.send(transmit.to, transmit.bytes, transmit.segment, &mut self.counters);
        }
        self.deliver();
        while let Some(event) = self.engine.poll_event() {
            self.emit(LaneEvent::Peer(self.id, event));
        }
    }

    /// Writes what the engine opened to the TUN devices.
    fn deliver(&mut self) {
        while let Some(received) = self.engine.poll_tun() {
            match self.queues.get_mut(&received.network) {
                Some(queue) => {
                    let packets = Packets { bytes: received.bytes, ranges: received.packets };
                    queue.tun.write(
                        packets,
                        &mut self.coalescer,
                        &mut self.steering,
                        &mut self.counters,
                    );
                }
                None => self.counters.tun_missing += received.packets.len() as u64,
            }
        }
    }

    fn emit(&self, event: LaneEvent) {
        // The agent reads statuses as well; an event lost to a full channel delays nothing but a
        // log line.
        if self.events.try_send(event).is_err() {
            tracing::debug!(lane = %self.id, "Dropped an event that nobody takes");
        }
    }

    fn report(&self) -> LaneReport {
        LaneReport {
            lane: self.id,
            port: self.sockets.port(),
            engine: self.engine.counters().clone(),
            io: self.counters,
            segments: self.sockets.segments(),
            refused: self.sockets.refused().map(|at| at.elapsed()),
            peers: self.engine.status(Instant::now()),
        }
    }
}

/// Rounds up to whole milliseconds, which is what `epoll` counts in: a wait that ends early would
/// be a turn for nothing.
fn timeout_of(wait: Duration) -> EpollTimeout {
    let millis = wait.max(MIN_WAIT).as_micros().div_ceil(1000);

    EpollTimeout::try_from(millis).unwrap_or(EpollTimeout::MAX)
}

impl Source {
    fn interest(self) -> EpollEvent {
        EpollEvent::new(EpollFlags::EPOLLIN, self.token())
    }

    fn token(self) -> u64 {
        match self {
            Self::Mailbox => 0,
            Self::UdpV4 => 1,
            Self::UdpV6 => 2,
            Self::Tun(network) => network.as_u64() << 2 | 3,
        }
    }

    fn from_token(token: u64) -> Option<Self> {
        match token & 3 {
            0 => Some(Self::Mailbox),
            1 => Some(Self::UdpV4),
            2 => Some(Self::UdpV6),
            _ => NetworkId::try_from(token >> 2).ok().map(Self::Tun),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_survives_its_token() {
        for source in [Source::Mailbox, Source::UdpV4, Source::UdpV6, Source::Tun(NetworkId::FIRST)]
        {
            assert_eq!(Source::from_token(source.token()), Some(source));
        }
        assert_eq!(
            Source::from_token(Source::Tun(NetworkId::LAST).token()),
            Some(Source::Tun(NetworkId::LAST))
        );
    }

    #[test]
    fn a_wait_never_ends_before_its_time() {
        assert_eq!(timeout_of(Duration::from_micros(1_001)), EpollTimeout::from(2_u8));
        assert_eq!(timeout_of(Duration::ZERO), EpollTimeout::from(1_u8));
        assert_eq!(timeout_of(Duration::from_secs(1 << 40)), EpollTimeout::MAX);
    }
}
