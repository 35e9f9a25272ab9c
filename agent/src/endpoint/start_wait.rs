//! Waiting until the kernel has an endpoint: for as long as the work on its network moves on,
//! however many are before it in the queue, and no longer.

use std::time::Duration;

use overlay_core::{EndpointId, NetworkId};
use overlay_proto::Code;
use tokio::time::{Instant, sleep_until};

use super::lifecycle::Endpoints;
use crate::reconcile::{EndpointState, NetworkReports};
use crate::state::EndpointRecord;

/// How long the kernel may do nothing for an endpoint, and how long what holds it up is tried
/// again.
const STALL: Duration = Duration::from_secs(15);

/// Why an endpoint did not come up.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum StartFailure {
    /// Somebody took it out of the journal meanwhile.
    #[error("the endpoint was detached while it was being attached")]
    TakenBack,
    /// The kernel refuses it.
    #[error("{why}")]
    Failed {
        /// What is reported of it.
        why: String,
    },
    /// What it was to live in is not there.
    #[error("{why}")]
    Gone {
        /// What is reported of it.
        why: String,
    },
    /// What is wrong with its network holds it up.
    #[error("{why}")]
    HeldUp {
        /// What is reported of the network.
        why: String,
    },
    /// The kernel was not heard of.
    #[error("the kernel has done nothing for it in {} seconds", STALL.as_secs())]
    Stalled,
}

impl StartFailure {
    /// Returns the stable code.
    pub(crate) fn code(&self) -> Code {
        match self {
            Self::TakenBack | Self::Gone { .. } => Code::NotFound,
            Self::Failed { .. } | Self::HeldUp { .. } | Self::Stalled => Code::Kernel,
        }
    }
}

impl Endpoints {
    /// Waits until the kernel has an endpoint of the journal.
    ///
    /// # Errors
    ///
    /// When it cannot be had, when nothing was done for it in 15 seconds, or when it is taken back.
    pub(crate) async fn brought_up(&self, record: &EndpointRecord) -> Result<(), StartFailure> {
        let (network, id) = (record.endpoint.network, record.endpoint.id);
        let (mut reports, mut journal) = (self.reports.subscribe(), self.journal.subscribe());
        let mut clock = StartClock::new(Instant::now());
        loop {
            if !journal.borrow_and_update().contains_key(&id) {
                return Err(StartFailure::TakenBack);
            }
            let state = state(&reports.borrow_and_update(), network, id);
            let now = Instant::now();
            match state {
                Some(EndpointState::Ready) => return Ok(()),
                Some(EndpointState::Failed(why)) => return Err(StartFailure::Failed { why }),
                Some(EndpointState::Gone(why)) => return Err(StartFailure::Gone { why }),
                Some(EndpointState::HeldUp) => clock.handle_held_up(now),
                None => {}
            }
            if let Some(progress) = self.queue.last_progress(network) {
                clock.handle_progress(progress);
            }
            if clock.poll_timeout() <= now {
                return Err(stalled(&reports.borrow(), network));
            }
            tokio::select! {
                // The senders live as long as this value.
                _ = reports.changed() => {}
                _ = journal.changed() => {}
                () = sleep_until(clock.poll_timeout()) => {}
            }
        }
    }
}

fn state(reports: &NetworkReports, network: NetworkId, id: EndpointId) -> Option<EndpointState> {
    reports.get(&network)?.endpoints.get(&id).cloned()
}

fn stalled(reports: &NetworkReports, network: NetworkId) -> StartFailure {
    let report = reports.get(&network);
    let problem = report.and_then(|report| report.problem.clone().or(report.policy.clone()));

    problem.map_or(StartFailure::Stalled, |why| StartFailure::HeldUp { why })
}

/// When to give up waiting for an endpoint. Pure.
#[derive(Debug)]
struct StartClock {
    since: Instant,
    is_held_up: bool,
}

impl StartClock {
    fn new(now: Instant) -> Self {
        Self { since: now, is_held_up: false }
    }

    /// The work on its network moved on.
    fn handle_progress(&mut self, at: Instant) {
        if !self.is_held_up {
            self.since = self.since.max(at);
        }
    }

