//! The port id by which the kernel knows a connection, and by which an event says whose it is.

use std::sync::atomic::{AtomicU32, Ordering};

/// The port id of the connection that one owner has to a namespace, for whoever hears events there.
///
/// It is unique among the sockets of that namespace, and only a request from there changes routes
/// there: an event about a route with this id is of a change that the owner asked for. What the
/// kernel does by itself carries 0.
#[derive(Debug, Default)]
pub struct OwnPort(AtomicU32);

impl OwnPort {
    /// Takes note of a new connection. Its id may have been another socket's until now, so whoever
    /// relies on events reads everything back after this.
    pub(crate) fn set(&self, port: u32) {
        self.0.store(port, Ordering::Release);
    }

    /// Tells whether a port id is the owner's.
    pub(super) fn is(&self, port: u32) -> bool {
        port != 0 && self.0.load(Ordering::Acquire) == port
    }
}
