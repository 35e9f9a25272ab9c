//! The packet engine of one lane: its inputs, its outputs, and the order of the stages.
//!
//! Outbound: `parse → source check → route → size check → seal`. Inbound: `open → commit → parse
//! again → owner check → destination check → deliver`. Nothing is allocated, locked or logged per
//! packet, except for packets that must wait for a session. The AEAD runs over a whole batch, see
//! [`crate::stage`].

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use overlay_core::{NetworkId, NodeId};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use zeroize::{Zeroize, Zeroizing};

use crate::context::LaneContext;
use crate::drop::{Counters, DropReason};
use crate::event::Event;
use crate::handshake_limiter::HandshakeRateLimiter;
use crate::io::{ReceivedPackets, Transmit};
use crate::network::{LaneIndex, LaneNetwork};
use crate::noise::{DataHeader, Kind, TunnelId, open_room};
use crate::notice::Notices;
use crate::rehandshake::RehandshakeLimiter;
use crate::stage::{self, OpenJob, OpenedJob, SealJob};
use crate::state::EngineState;
use crate::status::PeerStatus;
use crate::tables::{LaneId, Tables};
use crate::underlay::canonical;

/// The configuration of an engine. `Debug` does not print its seed.
pub struct EngineConfig {
    /// Which lane of this node the engine serves.
    pub lane: LaneId,
    /// How many lanes this node has, at least 1.
    pub lanes: u16,
    /// Fresh entropy from the operating system; never used twice.
    pub seed: [u8; 32],
    /// The current time.
    pub now: Instant,
    /// The time since the Unix epoch at `now`. It must not go back across restarts with the same
    /// keys, or peers reject handshakes as replays.
    pub unix_time: Duration,
}

impl fmt::Debug for EngineConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EngineConfig")
            .field("lane", &self.lane)
            .field("lanes", &self.lanes)
            .finish_non_exhaustive()
    }
}

/// How many peer lanes a lane that has just started calls by itself: their tunnels take 100 KiB,
/// should none of them answer.
const MAX_WOKEN: usize = 32;
/// How many peer lanes are greeted: at least one of them should be up.
const MAX_GREETED: usize = 4;
/// For how many peer lanes a lane keeps a translation open: 0.8 MiB of tunnels, and ten requests a
/// second.
const MAX_KEPT_OPEN: usize = 256;

/// The packet engine of one lane.
pub struct Engine {
    lane_index: LaneIndex,
    entropy: StdRng,
    clock: Clock,
    networks: BTreeMap<NetworkId, LaneNetwork>,
    handshake_limiter: HandshakeRateLimiter,
    rehandshakes: RehandshakeLimiter,
    cx: LaneContext,
    seals: Vec<SealJob<'static>>,
    opens: Vec<OpenJob<'static>>,
    opened: Vec<OpenedJob>,
}

impl Engine {
    /// Makes an engine that knows no network.
    pub fn new(mut config: EngineConfig) -> Self {
        let entropy = StdRng::from_seed(config.seed);
        config.seed.zeroize();

        Self {
            lane_index: LaneIndex { lane: config.lane, lanes: config.lanes.max(1) },
            entropy,
            clock: Clock { started: config.now, started_unix: config.unix_time, now: config.now },
            networks: BTreeMap::new(),
            handshake_limiter: HandshakeRateLimiter::new(config.now),
            rehandshakes: RehandshakeLimiter::new(config.now),
            cx: LaneContext::default(),
            seals: Vec::new(),
            opens: Vec::new(),
            opened: Vec::new(),
        }
    }

    /// Applies new tables. Sessions with peers whose keys stay go on; all others are wiped at once.
    ///
    /// A network whose `Arc` is the one published last is skipped.
    pub fn publish(&mut self, tables: &Tables, now: Instant) {
        let now = self.clock.advance(now);
        let has_news = self.tell(&tables.notices, now);
        let (kept, gone) =
            std::mem::take(&mut self.networks).into_iter().partition(|(id, network)| {
                tables
                    .networks
                    .get(id)
                    .is_some_and(|table| network.has(table) || network.is_keyed(&table.private_key))
            });
        self.networks = kept;
        gone.into_values().for_each(|network: LaneNetwork| network.remove(&mut self.cx));

        for (id, table) in &tables.networks {
            let network = self.networks.entry(*id).or_insert_with(|| {
                let mut seed = Zeroizing::new([0; 32]);
                self.entropy.fill(&mut seed[..]);
                LaneNetwork::new(table, seed, now, self.clock.unix_time())
            });
            if !network.has(table) {
                network.publish(table, self.lane_index, &mut self.cx, now);
            }
        }
        if has_news {
            self.call_to_tell(now);
        }
        self.wake_if_translated(now);
        self.tend_touched(now);
    }

