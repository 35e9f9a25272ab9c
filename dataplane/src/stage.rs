//! The AEAD as a stage of its own, over a whole batch.
//!
//! The stages before it take counters and make room, the stages after it commit. What lies between touches no state but
//! the buffers, so it can move to other threads or to a cipher that works on many packets at a time.

use std::ops::Range;

use crate::drop::DropReason;
use crate::noise::{Open, Opened, Seal};
use crate::outbox::Slot;
use crate::shared::{Place, Shared};

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
    pub(crate) place: Place,
    pub(crate) open: Open,
    pub(crate) message: &'d [u8],
    pub(crate) room: Range<usize>,
}

/// A data message that is opened, but not accepted.
#[derive(Debug)]
pub(crate) struct OpenedJob {
    pub(crate) place: Place,
    pub(crate) opened: Opened,
    pub(crate) message_len: usize,
    pub(crate) room: Range<usize>,
}

/// Seals a batch into the outbox.
pub(crate) fn seal_all(jobs: &mut Vec<SealJob<'_>>, shared: &mut Shared) {
    for job in jobs.drain(..) {
        seal_one(job, shared);
    }
}

/// Seals one packet into the outbox.
pub(crate) fn seal_one(job: SealJob<'_>, shared: &mut Shared) {
    let is_sealed = shared.outbox.slot(job.slot).is_some_and(|slot| job.seal.run(job.packet, slot));
    if is_sealed {
        shared.counters.forwarded += 1;
        shared.counters.forwarded_bytes += job.packet.len() as u64;
    } else {
        shared.counters.drop(DropReason::TransmitOverflow);
    }
}

/// Opens a batch into the inbox.
pub(crate) fn open_all(jobs: &mut Vec<OpenJob<'_>>, opened: &mut Vec<OpenedJob>, shared: &mut Shared) {
    opened.extend(jobs.drain(..).map(|job| OpenedJob {
        place: job.place,
        opened: job.open.run(job.message, shared.inbox.room(job.room.clone())),
        message_len: job.message.len(),
        room: job.room,
    }));
}

/// Empties a list of jobs and keeps its memory for jobs of the next batch, which borrow from somewhere else.
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
