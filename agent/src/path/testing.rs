//! Packets for tests, and what the kernel does with them.

use std::ops::Range;

use super::coalesce::{Coalescer, MAX_HEADERS, Offload, Packets};
use super::packet::Segment;
use super::split::Batch;

/// What a test varies about a TCP packet.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Tcp {
    pub(crate) source_port: u16,
    pub(crate) seq: u32,
    pub(crate) ack: u32,
    pub(crate) id: u16,
    pub(crate) push: bool,
}

/// Builds a TCP packet over IPv4 with an acknowledgement flag.
pub(crate) fn tcp4(fields: Tcp, payload: &[u8]) -> Vec<u8> {
    ip4(6, fields.id, tcp(fields, payload))
}

/// The same over IPv6.
pub(crate) fn tcp6(fields: Tcp, payload: &[u8]) -> Vec<u8> {
    let mut transport = tcp(fields, payload);
    let length = u16::try_from(transport.len()).expect("a small packet");
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend(length.to_be_bytes());
    packet.extend([6, 64]);
    packet.extend([0xFD; 16]);
    packet.extend([0xFE; 16]);
    fill_checksum(&mut transport, &packet[8..40], 6);
    packet.extend(transport);

    packet
}

/// Builds a UDP packet over IPv4.
pub(crate) fn udp4(source_port: u16, port: u16, payload: &[u8]) -> Vec<u8> {
    let mut transport = Vec::new();
    transport.extend(source_port.to_be_bytes());
    transport.extend(port.to_be_bytes());
    transport.extend(u16::try_from(8 + payload.len()).expect("a small packet").to_be_bytes());
    transport.extend([0, 0]);
    transport.extend(payload);

    ip4(17, 0, transport)
}

fn tcp(fields: Tcp, payload: &[u8]) -> Vec<u8> {
    let mut transport = Vec::new();
    transport.extend(fields.source_port.to_be_bytes());
    transport.extend(80u16.to_be_bytes());
    transport.extend(fields.seq.to_be_bytes());
    transport.extend(fields.ack.to_be_bytes());
    transport.extend([0x50, if fields.push { 0x18 } else { 0x10 }, 1, 0, 0, 0, 0, 0]);
    transport.extend(payload);

    transport
}

fn ip4(protocol: u8, id: u16, mut transport: Vec<u8>) -> Vec<u8> {
    let length = u16::try_from(20 + transport.len()).expect("a small packet");
    let mut packet = vec![0x45, 0];
    packet.extend(length.to_be_bytes());
    packet.extend(id.to_be_bytes());
    packet.extend([0x40, 0, 64, protocol, 0, 0]);
    packet.extend([10, 0, 0, 1, 10, 0, 0, 2]);
    let sum = !tun_rs::checksum(&packet, 0);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    fill_checksum(&mut transport, &packet[12..20], protocol);
    packet.extend(transport);

    packet
}

fn fill_checksum(transport: &mut [u8], addresses: &[u8], protocol: u8) {
    let at = if protocol == 6 { 16 } else { 6 };
    transport[at..at + 2].fill(0);
    let pseudo = tun_rs::checksum_no_fold(addresses, u64::from(protocol) + transport.len() as u64);
    let sum = match !tun_rs::checksum(transport, pseudo) {
        0 => u16::MAX,
        sum => sum,
    };
    transport[at..at + 2].copy_from_slice(&sum.to_be_bytes());
}

/// The packets of a batch in one buffer, as the engine hands them out.
pub(crate) struct Owned {
    bytes: Vec<u8>,
    ranges: Vec<Range<usize>>,
}

impl Owned {
    /// Puts packets together.
    pub(crate) fn new(packets: &[Vec<u8>]) -> Self {
        let mut owned = Self { bytes: Vec::new(), ranges: Vec::new() };
        for packet in packets {
            let start = owned.bytes.len();
            owned.bytes.extend(packet);
            owned.ranges.push(start..owned.bytes.len());
        }

        owned
    }

    /// Returns them as the merger wants them.
    pub(crate) fn packets(&self) -> Packets<'_> {
        Packets { bytes: &self.bytes, ranges: &self.ranges }
    }
}

/// Merges packets and takes them apart again, as the kernel would: what it must be like.
pub(crate) fn through_the_kernel(packets: &[Vec<u8>], offload: Offload) -> Vec<Vec<u8>> {
    let owned = Owned::new(packets);
    let mut coalescer = Coalescer::default();
    coalescer.plan(owned.packets(), offload);
    let mut out = Vec::new();
    for group in coalescer.groups() {
        if group.len() == 1 {
            out.push(owned.packets().packet(group.first()).to_vec());
            continue;
        }
        let mut headers = [0; MAX_HEADERS];
        let written = group.write_headers(owned.packets(), &mut headers).expect("headers");
        let mut bytes = headers[..written.len].to_vec();
        for index in coalescer.members(group) {
            bytes.extend(&owned.packets().packet(index)[written.skip..]);
        }
        let mut batch = Batch::new();
        batch.room()[..bytes.len()].copy_from_slice(&bytes);
        batch.push(bytes.len()).expect("a sound super-packet");
        out.extend(batch.packets().map(<[u8]>::to_vec));
    }

    out
}

/// Ids and IPv4 header checksums are the kernel's to make anew.
fn without_id(packet: &[u8]) -> Vec<u8> {
    let mut packet = packet.to_vec();
    if packet.len() >= 20 && packet[0] == 0x45 {
        packet[4..6].fill(0);
        packet[10..12].fill(0);
    }

    packet
}

fn flow_of(packet: &[u8]) -> Option<(u8, Vec<u8>)> {
    let segment = Segment::read(packet)?;

    Some((segment.protocol, [segment.addresses(), &segment.transport()[..4]].concat()))
}

/// Makes the transport checksum of a packet right, if it has one.
pub(crate) fn mend_checksum(packet: &mut [u8]) {
    let Some(Segment { ip_header, protocol, .. }) = Segment::read(packet) else { return };
    let (header, transport) = packet.split_at_mut(ip_header);
    let addresses = if ip_header == 20 { &header[12..20] } else { &header[8..40] };
    fill_checksum(transport, addresses, protocol);
}

/// Checks that every flow came out as it went in; flows may overtake each other.
pub(crate) fn assert_same_flows(out: &[Vec<u8>], packets: &[Vec<u8>]) {
    assert_eq!(out.len(), packets.len());
    let mut flows: Vec<_> = packets.iter().map(|packet| flow_of(packet)).collect();
    flows.sort();
    flows.dedup();
    for flow in flows {
        let of = |all: &[Vec<u8>]| -> Vec<_> {
            all.iter()
                .filter(|packet| flow_of(packet) == flow)
                .map(|packet| without_id(packet))
                .collect()
        };
        assert_eq!(of(out), of(packets));
    }
}
