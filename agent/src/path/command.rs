//! Commands to a lane: a bounded mailbox that wakes the lane.
//!
//! Tables use a latest-value slot, so a busy lane never blocks the publisher; everything else is
//! queued.

use std::collections::{BTreeSet, VecDeque};
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex, PoisonError};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use overlay_core::{NetworkId, NodeId};
use overlay_dataplane::{EngineState, Tables};
use tokio::sync::oneshot;

use super::queue::Queue;
use super::report::LaneReport;

/// The most queued commands, 256 KiB: far more than ever accumulate, since a lane checks every few
/// microseconds.
const MAX_COMMANDS: usize = 4096;

/// A command for a lane.
#[derive(Debug)]
pub(crate) enum LaneCommand {
    /// Serves a network's TUN queue, replacing the one served before.
    AddQueue(NetworkId, Queue),
    /// Stops serving a network's TUN queue.
    RemoveQueue(NetworkId),
    /// Sends handshakes to peers at once.
    WakePeers,
    /// Finds out how peers see this node, if none has said.
    Greet,
    /// Sets the host's own addresses.
    Own(Arc<BTreeSet<IpAddr>>),
    /// Tells peers that this node's address may have changed.
    Announce,
    /// Tries to reach a node's silent lanes at once.
    Hurry(NodeId),
    /// Stops until [`LaneCommand::Thaw`], and says what the engine knows.
    Freeze(oneshot::Sender<EngineState>),
    /// Goes on; without its sessions if another process may have used them.
    Thaw {
        /// Whether the sessions are to be forgotten.
        forget: bool,
    },
    /// Takes over what another process's engine knew, and says how many sessions it could not; for
    /// a lane that waits.
    Resume(EngineState, oneshot::Sender<usize>),
    /// Begins to carry packets; for a lane that waits.
    Begin,
    /// Reports the lane's state.
    Report(oneshot::Sender<LaneReport>),
    /// Ends the lane.
    Shutdown,
}

/// The mailbox is full: the lane is not running.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the lane takes no commands")]
pub struct Busy;

/// Commands on their way to one lane.
#[derive(Debug)]
pub(crate) struct Mailbox {
    pending: Mutex<PendingUpdates>,
    waker: EventFd,
}

/// What is pending for a lane.
#[derive(Debug, Default)]
pub(crate) struct PendingUpdates {
    /// The new tables, if they changed.
    pub(crate) tables: Option<Arc<Tables>>,
    /// The commands, in order.
    pub(crate) commands: VecDeque<LaneCommand>,
}

impl PendingUpdates {
    /// Adds what came later.
    pub(crate) fn add(&mut self, later: Self) {
        self.tables = later.tables.or(self.tables.take());
        self.commands.extend(later.commands);
    }
}

impl Mailbox {
    /// Creates an empty mailbox.
    pub(crate) fn new() -> std::io::Result<Self> {
        let waker = EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?;

        Ok(Self { pending: Mutex::default(), waker })
    }

    /// Publishes tables, replacing any that are still pending.
    pub(crate) fn publish(&self, tables: Arc<Tables>) {
        self.with_pending(|pending| pending.tables = Some(tables));
        self.wake();
    }

    /// Queues a command.
    pub(crate) fn put(&self, command: LaneCommand) -> Result<(), Busy> {
        self.with_pending(|pending| match pending.commands.len() {
            MAX_COMMANDS.. => Err(Busy),
            _ => {
                pending.commands.push_back(command);
                Ok(())
            }
        })?;
        self.wake();

        Ok(())
    }

    /// Takes everything that is pending.
    pub(crate) fn take(&self) -> PendingUpdates {
        // Reset the waker first: anything queued after this wakes the lane again.
        let _ = self.waker.read();

        self.with_pending(std::mem::take)
    }

    /// Waits until something is pending.
    pub(crate) fn wait(&self) -> std::io::Result<()> {
        loop {
            match poll(&mut [PollFd::new(self.as_fd(), PollFlags::POLLIN)], PollTimeout::NONE) {
                Ok(_) => return Ok(()),
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn with_pending<T>(&self, change: impl FnOnce(&mut PendingUpdates) -> T) -> T {
        // Nothing that could panic runs under the lock.
        change(&mut self.pending.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn wake(&self) {
        // Fails only when the counter would overflow, and then the lane is being woken anyway.
        let _ = self.waker.write(1);
    }
}

impl AsFd for Mailbox {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.waker.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_latest_tables_are_taken() {
        let mailbox = Mailbox::new().expect("an eventfd");
        let latest = Arc::new(Tables::default());

        mailbox.publish(Arc::new(Tables::default()));
        mailbox.publish(Arc::clone(&latest));

        assert!(mailbox.take().tables.is_some_and(|tables| Arc::ptr_eq(&tables, &latest)));
        assert!(mailbox.take().tables.is_none());
    }

    #[test]
    fn a_box_that_nobody_empties_refuses() {
        let mailbox = Mailbox::new().expect("an eventfd");

        let accepted =
            (0..=MAX_COMMANDS).take_while(|_| mailbox.put(LaneCommand::WakePeers).is_ok()).count();

        assert_eq!(accepted, MAX_COMMANDS);
        assert_eq!(mailbox.take().commands.len(), MAX_COMMANDS);
    }
}
