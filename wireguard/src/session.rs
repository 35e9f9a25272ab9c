//! One session: two keys, the counter of sent messages and the window of received ones (§5.4.5,
//! §5.4.6).

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use overlay_aead::{Key, Work, open_two, seal_two};

use crate::handshake::SessionKeys;
use crate::index::Index;
use crate::message::{DATA_HEADER_LEN, sealed_len, write_data_header};
use crate::refusal::DataRefusal;
use crate::replay::ReplayWindow;
use crate::state::{InvalidState, SecretBytes, SessionState};
use crate::timers::{
    KEEPALIVE_TIMEOUT, REJECT_AFTER_MESSAGES, REJECT_AFTER_TIME, REKEY_AFTER_MESSAGES,
    REKEY_AFTER_TIME,
};

/// The role in the handshake that made a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HandshakeRole {
    /// We initiated it, so we renew the session (§6.2): if both did, one handshake would be
    /// superfluous.
    Initiator,
    /// The peer initiated it.
    Responder,
}

/// A session.
pub(crate) struct Session {
    pub(crate) role: HandshakeRole,
    pub(crate) index: Index,
    /// The peer's index for the session.
    receiver: [u8; 4],
    pub(crate) since: Instant,
    /// Keys stay in one place in memory; those who work with them share a pointer.
    sealing: Arc<Key>,
    opening: Arc<Key>,
    /// The counter of the next message sent.
    next: u64,
    window: ReplayWindow,
    /// Whether a message was received: only then is the peer known to have the session (§6.3).
    pub(crate) is_confirmed: bool,
    /// Whether it carried anything but keepalives, sent and received.
    pub(crate) has_sent: bool,
    has_received: bool,
}

impl Session {
    /// Makes the session of a completed handshake. It stays in one place, because it is large.
    pub(crate) fn new(
        role: HandshakeRole,
        index: Index,
        receiver: [u8; 4],
        keys: &SessionKeys,
        now: Instant,
    ) -> Box<Self> {
        Box::new(Self {
            role,
            index,
            receiver,
            since: now,
            sealing: Arc::new(Key::new(&keys.send)),
            opening: Arc::new(Key::new(&keys.receive)),
            next: 0,
            window: ReplayWindow::new(),
            is_confirmed: role == HandshakeRole::Initiator,
            has_sent: false,
            has_received: false,
        })
    }

    /// Returns the state for another process.
    pub(crate) fn state(&self) -> SessionState {
        let (window_next, window_seen) = self.window.parts();

        SessionState {
            is_initiator: self.role == HandshakeRole::Initiator,
            index: self.index.number(),
            receiver: self.receiver,
            since: self.since,
            sealing: SecretBytes::new(self.sealing.expose().to_vec()),
            opening: SecretBytes::new(self.opening.expose().to_vec()),
            next: self.next,
            window_next,
            window_seen: window_seen.to_vec(),
            is_confirmed: self.is_confirmed,
            has_sent: self.has_sent,
            has_received: self.has_received,
        }
    }

    /// Makes a session from the state of another process.
    pub(crate) fn resume(state: &SessionState) -> Result<Box<Self>, InvalidState> {
        let key = |bytes: &SecretBytes| match bytes.as_slice().try_into() {
            Ok(key) => Ok(Arc::new(Key::new(key))),
            Err(_) => Err(InvalidState("a key has another length")),
        };
        if state.next > REJECT_AFTER_MESSAGES {
            return Err(InvalidState("a counter is past its limit"));
        }
        let window = ReplayWindow::from_parts(state.window_next, &state.window_seen);

        Ok(Box::new(Self {
            role: if state.is_initiator {
                HandshakeRole::Initiator
            } else {
                HandshakeRole::Responder
            },
            index: Index::of_number(state.index),
            receiver: state.receiver,
            since: state.since,
            sealing: key(&state.sealing)?,
            opening: key(&state.opening)?,
            next: state.next,
            window: window.ok_or(InvalidState("a replay window is none"))?,
            is_confirmed: state.is_confirmed,
            has_sent: state.has_sent,
            has_received: state.has_received,
        }))
    }

    /// Returns when the session ends: nothing is sent or accepted any more (§6.2).
    #[inline]
    pub(crate) fn end(&self) -> Instant {
        self.since + REJECT_AFTER_TIME
    }

    /// Returns when the session must be renewed, if we are to do it (§6.2). `retry` is how long an
    /// initiation waits for its answer.
    pub(crate) fn renewal(&self, retry: Duration) -> Option<Instant> {
        if self.next >= REKEY_AFTER_MESSAGES {
            return Some(self.since);
        }
        let (HandshakeRole::Initiator, true) = (self.role, self.has_sent || self.has_received)
        else {
            return None;
        };
        // A session that only receives is renewed later; the peer that sends cannot renew it.
        let last = REJECT_AFTER_TIME.saturating_sub(KEEPALIVE_TIMEOUT + retry);

        Some(self.since + if self.has_sent { REKEY_AFTER_TIME.min(last) } else { last })
    }

    /// Takes the counter of the next message, unless the session has ended or its counters are used
    /// up (§6.2).
    #[inline]
    pub(crate) fn begin_seal(&mut self, now: Instant) -> Option<Seal> {
        // The responder's session began, and ends, a little earlier: what is sent at the very end
        // would not be accepted.
        let margin = match self.role {
            HandshakeRole::Initiator => KEEPALIVE_TIMEOUT,
            HandshakeRole::Responder => Duration::ZERO,
        };
        if self.next >= REJECT_AFTER_MESSAGES || now + margin >= self.end() {
            return None;
        }
        let counter = self.next;
        self.next += 1;

        Some(Seal { key: Arc::clone(&self.sealing), receiver: self.receiver, counter })
    }

