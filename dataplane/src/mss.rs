//! Lowers the segment size with which a TCP connection begins to what a path carries.

use crate::ip::{V4_HEADER, V6_HEADER};

const TCP: u8 = 6;
/// The TCP header without options, in bytes.
const TCP_HEADER: usize = 20;
const SYN: u8 = 0x02;
const END: u8 = 0;
const PADDING: u8 = 1;
const MSS: u8 = 2;

/// Returns whether a valid IP packet is a TCP SYN or SYN-ACK.
#[inline]
pub(crate) fn is_syn(packet: &[u8]) -> bool {
    tcp_header(packet)
        .and_then(|start| packet.get(start + 13))
        .is_some_and(|flags| flags & SYN != 0)
}

/// Lowers the segment size that a SYN offers to what fits in packets of `mtu` bytes and updates the
/// checksum. Returns whether the size was lowered.
pub(crate) fn clamp(packet: &mut [u8], mtu: u16) -> bool {
    let Some(start) = tcp_header(packet) else { return false };
    let header = if packet[0] >> 4 == 4 { V4_HEADER } else { V6_HEADER };
    let most = mtu.saturating_sub(u16::try_from(header + TCP_HEADER).unwrap_or(u16::MAX));
    let Some(tcp) = packet.get_mut(start..) else { return false };
    let Some(at) = option_at(tcp) else { return false };
    let offered = u16::from_be_bytes([tcp[at], tcp[at + 1]]);
    if offered <= most {
        return false;
    }

    tcp[at..at + 2].copy_from_slice(&most.to_be_bytes());
    // If the value straddles two words of the sum, its bytes count swapped.
    let (old, new) =
        if at % 2 == 0 { (offered, most) } else { (offered.swap_bytes(), most.swap_bytes()) };
    let check = update(u16::from_be_bytes([tcp[16], tcp[17]]), old, new);
    tcp[16..18].copy_from_slice(&check.to_be_bytes());
    true
}

/// Returns where the TCP header of a packet starts. IPv6 packets with extension headers are
/// skipped; a SYN has none.
fn tcp_header(packet: &[u8]) -> Option<usize> {
    match packet.first()? >> 4 {
        4 => {
            let is_later_fragment =
                u16::from_be_bytes([*packet.get(6)?, *packet.get(7)?]) & 0x1FFF != 0;

            (*packet.get(9)? == TCP && !is_later_fragment)
                .then(|| usize::from(packet[0] & 0x0F) * 4)
        }
        6 => (*packet.get(6)? == TCP).then_some(V6_HEADER),
        _ => None,
    }
}

/// Returns where the value of the maximum segment size option is.
fn option_at(tcp: &[u8]) -> Option<usize> {
    let end = usize::from(*tcp.get(12)? >> 4) * 4;
    let mut at = TCP_HEADER;
    while at < end {
        let len = match *tcp.get(at)? {
            END => return None,
            PADDING => 1,
            MSS if *tcp.get(at + 1)? == 4 && at + 4 <= end && at + 4 <= tcp.len() => {
                return Some(at + 2);
            }
            _ => usize::from(*tcp.get(at + 1)?),
        };
        if len == 0 {
            return None;
        }
        at += len;
    }

    None
}

/// Updates a checksum for one changed word (RFC 1624, equation 3).
fn update(check: u16, old: u16, new: u16) -> u16 {
    let sum = u32::from(!check) + u32::from(!old) + u32::from(new);
    let sum = (sum & 0xFFFF) + (sum >> 16);
    let sum = (sum & 0xFFFF) + (sum >> 16);

    !u16::try_from(sum).unwrap_or_default()
}

#[cfg(test)]
pub(crate) mod tests {
    use etherparse::{PacketBuilder, SlicedPacket, TcpOptionElement, TransportSlice};
    use proptest::prelude::*;

    use super::*;

    /// Makes a SYN whose segment size option is preceded by `before` bytes of padding.
    pub(crate) fn syn(is_v6: bool, mss: u16, before: usize) -> Vec<u8> {
        let mut options = vec![TcpOptionElement::Noop; before];
        options
            .extend([TcpOptionElement::MaximumSegmentSize(mss), TcpOptionElement::WindowScale(7)]);
        let builder = if is_v6 {
            PacketBuilder::ipv6([0xFD; 16], [0xFC; 16], 64).tcp(1000, 80, 7, 64_000)
        } else {
            PacketBuilder::ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64).tcp(1000, 80, 7, 64_000)
        };
        let builder = builder.syn().options(&options).expect("they fit");
        let mut bytes = Vec::new();
        builder.write(&mut bytes, b"early").expect("written");
        bytes
    }

    /// Reads the segment size and checks the checksum.
    pub(crate) fn offered(packet: &[u8]) -> u16 {
        let sliced = SlicedPacket::from_ip(packet).expect("sound");
        let Some(TransportSlice::Tcp(tcp)) = sliced.transport else { panic!("TCP") };
        let header = tcp.to_header();
        let expected = match sliced.net.expect("a header") {
            etherparse::NetSlice::Ipv4(ip) => {
                header.calc_checksum_ipv4(&ip.header().to_header(), tcp.payload()).expect("short")
            }
            etherparse::NetSlice::Ipv6(ip) => {
                header.calc_checksum_ipv6(&ip.header().to_header(), tcp.payload()).expect("short")
            }
            etherparse::NetSlice::Arp(_) => panic!("IP"),
        };
        assert_eq!(header.checksum, expected);
        let mss = tcp.options_iterator().find_map(|option| match option {
            Ok(TcpOptionElement::MaximumSegmentSize(mss)) => Some(mss),
            _ => None,
        });
        mss.expect("a segment size")
    }

    proptest! {
        #[test]
        fn a_clamped_syn_fits_and_its_checksum_holds(
            is_v6 in any::<bool>(), mss in 536..9000_u16, before in 0..4_usize, mtu in 512..9000_u16,
        ) {
            let mut packet = syn(is_v6, mss, before);
            let fits = mtu - if is_v6 { 60 } else { 40 };

            let is_changed = clamp(&mut packet, mtu);

            prop_assert_eq!(is_changed, mss > fits);
            prop_assert_eq!(offered(&packet), mss.min(fits));
        }

        #[test]
        fn no_packet_breaks_it(mut bytes in proptest::collection::vec(any::<u8>(), 0..100), mtu in any::<u16>()) {
            let len = bytes.len();
            let _ = is_syn(&bytes);
            clamp(&mut bytes, mtu);
            prop_assert_eq!(bytes.len(), len);
        }

        #[test]
        fn no_syn_breaks_it(at in 40..64_usize, byte in any::<u8>(), cut in 0..20_usize) {
            let mut packet = syn(false, 1460, 1);
            if let Some(place) = packet.get_mut(at) {
                *place = byte;
            }
            packet.truncate(packet.len() - cut);
            clamp(&mut packet, 600);
        }
    }

    #[test]
    fn only_syns_are_syns() {
        let packet = syn(false, 1460, 0);
        assert!(is_syn(&packet) && is_syn(&syn(true, 1440, 0)));

        let mut data = packet.clone();
        data[33] = 0x10;
        assert!(!is_syn(&data));
        let mut udp = packet.clone();
        udp[9] = 17;
        assert!(!is_syn(&udp));
        let mut fragment = packet;
        fragment[7] = 9;
        assert!(!is_syn(&fragment));
    }
}
