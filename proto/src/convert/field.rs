//! Fields of messages, each checked; an error names the field.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::str::FromStr;

use overlay_core::PublicKey;

use super::error::{ConversionError, InvalidText};

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

/// Parses the text of a field.
///
/// # Errors
///
/// [`ConversionError::Text`].
pub fn field<T>(field: &'static str, text: &str) -> Result<T, ConversionError>
where
    T: FromStr,
    T::Err: Into<InvalidText>,
{
    text.parse().map_err(|error: T::Err| ConversionError::Text {
        field,
        text: text.to_owned(),
        error: error.into(),
    })
}

/// Parses a field that may be empty.
///
/// # Errors
///
/// The same as [`field`].
pub fn optional<T>(name: &'static str, text: &str) -> Result<Option<T>, ConversionError>
where
    T: FromStr,
    T::Err: Into<InvalidText>,
{
    if text.is_empty() { Ok(None) } else { field(name, text).map(Some) }
}

/// Checks labels: at most 64, with non-empty keys, and at most 255 bytes without control characters
/// for keys and values.
///
/// # Errors
///
/// [`ConversionError::Label`], or [`ConversionError::TooMany`].
pub fn labels(
    labels: BTreeMap<String, String>,
) -> Result<BTreeMap<String, String>, ConversionError> {
    bounded("labels", labels.len(), MAX_LABELS)?;
    for (key, value) in &labels {
        let fits = |text: &str| text.len() <= MAX_LABEL && !text.chars().any(char::is_control);
        if key.is_empty() || !fits(key) || !fits(value) {
            return Err(ConversionError::Label(key.clone()));
        }
    }

    Ok(labels)
}

/// Refuses a list with too many entries.
pub(super) fn bounded(
    entries: &'static str,
    len: usize,
    max: usize,
) -> Result<(), ConversionError> {
    if len <= max { Ok(()) } else { Err(ConversionError::TooMany { entries, len, max }) }
}

/// Parses a list of fields.
pub(super) fn fields<T>(
    name: &'static str,
    texts: &[String],
    max: usize,
) -> Result<Vec<T>, ConversionError>
where
    T: FromStr,
    T::Err: Into<InvalidText>,
{
    bounded(name, texts.len(), max)?;

    texts.iter().map(|text| field(name, text)).collect()
}

/// Checks the UDP ports of a node's lanes.
///
/// # Errors
///
/// [`ConversionError::LanePort`], or [`ConversionError::TooMany`].
pub fn lane_ports(ports: &[u32]) -> Result<Vec<u16>, ConversionError> {
    bounded("lane ports", ports.len(), MAX_LANES)?;

    ports
        .iter()
        .map(|&port| {
            u16::try_from(port)
                .ok()
                .filter(|&port| port != 0)
                .ok_or(ConversionError::LanePort(port))
        })
        .collect()
}

/// Checks the addresses at which a node may be reached.
///
/// # Errors
///
/// [`ConversionError::Underlay`] for anything but unicast addresses, or what is wrong with a text.
pub fn underlay(addresses: &[String]) -> Result<Vec<IpAddr>, ConversionError> {
    let addresses: Vec<IpAddr> = fields("underlay address", addresses, MAX_UNDERLAY)?;
    for &address in &addresses {
        let broadcast = matches!(address, IpAddr::V4(v4) if v4.is_broadcast());
        if address.is_unspecified() || address.is_multicast() || broadcast {
            return Err(ConversionError::Underlay(address));
        }
    }

    Ok(addresses)
}

/// Checks a member's lane keys.
///
/// # Errors
///
/// [`ConversionError::Missing`] when there is none, [`ConversionError::TooMany`], or
/// [`ConversionError::LaneKey`] when one does not have 32 bytes.
pub fn lane_keys(keys: &[Vec<u8>]) -> Result<Vec<PublicKey>, ConversionError> {
    bounded("lane keys", keys.len(), MAX_LANES)?;
    if keys.is_empty() {
        return Err(ConversionError::Missing("lane_keys"));
    }

    keys.iter().map(|key| Ok(PublicKey::try_from(key.as_slice())?)).collect()
}

/// Converts the number of an enum; unknown numbers become unspecified, which the conversions
/// refuse.
pub fn wire_enum<T: TryFrom<i32> + Default>(number: i32) -> T {
    T::try_from(number).unwrap_or_default()
}
