//! Attaches whose callers stop waiting.

use std::collections::BTreeMap;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::path::Path;

use overlay_core::{
    Block, Change, ClusterId, Member, NetworkId, NetworkMode, NetworkSettings, NodeId, Revision,
    Role,
};
use zeroize::Zeroizing;

use super::*;
use crate::backend::Backend as _;
use crate::backend::fake::FakeBackend;
use crate::hand_over::DescriptorStore;
use crate::joined_node::JoinedNode;
use crate::membership::Membership;
use crate::membership::control_link::ProcessContext;
use crate::reconcile::{EndpointState, NetworkReport};
use crate::state::keyring::public_keys;
use crate::state::{Identity, StateStore};

/// How long what happens at once may take on a busy host.
const SOON: Duration = Duration::from_secs(10);

/// A member of a network whose kernel does nothing unless a test says so.
async fn member(dir: &Path) -> Arc<Endpoints> {
    let (store, loaded) = StateStore::open(&dir.join("agent.redb")).expect("a state");
    let backend = Arc::new(FakeBackend::default());
    let identity = Identity {
        cluster: ClusterId::FIRST,
        node: NodeId::FIRST,
        name: "a".parse().expect("a name"),
        role: Role::Node,
        control: Vec::new(),
        advertise: Vec::new(),
        pool: "10.64.0.0/10".parse().expect("a prefix"),
        certificate: Vec::new(),
        ca: Vec::new(),
        key: Zeroizing::default(),
    };
    let process = ProcessContext {
        instance: "i".into(),
        descriptors: DescriptorStore::default(),
        tunnels: backend.heard_at(),
        notices: tokio::sync::broadcast::channel(1).0,
    };
    let joined = JoinedNode::new(
        identity,
        loaded,
        store,
        Arc::default(),
        backend.data_path(1),
        dir.to_owned(),
        process,
    );
    let endpoints = Arc::clone(&joined.endpoints);
    let memberships = &endpoints.memberships;
    let keys =
        memberships.keyring.obtain(NetworkId::FIRST, &memberships.store).await.expect("keys");
    let block = Block { prefix: "10.64.0.0/24".parse().expect("a prefix"), epoch: 1 };
    let member = Member {
        network: NetworkId::FIRST,
        node: NodeId::FIRST,
        lane_keys: public_keys(&keys),
        blocks: vec![block],
    };
    let view = View::from_rows(Revision(1), [Change::Network(shop()), Change::Member(member)]);
    memberships.membership.send_replace(Membership { live: true, ..Membership::kept(view) });

    endpoints
}

fn shop() -> Network {
    Network {
        id: NetworkId::FIRST,
        name: "shop".parse().expect("a name"),
        prefix: "10.64.0.0/16".parse().expect("a prefix"),
        prefix6: None,
        mode: NetworkMode::L3,
        labels: BTreeMap::new(),
        settings: NetworkSettings::default(),
        creator: None,
    }
}

fn wanted(netns: &Netns) -> AttachSpec {
    let request = v1::AttachRequest {
        network: "shop".into(),
        name: "web".into(),
        runtime: v1::Runtime::Attach.into(),
        netns: format!("/proc/self/fd/{}", netns.as_fd().as_raw_fd()),
        ..v1::AttachRequest::default()
    };

    AttachSpec::try_from(request).expect("sound")
}

/// Waits until the journal has an endpoint that `is_it`; returns its id.
async fn journalled(endpoints: &Endpoints, is_it: impl Fn(EndpointId) -> bool) -> EndpointId {
    let mut journal = endpoints.journal.subscribe();
    let found = journal.wait_for(|entries| entries.keys().any(|id| is_it(*id)));
    let entries = timeout(SOON, found).await.expect("in time").expect("a journal");

    entries.keys().copied().find(|id| is_it(*id)).expect("found above")
}

#[tokio::test]
async fn an_attach_that_nobody_waits_for_any_more_is_taken_back() {
    let dir = tempfile::tempdir().expect("a directory");
    let (endpoints, netns) =
        (member(dir.path()).await, Netns::unnamed("sandbox").expect("a namespace"));
    let asked = tokio::spawn(attach(Arc::clone(&endpoints), wanted(&netns)));
    journalled(&endpoints, |_| true).await;

    asked.abort();

    let mut journal = endpoints.journal.subscribe();
    let emptied = timeout(SOON, journal.wait_for(|entries| entries.is_empty())).await;
    assert!(emptied.is_ok(), "the endpoint stays");
}

#[tokio::test]
async fn an_equal_request_does_not_go_with_the_one_that_is_given_up() {
    let dir = tempfile::tempdir().expect("a directory");
    let (endpoints, netns) =
        (member(dir.path()).await, Netns::unnamed("sandbox").expect("a namespace"));
    let first = tokio::spawn(attach(Arc::clone(&endpoints), wanted(&netns)));
    let given_up = journalled(&endpoints, |_| true).await;
    let second = tokio::spawn(attach(Arc::clone(&endpoints), wanted(&netns)));

    first.abort();
    let id = journalled(&endpoints, |id| id != given_up).await;
    let report = NetworkReport {
        endpoints: [(id, EndpointState::Ready)].into(),
        ..NetworkReport::default()
    };
    endpoints.reports.send_modify(|reports| drop(reports.insert(NetworkId::FIRST, report)));

    let answer =
        timeout(SOON, second).await.expect("in time").expect("no panic").expect("attached");
    assert_eq!(answer.endpoint.map(|endpoint| endpoint.id), Some(id.to_string()));
}
