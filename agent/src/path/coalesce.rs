//! Merges the packets of one flow into super-packets, so that the kernel takes up to 64 of them in
//! one write.
//!
//! Pure: packets in, groups out; `tun.rs` writes them. The bytes stay where they are: a group is
//! the new headers and the list of its packets, which one gathering write hands to the kernel.
//! (`tun-rs` copies every packet into a buffer of 64 KiB first, and only through its own device.)
//!
//! A packet is merged only when nobody could tell afterwards: the headers equal but for length, id,
//! checksum and sequence number, the sequence unbroken, the checksum right. Packets of a flow never
//! overtake each other.

use std::ops::Range;

use tun_rs::{
    VIRTIO_NET_HDR_GSO_TCPV4, VIRTIO_NET_HDR_GSO_TCPV6, VIRTIO_NET_HDR_GSO_UDP_L4, VirtioNetHdr,
};

use super::packet::{Segment, TCP, UDP};

/// The most packets in one group: what one gathering write may carry besides the header.
pub(crate) const MAX_GROUP: usize = 64;
/// The largest super-packet; the IP length field cannot say more.
const MAX_BYTES: usize = 65_535;
/// How many flows are kept open at once: merging looks through all of them for every packet.
const MAX_OPEN: usize = 16;
/// "The checksum is partial: begins at `csum_start`" (`linux/virtio_net.h`).
const NEEDS_CSUM: u8 = 1;

const TCP_FLAGS: usize = 13;
const TCP_CHECKSUM: u16 = 16;
const UDP_CHECKSUM: u16 = 6;
const ACK: u8 = 0x10;
const PSH: u8 = 0x08;

/// Which transports the TUN device takes super-packets of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Offload {
    /// TCP super-packets (TSO).
    pub tcp: bool,
    /// UDP super-packets (USO, Linux 6.2 and later).
    pub udp: bool,
}

impl From<crate::kernel::Offload> for Offload {
    fn from(obtained: crate::kernel::Offload) -> Self {
        use crate::kernel::Offload::{Checksum, None, Tcp, TcpUdp};

        Self {
            tcp: matches!(obtained, Tcp | TcpUdp),
            udp: match obtained {
                TcpUdp => true,
                None | Checksum | Tcp => false,
            },
        }
    }
}

/// A batch of packets: where each is in one buffer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Packets<'a> {
    /// Holds them.
    pub(crate) bytes: &'a [u8],
    /// Where each is, in order.
    pub(crate) ranges: &'a [Range<usize>],
}

impl<'a> Packets<'a> {
    /// Returns one packet; empty when there is no such.
    pub(crate) fn packet(&self, index: usize) -> &'a [u8] {
        self.ranges.get(index).and_then(|range| self.bytes.get(range.clone())).unwrap_or_default()
    }
}

/// Packets that go to the kernel in one write, in order.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Group {
    first: usize,
    last: usize,
    len: usize,
    payload: usize,
    gso_size: usize,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// More may be appended.
    Open,
    /// More of the flow needs a new group.
    Closed,
    /// Not TCP or UDP that could be merged.
    Single,
}

/// Sorts a batch of packets into groups. Reused, so that it does not allocate once it is warm.
#[derive(Debug, Default)]
pub(crate) struct Coalescer {
    groups: Vec<Group>,
    open: Vec<usize>,
    next: Vec<usize>,
}

impl Coalescer {
    /// Sorts `packets` into groups.
    pub(crate) fn plan(&mut self, packets: Packets<'_>, offload: Offload) {
        self.groups.clear();
        self.open.clear();
        self.next.clear();
        self.next.resize(packets.ranges.len(), usize::MAX);

        for index in 0..packets.ranges.len() {
            self.place(packets, index, offload);
        }
    }

    /// Lists the groups of the last plan, in the order in which they are to be written.
    pub(crate) fn groups(&self) -> &[Group] {
        &self.groups
    }

    /// Lists the packets of a group.
    pub(crate) fn members(&self, group: &Group) -> impl Iterator<Item = usize> {
        std::iter::successors(Some(group.first), |&at| self.next.get(at).copied()).take(group.len)
    }

