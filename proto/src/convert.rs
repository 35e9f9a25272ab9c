//! Conversion between wire and core types: the only place where fields of messages are checked.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::net::IpAddr;
use std::str::FromStr;

mod network;

use overlay_core::{Block, Change, Delta, Endpoint, Member, Node, PublicKey, Revision, Role, RowKey, Runtime, View};

use crate::refusal::{Code, Refusal};
use crate::v1;

pub use network::{
    MAX_DIFFERENCES, MAX_HOLDER, MAX_HOST_PREFIXES, MAX_REASON, MAX_RESERVED, MAX_TITLE, difference, differences,
    differences_of, host_prefixes, network_mode, network_prefix, network_prefix6,
};

/// The most labels of a row.
pub const MAX_LABELS: usize = 64;
/// The longest key or value of a label, in bytes.
pub const MAX_LABEL: usize = 255;
/// The most aliases of an endpoint.
pub const MAX_ALIASES: usize = 64;
/// The most lanes of a node.
pub const MAX_LANES: usize = 64;
/// The most underlay addresses that a node may announce.
pub const MAX_UNDERLAY: usize = 32;
/// The most blocks of one network that a node may hold.
pub const MAX_BLOCKS: usize = 4_096;

/// Parses the text of a field; a refusal names the field.
///
/// # Errors
///
/// `invalid-input` with the field's name, its text and what is wrong.
pub fn field<T>(name: &str, text: &str) -> Result<T, Refusal>
where
    T: FromStr,
    T::Err: Display,
{
    text.parse().map_err(|error| {
        let shown: String = text.chars().take(80).collect();
        Refusal::new(Code::InvalidInput, format!("{name} {shown:?}: {error}"))
    })
}

/// Parses a field that may be empty.
///
/// # Errors
///
/// The same as [`field`].
pub fn optional<T>(name: &str, text: &str) -> Result<Option<T>, Refusal>
where
    T: FromStr,
    T::Err: Display,
{
    if text.is_empty() { Ok(None) } else { field(name, text).map(Some) }
}

/// Checks labels: at most 64, with non-empty keys, and at most 255 bytes without control characters
/// for keys and values.
///
/// # Errors
///
/// `invalid-input` with the label's key.
pub fn labels(labels: BTreeMap<String, String>) -> Result<BTreeMap<String, String>, Refusal> {
    bounded("labels", labels.len(), MAX_LABELS)?;
    for (key, value) in &labels {
        let fits = |text: &str| text.len() <= MAX_LABEL && !text.chars().any(char::is_control);
        if key.is_empty() || !fits(key) || !fits(value) {
            let shown: String = key.chars().take(80).collect();
            return Err(Refusal::new(
                Code::InvalidInput,
                format!("label {shown:?}: keys and values have 1 to 255 bytes and no control characters"),
            ));
        }
    }

    Ok(labels)
}

fn bounded(what: &str, len: usize, max: usize) -> Result<(), Refusal> {
    if len <= max { Ok(()) } else { Err(Refusal::new(Code::InvalidInput, format!("{len} {what} are more than {max}"))) }
}

fn missing(name: &str) -> Refusal {
    Refusal::new(Code::InvalidInput, format!("{name} is missing"))
}

fn fields<T>(name: &str, texts: &[String], max: usize) -> Result<Vec<T>, Refusal>
where
    T: FromStr,
    T::Err: Display,
{
    bounded(name, texts.len(), max)?;

    texts.iter().map(|text| field(name, text)).collect()
}

/// Checks the UDP ports of a node's lanes.
///
/// # Errors
///
/// `invalid-input` when there are too many, or one is not 1 to 65,535.
pub fn lane_ports(ports: &[u32]) -> Result<Vec<u16>, Refusal> {
    bounded("lane ports", ports.len(), MAX_LANES)?;

    ports
        .iter()
        .map(|&port| {
            u16::try_from(port)
                .ok()
                .filter(|&port| port != 0)
                .ok_or_else(|| Refusal::new(Code::InvalidInput, format!("lane port {port} is not 1 to 65535")))
        })
        .collect()
}

