//! When something is due, and what.

use std::time::{Duration, Instant};

use super::{Asking, CHECK_PACE, Due, GREETINGS, KEEP_OPEN, Liveness, Speaks};
use crate::noise::SESSION_TIME;

/// How long a packet may go unanswered before we ask.
const QUIET: Duration = Duration::from_secs(2);
/// The same for a peer that knows no echoes (WireGuard's `KEEPALIVE_TIMEOUT` plus a second).
const STOCK_QUIET: Duration = Duration::from_secs(11);
/// How long after the last packet of a stream its receiver asks: longer than its sender waits.
const LULL: Duration = Duration::from_secs(3);
/// How long we ask before the peer counts as silent.
const CHECK: Duration = Duration::from_secs(3);
/// How many requests there are at least.
const FEWEST_CHECKS: u32 = 4;
/// How long a packet to a gateway may go unanswered before we ask.
const GATEWAY_QUIET: Duration = Duration::from_millis(400);
/// The interval between these requests until the gateway is lost.
const GATEWAY_PACE: Duration = Duration::from_millis(200);
/// How long after the last packet to a gateway it is asked whether it is there, so that who has
/// nothing to send at the moment that it is lost knows, too.
const GATEWAY_WATCH: Duration = Duration::from_secs(10);
/// How long a gateway is asked before it is lost, and how many round trips at least: TCP sends
/// again 1.4 seconds after the first packet that was lost, and then after 3.
const GATEWAY_CHECK: Duration = Duration::from_millis(600);
const GATEWAY_TRIPS: u32 = 3;
/// From this request on, handshakes are sent as well.
const CALL_FROM: u32 = 2;
/// The interval between requests to a silent peer in the first minute.
const SILENT_PACE: Duration = Duration::from_secs(1);
/// The interval after the first minute.
const LATE_PACE: Duration = Duration::from_secs(2);
const FIRST_MINUTE: Duration = Duration::from_secs(60);
/// How long after the last packet for a silent peer it is still asked.
const WANTED: Duration = SESSION_TIME;
/// The interval between reports of message counts while packets flow.
const REPORT_PACE: Duration = Duration::from_millis(1_500);
/// How many messages make a report worthwhile.
const REPORT_FROM: u32 = 20;
/// How many times a report is tried.
const REPORT_TRIES: u8 = 2;

impl Liveness {
    /// Returns when [`Liveness::handle_timeout`] must next be called. `has_session` says whether
    /// requests can be sent.
    #[inline]
    pub(crate) fn poll_timeout(&self, has_session: impl FnOnce() -> bool) -> Option<Instant> {
        let check = match (self.check, self.unanswered) {
            (Some((next, _)), _) => Some(next),
            (None, Some(since)) => Some(since + self.quiet(has_session)),
            (None, None) => self.lull_at().into_iter().chain(self.watch_at()).min(),
        };
        let asking = self.asking.as_ref().map(|asking| asking.next);

        [check, asking, self.report_at(), self.keep_open].into_iter().flatten().min()
    }

    /// Returns what is due at `now`.
    pub(crate) fn handle_timeout(&mut self, has_session: bool, now: Instant) -> Due {
        let mut due = Due::default();
        self.handle_asking(&mut due, now);
        self.handle_lull(now);
        self.handle_watch(now);
        self.handle_check(&mut due, has_session, now);
        if self.report_at().is_some_and(|at| at <= now) {
            self.ask(REPORT_TRIES, CHECK_PACE, now);
            self.handle_asking(&mut due, now);
        }
        if self.keep_open.is_some_and(|at| at <= now) {
            self.keep_open = Some(now + KEEP_OPEN);
            due.call |= !has_session;
            self.ask(REPORT_TRIES, CHECK_PACE, now);
            self.handle_asking(&mut due, now);
        }

        due
    }