    fn place(&mut self, packets: Packets<'_>, index: usize, offload: Offload) {
        let Some(segment) = Segment::read(packets.packet(index)) else {
            return self.add_single(index);
        };
        let mergeable = mergeable(&segment, offload);
        if let Some(slot) = self
            .open
            .iter()
            .rposition(|&g| same_flow(packets.packet(self.groups[g].first), &segment))
        {
            let group = &mut self.groups[self.open[slot]];
            if mergeable && group.append(packets, index, &segment) {
                self.next[group.last] = index;
                group.last = index;
                if group.state == State::Closed {
                    self.open.swap_remove(slot);
                }
                return;
            }
            // What comes later must not slip in front of this packet.
            group.state = State::Closed;
            self.open.swap_remove(slot);
        }
        if mergeable { self.add_open(index, &segment) } else { self.add_single(index) }
    }

    fn add_single(&mut self, index: usize) {
        let state = State::Single;
        self.groups.push(Group {
            first: index,
            last: index,
            len: 1,
            payload: 0,
            gso_size: 0,
            state,
        });
    }

    fn add_open(&mut self, index: usize, segment: &Segment<'_>) {
        if self.open.len() == MAX_OPEN {
            self.open.remove(0);
        }
        let payload = segment.payload().len();
        let state = if pushes(segment) { State::Closed } else { State::Open };
        if state == State::Open {
            self.open.push(self.groups.len());
        }
        self.groups.push(Group {
            first: index,
            last: index,
            len: 1,
            payload,
            gso_size: payload,
            state,
        });
    }
}

impl Group {
    /// Returns the first packet.
    pub(crate) fn first(&self) -> usize {
        self.first
    }

    /// Returns how many packets this merges.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Returns how many bytes the packets carry behind their headers; 0 for one that cannot be
    /// merged.
    pub(crate) fn payload(&self) -> usize {
        self.payload
    }

    /// Tells whether `segment` may follow, and if so counts it in.
    fn append(&mut self, packets: Packets<'_>, index: usize, segment: &Segment<'_>) -> bool {
        let Some(first) = Segment::read(packets.packet(self.first)) else { return false };
        let payload = segment.payload().len();
        let fits = self.len < MAX_GROUP
            && payload <= self.gso_size
            && first.headers + self.payload + payload <= MAX_BYTES
            && same_headers(&first, segment)
            && (segment.protocol == UDP || sequence(segment) == self.next_sequence(&first))
            && (self.len > 1 || first.checksum_holds())
            && segment.checksum_holds();
        if !fits {
            return false;
        }
        debug_assert!(index > self.last, "packets are appended in order");
        self.len += 1;
        self.payload += payload;
        if payload < self.gso_size || pushes(segment) {
            self.state = State::Closed;
        }

        true
    }

    fn next_sequence(&self, first: &Segment<'_>) -> u32 {
        // At most MAX_BYTES.
        sequence(first).wrapping_add(u32::try_from(self.payload).unwrap_or(u32::MAX))
    }

    /// Writes the virtio header and the packet headers of a merged group to `out` and returns their
    /// lengths.
    pub(crate) fn write_headers(
        &self,
        packets: Packets<'_>,
        out: &mut [u8; MAX_HEADERS],
    ) -> Option<Headers> {
        let first = Segment::read(packets.packet(self.first))?;
        let last = Segment::read(packets.packet(self.last))?;
        let header = virtio_header(&first, self.gso_size)?;
        header.encode(out).ok()?;

        let packet = &mut out[tun_rs::VIRTIO_NET_HDR_LEN..][..first.headers];
        packet.copy_from_slice(&first.bytes[..first.headers]);
        let transport = first.headers - first.ip_header + self.payload;
        write_ip_length(packet, &first, transport);
        if first.protocol == UDP {
            packet[first.ip_header + 4..][..2].copy_from_slice(&length(transport));
        } else if pushes(&last) {
            packet[first.ip_header + TCP_FLAGS] |= PSH;
        }
        let at = first.ip_header + usize::from(header.csum_offset);
        let partial = tun_rs::checksum(&[], first.pseudo_sum(transport));
        packet[at..at + 2].copy_from_slice(&partial.to_be_bytes());

        Some(Headers { len: tun_rs::VIRTIO_NET_HDR_LEN + first.headers, skip: first.headers })
    }
}

