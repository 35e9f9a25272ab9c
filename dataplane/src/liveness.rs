//! Whether a peer hears us and we hear it: a value without I/O that says when to ask.
//!
//! ```text
//!              packet sent, nothing heard for 2 s          for 5 s, and asked
//!   content ──────────────────────────────────► checking ───────────────────► silent
//!      ▲                                            │                            │
//!      └──────────── anything authentic ────────────┴────────────────────────────┘
//! ```
//! While checking, it asks through the session, then by handshakes to every address. Nothing is
//! asked while nothing is sent, and a silent peer is given up when nothing was sent to it for three
//! minutes. Peers that never answered an [`Echo`] run another WireGuard implementation. Those send
//! something within 10 seconds of receiving a packet, so they are given that long.
//!
//! A gateway to a linked network is asked sooner, so that a connection through it goes on through
//! another one within two seconds: it is lost from then on until it is heard again.
//!
//! The peer may be the one that hears nothing. It then asks again and again although every request
//! is answered. So that it asks also where it only receives, a receiver asks when a stream pauses,
//! unless the sender, who waits for less long, has asked before.

mod due;
mod timers;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

pub(crate) use self::due::Due;
use crate::echo::{Echo, EchoKind, Loss};
use crate::loss::LossMeter;
use crate::state::LivenessState;

/// The interval between these requests.
const CHECK_PACE: Duration = Duration::from_millis(500);
/// How many times a greeting is repeated until it is answered.
const GREETINGS: u8 = 6;
/// The interval at which peers are told of a new address of ours: short, because packets are lost
/// until they know it.
const MOVED_PACE: Duration = Duration::from_millis(200);
/// How long the peer must have heard none of our answers before we believe that it hears nothing.
const DEAF: Duration = Duration::from_millis(2_500);
/// How long after the peer's last request or initiation that is believed.
const DEAF_FRESH: Duration = Duration::from_secs(10);
/// How many requests or initiations it takes to believe it.
const FEWEST_CALLS: u32 = 3;
/// How long the peer's report of its losses counts.
const TOLD_FRESH: Duration = Duration::from_secs(5);
/// The interval at which a translation on our side is kept open (WireGuard's advice for
/// `PersistentKeepalive`).
const KEEP_OPEN: Duration = Duration::from_secs(25);
/// The longest round trip that is believed.
const MAX_ROUND_TRIP: Duration = Duration::from_secs(10);
const TIME_BITS: u64 = (1 << 48) - 1;

/// Whether the peer is known to answer [`Echo`]es.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Speaks {
    Unknown,
    Yes,
    No,
}

/// Requests that are sent until they are answered, whatever else is heard.
#[derive(Debug)]
struct Asking {
    next: Instant,
    pace: Duration,
    left: u8,
    /// Whether our address may not be the one that the peer knows.
    has_moved: bool,
    begun: Instant,
}

/// A peer that does not hear us.
#[derive(Debug, Clone, Copy)]
struct Deaf {
    since: Instant,
    last: Instant,
    count: u32,
    /// Whether it sent an initiation and did not confirm the session since.
    has_called: bool,
}

/// What two lanes know about whether they hear each other.
#[derive(Debug)]
pub(crate) struct Liveness {
    born: Instant,
    speaks: Speaks,
    sent: u32,
    received: u32,
    heard: Option<Instant>,
    /// When the first packet was sent, or wanted to be, since the peer was last heard.
    unanswered: Option<Instant>,
    /// When the last packet for a container came, if nothing else was heard since.
    fed: Option<Instant>,
    /// When the last packet was sent, or wanted to be.
    wanted: Option<Instant>,
    /// When the next check is due, and how many there were; only while packets are unanswered.
    check: Option<(Instant, u32)>,
    silent: Option<Instant>,
    is_gateway: bool,
    /// Whether a gateway did not answer, and was not heard since.
    is_lost: bool,
    asking: Option<Asking>,
    deaf: Option<Deaf>,
    keep_open: Option<Instant>,
    told: Instant,
    told_sent: u32,
    trip: Option<Duration>,
    seen_at: Option<SocketAddr>,
    incoming: LossMeter,
    outgoing: Option<(Loss, Instant)>,
}

