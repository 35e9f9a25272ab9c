//! When something must happen though nothing arrives (§6).

use std::time::{Duration, Instant};

use crate::state::TimersState;

/// Messages of a session after which it is renewed (§6.1).
pub(crate) const REKEY_AFTER_MESSAGES: u64 = 1 << 60;
/// Messages of a session after which none is sent or accepted (§6.1).
pub(crate) const REJECT_AFTER_MESSAGES: u64 = u64::MAX - (1 << 13);
/// Age at which a session that sends is renewed (§6.1).
pub(crate) const REKEY_AFTER_TIME: Duration = Duration::from_secs(120);
/// Age at which a session ends (§6.1).
pub const REJECT_AFTER_TIME: Duration = Duration::from_secs(180);
/// How long an unanswered handshake is tried (§6.1, §6.4).
pub const REKEY_ATTEMPT_TIME: Duration = Duration::from_secs(90);
/// How long an initiation waits for its answer (§6.1, §6.4).
pub const REKEY_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a packet may remain without one in return before a keepalive stands in for it (§6.1,
/// §6.5).
pub const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// After how many lives of a session everything secret is forgotten if there was none (§6.3).
const LIVES: u32 = 3;
/// Handshakes that are due are put off by up to so many milliseconds, so that two sides whose
/// timers began together do not call each other at once. The kernel does the same.
pub(crate) const MAX_JITTER_MS: u32 = 333;

/// A handshake that we make.
#[derive(Debug, Clone, Copy)]
struct Attempt {
    since: Instant,
    /// When its last initiation was sent.
    sent: Instant,
}

/// What a tunnel remembers of when things happened.
#[derive(Debug)]
pub(crate) struct Timers {
    handshake: Instant,
    attempt: Option<Attempt>,
    /// When the initiation that is due will be sent.
    scheduled: Option<Instant>,
    /// Since when packets of ours have nothing in return.
    unanswered: Option<Instant>,
    /// When the last packet came that got nothing in return.
    unacknowledged: Option<Instant>,
    retry: Duration,
}

impl Timers {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            handshake: now,
            attempt: None,
            scheduled: None,
            unanswered: None,
            unacknowledged: None,
            retry: REKEY_TIMEOUT,
        }
    }

    /// Returns what is remembered.
    pub(crate) fn state(&self) -> TimersState {
        TimersState {
            handshake: self.handshake,
            trying: self.attempt.map(|attempt| attempt.since),
            scheduled: self.scheduled,
            unanswered: self.unanswered,
            unacknowledged: self.unacknowledged,
            retry: self.retry,
        }
    }

    /// Goes on at `now`. A handshake that was tried is tried again at once: nobody can answer the
    /// last one any more.
    pub(crate) fn resume(state: &TimersState, now: Instant) -> Self {
        let mut timers = Self {
            handshake: state.handshake,
            attempt: state.trying.map(|since| Attempt { since, sent: now }),
            scheduled: state.trying.map(|_| now).or(state.scheduled),
            unanswered: state.unanswered,
            unacknowledged: state.unacknowledged,
            retry: REKEY_TIMEOUT,
        };
        timers.set_retry(state.retry);

        timers
    }

    /// Returns how long an initiation waits for its answer.
    pub(crate) fn retry(&self) -> Duration {
        self.retry
    }

    /// Sets how long an initiation waits for its answer, up to what leaves a session time to end.
    pub(crate) fn set_retry(&mut self, retry: Duration) {
        self.retry = retry.min(REJECT_AFTER_TIME - KEEPALIVE_TIMEOUT);
    }

    /// Says whether an initiation of ours may still be answered.
    pub(crate) fn is_attempting(&self) -> bool {
        self.attempt.is_some()
    }

    /// Notes that an initiation is sent.
    pub(crate) fn note_initiation(&mut self, now: Instant) {
        let since = self.attempt.map_or(now, |attempt| attempt.since);
        self.attempt = Some(Attempt { since, sent: now });
        self.scheduled = None;
        self.note_sent();
    }

    /// Notes that our initiation was answered.
    pub(crate) fn note_answered(&mut self, now: Instant) {
        self.attempt = None;
        self.scheduled = None;
        self.note_handshake(now);
    }

    /// Notes that a handshake made a session.
    pub(crate) fn note_handshake(&mut self, now: Instant) {
        self.handshake = now;
        self.unanswered = None;
    }

    /// Notes that something authentic is sent.
    #[inline]
    pub(crate) fn note_sent(&mut self) {
        self.unacknowledged = None;
    }

    /// Notes that a packet is sent.
    #[inline]
    pub(crate) fn note_packet_sent(&mut self, now: Instant) {
        self.note_sent();
        self.unanswered.get_or_insert(now);
    }

    /// Notes that something authentic came, a packet or a keepalive.
    #[inline]
    pub(crate) fn note_received(&mut self, is_packet: bool, now: Instant) {
        self.unanswered = None;
        if is_packet {
            self.unacknowledged = Some(now);
        }
    }

    /// Puts an initiation that is due off a little.
    pub(crate) fn schedule(&mut self, at: Instant) {
        self.scheduled = Some(at);
    }

    /// Returns when the initiation that was due will be sent. Nothing else is due before.
    pub(crate) fn scheduled(&self) -> Option<Instant> {
        self.scheduled
    }

    /// Returns when there is no hope left: an attempt took too long (§6.4), or no session was made
    /// in three lives of one (§6.3).
    pub(crate) fn hopeless(&self) -> Instant {
        let forgotten = self.handshake + REJECT_AFTER_TIME * LIVES;
        let given_up = self.attempt.map(|attempt| attempt.since + REKEY_ATTEMPT_TIME);

        given_up.map_or(forgotten, |at| at.min(forgotten))
    }

    /// Returns when an initiation is due: the last one was not answered (§6.4), `renewal` of the
    /// session is due, or packets had nothing in return (§6.5).
    pub(crate) fn initiation(&self, renewal: Option<Instant>) -> Option<Instant> {
        if let Some(attempt) = self.attempt {
            return Some(attempt.sent + self.retry);
        }
        let lost = self.unanswered.map(|since| since + KEEPALIVE_TIMEOUT + self.retry);

        lost.into_iter().chain(renewal).min()
    }

    /// Returns when a keepalive is due (§6.5). None is while a handshake is tried.
    pub(crate) fn keepalive(&self) -> Option<Instant> {
        let since = self.unacknowledged.filter(|_| self.attempt.is_none())?;

        Some(since + KEEPALIVE_TIMEOUT)
    }

    /// Returns a moment that is over.
    pub(crate) fn past(&self) -> Instant {
        self.handshake
    }
}
