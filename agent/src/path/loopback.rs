//! Recognises this node's own tunnel traffic where it must never be: inside an overlay network.
//!
//! Only a host that is attached to a network itself can route its tunnel packets into it, by
//! choosing an overlay address as their source. Sealing them again would make a loop that feeds
//! itself.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::packet::UDP;

/// Tells whether a packet was sent by one of this node's lanes: UDP from an address of the host and
/// the port of a lane.
pub(crate) fn is_own_outer(packet: &[u8], host: &BTreeSet<IpAddr>, ports: &[u16]) -> bool {
    let Some((source, transport)) = udp_source(packet) else { return false };
    let Some(port) = transport.first_chunk::<2>().map(|port| u16::from_be_bytes(*port)) else {
        return false;
    };

    ports.contains(&port) && host.contains(&source)
}

fn udp_source(packet: &[u8]) -> Option<(IpAddr, &[u8])> {
    match packet.first()? >> 4 {
        4 if *packet.get(9)? == UDP => {
            let source: [u8; 4] = packet.get(12..16)?.try_into().ok()?;
            let header = usize::from(packet[0] & 0xF) * 4;

            Some((Ipv4Addr::from(source).into(), packet.get(header..)?))
        }
        6 if *packet.get(6)? == UDP => {
            let source: [u8; 16] = packet.get(8..24)?.try_into().ok()?;

            Some((Ipv6Addr::from(source).into(), packet.get(40..)?))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn udp(source: [u8; 4], port: u16) -> Vec<u8> {
        let mut packet = vec![0x45, 0, 0, 28, 0, 0, 0, 0, 64, UDP, 0, 0];
        packet.extend(source);
        packet.extend([192, 0, 2, 1]);
        packet.extend(port.to_be_bytes());
        packet.extend([0x12, 0x34, 0, 8, 0, 0]);

        packet
    }

    #[test]
    fn only_the_hosts_address_with_a_lanes_port_is_our_own() {
        let host = BTreeSet::from([IpAddr::from([10, 0, 0, 1])]);

        assert!(is_own_outer(&udp([10, 0, 0, 1], 51820), &host, &[51820, 51821]));
        assert!(!is_own_outer(&udp([10, 0, 0, 2], 51820), &host, &[51820, 51821]));
        assert!(!is_own_outer(&udp([10, 0, 0, 1], 51822), &host, &[51820, 51821]));
    }

    #[test]
    fn a_packet_cut_anywhere_is_nobodys() {
        let host = BTreeSet::from([IpAddr::from([10, 0, 0, 1])]);
        let packet = udp([10, 0, 0, 1], 51820);

        for len in 0..22 {
            assert!(!is_own_outer(&packet[..len], &host, &[51820]));
        }
    }
}
