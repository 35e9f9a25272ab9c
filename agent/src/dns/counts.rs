//! Counts the questions of containers that were refused, by reason.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::backend::Counter;
use crate::path::CounterKind;

/// Questions that were refused since the agent started.
#[derive(Debug, Default)]
pub(crate) struct DnsCounts {
    flooded: AtomicU64,
    forwards_limited: AtomicU64,
    forwards_pending: AtomicU64,
    streams_limited: AtomicU64,
}

/// Why a question was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DnsRefusal {
    /// The client asks more than it may; dropped.
    Flooded,
    /// The client asks more for other resolvers than it may.
    ForwardsLimited,
    /// Too many of the client's questions wait for other resolvers.
    ForwardsPending,
    /// The client has too many TCP connections.
    StreamsLimited,
}

impl DnsCounts {
    /// Counts one question.
    pub(super) fn count(&self, refusal: DnsRefusal) {
        self.add(refusal, 1);
    }

    /// Counts several questions.
    pub(super) fn add(&self, refusal: DnsRefusal, questions: u64) {
        let count = match refusal {
            DnsRefusal::Flooded => &self.flooded,
            DnsRefusal::ForwardsLimited => &self.forwards_limited,
            DnsRefusal::ForwardsPending => &self.forwards_pending,
            DnsRefusal::StreamsLimited => &self.streams_limited,
        };
        count.fetch_add(questions, Ordering::Relaxed);
    }

    /// Lists the counts.
    pub(crate) fn counters(&self) -> [Counter; 4] {
        let counter = |name, count: &AtomicU64| Counter {
            name,
            kind: CounterKind::Refusal,
            value: count.load(Ordering::Relaxed),
        };

        [
            counter("dns_flooded", &self.flooded),
            counter("dns_forwards_limited", &self.forwards_limited),
            counter("dns_forwards_pending", &self.forwards_pending),
            counter("dns_streams_limited", &self.streams_limited),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_refusal_has_a_counter_of_its_own() {
        let counts = DnsCounts::default();
        let refusals = [
            DnsRefusal::Flooded,
            DnsRefusal::ForwardsLimited,
            DnsRefusal::ForwardsPending,
            DnsRefusal::StreamsLimited,
        ];
        for (refusal, questions) in refusals.into_iter().zip(1..) {
            counts.add(refusal, questions);
        }

        assert_eq!(counts.counters().map(|counter| counter.value), [1, 2, 3, 4]);
    }
}
