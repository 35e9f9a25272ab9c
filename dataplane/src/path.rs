//! Where a peer's lane may be reached: the underlay addresses it was published with, and the one it
//! was last heard from.
//!
//! An address counts as confirmed only when an authentic message of the peer came from it.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use crate::noise::{ATTEMPT_TIME, RETRY_TIME};
use crate::state::PathState;
use crate::underlay::canonical;

/// How long the first handshake of a series waits for an answer; the wait doubles up to
/// [`RETRY_TIME`].
///
/// WireGuard waits 5 seconds from the start, but a peer that just came back, a lost packet or a
/// wrong first candidate should not cost that much. Every implementation accepts initiations at
/// this interval (the kernel's minimum is 20 ms).
const FIRST_RETRY: Duration = Duration::from_secs(1);
/// How long each handshake waits while containers send: about a second, with the library's jitter.
const WANTED_RETRY: Duration = Duration::from_millis(700);
/// The same after [`WANTED_ATTEMPTS`].
const LATE_RETRY: Duration = Duration::from_secs(2);
/// How many handshakes wait for [`WANTED_RETRY`]: about a minute's.
const WANTED_ATTEMPTS: u32 = 60;

/// The underlay addresses of one link, and the handshakes sent to them without an answer.
#[derive(Debug, Default)]
pub(crate) struct Path {
    candidates: Vec<SocketAddr>,
    confirmed: Option<SocketAddr>,
    attempts: u32,
    /// When the first of the unanswered handshakes was sent.
    trying_since: Option<Instant>,
}

impl Path {
    /// Replaces the candidates. Returns whether the confirmed address was an old candidate and is
    /// not a new one. In that case the next handshake goes to a new one, while packets still go to
    /// the confirmed one until there is an answer.
    pub(crate) fn publish(&mut self, candidates: impl IntoIterator<Item = SocketAddr>) -> bool {
        let candidates: Vec<_> = candidates.into_iter().map(canonical).collect();
        let was_candidate = self.confirmed.is_some_and(|addr| self.candidates.contains(&addr));
        let is_candidate = self.confirmed.is_some_and(|addr| candidates.contains(&addr));
        self.candidates = candidates;
        let has_moved = was_candidate && !is_candidate;
        if has_moved {
            self.attempts = 1;
        }

        has_moved
    }

    /// Continues with the state of another process. A handshake that was under way is repeated to
    /// the same address.
    pub(crate) fn resume(&mut self, state: &PathState, is_under_way: bool) {
        self.confirmed = state.confirmed.map(canonical);
        self.attempts = state.attempts.saturating_sub(is_under_way.into());
        self.trying_since = state.trying_since;
    }

    /// Returns when the first of the unanswered handshakes was sent.
    pub(crate) fn trying_since(&self) -> Option<Instant> {
        self.trying_since
    }

    /// Returns the address to which packets of a session go.
    pub(crate) fn current(&self) -> Option<SocketAddr> {
        self.confirmed
    }

    /// Returns the address in use, or the one being tried.
    pub(crate) fn shown(&self) -> Option<SocketAddr> {
        let tried = self.attempts.checked_sub(1).and_then(|last| self.target(last));

        self.confirmed.or(tried).or(self.candidates.first().copied())
    }

