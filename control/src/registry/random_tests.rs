//! The registry under random commands.

use std::collections::{BTreeMap, BTreeSet};

use overlay_core::policy::FilterMode;
use overlay_core::{
    Block, Difference, Endpoint, EndpointId, HostPrefix, Lease, LinkAccess, Member, NetworkId,
    NodeId, Revocation, Runtime,
};
use proptest::prelude::*;

use super::testing::*;
use super::tests::create_for;
use super::*;

/// Draws which nodes may enter a network.
fn nodes() -> impl Strategy<Value = &'static str> {
    prop_oneof![3 => Just(""), 1 => Just("site=b"), 1 => Just("site in (a,c)"), 1 => Just("!site")]
}

/// Draws documents that name some of the networks.
fn document() -> impl Strategy<Value = String> {
    let rule = |n: u8, from: &str| {
        format!("[[rule]]\nname = \"r{n}\"\nfrom = {from}\nto = \"any\"\ndeny = [\"tcp/{n}\"]\n")
    };
    let selected = move |n: u8| rule(n, &format!("[{{ network = \"net{n}\" }}, {{ a = \"b\" }}]"));
    let within = move |n: u8| rule(n, &format!("\"any\"\nnetwork = \"net{n}\""));
    let default = |n: u8| format!("[network.net{n}]\ndefault = \"deny\"\n");

    (0..4u8, 0..6u8).prop_map(move |(n, kind)| match kind {
        0 => default(n).replace("deny", "allow"),
        1 => default(n),
        2 => selected(n),
        3 => within(n),
        4 => format!("{}{}", default(n), selected((n + 1) % 4)),
        _ => format!("{}{}", default(n), within(n)),
    })
}

/// Draws replacements of the policy.
fn replacement() -> impl Strategy<Value = Operation> {
    let mode = prop_oneof![Just(FilterMode::Enforced), Just(FilterMode::Shadow)];
    let expected = || prop::option::weighted(0.2, 0..9u64);

    prop_oneof![
        3 => (document(), mode, expected())
            .prop_map(|(document, mode, expected)| policy(&document, mode, expected)),
        1 => (0..12u64, expected())
            .prop_map(|(to, expected)| Operation::RollBackPolicy { to, expected }),
    ]
}

/// Draws links between networks, and ends of them.
fn links() -> impl Strategy<Value = Operation> {
    let access = prop::sample::select(vec![LinkAccess::Defaults, LinkAccess::PolicyOnly]);

    (0..4u8, 0..4u8, prop::option::weighted(0.7, access)).prop_map(|(one, other, access)| {
        let (one, other) = (format!("net{one}"), format!("net{other}"));
        match access {
            Some(access) => Operation::LinkNetworks { one, other, access },
            None => Operation::UnlinkNetworks { one, other },
        }
    })
}

/// Draws what belongs to a history that begins anew.
fn anew() -> impl Strategy<Value = Operation> {
    let block = (network(), 0..16u8).prop_map(|(network, block)| (network, [10, 9, 0, block << 4]));
    let members = prop::collection::vec((block, 0..6u8), 0..3);
    let endpoints = prop::collection::btree_map(
        (network(), (0..6u64).prop_map(|n| EndpointId::from_random(n + 1))),
        (0..34u8).prop_map(|last| vec![std::net::IpAddr::from([10, 9, 0, last])]),
        0..3,
    );
    let report = (members, endpoints, any::<bool>(), 0..60u64).prop_map(
        |(members, endpoints, is_ours, revision)| {
            let member = |((network, address), key): ((NetworkId, [u8; 4]), u8)| Member {
                network,
                node: NodeId::FIRST,
                lane_keys: vec![[key; 32].into()],
                blocks: vec![Block {
                    prefix: ipnet::Ipv4Net::new_assert(address.into(), 28),
                    epoch: 1,
                }],
            };
            Operation::Report(NodeReport {
                lineage: is_ours.then_some(history().lineage),
                revision: overlay_core::Revision(revision),
                members: members.into_iter().map(member).collect(),
                endpoints,
            })
        },
    );
    let begin = BeginAnew { history: history(), cause: FenceCause::Restored, wait: 60 };
    let removed = (0..5u64).prop_map(|n| {
        let node = NodeId::from_random(n + 1);
        Operation::MergeRemoved(vec![Revoked {
            node,
            name: format!("node{n}").parse().expect("a name"),
            at: NOW,
            evicted: n % 2 == 0,
            by: None,
            key: None,
        }])
    });

    prop_oneof![3 => report, 1 => Just(Operation::BeginAnew(begin)), 1 => removed]
}

