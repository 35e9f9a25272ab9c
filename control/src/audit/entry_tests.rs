use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use overlay_core::policy::FilterMode;
use overlay_core::{
    Endpoint, EndpointId, LinkAccess, NetworkId, NetworkMode, NetworkSettings, Revocation, Role,
    Runtime,
};
use overlay_daemon::log::Log;
use overlay_proto::audit::{AuditRow, Verifier};
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::conditions::Conditions;
use crate::registry::random_tests::command;
use crate::registry::testing::{NOW, join_with, policy, settings, with_tokens};
use crate::registry::{
    Announce, BeginAnew, CreateNetwork, CreateToken, Digest, FenceCause, HistoryKey, NodeReport,
    Revoked, apply,
};
use crate::store::embedded::Embedded;
use crate::store::{AuditQuery, AuditWrites, Commit, Store as _};
use crate::watch::Hub;
use crate::writer::Writer;

const A: u64 = 2;
const B: u64 = 3;
const C: u64 = 4;

fn node(n: u64) -> Actor {
    Actor::Node(NodeId::from_random(n))
}

fn network() -> NetworkId {
    NetworkId::from_random(7)
}

fn endpoint() -> Endpoint {
    Endpoint {
        id: EndpointId::from_random(1),
        network: network(),
        node: NodeId::from_random(B),
        name: "web".parse().expect("a name"),
        aliases: std::collections::BTreeSet::new(),
        addresses: vec![[10, 64, 255, 9].into()],
        labels: BTreeMap::new(),
        runtime: Runtime::Run,
        group: None,
        container: None,
        taken: std::collections::BTreeSet::new(),
    }
}

fn create(name: &str, prefix: Option<&str>, candidate: NetworkId) -> Operation {
    Operation::CreateNetwork(CreateNetwork {
        name: name.parse().expect("a name"),
        prefix: prefix.map(|prefix| prefix.parse().expect("a prefix")),
        prefix6: None,
        mode: NetworkMode::L3,
        labels: BTreeMap::new(),
        settings: NetworkSettings::default(),
        candidate,
    })
}

/// Links both networks, or keeps them apart.
fn linking(access: Option<LinkAccess>) -> Operation {
    let [one, other] = ["shop", "back"].map(str::to_owned);

    match access {
        Some(access) => Operation::LinkNetworks { one, other, access },
        None => Operation::UnlinkNetworks { one, other },
    }
}

/// Every command once, in an order in which each of them changes something.
const ORDER: [AuditedCommand; 21] = [
    AuditedCommand::Join,
    AuditedCommand::Announce,
    AuditedCommand::CreateNetwork,
    AuditedCommand::LinkNetworks,
    AuditedCommand::UnlinkNetworks,
    AuditedCommand::EnterNetwork,
    AuditedCommand::PutEndpoints,
    AuditedCommand::RemoveEndpoints,
    AuditedCommand::ExitNetwork,
    AuditedCommand::SetNetwork,
    AuditedCommand::ApplyPolicy,
    AuditedCommand::RollBackPolicy,
    AuditedCommand::RemoveNetwork,
    AuditedCommand::CreateToken,
    AuditedCommand::RevokeToken,
    AuditedCommand::Leave,
    AuditedCommand::RemoveNode,
    AuditedCommand::Revoke,
    AuditedCommand::BeginAnew,
    AuditedCommand::Report,
    AuditedCommand::MergeRemoved,
];

