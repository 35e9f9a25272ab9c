//! Datagrams on their way out, laid out so that one system call sends many of them.
//!
//! A train is what `UDP_SEGMENT` takes: one destination, contiguous datagrams of one size, the last perhaps shorter.
//! Trains leave in the order they were opened, and a link has at most one open, so the packets of a link stay in order.
//! Buffers are used again.

use std::collections::VecDeque;
use std::net::SocketAddr;

use crate::engine::Transmit;

/// The most bytes one `UDP_SEGMENT` call takes: the payload of the largest UDP datagram over IPv4.
const MAX_TRAIN_BYTES: usize = 65_507;
/// The most datagrams one `UDP_SEGMENT` call takes (`UDP_MAX_SEGMENTS` of old kernels).
const MAX_TRAIN_LEN: usize = 64;
/// How many bytes wait for a driver that does not send: 16 MiB, about 10,000 full packets.
const MAX_BYTES: usize = 16 << 20;
/// How many trains wait, so that tiny ones cannot cost much more than their bytes.
const MAX_TRAINS: usize = 1 << 16;
/// How many buffers are kept for later: 4 MiB at most.
const MAX_SPARES: usize = 64;

/// Names a train; later ones have larger numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TrainId(u64);

/// Room for one datagram in a train.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Slot {
    train: TrainId,
    start: usize,
    len: usize,
}

#[derive(Debug)]
struct Train {
    to: SocketAddr,
    segment: usize,
    used: usize,
    len: usize,
    is_full: bool,
    buffer: Vec<u8>,
}

impl Train {
    fn takes(&self, to: SocketAddr, len: usize) -> bool {
        !self.is_full
            && self.to == to
            && len <= self.segment
            && self.len < MAX_TRAIN_LEN
            && self.used + len <= MAX_TRAIN_BYTES
    }

    fn extend(&mut self, len: usize) -> usize {
        let start = self.used;
        self.used += len;
        self.len += 1;
        self.is_full = len < self.segment;
        if self.buffer.len() < self.used {
            self.buffer.resize(self.used.next_power_of_two().min(MAX_TRAIN_BYTES), 0);
        }

        start
    }
}

/// The trains not sent yet.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    trains: VecDeque<Train>,
    /// The number of the first train.
    first: u64,
    bytes: usize,
    spares: Vec<Vec<u8>>,
    /// The train the driver holds.
    leaving: Vec<u8>,
}

impl Outbox {
    /// Makes room for a datagram of `len` bytes behind those of the same link, whose open train is `open`.
    pub(crate) fn reserve(&mut self, open: &mut Option<TrainId>, to: SocketAddr, len: usize) -> Option<Slot> {
        if self.bytes + len > MAX_BYTES {
            return None;
        }
        let train = match open.filter(|train| self.train(*train).is_some_and(|train| train.takes(to, len))) {
            Some(train) => train,
            None => self.open_train(to, len)?,
        };
        *open = Some(train);
        self.bytes += len;
        let start = self.train(train)?.extend(len);

        Some(Slot { train, start, len })
    }

    /// Lends the room of a datagram.
    pub(crate) fn slot(&mut self, slot: Slot) -> Option<&mut [u8]> {
        self.train(slot.train)?.buffer.get_mut(slot.start..slot.start + slot.len)
    }

    /// Lends the room of two datagrams of one train.
    pub(crate) fn slots(&mut self, slots: [Slot; 2]) -> Option<[&mut [u8]; 2]> {
        let [first, second] = slots;
        if first.train != second.train {
            return None;
        }
        let rooms = slots.map(|slot| slot.start..slot.start + slot.len);

        self.train(first.train)?.buffer.get_disjoint_mut(rooms).ok()
    }

    /// Appends a datagram as a train of its own.
    pub(crate) fn push(&mut self, to: SocketAddr, datagram: &[u8]) -> bool {
        let Some(slot) = self.reserve(&mut None, to, datagram.len()) else { return false };
        if let Some(room) = self.slot(slot) {
            room.copy_from_slice(datagram);
        }

        true
    }

    /// Takes the next train.
    pub(crate) fn poll(&mut self) -> Option<Transmit<'_>> {
        let sent = std::mem::take(&mut self.leaving);
        if sent.capacity() > 0 && self.spares.len() < MAX_SPARES {
            self.spares.push(sent);
        }
        let train = self.trains.pop_front()?;
        self.first += 1;
        self.bytes -= train.used;
        self.leaving = train.buffer;

