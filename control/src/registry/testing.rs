//! A cluster to try commands on, and the invariants that must hold after any of them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use overlay_core::policy::FilterMode;
use overlay_core::{Endpoint, EndpointId, NetworkId, Role, Runtime, claims};
use overlay_proto::Refusal;

use super::*;

/// The current time in tests, in seconds since 1970.
pub(crate) const NOW: u64 = 1_800_000_000;

/// Returns the settings of an empty cluster.
pub(crate) fn settings() -> Settings {
    Settings {
        cluster: overlay_core::ClusterId::from_random(1),
        pool: "10.64.0.0/10".parse().expect("a prefix"),
        listen: "127.0.0.1:1".parse().expect("an address"),
        advertise: Vec::new(),
    }
}

/// Returns a history.
pub(crate) fn history() -> HistoryKey {
    HistoryKey { lineage: [7; 16].into(), secret: Digest::of(b"secret") }
}

/// Returns an endpoint that is named by its id.
pub(crate) fn endpoint_at(
    network: NetworkId,
    node: NodeId,
    id: EndpointId,
    address: impl Into<IpAddr>,
) -> Endpoint {
    Endpoint {
        id,
        network,
        node,
        name: format!("e{id}").parse().expect("a name"),
        aliases: BTreeSet::new(),
        addresses: vec![address.into()],
        labels: BTreeMap::new(),
        runtime: Runtime::Run,
        group: None,
        container: None,
        taken: BTreeSet::new(),
    }
}

/// Applies a command the way the writer does, and refuses it the way the service does.
pub(crate) fn ask(
    state: &mut ClusterState,
    actor: Actor,
    command: Operation,
) -> Result<Reply, Refusal> {
    let (outcome, records) = apply(state, actor, command, NOW)?;
    if !records.is_empty() {
        state.commit(records);
    }

    Ok(outcome)
}

/// Creates a token with a predictable secret.
pub(crate) fn token(state: &mut ClusterState, id: u8, uses: u32, role: Role) {
    labelled_token(state, id, uses, role, &[]);
}

/// Creates a token whose nodes get labels.
pub(crate) fn labelled_token(
    state: &mut ClusterState,
    id: u8,
    uses: u32,
    role: Role,
    labels: &[(&str, &str)],
) {
    let labels = labels.iter().map(|&(key, value)| (key.to_owned(), value.to_owned()));
    let create = CreateToken {
        id: format!("{id:016x}"),
        digest: Digest::of(&[id]),
        ttl: 0,
        uses,
        role,
        labels: labels.collect(),
    };
    ask(state, Actor::Operator, Operation::CreateToken(create)).expect("there is room");
}

/// Returns a request to join with such a token.
pub(crate) fn join_with(token: u8, key: u8, name: &str) -> Operation {
    Operation::Join(Join {
        token: format!("{token:016x}"),
        secret: Digest::of(&[token]),
        key: Digest::of(&[key, 0]),
        name: name.parse().expect("a name"),
        candidate: NodeId::from_random(u64::from(key) + 1),
    })
}

/// Returns the operation that applies a policy, tried against a cluster without endpoints.
pub(crate) fn policy(document: &str, mode: FilterMode, expected: Option<u64>) -> Operation {
    let policy = ExaminedPolicy::new(document.to_owned(), &PolicySubjects::default());

    Operation::ApplyPolicy(ApplyPolicy {
        policy: policy.expect("a policy"),
        mode,
        expected,
        is_strict: false,
    })
}

/// Makes a cluster with tokens 1 (for admins at site a), 2 (at site b), 3 (at site c) and 4 (for
/// workers at site b), three uses each.
pub(crate) fn with_tokens() -> ClusterState {
    let mut state = ClusterState::new(settings());
    let tokens = [(Role::Admin, "a"), (Role::Node, "b"), (Role::Node, "c"), (Role::Worker, "b")];
    for (id, (role, site)) in (1..).zip(tokens) {
        labelled_token(&mut state, id, 3, role, &[("site", site)]);
    }

    state
}

/// Checks that no address, block or key has two holders, and that nobody is where they may not be.
pub(crate) fn check_invariants(state: &ClusterState) {
    assert_eq!(state.contradiction(), None);
    let kept: usize = state.policies().values().map(|policy| policy.document.len()).sum();
    assert!(state.policies().len() <= limits::MAX_POLICIES && kept <= limits::MAX_POLICY_BYTES);
    for network in state.view().networks.values() {
        let blocks: Vec<_> = state
            .view()
            .members_of(network.id)
            .flat_map(|m| m.blocks.iter().map(move |b| (m.node, b.prefix)))
            .collect();
        for (i, (_, one)) in blocks.iter().enumerate() {
            assert!(network.prefix.contains(one));
            let overlap =
                blocks[i + 1..].iter().any(|(_, other)| one.contains(other) || other.contains(one));
            assert!(!overlap, "{blocks:?}");
        }
        let mut live = BTreeSet::new();
        for endpoint in state.view().endpoints_of(network.id) {
            let address = match endpoint.addresses.first().copied() {
                Some(IpAddr::V4(address)) => address,
                None if endpoint.is_stopped() => continue,
                Some(IpAddr::V6(_)) | None => panic!("{endpoint:?}"),
            };
            assert!(live.insert(address), "{address} is live twice");
            let holder = blocks.iter().find(|(_, block)| block.contains(&address));
            assert!(
                holder.is_none_or(|(node, _)| *node == endpoint.node),
                "{address} is in a foreign block"
            );
            let kept = [network.prefix.network(), network.gateway(), network.prefix.broadcast()];
            assert!(!kept.contains(&address) && network.prefix.contains(&address), "{address}");
            let member = state.view().member(network.id, endpoint.node).expect("checked above");
            assert_ne!(member.node_address(network), Some(address));
        }
        check_names(state, network.id);
    }
}

/// Checks that names belong to whom they may: those that are not taken from an endpoint, together.
fn check_names(state: &ClusterState, network: NetworkId) {
    let names: BTreeSet<_> =
        state.view().endpoints_of(network).flat_map(|endpoint| endpoint.claims()).collect();
    for name in names {
        let claims = |endpoint: &&Endpoint| endpoint.claims().contains(&name);
        let claimants: Vec<_> = state.view().endpoints_of(network).filter(claims).collect();
        let holding = claimants.iter().filter(|endpoint| !endpoint.taken.contains(&name)).copied();
        let held: Vec<&Endpoint> = holding.collect();
        assert!(!held.is_empty(), "{name} belongs to nobody");
        let holders = claims::holders(&name, held.iter().copied());
        assert_eq!(holders.len(), held.len(), "{name} belongs to several: {held:?}");
        for waiting in claimants.iter().filter(|endpoint| endpoint.taken.contains(&name)) {
            let with = claims::holders(&name, held.iter().copied().chain([*waiting]));
            assert!(!with.contains(&waiting.id), "{name} is kept from {waiting:?}");
        }
    }
    for endpoint in state.view().endpoints_of(network) {
        assert!(endpoint.taken.is_subset(&endpoint.claims()), "{endpoint:?}");
    }
}
