//! Splits the super-packets that a TUN device with TSO and USO hands out into packets that fit the
//! tunnel.
//!
//! Pure: bytes in, bytes out; `tun.rs` reads them. The splitting itself is `tun-rs`'s.

use tun_rs::{VIRTIO_NET_HDR_LEN, VirtioNetHdr};

use super::packet::{TCP, UDP};

/// "The checksum is partial: begins at `csum_start`" (`linux/virtio_net.h`).
const NEEDS_CSUM: u8 = 1;
const GSO_NONE: u8 = 0;
const GSO_ECN: u8 = 0x80;

/// The most packets one super-packet may become: 64 KiB of the smallest segments that Linux lets
/// TCP make (48 bytes).
const MAX_SEGMENTS: usize = 1_366;
/// A batch is complete at this many packets: two full batches.
const ENOUGH_PACKETS: usize = 128;
/// A batch is complete at this many bytes. Two super-packets make three batches, where one makes
/// two; much more would leave the processor's cache between reading, sealing and sending.
const ENOUGH_BYTES: usize = 128 * 1024;

/// What a read returned is no packet this can handle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed virtio header or super-packet")]
pub(crate) struct Malformed;

/// Packets read from one TUN queue, ready for the engine. Reused, so that it does not allocate once
/// it is warm.
#[derive(Debug)]
pub(crate) struct Batch {
    /// What was read, one read after the other.
    read: Vec<u8>,
    read_len: usize,
    /// What super-packets were split into.
    split: Vec<u8>,
    split_len: usize,
    sizes: Vec<usize>,
    spans: Vec<Span>,
    /// What the packets hold together.
    bytes: usize,
}

#[derive(Debug, Clone, Copy)]
struct Span {
    source: Source,
    at: usize,
    len: usize,
}

#[derive(Debug, Clone, Copy)]
enum Source {
    Read,
    Split,
}

impl Batch {
    /// Room for one read: the virtio header and the largest packet.
    const READ: usize = VIRTIO_NET_HDR_LEN + 65_535;
    /// Room for a batch of small packets before the last, possibly large, read.
    const CAPACITY: usize = 2 * Self::READ;

    /// Makes an empty batch.
    pub(crate) fn new() -> Self {
        Self {
            read: vec![0; Self::CAPACITY],
            read_len: 0,
            split: Vec::new(),
            split_len: 0,
            sizes: Vec::new(),
            spans: Vec::new(),
            bytes: 0,
        }
    }

    /// Empties the batch.
    pub(crate) fn clear(&mut self) {
        self.read_len = 0;
        self.split_len = 0;
        self.spans.clear();
        self.bytes = 0;
    }

    /// Tells whether the batch is full: enough packets, or no room for another read.
    pub(crate) fn is_full(&self) -> bool {
        self.spans.len() >= ENOUGH_PACKETS
            || self.bytes >= ENOUGH_BYTES
            || self.read.len() - self.read_len < Self::READ
    }

    /// Returns where the next read goes.
    pub(crate) fn room(&mut self) -> &mut [u8] {
        &mut self.read[self.read_len..][..Self::READ]
    }

    /// Takes in the `len` bytes that were read into [`Batch::room`].
    ///
    /// # Errors
    ///
    /// [`Malformed`] when they are no packet; the batch is then as it was.
    pub(crate) fn push(&mut self, len: usize) -> Result<(), Malformed> {
        let read = &mut self.read[self.read_len..][..len];
        let header = VirtioNetHdr::decode(read).map_err(|_| Malformed)?;
        let packet = &mut read[VIRTIO_NET_HDR_LEN..];
        if packet.is_empty() {
            return Err(Malformed);
        }
        if header.gso_type & !GSO_ECN != GSO_NONE {
            return self.push_split(len, header);
        }
        if header.flags & NEEDS_CSUM != 0 {
            complete_checksum(packet, header)?;
        }
        let span = Span {
            source: Source::Read,
            at: self.read_len + VIRTIO_NET_HDR_LEN,
            len: packet.len(),
        };
        self.read_len += len;
        self.bytes += len;
        self.spans.push(span);

        Ok(())
    }

