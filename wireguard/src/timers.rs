//! When something must happen although nothing arrives (§6).

use std::time::{Duration, Instant};

use crate::state::TimersState;

/// The number of messages after which a session is renewed (§6.1).
pub(crate) const REKEY_AFTER_MESSAGES: u64 = 1 << 60;
/// The number of messages after which a session neither sends nor accepts any (§6.1).
pub(crate) const REJECT_AFTER_MESSAGES: u64 = u64::MAX - (1 << 13);
/// The age at which a session that sends is renewed (§6.1).
pub(crate) const REKEY_AFTER_TIME: Duration = Duration::from_secs(120);
/// The age at which a session ends (§6.1).
pub const REJECT_AFTER_TIME: Duration = Duration::from_secs(180);
/// How long an unanswered handshake is retried (§6.1, §6.4).
pub const REKEY_ATTEMPT_TIME: Duration = Duration::from_secs(90);
/// How long an initiation waits for its answer (§6.1, §6.4).
pub const REKEY_TIMEOUT: Duration = Duration::from_secs(5);
/// How long after a packet was received, without one sent in return, a keepalive is sent (§6.1,
/// §6.5).
pub const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// After how many session lifetimes without a handshake all secrets are wiped (§6.3).
const LIVES: u32 = 3;
/// The most by which a due handshake is delayed, in milliseconds, so that two sides whose timers
/// started together do not call each other at the same time (§6.1). The kernel uses the same value.
pub(crate) const MAX_JITTER_MS: u32 = 333;

/// A handshake that we initiate.
#[derive(Debug, Clone, Copy)]
struct Attempt {
    since: Instant,
    /// When the last initiation was sent.
    sent: Instant,
}

/// When the events that drive a tunnel's timers happened.
#[derive(Debug)]
pub(crate) struct Timers {
    handshake: Instant,
    attempt: Option<Attempt>,
    /// When the initiation that is due will be sent.
    scheduled: Option<Instant>,
    /// When the first packet was sent since anything was last received.
    unanswered: Option<Instant>,
    /// When the last packet was received since anything was last sent.
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

    /// Returns the state for another process.
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

    /// Continues at `now` with the state of another process. A handshake under way is started again
    /// at once, because its last initiation can no longer be completed.
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

    /// Sets how long an initiation waits for its answer; limited so that a session can be renewed
    /// in time.
    pub(crate) fn set_retry(&mut self, retry: Duration) {
        self.retry = retry.min(REJECT_AFTER_TIME - KEEPALIVE_TIMEOUT);
    }

    /// Returns whether an initiation of ours may still be answered.
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
        self.note_handshake(now);
    }

    /// Notes that a handshake made a session.
    pub(crate) fn note_handshake(&mut self, now: Instant) {
        self.handshake = now;
        self.unanswered = None;
        // The peer initiated first: a second handshake would be superfluous. If the peer does not
        // confirm its session, the renewal of ours is still due. A retry goes on until our own
        // handshake is answered.
        if self.attempt.is_none() {
            self.scheduled = None;
        }
    }

    /// Notes that an authentic message is sent.
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

    /// Notes that an authentic message was received: a packet or a keepalive.
    #[inline]
    pub(crate) fn note_received(&mut self, is_packet: bool, now: Instant) {
        self.unanswered = None;
        if is_packet {
            self.unacknowledged = Some(now);
        }
    }

    /// Delays an initiation that is due until `at`.
    pub(crate) fn schedule(&mut self, at: Instant) {
        self.scheduled = Some(at);
    }

    /// Returns when the initiation that was due will be sent. Nothing else is due before that.
    pub(crate) fn scheduled(&self) -> Option<Instant> {
        self.scheduled
    }

    /// Returns when the tunnel is given up: an attempt took too long (§6.4), or no session was made
    /// in three session lifetimes (§6.3).
    pub(crate) fn hopeless(&self) -> Instant {
        let forgotten = self.handshake + REJECT_AFTER_TIME * LIVES;
        let given_up = self.attempt.map(|attempt| attempt.since + REKEY_ATTEMPT_TIME);

        given_up.map_or(forgotten, |at| at.min(forgotten))
    }

    /// Returns when an initiation is due: the last one was not answered (§6.4), the `renewal` of
    /// the session is due, or packets were not answered (§6.5).
    pub(crate) fn initiation(&self, renewal: Option<Instant>) -> Option<Instant> {
        if let Some(attempt) = self.attempt {
            return Some(attempt.sent + self.retry);
        }
        let lost = self.unanswered.map(|since| since + KEEPALIVE_TIMEOUT + self.retry);

        lost.into_iter().chain(renewal).min()
    }

    /// Returns when a keepalive is due (§6.5); there is none during a handshake.
    pub(crate) fn keepalive(&self) -> Option<Instant> {
        let since = self.unacknowledged.filter(|_| self.attempt.is_none())?;

        Some(since + KEEPALIVE_TIMEOUT)
    }

    /// Returns a time in the past.
    pub(crate) fn past(&self) -> Instant {
        self.handshake
    }
}
