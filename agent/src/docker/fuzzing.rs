//! What Docker's engine may ask and answer, for fuzzers.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use futures_util::FutureExt as _;
use hyper::StatusCode;
use ipnet::IpNet;
use overlay_core::{Endpoint, EndpointId, NetworkId, NodeId, Runtime};
use overlay_proto::{Refusal, v1};
use serde_json::Value;

use super::plugin::{
    AddressRequest, ContainerIfname, Driver, EndpointRequest, JoinRequest, Joined, NetworkRequest,
    NewInterface, PoolGranted, PoolRequest, Route, answer, endpoint_id,
};
use super::{engine, naming};

/// The calls that say something.
const CALLS: [&str; 14] = [
    "/IpamDriver.RequestPool",
    "/IpamDriver.ReleasePool",
    "/IpamDriver.RequestAddress",
    "/IpamDriver.ReleaseAddress",
    "/NetworkDriver.CreateNetwork",
    "/NetworkDriver.DeleteNetwork",
    "/NetworkDriver.CreateEndpoint",
    "/NetworkDriver.DeleteEndpoint",
    "/NetworkDriver.Join",
    "/NetworkDriver.Leave",
    "/NetworkDriver.EndpointOperInfo",
    "/NetworkDriver.ProgramExternalConnectivity",
    "/NetworkDriver.AllocateNetwork",
    "/Plugin.Activate",
];

/// A driver that does whatever is asked and checks that it may be asked.
struct Willing;

fn is_id(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

impl Driver for Willing {
    async fn request_pool(&self, request: PoolRequest) -> Result<PoolGranted, Refusal> {
        assert!(
            request.prefix.zip(request.range).is_none_or(|(prefix, range)| prefix.contains(&range))
        );
        let prefix = request.prefix.unwrap_or_else(|| IpNet::from(IpAddr::from([10, 0, 0, 0])));

        Ok(PoolGranted { id: "pool".to_owned(), prefix })
    }

    async fn release_pool(&self, _: String) -> Result<(), Refusal> {
        Ok(())
    }

    async fn request_address(&self, request: AddressRequest) -> Result<IpNet, Refusal> {
        Ok(IpNet::from(request.address.unwrap_or(IpAddr::from([10, 0, 0, 2]))))
    }

    async fn release_address(&self, _: String, _: IpAddr) -> Result<(), Refusal> {
        Ok(())
    }

    async fn create_network(&self, request: NetworkRequest) -> Result<(), Refusal> {
        assert!(is_id(&request.id));

        Ok(())
    }

    async fn delete_network(&self, network: String) -> Result<(), Refusal> {
        assert!(is_id(&network));

        Ok(())
    }

    async fn create_endpoint(&self, request: EndpointRequest) -> Result<NewInterface, Refusal> {
        assert!(is_id(&request.network) && is_id(&request.endpoint));

        Ok(NewInterface { mac: None })
    }

    async fn delete_endpoint(&self, endpoint: String) -> Result<(), Refusal> {
        assert!(is_id(&endpoint));

        Ok(())
    }

    async fn join(&self, request: JoinRequest) -> Result<Joined, Refusal> {
        let destination = IpNet::from(IpAddr::from([10, 0, 0, 0]));
        let ifname = endpoint_id(&request.endpoint).to_string();

        let container_ifname = ContainerIfname::exactly("web0");

        Ok(Joined { ifname, container_ifname, routes: vec![Route { destination, via: None }] })
    }
}

/// Answers a call of the engine's; the first byte says which.
///
/// # Panics
///
/// When the driver is asked for what it must not be, or the answer is not one that engines
/// understand.
pub fn plugin_calls(bytes: &[u8]) {
    let Some((&call, body)) = bytes.split_first() else { return };
    let call = CALLS[usize::from(call) % CALLS.len()];
    let (status, reply) =
        answer(&Willing, call, body).now_or_never().expect("it waits for nothing");
    let told =
        |key: &str| reply.get(key).and_then(Value::as_str).is_some_and(|text| !text.is_empty());
    assert!(reply.is_object());
    assert_eq!(told("Err"), told("Error"), "what one kind of call is told, the other is too");
    assert!(status == StatusCode::OK || told("Err"), "{status} without a reason");
}

/// Reads what the engine's API may answer; the first byte says what was asked. A container of it
/// gets its names.
///
/// # Panics
///
/// When it would be published so that control refuses it.
pub fn engine_answers(bytes: &[u8]) {
    let Some((&kind, answer)) = bytes.split_first() else { return };
    for container in engine::fuzzing::answers(kind, answer) {
        for attachment in container.attachments.values() {
            let named = naming::named(&endpoint(), &container, attachment);
            assert_eq!(Endpoint::try_from(v1::Endpoint::from(named.clone())), Ok(named));
        }
    }
}

fn endpoint() -> Endpoint {
    Endpoint {
        id: EndpointId::FIRST,
        network: NetworkId::FIRST,
        node: NodeId::FIRST,
        name: "endpoint".parse().expect("a name"),
        aliases: BTreeSet::new(),
        addresses: vec![IpAddr::from([10, 0, 0, 2])],
        labels: BTreeMap::new(),
        runtime: Runtime::Docker,
        group: None,
        container: None,
        taken: BTreeSet::new(),
    }
}

#[cfg(test)]
mod tests {
    use crate::corpus;

    #[test]
    fn plugin_calls() {
        corpus::replay("plugin_calls", super::plugin_calls);
    }

    #[test]
    fn engine_answers() {
        corpus::replay("engine_answers", super::engine_answers);
    }
}
