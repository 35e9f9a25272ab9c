//! The stages of the path, each by itself, for the benchmarks of this crate.

use std::ops::Range;

use super::coalesce::{Coalescer, Offload, Packets};
use super::split::Batch;

/// Splits super-packets.
pub struct Splitter(Batch);

impl Default for Splitter {
    fn default() -> Self {
        Self(Batch::new())
    }
}

impl Splitter {
    /// Splits one read of a TUN device, virtio header and all, and returns how many packets that
    /// makes.
    ///
    /// # Panics
    ///
    /// When the read is longer than a device's can be, or malformed.
    pub fn split(&mut self, read: &[u8]) -> usize {
        self.0.clear();
        self.0.room()[..read.len()].copy_from_slice(read);
        self.0.push(read.len()).expect("a sound super-packet");

        self.0.packets().count()
    }

    /// Returns the packets of the last read, one behind the other, and where each is.
    pub fn packets(&self) -> (Vec<u8>, Vec<Range<usize>>) {
        let mut bytes = Vec::new();
        let ranges = self.0.packets().map(|packet| {
            let start = bytes.len();
            bytes.extend_from_slice(packet);
            start..bytes.len()
        });
        let ranges = ranges.collect();

        (bytes, ranges)
    }
}

/// Merges packets.
#[derive(Default)]
pub struct Merger(Coalescer);

impl Merger {
    /// Sorts packets into groups and returns how many writes they take.
    pub fn merge(&mut self, bytes: &[u8], ranges: &[Range<usize>]) -> usize {
        self.0.plan(Packets { bytes, ranges }, Offload { tcp: true, udp: true });

        self.0.groups().len()
    }
}
