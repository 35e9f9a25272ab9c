//! `overlayctl ping`: finds what a name means, and asks it for echoes from inside the network.

use std::net::IpAddr;
use std::time::Duration;

use overlay_core::{Name, NetworkId, View, message};
use overlay_proto::{Code, Refusal, v1};
use tokio::sync::mpsc;
use tokio::time::sleep;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use crate::dns::Names;
use crate::endpoint::lifecycle::Endpoints;
use crate::endpoint::request::require_network;
use crate::endpoint::sandbox::SandboxError;
use crate::kernel::Pins;
use crate::ping::{PingError, Pinger};
use crate::problem::explain;

/// Answers that wait for a slow reader.
const QUEUE: usize = 16;
/// Probes at the most in one call.
const MAX_COUNT: u32 = 10_000;
/// The longest pause and patience, in milliseconds.
const MAX_MS: u32 = 60_000;

/// What is asked, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Target {
    network: NetworkId,
    address: IpAddr,
    node_name: String,
}

/// Pings; the answers come as they do.
pub(super) async fn ping(
    endpoints: &Endpoints,
    request: &v1::PingRequest,
) -> Result<ReceiverStream<Result<v1::PingResponse, Status>>, Refusal> {
    let target = find(
        &endpoints.memberships.local_view(),
        endpoints.node(),
        &request.target,
        &request.network,
    )?;
    let netns = Pins::new(&endpoints.run_dir).open(target.network).map_err(SandboxError::Kernel)?;
    let netns = netns
        .ok_or_else(|| Refusal::new(Code::WrongState, "the network is not up on this node yet"))?;
    let id = rand::random();
    let pinger = Pinger::open(&netns, target.address, id)
        .await
        .map_err(|error| unsendable(target.address, &error))?;
    let count = if request.count == 0 { 4 } else { request.count.min(MAX_COUNT) };
    let interval = milliseconds(request.interval_ms);
    let patience = milliseconds(request.timeout_ms);
    let (sender, answers) = mpsc::channel(QUEUE);

    // Ends with its reader.
    tokio::spawn(async move {
        for sequence in 1..=count {
            let probed =
                pinger.probe(u16::try_from(sequence & 0xFFFF).unwrap_or_default(), patience).await;
            let answered = probed.is_ok();
            if sender.send(Ok(response(&target, sequence, probed))).await.is_err() {
                return;
            }
            if sequence < count {
                sleep(if answered { interval } else { interval.saturating_sub(patience) }).await;
            }
        }
    });

    Ok(ReceiverStream::new(answers))
}

fn unsendable(address: IpAddr, error: &PingError) -> Refusal {
    Refusal::new(Code::Kernel, format!("nothing can be sent to {address}: {}", explain(error)))
}

fn milliseconds(asked: u32) -> Duration {
    Duration::from_millis(if asked == 0 { 1_000 } else { asked.min(MAX_MS).into() })
}

fn response(
    target: &Target,
    sequence: u32,
    probed: Result<Duration, PingError>,
) -> v1::PingResponse {
    let (rtt, error) = match probed {
        Ok(rtt) => (u64::try_from(rtt.as_micros()).unwrap_or(u64::MAX).max(1), String::new()),
        Err(error) => (0, explain(&error)),
    };

    v1::PingResponse {
        address: target.address.to_string(),
        node_name: target.node_name.clone(),
        sequence,
        rtt_micros: rtt,
        error,
    }
}

/// Finds an address, an endpoint or a node, in that order, in the networks this node is a member
/// of.
fn find(view: &View, own: overlay_core::NodeId, text: &str, only: &str) -> Result<Target, Refusal> {
    let only = if only.is_empty() { None } else { Some(require_network(view, only)?.id) };
    let mine = |network: &NetworkId| {
        view.member(*network, own).is_some() && only.is_none_or(|id| id == *network)
    };
    let found = match text.parse::<IpAddr>() {
        Ok(address) => by_address(view, address),
        Err(_) => {
            let named = Names::new(view, std::iter::empty::<Vec<_>>()).find(text);
            if named.is_empty() { by_node(view, text) } else { named }
        }
    };

    let target = found.into_iter().find(|(network, _)| mine(network));
    let (network, address) = target.ok_or_else(|| {
        let shown = message::excerpt(text);
        let text = format!(
            "{shown:?} is not known in any network of this node: `overlayctl ps` and `overlayctl node ls` list the names"
        );
        Refusal::new(Code::NotFound, text)
    })?;

    Ok(Target { network, address, node_name: node_of(view, network, address) })
}

fn by_address(view: &View, address: IpAddr) -> Vec<(NetworkId, IpAddr)> {
    let contains = |network: &&overlay_core::Network| match address {
        IpAddr::V4(v4) => network.prefix.contains(&v4),
        IpAddr::V6(v6) => network.prefix6.is_some_and(|prefix| prefix.contains(&v6)),
    };

    view.networks.values().filter(contains).map(|network| (network.id, address)).collect()
}

fn by_node(view: &View, text: &str) -> Vec<(NetworkId, IpAddr)> {
    let node = text.parse::<Name>().ok().and_then(|name| view.node_named(&name));
    let address = |member: &overlay_core::Member| {
        let network = view.networks.get(&member.network)?;
        Some((network.id, IpAddr::V4(member.node_address(network)?)))
    };

    node.into_iter().flat_map(|node| view.memberships_of(node.id).filter_map(address)).collect()
}

fn node_of(view: &View, network: NetworkId, address: IpAddr) -> String {
    let endpoint =
        view.endpoints_of(network).find(|e| e.addresses.contains(&address)).map(|e| e.node);
    let in_block = |member: &&overlay_core::Member| match address {
        IpAddr::V4(v4) => member.blocks.iter().any(|block| block.prefix.contains(&v4)),
        IpAddr::V6(_) => false,
    };
    let node =
        endpoint.or_else(|| view.members_of(network).find(in_block).map(|member| member.node));

    node.and_then(|node| view.nodes.get(&node))
        .map(|node| node.name.to_string())
        .unwrap_or_default()
}
