//! Fragments inner packets that are larger than the path and whose senders cannot, or need not, be
//! told.
//!
//! IPv4 packets without "don't fragment" are cut as any router would do. IPv6 guarantees every
//! sender an MTU of 1,280 bytes, which a path of 1,280 bytes cannot provide inside a tunnel, and
//! Linux assumes at least 552 bytes for any IPv4 path. So IPv6 packets of up to 1,280 bytes and
//! IPv4 packets of up to 576 bytes are cut here, as their sender should have done. The receiving
//! host reassembles them.

use crate::icmp::{checksum, sum};
use crate::ip::{V4_HEADER, V6_HEADER};

/// The MTU that every IPv6 path has (RFC 8200, 5), in bytes: senders do not go below it, whatever
/// they are told.
pub(crate) const V6_MIN_MTU: u16 = 1280;
/// The size that every IPv4 host accepts (RFC 791, 3.1), in bytes: senders of packets that must not
/// be cut do not go much below it, whatever they are told.
const V4_MIN_MTU: usize = 576;
const DONT_FRAGMENT: u16 = 0x4000;
const MORE_V4: u16 = 0x2000;
const OFFSET_V4: u16 = 0x1FFF;
/// The fragment header of IPv6, in bytes.
const FRAGMENT_HEADER: usize = 8;
const FRAGMENT: u8 = 44;
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
/// Fragments start at multiples of this many bytes.
const UNIT: usize = 8;

/// Cuts a valid packet into fragments of at most `mtu` bytes and passes each to `take`. Returns
/// whether the packet may be cut; if not, its sender must be told. `id` identifies the fragments of
/// a packet that has no identification of its own, and must not repeat soon.
pub(crate) fn cut(packet: &[u8], mtu: u16, id: u32, take: impl FnMut(&[u8])) -> bool {
    let cut = match packet.first().map(|byte| byte >> 4) {
        Some(4) => cut_v4(packet, mtu.into(), id, take),
        Some(6) => cut_v6(packet, mtu.into(), id, take),
        _ => None,
    };

    cut.is_some()
}

fn cut_v4(packet: &[u8], mtu: usize, id: u32, mut take: impl FnMut(&[u8])) -> Option<()> {
    let header_len = usize::from(packet.first()? & 0x0F) * 4;
    let (header, payload) = packet.split_at_checked(header_len.max(V4_HEADER))?;
    let place = u16::from_be_bytes([header[6], header[7]]);
    let room = mtu.checked_sub(header.len())? / UNIT * UNIT;
    let end = usize::from(place & OFFSET_V4) * UNIT + payload.len();
    let is_whole = place & DONT_FRAGMENT != 0;
    if (is_whole && packet.len() > V4_MIN_MTU) || room == 0 || end > usize::from(u16::MAX) {
        return None;
    }

    let mut header = header.to_vec();
    if is_whole {
        // Packets that must not be fragmented need no identification and often have none (RFC 6864,
        // 4.1).
        let [_, _, high, low] = id.to_be_bytes();
        header[4..6].copy_from_slice(&[high, low]);
    }
    let mut fragment = Vec::with_capacity(mtu);
    for (number, chunk) in (0_u16..).zip(payload.chunks(room)) {
        let is_last = usize::from(number + 1) * room >= payload.len();
        let offset = (place & OFFSET_V4) + number * u16::try_from(room / UNIT).ok()?;
        let more = if is_last { place & MORE_V4 } else { MORE_V4 };
        if number == 1 {
            blank_first_only_options(header.get_mut(V4_HEADER..)?);
        }
        let len = u16::try_from(header.len() + chunk.len()).ok()?;
        header[2..4].copy_from_slice(&len.to_be_bytes());
        header[6..8].copy_from_slice(&(more | offset).to_be_bytes());
        header[10..12].fill(0);
        let check = checksum(sum(0, &header));
        header[10..12].copy_from_slice(&check.to_be_bytes());
        emit(&mut fragment, &[&header, chunk], &mut take);
    }

    Some(())
}

