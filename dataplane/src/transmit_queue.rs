//! Datagrams to be sent, laid out so that one system call sends many of them.
//!
//! A batch is what `UDP_SEGMENT` takes: one destination, contiguous datagrams of one size, the last
//! possibly shorter. Batches are sent in the order they were opened, and a link has at most one
//! open, so the packets of a link stay in order. Buffers are reused.

use std::collections::VecDeque;
use std::net::SocketAddr;

use crate::io::Transmit;

/// The most bytes that one `UDP_SEGMENT` call takes: the payload of the largest UDP datagram over
/// IPv4.
const MAX_GSO_BYTES: usize = 65_507;
/// The most datagrams that one `UDP_SEGMENT` call takes (`UDP_MAX_SEGMENTS` of old kernels).
const MAX_GSO_SEGMENTS: usize = 64;
/// How many bytes are kept for a driver that does not send: 16 MiB, about 10,000 full packets.
const MAX_BYTES: usize = 16 << 20;
/// How many batches are kept, so that tiny ones cannot cost much more than their bytes.
const MAX_BATCHES: usize = 1 << 16;
/// How many buffers are kept for reuse: 4 MiB at most.
const MAX_SPARES: usize = 64;

/// Identifies a batch; later ones have larger numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct GsoBatchId(u64);

/// The space of one datagram in a batch.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Slot {
    batch: GsoBatchId,
    start: usize,
    len: usize,
}

#[derive(Debug)]
struct GsoBatch {
    to: SocketAddr,
    segment: usize,
    used: usize,
    len: usize,
    is_full: bool,
    buffer: Vec<u8>,
}

impl GsoBatch {
    fn takes(&self, to: SocketAddr, len: usize) -> bool {
        !self.is_full
            && self.to == to
            && len <= self.segment
            && self.len < MAX_GSO_SEGMENTS
            && self.used + len <= MAX_GSO_BYTES
    }

    fn extend(&mut self, len: usize) -> usize {
        let start = self.used;
        self.used += len;
        self.len += 1;
        self.is_full = len < self.segment;
        if self.buffer.len() < self.used {
            self.buffer.resize(self.used.next_power_of_two().min(MAX_GSO_BYTES), 0);
        }

        start
    }
}

/// The batches that were not sent yet.
#[derive(Debug, Default)]
pub(crate) struct TransmitQueue {
    batches: VecDeque<GsoBatch>,
    /// The number of the first batch.
    first: u64,
    bytes: usize,
    spares: Vec<Vec<u8>>,
    /// The batch that the driver holds.
    leaving: Vec<u8>,
}

impl TransmitQueue {
    /// Reserves space for a datagram of `len` bytes behind those of the same link, whose open batch
    /// is `open`.
    pub(crate) fn reserve(
        &mut self,
        open: &mut Option<GsoBatchId>,
        to: SocketAddr,
        len: usize,
    ) -> Option<Slot> {
        if self.bytes + len > MAX_BYTES {
            return None;
        }
        let batch = match open
            .filter(|batch| self.batch(*batch).is_some_and(|batch| batch.takes(to, len)))
        {
            Some(batch) => batch,
            None => self.open_batch(to, len)?,
        };
        *open = Some(batch);
        self.bytes += len;
        let start = self.batch(batch)?.extend(len);

        Some(Slot { batch, start, len })
    }

    /// Returns the space of a datagram.
    pub(crate) fn slot(&mut self, slot: Slot) -> Option<&mut [u8]> {
        self.batch(slot.batch)?.buffer.get_mut(slot.start..slot.start + slot.len)
    }

    /// Returns the space of two datagrams of one batch.
    pub(crate) fn slots(&mut self, slots: [Slot; 2]) -> Option<[&mut [u8]; 2]> {
        let [first, second] = slots;
        if first.batch != second.batch {
            return None;
        }
        let buffers = slots.map(|slot| slot.start..slot.start + slot.len);

        self.batch(first.batch)?.buffer.get_disjoint_mut(buffers).ok()
    }

    /// Appends a datagram as a batch of its own. Returns whether there was space.
    pub(crate) fn push(&mut self, to: SocketAddr, datagram: &[u8]) -> bool {
        let Some(slot) = self.reserve(&mut None, to, datagram.len()) else { return false };
        if let Some(buffer) = self.slot(slot) {
            buffer.copy_from_slice(datagram);
        }

        true
    }

    /// Takes the next batch.
    pub(crate) fn poll(&mut self) -> Option<Transmit<'_>> {
        let sent = std::mem::take(&mut self.leaving);
        if sent.capacity() > 0 && self.spares.len() < MAX_SPARES {
            self.spares.push(sent);
        }
        let batch = self.batches.pop_front()?;
        self.first += 1;
        self.bytes -= batch.used;
        self.leaving = batch.buffer;

