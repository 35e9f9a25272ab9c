//! What this node has of control: who it is there, the connection, and where control may be found.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use overlay_core::NodeId;
use tokio::sync::{broadcast, watch};

use super::address_book::AddressBook;
use super::candidates::{self, ControlCandidate};
use super::connection::ControlConnection;
use super::contact::Contact;
use crate::hand_over::DescriptorStore;
use crate::state::Identity;

/// What a joined node needs from its process.
#[derive(Debug, Clone)]
pub(crate) struct ProcessContext {
    /// A random id that distinguishes this process from others with the same certificate.
    pub(crate) instance: Arc<str>,
    /// What outlives a session while the agent is handed over.
    pub(crate) descriptors: DescriptorStore,
    /// The address from which each peer was last heard, authenticated.
    pub(crate) tunnels: watch::Receiver<BTreeMap<NodeId, IpAddr>>,
    /// What peers tell, as they wrote it.
    pub(crate) notices: broadcast::Sender<Arc<[u8]>>,
}

/// Everything by which this node speaks with control.
#[derive(Debug)]
pub(crate) struct ControlLink {
    /// The connection.
    pub(crate) connection: ControlConnection,
    /// The addresses at which control may be reached.
    pub(crate) addresses: AddressBook,
    /// When control was last heard.
    pub(crate) contact: Contact,
    /// What tells this process from others.
    pub(crate) process: ProcessContext,
    identity: watch::Sender<Arc<Identity>>,
}

impl ControlLink {
    /// Begins without a connection.
    pub(crate) fn new(
        identity: Identity,
        addresses: AddressBook,
        contact: Contact,
        process: ProcessContext,
    ) -> Self {
        let identity = watch::Sender::new(Arc::new(identity));

        let connection = ControlConnection::new(&process.instance);

        Self { connection, addresses, contact, process, identity }
    }

    /// Returns the node's identity.
    pub(crate) fn identity(&self) -> Arc<Identity> {
        Arc::clone(&self.identity.borrow())
    }

    /// Replaces the certificate.
    pub(crate) fn set_identity(&self, identity: Identity) {
        self.identity.send_replace(Arc::new(identity));
    }

    /// Lists the addresses at which control may be reached, the likeliest first.
    pub(crate) fn candidates(&self) -> Vec<ControlCandidate> {
        let (known, who) = (self.addresses.known(), self.identity());

        candidates::candidates(&known, who.node, &who.control, &self.process.tunnels.borrow())
    }
}
