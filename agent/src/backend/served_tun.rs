//! A network's TUN as it is held for the lanes. Its queues are kept for the next session of the
//! agent, which goes on with them.

use std::sync::Arc;

use overlay_core::NetworkId;

use crate::hand_over::{DescriptorStore, Kept, Share as _, SharedDescriptors};
use crate::kernel::{Offload, Tun, TunDesired};
use crate::path::{AddError, TunQueues};

/// What the names begin with under which queues are kept; the rest is the network.
pub(super) const KEPT: &str = "tun/";

/// The TUN of one network.
#[derive(Debug)]
pub(super) struct ServedTun {
    queues: Arc<SharedDescriptors>,
    offload: Offload,
    _kept: Kept,
}

impl ServedTun {
    /// Keeps a TUN that was opened.
    pub(super) fn keep(store: &DescriptorStore, network: NetworkId, tun: Tun) -> Self {
        let queues =
            Arc::new(SharedDescriptors { list: tun.queues, note: word(tun.offload).to_owned() });
        let kept = store.keep(&name(network), Arc::clone(&queues));

        Self { queues, offload: tun.offload, _kept: kept }
    }

    /// Takes the TUN that an earlier session had, if it still serves.
    pub(super) fn earlier(
        store: &DescriptorStore,
        network: NetworkId,
        desired: TunDesired,
    ) -> Option<Tun> {
        let earlier = store.take(&name(network))?;
        let offload = [Offload::None, Offload::Checksum, Offload::Tcp, Offload::TcpUdp];
        let offload = offload.into_iter().find(|offload| word(*offload) == earlier.note)?;

        Tun::adopt(earlier.list, offload, desired)
    }

    /// Returns queues for the lanes.
    ///
    /// # Errors
    ///
    /// When the process may have no more descriptors.
    pub(super) fn queues(&self) -> Result<TunQueues, AddError> {
        let shared = self.queues.share().map_err(AddError::Descriptors)?;

        Ok(TunQueues { queues: shared.list, offload: self.offload.into() })
    }
}

/// Returns the name under which a network's queues are kept.
pub(super) fn name(network: NetworkId) -> String {
    format!("{KEPT}{network}")
}

fn word(offload: Offload) -> &'static str {
    match offload {
        Offload::None => "none",
        Offload::Checksum => "checksum",
        Offload::Tcp => "tcp",
        Offload::TcpUdp => "tcp-udp",
    }
}
