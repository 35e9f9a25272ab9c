//! Each case of an endpoint's life, and what is known of it.

use overlay_core::{Endpoint, NetworkId, NodeId, Runtime};

use super::super::testing::{self, sandbox as docker};
use super::*;
use crate::state::{DockerPool, SandboxRecord};

/// Nothing is known but that the endpoint is in the journal.
const NOTHING: Facts = Facts {
    is_of_earlier_boot: false,
    is_listed: false,
    is_container_removed: false,
    in_network: None,
    all_rested: false,
};

#[test]
fn what_the_engine_says_decides_and_no_time_does() {
    let network = |in_network| Facts { in_network, ..NOTHING };
    let rested = |in_network| Facts { all_rested: true, in_network, ..NOTHING };
    for (case, facts, lives) in [
        ("it runs", Facts { is_listed: true, ..NOTHING }, Some(true)),
        ("it takes minutes to start", network(Some(true)), Some(true)),
        ("Docker has not read our answer yet", network(Some(false)), None),
        ("the engine stands still", NOTHING, None),
        ("the engine is away, its containers run on", NOTHING, None),
        ("a start is under way while the network is asked", rested(None), None),
        ("it is stopped, and Docker is about to say so", rested(Some(true)), Some(true)),
        ("the engine was killed before it joined", rested(Some(false)), Some(false)),
        ("it ended while the plugin was away", rested(Some(false)), Some(false)),
        (
            "its container was removed while the plugin was away",
            Facts { is_container_removed: true, ..NOTHING },
            Some(false),
        ),
        (
            "the engine keeps the endpoint of a container that it removed",
            Facts { is_container_removed: true, in_network: Some(true), ..NOTHING },
            Some(false),
        ),
        (
            "the host was started anew, and the engine's list is stale",
            Facts { is_of_earlier_boot: true, is_listed: true, ..NOTHING },
            Some(false),
        ),
    ] {
        let found = match judge(facts) {
            Liveness::Lives => Some(true),
            Liveness::Undecided => None,
            Liveness::Gone(_) => Some(false),
        };
        assert_eq!(found, lives, "{case}");
    }
}

fn container(id: &str, is_running: bool, endpoints: &[&str]) -> ListedContainer {
    let endpoints = endpoints.iter().map(|&endpoint| (endpoint.to_owned(), "d1".to_owned()));

    ListedContainer {
        id: id.into(),
        name: id.into(),
        is_running,
        endpoints: endpoints.collect(),
        networks: BTreeMap::new(),
    }
}

#[test]
fn only_a_running_container_vouches_for_its_endpoint() {
    let listed = [container("runs", true, &["e1"]), container("ended", false, &["e2"])];
    let facts =
        |endpoint: &str, container: &str| facts(&docker(endpoint, Some(container)), &listed);

    assert!(facts("e1", "runs").is_listed);
    assert!(
        !facts("e2", "ended").is_listed,
        "an engine that was killed leaves the endpoint in the list"
    );
    assert!(!facts("e2", "ended").is_container_removed);
    assert!(facts("e3", "removed").is_container_removed);
}

#[test]
fn an_endpoint_without_a_container_yet_is_not_taken_for_one_that_lost_it() {
    assert!(!facts(&docker("e1", None), &[]).is_container_removed);
}

#[test]
fn an_endpoint_of_an_earlier_boot_is_told_and_an_older_agent_s_is_not() {
    let of = |boot: &str| {
        facts(&ManagedSandbox { boot: boot.into(), ..docker("e1", None) }, &[]).is_of_earlier_boot
    };

    assert!(of("another"));
    assert!(!of(""), "older agents did not write it");
    assert!(!of(&sandbox::boot()));
}

#[test]
fn an_address_is_unused_when_no_endpoint_has_it() {
    let record = EndpointRecord {
        endpoint: Endpoint {
            id: EndpointId::FIRST,
            network: NetworkId::FIRST,
            node: NodeId::FIRST,
            name: "e1".parse().expect("a name"),
            aliases: BTreeSet::new(),
            addresses: vec![[10, 1, 0, 2].into()],
            labels: BTreeMap::new(),
            runtime: Runtime::Docker,
            group: None,
            container: None,
            taken: BTreeSet::new(),
        },
        sandbox: SandboxRecord::Managed(docker("e1", None)),
        ifname: "ovc000000000001".into(),
        owner: None,
    };
    let entries: Entries = std::sync::Arc::new([(EndpointId::FIRST, record)].into());
    let pool = DockerPool {
        network: Some(NetworkId::FIRST),
        docker_network: Some("d1".into()),
        ..testing::pool("p", "10.1.0.0/16")
    };
    let lease = |last: u8, is_endpoint| {
        let address = [10, 1, 0, last].into();
        (
            ("p".to_owned(), address),
            DockerLease { pool: "p".into(), address, is_endpoint, since: 0 },
        )
    };
    let leases = [lease(1, false), lease(2, true), lease(3, true)];
    let plugin_state = PluginState {
        pools: [("p".into(), pool)].into(),
        leases: leases.into(),
        ..PluginState::default()
    };

    let found: Vec<_> = unused(&plugin_state, &entries)
        .into_iter()
        .map(|lease| lease.address.to_string())
        .collect();

    assert_eq!(found, ["10.1.0.3"], "the gateway is never an endpoint's, and .2 is in use");
}
