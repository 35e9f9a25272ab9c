//! Where fuzzers come in: one function for each kind of input that this crate reads. None of them
//! may ever panic.
//!
//! Their corpora are in `fuzz/corpus`; tests give every input there again.

use overlay_core::Change;
use overlay_proto::v1;
use prost::Message as _;
use serde::Serialize;
use serde::de::DeserializeOwned;

pub use crate::dns::fuzzing::{dns_answers, dns_queries};
pub use crate::docker::fuzzing::{engine_answers, plugin_calls};
pub use crate::path::fuzzing::{merged_packets, tun_reads};

use crate::dns::fuzzing::resolv_conf;
use crate::endpoint::request::{AttachSpec, find_network, try_fixed};
use crate::endpoint::sandbox::parse_start_time;
use crate::state::{DockerNetwork, DockerPool, EndpointRecord, Identity, Joining};

/// Reads a file of the host's: the first byte says which.
pub fn host_files(bytes: &[u8]) {
    let Some((&kind, file)) = bytes.split_first() else { return };
    match kind % 2 {
        0 => resolv_conf(file),
        _ => drop(parse_start_time(&String::from_utf8_lossy(file))),
    }
}

/// Reads a value that the agent kept; the first byte says of which kind.
///
/// # Panics
///
/// When what was read is not what is written of it.
pub fn agent_state(bytes: &[u8]) {
    let Some((&kind, value)) = bytes.split_first() else { return };
    match kind % 6 {
        0 => kept::<Change>(value),
        1 => kept::<EndpointRecord>(value),
        2 => kept::<Identity>(value),
        3 => kept::<Joining>(value),
        4 => kept::<DockerPool>(value),
        _ => kept::<DockerNetwork>(value),
    }
}

fn kept<T: Serialize + DeserializeOwned>(bytes: &[u8]) {
    let Ok(value) = serde_json::from_slice::<T>(bytes) else { return };
    let written = serde_json::to_string(&value).expect("it was read");
    let again = serde_json::from_str::<T>(&written).expect("it was written");
    assert_eq!(serde_json::to_string(&again).expect("it was read"), written);
}

/// Reads what `overlayctl` may ask, as the wire has it.
///
/// # Panics
///
/// When an address is accepted that a network keeps for itself.
pub fn attach_requests(bytes: &[u8]) {
    let Ok(request) = v1::AttachRequest::decode(bytes) else { return };
    let Ok(wanted) = AttachSpec::try_from(request) else { return };
    let view = crate::dns::fuzzing::view();
    if let (Some(network), Some(address)) = (find_network(&view, &wanted.network), wanted.address)
        && try_fixed(network, address).is_ok()
    {
        assert!(
            network.prefix.contains(&address)
                && address != network.gateway()
                && !network.is_reserved(address)
        );
    }
}

#[cfg(test)]
mod tests {
    use crate::corpus;

    #[test]
    fn host_files() {
        corpus::replay("host_files", super::host_files);
    }

    #[test]
    fn agent_state() {
        corpus::replay("agent_state", super::agent_state);
    }

    #[test]
    fn attach_requests() {
        corpus::replay("attach_requests", super::attach_requests);
    }
}
