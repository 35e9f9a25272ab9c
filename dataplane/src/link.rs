//! What a lane of this node and a lane of a peer share in one network: a tunnel, a path, and the
//! packets that wait for a session.
//!
//! Routing is decided in [`crate::network`].

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use overlay_core::{NodeId, PublicKey};

use crate::index::PeerIndex;
use crate::liveness::Liveness;
use crate::noise::{RETRY_TIME, SESSION_TIME, Timestamp, Tunnel};
use crate::notice::Exchange;
use crate::path::Path;
use crate::path_mtu::PathMtu;
use crate::state::{PathState, PeerLinkState};
use crate::status::{PeerError, PeerState};
use crate::tables::LaneId;
use crate::transmit_queue::GsoBatchId;

/// How many packets may wait for a session; the oldest are dropped first. At most 128 times the
/// MTU: 180 KB a link.
pub(crate) const MAX_WAITING: usize = 128;

/// The tunnel to one lane of a peer, and what is known about it.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) node: NodeId,
    pub(crate) lane: LaneId,
    pub(crate) public_key: PublicKey,
    /// The peer that the remote lane belongs to.
    pub(crate) peer: PeerIndex,
    /// Whether packets to or from linked networks go through the peer.
    is_gateway: bool,
    /// Whether it was a lost gateway when the link came to rest.
    rested_lost: bool,
    /// Whether one of the two lanes sends to the other; other pairs only listen.
    pub(crate) is_used: bool,
    pub(crate) path: Path,
    /// How large a packet may be on this path.
    pub(crate) mtu: PathMtu,
    /// Whether the two lanes hear each other. Made with the first message, removed when the link
    /// rests.
    pub(crate) life: Option<Box<Liveness>>,
    /// What is known of the peer's notices. Made with the first of them.
    exchange: Option<Box<Exchange>>,
    /// Made on demand, removed when the protocol gives it up.
    pub(crate) tunnel: Option<Tunnel>,
    /// When the tunnel must be checked next, as entered in the deadlines.
    pub(crate) deadline: Option<Instant>,
    /// Whether the link is among those to check after the batch.
    pub(crate) is_touched: bool,
    /// The batch that the link's next packet goes into.
    pub(crate) batch: Option<GsoBatchId>,
    /// The timestamp of the last initiation accepted from the peer.
    pub(crate) last_initiation: Timestamp,
    pub(crate) tx_bytes: u64,
    pub(crate) rx_bytes: u64,
    /// When it last carried, or was asked to carry, a packet.
    last_use: Instant,
    waiting: VecDeque<Vec<u8>>,
    last_handshake: Option<Instant>,
    state: PeerState,
    since: Instant,
    error: Option<PeerError>,
}

impl Link {
    /// Makes a link without a session, in a network whose tunnel MTU is `mtu` bytes.
    pub(crate) fn new(node: NodeId, public_key: PublicKey, mtu: u16, now: Instant) -> Self {
        Self {
            node,
            lane: LaneId(0),
            public_key,
            peer: PeerIndex(0),
            is_gateway: false,
            rested_lost: false,
            is_used: false,
            path: Path::default(),
            mtu: PathMtu::new(mtu),
            life: None,
            exchange: None,
            tunnel: None,
            deadline: None,
            is_touched: false,
            batch: None,
            last_initiation: Timestamp::ZERO,
            tx_bytes: 0,
            rx_bytes: 0,
            last_use: now,
            waiting: VecDeque::new(),
            last_handshake: None,
            state: PeerState::Idle,
            since: now,
            error: None,
        }
    }

    /// Returns the state for another process.
    pub(crate) fn to_state(&self) -> PeerLinkState {
        PeerLinkState {
            node: self.node,
            public_key: self.public_key,
            tunnel: self.tunnel.as_ref().and_then(|tunnel| tunnel.state()),
            last_initiation: self.last_initiation.to_bytes(),
            path: PathState {
                confirmed: self.path.current(),
                attempts: self.path.attempts(),
                trying_since: self.path.trying_since(),
                mtu: self.mtu.is_narrow().then(|| self.mtu.mtu()),
                mtu_source: self.mtu.source(),
                answers_probes: self.mtu.is_answered(),
                is_probing: self.mtu.is_asking(),
            },
            life: self.life.as_deref().map(Liveness::state),
            tx_bytes: self.tx_bytes,
            rx_bytes: self.rx_bytes,
            last_use: self.last_use,
            waiting: self.waiting.iter().cloned().collect(),
            last_handshake: self.last_handshake,
            state: self.state,
            since: self.since,
        }
    }

