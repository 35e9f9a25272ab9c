//! Packets for tests.

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
    let pseudo = tun_rs::checksum_no_fold(addresses, u64::from(protocol) + transport.len() as u64);
    let sum = match !tun_rs::checksum(transport, pseudo) {
        0 => u16::MAX,
        sum => sum,
    };
    transport[at..at + 2].copy_from_slice(&sum.to_be_bytes());
}
