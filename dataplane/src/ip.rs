//! Reads what routing needs to know of an inner packet: its version, length, source and
//! destination.
//!
//! Options, extension headers and payloads are ignored.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The fixed part of an IPv4 header, in bytes.
pub(crate) const V4_HEADER: usize = 20;
/// The fixed part of an IPv6 header, in bytes.
pub(crate) const V6_HEADER: usize = 40;

/// The fields of an IP header that matter here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Inner {
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
    /// The length of header and payload in bytes; never more than the bytes that were parsed.
    pub(crate) len: usize,
}

/// Parses the header of the packet at the start of `bytes`. Bytes behind the packet are padding.
pub(crate) fn parse(bytes: &[u8]) -> Option<Inner> {
    match bytes.first()? >> 4 {
        4 => parse_v4(bytes),
        6 => parse_v6(bytes),
        _ => None,
    }
}

fn parse_v4(bytes: &[u8]) -> Option<Inner> {
    let header = bytes.first_chunk::<V4_HEADER>()?;
    let header_len = usize::from(header[0] & 0x0F) * 4;
    let len = usize::from(u16::from_be_bytes([header[2], header[3]]));
    if header_len < V4_HEADER || len < header_len || len > bytes.len() {
        return None;
    }
    let [.., s0, s1, s2, s3, d0, d1, d2, d3] = *header;

    Some(Inner {
        source: Ipv4Addr::new(s0, s1, s2, s3).into(),
        destination: Ipv4Addr::new(d0, d1, d2, d3).into(),
        len,
    })
}

fn parse_v6(bytes: &[u8]) -> Option<Inner> {
    let header = bytes.first_chunk::<V6_HEADER>()?;
    let len = V6_HEADER + usize::from(u16::from_be_bytes([header[4], header[5]]));
    if len > bytes.len() {
        return None;
    }
    let (source, destination) = header[8..].split_first_chunk::<16>()?;

    Some(Inner {
        source: Ipv6Addr::from(*source).into(),
        destination: Ipv6Addr::from(*destination.first_chunk::<16>()?).into(),
        len,
    })
}

/// Returns whether an address can be the source of a packet on a routed network.
pub(crate) fn is_routed_unicast(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            !(v4.is_multicast()
                || v4.is_broadcast()
                || v4.is_loopback()
                || v4.is_link_local()
                || v4.is_unspecified())
        }
        IpAddr::V6(v6) => {
            !(v6.is_multicast()
                || v6.is_loopback()
                || v6.is_unicast_link_local()
                || v6.is_unspecified())
        }
    }
}

/// Returns whether an address is multicast that no router forwards (224.0.0.0/24, ff02::/16).
pub(crate) fn is_link_multicast(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.octets()[..3] == [224, 0, 0],
        IpAddr::V6(v6) => v6.segments()[0] == 0xff02,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::sim::packet;

    fn v4() -> Vec<u8> {
        packet("10.0.0.1".parse().expect("valid"), "10.0.0.2".parse().expect("valid"), 100)
    }

    #[test]
    fn both_families_are_read() {
        let inner = parse(&v4()).expect("sound");
        assert_eq!(
            (inner.source.to_string(), inner.destination.to_string()),
            ("10.0.0.1".into(), "10.0.0.2".into())
        );
        assert_eq!(inner.len, 100);

        let v6 = packet("fd00::1".parse().expect("valid"), "fd00::2".parse().expect("valid"), 90);
        let inner = parse(&v6).expect("sound");
        assert_eq!(
            (inner.source.to_string(), inner.destination.to_string()),
            ("fd00::1".into(), "fd00::2".into())
        );
        assert_eq!(inner.len, 90);
    }

    #[test]
    fn padding_is_not_part_of_the_packet() {
        let mut bytes = v4();
        bytes.extend([0; 12]);

        assert_eq!(parse(&bytes).expect("sound").len, 100);
    }

    #[test]
    fn lying_headers_are_refused() {
        let broken = |change: fn(&mut Vec<u8>)| {
            let mut bytes = v4();
            change(&mut bytes);
            parse(&bytes)
        };

        assert_eq!(broken(|b| b[0] = 0x40), None, "header of no words");
        assert_eq!(broken(|b| b[0] = 0x44), None, "header of four words");
        assert_eq!(broken(|b| b[0] = 0x55), None, "version 5");
        assert_eq!(broken(|b| b[2..4].copy_from_slice(&[0, 0])), None, "total length 0");
        assert_eq!(broken(|b| b[2..4].copy_from_slice(&[0, 3])), None, "total length 3");
        assert_eq!(
            broken(|b| b[2..4].copy_from_slice(&[0, 101])),
            None,
            "total length beyond the end"
        );
        assert_eq!(broken(|b| (b[0], b[3]) = (0x4F, 59)), None, "header longer than the packet");
        assert_eq!(broken(|b| b.truncate(19)), None, "cut in the header");
        assert_eq!(broken(Vec::clear), None, "empty");

        let mut v6 =
            packet("fd00::1".parse().expect("valid"), "fd00::2".parse().expect("valid"), 90);
        v6[5] += 1;
        assert_eq!(parse(&v6), None, "payload beyond the end");
        assert_eq!(parse(&v6[..39]), None, "cut in the header");
    }

    #[test]
    fn addresses_that_cannot_be_routed_are_known() {
        for text in [
            "224.0.0.1",
            "255.255.255.255",
            "127.0.0.1",
            "169.254.1.1",
            "0.0.0.0",
            "ff02::1",
            "::1",
            "fe80::1",
            "::",
        ] {
            assert!(!is_routed_unicast(text.parse().expect("valid")), "{text}");
        }
        for text in ["10.0.0.1", "172.18.0.2", "8.8.8.8", "fd00::1", "2001:db8::1"] {
            assert!(is_routed_unicast(text.parse().expect("valid")), "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic_or_read_beyond_the_end(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Some(inner) = parse(&bytes) {
                prop_assert!(inner.len <= bytes.len());
                prop_assert!(inner.len >= V4_HEADER);
            }
        }

        #[test]
        fn no_likely_header_makes_it_panic(mut bytes in proptest::collection::vec(any::<u8>(), 1..80), v6 in any::<bool>()) {
            bytes[0] = if v6 { 0x60 } else { 0x40 | (bytes[0] & 0x0F) };
            if let Some(inner) = parse(&bytes) {
                prop_assert!(inner.len <= bytes.len());
            }
        }
    }
}
