//! What a lane serves of one network.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use super::tun::TunQueue;

/// One lane's queue of a network's TUN device.
#[derive(Debug)]
pub(crate) struct Queue {
    /// The queue.
    pub(crate) tun: TunQueue,
    /// Addresses of the host itself in this network, if it is attached.
    pub(crate) host: Arc<BTreeSet<IpAddr>>,
}