        Some(Transmit {
            to: batch.to,
            bytes: self.leaving.get(..batch.used)?,
            segment: batch.segment,
        })
    }

    fn batch(&mut self, batch: GsoBatchId) -> Option<&mut GsoBatch> {
        let position = usize::try_from(batch.0.checked_sub(self.first)?).ok()?;

        self.batches.get_mut(position)
    }

    fn open_batch(&mut self, to: SocketAddr, segment: usize) -> Option<GsoBatchId> {
        if self.batches.len() >= MAX_BATCHES || segment > MAX_GSO_BYTES {
            return None;
        }
        let id = GsoBatchId(self.first + self.batches.len() as u64);
        let buffer = self.spares.pop().unwrap_or_default();
        self.batches.push_back(GsoBatch { to, segment, used: 0, len: 0, is_full: false, buffer });

        Some(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn to(port: u16) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, 1], port))
    }

    fn append(
        transmit_queue: &mut TransmitQueue,
        open: &mut Option<GsoBatchId>,
        port: u16,
        datagram: &[u8],
    ) {
        let slot = transmit_queue.reserve(open, to(port), datagram.len()).expect("buffer");
        transmit_queue.slot(slot).expect("just reserved").copy_from_slice(datagram);
    }

    fn drain(transmit_queue: &mut TransmitQueue) -> Vec<(u16, usize, usize)> {
        std::iter::from_fn(|| {
            transmit_queue.poll().map(|batch| (batch.to.port(), batch.segment, batch.bytes.len()))
        })
        .collect()
    }

    #[test]
    fn equal_datagrams_share_a_batch_and_a_shorter_one_ends_it() {
        let (mut transmit_queue, mut open) = (TransmitQueue::default(), None);

        for len in [100, 100, 40, 100, 200] {
            append(&mut transmit_queue, &mut open, 1, &vec![7; len]);
        }

        assert_eq!(drain(&mut transmit_queue), [(1, 100, 240), (1, 100, 100), (1, 200, 200)]);
    }

    #[test]
    fn links_do_not_break_each_others_batches() {
        let mut transmit_queue = TransmitQueue::default();
        let (mut one, mut two) = (None, None);

        for _ in 0..3 {
            append(&mut transmit_queue, &mut one, 1, &[1; 10]);
            append(&mut transmit_queue, &mut two, 2, &[2; 10]);
        }

        assert_eq!(drain(&mut transmit_queue), [(1, 10, 30), (2, 10, 30)]);
    }

    #[test]
    fn trains_stay_within_what_the_kernel_takes() {
        let (mut transmit_queue, mut open) = (TransmitQueue::default(), None);
        for _ in 0..65 {
            append(&mut transmit_queue, &mut open, 1, &[0; 32]);
        }
        assert_eq!(drain(&mut transmit_queue), [(1, 32, 64 * 32), (1, 32, 32)]);

        let mut open = None;
        for _ in 0..50 {
            append(&mut transmit_queue, &mut open, 1, &[0; 1440]);
        }
        assert_eq!(drain(&mut transmit_queue), [(1, 1440, 45 * 1440), (1, 1440, 5 * 1440)]);
    }

    #[test]
    fn a_new_address_and_a_sent_batch_begin_another() {
        let (mut transmit_queue, mut open) = (TransmitQueue::default(), None);
        append(&mut transmit_queue, &mut open, 1, &[0; 10]);
        append(&mut transmit_queue, &mut open, 2, &[0; 10]);
        assert_eq!(drain(&mut transmit_queue), [(1, 10, 10), (2, 10, 10)]);

        append(&mut transmit_queue, &mut open, 2, &[0; 10]);
        assert_eq!(drain(&mut transmit_queue), [(2, 10, 10)]);
    }

    #[test]
    fn bytes_arrive_as_they_were_written_although_buffers_are_used_again() {
        let (mut transmit_queue, mut open) = (TransmitQueue::default(), None);

        for round in 0..10_u8 {
            append(&mut transmit_queue, &mut open, 1, &[round; 20]);
            append(&mut transmit_queue, &mut open, 1, &[round + 100; 20]);
            transmit_queue.push(to(2), &[round; 5]);

            assert_eq!(
                transmit_queue.poll().expect("a batch").bytes,
                [[round; 20], [round + 100; 20]].concat()
            );
            assert_eq!(transmit_queue.poll().expect("a batch").bytes, [round; 5]);
            assert!(transmit_queue.poll().is_none());
        }
    }

    #[test]
    fn a_driver_that_does_not_send_bounds_the_memory() {
        let (mut transmit_queue, mut open) = (TransmitQueue::default(), None);

        let taken = (0..20_000)
            .filter(|_| transmit_queue.reserve(&mut open, to(1), 1440).is_some())
            .count();

        assert_eq!(taken, MAX_BYTES / 1440);
        while transmit_queue.poll().is_some() {}
        assert!(transmit_queue.reserve(&mut open, to(1), 1440).is_some(), "room again");
        assert!(transmit_queue.spares.len() <= MAX_SPARES);
    }
}