fn network() -> impl Strategy<Value = NetworkId> {
    (0..4u64).prop_map(|n| NetworkId::from_random(n + 7))
}

/// Draws an endpoint of one of five hosts on one of four networks.
fn endpoint() -> impl Strategy<Value = Endpoint> {
    let names = (0..3u8, 0..4u8, 0..3u8, 0..5u8);
    (network(), 0..5u64, 0..6u64, 0..3u8, 0..34u8, names).prop_map(
        |(network, node, id, third, last, (name, alias, group, container))| {
            let third = [0, 254, 255][usize::from(third)];
            Endpoint {
                id: EndpointId::from_random(id + 1),
                network,
                node: NodeId::from_random(node + 1),
                name: format!("e{name}").parse().expect("a name"),
                aliases: (alias < 3)
                    .then(|| format!("e{alias}").parse().expect("an alias"))
                    .into_iter()
                    .collect(),
                addresses: (container != 1)
                    .then(|| std::net::Ipv4Addr::new(10, 9, third, last).into())
                    .into_iter()
                    .collect(),
                labels: BTreeMap::new(),
                runtime: Runtime::Run,
                group: ["a", "b"].get(usize::from(group)).map(|group| (*group).to_owned()),
                container: (container < 3)
                    .then(|| format!("c{}", container / 2).parse().expect("an id")),
                taken: BTreeSet::new(),
            }
        },
    )
}

