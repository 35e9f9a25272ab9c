//! Inner packets on their way to TUN devices: datagrams are opened straight into the buffer the driver writes from.
//!
//! A refused packet only leaves a hole. The buffer starts anew once the driver took everything.

use std::ops::Range;

use overlay_core::NetworkId;

use crate::engine::{Delivery, TUN_HEADROOM};

/// How many bytes wait for a driver that does not look: 4 MiB, about 2,800 full packets.
const MAX_BYTES: usize = 4 << 20;
/// Packets start at multiples of this many bytes.
const ALIGNMENT: usize = 16;

/// The packets not taken yet.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    buffer: Vec<u8>,
    used: usize,
    packets: Vec<Range<usize>>,
    /// Successive packets of one network: its id and the end of the run in `packets`.
    runs: Vec<(NetworkId, usize)>,
    taken: usize,
}

impl Inbox {
    /// Makes room for `len` bytes that may become a packet.
    pub(crate) fn reserve(&mut self, len: usize) -> Option<Range<usize>> {
        self.forget_taken();
        let start = (self.used + TUN_HEADROOM).next_multiple_of(ALIGNMENT);
        let end = start + len;
        if end > MAX_BYTES {
            return None;
        }
        self.used = end;
        if self.buffer.len() < end {
            self.buffer.resize(end.next_power_of_two(), 0);
        }

        Some(start..end)
    }

    /// Lends reserved room.
    pub(crate) fn room(&mut self, room: Range<usize>) -> &mut [u8] {
        self.buffer.get_mut(room).unwrap_or_default()
    }

    /// Lends room that was reserved twice.
    pub(crate) fn rooms(&mut self, rooms: [Range<usize>; 2]) -> Option<[&mut [u8]; 2]> {
        self.buffer.get_disjoint_mut(rooms).ok()
    }

    /// Declares that reserved room holds a packet for a network.
    pub(crate) fn push(&mut self, network: NetworkId, packet: Range<usize>) {
        self.packets.push(packet);
        let end = self.packets.len();
        match self.runs.last_mut() {
            Some((last, last_end)) if *last == network => *last_end = end,
            _ => self.runs.push((network, end)),
        }
    }

    /// Takes the next run of packets of one network.
    pub(crate) fn poll(&mut self) -> Option<Delivery<'_>> {
        let (network, end) = *self.runs.get(self.taken)?;
        let start = self.taken.checked_sub(1).and_then(|before| self.runs.get(before)).map_or(0, |(_, end)| *end);
        self.taken += 1;

        Some(Delivery { network, bytes: &mut self.buffer, packets: self.packets.get(start..end)? })
    }

    /// Gives up room that no packet came of.
    pub(crate) fn forget_taken(&mut self) {
        if self.taken == self.runs.len() && !self.runs.is_empty() {
            self.used = 0;
            self.taken = 0;
            self.packets.clear();
            self.runs.clear();
        }
    }

    /// Gives up the room of a batch that brought nothing.
    pub(crate) fn forget_holes(&mut self) {
        if self.runs.is_empty() {
            self.used = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(id: u64) -> NetworkId {
        NetworkId::from_random(id)
    }

    fn push(inbox: &mut Inbox, id: u64, byte: u8) {
        let room = inbox.reserve(10).expect("room");
        inbox.room(room.clone()).fill(byte);
        inbox.push(network(id), room);
    }

    fn drain(inbox: &mut Inbox) -> Vec<(NetworkId, Vec<u8>)> {
        std::iter::from_fn(|| {
            inbox.poll().map(|run| (run.network, run.packets.iter().map(|range| run.bytes[range.start]).collect()))
        })
        .collect()
    }

    #[test]
    fn packets_come_in_runs_of_one_network() {
        let mut inbox = Inbox::default();

        for (id, byte) in [(1, 1), (1, 2), (2, 3), (1, 4)] {
            push(&mut inbox, id, byte);
        }

        assert_eq!(drain(&mut inbox), [(network(1), vec![1, 2]), (network(2), vec![3]), (network(1), vec![4])]);
    }

    #[test]
    fn every_packet_has_headroom_of_its_own() {
        let mut inbox = Inbox::default();
        for byte in 0..10 {
            push(&mut inbox, 1, byte);
        }

        let run = inbox.poll().expect("packets");

        let mut end = 0;
        for packet in run.packets {
            assert!(packet.start >= end + TUN_HEADROOM);
            end = packet.end;
        }
    }

    #[test]
    fn packets_not_taken_survive_later_ones() {
        let mut inbox = Inbox::default();
        push(&mut inbox, 1, 1);
        push(&mut inbox, 2, 2);
        assert_eq!(inbox.poll().expect("a run").network, network(1));

        push(&mut inbox, 2, 3);

        assert_eq!(drain(&mut inbox), [(network(2), vec![2, 3])]);
    }

    #[test]
    fn a_driver_that_does_not_look_bounds_the_memory() {
        let mut inbox = Inbox::default();

        while let Some(room) = inbox.reserve(60_000) {
            inbox.push(network(1), room);
        }
        assert!(inbox.buffer.len() <= MAX_BYTES);

        drain(&mut inbox);
        assert!(inbox.reserve(60_000).is_some(), "room again");
    }

    #[test]
    fn holes_alone_take_no_room() {
        let mut inbox = Inbox::default();
        let first = inbox.reserve(100).expect("room");

        inbox.forget_holes();

        assert_eq!(inbox.reserve(100), Some(first));
    }
}