    /// Continues with the state of another process, except for the tunnel. Returns how many packets
    /// wait.
    pub(crate) fn resume(&mut self, state: PeerLinkState, now: Instant) -> u64 {
        self.last_initiation = Timestamp::from_bytes(state.last_initiation);
        let is_under_way =
            state.tunnel.as_ref().is_some_and(|tunnel| tunnel.timers.trying.is_some());
        self.path.resume(&state.path, is_under_way);
        self.mtu.resume(&state.path, now);
        self.life = state.life.as_ref().map(|life| Box::new(Liveness::resume(life)));
        self.set_gateway(self.is_gateway);
        (self.tx_bytes, self.rx_bytes) = (state.tx_bytes, state.rx_bytes);
        self.last_use = state.last_use;
        self.waiting = state.waiting.into_iter().take(MAX_WAITING).collect();
        self.last_handshake = state.last_handshake;
        (self.state, self.since) = (state.state, state.since);

        self.waiting.len() as u64
    }

    /// Returns what is known of the peer's notices.
    pub(crate) fn exchange(&mut self, now: Instant) -> &mut Exchange {
        self.exchange.get_or_insert_with(|| Box::new(Exchange::new(now)))
    }

    /// Keeps a packet until there is a session. Returns whether an older one was dropped for it.
    pub(crate) fn wait(&mut self, packet: &[u8]) -> bool {
        let is_full = self.waiting.len() >= MAX_WAITING;
        if is_full {
            self.waiting.pop_front();
        }
        self.waiting.push_back(packet.to_vec());

        is_full
    }

    /// Returns how many packets are waiting.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Takes the packet that has waited longest.
    pub(crate) fn next_waiting(&mut self) -> Option<Vec<u8>> {
        self.waiting.pop_front()
    }

    /// Drops all waiting packets and returns how many there were.
    pub(crate) fn forget_waiting(&mut self) -> u64 {
        let count = self.waiting.len() as u64;
        self.waiting.clear();

        count
    }

    /// Returns what is known about whether the two lanes hear each other.
    #[inline]
    pub(crate) fn life(&mut self, now: Instant) -> &mut Liveness {
        let (is_gateway, is_lost) = (self.is_gateway, self.rested_lost);

        self.life.get_or_insert_with(|| {
            let mut life = Liveness::new(now);
            life.set_gateway(is_gateway);
            life.set_lost(is_lost);
            Box::new(life)
        })
    }

    /// Forgets what is known about whether the two lanes hear each other, but for a gateway that is
    /// lost: it is so until it is heard.
    pub(crate) fn rest(&mut self) {
        self.rested_lost = self.is_lost();
        self.life = None;
    }

    /// Returns whether the peer is a gateway that does not answer, so that another one is better.
    pub(crate) fn is_lost(&self) -> bool {
        self.life.as_ref().map_or(self.rested_lost, |life| life.is_lost())
    }

    /// Says whether packets to or from linked networks go through the peer.
    pub(crate) fn set_gateway(&mut self, is_gateway: bool) {
        self.is_gateway = is_gateway;
        self.rested_lost &= is_gateway;
        if let Some(life) = &mut self.life {
            life.set_gateway(is_gateway);
        }
    }

    /// Counts a message of the session that is sent with `len` bytes.
    #[inline]
    pub(crate) fn note_sent(&mut self, len: usize) {
        self.tx_bytes += len as u64;
        if let Some(life) = &mut self.life {
            life.note_sent();
        }
    }

    /// Returns whether packets wait for a sign of life from the peer.
    pub(crate) fn is_wanted(&self) -> bool {
        self.life.as_ref().is_some_and(|life| life.is_wanted())
    }

    /// Notes that a packet was sent or received.
    pub(crate) fn used(&mut self, now: Instant) {
        self.last_use = now;
    }

    /// Notes that a packet for a container came.
    pub(crate) fn fed(&mut self, now: Instant) {
        self.used(now);
        if let Some(life) = &mut self.life {
            life.note_fed(now);
        }
    }

    /// Returns whether the link was unused for as long as a session lives, and no session is left.
    ///
    /// A tunnel renews its sessions as long as they are used; WireGuard is silent when there is
    /// nothing to say.
    pub(crate) fn is_idle(&self, now: Instant) -> bool {
        self.waiting.is_empty()
            && now.saturating_duration_since(self.last_use) >= SESSION_TIME
            && !self.has_session(now)
    }

    /// Returns whether there is a session that can send now.
    pub(crate) fn has_session(&self, now: Instant) -> bool {
        let age = self.tunnel.as_ref().and_then(|tunnel| tunnel.session_age(now));

        age.is_some_and(|age| age < SESSION_TIME)
    }

    /// Notes that a handshake was sent.
    pub(crate) fn attempted(&mut self, now: Instant) {
        let retry = self.path.retry_time(self.is_wanted());
        if let Some(tunnel) = &mut self.tunnel {
            tunnel.set_retry_time(retry);
        }
        if !self.has_session(now) && self.state != PeerState::Unreachable {
            self.enter(PeerState::Connecting, now);
        }
    }

