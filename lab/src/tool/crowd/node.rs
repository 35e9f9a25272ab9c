//! One node of the crowd, as control knows it: joined, announced, and in the network with one
//! endpoint.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, UdpSocket};

use anyhow::{Context, Result, bail};
use overlay_core::ipam::Pool;
use overlay_core::{Endpoint, EndpointId, Member, Name, Network, PrivateKey, Runtime};
use overlay_dataplane::public_key;
use overlay_proto::v1::control_client::ControlClient;
use overlay_proto::v1::watch_response::Event;
use overlay_proto::{JoinLine, v1};
use tonic::transport::Channel;

use crate::tool::enrolled_node::EnrolledNode;

/// The prefix of the nodes' names.
pub(crate) const PREFIX: &str = "crowd-";

/// The parameters of a node.
#[derive(Debug)]
pub(super) struct NodePlan {
    /// Its name.
    pub(super) name: Name,
    /// Its underlay address.
    pub(super) address: Ipv4Addr,
    /// The network it enters.
    pub(super) network: Name,
    /// One socket per lane, on that address.
    pub(super) sockets: Vec<UdpSocket>,
}

/// A node that has joined.
#[derive(Debug)]
pub(super) struct SimulatedNode {
    /// The network that it is in.
    pub(super) network: Network,
    /// Its member entry there.
    pub(super) member: Member,
    /// The private keys of its lanes there.
    pub(super) keys: Vec<PrivateKey>,
    /// One socket per lane.
    pub(super) sockets: Vec<UdpSocket>,
    /// The address of its endpoint.
    pub(super) address: IpAddr,
    control: ControlClient<Channel>,
}

impl SimulatedNode {
    /// Does everything that a host does to join and to connect a container to a network.
    pub(super) async fn join(line: &JoinLine, plan: NodePlan) -> Result<Self> {
        let identity = EnrolledNode::join(line, &plan.name).await?;
        let mut control = identity.connect().await?;
        control.announce(announcement(&plan)?).await?;
        let network = find(&mut control, &plan.network).await?;
        let keys: Vec<_> =
            plan.sockets.iter().map(|_| PrivateKey::from(rand::random::<[u8; 32]>())).collect();
        let member = enter(&mut control, &network, &keys).await?;
        let address = Pool::new(&network, &member).allocate(&BTreeSet::new(), None)?;
        let endpoint = Endpoint {
            id: EndpointId::from_random(rand::random()),
            network: network.id,
            node: identity.id,
            name: plan.name,
            aliases: BTreeSet::new(),
            addresses: network.addresses(address),
            labels: BTreeMap::new(),
            runtime: Runtime::Run,
            group: None,
            container: None,
            taken: BTreeSet::new(),
        };
        control.put_endpoints(v1::PutEndpointsRequest { endpoints: vec![endpoint.into()] }).await?;

        Ok(Self { network, member, keys, sockets: plan.sockets, address: address.into(), control })
    }

    /// Opens the watch and returns the first snapshot; what follows is read, so that the watch
    /// stays open.
    pub(super) async fn watch(&self) -> Result<v1::Snapshot> {
        let mut control = self.control.clone();
        let mut stream = control.watch(v1::WatchRequest::default()).await?.into_inner();
        let Some(Event::Snapshot(snapshot)) =
            stream.message().await?.and_then(|response| response.event)
        else {
            bail!("control began a watch without a snapshot");
        };
        tokio::spawn(async move { while matches!(stream.message().await, Ok(Some(_))) {} });

        Ok(snapshot)
    }
}

fn announcement(plan: &NodePlan) -> Result<v1::AnnounceRequest> {
    let port = |socket: &UdpSocket| Ok(u32::from(socket.local_addr()?.port()));

    Ok(v1::AnnounceRequest {
        underlay: vec![plan.address.to_string()],
        lane_ports: plan.sockets.iter().map(port).collect::<Result<_>>()?,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        ..v1::AnnounceRequest::default()
    })
}

pub(crate) async fn find(control: &mut ControlClient<Channel>, name: &Name) -> Result<Network> {
    let list = control.list_networks(v1::ListNetworksRequest {}).await?.into_inner();
    let mut networks = list.networks.into_iter().filter_map(|state| state.network);
    let network = networks.find(|network| network.name == name.to_string());

    Ok(network.with_context(|| format!("there is no network {name}"))?.try_into()?)
}

async fn enter(
    control: &mut ControlClient<Channel>,
    network: &Network,
    keys: &[PrivateKey],
) -> Result<Member> {
    let lane_keys = keys.iter().map(|key| public_key(key).as_bytes().to_vec()).collect();
    let request = v1::EnterNetworkRequest { network: network.id.to_string(), lane_keys, blocks: 1 };
    let entered = control.enter_network(request).await?.into_inner();

    Ok(entered.member.context("control named no membership")?.try_into()?)
}