    /// Takes over notices, and sends those that are new to the peers of the tables in use. Returns
    /// whether there are any.
    fn tell(&mut self, notices: &Arc<Notices>, now: Instant) -> bool {
        if Arc::ptr_eq(&self.cx.notices, notices) {
            return false;
        }
        let before = std::mem::replace(&mut self.cx.notices, Arc::clone(notices));
        let news: Vec<_> =
            notices.messages.iter().filter(|message| !before.has(message)).cloned().collect();
        for network in self.networks.values_mut() {
            network.tell(&news, &mut self.cx, now);
        }

        !news.is_empty() && !self.networks.is_empty()
    }

    /// Calls peers that there is no session with, for them to be told what is new. One lane does so
    /// for all.
    fn call_to_tell(&mut self, now: Instant) {
        if self.lane_index.lane != LaneId(0) {
            return;
        }
        let mut left = MAX_WOKEN;
        for network in self.networks.values_mut() {
            let dice = usize::from(self.entropy.random::<u16>());
            left -= network.call_to_tell(left, dice, &mut self.cx, now);
        }
    }

    /// Continues with the state of another process, in those networks in which this engine has the
    /// same key. Returns how many sessions could not be taken over; handshakes are made with those
    /// peers.
    ///
    /// The engine must have its tables and must not have done anything yet.
    pub fn resume(&mut self, state: EngineState, now: Instant) -> usize {
        let now = self.clock.advance(now);
        self.cx.translated = state.translated.or(self.cx.translated);
        let mut refused = 0;
        for known in state.networks {
            let network = self.networks.get_mut(&known.id);
            if let Some(network) =
                network.filter(|network| network.public_key() == known.public_key)
            {
                refused += network.resume(known, &mut self.cx, now);
            }
        }
        self.tend_touched(now);

        refused
    }

    pub(crate) fn state(&self) -> EngineState {
        let networks = self.networks.values().map(LaneNetwork::state).collect();

        EngineState { networks, translated: self.cx.translated }
    }

    /// Sends a handshake at once to peer lanes that this lane talks to and has no session with, 32
    /// at most.
    ///
    /// This is for a lane that has just started: its peers may hold sessions that it no longer
    /// knows. In small clusters this covers all peers. In large ones most peers are not in use, and
    /// those that are get called back when they send something.
    pub fn wake_peers(&mut self, now: Instant) {
        let now = self.clock.advance(now);
        let mut left = MAX_WOKEN;
        for network in self.networks.values_mut() {
            left -= network.wake(left, &mut self.cx, now);
        }
        self.tend_touched(now);
    }

    /// Calls a few peer lanes unless one has already said where it sees this node. A node behind a
    /// translation must learn that, since no peer can call it.
    pub fn greet(&mut self, now: Instant) {
        let now = self.clock.advance(now);
        if self.networks.values().any(LaneNetwork::is_seen) {
            return;
        }
        let mut left = MAX_GREETED;
        for network in self.networks.values_mut() {
            left -= network.wake(left, &mut self.cx, now);
        }
        self.tend_touched(now);
    }

    /// Sets the host's own addresses. A peer that sees this node at another address sees it through
    /// a translation. While the set is empty, nothing is concluded.
    pub fn know_own(&mut self, own: Arc<BTreeSet<IpAddr>>) {
        if self.cx.own != own {
            self.cx.own = own;
            self.cx.translated = None;
        }
    }

    /// Tells every peer with a session that this node's address may have changed.
    pub fn announce(&mut self, now: Instant) {
        let now = self.clock.advance(now);
        for network in self.networks.values_mut() {
            network.announce(&mut self.cx, now);
        }
        self.tend_touched(now);
    }

