//! Fields of messages, each checked; a refusal names the field.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::net::IpAddr;
use std::str::FromStr;

use overlay_core::PublicKey;

use crate::refusal::{Code, Refusal};

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
                format!(
                    "label {shown:?}: keys and values have 1 to 255 bytes and no control characters"
                ),
            ));
        }
    }

    Ok(labels)
}

/// Refuses a list with too many entries.
pub(super) fn bounded(what: &str, len: usize, max: usize) -> Result<(), Refusal> {
    if len <= max {
        Ok(())
    } else {
        Err(Refusal::new(Code::InvalidInput, format!("{len} {what} are more than {max}")))
    }
}

/// Says that a field is missing.
pub(super) fn missing(name: &str) -> Refusal {
    Refusal::new(Code::InvalidInput, format!("{name} is missing"))
}

/// Parses a list of fields.
pub(super) fn fields<T>(name: &str, texts: &[String], max: usize) -> Result<Vec<T>, Refusal>
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
            u16::try_from(port).ok().filter(|&port| port != 0).ok_or_else(|| {
                Refusal::new(Code::InvalidInput, format!("lane port {port} is not 1 to 65535"))
            })
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

/// Converts the number of an enum; unknown numbers become unspecified, which the conversions
/// refuse.
pub fn wire_enum<T: TryFrom<i32> + Default>(number: i32) -> T {
    T::try_from(number).unwrap_or_default()
}