        Some(Transmit { to: train.to, bytes: self.leaving.get(..train.used)?, segment: train.segment })
    }

    fn train(&mut self, train: TrainId) -> Option<&mut Train> {
        let position = usize::try_from(train.0.checked_sub(self.first)?).ok()?;

        self.trains.get_mut(position)
    }

    fn open_train(&mut self, to: SocketAddr, segment: usize) -> Option<TrainId> {
        if self.trains.len() >= MAX_TRAINS || segment > MAX_TRAIN_BYTES {
            return None;
        }
        let id = TrainId(self.first + self.trains.len() as u64);
        let buffer = self.spares.pop().unwrap_or_default();
        self.trains.push_back(Train { to, segment, used: 0, len: 0, is_full: false, buffer });

        Some(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn to(port: u16) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, 1], port))
    }

    fn append(outbox: &mut Outbox, open: &mut Option<TrainId>, port: u16, datagram: &[u8]) {
        let slot = outbox.reserve(open, to(port), datagram.len()).expect("room");
        outbox.slot(slot).expect("just reserved").copy_from_slice(datagram);
    }

    fn drain(outbox: &mut Outbox) -> Vec<(u16, usize, usize)> {
        std::iter::from_fn(|| outbox.poll().map(|train| (train.to.port(), train.segment, train.bytes.len()))).collect()
    }

    #[test]
    fn equal_datagrams_share_a_train_and_a_shorter_one_ends_it() {
        let (mut outbox, mut open) = (Outbox::default(), None);

        for len in [100, 100, 40, 100, 200] {
            append(&mut outbox, &mut open, 1, &vec![7; len]);
        }

        assert_eq!(drain(&mut outbox), [(1, 100, 240), (1, 100, 100), (1, 200, 200)]);
    }

    #[test]
    fn links_do_not_break_each_others_trains() {
        let mut outbox = Outbox::default();
        let (mut one, mut two) = (None, None);

        for _ in 0..3 {
            append(&mut outbox, &mut one, 1, &[1; 10]);
            append(&mut outbox, &mut two, 2, &[2; 10]);
        }

        assert_eq!(drain(&mut outbox), [(1, 10, 30), (2, 10, 30)]);
    }

    #[test]
    fn trains_stay_within_what_the_kernel_takes() {
        let (mut outbox, mut open) = (Outbox::default(), None);
        for _ in 0..65 {
            append(&mut outbox, &mut open, 1, &[0; 32]);
        }
        assert_eq!(drain(&mut outbox), [(1, 32, 64 * 32), (1, 32, 32)]);

        let mut open = None;
        for _ in 0..50 {
            append(&mut outbox, &mut open, 1, &[0; 1440]);
        }
        assert_eq!(drain(&mut outbox), [(1, 1440, 45 * 1440), (1, 1440, 5 * 1440)]);
    }

    #[test]
    fn a_new_address_and_a_sent_train_begin_another() {
        let (mut outbox, mut open) = (Outbox::default(), None);
        append(&mut outbox, &mut open, 1, &[0; 10]);
        append(&mut outbox, &mut open, 2, &[0; 10]);
        assert_eq!(drain(&mut outbox), [(1, 10, 10), (2, 10, 10)]);

        append(&mut outbox, &mut open, 2, &[0; 10]);
        assert_eq!(drain(&mut outbox), [(2, 10, 10)]);
    }

    #[test]
    fn bytes_arrive_as_they_were_written_although_buffers_are_used_again() {
        let (mut outbox, mut open) = (Outbox::default(), None);

        for round in 0..10_u8 {
            append(&mut outbox, &mut open, 1, &[round; 20]);
            append(&mut outbox, &mut open, 1, &[round + 100; 20]);
            outbox.push(to(2), &[round; 5]);

            assert_eq!(outbox.poll().expect("a train").bytes, [[round; 20], [round + 100; 20]].concat());
            assert_eq!(outbox.poll().expect("a train").bytes, [round; 5]);
            assert!(outbox.poll().is_none());
        }
    }

    #[test]
    fn a_driver_that_does_not_send_bounds_the_memory() {
        let (mut outbox, mut open) = (Outbox::default(), None);

        let taken = (0..20_000).filter(|_| outbox.reserve(&mut open, to(1), 1440).is_some()).count();

        assert_eq!(taken, MAX_BYTES / 1440);
        while outbox.poll().is_some() {}
        assert!(outbox.reserve(&mut open, to(1), 1440).is_some(), "room again");
        assert!(outbox.spares.len() <= MAX_SPARES);
    }
}