    /// Returns how many packets there are.
    pub(crate) fn len(&self) -> usize {
        self.spans.len()
    }

    /// Lists the packets in the order they were sent.
    pub(crate) fn packets(&self) -> impl Iterator<Item = &[u8]> {
        self.spans.iter().map(|span| match span.source {
            Source::Read => &self.read[span.at..][..span.len],
            Source::Split => &self.split[span.at..][..span.len],
        })
    }

    fn push_split(&mut self, len: usize, header: VirtioNetHdr) -> Result<(), Malformed> {
        let packet = &mut self.read[self.read_len..][VIRTIO_NET_HDR_LEN..len];
        let (header, is_v6) = true_header(packet, header)?;
        let headers = usize::from(header.hdr_len);
        let stride = headers + usize::from(header.gso_size);
        let count = (packet.len() - headers).div_ceil(usize::from(header.gso_size));
        if count == 0 || count > MAX_SEGMENTS {
            return Err(Malformed);
        }
        let end = self.split_len + count * stride;
        if self.split.len() < end {
            self.split.resize(end, 0);
        }
        if self.sizes.len() < count {
            self.sizes.resize(count, 0);
        }

        let mut slots: Vec<&mut [u8]> =
            self.split[self.split_len..end].chunks_exact_mut(stride).collect();
        let made =
            tun_rs::gso_split(packet, header, &mut slots, &mut self.sizes[..count], 0, is_v6);
        let made = made.map_err(|_| Malformed)?;
        for (slot, &size) in self.sizes[..made].iter().enumerate() {
            self.spans.push(Span {
                source: Source::Split,
                at: self.split_len + slot * stride,
                len: size,
            });
        }
        self.split_len = end;
        self.bytes += len;

        Ok(())
    }
}

/// Returns the header with its true header length: the kernel may give the length of the whole
/// first packet when it forwards.
fn true_header(packet: &[u8], mut header: VirtioNetHdr) -> Result<(VirtioNetHdr, bool), Malformed> {
    let is_v6 = match packet[0] >> 4 {
        4 => false,
        6 => true,
        _ => return Err(Malformed),
    };
    let transport = match header.gso_type & !GSO_ECN {
        tun_rs::VIRTIO_NET_HDR_GSO_TCPV4 | tun_rs::VIRTIO_NET_HDR_GSO_TCPV6 => TCP,
        tun_rs::VIRTIO_NET_HDR_GSO_UDP_L4 => UDP,
        _ => return Err(Malformed),
    };
    let start = usize::from(header.csum_start);
    let transport_header = match transport {
        TCP => (*packet.get(start + 12).ok_or(Malformed)? >> 4) * 4,
        _ => 8,
    };
    header.hdr_len = header.csum_start.checked_add(u16::from(transport_header)).ok_or(Malformed)?;
    if header.gso_size == 0 || usize::from(header.hdr_len) > packet.len() {
        return Err(Malformed);
    }

    Ok((header, is_v6))
}

/// Completes the checksum that the kernel left to the device: the field holds the sum over the
/// pseudo header.
fn complete_checksum(packet: &mut [u8], header: VirtioNetHdr) -> Result<(), Malformed> {
    let start = usize::from(header.csum_start);
    let at = start + usize::from(header.csum_offset);
    let field = packet.get(at..at + 2).ok_or(Malformed)?;
    let partial = u64::from(u16::from_be_bytes([field[0], field[1]]));
    packet[at..at + 2].fill(0);
    let sum = match !tun_rs::checksum(&packet[start..], partial) {
        // RFC 768: a sum of zero is sent as ones, because zero says that there is none; for TCP
        // both mean the same.
        0 => u16::MAX,
        sum => sum,
    };
    packet[at..at + 2].copy_from_slice(&sum.to_be_bytes());

    Ok(())
}

#[cfg(test)]
#[path = "split_tests.rs"]
mod tests;
