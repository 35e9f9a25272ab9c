//! What an interface shares with one peer: the handshake under way, the sessions, and their timers.
//!
//! ```text
//!   nothing ──initiate──► trying ──complete──► session
//!      │                    │  ▲                 │  ▲
//!      │                    │  └── renewal due ──┘  │ its first message
//!      │                    ▼                       │
//!      │                forgotten                   │
//!      └───────────────── answer ───────────────────┘
//! ```
//! A handshake is retried until it is answered, for 90 s in all. A tunnel is forgotten if its
//! session was used and ended without a successor, or if it has had no session for nine minutes.
//!
//! After each call the driver must call [`Tunnel::poll_action`] until it returns `None`.

use std::fmt;
use std::time::{Duration, Instant};

use overlay_core::PublicKey;

use crate::cookie::CookieJar;
use crate::entropy::Entropy;
use crate::handshake::{Initiator, Parties};
use crate::index::{Index, TunnelId};
use crate::initiation::Initiation;
use crate::mac::ReceiverKeys;
use crate::message::{CookieReply, DataHeader, Datagram, Response};
use crate::refusal::{DataRefusal, HandshakeRefusal};
use crate::session::{HandshakeRole, Open, Opened, Seal, Session};
use crate::sessions::Sessions;
use crate::state::{InvalidState, SecretBytes, TunnelState};
use crate::timers::{MAX_JITTER_MS, REKEY_TIMEOUT, Timers};
use crate::timestamp::{Timestamp, WallClock};
use crate::wipe::leaving_nothing;

/// What the driver must do for a tunnel.
#[derive(Debug)]
pub enum Action {
    /// Send this initiation.
    Initiate(Datagram),
    /// Send this keepalive.
    KeepAlive(Datagram),
    /// Drop the tunnel: all its secrets are gone, and it will never work again.
    Forget,
}

/// An initiation that may still be answered.
struct Pending {
    index: Index,
    sent: Instant,
    initiator: Initiator,
}

/// The protocol state between one of our keys and one of a peer's.
pub struct Tunnel {
    id: TunnelId,
    /// The number of the last handshake.
    handshakes: u8,
    /// Boxed so that the secrets stay in one place.
    parties: Box<Parties>,
    peer: ReceiverKeys,
    /// The last initiation and the one before: the round trip may take longer than a retry.
    pending: [Option<Pending>; 2],
    cookies: CookieJar,
    sessions: Sessions,
    timers: Timers,
    clock: WallClock,
    /// The timestamp of our last initiation.
    told: Timestamp,
    /// The timestamp of the peer's last initiation that was answered.
    heard: Timestamp,
    entropy: Entropy,
    action: Option<Action>,
    is_over: bool,
}

impl Tunnel {
    pub(crate) fn new(
        parties: Box<Parties>,
        clock: WallClock,
        mut entropy: Entropy,
        now: Instant,
    ) -> Self {
        Self {
            id: TunnelId::draw(&mut entropy),
            handshakes: 0,
            peer: ReceiverKeys::new(&parties.peer),
            parties,
            pending: [None, None],
            cookies: CookieJar::default(),
            sessions: Sessions::default(),
            timers: Timers::new(now),
            clock,
            told: Timestamp::ZERO,
            heard: Timestamp::ZERO,
            entropy,
            action: None,
            is_over: false,
        }
    }

    /// Returns the state for another process; `None` if the tunnel has been forgotten. If another
    /// process takes over, this tunnel must never seal or accept anything again, because the other
    /// uses its counters.
    pub fn state(&self) -> Option<TunnelState> {
        if self.is_over {
            return None;
        }

        Some(leaving_nothing(|| {
            let (current, others) = self.sessions.state();
            TunnelState {
                id: self.id.number(),
                handshakes: self.handshakes,
                peer: self.parties.peer,
                shared: SecretBytes::new(self.parties.shared.to_vec()),
                current,
                others,
                timers: self.timers.state(),
                told: self.told.to_bytes(),
                heard: self.heard.to_bytes(),
            }
        }))
    }

    /// Makes a tunnel from a state that belongs to `parties`.
    pub(crate) fn resume(
        state: &TunnelState,
        parties: Box<Parties>,
        clock: WallClock,
        entropy: Entropy,
        now: Instant,
    ) -> Result<Self, InvalidState> {
        let id = TunnelId::of_number(state.id).ok_or(InvalidState("a name is too long"))?;
        let sessions = Sessions::resume(state.current.as_ref(), &state.others)?;
        if sessions.indices().any(|index| index.tunnel() != id) {
            return Err(InvalidState("a session is another tunnel's"));
        }

        Ok(Self {
            id,
            handshakes: state.handshakes,
            sessions,
            timers: Timers::resume(&state.timers, now),
            told: Timestamp::from_bytes(state.told),
            heard: Timestamp::from_bytes(state.heard),
            ..Self::new(parties, clock, entropy, now)
        })
    }

