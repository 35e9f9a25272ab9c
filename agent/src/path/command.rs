//! What the rest of the agent tells a lane, and how: a bounded box with a bell.
//!
//! Tables are a latest-value slot, so a lane that is busy never makes the publisher wait; everything else queues.

use std::collections::{BTreeSet, VecDeque};
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex, PoisonError};

use nix::sys::eventfd::{EfdFlags, EventFd};
use overlay_core::{NetworkId, NodeId};
use overlay_dataplane::Tables;
use tokio::sync::oneshot;

use super::queue::Queue;
use super::report::LaneReport;

/// How many commands may wait: far more than a lane, which looks every few microseconds, ever lets stand. 256 KiB.
const MAX_COMMANDS: usize = 4096;

/// Something to do for a lane.
#[derive(Debug)]
pub(crate) enum Command {
    /// Serves a network's TUN queue; takes the place of the one served before.
    AddQueue(NetworkId, Queue),
    /// Serves it no longer.
    RemoveQueue(NetworkId),
    /// Sends handshakes to peers at once.
    WakePeers,
    /// Finds out how peers see this node, if none has said.
    Greet,
    /// Takes the host's own addresses.
    Own(Arc<BTreeSet<IpAddr>>),
    /// Tells peers that this node's address may be another one.
    Announce,
    /// Looks for a node's silent lanes at once.
    Hurry(NodeId),
    /// Tells how the lane is doing.
    Report(oneshot::Sender<LaneReport>),
    /// Ends the lane.
    Shutdown,
}

/// The box is full: the lane does not run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the lane takes no commands")]
pub struct Busy;

/// Commands on their way to one lane.
#[derive(Debug)]
pub(crate) struct Mailbox {
    inbox: Mutex<Inbox>,
    bell: EventFd,
}

/// What a lane finds in its box.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    /// The tables to use from now on, if they changed.
    pub(crate) tables: Option<Arc<Tables>>,
    /// The commands, in order.
    pub(crate) commands: VecDeque<Command>,
}

impl Mailbox {
    /// Makes an empty box.
    pub(crate) fn new() -> std::io::Result<Self> {
        let bell = EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?;

        Ok(Self { inbox: Mutex::default(), bell })
    }

    /// Puts in tables; the ones not yet taken are forgotten.
    pub(crate) fn publish(&self, tables: Arc<Tables>) {
        self.with_inbox(|inbox| inbox.tables = Some(tables));
        self.ring();
    }

    /// Puts in a command.
    pub(crate) fn put(&self, command: Command) -> Result<(), Busy> {
        self.with_inbox(|inbox| match inbox.commands.len() {
            MAX_COMMANDS.. => Err(Busy),
            _ => {
                inbox.commands.push_back(command);
                Ok(())
            }
        })?;
        self.ring();

        Ok(())
    }

    /// Takes everything out.
    pub(crate) fn take(&self) -> Inbox {
        // The bell first: what is put in after this rings again.
        let _ = self.bell.read();

        self.with_inbox(std::mem::take)
    }

    fn with_inbox<T>(&self, change: impl FnOnce(&mut Inbox) -> T) -> T {
        // Nothing that could panic runs under the lock.
        change(&mut self.inbox.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn ring(&self) {
        // Fails only when the bell has been rung 2^64 times and not heard: it is then ringing.
        let _ = self.bell.write(1);
    }
}

impl AsFd for Mailbox {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
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

        let accepted = (0..=MAX_COMMANDS).take_while(|_| mailbox.put(Command::WakePeers).is_ok()).count();

        assert_eq!(accepted, MAX_COMMANDS);
        assert_eq!(mailbox.take().commands.len(), MAX_COMMANDS);
    }
}
