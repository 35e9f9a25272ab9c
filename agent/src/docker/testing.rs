//! What tests have Docker know.

use std::collections::BTreeMap;

use overlay_core::NetworkId;

use crate::state::{DockerNetwork, Numbering};

/// A network of Docker's with addresses of ours, and what it stands for.
pub(super) fn network(docker: &str, prefix: &str, network: Option<NetworkId>) -> DockerNetwork {
    DockerNetwork {
        id: docker.into(),
        network,
        prefix: prefix.parse().expect("a prefix"),
        gateway: [10, 1, 0, 1].into(),
        prefix6: None,
        gateway6: None,
        reserved: BTreeMap::new(),
        internal: false,
        options: BTreeMap::new(),
        numbering: Numbering::Ours { pool: "p".into(), pool6: None },
    }
}
