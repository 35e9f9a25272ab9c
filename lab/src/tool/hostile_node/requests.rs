//! What a hostile node asks for: as large as it may be, and larger.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use overlay_core::{EndpointId, Network};
use overlay_proto::convert::{MAX_ALIASES, MAX_HOST_PREFIXES, MAX_LABEL, MAX_UNDERLAY};
use overlay_proto::v1;

use super::BAIT;
use super::attacker::Attacker;

/// Labels that a row may have: nearly 4 KiB.
const LABELS: usize = 15;
/// Addresses with long names that a network may keep beside them.
const RESERVED: usize = 34;

/// How large an endpoint is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Size {
    /// As small as it gets.
    Small,
    /// Just below what a row may have.
    Large,
    /// More than that.
    Beyond,
}

/// An endpoint whose container is stopped, for which no block is needed; `turn` makes it differ.
pub(super) fn endpoint(attacker: &Attacker, number: u64, size: Size, turn: u64) -> v1::Endpoint {
    let (labels, aliases) = match size {
        Size::Small => (0, 0),
        Size::Large => (LABELS, 52),
        Size::Beyond => (LABELS, MAX_ALIASES),
    };
    let long = ["y".repeat(63), "y".repeat(63), "y".repeat(63)].join(".");
    let mut labels = padding(labels);
    labels.insert("turn".to_owned(), turn.to_string());

    v1::Endpoint {
        id: EndpointId::from_random(number + 1).to_string(),
        network: attacker.network.id.to_string(),
        node: attacker.identity.id.to_string(),
        name: format!("h{number}"),
        aliases: (0..aliases).map(|n| format!("a{n}-{number}.{long}")).collect(),
        labels,
        runtime: v1::Runtime::Docker.into(),
        container: format!("{:012x}", number + 1),
        ..v1::Endpoint::default()
    }
}

/// An endpoint that runs, with an address of its own block and the names of another's.
pub(super) fn thief(attacker: &Attacker, turn: u64) -> v1::Endpoint {
    let block = attacker.member.blocks.first().map(|block| block.prefix.clone());
    let block = block.and_then(|prefix| prefix.parse::<Ipv4Net>().ok());
    let address = block.map(|block| Ipv4Addr::from_bits(block.network().to_bits() + 9));
    let steal = attacker.steal.to_string();

    v1::Endpoint {
        name: steal.clone(),
        aliases: vec![format!("{steal}.host1"), format!("{steal}.{}", attacker.network.name)],
        addresses: address.map(|address| address.to_string()).into_iter().collect(),
        ..endpoint(attacker, u64::from(u32::MAX), Size::Small, turn)
    }
}

fn padding(labels: usize) -> BTreeMap<String, String> {
    (0..labels).map(|n| (format!("{n:02}"), "x".repeat(MAX_LABEL))).collect()
}

/// A network as large as it may be, with a prefix of the pool or a given one.
pub(super) fn network(number: u64, prefix: Option<Ipv4Net>) -> v1::CreateNetworkRequest {
    // Addresses that are kept must lie in the prefix.
    let kept = prefix.map(|prefix| Ipv4Addr::from_bits(prefix.network().to_bits() + 9));
    let kept = kept
        .into_iter()
        .flat_map(|address| (0..RESERVED).map(move |n| (format!("{n:0200}"), address.to_string())));

    v1::CreateNetworkRequest {
        name: format!("{BAIT}{number}"),
        prefix: prefix.map(|prefix| prefix.to_string()).unwrap_or_default(),
        mode: v1::NetworkMode::L3.into(),
        labels: padding(LABELS),
        settings: Some(v1::NetworkSettings {
            options: padding(LABELS),
            reserved: kept.collect(),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// A membership with new keys, and more blocks.
pub(super) fn enter(network: &Network, lanes: u8, blocks: u32) -> v1::EnterNetworkRequest {
    let keys = (0..lanes).map(|_| rand::random::<[u8; 32]>().to_vec());

    v1::EnterNetworkRequest { network: network.id.to_string(), lane_keys: keys.collect(), blocks }
}

/// An announcement of as many prefixes and addresses as there may be: those of all private ranges,
/// of the pool, and the addresses of others.
pub(super) fn announcement(turn: u64) -> v1::AnnounceRequest {
    let [_, _, _, _, _, _, high, low] = turn.to_be_bytes();
    let route = |n: usize| {
        let n = u32::try_from(n).unwrap_or_default();
        match n % 2 {
            0 => format!("10.{}.0.0/12 {:060}", (n * 8) & 0xF0, turn),
            _ => format!("{}/24 {:060}", Ipv4Addr::from_bits(0x0A40_0000 + (n << 8)), turn),
        }
    };
    let underlay = (1..=MAX_UNDERLAY).map(|n| format!("192.0.2.{n}"));

    v1::AnnounceRequest {
        underlay: underlay.collect(),
        lane_ports: (0..64).map(|lane| 1 + lane + u32::from(low)).collect(),
        routes: (0..MAX_HOST_PREFIXES).map(route).collect(),
        version: format!("{high}.{low}"),
        differences: Vec::new(),
    }
}
