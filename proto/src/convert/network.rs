//! Conversion of networks and host reports between wire and core types.

use std::fmt::Display;
use std::net::IpAddr;

use overlay_core::network::{MAX_PREFIX_LEN, MAX_PREFIX6_LEN};
use overlay_core::{
    Creator, Difference, HostPrefix, HostReport, Lease, Network, NetworkMode, NetworkSettings, View,
};

use super::error::{ConversionError, UnfitPrefix};
use super::field::{bounded, field, labels, optional, wire_enum};
use super::link;
use crate::v1;

impl From<Network> for v1::Network {
    fn from(mut network: Network) -> Self {
        let mode = match network.mode {
            NetworkMode::L3 => v1::NetworkMode::L3,
        };
        let links = std::mem::take(&mut network.settings.links);

        Self {
            id: network.id.to_string(),
            name: network.name.to_string(),
            prefix: network.prefix.to_string(),
            prefix6: network.prefix6.map(|p| p.to_string()).unwrap_or_default(),
            mode: mode.into(),
            labels: network.labels,
            settings: Some(network.settings.into()),
            creator: network.creator.map(Into::into),
            links: links.into_iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<v1::Network> for Network {
    type Error = ConversionError;

    fn try_from(network: v1::Network) -> Result<Self, ConversionError> {
        Ok(Self {
            id: field("network.id", &network.id)?,
            name: field("network.name", &network.name)?,
            prefix: network_prefix(&network.prefix)?,
            prefix6: network_prefix6(&network.prefix6)?,
            mode: network_mode(network.mode)?,
            labels: labels(network.labels)?,
            settings: NetworkSettings {
                links: link::links(network.links)?,
                ..network.settings.unwrap_or_default().try_into()?
            },
            creator: network.creator.map(TryInto::try_into).transpose()?,
        })
    }
}

impl From<Creator> for v1::Creator {
    fn from(creator: Creator) -> Self {
        Self { node: creator.node.to_string(), node_name: creator.name.to_string() }
    }
}

impl TryFrom<v1::Creator> for Creator {
    type Error = ConversionError;

    fn try_from(creator: v1::Creator) -> Result<Self, ConversionError> {
        Ok(Self {
            node: field("creator.node", &creator.node)?,
            name: field("creator.node_name", &creator.node_name)?,
        })
    }
}

/// The most reserved addresses of a network.
pub const MAX_RESERVED: usize = 64;
/// The longest name of a network in a container engine, in bytes; engines accept no longer host
/// names, either.
pub const MAX_TITLE: usize = 255;
/// The longest description of what uses a prefix on a host, in bytes.
pub const MAX_HOLDER: usize = 64;
/// The most prefixes that one host may report: a host with more is a router.
pub const MAX_HOST_PREFIXES: usize = 1_024;
/// The most networks that one host may report as different; with more, the host itself needs
/// attention.
pub const MAX_DIFFERENCES: usize = 256;
/// The longest reason for a difference, in bytes.
pub const MAX_REASON: usize = 512;

impl From<NetworkSettings> for v1::NetworkSettings {
    fn from(settings: NetworkSettings) -> Self {
        fn text(value: Option<impl Display>) -> String {
            value.map(|value| value.to_string()).unwrap_or_default()
        }

        Self {
            gateway: text(settings.gateway),
            gateway6: text(settings.gateway6),
            range: text(settings.range),
            reserved: settings
                .reserved
                .into_iter()
                .map(|(name, address)| (name, address.to_string()))
                .collect(),
            internal: settings.internal,
            options: settings.options,
            numbered_by: text(settings.numbered_by),
            title: text(settings.title),
            nodes: settings.nodes.to_string(),
            lease_seconds: settings.lease.map(u32::from).unwrap_or_default(),
        }
    }
}

impl TryFrom<v1::NetworkSettings> for NetworkSettings {
    type Error = ConversionError;

    fn try_from(settings: v1::NetworkSettings) -> Result<Self, ConversionError> {
        bounded("reserved addresses", settings.reserved.len(), MAX_RESERVED)?;
        let reserved = labels(settings.reserved)?.into_iter().map(|(name, address)| {
            let address: IpAddr = field("settings.reserved", &address)?;
            Ok((name, address))
        });
        if settings.title.len() > MAX_TITLE || settings.title.chars().any(char::is_control) {
            return Err(ConversionError::Title);
        }

        Ok(Self {
            gateway: optional("settings.gateway", &settings.gateway)?,
            gateway6: optional("settings.gateway6", &settings.gateway6)?,
            range: optional("settings.range", &settings.range)?,
            reserved: reserved.collect::<Result<_, ConversionError>>()?,
            internal: settings.internal,
            options: labels(settings.options)?,
            numbered_by: optional("settings.numbered_by", &settings.numbered_by)?,
            title: Some(settings.title).filter(|title| !title.is_empty()),
            nodes: field("settings.nodes", &settings.nodes)?,
            lease: lease(settings.lease_seconds)?,
            // Whoever asks for a network does not say what it is linked with.
            links: Vec::new(),
        })
    }
}

/// Reads the lease of a network, in seconds; 0 is none.
///
/// # Errors
///
/// [`ConversionError::Lease`].
pub fn lease(secs: u32) -> Result<Option<Lease>, ConversionError> {
    (secs > 0).then(|| Lease::try_from(secs)).transpose().map_err(ConversionError::Lease)
}

/// Parses the prefixes in use on a host: each `CIDR`, or `CIDR HOLDER` when it is known what uses
/// it.
///
/// # Errors
///
/// [`ConversionError`] for texts that are not prefixes, or for more than 1,024 of them.
pub fn host_prefixes(texts: &[String]) -> Result<Vec<HostPrefix>, ConversionError> {
    bounded("routes", texts.len(), MAX_HOST_PREFIXES)?;
    let read = |text: &String| {
        let (prefix, holder) = text.split_once(' ').unwrap_or((text, ""));
        let prefix: ipnet::IpNet = field("routes", prefix)?;
        if holder.len() > MAX_HOLDER || holder.chars().any(char::is_control) {
            return Err(ConversionError::PrefixHolder(prefix));
        }

        Ok(HostPrefix { prefix: prefix.trunc(), holder: holder.to_owned() })
    };

    texts.iter().map(read).collect()
}

/// Converts the networks that differ on a host.
///
/// # Errors
///
/// [`ConversionError::Difference`] for texts that are too long or contain control characters, and
/// [`ConversionError::TooMany`] for more than 256.
pub fn differences(rows: Vec<v1::Difference>) -> Result<Vec<Difference>, ConversionError> {
    bounded("differences", rows.len(), MAX_DIFFERENCES)?;
    let sound = |text: &str, max: usize| text.len() <= max && !text.chars().any(char::is_control);
    let read = |row: v1::Difference| {
        if row.network.is_empty()
            || !sound(&row.network, MAX_TITLE)
            || !sound(&row.reason, MAX_REASON)
        {
            return Err(ConversionError::Difference {
                max_name: MAX_TITLE,
                max_reason: MAX_REASON,
            });
        }

        Ok(Difference { network: row.network, reason: row.reason })
    };

    rows.into_iter().map(read).collect()
}

/// Makes a difference that control accepts: texts that are too long are truncated.
pub fn difference(network: &str, reason: &str) -> v1::Difference {
    let fitting = |text: &str, max: usize| {
        let sound: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        sound[..sound.floor_char_boundary(max)].to_owned()
    };

    v1::Difference { network: fitting(network, MAX_TITLE), reason: fitting(reason, MAX_REASON) }
}

/// Lists the hosts on which a network differs.
pub fn differences_of(view: &View, network: &Network) -> Vec<v1::HostDifference> {
    let written = |(node, reason): (&overlay_core::Name, &str)| v1::HostDifference {
        node: node.to_string(),
        reason: reason.to_owned(),
    };

    view.differences_of(network).map(written).collect()
}

impl From<Difference> for v1::Difference {
    fn from(row: Difference) -> Self {
        Self { network: row.network, reason: row.reason }
    }
}

impl From<HostReport> for v1::HostReport {
    fn from(row: HostReport) -> Self {
        let prefix =
            |held: &HostPrefix| format!("{} {}", held.prefix, held.holder).trim_end().to_owned();

        Self {
            node: row.node.to_string(),
            node_name: row.name.to_string(),
            prefixes: row.prefixes.iter().map(prefix).collect(),
            differences: row.differences.into_iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<v1::HostReport> for HostReport {
    type Error = ConversionError;

    fn try_from(row: v1::HostReport) -> Result<Self, ConversionError> {
        Ok(Self {
            node: field("host_report.node", &row.node)?,
            name: field("host_report.node_name", &row.node_name)?,
            prefixes: host_prefixes(&row.prefixes)?,
            differences: differences(row.differences)?,
        })
    }
}

/// Converts a network's mode.
///
/// # Errors
///
/// [`ConversionError::Mode`] for a mode this build does not know.
pub fn network_mode(number: i32) -> Result<NetworkMode, ConversionError> {
    match wire_enum::<v1::NetworkMode>(number) {
        v1::NetworkMode::L3 => Ok(NetworkMode::L3),
        v1::NetworkMode::Unspecified => Err(ConversionError::Mode),
    }
}

/// Parses a network's IPv4 prefix: unicast, without host bits, /8 to /29.
///
/// # Errors
///
/// [`ConversionError::Prefix`], or what is wrong with the text.
pub fn network_prefix(text: &str) -> Result<ipnet::Ipv4Net, ConversionError> {
    let prefix: ipnet::Ipv4Net = field("prefix", text)?;
    let refuse = |why| Err(ConversionError::Prefix { prefix: prefix.into(), why });
    let address = prefix.addr();
    if prefix.trunc() != prefix {
        return refuse(UnfitPrefix::HostBits);
    }
    if !(8..=MAX_PREFIX_LEN).contains(&prefix.prefix_len()) {
        return refuse(UnfitPrefix::Length);
    }
    if address.is_loopback()
        || address.is_link_local()
        || address.octets()[0] >= 224
        || address.octets()[0] == 0
    {
        return refuse(UnfitPrefix::Addresses);
    }

    Ok(prefix)
}

/// Parses a network's IPv6 prefix; an empty text stands for none.
///
/// # Errors
///
/// [`ConversionError::Prefix`], or what is wrong with the text.
pub fn network_prefix6(text: &str) -> Result<Option<ipnet::Ipv6Net>, ConversionError> {
    if text.is_empty() {
        return Ok(None);
    }
    let prefix: ipnet::Ipv6Net = field("prefix6", text)?;
    let refuse = |why| Err(ConversionError::Prefix { prefix: prefix.into(), why });
    let address = prefix.addr();
    if prefix.trunc() != prefix {
        return refuse(UnfitPrefix::HostBits);
    }
    if !(16..=MAX_PREFIX6_LEN).contains(&prefix.prefix_len()) {
        return refuse(UnfitPrefix::Length);
    }
    if address.is_loopback()
        || address.is_unspecified()
        || address.is_multicast()
        || address.is_unicast_link_local()
    {
        return refuse(UnfitPrefix::Addresses);
    }

    Ok(Some(prefix))
}