    fn handle_asking(&mut self, due: &mut Due, now: Instant) {
        let Some(asking) = self.asking.as_mut().filter(|asking| asking.next <= now) else { return };
        if asking.left > 0 {
            due.ask = true;
            // If the first request brings no answer, the peer itself may have moved.
            due.call_elsewhere |= asking.has_moved && asking.left == GREETINGS - 1;
            asking.left -= 1;
            asking.next = now + asking.pace;
            return;
        }
        // A peer that sends other messages but never an answer does not know echoes.
        if self.speaks == Speaks::Unknown && self.heard.is_some_and(|at| at > asking.begun) {
            self.speaks = Speaks::No;
        }
        // Nobody else would notice, because nobody can call us.
        due.call |= self.keep_open.is_some();
        self.asking = None;
    }

    /// Counts the last packet of a stream that paused as one of ours that nobody answered.
    fn handle_lull(&mut self, now: Instant) {
        if self.unanswered.is_none() && self.lull_at().is_some_and(|at| at <= now) {
            self.unanswered = self.fed.take();
            self.wanted = self.wanted.max(self.unanswered);
        }
    }

    /// Takes a gateway that is in use, and was not heard for a moment, for one that owes an answer.
    fn handle_watch(&mut self, now: Instant) {
        if self.unanswered.is_none() && self.watch_at().is_some_and(|at| at <= now) {
            self.unanswered = self.heard;
        }
    }

    fn watch_at(&self) -> Option<Instant> {
        let is_watched = self.is_gateway && self.speaks == Speaks::Yes;
        let heard = self.heard.filter(|_| is_watched)?;
        let is_in_use = self.wanted.is_some_and(|wanted| heard <= wanted + GATEWAY_WATCH);

        is_in_use.then_some(heard + GATEWAY_QUIET)
    }

    fn lull_at(&self) -> Option<Instant> {
        self.fed.filter(|_| self.speaks == Speaks::Yes).map(|fed| fed + LULL)
    }

    fn handle_check(&mut self, due: &mut Due, has_session: bool, now: Instant) {
        let Some(since) = self.unanswered else { return };
        let quiet = self.quiet(|| has_session);
        let (next, count) = self.check.unwrap_or((since + quiet, 0));
        if next > now {
            return;
        }
        if self.silent.is_some()
            && self.wanted.is_none_or(|at| now.saturating_duration_since(at) >= WANTED)
        {
            (self.silent, self.unanswered, self.check) = (None, None, None);
            due.is_over = true;
            return;
        }
        due.ask |= self.speaks != Speaks::No;
        due.call |= count >= CALL_FROM || self.speaks == Speaks::No || !has_session;
        let patience = GATEWAY_CHECK.max(self.trip.unwrap_or_default() * GATEWAY_TRIPS);
        self.is_lost |= self.is_gateway && now >= since + quiet + patience;
        let silent_at = since + quiet.max(QUIET) + CHECK;
        if self.silent.is_none() && count >= FEWEST_CHECKS && now >= silent_at {
            self.silent = Some(now);
            due.is_silent = true;
        }
        let pace = match self.silent {
            None if self.is_gateway && !self.is_lost => GATEWAY_PACE,
            None => CHECK_PACE,
            Some(silent) if now.saturating_duration_since(silent) < FIRST_MINUTE => SILENT_PACE,
            Some(_) => LATE_PACE,
        };
        self.check = Some((now + pace, count.saturating_add(1)));
    }

    fn quiet(&self, has_session: impl FnOnce() -> bool) -> Duration {
        match (self.speaks, self.is_gateway) {
            (Speaks::No, _) if has_session() => STOCK_QUIET,
            (Speaks::Unknown | Speaks::Yes | Speaks::No, false) => QUIET,
            (Speaks::Unknown | Speaks::Yes | Speaks::No, true) => GATEWAY_QUIET,
        }
    }

    fn report_at(&self) -> Option<Instant> {
        let is_worth_while = self.sent.wrapping_sub(self.told_sent) >= REPORT_FROM;

        (is_worth_while && self.speaks == Speaks::Yes && self.asking.is_none())
            .then(|| self.told + REPORT_PACE)
    }

    pub(super) fn ask(&mut self, tries: u8, pace: Duration, now: Instant) {
        self.asking = Some(Asking { next: now, pace, left: tries, has_moved: false, begun: now });
    }
}