    /// Tries to reach the silent lanes of a node at once, because another of its lanes was heard.
    pub fn hurry(&mut self, node: NodeId, now: Instant) {
        let now = self.clock.advance(now);
        for network in self.networks.values_mut() {
            network.hurry(node, &mut self.cx, now);
        }
        self.tend_touched(now);
    }

    /// Accepts inner packets read from the TUN device of a network.
    pub fn handle_tun<'p>(
        &mut self,
        network: NetworkId,
        packets: impl IntoIterator<Item = &'p [u8]>,
        now: Instant,
    ) {
        let now = self.clock.advance(now);
        let mut seals = stage::reuse(std::mem::take(&mut self.seals));
        let mut network = self.networks.get_mut(&network);
        for packet in packets {
            self.cx.counters.tun_packets += 1;
            let forwarded = match &mut network {
                Some(network) => network.forward(packet, &mut seals, &mut self.cx, now),
                None => Err(DropReason::UnknownNetwork),
            };
            self.cx.counters.count(forwarded);
        }
        stage::seal_all(&mut seals, &mut self.cx);
        self.seals = stage::reuse(seals);
        self.tend_touched(now);
    }

    /// Accepts datagrams from one sender: `datagrams` holds them back to back, each `segment` bytes
    /// long except for the last, which may be shorter, as `UDP_GRO` delivers them. For a single
    /// datagram, `segment` is its length.
    pub fn handle_udp(&mut self, from: SocketAddr, datagrams: &[u8], segment: usize, now: Instant) {
        if datagrams.is_empty() {
            self.cx.counters.udp_datagrams += 1;
            self.cx.counters.drop(DropReason::NotWireguard);
        }
        let now = self.clock.advance(now);
        let from = canonical(from);
        let mut opens = stage::reuse(std::mem::take(&mut self.opens));
        self.cx.rx_buffer.forget_taken();
        for datagram in datagrams.chunks(segment.max(1)) {
            self.cx.counters.udp_datagrams += 1;
            let handled = match Kind::of(datagram) {
                Some(Kind::Data(header)) => {
                    self.begin_open(header, from, datagram, &mut opens, now)
                }
                Some(Kind::Initiation) => self.handle_initiation(from, datagram, now),
                Some(Kind::Answer(index)) => {
                    self.handle_answer(index.tunnel(), from, datagram, now)
                }
                None => Err(DropReason::NotWireguard),
            };
            self.cx.counters.count(handled);
        }
        self.finish_open(&mut opens, from, now);
        self.opens = stage::reuse(opens);
        self.cx.rx_buffer.forget_holes();
        self.tend_touched(now);
        if std::mem::take(&mut self.cx.is_news) {
            self.wake_if_translated(now);
            self.tend_touched(now);
        }
    }

    /// Performs whatever is due at `now`.
    pub fn handle_timeout(&mut self, now: Instant) {
        let now = self.clock.advance(now);
        while let Some(handle) = self.cx.deadlines.pop_due(now) {
            if let Some(network) = self.networks.get_mut(&handle.network) {
                network.handle_timeout(handle.link, &mut self.cx, now);
            }
        }
        self.tend_touched(now);
    }

    /// Returns when [`Engine::handle_timeout`] must next be called.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.cx.deadlines.first()
    }

    /// Takes the next datagrams to send. Datagrams for one peer come in order.
    pub fn poll_transmit(&mut self) -> Option<Transmit<'_>> {
        self.cx.transmit_queue.poll()
    }

    /// Takes the next inner packets to write to a TUN device.
    pub fn poll_tun(&mut self) -> Option<ReceivedPackets<'_>> {
        self.cx.rx_buffer.poll()
    }

    /// Takes the next event.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.cx.events.pop()
    }

    /// Returns the packet counters.
    pub fn counters(&self) -> &Counters {
        &self.cx.counters
    }

    /// Lists the status of each peer lane.
    pub fn status(&self, now: Instant) -> Vec<PeerStatus> {
        let now = self.clock.now.max(now);

        self.networks.values().flat_map(|network| network.status(now)).collect()
    }

    fn begin_open<'d>(
        &mut self,
        header: DataHeader,
        from: SocketAddr,
        message: &'d [u8],
        opens: &mut Vec<OpenJob<'d>>,
        now: Instant,
    ) -> Result<(), DropReason> {
        let Some(handle) = self.cx.demux.find(header.index.tunnel()) else {
            self.call_back(from, now);
            return Err(DropReason::UnknownIndex);
        };
        let network = self.networks.get_mut(&handle.network).ok_or(DropReason::UnknownIndex)?;
        let open = network.begin_open(handle.link, header, now)?;
        let buffer = self
            .cx
            .rx_buffer
            .reserve(open_room(message.len()))
            .ok_or(DropReason::DeliveryOverflow)?;
        opens.push(OpenJob { handle, open, message, buffer });

        Ok(())
    }

    /// Calls the peer that may still use a session that this engine does not know.
    fn call_back(&mut self, address: SocketAddr, now: Instant) {
        if !self.rehandshakes.admits(now) {
            return;
        }
        for network in self.networks.values_mut() {
            network.call_back(address, &mut self.cx, now);
        }
    }

    fn finish_open(&mut self, opens: &mut Vec<OpenJob<'_>>, from: SocketAddr, now: Instant) {
        let mut opened = std::mem::take(&mut self.opened);
        stage::open_all(opens, &mut opened, &mut self.cx);
        for job in opened.drain(..) {
            let accepted = match self.networks.get_mut(&job.handle.network) {
                Some(network) => network.accept(job, from, &mut self.cx, now),
                None => Err(DropReason::UnknownIndex),
            };
            self.cx.counters.count(accepted);
        }
        self.opened = opened;
    }

    fn handle_answer(
        &mut self,
        id: TunnelId,
        from: SocketAddr,
        datagram: &[u8],
        now: Instant,
    ) -> Result<(), DropReason> {
        let handle = self.cx.demux.find(id).ok_or(DropReason::UnknownIndex)?;
        let network = self.networks.get_mut(&handle.network).ok_or(DropReason::UnknownIndex)?;
        let message = network.receive(from, datagram, now)?;

        network.handle_message(Some(handle.link), message, from, &mut self.cx, now)
    }

    /// An initiation does not say which network it is for. Only the network's key verifies its MAC,
    /// at the cost of one hash per network.
    fn handle_initiation(
        &mut self,
        from: SocketAddr,
        datagram: &[u8],
        now: Instant,
    ) -> Result<(), DropReason> {
        let known = || self.networks.values().flat_map(LaneNetwork::addresses).collect();
        if !self.handshake_limiter.admits(from.ip(), now, known) {
            return Err(DropReason::RateLimited);
        }
        for network in self.networks.values_mut() {
            match network.receive(from, datagram, now) {
                Err(DropReason::WrongMac) => {}
                received => {
                    return network.handle_message(None, received?, from, &mut self.cx, now);
                }
            }
        }

        Err(DropReason::WrongMac)
    }

    /// No peer can call a node behind a translation, so the node calls its peers.
    fn wake_if_translated(&mut self, now: Instant) {
        if self.cx.translated.is_none() {
            return;
        }
        let mut left = MAX_KEPT_OPEN;
        for network in self.networks.values_mut() {
            left -= network.wake(left, &mut self.cx, now);
        }
    }

    fn tend_touched(&mut self, now: Instant) {
        while let Some(handle) = self.cx.dirty.pop() {
            if let Some(network) = self.networks.get_mut(&handle.network) {
                network.update_timers(handle.link, &mut self.cx, now);
            }
        }
    }
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine")
            .field("lane", &self.lane_index.lane)
            .field("networks", &self.networks.keys())
            .finish()
    }
}

/// The driver's time. Threads may read it in slightly different order; here it never goes back.
#[derive(Debug)]
struct Clock {
    started: Instant,
    started_unix: Duration,
    now: Instant,
}

impl Clock {
    fn advance(&mut self, now: Instant) -> Instant {
        self.now = self.now.max(now);

        self.now
    }

    fn unix_time(&self) -> Duration {
        self.started_unix + self.now.saturating_duration_since(self.started)
    }
}