    /// Lists the IP addresses at which the peer may be reached or was heard.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.candidates.iter().chain(&self.confirmed).map(SocketAddr::ip)
    }

    /// Returns whether the peer may be reached or was heard at this address.
    pub(crate) fn has(&self, address: SocketAddr) -> bool {
        self.confirmed == Some(address) || self.candidates.contains(&address)
    }

    /// Returns whether any address is known.
    pub(crate) fn is_known(&self) -> bool {
        self.confirmed.is_some() || !self.candidates.is_empty()
    }

    /// Returns where the next handshake goes, and counts it as unanswered.
    pub(crate) fn next_attempt(&mut self, now: Instant) -> Option<SocketAddr> {
        let target = self.target(self.attempts)?;
        self.attempts = self.attempts.saturating_add(1);
        self.trying_since.get_or_insert(now);

        Some(target)
    }

    /// Returns how long the handshake just sent waits for its answer. `is_wanted` says whether
    /// packets wait for it.
    pub(crate) fn retry_time(&self, is_wanted: bool) -> Duration {
        if is_wanted {
            return if self.attempts <= WANTED_ATTEMPTS { WANTED_RETRY } else { LATE_RETRY };
        }
        let doublings = self.attempts.saturating_sub(1).min(8);

        (FIRST_RETRY * (1 << doublings)).min(RETRY_TIME)
    }

    /// Returns the number of unanswered handshakes.
    pub(crate) fn attempts(&self) -> u32 {
        self.attempts
    }

    /// Returns whether the peer has not answered for so long that it counts as unreachable.
    pub(crate) fn is_hopeless(&self, now: Instant) -> bool {
        self.trying_since.is_some_and(|since| now.saturating_duration_since(since) >= ATTEMPT_TIME)
    }

    /// Begins a new series of handshakes with the first address.
    pub(crate) fn give_up(&mut self) {
        self.attempts = 0;
        self.trying_since = None;
    }

    /// Begins a new series of handshakes with the address after the last, because none was
    /// answered.
    pub(crate) fn pause(&mut self) {
        self.trying_since = None;
    }

    /// Makes the next handshake go to an address other than the confirmed one, if there is one.
    pub(crate) fn look_elsewhere(&mut self) {
        self.attempts = self.attempts.max(1);
    }

    /// Returns whether the confirmed IP address is not one that the peer was published with.
    pub(crate) fn is_translated(&self) -> bool {
        self.confirmed
            .is_some_and(|from| !self.candidates.iter().any(|addr| addr.ip() == from.ip()))
    }

    /// Notes that an authentic message of the peer came from an address. Returns the previous
    /// confirmed address if it was another one.
    pub(crate) fn confirm(&mut self, from: SocketAddr) -> Option<SocketAddr> {
        self.give_up();

        self.confirmed.replace(from).filter(|before| *before != from)
    }

    /// Returns the address for a handshake: first the confirmed address, then the candidates in
    /// turn.
    fn target(&self, attempt: u32) -> Option<SocketAddr> {
        let others = self.candidates.iter().copied().filter(|addr| Some(*addr) != self.confirmed);
        let all = self.confirmed.into_iter().chain(others);
        let count = all.clone().count();

        all.clone().nth(usize::try_from(attempt).ok()?.checked_rem(count)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::start;

    fn addr(port: u16) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, 1], port))
    }

    fn path(ports: &[u16]) -> Path {
        let mut path = Path::default();
        path.publish(ports.iter().copied().map(addr));
        path
    }

    #[test]
    fn handshakes_go_round_the_candidates() {
        let mut path = path(&[1, 2, 3]);

        let ports: Vec<_> =
            (0..5).map(|_| path.next_attempt(start()).expect("a candidate").port()).collect();

        assert_eq!(ports, [1, 2, 3, 1, 2]);
    }

    #[test]
    fn a_confirmed_address_comes_first_and_only_once() {
        let mut path = path(&[1, 2]);
        path.confirm(addr(2));

        let ports: Vec<_> =
            (0..3).map(|_| path.next_attempt(start()).expect("an address").port()).collect();

        assert_eq!(ports, [2, 1, 2]);
    }

    #[test]
    fn nothing_is_sent_to_nowhere() {
        let mut path = path(&[]);

        assert!(!path.is_known());
        assert_eq!(path.next_attempt(start()), None);
        assert_eq!(path.attempts(), 0);
    }

    #[test]
    fn retries_become_slower_until_wireguards_own_pace() {
        let mut path = path(&[1]);

        let seconds: Vec<_> = (0..5)
            .map(|_| {
                path.next_attempt(start());
                path.retry_time(false).as_secs()
            })
            .collect();

        assert_eq!(seconds, [1, 2, 4, 5, 5]);
    }

    #[test]
    fn a_wanted_peer_is_tried_every_second_for_a_minute() {
        let mut path = path(&[1]);
        let mut next = || {
            path.next_attempt(start());
            path.retry_time(true)
        };

        assert!((0..WANTED_ATTEMPTS).all(|_| next() == WANTED_RETRY));
        assert_eq!(next(), LATE_RETRY);
    }

    #[test]
    fn a_peer_heard_from_where_it_is_not_said_to_be_is_translated() {
        let mut path = path(&[1]);
        path.confirm(addr(9));
        assert!(!path.is_translated(), "the same host");

        path.confirm("198.51.100.7:1".parse().expect("an address"));

        assert!(path.is_translated());
    }

    #[test]
    fn only_a_change_of_address_is_reported() {
        let mut path = path(&[1]);

        assert_eq!(path.confirm(addr(1)), None);
        assert_eq!(path.confirm(addr(1)), None);
        assert_eq!(path.confirm(addr(9)), Some(addr(1)));
        assert_eq!(path.current(), Some(addr(9)));
    }

    #[test]
    fn a_peer_that_moved_by_decree_is_noticed_and_one_behind_nat_left_alone() {
        let mut moved = path(&[1]);
        moved.confirm(addr(1));
        assert!(moved.publish([addr(2)]));
        assert_eq!(moved.next_attempt(start()), Some(addr(2)));
        assert_eq!(moved.current(), Some(addr(1)));
        assert!(!moved.publish([addr(3)]), "the confirmed address is no candidate any more");

        let mut natted = path(&[1]);
        natted.confirm(addr(77));
        assert!(!natted.publish([addr(2)]));
    }

    #[test]
    fn silence_of_ninety_seconds_is_hopeless_and_an_answer_starts_anew() {
        let mut path = path(&[1]);
        path.next_attempt(start());
        assert!(!path.is_hopeless(start() + Duration::from_secs(89)));
        assert!(path.is_hopeless(start() + Duration::from_secs(90)));

        path.confirm(addr(1));

        assert!(!path.is_hopeless(start() + Duration::from_secs(90)));
        assert_eq!(path.attempts(), 0);
    }

    #[test]
    fn mapped_addresses_lose_their_mapping() {
        let mapped: SocketAddr = "[::ffff:192.0.2.1]:7".parse().expect("valid");

        assert_eq!(canonical(mapped), addr(7));
        let v6: SocketAddr = "[2001:db8::1]:7".parse().expect("valid");
        assert_eq!(canonical(v6), v6);
    }
}
