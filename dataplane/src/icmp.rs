//! The ICMP errors that tell a sender that its packet is too large for the overlay.
//!
//! Their source address is the packet's destination: that address is certain to be routed back
//! through the same TUN device, so the sender's reverse-path filter accepts the error.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use overlay_core::token_bucket::TokenBucket;

use crate::ip::{Inner, V4_HEADER, V6_HEADER, is_routed_unicast};

/// The ICMP header of both errors, in bytes.
const ICMP_HEADER: usize = 8;
/// The longest error over IPv4, in bytes (RFC 1812, 4.3.2.3).
const MAX_V4: usize = 576;
/// The longest error over IPv6, in bytes (RFC 4443, 3.2).
pub(crate) const MAX_LEN: usize = 1280;
const ICMP_V4: u8 = 1;
const ICMP_V6: u8 = 58;
const HOP_LIMIT: u8 = 64;

/// How many errors a network may send at once.
const BURST: u32 = 50;
/// The time after which one more is allowed: 100 a second.
const INTERVAL: Duration = Duration::from_millis(10);

/// Makes the bucket that limits how many errors a network sends.
pub(crate) fn bucket(now: Instant) -> TokenBucket {
    TokenBucket::new(BURST, INTERVAL, now)
}

/// Writes the error for `packet` into `out` and returns its length in bytes, or `None` if the
/// packet must not be answered (RFC 1122, 3.2.2).
///
/// `out` must have room for [`MAX_LEN`] bytes.
pub(crate) fn too_big(packet: &[u8], inner: &Inner, mtu: u16, out: &mut [u8]) -> Option<usize> {
    if !is_routed_unicast(inner.destination) || is_unanswerable(packet) {
        return None;
    }
    match (inner.source, inner.destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            too_big_v4(packet, source, destination, mtu, out)
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            too_big_v6(packet, source, destination, mtu, out)
        }
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => None,
    }
}

/// Returns whether no error may be sent for a packet: it is an ICMP error itself, or a fragment
/// other than the first.
fn is_unanswerable(packet: &[u8]) -> bool {
    let byte = |at: usize| packet.get(at).copied().unwrap_or_default();
    if byte(0) >> 4 == 6 {
        return byte(6) == ICMP_V6 && byte(V6_HEADER) < 128;
    }
    let is_later_fragment = u16::from_be_bytes([byte(6), byte(7)]) & 0x1FFF != 0;
    let icmp_type = byte(usize::from(byte(0) & 0x0F) * 4);

    is_later_fragment || (byte(9) == ICMP_V4 && !matches!(icmp_type, 0 | 8 | 13 | 14))
}

fn too_big_v4(
    packet: &[u8],
    source: Ipv4Addr,
    destination: Ipv4Addr,
    mtu: u16,
    out: &mut [u8],
) -> Option<usize> {
    let quoted = packet.get(..packet.len().min(MAX_V4 - V4_HEADER - ICMP_HEADER))?;
    let len = V4_HEADER + ICMP_HEADER + quoted.len();
    let (header, message) = out.get_mut(..len)?.split_at_mut(V4_HEADER);

    header.copy_from_slice(&[
        0x45, 0xC0, 0, 0, 0, 0, 0, 0, HOP_LIMIT, ICMP_V4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    ]);
    put(header, 2, &u16::try_from(len).ok()?.to_be_bytes());
    put(header, 12, &destination.octets());
    put(header, 16, &source.octets());
    let check = checksum(sum(0, header));
    put(header, 10, &check.to_be_bytes());

    message.get_mut(..ICMP_HEADER)?.copy_from_slice(&[3, 4, 0, 0, 0, 0, 0, 0]);
    put(message, 6, &mtu.to_be_bytes());
    put(message, ICMP_HEADER, quoted);
    let check = checksum(sum(0, message));
    put(message, 2, &check.to_be_bytes());

    Some(len)
}

fn too_big_v6(
    packet: &[u8],
    source: Ipv6Addr,
    destination: Ipv6Addr,
    mtu: u16,
    out: &mut [u8],
) -> Option<usize> {
    let quoted = packet.get(..packet.len().min(MAX_LEN - V6_HEADER - ICMP_HEADER))?;
    let payload_len = u16::try_from(ICMP_HEADER + quoted.len()).ok()?;
    let (header, message) =
        out.get_mut(..V6_HEADER + usize::from(payload_len))?.split_at_mut(V6_HEADER);

    header.fill(0);
    put(header, 0, &[0x60]);
    put(header, 4, &payload_len.to_be_bytes());
    put(header, 6, &[ICMP_V6, HOP_LIMIT]);
    put(header, 8, &destination.octets());
    put(header, 24, &source.octets());

    message.get_mut(..ICMP_HEADER)?.copy_from_slice(&[2, 0, 0, 0, 0, 0, 0, 0]);
    put(message, 6, &mtu.to_be_bytes());
    put(message, ICMP_HEADER, quoted);
    // The pseudo-header: both addresses, the length and the protocol.
    let pseudo = sum(u32::from(payload_len) + u32::from(ICMP_V6), header.get(8..)?);
    let check = checksum(sum(pseudo, message));
    put(message, 2, &check.to_be_bytes());

    Some(V6_HEADER + usize::from(payload_len))
}

