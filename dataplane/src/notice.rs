//! Notices: short messages that nodes pass on to each other inside their sessions, whatever they
//! say. The engine carries them, the agent makes and judges them (`docs/adr/0027-eviction.md`).
//!
//! A notice is sent once on every link that has a session when it is published, and by echoes
//! ([`crate::echo`]) peers find out whether they know the same ones: each carries a digest of what
//! its sender knows. Where the digests differ, the peer is sent what this lane knows, a few at a
//! time, and no more than [`CYCLES`] times for the same two digests, so that neither a peer that
//! keeps less nor one that lies is sent more than that.

use std::sync::Arc;
use std::time::{Duration, Instant};

use overlay_core::token_bucket::TokenBucket;

/// The longest notice, in bytes.
pub const MAX_NOTICE: usize = 512;
/// The version of these messages, where a packet has its IP version; probes have the same.
const MARK: u8 = 0x01;
const KIND: u8 = 5;
/// The mark, the kind and the length of the notice: payloads are padded.
const HEADER: usize = 4;

/// How many notices are sent on a link at once.
const BATCH: usize = 8;
/// How often all of them are sent to a peer that goes on to know others.
const CYCLES: u8 = 3;
/// How many notices a peer may send at once, and how often one more: far more than an operator
/// makes, and what they cost, mostly a signature to verify, stays below 1 % of a core.
const BURST: u32 = 64;
const INTERVAL: Duration = Duration::from_millis(100);
/// How many batches a peer is sent at once, and how often one more, however often it asks.
const BATCHES: u32 = 16;
const BATCH_INTERVAL: Duration = Duration::from_millis(250);

/// The notices that a node knows.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Notices {
    /// Says which ones they are; equal on nodes that know the same ones, 0 if there are none.
    pub digest: u64,
    /// Each at most [`MAX_NOTICE`] bytes, the latest first.
    pub messages: Vec<Arc<[u8]>>,
}

impl Notices {
    /// Returns whether a notice is among them.
    pub(crate) fn has(&self, message: &[u8]) -> bool {
        self.messages.iter().any(|known| **known == *message)
    }
}

/// Parses a payload that is not an IP packet; returns the notice.
pub(crate) fn parse(payload: &[u8]) -> Option<&[u8]> {
    let ([MARK, KIND, high, low], padded) = payload.split_first_chunk::<HEADER>()? else {
        return None;
    };
    let len = usize::from(u16::from_be_bytes([*high, *low]));

    padded.get(..len).filter(|message| (1..=MAX_NOTICE).contains(&message.len()))
}

/// Encodes a notice; one that is too long is cut, and no receiver takes it for sound.
pub(crate) fn write(message: &[u8], into: &mut Vec<u8>) {
    into.clear();
    let message = message.get(..MAX_NOTICE).unwrap_or(message);
    let [.., high, low] = message.len().to_be_bytes();
    into.extend_from_slice(&[MARK, KIND, high, low]);
    into.extend_from_slice(message);
}

/// What a link knows of the notices of its peer.
#[derive(Debug)]
pub(crate) struct Exchange {
    /// The digests of this lane and of the peer that differed last.
    differed: Option<(u64, u64)>,
    /// Where the next batch begins.
    next: usize,
    cycles: u8,
    incoming: TokenBucket,
    outgoing: TokenBucket,
}