/// Checks the addresses at which a node may be reached.
///
/// # Errors
///
/// `invalid-input` for anything but unicast addresses.
pub fn underlay(addresses: &[String]) -> Result<Vec<IpAddr>, Refusal> {
    let addresses: Vec<IpAddr> = fields("underlay address", addresses, MAX_UNDERLAY)?;
    for address in &addresses {
        let broadcast = matches!(address, IpAddr::V4(v4) if v4.is_broadcast());
        if address.is_unspecified() || address.is_multicast() || broadcast {
            return Err(Refusal::new(
                Code::InvalidInput,
                format!("underlay address {address} is not an address of a host"),
            ));
        }
    }

    Ok(addresses)
}

/// Checks a member's lane keys.
///
/// # Errors
///
/// `invalid-input` when there is none, there are too many, or one does not have 32 bytes.
pub fn lane_keys(keys: &[Vec<u8>]) -> Result<Vec<PublicKey>, Refusal> {
    bounded("lane keys", keys.len(), MAX_LANES)?;
    if keys.is_empty() {
        return Err(missing("lane_keys"));
    }

    keys.iter()
        .map(|key| {
            PublicKey::try_from(key.as_slice())
                .map_err(|error| Refusal::new(Code::InvalidInput, format!("lane_keys: {error}")))
        })
        .collect()
}

impl From<Role> for v1::Role {
    fn from(role: Role) -> Self {
        match role {
            Role::Admin => Self::Admin,
            Role::Node => Self::Node,
        }
    }
}

impl TryFrom<v1::Role> for Role {
    type Error = Refusal;

    fn try_from(role: v1::Role) -> Result<Self, Refusal> {
        match role {
            v1::Role::Admin => Ok(Self::Admin),
            v1::Role::Node => Ok(Self::Node),
            v1::Role::Unspecified => Err(missing("role")),
        }
    }
}

impl From<Runtime> for v1::Runtime {
    fn from(runtime: Runtime) -> Self {
        match runtime {
            Runtime::Run => Self::Run,
            Runtime::Attach => Self::Attach,
            Runtime::Host => Self::Host,
            Runtime::Docker => Self::Docker,
            Runtime::Cni => Self::Cni,
        }
    }
}

impl TryFrom<v1::Runtime> for Runtime {
    type Error = Refusal;

    fn try_from(runtime: v1::Runtime) -> Result<Self, Refusal> {
        match runtime {
            v1::Runtime::Run => Ok(Self::Run),
            v1::Runtime::Attach => Ok(Self::Attach),
            v1::Runtime::Host => Ok(Self::Host),
            v1::Runtime::Docker => Ok(Self::Docker),
            v1::Runtime::Cni => Ok(Self::Cni),
            v1::Runtime::Unspecified => Err(missing("runtime")),
        }
    }
}

/// Converts the number of an enum; unknown numbers become unspecified, which the conversions
/// refuse.
pub fn wire_enum<T: TryFrom<i32> + Default>(number: i32) -> T {
    T::try_from(number).unwrap_or_default()
}

impl From<Node> for v1::Node {
    fn from(node: Node) -> Self {
        Self {
            id: node.id.to_string(),
            name: node.name.to_string(),
            role: v1::Role::from(node.role).into(),
            labels: node.labels,
            underlay: node.underlay.iter().map(IpAddr::to_string).collect(),
            lane_ports: node.lane_ports.into_iter().map(u32::from).collect(),
        }
    }
}

impl TryFrom<v1::Node> for Node {
    type Error = Refusal;

    fn try_from(node: v1::Node) -> Result<Self, Refusal> {
        Ok(Self {
            id: field("node.id", &node.id)?,
            name: field("node.name", &node.name)?,
            role: wire_enum::<v1::Role>(node.role).try_into()?,
            labels: labels(node.labels)?,
            underlay: underlay(&node.underlay)?,
            lane_ports: lane_ports(&node.lane_ports)?,
        })
    }
}