fn put(target: &mut [u8], at: usize, bytes: &[u8]) {
    if let Some(place) = target.get_mut(at..at + bytes.len()) {
        place.copy_from_slice(bytes);
    }
}

/// Adds bytes to an Internet checksum. There are at most 1,280, so the sum cannot overflow.
pub(crate) fn sum(start: u32, bytes: &[u8]) -> u32 {
    bytes.chunks(2).fold(start, |sum, pair| {
        sum + u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or_default()]))
    })
}

pub(crate) fn checksum(mut sum: u32) -> u16 {
    while sum > 0xFFFF {
        sum = (sum & 0xFFFF) + (sum >> 16);
    }

    !u16::try_from(sum).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use etherparse::{
        Icmpv4Slice, Icmpv4Type, Icmpv6Slice, Icmpv6Type, Ipv4HeaderSlice, Ipv6HeaderSlice, icmpv4,
        icmpv6,
    };

    use super::*;
    use crate::ip;
    use crate::sim::packet;

    fn error_for(packet: &[u8], mtu: u16) -> Option<Vec<u8>> {
        let inner = ip::parse(packet)?;
        let mut out = vec![0xAA; MAX_LEN];
        let len = too_big(packet, &inner, mtu, &mut out)?;
        out.truncate(len);
        Some(out)
    }

    #[test]
    fn the_v4_error_is_what_another_parser_takes_for_one() {
        let packet =
            packet("10.0.0.1".parse().expect("valid"), "10.0.0.2".parse().expect("valid"), 1500);

        let error = error_for(&packet, 1408).expect("an answer");

        assert_eq!(error.len(), MAX_V4);
        let header = Ipv4HeaderSlice::from_slice(&error).expect("a header").to_header();
        assert_eq!((header.source, header.destination), ([10, 0, 0, 2], [10, 0, 0, 1]));
        assert_eq!(header.header_checksum, header.calc_header_checksum());
        let icmp = Icmpv4Slice::from_slice(&error[V4_HEADER..]).expect("a message");
        let Icmpv4Type::DestinationUnreachable(
            icmpv4::DestUnreachableHeader::FragmentationNeeded { next_hop_mtu },
        ) = icmp.icmp_type()
        else {
            panic!("fragmentation needed")
        };
        assert_eq!(next_hop_mtu, 1408);
        assert_eq!(icmp.icmp_type().calc_checksum(icmp.payload()), icmp.checksum());
        assert_eq!(icmp.payload(), &packet[..548]);
    }

    #[test]
    fn the_v6_error_is_what_another_parser_takes_for_one() {
        let packet =
            packet("fd00::1".parse().expect("valid"), "fd00::2".parse().expect("valid"), 1501);

        let error = error_for(&packet, 1408).expect("an answer");

        assert_eq!(error.len(), MAX_LEN);
        let header = Ipv6HeaderSlice::from_slice(&error).expect("a header").to_header();
        assert_eq!(header.source_addr().to_string(), "fd00::2");
        let icmp = Icmpv6Slice::from_slice(&error[V6_HEADER..]).expect("a message");
        assert_eq!(icmp.icmp_type(), Icmpv6Type::PacketTooBig { mtu: 1408 });
        assert!(icmp.is_checksum_valid(header.source, header.destination));
        assert_eq!(icmpv6::TYPE_PACKET_TOO_BIG, error[V6_HEADER]);
        assert_eq!(icmp.payload(), &packet[..1232]);
    }

    #[test]
    fn errors_fragments_and_multicast_get_no_error() {
        let good =
            packet("10.0.0.1".parse().expect("valid"), "10.0.0.2".parse().expect("valid"), 1500);

        let mut fragment = good.clone();
        fragment[7] = 1;
        assert_eq!(error_for(&fragment, 1408), None);

        let mut unreachable = good.clone();
        (unreachable[9], unreachable[20]) = (ICMP_V4, 3);
        assert_eq!(error_for(&unreachable, 1408), None);
        unreachable[20] = 8;
        assert!(error_for(&unreachable, 1408).is_some(), "an echo request is answered");

        let multicast =
            packet("10.0.0.1".parse().expect("valid"), "224.0.0.5".parse().expect("valid"), 1500);
        assert_eq!(error_for(&multicast, 1408), None);

        let mut error6 =
            packet("fd00::1".parse().expect("valid"), "fd00::2".parse().expect("valid"), 1500);
        (error6[6], error6[40]) = (ICMP_V6, 2);
        assert_eq!(error_for(&error6, 1408), None);
    }

    #[test]
    fn the_budget_runs_out_and_grows_again() {
        let now = crate::sim::start();
        let mut bucket = bucket(now);

        assert_eq!((0..100).filter(|_| bucket.take(now)).count(), 50);
        assert_eq!((0..100).filter(|_| bucket.take(now + Duration::from_millis(105))).count(), 10);
        assert_eq!((0..100).filter(|_| bucket.take(now + Duration::from_secs(60))).count(), 50);
    }
}