    /// Returns the id of the tunnel in its indices.
    pub fn id(&self) -> TunnelId {
        self.id
    }

    /// Returns the peer's key.
    pub fn peer(&self) -> &PublicKey {
        &self.parties.peer
    }

    /// Starts a handshake, unless one is under way.
    pub fn initiate(&mut self, now: Instant) -> Option<Datagram> {
        if self.timers.is_attempting() { None } else { self.initiate_again(now) }
    }

    /// Starts a handshake, even if one is under way.
    pub fn initiate_again(&mut self, now: Instant) -> Option<Datagram> {
        if self.is_over {
            return None;
        }
        let index = self.next_index();
        self.told = self.clock.timestamp(now).max(self.told.successor());
        let (parties, entropy, told) = (&self.parties, &mut self.entropy, self.told);
        let (initiator, noise) =
            leaving_nothing(|| Initiator::start(parties, entropy, told)).ok()?;
        let datagram = self.sign(Datagram::initiation(index, &noise), index, now);
        let before = self.pending[0].replace(Pending { index, sent: now, initiator });
        self.pending[1] = before;
        self.timers.note_initiation(now);

        Some(datagram)
    }

    /// Sets how long an initiation waits for its answer.
    pub fn set_retry_time(&mut self, retry: Duration) {
        self.timers.set_retry(retry);
    }

    /// Answers an initiation of the peer. Its source address is not confirmed until the first
    /// message of the session.
    ///
    /// # Errors
    ///
    /// If it comes from another peer, is not newer than the last, or the tunnel has been forgotten.
    pub fn answer(
        &mut self,
        initiation: Initiation,
        now: Instant,
    ) -> Result<Datagram, HandshakeRefusal> {
        if initiation.peer() != &self.parties.peer {
            return Err(HandshakeRefusal::WrongPeer);
        }
        let timestamp = initiation.timestamp();
        if timestamp <= self.heard {
            return Err(HandshakeRefusal::Replayed);
        }
        if self.is_over {
            return Err(HandshakeRefusal::Unexpected);
        }
        let (index, receiver) = (self.next_index(), initiation.sender);
        let preshared = &self.parties.preshared;
        let (noise, session) = leaving_nothing(|| -> Result<_, HandshakeRefusal> {
            let (noise, keys) = initiation.responder.answer(preshared)?;
            Ok((noise, Session::new(HandshakeRole::Responder, index, receiver, &keys, now)))
        })?;
        self.heard = timestamp;
        self.sessions.add_next(session);
        self.timers.note_handshake(now);
        self.timers.note_sent();

        Ok(self.sign(Datagram::response(index, receiver, &noise), index, now))
    }

    /// Completes our handshake. Returns the keepalive that confirms the session to the peer (§6.3).
    ///
    /// # Errors
    ///
    /// If it answers no initiation that is waiting, or does not come from the peer.
    pub fn complete(
        &mut self,
        response: Response,
        now: Instant,
    ) -> Result<Datagram, HandshakeRefusal> {
        let (index, receiver) = (response.receiver, response.sender);
        let at =
            self.pending.iter().position(|one| one.as_ref().is_some_and(|one| one.index == index));
        let pending =
            at.and_then(|at| self.pending[at].as_mut()).ok_or(HandshakeRefusal::Unexpected)?;
        let session = leaving_nothing(|| -> Result<_, HandshakeRefusal> {
            let keys = pending.initiator.finish(&response.noise)?;
            Ok(Session::new(HandshakeRole::Initiator, index, receiver, &keys, now))
        })?;
        // The answer to a later initiation is still valid: it makes a later session.
        self.pending.iter_mut().skip(at.unwrap_or(0)).for_each(|pending| *pending = None);
        self.sessions.add_current(session);
        self.timers.note_answered(now);

        self.keepalive(now).ok_or(HandshakeRefusal::Unexpected)
    }

    /// Stores a cookie for the next handshake message.
    ///
    /// # Errors
    ///
    /// If it is not about our last handshake message, or does not come from the peer.
    pub fn keep_cookie(
        &mut self,
        reply: &CookieReply,
        now: Instant,
    ) -> Result<(), HandshakeRefusal> {
        self.cookies.keep(reply, &self.peer, now)
    }

    /// Reserves the counter of the next data message; `None` if there is no session.
    #[inline]
    pub fn begin_seal(&mut self, now: Instant) -> Option<Seal> {
        let session = self.sessions.current_mut()?;
        let seal = session.begin_seal(now)?;
        session.has_sent = true;
        self.timers.note_packet_sent(now);

        Some(seal)
    }

    /// Finds the session of a data message and checks its counter. Nothing changes until the
    /// message is known to be authentic.
    ///
    /// # Errors
    ///
    /// If there is no such session, or its counter cannot be accepted.
    #[inline]
    pub fn begin_open(&self, header: DataHeader, now: Instant) -> Result<Open, DataRefusal> {
        let session = self.sessions.find(header.index).ok_or(DataRefusal::NoSession)?;

        session.begin_open(header.counter, now)
    }