    /// Returns whether [`Link::heard`] and all that follows from it would change nothing: the peer
    /// was heard at this time from this address, no packet waits for an answer since, and none for
    /// a session.
    #[inline]
    pub(crate) fn is_heard(&self, from: SocketAddr, now: Instant) -> bool {
        let is_heard = |life: &Liveness| life.heard() == Some(now) && !life.is_wanted();

        self.life.as_deref().is_some_and(is_heard)
            && self.path.current() == Some(from)
            && self.waiting.is_empty()
    }

    /// Notes that an authentic message came from the peer. Returns whether it was not connected
    /// before.
    pub(crate) fn heard(&mut self, now: Instant) -> bool {
        self.error = None;
        if let Some(tunnel) = &mut self.tunnel {
            tunnel.set_retry_time(RETRY_TIME);
        }
        let is_news = self.state(now).0 != PeerState::Established;
        if is_news {
            self.note_handshake(now);
            self.state = PeerState::Established;
            self.since = now;
        }

        is_news
    }

    /// Copies the time of the last handshake, which the tunnel forgets.
    pub(crate) fn note_handshake(&mut self, now: Instant) {
        let age = self.tunnel.as_ref().and_then(|tunnel| tunnel.session_age(now));
        self.last_handshake = age.and_then(|age| now.checked_sub(age)).or(self.last_handshake);
    }

    /// Changes the state; `since` is reset only if the state is another one.
    pub(crate) fn enter(&mut self, state: PeerState, now: Instant) {
        if self.state != state {
            self.state = state;
            self.since = now;
        }
    }

    /// Records why the peer cannot be reached.
    pub(crate) fn set_error(&mut self, error: PeerError) {
        self.error = Some(error);
    }

    /// Counts an authentic message of the session.
    #[inline]
    pub(crate) fn note_received(&mut self, now: Instant) {
        self.life(now).note_received();
        if let Some(life) = &mut self.life
            && life.is_in_doubt()
            && let Some(age) = self.tunnel.as_ref().and_then(|tunnel| tunnel.session_age(now))
        {
            life.note_session(age, now);
        }
    }

    /// Returns the state to show to users, and since when it holds: a peer that hears nothing is
    /// unreachable.
    pub(crate) fn shown_state(&self, now: Instant) -> (PeerState, Duration) {
        match self.life.as_ref().and_then(|life| life.deaf_since(now)) {
            Some(since) => (PeerState::Unreachable, now.saturating_duration_since(since)),
            None => self.state(now),
        }
    }

    /// Returns the state and since when it holds.
    pub(crate) fn state(&self, now: Instant) -> (PeerState, Duration) {
        let over = self
            .last_handshake
            .and_then(|at| at.checked_add(SESSION_TIME))
            .filter(|end| *end <= now);
        let (state, since) = match (self.state, over) {
            // Nothing reports the end of a session that is not needed.
            (PeerState::Established, Some(end)) => (PeerState::Idle, end),
            (state, _) => (state, self.since),
        };

        (state, now.saturating_duration_since(since))
    }

    /// Returns why the peer cannot be reached.
    pub(crate) fn error(&self, now: Instant) -> Option<PeerError> {
        if self.life.as_ref().is_some_and(|life| life.deaf_since(now).is_some()) {
            return Some(PeerError::NotHeard);
        }
        if self.error.is_none() && self.state == PeerState::Unreachable {
            return Some(PeerError::Silent { attempts: self.path.attempts() });
        }
        match self.path.attempts() {
            // A single unanswered handshake may just be under way.
            0 | 1 => self.error,
            attempts => self.error.or(Some(PeerError::NoAnswer { attempts })),
        }
    }

    /// Returns how long ago the last handshake was completed.
    pub(crate) fn handshake_age(&self, now: Instant) -> Option<Duration> {
        self.last_handshake.map(|at| now.saturating_duration_since(at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::start;

    fn link() -> Link {
        Link::new(NodeId::FIRST, PublicKey::from([1; 32]), 1408, start())
    }

    #[test]
    fn the_oldest_packet_goes_when_too_many_wait() {
        let mut link = link();

        let dropped =
            (0..=MAX_WAITING).filter(|i| link.wait(&[u8::try_from(*i).expect("small")])).count();

        assert_eq!(dropped, 1);
        assert_eq!(link.waiting(), MAX_WAITING);
        assert_eq!(link.next_waiting(), Some(vec![1]));
        assert_eq!(link.forget_waiting(), 127);
    }

    #[test]
    fn a_state_holds_since_it_was_entered_first() {
        let mut link = link();
        link.enter(PeerState::Connecting, start() + Duration::from_secs(1));
        link.enter(PeerState::Connecting, start() + Duration::from_secs(5));

        let (state, since) = link.state(start() + Duration::from_secs(10));

        assert_eq!((state, since), (PeerState::Connecting, Duration::from_secs(9)));
    }
}
