use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use overlay_core::ipam::Pool;
use overlay_core::{Endpoint, EndpointId, Member, NetworkId, NodeId, PublicKey, Revision, Role};
use proptest::prelude::*;

use super::super::history::HistoryKey;
use super::super::testing::*;
use super::super::tests::create_for;
use super::super::{Digest, EnrollmentError, Operation, RegistryError, Revoked, apply};
use super::*;

const NET: NetworkId = NetworkId::FIRST;

fn node(n: u64) -> NodeId {
    NodeId::from_random(n + 1)
}

/// A network of 16 blocks, and four nodes, the first an admin.
fn cluster() -> ClusterState {
    let mut state = with_tokens();
    state.commit([Record::History(history())]);
    for n in 0..4u8 {
        let token = if n == 0 { 1 } else { 2 };
        ask(&mut state, Actor::Operator, join_with(token, n, &format!("node{n}"))).expect("joined");
    }
    let Operation::CreateNetwork(create) = create_for("net", Some("10.9.0.0/24"), "") else {
        panic!("it is what the name says");
    };
    let create = super::super::CreateNetwork { candidate: NET, ..create };
    ask(&mut state, Actor::Operator, Operation::CreateNetwork(create)).expect("there is room");

    state
}

fn begin_anew(state: &mut ClusterState) {
    let next = HistoryKey { lineage: [8; 16].into(), ..history() };
    let begin = BeginAnew { history: next, cause: FenceCause::Restored, wait: 60 };
    ask(state, Actor::Operator, Operation::BeginAnew(begin)).expect("an operator may");
}

fn enter(n: u64) -> Operation {
    let key = PublicKey::from([u8::try_from(n).expect("few") + 1; 32]);

    Operation::EnterNetwork { network: NET, lane_keys: vec![key], blocks: 1 }
}

fn endpoint(n: u64, id: EndpointId, address: Ipv4Addr) -> Endpoint {
    endpoint_at(NET, node(n), id, address)
}

/// What a host knows and runs, whatever control says.
#[derive(Debug, Clone, Default)]
struct Host {
    /// Its membership, as it heard of it last.
    member: Option<Member>,
    lineage: Option<Lineage>,
    revision: Revision,
    runs: BTreeMap<EndpointId, Ipv4Addr>,
    /// Whether it may ask control: not between a restore and its report.
    is_in_sync: bool,
}

struct World {
    state: ClusterState,
    hosts: Vec<Host>,
    next: u64,
}

impl World {
    fn new() -> Self {
        let mut world = Self { state: cluster(), hosts: vec![Host::default(); 4], next: 0 };
        (0..4).for_each(|n| world.sync(n));

        world
    }

    fn host(&mut self, n: u64) -> &mut Host {
        &mut self.hosts[usize::try_from(n).expect("few")]
    }

    fn ask(&mut self, n: u64, operation: Operation) -> bool {
        let done = ask(&mut self.state, Actor::Node(node(n)), operation).is_ok();
        if done {
            self.sync(n);
        }

        done
    }

    fn sync(&mut self, n: u64) {
        let member = self.state.view().member(NET, node(n)).cloned();
        let lineage = self.state.history().map(|history| history.lineage);
        let revision = self.state.view().revision;
        let host = self.host(n);
        (host.member, host.lineage, host.revision) = (member, lineage, revision);
        host.is_in_sync = true;
    }

    /// Starts something with an address of the host's own blocks, which needs nobody.
    fn start(&mut self, n: u64) {
        let network = self.state.view().networks[&NET].clone();
        let host = self.host(n).clone();
        let Some(member) = &host.member else { return };
        let used = host.runs.values().copied().collect();
        let Ok(address) = Pool::new(&network, member).allocate(&used, None) else { return };
        self.next += 1;
        let id = EndpointId::from_random(self.next);
        self.host(n).runs.insert(id, address);
        self.publish(n);
    }

