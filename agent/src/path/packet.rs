//! The few fields of an inner packet that merging needs, read with bounds checked once.
//!
//! Not a packet parser: what is not plain TCP or UDP without extension headers and fragments is
//! simply not merged.

/// TCP's protocol number.
pub(crate) const TCP: u8 = 6;
/// UDP's protocol number.
pub(crate) const UDP: u8 = 17;

const UDP_HEADER: usize = 8;
const MIN_TCP_HEADER: usize = 20;
const IPV4_HEADER: usize = 20;
const IPV6_HEADER: usize = 40;
/// MF and the fragment offset.
const FRAGMENT_BITS: u16 = 0x3FFF;

/// A whole TCP or UDP packet, with where its parts begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Segment<'a> {
    /// The packet, exactly as long as its IP header says.
    pub(crate) bytes: &'a [u8],
    /// [`TCP`] or [`UDP`].
    pub(crate) protocol: u8,
    /// 20 for IPv4, 40 for IPv6.
    pub(crate) ip_header: usize,
    /// The IP and the transport header together.
    pub(crate) headers: usize,
}

impl<'a> Segment<'a> {
    /// Reads a packet; `None` when it is anything but a whole TCP or UDP packet without IP options
    /// and fragments.
    pub(crate) fn read(bytes: &'a [u8]) -> Option<Self> {
        let (ip_header, protocol) = match bytes.first()? >> 4 {
            4 => (IPV4_HEADER, ipv4_protocol(bytes)?),
            6 => (IPV6_HEADER, ipv6_protocol(bytes)?),
            _ => return None,
        };
        let transport = bytes.get(ip_header..)?;
        let transport_header = match protocol {
            TCP => tcp_header(transport)?,
            UDP => udp_header(transport)?,
            _ => return None,
        };

        Some(Self { bytes, protocol, ip_header, headers: ip_header + transport_header })
    }

    /// Returns what follows the headers.
    pub(crate) fn payload(&self) -> &'a [u8] {
        &self.bytes[self.headers..]
    }

    /// Returns the source and destination addresses as they stand in the header.
    pub(crate) fn addresses(&self) -> &'a [u8] {
        match self.ip_header {
            IPV4_HEADER => &self.bytes[12..20],
            _ => &self.bytes[8..40],
        }
    }

    /// Returns the transport header and the payload.
    pub(crate) fn transport(&self) -> &'a [u8] {
        &self.bytes[self.ip_header..]
    }

    /// Returns the sum over the pseudo header for a transport part of `len` bytes, not folded.
    pub(crate) fn pseudo_sum(&self, len: usize) -> u64 {
        tun_rs::checksum_no_fold(self.addresses(), u64::from(self.protocol) + len as u64)
    }

    /// Tells whether the transport checksum is right.
    pub(crate) fn checksum_holds(&self) -> bool {
        let transport = self.transport();
        if self.protocol == UDP && transport[6..8] == [0, 0] {
            return false;
        }

        tun_rs::checksum(transport, self.pseudo_sum(transport.len())) == u16::MAX
    }
}

fn ipv4_protocol(bytes: &[u8]) -> Option<u8> {
    let header = bytes.get(..IPV4_HEADER)?;
    let whole = usize::from(u16::from_be_bytes([header[2], header[3]])) == bytes.len();
    let fragment = u16::from_be_bytes([header[6], header[7]]) & FRAGMENT_BITS != 0;

    (header[0] == 0x45 && whole && !fragment).then_some(header[9])
}

fn ipv6_protocol(bytes: &[u8]) -> Option<u8> {
    let header = bytes.get(..IPV6_HEADER)?;
    let whole =
        usize::from(u16::from_be_bytes([header[4], header[5]])) + IPV6_HEADER == bytes.len();

    whole.then_some(header[6])
}

fn tcp_header(transport: &[u8]) -> Option<usize> {
    let len = usize::from(transport.get(12)? >> 4) * 4;

    (len >= MIN_TCP_HEADER && len <= transport.len()).then_some(len)
}

fn udp_header(transport: &[u8]) -> Option<usize> {
    let header = transport.get(..UDP_HEADER)?;
    let whole = usize::from(u16::from_be_bytes([header[4], header[5]])) == transport.len();

    whole.then_some(UDP_HEADER)
}