/// What a row is, and whether it was there before and is afterwards.
type Seen = (&'static str, bool, bool);

const BOTH_NETWORKS: &[Seen] = &[("network", true, true), ("network", true, true)];

/// Returns the command, who gives it, and which rows it changes.
#[expect(clippy::too_many_lines, reason = "a step for each command")]
fn step(command: AuditedCommand) -> (Actor, Operation, &'static [Seen]) {
    match command {
        AuditedCommand::Join => (
            Actor::Operator,
            join_with(1, 1, "a"),
            &[("token", true, true), ("enrollment", false, true), ("node", false, true)],
        ),
        AuditedCommand::Announce => {
            let announce = Announce {
                underlay: vec![[192, 0, 2, 3].into()],
                lane_ports: vec![51_820],
                prefixes: Vec::new(),
                differences: Vec::new(),
                version: "1.0".to_owned(),
            };
            (
                node(B),
                Operation::Announce(announce),
                &[("node", true, true), ("enrollment", true, true), ("host-report", false, true)],
            )
        }
        AuditedCommand::CreateNetwork => {
            (node(A), create("shop", None, network()), &[("network", false, true)])
        }
        AuditedCommand::EnterNetwork => {
            let lane_keys = vec![[7; 32].into()];
            let enter = Operation::EnterNetwork { network: network(), lane_keys, blocks: 1 };
            (node(B), enter, &[("member", false, true)])
        }
        AuditedCommand::PutEndpoints => {
            (node(B), Operation::PutEndpoints(vec![endpoint()]), &[("endpoint", false, true)])
        }
        AuditedCommand::RemoveEndpoints => {
            let keys = vec![(network(), EndpointId::from_random(1))];
            (node(B), Operation::RemoveEndpoints(keys), &[("endpoint", true, false)])
        }
        AuditedCommand::ExitNetwork => {
            (node(B), Operation::ExitNetwork(network()), &[("member", true, false)])
        }
        AuditedCommand::SetNetwork => {
            let nodes = Some("site=a".parse().expect("a selector"));
            let set = Operation::SetNetwork { network: "shop".to_owned(), nodes, lease: None };
            (node(A), set, &[("network", true, true)])
        }
        AuditedCommand::LinkNetworks => {
            (node(A), linking(Some(LinkAccess::Defaults)), BOTH_NETWORKS)
        }
        AuditedCommand::UnlinkNetworks => (node(A), linking(None), BOTH_NETWORKS),
        AuditedCommand::ApplyPolicy => (
            node(A),
            policy("[network.shop]\ndefault = \"deny\"\n", FilterMode::Enforced, None),
            &[("policy", false, true), ("applied-policy", false, true)],
        ),
        AuditedCommand::RollBackPolicy => (
            node(A),
            Operation::RollBackPolicy { to: 0, expected: None },
            &[("policy", true, false), ("applied-policy", false, true)],
        ),
        AuditedCommand::RemoveNetwork => {
            let remove = Operation::RemoveNetwork { network: "shop".to_owned(), force: false };
            (node(A), remove, &[("network", true, false)])
        }
        AuditedCommand::CreateToken => {
            let create = CreateToken {
                id: "00000000000000ff".to_owned(),
                digest: Digest::of(b"the secret"),
                ttl: 0,
                uses: 2,
                role: Role::Node,
                labels: BTreeMap::new(),
            };
            (node(A), Operation::CreateToken(create), &[("token", false, true)])
        }
        AuditedCommand::RevokeToken => {
            let revoke = Operation::RevokeToken("00000000000000ff".to_owned());
            (node(A), revoke, &[("token", true, false)])
        }
        AuditedCommand::Leave => (
            node(C),
            Operation::Leave,
            &[("node", true, false), ("enrollment", true, false), ("removed-node", false, true)],
        ),
        AuditedCommand::RemoveNode => (
            node(A),
            Operation::RemoveNode("b".to_owned()),
            &[
                ("node", true, false),
                ("host-report", true, false),
                ("enrollment", true, false),
                ("removed-node", false, true),
            ],
        ),
        AuditedCommand::Revoke => {
            let revocation = Revocation {
                node: NodeId::from_random(9),
                name: "d".parse().expect("a name"),
                at: NOW,
                by: None,
            };
            (node(A), Operation::Revoke(revocation), &[("removed-node", false, true)])
        }
        AuditedCommand::BeginAnew => {
            let history =
                HistoryKey { lineage: [1; 16].into(), secret: Digest::of(b"another secret") };
            let begin = BeginAnew { history, cause: FenceCause::Restored, wait: 60 };
            (
                Actor::Operator,
                Operation::BeginAnew(begin),
                &[
                    ("history", false, true),
                    ("fence", false, true),
                    ("token", true, true),
                    ("token", true, true),
                    ("token", true, true),
                    ("token", true, true),
                    ("awaited-node", false, true),
                ],
            )
        }
        AuditedCommand::Report => (
            node(A),
            Operation::Report(NodeReport::default()),
            &[("awaited-node", true, false), ("fence", true, false)],
        ),
        AuditedCommand::MergeRemoved => {
            let gone = Revoked {
                node: NodeId::from_random(10),
                name: "e".parse().expect("a name"),
                at: NOW,
                evicted: false,
                by: None,
                key: None,
            };
            let merge = Operation::MergeRemoved(vec![gone]);
            (Actor::Operator, merge, &[("removed-node", false, true)])
        }
    }
}

/// A cluster with nodes b and c and a network, as it is stored.
fn cluster(directory: &Path) -> ClusterState {
    let mut before = with_tokens();
    for (token, key, name) in [(2, 2, "b"), (3, 3, "c")] {
        let joined = apply(&before, Actor::Operator, join_with(token, key, name), NOW);
        before.commit(joined.expect("it may join").1);
    }
    let other = create("back", Some("10.99.0.0/16"), NetworkId::from_random(8));
    before.commit(apply(&before, Actor::Operator, other, NOW).expect("made").1);
    let mut state = ClusterState::new(settings());
    let records: Vec<_> = before.records().collect();
    let changed = state.commit(records.clone());
    let first = Commit { to: Revision(1), changed, records, nonce: 1 };
    Embedded::create(directory, &settings(), &first, &AuditWrites::default()).expect("a store");

    state
}

fn read(directory: &Path) -> Vec<AuditRecord> {
    let store = Embedded::open(directory).expect("a store");
    let page = store.audit(AuditQuery::After(0)).expect("read");
    let mut verifier = Verifier::new(page.extent.checkpoint, None).expect("a beginning");
    let records =
        page.records.iter().map(|(_, bytes)| verifier.accept(bytes).expect("what was written"));
    let records = records.collect();
    assert_eq!(verifier.finish(page.extent.head), Ok(true));

    records
}

fn seen(rows: &[AuditRow]) -> Vec<(&str, bool, bool)> {
    let seen = |row: &AuditRow| (row.before.is_some(), row.after.is_some());
    let mut seen: Vec<_> =
        rows.iter().map(|row| (row.row.as_str(), seen(row).0, seen(row).1)).collect();
    seen.sort_unstable();

    seen
}

/// A new command without a step here does not compile; one that is not in the order fails.
#[tokio::test]
async fn every_command_leaves_one_record_of_the_rows_that_it_changed() {
    let mut order = ORDER;
    order.sort_unstable();
    assert_eq!(order.as_slice(), AuditedCommand::ALL, "each command once");
    let directory = tempfile::tempdir().expect("a directory");
    let state = cluster(directory.path());
    let store = Box::new(Embedded::open(directory.path()).expect("a store"));
    let hub = Arc::new(Hub::new(state.clone(), []));
    let conditions = Arc::new(Conditions::new(Log::default()));
    let (writer, thread) = Writer::start(store, state, hub, conditions).expect("a thread");
    let origin = CallOrigin {
        address: Some([192, 0, 2, 9].into()),
        node: None,
        certificate: Some(RecordHash::of(b"a certificate")),
    };

    for command in ORDER {
        let (actor, operation, _) = step(command);
        let asked = origin.scope(writer.ask(actor, operation)).await;
        assert!(asked.is_ok(), "{command:?}: {asked:?}");
    }
    writer.stop().await;
    assert!(thread.join().expect("no panic").is_ok());

    let records = read(directory.path());
    let what: Vec<_> = records.iter().map(|record| record.what.as_str()).collect();
    assert_eq!(what, ORDER.map(AuditedCommand::word));
    for (record, command) in records.iter().zip(ORDER) {
        let mut wanted = step(command).2.to_vec();
        wanted.sort_unstable();
        assert_eq!(seen(&record.rows), wanted, "{command:?}: {:?}", record.rows);
        assert_eq!(record.from, origin.address);
        assert_eq!(record.revision, record.number + 1);
    }
    check_contents(&records);
}

fn check_contents(records: &[AuditRecord]) {
    let of = |command: AuditedCommand| {
        records.iter().find(|record| record.what == command.word()).expect("there is one")
    };
    let row = |command: AuditedCommand, kind: &str| {
        of(command).rows.iter().find(|row| row.row == kind).expect("there is one")
    };
    let join = row(AuditedCommand::Join, "token");
    assert_eq!(
        (&join.before, &join.after),
        (&Some(json!({ "used": 0 })), &Some(json!({ "used": 1 })))
    );
    assert_eq!(of(AuditedCommand::Join).who, Who::Token { id: "0000000000000001".to_owned() });
    let announced = row(AuditedCommand::Announce, "node");
    assert_eq!(announced.before, Some(json!({ "underlay": [], "lane_ports": [] })));
    assert_eq!(announced.after, Some(json!({ "underlay": ["192.0.2.3"], "lane_ports": [51_820] })));
    let gone = row(AuditedCommand::RemoveEndpoints, "endpoint");
    assert_eq!(
        (gone.name.as_deref(), gone.network.as_deref(), gone.node.as_deref()),
        (Some("web"), Some("shop"), Some("b"))
    );
    assert_eq!(gone.before.as_ref().expect("it was there")["addresses"], json!(["10.64.255.9"]));
    let subjects = [
        (AuditedCommand::Join, "node a"),
        (AuditedCommand::RemoveEndpoints, "endpoint web on shop"),
        (AuditedCommand::EnterNetwork, "node b on shop"),
        (AuditedCommand::RollBackPolicy, "policy 2"),
        (AuditedCommand::RemoveNode, "node b"),
    ];
    for (command, subject) in subjects {
        assert_eq!(of(command).subject(), subject);
    }
    let Who::Node { name, role, certificate, .. } = &of(AuditedCommand::RemoveNode).who else {
        panic!("{:?}", of(AuditedCommand::RemoveNode).who)
    };
    let hash = RecordHash::of(b"a certificate").to_string();
    assert_eq!((name.as_str(), role.as_str(), certificate), ("a", "admin", &hash));
    assert!(of(AuditedCommand::RemoveEndpoints).concerns_node("b"));
    assert!(of(AuditedCommand::RemoveEndpoints).concerns_network("shop"));
    assert!(of(AuditedCommand::RemoveEndpoints).concerns_network(&network().to_string()));
    assert!(!of(AuditedCommand::RemoveEndpoints).concerns_node("a"));
}

/// Returns how digests would look in a record.
fn secrets(state: &ClusterState) -> Vec<String> {
    let digests = state.tokens().values().map(|token| token.digest);
    let keys = state.enrollments().values().map(|enrolled| enrolled.key);
    let forms = |digest: Digest| {
        let hex = hex::encode(digest.0);
        [serde_json::to_string(&digest).expect("JSON"), hex]
    };

    digests.chain(keys).flat_map(forms).collect()
}

fn is_there(state: &ClusterState, key: &str) -> bool {
    state.records().any(|record| record.key().0 == key)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn records_tell_what_was_there_and_is_and_no_secret(
        commands in prop::collection::vec(command(), 1..60),
    ) {
        let mut state = with_tokens();
        for (actor, operation) in commands {
            let is = AuditedCommand::of(&operation);
            let before = state.clone();
            let Ok((_, records)) = apply(&before, actor, operation.clone(), NOW) else { continue };
            state.commit(records.clone());
            let who = who(&before, actor, &operation, &CallOrigin::default());

            let record = of_command(&before, who, is, &records, &CallOrigin::default(), NOW);

            prop_assert!(record.omitted.is_none());
            let keys: std::collections::BTreeSet<_> =
                records.iter().map(|record| record.key().0).collect();
            prop_assert_eq!(record.rows.len(), keys.len());
            let was: Vec<_> = record.rows.iter().map(|row| row.before.is_some()).collect();
            let is: Vec<_> = record.rows.iter().map(|row| row.after.is_some()).collect();
            let mut order = Vec::new();
            for record in &records {
                let key = record.key().0;
                if !order.contains(&key) {
                    order.push(key);
                }
            }
            let there = |state: &ClusterState| {
                order.iter().map(|key| is_there(state, key)).collect::<Vec<_>>()
            };
            prop_assert_eq!(was, there(&before));
            prop_assert_eq!(is, there(&state));
            let text = serde_json::to_string(&record).expect("JSON");
            for secret in secrets(&before).into_iter().chain(secrets(&state)) {
                prop_assert!(!text.contains(&secret), "{}", text);
            }
        }
    }
}

/// A call with as many endpoints as may be, and one that removes a network with all of them.
#[test]
fn a_record_of_many_rows_is_bounded_and_says_what_it_leaves_out() {
    let state = with_tokens();
    let row = |n: u64| {
        let endpoint = Endpoint {
            id: EndpointId::from_random(n + 1),
            labels: BTreeMap::from([("text".to_owned(), "x".repeat(3_000))]),
            ..endpoint()
        };
        Record::Row(overlay_core::Change::Endpoint(endpoint))
    };
    let records: Vec<_> = (0..60_000).map(row).collect();
    let record = |count: usize| {
        let origin = CallOrigin::default();
        of_command(
            &state,
            Who::Operator,
            AuditedCommand::PutEndpoints,
            &records[..count],
            &origin,
            NOW,
        )
    };

    let largest = record(1_000);
    let more = record(60_000);

    assert_eq!((largest.rows.len(), &largest.omitted), (1_000, &None));
    assert_eq!(more.rows.len() as u64 + more.omitted.as_ref().expect("most of them").rows, 60_000);
    for record in [&largest, &more] {
        let size = serde_json::to_vec(record).expect("JSON").len();
        assert!(size < 256 << 10, "{size} bytes");
    }
    assert!(more.subject().ends_with("and 59999 more"), "{}", more.subject());
}