impl From<Member> for v1::Member {
    fn from(member: Member) -> Self {
        let block = |block: Block| v1::Block { prefix: block.prefix.to_string(), epoch: block.epoch };

        Self {
            network: member.network.to_string(),
            node: member.node.to_string(),
            lane_keys: member.lane_keys.iter().map(|key| key.as_bytes().to_vec()).collect(),
            blocks: member.blocks.into_iter().map(block).collect(),
        }
    }
}

impl TryFrom<v1::Member> for Member {
    type Error = Refusal;

    fn try_from(member: v1::Member) -> Result<Self, Refusal> {
        bounded("blocks", member.blocks.len(), MAX_BLOCKS)?;
        let block =
            |block: &v1::Block| Ok(Block { prefix: field("member.blocks", &block.prefix)?, epoch: block.epoch });

        Ok(Self {
            network: field("member.network", &member.network)?,
            node: field("member.node", &member.node)?,
            lane_keys: lane_keys(&member.lane_keys)?,
            blocks: member.blocks.iter().map(block).collect::<Result<_, Refusal>>()?,
        })
    }
}

impl From<Endpoint> for v1::Endpoint {
    fn from(endpoint: Endpoint) -> Self {
        Self {
            id: endpoint.id.to_string(),
            network: endpoint.network.to_string(),
            node: endpoint.node.to_string(),
            name: endpoint.name.to_string(),
            aliases: endpoint.aliases.into_iter().map(String::from).collect(),
            addresses: endpoint.addresses.iter().map(IpAddr::to_string).collect(),
            labels: endpoint.labels,
            runtime: v1::Runtime::from(endpoint.runtime).into(),
        }
    }
}

impl TryFrom<v1::Endpoint> for Endpoint {
    type Error = Refusal;

    fn try_from(endpoint: v1::Endpoint) -> Result<Self, Refusal> {
        let aliases: Vec<_> = fields("endpoint.aliases", &endpoint.aliases, MAX_ALIASES)?;

        Ok(Self {
            id: field("endpoint.id", &endpoint.id)?,
            network: field("endpoint.network", &endpoint.network)?,
            node: field("endpoint.node", &endpoint.node)?,
            name: field("endpoint.name", &endpoint.name)?,
            aliases: BTreeSet::from_iter(aliases),
            addresses: fields("endpoint.addresses", &endpoint.addresses, 2)?,
            labels: labels(endpoint.labels)?,
            runtime: wire_enum::<v1::Runtime>(endpoint.runtime).try_into()?,
        })
    }
}

impl From<RowKey> for v1::RowKey {
    fn from(key: RowKey) -> Self {
        use v1::row_key::Key;
        let key = match key {
            RowKey::Network(id) => Key::Network(id.to_string()),
            RowKey::Node(id) => Key::Node(id.to_string()),
            RowKey::Member(network, node) => {
                Key::Member(v1::MemberKey { network: network.to_string(), node: node.to_string() })
            }
            RowKey::Endpoint(network, endpoint) => {
                Key::Endpoint(v1::EndpointKey { network: network.to_string(), endpoint: endpoint.to_string() })
            }
            RowKey::HostReport(node) => Key::HostReport(node.to_string()),
        };

        Self { key: Some(key) }
    }
}

impl TryFrom<v1::RowKey> for RowKey {
    type Error = Refusal;

    fn try_from(key: v1::RowKey) -> Result<Self, Refusal> {
        use v1::row_key::Key;
        Ok(match key.key.ok_or_else(|| missing("row key"))? {
            Key::Network(id) => Self::Network(field("network", &id)?),
            Key::Node(id) => Self::Node(field("node", &id)?),
            Key::Member(key) => Self::Member(field("network", &key.network)?, field("node", &key.node)?),
            Key::Endpoint(key) => Self::Endpoint(field("network", &key.network)?, field("endpoint", &key.endpoint)?),
            Key::HostReport(node) => Self::HostReport(field("node", &node)?),
        })
    }
}