    /// Checks the counter of a message before it is decrypted.
    #[inline]
    pub(crate) fn begin_open(&self, counter: u64, now: Instant) -> Result<Open, DataRefusal> {
        if now >= self.end() {
            return Err(DataRefusal::NoSession);
        }
        if !self.window.admits(counter) {
            return Err(DataRefusal::Counter);
        }

        Ok(Open { key: Arc::clone(&self.opening), counter })
    }

    /// Returns whether a message was opened with this session's key.
    #[inline]
    pub(crate) fn has_opened(&self, opened: &Opened) -> bool {
        Arc::ptr_eq(&self.opening, &opened.key)
    }

    /// Accepts an authentic message, once. Returns the length of its content; keepalives have none.
    #[inline]
    pub(crate) fn accept(&mut self, opened: &Opened) -> Result<Option<usize>, DataRefusal> {
        let len = opened.len.ok_or(DataRefusal::NotAuthentic)?;
        if !self.window.accept(opened.counter) {
            return Err(DataRefusal::Counter);
        }
        self.is_confirmed = true;
        self.has_received |= len > 0;

        Ok((len > 0).then_some(len))
    }

    #[cfg(any(test, fuzzing))]
    pub(crate) fn skip_to(&mut self, counter: u64) {
        self.next = counter;
    }
}

/// A data message that has a counter, but is not sealed yet. Any thread may seal it, in any order.
pub struct Seal {
    key: Arc<Key>,
    receiver: [u8; 4],
    counter: u64,
}

impl Seal {
    /// Seals `packet` into `slot`, which must have room for [`sealed_len`] bytes. Returns whether
    /// it fitted.
    #[inline]
    pub fn run(self, packet: &[u8], slot: &mut [u8]) -> bool {
        self.work(packet, slot)
            .is_some_and(|work| work.key.seal(&work.nonce, work.from, work.to).is_ok())
    }

    /// Seals two packets, together where that is faster.
    #[inline]
    pub fn run_two(seals: [Self; 2], packets: [&[u8]; 2], slots: [&mut [u8]; 2]) -> [bool; 2] {
        let [first, second] = &seals;
        let [first_slot, second_slot] = slots;
        match (first.work(packets[0], first_slot), second.work(packets[1], second_slot)) {
            (Some(first), Some(second)) => seal_two([first, second]).map(|sealed| sealed.is_ok()),
            (first, second) => [first, second].map(|work| {
                work.is_some_and(|work| work.key.seal(&work.nonce, work.from, work.to).is_ok())
            }),
        }
    }

    /// Writes the header and returns the work that is left.
    #[inline]
    fn work<'w>(&'w self, packet: &'w [u8], slot: &'w mut [u8]) -> Option<Work<'w>> {
        let message = slot.get_mut(..sealed_len(packet.len()))?;
        let (header, to) = message.split_first_chunk_mut::<DATA_HEADER_LEN>()?;
        write_data_header(header, self.receiver, self.counter);

        Some(Work { key: &self.key, nonce: nonce(self.counter), from: packet, to })
    }
}

/// A data message whose session is known, but that is not opened yet. Any thread may open it.
pub struct Open {
    key: Arc<Key>,
    counter: u64,
}

impl Open {
    /// Opens `message` into `slot`, which must have room for [`crate::open_room`] bytes.
    #[inline]
    pub fn run(self, message: &[u8], slot: &mut [u8]) -> Opened {
        let len = self
            .work(message, slot)
            .and_then(|work| work.key.open(&work.nonce, work.from, work.to).ok());

        self.opened(len)
    }

    /// Opens two messages, together where that is faster.
    #[inline]
    pub fn run_two(opens: [Self; 2], messages: [&[u8]; 2], slots: [&mut [u8]; 2]) -> [Opened; 2] {
        let [first, second] = opens;
        let [first_slot, second_slot] = slots;
        let works = (first.work(messages[0], first_slot), second.work(messages[1], second_slot));
        let [one, other] = match works {
            (Some(first), Some(second)) => open_two([first, second]).map(Result::ok),
            (first, second) => [first, second].map(|work| {
                work.and_then(|work| work.key.open(&work.nonce, work.from, work.to).ok())
            }),
        };

        [first.opened(one), second.opened(other)]
    }

    #[inline]
    fn work<'w>(&'w self, message: &'w [u8], slot: &'w mut [u8]) -> Option<Work<'w>> {
        let from = message.get(DATA_HEADER_LEN..)?;

        Some(Work { key: &self.key, nonce: nonce(self.counter), from, to: slot })
    }

    #[inline]
    fn opened(self, len: Option<usize>) -> Opened {
        Opened { key: self.key, counter: self.counter, len }
    }
}

/// An opened data message, which must still be accepted by its tunnel.
pub struct Opened {
    key: Arc<Key>,
    counter: u64,
    /// The length of its content in bytes, if it is authentic.
    len: Option<usize>,
}

/// The nonce of a counter: four zeros, then the counter (§5.4.6).
#[inline]
fn nonce(counter: u64) -> [u8; overlay_aead::NONCE_LEN] {
    let mut nonce = [0; overlay_aead::NONCE_LEN];
    nonce[4..].copy_from_slice(&counter.to_le_bytes());

    nonce
}

impl fmt::Debug for Seal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Seal({})", self.counter)
    }
}

impl fmt::Debug for Open {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Open({})", self.counter)
    }
}

impl fmt::Debug for Opened {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Opened({}, {:?})", self.counter, self.len)
    }
}
