//! The fields of the engine's requests, each checked.

use std::collections::BTreeMap;
use std::net::IpAddr;

use overlay_proto::convert::{self, InvalidText, MAX_LABELS};
use overlay_proto::{Code, Refusal};
use serde::Deserialize;
use serde_json::Value;

/// The most hexadecimal digits of one of Docker's ids.
const MAX_ID: usize = 64;
/// The most options that are looked at; far fewer are known.
const MAX_OPTIONS: usize = MAX_LABELS;
/// The most bytes of a pool's name; ours are far shorter.
const MAX_POOL: usize = 128;

/// Refuses what the engine says.
pub(super) fn refuse<T>(text: impl std::fmt::Display) -> Result<T, Refusal> {
    Err(Refusal::new(Code::InvalidInput, text))
}

/// Checks an id of Docker's.
pub(super) fn id(what: &str, text: String) -> Result<String, Refusal> {
    let sound = (1..=MAX_ID).contains(&text.len())
        && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));

    if sound {
        Ok(text)
    } else {
        refuse(format!("{what} is no id of Docker's: 1 to 64 hexadecimal digits"))
    }
}

/// Checks the name of a pool.
pub(super) fn pool(text: String) -> Result<String, Refusal> {
    let sound = (1..=MAX_POOL).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic());

    if sound { Ok(text) } else { refuse("PoolID is none of ours") }
}

/// Reads a value that may be missing.
pub(super) fn optional<T>(what: &'static str, text: &str) -> Result<Option<T>, Refusal>
where
    T: std::str::FromStr,
    T::Err: Into<InvalidText>,
{
    Ok(convert::optional(what, text)?)
}

/// The engine writes addresses with or without a prefix length.
pub(super) fn address(what: &'static str, text: &str) -> Result<Option<IpAddr>, Refusal> {
    optional(what, text.split('/').next().unwrap_or_default())
}

/// Lists the options that are texts.
pub(super) fn words(options: Option<&Value>) -> BTreeMap<String, String> {
    let Some(Value::Object(options)) = options else { return BTreeMap::new() };
    let text = |value: &Value| value.as_str().map(str::to_owned);

    options
        .iter()
        .filter_map(|(key, value)| Some((key.clone(), text(value)?)))
        .take(MAX_OPTIONS)
        .collect()
}

/// `null`, a missing field and `{}` are the same.
pub(super) type Options = Option<BTreeMap<String, Value>>;

/// Finds an option.
pub(super) fn option<'a>(options: &'a Options, key: &str) -> Option<&'a Value> {
    options.as_ref()?.get(key)
}

/// Reads an address of one family, with or without a prefix length.
pub(super) fn address_of<T>(what: &'static str, text: &str) -> Result<Option<T>, Refusal>
where
    T: std::str::FromStr,
    T::Err: Into<InvalidText>,
{
    optional(what, text.split('/').next().unwrap_or_default())
}

/// A request that was sent again over a new connection comes without a body; it must not pass for
/// one that says nothing.
pub(super) fn read<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, Refusal> {
    if body.is_empty() {
        return refuse("the request has no body");
    }
    // An array's values would be taken for the fields, in order.
    if body.iter().find(|byte| !byte.is_ascii_whitespace()) != Some(&b'{') {
        return refuse("the request is no JSON object");
    }

    serde_json::from_slice(body)
        .or_else(|error| refuse(format!("the request cannot be read: {error}")))
}