    fn publish(&mut self, n: u64) {
        let host = self.host(n).clone();
        if !host.is_in_sync {
            return;
        }
        let gone = self.state.endpoints_of(node(n), None);
        let gone: Vec<_> = gone.filter(|(_, id)| !host.runs.contains_key(id)).collect();
        let remove = Operation::RemoveEndpoints(gone);
        ask(&mut self.state, Actor::Node(node(n)), remove).expect("they are its own");
        for (id, address) in host.runs {
            let _ = ask(
                &mut self.state,
                Actor::Node(node(n)),
                Operation::PutEndpoints(vec![endpoint(n, id, address)]),
            );
        }
        self.sync(n);
    }

    fn stop(&mut self, n: u64) {
        let Some((id, _)) = self.host(n).runs.pop_first() else { return };
        if self.host(n).is_in_sync {
            self.ask(n, Operation::RemoveEndpoints(vec![(NET, id)]));
        }
    }

    /// Takes a fixed address, which only control gives.
    fn claim(&mut self, n: u64, last: u8) {
        self.next += 1;
        let (id, address) = (EndpointId::from_random(self.next), Ipv4Addr::new(10, 9, 0, last));
        if self.ask(n, Operation::PutEndpoints(vec![endpoint(n, id, address)])) {
            self.host(n).runs.insert(id, address);
        }
    }

    fn report(&mut self, n: u64) {
        let host = self.host(n).clone();
        let report = NodeReport {
            lineage: host.lineage,
            revision: host.revision,
            members: host.member.into_iter().collect(),
            endpoints: host
                .runs
                .iter()
                .map(|(id, address)| ((NET, *id), vec![IpAddr::V4(*address)]))
                .collect(),
        };
        ask(&mut self.state, Actor::Node(node(n)), Operation::Report(report)).expect("taken");
        self.sync(n);
        self.publish(n);
    }

    fn act(&mut self, (kind, n, last): (u8, u64, u8)) {
        let in_sync = self.host(n).is_in_sync;
        match kind {
            0 | 1 => self.start(n),
            2 => self.stop(n),
            _ if !in_sync => self.report(n),
            3 | 4 => drop(self.ask(n, enter(n))),
            5 if self.host(n).runs.is_empty() => drop(self.ask(n, Operation::ExitNetwork(NET))),
            6 => self.claim(n, last),
            _ => self.publish(n),
        }
        self.check();
    }

    fn check(&self) {
        let mut seen = BTreeSet::new();
        for (n, host) in self.hosts.iter().enumerate() {
            for address in host.runs.values() {
                assert!(
                    seen.insert(address),
                    "{address} runs twice, on node{n}: {:#?}",
                    self.hosts
                );
            }
        }
        check_invariants(&self.state);
    }
}

fn action() -> impl Strategy<Value = (u8, u64, u8)> {
    (0..8u8, 0..4u64, 1..255u8)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Invariant 6, across a restore: whatever was changed after the backup, and in whichever order
    /// nodes come back, start and stop, no address runs twice.
    #[test]
    fn no_address_is_given_twice_after_a_restore(
        before in prop::collection::vec(action(), 0..30),
        lost in prop::collection::vec(action(), 0..30),
        after in prop::collection::vec(action(), 0..60),
    ) {
        let mut world = World::new();
        before.into_iter().for_each(|action| world.act(action));
        let backup = world.state.clone();
        lost.into_iter().for_each(|action| world.act(action));

        world.state = backup;
        begin_anew(&mut world.state);
        world.hosts.iter_mut().for_each(|host| host.is_in_sync = false);
        after.into_iter().for_each(|action| world.act(action));

        for n in 0..4 {
            if !world.host(n).is_in_sync {
                world.report(n);
            }
            world.check();
        }
        prop_assert!(world.state.fence().is_none() && world.state.awaited().is_empty());
        // Whoever has been told no keeps asking, and everybody is known in the end.
        for n in (0..4).chain(0..4) {
            world.ask(n, enter(n));
            world.publish(n);
        }
        world.check();
        let known: usize = world.hosts.iter().map(|host| host.runs.len()).sum();
        prop_assert_eq!(world.state.view().endpoints.len(), known);
    }
}

