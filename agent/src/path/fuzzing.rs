//! What containers and members make of packets, for fuzzers.

use super::coalesce::Offload;
use super::split::Batch;
use super::testing::{assert_same_flows, mend_checksum, through_the_kernel};

const BOTH: Offload = Offload { tcp: true, udp: true };

/// Splits what a TUN device may return for one read, virtio header and all, then merges what came
/// out and splits that again.
///
/// # Panics
///
/// When a flow comes out otherwise than it went in.
pub fn tun_reads(bytes: &[u8]) {
    let mut batch = Batch::new();
    let len = bytes.len().min(batch.room().len());
    batch.room()[..len].copy_from_slice(&bytes[..len]);
    if batch.push(len).is_err() {
        assert_eq!(batch.len(), 0, "what is malformed leaves nothing");
        return;
    }
    let packets: Vec<_> = batch.packets().map(<[u8]>::to_vec).collect();
    assert_same_flows(&through_the_kernel(&packets, BOTH), &packets);
}

/// Merges packets of members and splits them again as the kernel does. Each has its length in
/// front, in two bytes; an odd length says that the checksum shall be right, because hardly any
/// would be.
///
/// # Panics
///
/// When a flow comes out otherwise than it went in.
pub fn merged_packets(mut bytes: &[u8]) {
    let mut packets = Vec::new();
    while let Some((len, rest)) = bytes.split_first_chunk() {
        let len = u16::from_be_bytes(*len);
        let (packet, rest) = rest.split_at(usize::from(len / 2).min(rest.len()));
        let mut packet = packet.to_vec();
        if len % 2 == 1 {
            mend_checksum(&mut packet);
        }
        packets.push(packet);
        bytes = rest;
    }
    assert_same_flows(&through_the_kernel(&packets, BOTH), &packets);
}

#[cfg(test)]
mod tests {
    use crate::corpus;

    #[test]
    fn tun_reads() {
        corpus::replay("tun_reads", super::tun_reads);
    }

    #[test]
    fn merged_packets() {
        corpus::replay("merged_packets", super::merged_packets);
    }
}