impl From<Change> for v1::Change {
    fn from(change: Change) -> Self {
        use v1::change::Change as Wire;
        let change = match change {
            Change::Network(row) => Wire::Network(row.into()),
            Change::Node(row) => Wire::Node(row.into()),
            Change::Member(row) => Wire::Member(row.into()),
            Change::Endpoint(row) => Wire::Endpoint(row.into()),
            Change::HostReport(row) => Wire::HostReport(row.into()),
            Change::Removed(key) => Wire::Removed(key.into()),
        };

        Self { change: Some(change) }
    }
}

impl TryFrom<v1::Change> for Change {
    type Error = Refusal;

    fn try_from(change: v1::Change) -> Result<Self, Refusal> {
        use v1::change::Change as Wire;
        Ok(match change.change.ok_or_else(|| missing("change"))? {
            Wire::Network(row) => Self::Network(row.try_into()?),
            Wire::Node(row) => Self::Node(row.try_into()?),
            Wire::Member(row) => Self::Member(row.try_into()?),
            Wire::Endpoint(row) => Self::Endpoint(row.try_into()?),
            Wire::HostReport(row) => Self::HostReport(row.try_into()?),
            Wire::Removed(key) => Self::Removed(key.try_into()?),
        })
    }
}

impl From<&View> for v1::Snapshot {
    fn from(view: &View) -> Self {
        Self { revision: view.revision.0, rows: view.rows().map(Into::into).collect() }
    }
}

impl TryFrom<v1::Snapshot> for View {
    type Error = Refusal;

    fn try_from(snapshot: v1::Snapshot) -> Result<Self, Refusal> {
        let rows: Vec<Change> = snapshot.rows.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?;

        Ok(Self::from_rows(Revision(snapshot.revision), rows))
    }
}

impl From<Delta> for v1::Delta {
    fn from(delta: Delta) -> Self {
        Self { from: delta.from.0, to: delta.to.0, changes: delta.changes.into_iter().map(Into::into).collect() }
    }
}

impl TryFrom<v1::Delta> for Delta {
    type Error = Refusal;

    fn try_from(delta: v1::Delta) -> Result<Self, Refusal> {
        Ok(Self {
            from: Revision(delta.from),
            to: Revision(delta.to),
            changes: delta.changes.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use overlay_core::{Difference, EndpointId, HostReport, Network, NetworkId, NetworkMode, NetworkSettings, NodeId};

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
                    reserved: BTreeMap::from([("router".into(), "10.1.0.5".parse().expect("an address"))]),
                    internal: true,
                    options: BTreeMap::from([("mtu".into(), "1400".into())]),
                    numbered_by: Some(node),
                    title: Some("Blue.Net".into()),
                    gateway6: None,
                },
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
                blocks: vec![Block { prefix: "10.1.255.0/24".parse().expect("a prefix"), epoch: 9 }],
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
            }),
            Change::HostReport(HostReport {
                node,
                prefixes: host_prefixes(&["172.18.0.0/16 br-1".into(), "10.0.0.0/8".into()]).expect("prefixes"),
                differences: vec![Difference { network: "my.net".into(), reason: "it is another there".into() }],
                name: "host1".parse().expect("a name"),
            }),
        ]
    }

    #[test]
    fn a_snapshot_survives_the_wire() {
        let view = View::from_rows(Revision(7), rows());

        assert_eq!(View::try_from(v1::Snapshot::from(&view)), Ok(view));
    }

    #[test]
    fn a_delta_survives_the_wire() {
        let mut changes = rows();
        changes.extend(rows().iter().map(|row| Change::Removed(row.key())));
        let delta = Delta { from: Revision(1), to: Revision(2), changes };

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
        for text in ["x", "fd00::1/64", "::/0", "fe80::/64", "ff00::/16", "fd00::/112", "10.0.0.0/8"] {
            assert!(network_prefix6(text).is_err(), "{text}");
        }
        assert_eq!(network_prefix6(""), Ok(None));
    }

    #[test]
    fn a_refusal_names_the_field() {
        let wire = v1::Node { id: "zz".into(), ..v1::Node::default() };

        let refusal = Node::try_from(wire).expect_err("the id is wrong");

        assert!(refusal.message.starts_with("node.id \"zz\""), "{refusal}");
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