    /// Accepts an opened message exactly once and returns the length of its padded packet in bytes;
    /// keepalives have none.
    ///
    /// # Errors
    ///
    /// If it is not authentic, was accepted before, or its session is gone.
    #[inline]
    pub fn commit(&mut self, opened: &Opened, now: Instant) -> Result<Option<usize>, DataRefusal> {
        let len = self.sessions.accept(opened, now)?;
        self.timers.note_received(len.is_some(), now);

        Ok(len)
    }

    /// Returns the age of the session that sends, if there is one.
    pub fn session_age(&self, now: Instant) -> Option<Duration> {
        self.sessions.current().map(|session| now.saturating_duration_since(session.since))
    }

    /// Performs whatever is due at `now`.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.is_over || self.action.is_some() {
            return;
        }
        if let Some(at) = self.timers.scheduled() {
            if at <= now {
                match self.initiate_again(now) {
                    Some(initiation) => self.action = Some(Action::Initiate(initiation)),
                    None => self.forget(),
                }
            }
            return;
        }
        let is_due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        if is_due(self.cookies.expiry()) {
            self.cookies.forget();
        }
        if is_due(self.late_answers_end()) {
            self.pending = [None, None];
        }
        let ended = self.sessions.take_ended(now);
        // It would have been renewed if the peer were there.
        let is_lost = ended.as_ref().is_some_and(|one| one.has_sent) && self.sessions.is_empty();
        if is_lost || self.timers.hopeless() <= now {
            return self.forget();
        }
        let was_ours = ended.is_some_and(|one| one.role == HandshakeRole::Initiator);
        if is_due(self.timers.initiation(self.renewal()))
            || was_ours && !self.timers.is_attempting()
        {
            let jitter = self.entropy.below(MAX_JITTER_MS + 1);
            self.timers.schedule(now + Duration::from_millis(jitter.into()));
        } else if is_due(self.timers.keepalive()) {
            self.timers.note_sent();
            self.action = self.keepalive(now).map(Action::KeepAlive);
        }
    }

    /// Returns when [`Tunnel::handle_timeout`] must next be called.
    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.action.is_some() {
            return Some(self.timers.past());
        }
        if self.is_over {
            return None;
        }
        if let Some(at) = self.timers.scheduled() {
            return Some(at);
        }
        let others = [
            self.late_answers_end(),
            self.sessions.end(),
            self.cookies.expiry(),
            self.timers.initiation(self.renewal()),
            self.timers.keepalive(),
        ];

        others.into_iter().flatten().chain([self.timers.hopeless()]).min()
    }

    /// Takes the next action for the driver.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.action.take()
    }

    fn renewal(&self) -> Option<Instant> {
        self.sessions.current()?.renewal(self.timers.retry())
    }

    /// Returns when the initiation that a later one replaced is given up, which is as late as
    /// WireGuard waits for one.
    fn late_answers_end(&self) -> Option<Instant> {
        let last = self.pending.iter().flatten().map(|pending| pending.sent).max()?;

        (!self.timers.is_attempting()).then(|| last + REKEY_TIMEOUT)
    }

    /// Wipes all secrets (§6.3).
    fn forget(&mut self) {
        self.pending = [None, None];
        self.sessions = Sessions::default();
        self.cookies = CookieJar::default();
        self.action = Some(Action::Forget);
        self.is_over = true;
    }

    /// Seals an empty message (§6.5).
    fn keepalive(&mut self, now: Instant) -> Option<Datagram> {
        let seal = self.sessions.current_mut()?.begin_seal(now)?;
        self.timers.note_sent();
        let mut datagram = Datagram::keepalive();

        seal.run(&[], datagram.bytes_mut()).then_some(datagram)
    }

    /// Writes the MACs to the end of a handshake message.
    fn sign(&mut self, mut datagram: Datagram, index: Index, now: Instant) -> Datagram {
        let mac1 = self.peer.sign(datagram.bytes_mut(), self.cookies.cookie(now));
        self.cookies.sent(index, mac1);

        datagram
    }

    #[cfg(any(test, fuzzing))]
    pub(crate) fn skip_to(&mut self, counter: u64) {
        self.sessions.current_mut().expect("a session").skip_to(counter);
    }

    /// Returns an index that no session and no handshake under way has.
    fn next_index(&mut self) -> Index {
        loop {
            self.handshakes = self.handshakes.wrapping_add(1);
            let index = self.id.index(self.handshakes);
            let is_pending = self.pending.iter().flatten().any(|pending| pending.index == index);
            if !is_pending && self.sessions.find(index).is_none() {
                return index;
            }
        }
    }
}

impl fmt::Debug for Tunnel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tunnel({:?}, {})", self.id, self.parties.peer)
    }
}

#[cfg(test)]
pub(crate) mod tests;