    /// It had its turn, and something holds it up that is tried again: that is no progress.
    fn handle_held_up(&mut self, now: Instant) {
        if !self.is_held_up {
            (self.since, self.is_held_up) = (now, true);
        }
    }

    fn poll_timeout(&self) -> Instant {
        self.since + STALL
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reconcile::QueueLog;

    const SECOND: Duration = Duration::from_secs(1);

    fn network(n: u64) -> NetworkId {
        NetworkId::from_random(n)
    }

    /// Looks at the queue like [`Endpoints::brought_up`], and says whether a start is given up.
    fn has_lapsed(clock: &mut StartClock, queue: &QueueLog, n: u64, now: Instant) -> bool {
        if let Some(progress) = queue.last_progress(network(n)) {
            clock.handle_progress(progress);
        }

        clock.poll_timeout() <= now
    }

    #[test]
    fn four_hundred_that_are_wanted_at_once_all_wait_for_their_turn() {
        let start = Instant::now();
        let (mut now, mut queue) = (start, QueueLog::new(start));
        let mut clocks: Vec<_> = (0..400).map(|n| (n, StartClock::new(now))).collect();
        clocks.iter().for_each(|(n, _)| queue.handle_wanted(network(*n)));

        // Each takes 14 s, in two steps of the kernel.
        for served in 0..400 {
            queue.handle_begun(network(served), now);
            for _ in 0..14 {
                now += SECOND;
                let given_up = clocks
                    .iter_mut()
                    .find_map(|(n, clock)| has_lapsed(clock, &queue, *n, now).then_some(*n));
                assert_eq!(given_up, None, "after {:?}, with {served} at work", now - start);
            }
            queue.handle_step(network(served), now);
            queue.handle_ended(network(served), now);
            clocks.remove(0);
        }

        assert_eq!(now - start, SECOND * 14 * 400);
    }

    #[test]
    fn one_network_with_much_to_do_is_waited_for_while_the_kernel_does_it() {
        let start = Instant::now();
        let (mut now, mut queue, mut clock) = (start, QueueLog::new(start), StartClock::new(start));
        queue.handle_wanted(network(1));
        queue.handle_begun(network(1), now);

        for _ in 0..100 {
            now += SECOND;
            queue.handle_step(network(1), now);
            assert!(!has_lapsed(&mut clock, &queue, 1, now));
        }
    }

    #[test]
    fn a_stuck_kernel_is_noticed_though_the_queue_moves_on() {
        let start = Instant::now();
        let (mut now, mut queue, mut clock) = (start, QueueLog::new(start), StartClock::new(start));
        queue.handle_wanted(network(1));
        now += SECOND * 10;
        queue.handle_begun(network(1), now);
        let begun = now;

        for other in 2.. {
            queue.handle_wanted(network(other));
            queue.handle_begun(network(other), now);
            now += SECOND;
            queue.handle_ended(network(other), now);
            if has_lapsed(&mut clock, &queue, 1, now) {
                break;
            }
        }

        assert_eq!(now - begun, STALL);
    }

    #[test]
    fn a_queue_that_stands_still_is_noticed() {
        let start = Instant::now();
        let (mut queue, mut clock) = (QueueLog::new(start), StartClock::new(start));
        queue.handle_wanted(network(1));

        assert!(!has_lapsed(&mut clock, &queue, 1, start + STALL - SECOND));
        assert!(has_lapsed(&mut clock, &queue, 1, start + STALL));
    }

    #[test]
    fn trying_again_what_the_kernel_refuses_is_no_progress() {
        let start = Instant::now();
        let (mut now, mut queue, mut clock) = (start, QueueLog::new(start), StartClock::new(start));
        while !has_lapsed(&mut clock, &queue, 1, now) {
            queue.handle_wanted(network(1));
            queue.handle_begun(network(1), now);
            now += SECOND;
            queue.handle_step(network(1), now);
            queue.handle_ended(network(1), now);
            clock.handle_held_up(now);
        }

        assert_eq!(now - start, SECOND + STALL);
    }
}
