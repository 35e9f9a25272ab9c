//! Conversion between wire and core types: the only place where fields of messages are checked.

mod change;
mod error;
mod field;
mod link;
mod network;
mod policy;
mod row;

pub use change::{encoded_len, stamp, stamp_fields, view_len};
pub use error::{ConversionError, InvalidText, UnfitPrefix};
pub use field::{
    MAX_ALIASES, MAX_BLOCKS, MAX_LABEL, MAX_LABELS, MAX_LANES, MAX_UNDERLAY, field, labels,
    lane_keys, lane_ports, optional, underlay, wire_enum,
};
pub use link::link_access;
pub use network::{
    MAX_DIFFERENCES, MAX_HOLDER, MAX_HOST_PREFIXES, MAX_REASON, MAX_RESERVED, MAX_TITLE,
    difference, differences, differences_of, host_prefixes, lease, network_mode, network_prefix,
    network_prefix6,
};
pub use policy::{policy_mode, policy_text, visible_policy};

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use overlay_core::policy::{ClusterPolicy, FilterMode, MAX_POLICY};
    use overlay_core::{
        Block, Change, Creator, Delta, Endpoint, Lineage, Mark, Member, Node, Revision, Role,
        Runtime, Stamp, View,
    };
    use overlay_core::{
        Difference, EndpointId, HostReport, LinkAccess, Network, NetworkId, NetworkLink,
        NetworkMode, NetworkSettings, NodeId,
    };

    use super::*;
    use crate::{Refusal, v1};

    const STAMP: Stamp = Stamp { lineage: Lineage::new([3; 16]), mark: Some(Mark::new([4; 32])) };

    fn rows() -> Vec<Change> {
        let (network, node) = (NetworkId::from_random(1), NodeId::from_random(2));
        vec![
            Change::Network(Network {
                id: network,
                name: "blue".parse().expect("a name"),
                prefix: "10.1.0.0/16".parse().expect("a prefix"),
                prefix6: Some("fd01::/64".parse().expect("a prefix")),
                mode: NetworkMode::L3,
                labels: BTreeMap::from([("team".into(), "a".into())]),
                settings: NetworkSettings {
                    gateway: Some([10, 1, 0, 9].into()),
                    range: Some("10.1.128.0/17".parse().expect("a prefix")),
                    reserved: BTreeMap::from([(
                        "router".into(),
                        "10.1.0.5".parse().expect("an address"),
                    )]),
                    internal: true,
                    options: BTreeMap::from([("mtu".into(), "1400".into())]),
                    numbered_by: Some(node),
                    title: Some("Blue.Net".into()),
                    gateway6: None,
                    nodes: "role=db,site in (a,b)".parse().expect("a selector"),
                    lease: "15m".parse().ok(),
                    links: vec![NetworkLink {
                        network: NetworkId::from_random(9),
                        name: "green".parse().expect("a name"),
                        prefix: "10.2.0.0/16".parse().expect("a prefix"),
                        prefix6: Some("fd02::/64".parse().expect("a prefix")),
                        access: LinkAccess::PolicyOnly,
                        gateways: vec![node],
                    }],
                },
                creator: Some(Creator { node, name: "host1".parse().expect("a name") }),
            }),
            Change::Node(Node {
                id: node,
                name: "host1".parse().expect("a name"),
                role: Role::Admin,
                labels: BTreeMap::new(),
                underlay: vec!["192.0.2.1".parse().expect("an address")],
                lane_ports: vec![51820, 51821],
            }),
            Change::Member(Member {
                network,
                node,
                lane_keys: vec![[1; 32].into(), [2; 32].into()],
                blocks: vec![Block {
                    prefix: "10.1.255.0/24".parse().expect("a prefix"),
                    epoch: 9,
                }],
            }),
            Change::Endpoint(Endpoint {
                id: EndpointId::from_random(3),
                network,
                node,
                name: "web".parse().expect("a name"),
                aliases: BTreeSet::from(["www".parse().expect("a name")]),
                addresses: vec!["10.1.255.2".parse().expect("an address")],
                labels: BTreeMap::new(),
                runtime: Runtime::Run,
                group: Some("compose shop/web".into()),
                container: Some("5df66f04e09f".parse().expect("an id")),
                taken: BTreeSet::from(["www".parse().expect("a name")]),
            }),
            Change::HostReport(HostReport {
                node,
                prefixes: host_prefixes(&["172.18.0.0/16 br-1".into(), "10.0.0.0/8".into()])
                    .expect("prefixes"),
                differences: vec![Difference {
                    network: "my.net".into(),
                    reason: "it is another there".into(),
                }],
                name: "host1".parse().expect("a name"),
            }),
            Change::Policy(ClusterPolicy {
                revision: 3,
                mode: FilterMode::Shadow,
                text: "[network.blue]\ndefault = \"deny\"\n".into(),
            }),
        ]
    }

    #[test]
    fn a_snapshot_survives_the_wire() {
        let mut view = View::from_rows(Revision(7), rows());
        assert_eq!(View::try_from(v1::Snapshot::from(&view)), Ok(view.clone()));
        view.stamp = Some(STAMP);

        assert_eq!(View::try_from(v1::Snapshot::from(&view)), Ok(view));
    }

    #[test]
    fn a_delta_survives_the_wire() {
        let mut changes = rows();
        changes.extend(rows().iter().map(|row| Change::Removed(row.key())));
        let put_out = vec![NetworkId::from_random(9)];
        let delta =
            Delta { from: Revision(1), to: Revision(2), changes, put_out, stamp: Some(STAMP) };

        assert_eq!(Delta::try_from(v1::Delta::from(delta.clone())), Ok(delta));
    }

    #[test]
    fn prefixes_that_no_network_can_have_are_refused() {
        for text in [
            "",
            "x",
            "10.0.0.1/16",
            "0.0.0.0/0",
            "10.0.0.0/30",
            "127.0.0.0/8",
            "169.254.0.0/16",
            "224.0.0.0/8",
            "fd00::/64",
        ] {
            assert!(network_prefix(text).is_err(), "{text}");
        }
        for text in
            ["x", "fd00::1/64", "::/0", "fe80::/64", "ff00::/16", "fd00::/112", "10.0.0.0/8"]
        {
            assert!(network_prefix6(text).is_err(), "{text}");
        }
        assert_eq!(network_prefix6(""), Ok(None));
    }

    #[test]
    fn a_refusal_names_the_field() {
        let wire = v1::Node { id: "zz".into(), ..v1::Node::default() };

        let refusal = Refusal::from(Node::try_from(wire).expect_err("the id is wrong"));

        assert!(refusal.message.starts_with("node.id \"zz\""), "{refusal}");
    }

    #[test]
    fn a_refusal_says_what_is_wrong_with_the_field() {
        fn told<T: std::fmt::Debug>(converted: Result<T, ConversionError>) -> String {
            let refusal = Refusal::from(converted.expect_err("refused"));

            format!("{}: {refusal}", refusal.code)
        }
        let difference = v1::Difference::default();
        let title = v1::NetworkSettings { title: "\n".into(), ..v1::NetworkSettings::default() };
        let long = "x".repeat(99);
        let cases = [
            (told(Role::try_from(v1::Role::Unspecified)), "invalid-input: role is missing"),
            (told(lane_keys(&[])), "invalid-input: lane_keys is missing"),
            (
                told(lane_keys(&[vec![0; 31]])),
                "invalid-input: lane_keys: not a key (32 bytes, in base64)",
            ),
            (told(lane_ports(&[0; 65])), "invalid-input: 65 lane ports are more than 64"),
            (told(lane_ports(&[65_536])), "invalid-input: lane port 65536 is not 1 to 65535"),
            (
                told(underlay(&["224.0.0.1".into()])),
                "invalid-input: underlay address 224.0.0.1 is not an address of a host",
            ),
            (
                told(underlay(&["x\n".into()])),
                "invalid-input: underlay address \"x\\n\": invalid IP address syntax",
            ),
            (
                told(field::<NodeId>("node", &long)),
                &format!(
                    "invalid-input: node {:?}: not an id (12 hexadecimal digits, not all zero)",
                    &long[..80]
                ),
            ),
            (
                told(labels(BTreeMap::from([(String::new(), "b".into())]))),
                "invalid-input: label \"\": keys and values have 1 to 255 bytes and no control \
                 characters",
            ),
            (
                told(NetworkSettings::try_from(title)),
                "invalid-input: settings.title: at most 255 bytes, no control characters",
            ),
            (
                told(policy_mode(9)),
                "unsupported: this version knows policies that are enforced or shadowed",
            ),
            (
                told(policy_text("x".repeat(MAX_POLICY + 1))),
                "invalid-input: the policy has 1048577 bytes, more than 1048576",
            ),
            (
                told(ClusterPolicy::try_from(v1::ClusterPolicy::default())),
                "invalid-input: policy.revision is missing",
            ),
            (told(network_mode(9)), "unsupported: this version knows networks of mode l3 only"),
            (told(network_prefix("x")), "invalid-input: prefix \"x\": invalid IP address syntax"),
            (
                told(network_prefix("10.0.0.1/16")),
                "invalid-input: prefix 10.0.0.1/16 has host bits set; use 10.0.0.0/16",
            ),
            (
                told(network_prefix("10.0.0.0/30")),
                "invalid-input: prefix 10.0.0.0/30 is not between /8 and /29",
            ),
            (
                told(network_prefix("127.0.0.0/8")),
                "invalid-input: prefix 127.0.0.0/8 holds addresses that hosts may not have",
            ),
            (
                told(network_prefix6("fd00::1/64")),
                "invalid-input: prefix6 fd00::1/64 has host bits set; use fd00::/64",
            ),
            (
                told(network_prefix6("fd00::/112")),
                "invalid-input: prefix6 fd00::/112 is not between /16 and /96",
            ),
            (
                told(network_prefix6("ff00::/16")),
                "invalid-input: prefix6 ff00::/16 holds addresses that hosts may not have",
            ),
            (
                told(host_prefixes(&["10.0.0.0/8 a\n".into()])),
                "invalid-input: routes: the holder of 10.0.0.0/8 is no word",
            ),
            (
                told(differences(vec![difference])),
                "invalid-input: differences: a name of at most 255 bytes and a reason of at most \
                 512",
            ),
        ];

        for (told, expected) in cases {
            assert_eq!(told, expected);
        }
    }

    #[test]
    fn oversized_lists_and_labels_are_refused() {
        assert!(lane_keys(&vec![vec![0; 32]; MAX_LANES + 1]).is_err());
        assert!(lane_keys(&[vec![0; 31]]).is_err());
        assert!(lane_ports(&[0]).is_err());
        assert!(labels(BTreeMap::from([("a\n".into(), "b".into())])).is_err());
        assert!(underlay(&["224.0.0.1".into()]).is_err());
    }
}
