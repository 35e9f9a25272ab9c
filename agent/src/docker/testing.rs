//! What tests have Docker know.

use std::collections::BTreeMap;

use overlay_core::NetworkId;

use crate::endpoint::sandbox::boot;
use crate::state::{DockerNetwork, DockerPool, IpamMode, ManagedSandbox};

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
        ipam_mode: IpamMode::Ours { pool: "p".into(), pool6: None },
    }
}

/// A pool of a prefix that no network has yet.
pub(crate) fn pool(id: &str, prefix: &str) -> DockerPool {
    DockerPool {
        id: id.into(),
        prefix: prefix.parse().expect("a prefix"),
        range: None,
        network: None,
        docker_network: None,
        since_ms: 0,
    }
}

/// Where an endpoint of Docker's lives, once Docker took its interface.
pub(crate) fn sandbox(endpoint: &str, container: Option<&str>) -> ManagedSandbox {
    ManagedSandbox {
        network: "d1".into(),
        endpoint: endpoint.into(),
        container: container.map(str::to_owned),
        netns: None,
        joined: true,
        mac: None,
        boot: boot(),
        container_ifname: None,
        on_link: false,
        inside: None,
    }
}