/// Turns options that belong only in the first fragment into padding (RFC 791, 3.1: the "copied"
/// bit).
fn blank_first_only_options(mut options: &mut [u8]) {
    while let [kind, ..] = *options {
        let len = match kind {
            0 => return,
            1 => 1,
            _ => usize::from(options.get(1).copied().unwrap_or(1)).max(1),
        };
        let Some((option, rest)) = options.split_at_mut_checked(len) else { return };
        if kind & 0x80 == 0 {
            option.fill(1);
        }
        options = rest;
    }
}

fn cut_v6(packet: &[u8], mtu: usize, id: u32, mut take: impl FnMut(&[u8])) -> Option<()> {
    let (header, mut payload) = packet.split_at_checked(V6_HEADER)?;
    let room = mtu.checked_sub(V6_HEADER + FRAGMENT_HEADER)? / UNIT * UNIT;
    if packet.len() > V6_MIN_MTU.into() || room == 0 || matches!(header[6], HOP_BY_HOP | ROUTING) {
        return None;
    }
    // A fragment becomes smaller fragments of the same packet.
    let (mut next, mut place, mut id) = (header[6], 0, id.to_be_bytes());
    if next == FRAGMENT {
        let (fragment, rest) = payload.split_first_chunk::<FRAGMENT_HEADER>()?;
        let [inner_next, _, p0, p1, id_bytes @ ..] = *fragment;
        (next, place, id) = (inner_next, u16::from_be_bytes([p0, p1]), id_bytes);
        payload = rest;
    }
    if usize::from(place & !7) + payload.len() > usize::from(u16::MAX) {
        return None;
    }

    let mut header = header.to_vec();
    header[6] = FRAGMENT;
    let mut fragment = Vec::with_capacity(mtu);
    for (number, chunk) in (0_u16..).zip(payload.chunks(room)) {
        let is_last = usize::from(number + 1) * room >= payload.len();
        let more = if is_last { place & 1 } else { 1 };
        let offset = (place & !7) + number * u16::try_from(room).ok()?;
        let len = u16::try_from(FRAGMENT_HEADER + chunk.len()).ok()?;
        header[4..6].copy_from_slice(&len.to_be_bytes());
        let [o0, o1] = (offset | more).to_be_bytes();
        emit(&mut fragment, &[&header, &[next, 0, o0, o1], &id, chunk], &mut take);
    }

    Some(())
}

