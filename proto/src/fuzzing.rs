//! Entry points for fuzzers: one function per kind of input that this crate reads. None of them may
//! ever panic.
//!
//! Their corpora are in `fuzz/corpus`; the tests of this module replay every input there.

use std::fmt::{Debug, Display};
use std::str::FromStr;

use overlay_core::policy::ClusterPolicy;
use overlay_core::{
    Change, ClusterId, Delta, Endpoint, HostReport, Member, Name, Network, NetworkId,
    NetworkSettings, Node, NodeId, PublicKey, RowKey, Selector, View,
};
use prost::Message;

use crate::convert::ConversionError;
use crate::{JoinLine, SignedRevocation, convert, v1};

/// Decodes and converts a message; the first byte says which.
///
/// # Panics
///
/// When writing and reading an accepted value again changes it.
pub fn messages(bytes: &[u8]) {
    let Some((&kind, message)) = bytes.split_first() else { return };
    match kind % 13 {
        0 => converted::<v1::Node, Node>(message),
        1 => converted::<v1::Network, Network>(message),
        2 => converted::<v1::NetworkSettings, NetworkSettings>(message),
        3 => converted::<v1::Member, Member>(message),
        4 => converted::<v1::Endpoint, Endpoint>(message),
        5 => converted::<v1::HostReport, HostReport>(message),
        6 => converted::<v1::RowKey, RowKey>(message),
        7 => converted::<v1::Change, Change>(message),
        8 => converted::<v1::Delta, Delta>(message),
        9 => snapshot(message),
        10 => announced(message),
        11 => {
            let read = SignedRevocation::verified(message, ClusterId::FIRST, &[]);
            assert!(read.is_err(), "no authority signed it");
            let _ = v1::WatchResponse::decode(message);
        }
        _ => converted::<v1::ClusterPolicy, ClusterPolicy>(message),
    }
}

fn converted<M, T>(bytes: &[u8])
where
    M: Message + Default + From<T>,
    T: TryFrom<M, Error = ConversionError> + Clone + PartialEq + Debug,
{
    let Ok(message) = M::decode(bytes) else { return };
    match T::try_from(message) {
        Ok(value) => {
            let written = M::from(value.clone()).encode_to_vec();
            let again = M::decode(&written[..]).expect("it was written");
            assert_eq!(T::try_from(again), Ok(value));
        }
        Err(error) => assert!(!error.to_string().is_empty(), "an error says why"),
    }
}

fn snapshot(bytes: &[u8]) {
    let Ok(message) = v1::Snapshot::decode(bytes) else { return };
    if let Ok(view) = View::try_from(message) {
        assert_eq!(View::try_from(v1::Snapshot::from(&view)).as_ref(), Ok(&view));
    }
}

/// Converts the lists of texts and numbers that nodes announce.
fn announced(bytes: &[u8]) {
    let Ok(request) = v1::AnnounceRequest::decode(bytes) else { return };
    let within = |len: Result<usize, ConversionError>, most: usize| {
        assert!(len.is_err() || len.is_ok_and(|len| len <= most))
    };
    within(
        convert::host_prefixes(&request.routes).map(|all| all.len()),
        convert::MAX_HOST_PREFIXES,
    );
    within(
        convert::differences(request.differences).map(|all| all.len()),
        convert::MAX_DIFFERENCES,
    );
    within(convert::underlay(&request.underlay).map(|all| all.len()), convert::MAX_UNDERLAY);
    within(convert::lane_ports(&request.lane_ports).map(|all| all.len()), convert::MAX_LANES);
}

/// Parses a text written by people or peers; the first byte says which.
///
/// # Panics
///
/// When writing and reading an accepted value again changes it.
pub fn texts(bytes: &[u8]) {
    let Some((&kind, text)) = bytes.split_first() else { return };
    let text = String::from_utf8_lossy(text);
    match kind % 7 {
        0 => join_line(&text),
        1 => written::<Name>(&text),
        2 => written::<NetworkId>(&text),
        3 => written::<NodeId>(&text),
        4 => written::<PublicKey>(&text),
        5 => {
            if let Ok(prefix) = convert::network_prefix(&text) {
                assert_eq!(convert::network_prefix(&prefix.to_string()), Ok(prefix));
            }
            if let Ok(prefix) = convert::network_prefix6(&text) {
                let shown = prefix.map(|prefix| prefix.to_string()).unwrap_or_default();
                assert_eq!(convert::network_prefix6(&shown), Ok(prefix));
            }
        }
        _ => written::<Selector>(&text),
    }
}

fn join_line(text: &str) {
    if let Ok(line) = text.parse::<JoinLine>() {
        let exposed = line.expose();
        assert_eq!(exposed.parse::<JoinLine>().expect("it was written").expose(), exposed);
    }
}

fn written<T: FromStr + Display + PartialEq + Debug>(text: &str) {
    if let Ok(value) = text.parse::<T>() {
        assert_eq!(value.to_string().parse::<T>().ok(), Some(value));
    }
}

#[cfg(test)]
#[path = "../../fuzz/corpus.rs"]
mod corpus;

#[cfg(test)]
mod tests {
    use super::corpus;

    #[test]
    fn messages() {
        corpus::replay("messages", super::messages);
    }

    #[test]
    fn texts() {
        corpus::replay("texts", super::texts);
    }
}