impl Liveness {
    /// Makes a value that knows nothing yet.
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            born: now,
            speaks: Speaks::Unknown,
            sent: 0,
            received: 0,
            heard: None,
            unanswered: None,
            fed: None,
            wanted: None,
            check: None,
            silent: None,
            is_gateway: false,
            is_lost: false,
            asking: None,
            deaf: None,
            keep_open: None,
            told: now,
            told_sent: 0,
            trip: None,
            seen_at: None,
            incoming: LossMeter::default(),
            outgoing: None,
        }
    }

    /// Returns the state for another process.
    pub(crate) fn state(&self) -> LivenessState {
        LivenessState {
            born: self.born,
            speaks: match self.speaks {
                Speaks::Unknown => None,
                Speaks::Yes => Some(true),
                Speaks::No => Some(false),
            },
            sent: self.sent,
            received: self.received,
            heard: self.heard,
            unanswered: self.unanswered,
            wanted: self.wanted,
            check: self.check,
            silent: self.silent,
            keep_open: self.keep_open,
            told: (self.told, self.told_sent),
            trip: self.trip,
            seen_at: self.seen_at,
        }
    }

    /// Continues with the state of another process. Losses must be measured again.
    pub(crate) fn resume(state: &LivenessState) -> Self {
        Self {
            speaks: match state.speaks {
                None => Speaks::Unknown,
                Some(true) => Speaks::Yes,
                Some(false) => Speaks::No,
            },
            sent: state.sent,
            received: state.received,
            heard: state.heard,
            unanswered: state.unanswered,
            wanted: state.wanted,
            check: state.check,
            silent: state.silent,
            keep_open: state.keep_open,
            told: state.told.0,
            told_sent: state.told.1,
            trip: state.trip,
            seen_at: state.seen_at,
            ..Self::new(state.born)
        }
    }

    /// Counts a message that is sent.
    #[inline]
    pub(crate) fn note_sent(&mut self) {
        self.sent = self.sent.wrapping_add(1);
    }

    /// Notes that a container sent a packet to the peer.
    #[inline]
    pub(crate) fn note_wanted(&mut self, now: Instant) {
        self.wanted = Some(now);
        if self.unanswered.is_none() {
            self.unanswered = Some(now);
        }
    }

    /// Notes that a packet for a container came from the peer.
    #[inline]
    pub(crate) fn note_fed(&mut self, now: Instant) {
        self.fed = Some(now);
    }

    /// Counts an authentic message of a session.
    #[inline]
    pub(crate) fn note_received(&mut self) {
        self.received = self.received.wrapping_add(1);
    }

    /// Notes that an authentic message came from the peer. `is_first` says that it was not
    /// connected before.
    pub(crate) fn note_heard(&mut self, is_first: bool, now: Instant) {
        self.heard = Some(now);
        self.unanswered = None;
        self.check = None;
        self.is_lost = false;
        // The peer does not know that we hear it again.
        if self.silent.take().is_some() || (is_first && self.speaks != Speaks::No) {
            self.ask(GREETINGS, CHECK_PACE, now);
        }
    }

    /// Notes that the peer completed a handshake of ours, so it heard us.
    pub(crate) fn note_answered(&mut self) {
        self.deaf = None;
    }

    /// Notes that we answered the peer's initiation, which does not tell whether the peer hears us.
    pub(crate) fn note_called(&mut self, now: Instant) {
        let deaf =
            self.deaf.get_or_insert(Deaf { since: now, last: now, count: 0, has_called: true });
        (deaf.last, deaf.count, deaf.has_called) = (now, deaf.count.saturating_add(1), true);
    }

    /// Notes that the peer uses a session of this age, which it can only have from an answer of
    /// ours.
    pub(crate) fn note_session(&mut self, age: Duration, now: Instant) {
        if self.deaf.is_some_and(|deaf| age <= now.saturating_duration_since(deaf.since)) {
            self.deaf = None;
        }
    }

    /// Returns whether [`Liveness::note_session`] could change anything.
    #[inline]
    pub(crate) fn is_in_doubt(&self) -> bool {
        self.deaf.is_some_and(|deaf| deaf.has_called)
    }

    /// Returns whether the peer is silent.
    pub(crate) fn is_silent(&self) -> bool {
        self.silent.is_some()
    }

    /// Says whether the peer is a gateway to a linked network.
    pub(crate) fn set_gateway(&mut self, is_gateway: bool) {
        self.is_gateway = is_gateway;
        self.is_lost &= is_gateway;
    }

    /// Says whether the peer is a gateway that did not answer before.
    pub(crate) fn set_lost(&mut self, is_lost: bool) {
        self.is_lost = is_lost && self.is_gateway;
    }

    /// Returns whether the peer is a gateway that does not answer, so that another one is better.
    pub(crate) fn is_lost(&self) -> bool {
        self.is_lost
    }

    /// Returns since when the peer has heard nothing from us although we hear it.
    pub(crate) fn deaf_since(&self, now: Instant) -> Option<Instant> {
        let deaf =
            self.deaf.filter(|deaf| now.saturating_duration_since(deaf.last) < DEAF_FRESH)?;
        let is_believed =
            deaf.count >= FEWEST_CALLS && deaf.last.saturating_duration_since(deaf.since) >= DEAF;

        is_believed.then_some(deaf.since)
    }

    /// Returns when the peer was last heard.
    pub(crate) fn heard(&self) -> Option<Instant> {
        self.heard
    }

    /// Returns when a packet was last sent to the peer, or wanted to be.
    pub(crate) fn wanted(&self) -> Option<Instant> {
        self.wanted
    }

    /// Returns the address at which the peer sees us.
    pub(crate) fn seen_at(&self) -> Option<SocketAddr> {
        self.seen_at
    }

    /// Returns the last measured round-trip time.
    pub(crate) fn round_trip(&self) -> Option<Duration> {
        self.trip
    }

    /// Returns the loss among the messages that the peer sends.
    pub(crate) fn incoming_loss(&self, now: Instant) -> Option<Loss> {
        self.incoming.loss(now)
    }

    /// Returns the loss among the messages that we send, as the peer reports it.
    pub(crate) fn outgoing_loss(&self, now: Instant) -> Option<Loss> {
        self.outgoing
            .filter(|(_, at)| now.saturating_duration_since(*at) <= TOLD_FRESH)
            .map(|(loss, _)| loss)
    }

    /// Asks at once, because the address at which the peer knows us may have changed.
    pub(crate) fn move_away(&mut self, now: Instant) {
        self.ask(GREETINGS, MOVED_PACE, now);
        if let Some(asking) = &mut self.asking {
            asking.has_moved = true;
        }
    }

    /// Asks in a moment, unless the peer is being asked anyway.
    pub(crate) fn ask_soon(&mut self, now: Instant) {
        if self.asking.is_none() {
            self.ask(GREETINGS, CHECK_PACE, now + CHECK_PACE);
        }
    }

    /// Asks a silent peer at once, because there is reason to believe that it is back.
    pub(crate) fn hurry(&mut self, now: Instant) {
        if let Some((next, _)) = &mut self.check
            && self.silent.is_some()
        {
            *next = now;
        }
    }

    /// Starts or stops keeping a translation on our side open.
    pub(crate) fn keep_open(&mut self, is_translated: bool, now: Instant) {
        self.keep_open = is_translated.then(|| self.keep_open.unwrap_or(now + KEEP_OPEN));
    }

    /// Returns whether the link must not rest.
    pub(crate) fn is_kept_open(&self) -> bool {
        self.keep_open.is_some()
    }

    /// Returns whether packets wait for a sign of life from the peer.
    pub(crate) fn is_wanted(&self) -> bool {
        self.unanswered.is_some()
    }

    /// Makes a request, as [`Due::ask`] demands, or the answer to one; `seen_at` is the address at
    /// which the peer is seen.
    pub(crate) fn write(
        &mut self,
        kind: EchoKind,
        micros: u64,
        seen_at: Option<SocketAddr>,
        now: Instant,
    ) -> Echo {
        (self.told, self.told_sent) = (now, self.sent.wrapping_add(1));

        Echo {
            kind,
            sent_micros: micros,
            heard_ago: self.heard.map(|at| now.saturating_duration_since(at)),
            loss: self.incoming.loss(now),
            seen_at,
            sent: self.told_sent,
            notices: None,
        }
    }

    /// Returns the time that a request is stamped with, in microseconds.
    pub(crate) fn micros(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.born).as_micros()).unwrap_or_default()
            & TIME_BITS
    }

    /// Accepts a message of the peer. The caller answers requests.
    pub(crate) fn handle_echo(&mut self, echo: &Echo, now: Instant) {
        self.speaks = Speaks::Yes;
        self.fed = None;
        self.seen_at = echo.seen_at.or(self.seen_at);
        self.incoming.note(echo.sent, self.received, now);
        self.outgoing = echo.loss.map(|loss| (loss, now)).or(self.outgoing);
        match echo.kind {
            EchoKind::Request => self.note_asked(echo.heard_ago, now),
            EchoKind::Answer => {
                self.deaf = None;
                self.asking = None;
                let trip = Duration::from_micros(
                    self.micros(now).wrapping_sub(echo.sent_micros) & TIME_BITS,
                );
                if trip <= MAX_ROUND_TRIP {
                    self.trip = Some(self.trip.map_or(trip, |known| (known * 3 + trip) / 4));
                }
            }
        }
    }

    /// Notes a request of the peer. If it has not heard the first of our answers by now, it hears
    /// none.
    fn note_asked(&mut self, heard_ago: Option<Duration>, now: Instant) {
        let has_heard = |deaf: &Deaf| {
            heard_ago.is_some_and(|ago| ago < now.saturating_duration_since(deaf.since))
        };
        let fresh = Deaf { since: now, last: now, count: 0, has_called: false };
        let deaf = self.deaf.filter(|deaf| !has_heard(deaf)).unwrap_or(fresh);
        self.deaf = Some(Deaf { last: now, count: deaf.count.saturating_add(1), ..deaf });
    }
}

#[cfg(test)]
#[path = "liveness_tests.rs"]
mod tests;