fn emit(fragment: &mut Vec<u8>, parts: &[&[u8]], take: &mut impl FnMut(&[u8])) {
    fragment.clear();
    parts.iter().for_each(|part| fragment.extend_from_slice(part));
    take(fragment);
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::net::IpAddr;

    use etherparse::{Ipv4HeaderSlice, Ipv6FragmentHeaderSlice};
    use proptest::prelude::*;

    use super::*;
    use crate::sim::packet;

    fn packet_of(is_v6: bool, len: usize) -> Vec<u8> {
        let [a, b] = if is_v6 { ["fd00::1", "fd00::2"] } else { ["10.0.0.1", "10.0.0.2"] };
        let address = |text: &str| text.parse::<IpAddr>().expect("valid");
        packet(address(a), address(b), len)
    }

    fn fragments(packet: &[u8], mtu: u16) -> Option<Vec<Vec<u8>>> {
        let mut all = Vec::new();
        cut(packet, mtu, 7, |fragment| all.push(fragment.to_vec())).then_some(all)
    }

    /// Reassembles fragments as a receiver does, with another parser, and returns their payload.
    fn joined(fragments: &[Vec<u8>]) -> Vec<u8> {
        let mut pieces = BTreeMap::new();
        for bytes in fragments {
            let (offset, more, payload) = if bytes[0] >> 4 == 4 {
                let slice = Ipv4HeaderSlice::from_slice(bytes).expect("a header");
                let header = slice.to_header();
                assert_eq!(header.header_checksum, header.calc_header_checksum());
                assert_eq!(usize::from(header.total_len), bytes.len());
                (
                    header.fragment_offset.byte_offset(),
                    header.more_fragments,
                    &bytes[slice.slice().len()..],
                )
            } else {
                assert_eq!(
                    usize::from(u16::from_be_bytes([bytes[4], bytes[5]])),
                    bytes.len() - V6_HEADER
                );
                assert_eq!(bytes[6], FRAGMENT);
                let header = Ipv6FragmentHeaderSlice::from_slice(&bytes[V6_HEADER..])
                    .expect("a header")
                    .to_header();
                assert_eq!(header.identification, 7);
                (
                    header.fragment_offset.byte_offset(),
                    header.more_fragments,
                    &bytes[V6_HEADER + 8..],
                )
            };
            pieces.insert(usize::from(offset), (more, payload.to_vec()));
        }
        let mut whole = Vec::new();
        let last = pieces.len() - 1;
        for (number, (offset, (more, payload))) in pieces.into_iter().enumerate() {
            assert_eq!(offset, whole.len(), "no gap, no overlap");
            assert_eq!(more, number < last);
            whole.extend(payload);
        }
        whole
    }

    proptest! {
        #[test]
        fn fragments_fit_and_are_the_packet_again(is_v6 in any::<bool>(), len in 200..1281_usize, mtu in 100..1280_u16) {
            let packet = packet_of(is_v6, len);
            let header = if is_v6 { V6_HEADER } else { V4_HEADER };

            let cut = fragments(&packet, mtu).expect("may be cut");

            prop_assert!(cut.iter().all(|fragment| fragment.len() <= mtu.into()));
            prop_assert_eq!(joined(&cut), &packet[header..]);
            prop_assert!(cut.iter().all(|fragment| fragment[header - 8..header] == packet[header - 8..header]));
            prop_assert!(is_v6 || cut.iter().all(|fragment| fragment[4..6] == packet[4..6]));
        }

        #[test]
        fn fragments_of_fragments_are_the_packet_again(is_v6 in any::<bool>(), len in 900..1281_usize) {
            let packet = packet_of(is_v6, len);
            let header = if is_v6 { V6_HEADER } else { V4_HEADER };

            let first = fragments(&packet, 700).expect("may be cut");
            let second: Vec<_> = first.iter().flat_map(|fragment| fragments(fragment, 300).expect("may be cut")).collect();

            prop_assert!(second.len() > first.len());
            prop_assert_eq!(joined(&second), &packet[header..]);
        }

        #[test]
        fn no_bytes_break_it(bytes in proptest::collection::vec(any::<u8>(), 0..200), mtu in any::<u16>()) {
            fragments(&bytes, mtu);
        }
    }

    #[test]
    fn a_sender_that_can_be_told_is_told() {
        let mut v4 = packet_of(false, 1000);
        v4[6] = 0x40;
        assert_eq!(fragments(&v4, 600), None, "don't fragment");
        let mut small = packet_of(false, 576);
        small[6] = 0x40;
        let cut = fragments(&small, 512).expect("nobody makes smaller ones");
        assert_eq!(joined(&cut), &small[V4_HEADER..]);
        assert!(cut.iter().all(|fragment| fragment[4..6] == [0, 7] && fragment[6] & 0x40 == 0));
        small[4..6].copy_from_slice(&[0, 0]);
        small.resize(577, 0);
        small[2..4].copy_from_slice(&577_u16.to_be_bytes());
        assert_eq!(fragments(&small, 512), None);
        assert_eq!(fragments(&packet_of(true, 1281), 600), None, "more than IPv6 promises");
    }

    #[test]
    fn options_that_are_not_to_be_copied_are_only_in_the_first() {
        let mut v4 = packet_of(false, 1000);
        v4[0] = 0x47;
        // Record route (not copied), then router alert (copied).
        v4[20..28].copy_from_slice(&[7, 4, 4, 0, 148, 4, 0, 0]);

        let cut = fragments(&v4, 600).expect("may be cut");

        assert_eq!(cut[0][20..28], [7, 4, 4, 0, 148, 4, 0, 0]);
        assert_eq!(cut[1][20..28], [1, 1, 1, 1, 148, 4, 0, 0]);
        assert_eq!(joined(&cut), &v4[28..]);
    }
}
