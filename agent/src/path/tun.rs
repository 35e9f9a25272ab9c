//! Reads packets from and writes packets to one queue of a network's TUN device.
//!
//! The device is made by the kernel layer, with virtio headers of 10 bytes before every packet.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use nix::errno::Errno;
use tun_rs::VIRTIO_NET_HDR_LEN;

use super::coalesce::{Coalescer, Group, MAX_GROUP, MAX_HEADERS, Offload, Packets};
use super::counters::LaneCounters;
use super::split::Batch;
use super::steering::Steering;

/// A packet that is no super-packet and whose checksum is complete.
const PLAIN: [u8; VIRTIO_NET_HDR_LEN] = [0; VIRTIO_NET_HDR_LEN];

/// A read longer than this is a super-packet: no tunnel's packets are.
const LARGEST_PACKET: usize = 9_216;

/// One queue of a TUN device, and those of the other lanes, through which only small packets are
/// written.
#[derive(Debug)]
pub(crate) struct TunQueue {
    queues: Arc<[OwnedFd]>,
    own: usize,
    offload: Offload,
}

/// How a read of a queue ended.
#[derive(Debug)]
pub(crate) enum Filled {
    /// The batch is full; there may be more.
    Full,
    /// The queue is empty.
    Drained,
    /// The device is gone.
    Gone(io::Error),
}

impl TunQueue {
    /// Takes over the queue `own` of non-blocking ones; `None` if there are not so many.
    pub(crate) fn new(queues: Arc<[OwnedFd]>, own: usize, offload: Offload) -> Option<Self> {
        queues.get(own)?;

        Some(Self { queues, own, offload })
    }

    /// Reads until the batch is full or the queue is empty.
    pub(crate) fn read(
        &self,
        batch: &mut Batch,
        steering: &mut Steering,
        counters: &mut LaneCounters,
    ) -> Filled {
        batch.clear();
        while !batch.is_full() {
            let len = match nix::unistd::read(self.as_fd(), batch.room()) {
                Ok(0) => return Filled::Drained,
                Ok(len) => len,
                // Without memory for the moment, the packet is lost as in any other queue.
                Err(Errno::EAGAIN | Errno::ENOMEM | Errno::ENOBUFS) => return Filled::Drained,
                Err(Errno::EINTR) => continue,
                Err(error) => return Filled::Gone(error.into()),
            };
            counters.tun_reads += 1;
            if len > LARGEST_PACKET {
                steering
                    .carried(batch.room().get(VIRTIO_NET_HDR_LEN..len).unwrap_or_default(), len);
            }
            if batch.push(len).is_err() {
                counters.tun_malformed += 1;
            }
        }

        Filled::Full
    }

    /// Writes packets, as few writes as their flows allow.
    pub(crate) fn write(
        &mut self,
        packets: Packets<'_>,
        coalescer: &mut Coalescer,
        steering: &mut Steering,
        counters: &mut LaneCounters,
    ) {
        coalescer.plan(packets, self.offload);
        let mut refused = false;
        for group in coalescer.groups() {
            let first = packets.packet(group.first());
            let written = if group.len() == 1 {
                let queue = steering.queue(first);
                counters.tun_steered += u64::from(queue != self.own);
                self.write_plain(queue, first, counters)
            } else {
                steering.carried(first, group.payload());
                self.write_group(group, packets, coalescer, counters)
            };
            refused |= written == Err(Errno::EINVAL);
        }
        if refused {
            self.offload = Offload::default();
            tracing::warn!("TUN device refuses super-packets, writing packets singly from now on");
        }
    }

    fn write_group(
        &self,
        group: &Group,
        packets: Packets<'_>,
        coalescer: &Coalescer,
        counters: &mut LaneCounters,
    ) -> Result<(), Errno> {
        let mut headers = [0; MAX_HEADERS];
        let Some(written) = group.write_headers(packets, &mut headers) else {
            return self.write_singly(group, packets, coalescer, counters);
        };
        let mut parts = [IoSlice::new(&[]); MAX_GROUP + 1];
        parts[0] = IoSlice::new(&headers[..written.len]);
        for (part, index) in parts[1..].iter_mut().zip(coalescer.members(group)) {
            *part = IoSlice::new(&packets.packet(index)[written.skip..]);
        }

        match self.write_parts(self.own, &parts[..=group.len()], counters) {
            Err(Errno::EINVAL) => {
                self.write_singly(group, packets, coalescer, counters)?;
                Err(Errno::EINVAL)
            }
            Ok(()) => {
                counters.tun_packets_out += group.len() as u64;
                Ok(())
            }
            Err(error) => {
                counters.tun_refused += group.len() as u64;
                Err(error)
            }
        }
    }

    fn write_singly(
        &self,
        group: &Group,
        packets: Packets<'_>,
        coalescer: &Coalescer,
        counters: &mut LaneCounters,
    ) -> Result<(), Errno> {
        for index in coalescer.members(group) {
            // Counted there; the next packet has its own chance.
            let _ = self.write_plain(self.own, packets.packet(index), counters);
        }

        Ok(())
    }

    /// Writes one packet as it is. A refusal of one plain packet says nothing about super-packets,
    /// so `EINVAL` is not passed on.
    fn write_plain(
        &self,
        queue: usize,
        packet: &[u8],
        counters: &mut LaneCounters,
    ) -> Result<(), Errno> {
        let written =
            self.write_parts(queue, &[IoSlice::new(&PLAIN), IoSlice::new(packet)], counters);
        match written {
            Ok(()) => counters.tun_packets_out += 1,
            Err(_) => counters.tun_refused += 1,
        }

        written.map_err(|error| if error == Errno::EINVAL { Errno::EIO } else { error })
    }

    fn write_parts(
        &self,
        queue: usize,
        parts: &[IoSlice<'_>],
        counters: &mut LaneCounters,
    ) -> Result<(), Errno> {
        let queue = self.queues.get(queue).map_or_else(|| self.as_fd(), OwnedFd::as_fd);
        counters.tun_writes += 1;
        loop {
            match nix::sys::uio::writev(queue, parts) {
                Ok(_) => return Ok(()),
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error),
            }
        }
    }
}

impl AsFd for TunQueue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.queues[self.own].as_fd()
    }
}
