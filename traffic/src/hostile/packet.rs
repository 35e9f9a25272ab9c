//! Frames of every kind, byte by byte. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::icmp::checksum;

/// A hardware address.
pub(super) type Mac = [u8; 6];

/// EtherTypes and protocol numbers.
pub(super) const IPV4: u16 = 0x0800;
pub(super) const ARP: u16 = 0x0806;
pub(super) const IPV6: u16 = 0x86DD;
pub(super) const ICMP: u8 = 1;
pub(super) const TCP: u8 = 6;
pub(super) const UDP: u8 = 17;
pub(super) const ROUTING: u8 = 43;
pub(super) const FRAGMENT: u8 = 44;
pub(super) const ICMP6: u8 = 58;
pub(super) const OPTIONS: u8 = 60;
/// More fragments follow, in IPv4's header.
pub(super) const MORE: u16 = 0x2000;

pub(super) fn frame(to: Mac, from: Mac, kind: u16, payload: &[u8]) -> Vec<u8> {
    [&to[..], &from, &kind.to_be_bytes(), payload].concat()
}

/// An IP packet of the family of its addresses, or nothing where they differ.
pub(super) fn ip(from: IpAddr, to: IpAddr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => ipv4(from, to, protocol, 0, payload),
        (IpAddr::V6(from), IpAddr::V6(to)) => ipv6(from, to, protocol, payload),
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => Vec::new(),
    }
}

/// `fragment` is the field of flags and offset, which is in units of 8 bytes.
pub(super) fn ipv4(
    from: Ipv4Addr,
    to: Ipv4Addr,
    protocol: u8,
    fragment: u16,
    payload: &[u8],
) -> Vec<u8> {
    let length = u16::try_from(20 + payload.len()).unwrap_or(u16::MAX).to_be_bytes();
    let [high, low] = fragment.to_be_bytes();
    let mut header = vec![0x45, 0, length[0], length[1], 0x66, 0x66, high, low, 64, protocol, 0, 0];
    header.extend(from.octets());
    header.extend(to.octets());
    let sum = checksum(&header).to_be_bytes();
    header[10..12].copy_from_slice(&sum);

    [header, payload.to_vec()].concat()
}

pub(super) fn ipv6(from: Ipv6Addr, to: Ipv6Addr, next: u8, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len()).unwrap_or(u16::MAX).to_be_bytes();
    let header = [0x60, 0, 0, 0, length[0], length[1], next, 255];

    [&header[..], &from.octets(), &to.octets(), payload].concat()
}

/// The header of IPv6 fragments; the offset is in units of 8 bytes.
pub(super) fn fragment6(next: u8, offset: u16, more: bool) -> Vec<u8> {
    let [high, low] = (offset << 3 | u16::from(more)).to_be_bytes();

    vec![next, 0, high, low, 0, 0, 0x66, 0x66]
}

/// A header of options that says nothing, for hop-by-hop and destination options alike.
pub(super) fn options6(next: u8) -> Vec<u8> {
    vec![next, 0, 1, 4, 0, 0, 0, 0]
}

/// A routing header of type 0 by way of one more address.
pub(super) fn routing6(next: u8, by: Ipv6Addr) -> Vec<u8> {
    [&[next, 2, 0, 1, 0, 0, 0, 0][..], &by.octets()].concat()
}

/// A datagram with its checksum.
pub(super) fn udp(from: IpAddr, to: IpAddr, ports: (u16, u16), payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(8 + payload.len()).unwrap_or(u16::MAX);
    let words = [ports.0, ports.1, length, 0].map(u16::to_be_bytes).concat();

    summed(from, to, UDP, [words, payload.to_vec()].concat(), 6)
}

/// A SYN with its checksum, and data.
pub(super) fn syn(from: IpAddr, to: IpAddr, ports: (u16, u16), payload: &[u8]) -> Vec<u8> {
    let words = [ports.0, ports.1].map(u16::to_be_bytes).concat();
    let rest = [0, 0, 0, 1, 0, 0, 0, 0, 0x50, 0x02, 0xFF, 0xFF, 0, 0, 0, 0];

    summed(from, to, TCP, [&words[..], &rest, payload].concat(), 16)
}

/// An ICMP or ICMPv6 message, as the addresses are.
pub(super) fn icmp(from: IpAddr, to: IpAddr, kind: u8, code: u8, body: &[u8]) -> Vec<u8> {
    let message = [&[kind, code, 0, 0][..], body].concat();
    if from.is_ipv6() {
        return summed(from, to, ICMP6, message, 2);
    }
    let sum = checksum(&message).to_be_bytes();

    [&[kind, code, sum[0], sum[1]][..], body].concat()
}

/// An ARP packet; operation 1 asks, 2 answers.
pub(super) fn arp(operation: u8, (mac, ip): (Mac, Ipv4Addr), target: Ipv4Addr) -> Vec<u8> {
    let head = [0, 1, 8, 0, 6, 4, 0, operation];

    [&head[..], &mac, &ip.octets(), &[0; 6], &target.octets()].concat()
}

fn summed(from: IpAddr, to: IpAddr, protocol: u8, mut segment: Vec<u8>, at: usize) -> Vec<u8> {
    let octets = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    let length = u32::try_from(segment.len()).unwrap_or(u32::MAX).to_be_bytes();
    let pseudo = [octets(from), octets(to), length.to_vec(), vec![0, 0, 0, protocol]].concat();
    let sum = checksum(&[pseudo, segment.clone()].concat()).to_be_bytes();
    segment[at..at + 2].copy_from_slice(&sum);

    segment
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_those_of_the_internet() {
        let (from, to) = (Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2));

        let packet = ipv4(from, to, UDP, 0, &udp(from.into(), to.into(), (1, 2), b"odd"));

        assert_eq!(checksum(&packet[..20]), 0, "the header sums to zero");
        assert_eq!(packet[2..4], [0, 31]);
        let pseudo = [&from.octets()[..], &to.octets(), &[0, 0, 0, 11, 0, 0, 0, UDP]].concat();
        assert_eq!(
            checksum(&[pseudo, packet[20..].to_vec()].concat()),
            0,
            "and so does the datagram"
        );
    }
}