/// Draws commands of five hosts about four networks.
pub(crate) fn command() -> impl Strategy<Value = (Actor, Operation)> {
    let node = (0..5u64).prop_map(|n| Actor::Node(NodeId::from_random(n + 1)));
    let actor = prop_oneof![1 => Just(Actor::Operator), 9 => node];
    let enter =
        || {
            (network(), 0..6u8, 0..4usize).prop_map(|(network, key, blocks)| {
                Operation::EnterNetwork { network, lane_keys: vec![[key; 32].into()], blocks }
            })
        };
    let command = prop_oneof![
        (1..5u8, 0..5u8, 0..5u8).prop_map(|(token, key, name)| join_with(
            token,
            key,
            &format!("node{name}")
        )),
        (0..3u8).prop_map(|_| Operation::Leave),
        (0..5u8).prop_map(|n| Operation::RemoveNode(format!("node{n}"))),
        (0..7u64).prop_map(|n| Operation::Revoke(Revocation {
            node: NodeId::from_random(n + 1),
            name: format!("node{n}").parse().expect("a name"),
            at: n,
            by: None,
        })),
        (0..4u8, 0..4u8, nodes()).prop_map(|(n, p, nodes)| {
            let prefixes = [None, Some("10.9.0.0/16"), Some("10.9.0.0/27"), Some("10.9.0.0/29")];
            create_for(&format!("net{n}"), prefixes[usize::from(p)], nodes)
        }),
        (0..4u8, nodes()).prop_map(|(n, nodes)| Operation::SetNetwork {
            network: format!("net{n}"),
            nodes: Some(nodes.parse().expect("a selector")),
            lease: Some(Lease::try_from(u32::from(n) * 10).ok()),
        }),
        (0..3u8, prop::collection::btree_set(0..5u8, 0..3)).prop_map(|(port, differing)| {
            let difference = |n| Difference {
                network: format!("net{n}"),
                reason: "it is another there".to_owned(),
            };
            Operation::Announce(Announce {
                underlay: Vec::new(),
                lane_ports: vec![u16::from(port) + 1],
                prefixes: vec![HostPrefix {
                    prefix: format!("192.168.{port}.0/24").parse().expect("a prefix"),
                    holder: String::new(),
                }],
                differences: differing.into_iter().map(difference).collect(),
                version: String::new(),
            })
        }),
        links(),
        links(),
        (0..4u8, any::<bool>())
            .prop_map(|(n, force)| Operation::RemoveNetwork { network: format!("net{n}"), force }),
        enter(),
        enter(),
        network().prop_map(Operation::ExitNetwork),
        prop::collection::vec(endpoint(), 1..4).prop_map(Operation::PutEndpoints),
        prop::collection::vec(endpoint(), 1..4).prop_map(Operation::PutEndpoints),
        prop::collection::vec(
            (network(), (0..6u64).prop_map(|n| EndpointId::from_random(n + 1))),
            1..4
        )
        .prop_map(Operation::RemoveEndpoints),
        (1..4u8).prop_map(|n| Operation::RevokeToken(format!("{n:016x}"))),
        (1..6u8, 0..3u32).prop_map(|(n, uses)| Operation::CreateToken(CreateToken {
            id: format!("{n:016x}"),
            digest: Digest::of(&[n]),
            ttl: 0,
            uses,
            role: overlay_core::Role::Node,
            labels: BTreeMap::from([("site".to_owned(), "c".to_owned())]),
        })),
        replacement(),
        anew(),
    ];

    (actor, command).prop_map(|(actor, mut command)| {
        // Most endpoints are the caller's own, or hardly one would be accepted.
        if let (Actor::Node(node), Operation::PutEndpoints(rows)) = (actor, &mut command)
            && let Some((_, own)) = rows.split_first_mut()
        {
            own.iter_mut().for_each(|row| row.node = node);
            if own.len() > 1 {
                rows.remove(0);
            }
        }
        // A report is of its own node, and only an operator begins a history.
        if let (Actor::Node(node), Operation::Report(report)) = (actor, &mut command) {
            report.members.iter_mut().for_each(|member| member.node = node);
        }
        let is_operators = matches!(command, Operation::BeginAnew(_) | Operation::MergeRemoved(_));

        (if is_operators { Actor::Operator } else { actor }, command)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Invariant 6.
    #[test]
    fn random_commands_keep_what_must_hold_and_a_replay_rebuilds_it(
        commands in prop::collection::vec(command(), 1..120),
    ) {
        let mut state = with_tokens();
        let begin = state.clone();
        let mut log = Vec::new();
        for (actor, command) in commands {
            let before = state.clone();
            match apply(&state, actor, command, NOW) {
                Ok((_, records)) if records.is_empty() => prop_assert_eq!(&state, &before),
                Ok((_, records)) => {
                    state.commit(records.clone());
                    log.push(records);
                    prop_assert_eq!(state.view().revision, before.view().revision.next());
                }
                Err(error) => {
                    let refusal = overlay_proto::Refusal::from(error);
                    prop_assert_eq!(&state, &before);
                    prop_assert!(!refusal.message.is_empty() && !refusal.message.ends_with('.'));
                }
            }
        }

        check_invariants(&state);
        let mut replayed = begin;
        for records in log {
            let text = serde_json::to_vec(&records).expect("records are JSON");
            replayed.commit(serde_json::from_slice::<Vec<Record>>(&text).expect("records are JSON"));
        }
        prop_assert_eq!(&replayed, &state);
        let loaded = ClusterState::from_records(settings(), state.view().revision, state.records());
        prop_assert_eq!(&loaded, &state);
    }
}