#[test]
fn nothing_is_given_before_every_node_has_reported_or_is_given_up() {
    let mut world = World::new();
    begin_anew(&mut world.state);
    world.hosts.iter_mut().for_each(|host| host.is_in_sync = false);
    world.report(0);

    let refused = ask(&mut world.state, Actor::Node(node(0)), enter(0)).expect_err("it waits");
    let claim = Operation::PutEndpoints(vec![endpoint(0, EndpointId::FIRST, [10, 9, 0, 9].into())]);
    let later = apply(&world.state, Actor::Node(node(0)), enter(0), NOW + 60);

    assert!(refused.message.contains("it waits for node1, node2, node3, or until"), "{refused:?}");
    assert!(later.is_ok(), "{later:?}");
    assert!(ask(&mut world.state, Actor::Node(node(0)), claim).is_err());
    for n in 1..3 {
        world.report(n);
    }
    ask(&mut world.state, Actor::Operator, Operation::RemoveNode("node3".into())).expect("removed");
    ask(&mut world.state, Actor::Node(node(0)), enter(0)).expect("nobody is waited for any more");
    assert!(world.state.fence().is_none());
}

#[test]
fn a_token_of_the_backup_admits_nobody_and_a_new_one_does() {
    let mut state = cluster();
    begin_anew(&mut state);

    let refused = ask(&mut state, Actor::Operator, join_with(2, 9, "node9")).expect_err("fenced");
    token(&mut state, 7, 1, Role::Node);

    assert!(refused.message.starts_with("the join token is not valid"), "{refused:?}");
    assert!(state.tokens().values().filter(|token| token.fenced).count() == 4);
    ask(&mut state, Actor::Operator, join_with(7, 9, "node9")).expect("a token of this history");
}

#[test]
fn what_the_old_state_knew_to_be_removed_is_removed_again_and_nodes_have_no_say() {
    let mut state = cluster();
    ask(&mut state, Actor::Node(node(2)), enter(2)).expect("entered");
    begin_anew(&mut state);
    let name = "node2".parse().expect("a name");
    let told = || {
        Operation::MergeRemoved(vec![Revoked {
            node: node(2),
            name,
            at: NOW,
            evicted: false,
            by: None,
            key: None,
        }])
    };

    let refused = ask(&mut state, Actor::Node(node(0)), told.clone()()).expect_err("a node");
    ask(&mut state, Actor::Operator, told()).expect("whoever restores");

    assert_eq!(refused.code, overlay_proto::Code::NotAllowed);
    assert!(!state.awaited().contains(&node(2)));
    let gone = state.node(node(2)).expect_err("it stays removed");
    assert!(matches!(gone, RegistryError::Enrollment(EnrollmentError::Removed { .. })), "{gone:?}");
    check_invariants(&state);
}

#[test]
fn only_an_operator_begins_a_history() {
    let mut state = cluster();
    let begin = BeginAnew { history: history(), cause: FenceCause::Copied, wait: 1 };

    let refused = ask(&mut state, Actor::Node(node(0)), Operation::BeginAnew(begin));

    assert_eq!(refused.expect_err("it is a node").code, overlay_proto::Code::NotAllowed);
    assert!(state.fence().is_none());
    assert_eq!(Digest::of(b"secret"), history().secret);
}

#[test]
fn what_is_held_for_an_address_ends_with_its_publication() {
    let mut world = World::new();
    world.ask(1, enter(1));
    let backup = world.state.clone();
    world.claim(1, 9);
    let (id, address) = world.host(1).runs.first_key_value().map(|(i, a)| (*i, *a)).expect("given");
    world.state = backup;
    begin_anew(&mut world.state);
    world.hosts.iter_mut().for_each(|host| host.is_in_sync = false);
    let report = NodeReport {
        lineage: world.host(1).lineage,
        revision: world.host(1).revision,
        members: world.host(1).member.clone().into_iter().collect(),
        endpoints: [((NET, id), vec![IpAddr::V4(address)])].into(),
    };

    ask(&mut world.state, Actor::Node(node(1)), Operation::Report(report)).expect("taken");
    assert_eq!(world.state.held_by(node(1)).count(), 1);
    world.sync(1);
    world.publish(1);

    assert_eq!(world.state.held_by(node(1)).count(), 0);
    assert_eq!(world.state.view().endpoints.len(), 1);
}
