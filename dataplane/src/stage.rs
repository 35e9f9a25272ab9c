//! The AEAD as a stage of its own, over a whole batch.
//!
//! The stages before it assign counters and reserve space, the stages after it commit. This one
//! touches no state but the buffers, so it could move to other threads, or to a cipher that works
//! on many packets at a time.

use std::ops::Range;

use crate::context::LaneContext;
use crate::drop::DropReason;
use crate::index::LinkHandle;
use crate::noise::{Open, Opened, Seal};
use crate::transmit_queue::Slot;

/// A packet to seal.
#[derive(Debug)]
pub(crate) struct SealJob<'p> {
    pub(crate) seal: Seal,
    pub(crate) packet: &'p [u8],
    pub(crate) slot: Slot,
}

/// A data message to open.
#[derive(Debug)]
pub(crate) struct OpenJob<'d> {
    pub(crate) handle: LinkHandle,
    pub(crate) open: Open,
    pub(crate) message: &'d [u8],
    pub(crate) buffer: Range<usize>,
}

/// A data message that is opened, but not accepted yet.
#[derive(Debug)]
pub(crate) struct OpenedJob {
    pub(crate) handle: LinkHandle,
    pub(crate) opened: Opened,
    pub(crate) message_len: usize,
    pub(crate) buffer: Range<usize>,
}

/// Seals a batch into the transmit queue.
pub(crate) fn seal_all(jobs: &mut Vec<SealJob<'_>>, cx: &mut LaneContext) {
    let mut jobs = jobs.drain(..);
    while let Some(job) = jobs.next() {
        match jobs.next() {
            Some(second) => seal_two([job, second], cx),
            None => seal_one(job, cx),
        }
    }
}

/// Seals one packet into the transmit queue.
pub(crate) fn seal_one(job: SealJob<'_>, cx: &mut LaneContext) {
    let is_sealed =
        cx.transmit_queue.slot(job.slot).is_some_and(|slot| job.seal.run(job.packet, slot));
    count_sealed(is_sealed, job.packet, cx);
}

fn seal_two(jobs: [SealJob<'_>; 2], cx: &mut LaneContext) {
    let Some(slots) = cx.transmit_queue.slots(jobs.each_ref().map(|job| job.slot)) else {
        return jobs.into_iter().for_each(|job| seal_one(job, cx));
    };
    let packets = jobs.each_ref().map(|job| job.packet);
    let are_sealed = Seal::run_two(jobs.map(|job| job.seal), packets, slots);
    for (is_sealed, packet) in are_sealed.into_iter().zip(packets) {
        count_sealed(is_sealed, packet, cx);
    }
}

fn count_sealed(is_sealed: bool, packet: &[u8], cx: &mut LaneContext) {
    if is_sealed {
        cx.counters.forwarded += 1;
        cx.counters.forwarded_bytes += packet.len() as u64;
    } else {
        cx.counters.drop(DropReason::TransmitOverflow);
    }
}

/// Opens a batch into the receive buffer.
pub(crate) fn open_all(
    jobs: &mut Vec<OpenJob<'_>>,
    opened: &mut Vec<OpenedJob>,
    cx: &mut LaneContext,
) {
    let mut jobs = jobs.drain(..);
    while let Some(job) = jobs.next() {
        match jobs.next() {
            Some(second) => opened.extend(open_two([job, second], cx)),
            None => opened.push(open_one(job, cx)),
        }
    }
}

fn open_one(job: OpenJob<'_>, cx: &mut LaneContext) -> OpenedJob {
    OpenedJob {
        handle: job.handle,
        opened: job.open.run(job.message, cx.rx_buffer.buffer(job.buffer.clone())),
        message_len: job.message.len(),
        buffer: job.buffer,
    }
}

fn open_two(jobs: [OpenJob<'_>; 2], cx: &mut LaneContext) -> [OpenedJob; 2] {
    let Some(buffers) = cx.rx_buffer.buffers(jobs.each_ref().map(|job| job.buffer.clone())) else {
        return jobs.map(|job| open_one(job, cx));
    };
    let [first, second] = jobs;
    let opened = Open::run_two([first.open, second.open], [first.message, second.message], buffers);
    let [first_opened, second_opened] = opened;

    [
        OpenedJob {
            handle: first.handle,
            opened: first_opened,
            message_len: first.message.len(),
            buffer: first.buffer,
        },
        OpenedJob {
            handle: second.handle,
            opened: second_opened,
            message_len: second.message.len(),
            buffer: second.buffer,
        },
    ]
}

/// Empties a list of jobs and keeps its memory for jobs that borrow from another batch.
///
/// Collecting from a vector into one of the same layout happens in place.
pub(crate) fn reuse<A, B>(mut jobs: Vec<A>) -> Vec<B> {
    jobs.clear();

    jobs.into_iter().filter_map(|_| None).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reused_lists_keep_their_memory() {
        let jobs: Vec<&'static [u8]> = Vec::with_capacity(100);

        let again: Vec<&[u8]> = reuse(jobs);

        assert!(again.is_empty());
        assert!(again.capacity() >= 100);
    }
}