/// The virtio header, an IPv6 header and the longest TCP header.
pub(crate) const MAX_HEADERS: usize = tun_rs::VIRTIO_NET_HDR_LEN + 40 + 60;

/// What [`Group::write_headers`] wrote.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Headers {
    /// Bytes written.
    pub(crate) len: usize,
    /// Header bytes of each packet, which the written ones stand for.
    pub(crate) skip: usize,
}

fn mergeable(segment: &Segment<'_>, offload: Offload) -> bool {
    if segment.payload().is_empty() {
        return false;
    }

    match segment.protocol {
        TCP => offload.tcp && segment.transport()[TCP_FLAGS] & !PSH == ACK,
        _ => offload.udp,
    }
}

fn pushes(segment: &Segment<'_>) -> bool {
    segment.protocol == TCP && segment.transport()[TCP_FLAGS] & PSH != 0
}

fn sequence(segment: &Segment<'_>) -> u32 {
    let t = segment.transport();

    u32::from_be_bytes([t[4], t[5], t[6], t[7]])
}

fn same_flow(first: &[u8], segment: &Segment<'_>) -> bool {
    // Two words sort out nearly every other flow before the packet is read again.
    let at = segment.ip_header;
    if first.first().map(|b| b >> 4) != segment.bytes.first().map(|b| b >> 4)
        || first.get(at..at + 4) != segment.bytes.get(at..at + 4)
    {
        return false;
    }

    Segment::read(first).is_some_and(|first| {
        first.protocol == segment.protocol && first.addresses() == segment.addresses()
    })
}

/// Compares what the kernel compares in its own GRO, and the rest: all but length, id, checksums
/// and sequence number.
fn same_headers(a: &Segment<'_>, b: &Segment<'_>) -> bool {
    let ip = match a.ip_header {
        // Type of service; DF; time to live.
        20 => a.bytes[1] == b.bytes[1] && a.bytes[6] == b.bytes[6] && a.bytes[8] == b.bytes[8],
        // Traffic class and flow label; hop limit.
        _ => a.bytes[..4] == b.bytes[..4] && a.bytes[7] == b.bytes[7],
    };
    let (at, bt) = (a.transport(), b.transport());
    // Acknowledgement number; reserved bits, one of them accurate ECN's (RFC 9768); window; urgent
    // pointer, which may stand there without meaning anything; options.
    let transport = a.protocol == UDP
        || (a.headers == b.headers
            && at[8..13] == bt[8..13]
            && at[14..16] == bt[14..16]
            && at[18..20] == bt[18..20]
            && at[20..a.headers - a.ip_header] == bt[20..b.headers - b.ip_header]);

    ip && transport
}

fn virtio_header(first: &Segment<'_>, gso_size: usize) -> Option<VirtioNetHdr> {
    let (gso_type, csum_offset) = match (first.protocol, first.ip_header) {
        (TCP, 20) => (VIRTIO_NET_HDR_GSO_TCPV4, TCP_CHECKSUM),
        (TCP, _) => (VIRTIO_NET_HDR_GSO_TCPV6, TCP_CHECKSUM),
        _ => (VIRTIO_NET_HDR_GSO_UDP_L4, UDP_CHECKSUM),
    };

    Some(VirtioNetHdr {
        flags: NEEDS_CSUM,
        gso_type,
        hdr_len: u16::try_from(first.headers).ok()?,
        gso_size: u16::try_from(gso_size).ok()?,
        csum_start: u16::try_from(first.ip_header).ok()?,
        csum_offset,
    })
}

fn write_ip_length(packet: &mut [u8], first: &Segment<'_>, transport: usize) {
    if first.ip_header == 20 {
        packet[2..4].copy_from_slice(&length(20 + transport));
        packet[10..12].fill(0);
        let sum = !tun_rs::checksum(&packet[..20], 0);
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
    } else {
        packet[4..6].copy_from_slice(&length(transport));
    }
}

fn length(len: usize) -> [u8; 2] {
    u16::try_from(len).unwrap_or(u16::MAX).to_be_bytes()
}

#[cfg(test)]
#[path = "coalesce_tests.rs"]
mod tests;
