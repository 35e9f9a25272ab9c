//! Inner packets on their way to TUN devices: datagrams are opened straight into the buffer that
//! the driver writes from.
//!
//! A refused packet only leaves a hole. The buffer starts over once the driver has taken
//! everything.

use std::ops::Range;

use overlay_core::NetworkId;

use crate::io::{ReceivedPackets, TUN_HEADROOM};

/// How many bytes are kept for a driver that does not take them: 4 MiB, about 2,800 full packets.
const MAX_BYTES: usize = 4 << 20;
/// Packets start at multiples of this many bytes.
const ALIGNMENT: usize = 16;

/// The packets that were not taken yet.
#[derive(Debug, Default)]
pub(crate) struct RxBuffer {
    buffer: Vec<u8>,
    used: usize,
    packets: Vec<Range<usize>>,
    /// Consecutive packets of one network: its id, and where the run ends in `packets`.
    runs: Vec<(NetworkId, usize)>,
    taken: usize,
}

impl RxBuffer {
    /// Reserves `len` bytes that may become a packet.
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

    /// Returns reserved bytes.
    pub(crate) fn buffer(&mut self, buffer: Range<usize>) -> &mut [u8] {
        self.buffer.get_mut(buffer).unwrap_or_default()
    }

    /// Returns two reserved ranges of bytes.
    pub(crate) fn buffers(&mut self, buffers: [Range<usize>; 2]) -> Option<[&mut [u8]; 2]> {
        self.buffer.get_disjoint_mut(buffers).ok()
    }

    /// Declares that reserved bytes hold a packet for a network.
    pub(crate) fn push(&mut self, network: NetworkId, packet: Range<usize>) {
        self.packets.push(packet);
        let end = self.packets.len();
        match self.runs.last_mut() {
            Some((last, last_end)) if *last == network => *last_end = end,
            _ => self.runs.push((network, end)),
        }
    }

    /// Takes the next run of packets of one network.
    pub(crate) fn poll(&mut self) -> Option<ReceivedPackets<'_>> {
        let (network, end) = *self.runs.get(self.taken)?;
        let start = self
            .taken
            .checked_sub(1)
            .and_then(|before| self.runs.get(before))
            .map_or(0, |(_, end)| *end);
        self.taken += 1;

        Some(ReceivedPackets {
            network,
            bytes: &mut self.buffer,
            packets: self.packets.get(start..end)?,
        })
    }

    /// Releases space that holds no packet.
    pub(crate) fn forget_taken(&mut self) {
        if self.taken == self.runs.len() && !self.runs.is_empty() {
            self.used = 0;
            self.taken = 0;
            self.packets.clear();
            self.runs.clear();
        }
    }

    /// Releases the space of a batch from which no packet came.
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

    fn push(rx_buffer: &mut RxBuffer, id: u64, byte: u8) {
        let buffer = rx_buffer.reserve(10).expect("buffer");
        rx_buffer.buffer(buffer.clone()).fill(byte);
        rx_buffer.push(network(id), buffer);
    }

    fn drain(rx_buffer: &mut RxBuffer) -> Vec<(NetworkId, Vec<u8>)> {
        std::iter::from_fn(|| {
            rx_buffer.poll().map(|run| {
                (run.network, run.packets.iter().map(|range| run.bytes[range.start]).collect())
            })
        })
        .collect()
    }

    #[test]
    fn packets_come_in_runs_of_one_network() {
        let mut rx_buffer = RxBuffer::default();

        for (id, byte) in [(1, 1), (1, 2), (2, 3), (1, 4)] {
            push(&mut rx_buffer, id, byte);
        }

        assert_eq!(
            drain(&mut rx_buffer),
            [(network(1), vec![1, 2]), (network(2), vec![3]), (network(1), vec![4])]
        );
    }

    #[test]
    fn every_packet_has_headroom_of_its_own() {
        let mut rx_buffer = RxBuffer::default();
        for byte in 0..10 {
            push(&mut rx_buffer, 1, byte);
        }

        let run = rx_buffer.poll().expect("packets");

        let mut end = 0;
        for packet in run.packets {
            assert!(packet.start >= end + TUN_HEADROOM);
            end = packet.end;
        }
    }

    #[test]
    fn packets_not_taken_survive_later_ones() {
        let mut rx_buffer = RxBuffer::default();
        push(&mut rx_buffer, 1, 1);
        push(&mut rx_buffer, 2, 2);
        assert_eq!(rx_buffer.poll().expect("a run").network, network(1));

        push(&mut rx_buffer, 2, 3);

        assert_eq!(drain(&mut rx_buffer), [(network(2), vec![2, 3])]);
    }

    #[test]
    fn a_driver_that_does_not_look_bounds_the_memory() {
        let mut rx_buffer = RxBuffer::default();

        while let Some(buffer) = rx_buffer.reserve(60_000) {
            rx_buffer.push(network(1), buffer);
        }
        assert!(rx_buffer.buffer.len() <= MAX_BYTES);

        drain(&mut rx_buffer);
        assert!(rx_buffer.reserve(60_000).is_some(), "room again");
    }

    #[test]
    fn holes_alone_take_no_room() {
        let mut rx_buffer = RxBuffer::default();
        let first = rx_buffer.reserve(100).expect("buffer");

        rx_buffer.forget_holes();

        assert_eq!(rx_buffer.reserve(100), Some(first));
    }
}
