//! Which of Docker's endpoints a person may detach by hand.

use overlay_core::{Name, View};
use overlay_proto::Code;

use crate::endpoint::sandbox;
use crate::state::EndpointRecord;

/// Characters of a container's id that Docker takes for the whole.
const SHORT_ID: usize = 12;

/// An endpoint is of a running container of Docker's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{name} on {network} is of a running container of Docker's, which would have it back at once; \
     use `docker network disconnect {network} {container}`"
)]
pub(crate) struct HeldByContainer {
    /// The endpoint.
    name: Name,
    /// What people call its network.
    network: String,
    /// The container, as short as Docker takes it.
    container: String,
}

impl HeldByContainer {
    /// Returns the stable code.
    pub(crate) fn code(&self) -> Code {
        Code::InUse
    }
}

/// A running container of Docker's would get its endpoint back: Docker goes on saying that it has
/// it.
pub(crate) fn try_detachable(view: &View, record: &EndpointRecord) -> Result<(), HeldByContainer> {
    let Some(docker) =
        record.sandbox.managed().filter(|docker| !sandbox::is_of_earlier_boot(docker))
    else {
        return Ok(());
    };
    // Docker removes the namespace's file with the container's end.
    let runs = docker.joined && docker.netns.as_ref().is_some_and(|netns| netns.exists());
    let Some(container) = docker.container.as_ref().filter(|_| runs) else { return Ok(()) };
    let network = record.endpoint.network;
    let network = view
        .networks
        .get(&network)
        .map_or_else(|| network.to_string(), |network| network.title().to_owned());
    let container = container.chars().take(SHORT_ID).collect();

    Err(HeldByContainer { name: record.endpoint.name.clone(), network, container })
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use overlay_core::{
        Change, Endpoint, EndpointId, Network, NetworkId, NetworkMode, NetworkSettings, NodeId,
        Revision, Runtime,
    };

    use super::*;
    use crate::state::{ManagedSandbox, SandboxRecord};

    fn record(docker: ManagedSandbox) -> EndpointRecord {
        let endpoint = Endpoint {
            id: EndpointId::FIRST,
            network: NetworkId::FIRST,
            node: NodeId::FIRST,
            name: "web".parse().expect("a name"),
            aliases: BTreeSet::new(),
            addresses: Vec::new(),
            labels: BTreeMap::new(),
            runtime: Runtime::Docker,
            group: None,
            container: None,
            taken: BTreeSet::new(),
        };

        EndpointRecord {
            endpoint,
            sandbox: SandboxRecord::Managed(docker),
            ifname: "ovc0".into(),
            owner: None,
        }
    }

    #[test]
    fn what_a_running_container_of_dockers_has_is_dockers_to_take_away() {
        let dir = tempfile::tempdir().expect("a directory");
        let netns = dir.path().join("5df66f04e09f");
        std::fs::write(&netns, "").expect("a namespace's file");
        let network = Network {
            id: NetworkId::FIRST,
            name: "shop".parse().expect("a name"),
            prefix: "10.64.0.0/16".parse().expect("a prefix"),
            prefix6: None,
            mode: NetworkMode::L3,
            labels: BTreeMap::new(),
            settings: NetworkSettings::default(),
            creator: None,
        };
        let view = View::from_rows(Revision(1), [Change::Network(network)]);
        let running = ManagedSandbox {
            netns: Some(netns.clone()),
            ..crate::docker::testing::sandbox("e", Some("5df66f04e09f1234567890"))
        };
        let of_earlier_boot = ManagedSandbox { boot: "another".into(), ..running.clone() };
        let not_taken = ManagedSandbox { joined: false, ..running.clone() };

        let refused =
            try_detachable(&view, &record(running.clone())).expect_err("it runs").to_string();

        assert!(
            refused.ends_with("use `docker network disconnect shop 5df66f04e09f`"),
            "{refused}"
        );
        assert!(try_detachable(&view, &record(of_earlier_boot)).is_ok());
        assert!(try_detachable(&view, &record(not_taken)).is_ok());
        std::fs::remove_file(netns).expect("removed");
        assert!(try_detachable(&view, &record(running)).is_ok(), "it has ended");
    }
}