impl Exchange {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            differed: None,
            next: 0,
            cycles: 0,
            incoming: TokenBucket::new(BURST, INTERVAL, now),
            outgoing: TokenBucket::new(BATCHES, BATCH_INTERVAL, now),
        }
    }

    /// Returns whether a notice of the peer is taken.
    pub(crate) fn admits(&mut self, now: Instant) -> bool {
        self.incoming.take(now)
    }

    /// Compares what a peer says that it knows. Returns what to send it; nothing when it knows the
    /// same, or was sent everything often enough.
    pub(crate) fn compare(
        &mut self,
        ours: &Notices,
        theirs: u64,
        now: Instant,
    ) -> Option<Vec<Arc<[u8]>>> {
        if ours.digest == theirs {
            self.differed = None;
            return None;
        }
        if self.differed.replace((ours.digest, theirs)) != Some((ours.digest, theirs)) {
            (self.next, self.cycles) = (0, 0);
        }
        if self.cycles >= CYCLES || ours.messages.is_empty() || !self.outgoing.take(now) {
            return None;
        }
        let batch: Vec<_> = ours.messages.iter().skip(self.next).take(BATCH).cloned().collect();
        self.next += batch.len();
        if self.next >= ours.messages.len() {
            self.next = 0;
            self.cycles += 1;
        }

        Some(batch)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::echo::Echo;
    use crate::ip;
    use crate::probe::ProbeMessage;
    use crate::sim::start;

    proptest! {
        #[test]
        fn a_notice_survives_the_wire_and_is_nothing_else(
            notice in proptest::collection::vec(any::<u8>(), 1..=MAX_NOTICE),
            padding in 0..16_usize,
        ) {
            let mut bytes = Vec::new();
            write(&notice, &mut bytes);
            let whole = bytes.len();
            prop_assert_eq!(parse(&bytes[..whole - 1]), None);
            bytes.resize(whole + padding, 0);

            prop_assert_eq!(parse(&bytes), Some(&notice[..]));
            prop_assert_eq!(ip::parse(&bytes), None);
            prop_assert_eq!(Echo::parse(&bytes), None);
            prop_assert_eq!(ProbeMessage::parse(&bytes), None);
        }

        #[test]
        fn no_bytes_are_too_strange(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let is_packet = ip::parse(&bytes).is_some();

            prop_assert!(parse(&bytes).is_none() || !is_packet);
        }
    }

    #[test]
    fn what_is_empty_or_too_long_is_no_notice() {
        let of_len = |len: u16| {
            let [high, low] = len.to_be_bytes();
            let bytes = [&[MARK, KIND, high, low][..], &[7; 2000]].concat();
            parse(&bytes).map(<[u8]>::len)
        };

        assert_eq!([0, 512, 513, u16::MAX].map(of_len), [None, Some(512), None, None]);
    }

    fn notices(count: u8) -> Notices {
        let messages = (0..count).map(|n| Arc::from([n].as_slice())).collect();

        Notices { digest: count.into(), messages }
    }

    #[test]
    fn a_peer_that_never_learns_is_sent_everything_a_few_times_and_then_nothing() {
        let (ours, mut exchange) = (notices(20), Exchange::new(start()));

        let sent: usize =
            std::iter::from_fn(|| exchange.compare(&ours, 7, start())).map(|it| it.len()).sum();

        assert_eq!(sent, 20 * usize::from(CYCLES));
        assert_eq!(exchange.compare(&ours, 7, start()), None);
        let more = exchange.compare(&ours, 8, start()).map(|batch| batch.len());
        assert_eq!(more, Some(BATCH), "it learned");
        assert_eq!(exchange.compare(&ours, ours.digest, start()), None);
    }

    #[test]
    fn a_peer_that_lies_anew_each_time_is_sent_no_more_than_a_rate() {
        let (ours, mut exchange) = (notices(8), Exchange::new(start()));

        let sent = (100..1100).filter(|lie| exchange.compare(&ours, *lie, start()).is_some());

        assert_eq!(sent.count(), 16);
        assert!(exchange.compare(&ours, 7, start() + BATCH_INTERVAL).is_some());
    }

    #[test]
    fn a_flood_of_notices_is_cut_to_a_rate() {
        let mut exchange = Exchange::new(start());

        let taken = (0..1000).filter(|_| exchange.admits(start())).count();

        assert_eq!(taken, 64);
        assert!(exchange.admits(start() + INTERVAL));
    }
}
