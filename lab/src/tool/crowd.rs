//! `overlay-lab crowd`: many nodes in one process, as control and the other nodes see them.
//!
//! Each joins with a token and keys of its own, announces itself, enters the network with one
//! endpoint, and keeps its watch open. The first of them also carry packets. They have no agent and
//! no kernel state of their own.

mod carrier;
mod node;

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Instant;

use anyhow::{Context, Result};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use overlay_core::{Name, View};
use overlay_proto::JoinLine;
use overlay_traffic::announcement::announce;
use overlay_traffic::signal::stop_on_signal;
use serde::{Deserialize, Serialize};

use self::carrier::Carrier;
use self::node::{NodePlan, SimulatedNode};
pub(crate) use self::node::{PREFIX, find};
use super::raise_descriptor_limit;

/// How many nodes join, or open their watch, at a time.
const AT_ONCE: usize = 16;

/// Options of `crowd`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Options {
    /// Join line with a token that admits this many nodes
    #[arg(long)]
    join: JoinLine,
    /// Network that they enter
    #[arg(long)]
    network: Name,
    /// Underlay address of this host, which all of them announce
    #[arg(long)]
    address: Ipv4Addr,
    /// Number of nodes
    #[arg(long, default_value_t = 1000)]
    nodes: usize,
    /// Number of nodes that carry packets and answer echoes
    #[arg(long, default_value_t = 50)]
    carrying: usize,
    /// Number of lanes of each node
    #[arg(long, default_value_t = 2)]
    lanes: u16,
}

/// The output once all of them have joined, as JSON.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct CrowdReport {
    /// How long joining took, from the first to the last.
    pub(crate) join_seconds: f64,
    /// How long it took until all of them had seen the whole membership.
    pub(crate) watch_seconds: f64,
    /// The endpoints' addresses of those that carry packets.
    pub(crate) addresses: Vec<IpAddr>,
}

/// Makes all of them join, reports that, and carries packets until stopped.
///
/// # Errors
///
/// If control refuses one of them, or the system provides no sockets.
pub(crate) fn run(options: &Options) -> Result<()> {
    stop_on_signal()?;
    raise_descriptor_limit()?;
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let start = Instant::now();
    let mut nodes = runtime.block_on(join(options))?;
    let joined = start.elapsed();
    let view = runtime.block_on(watch(&nodes))?;

    let watching = start.elapsed() - joined;
    let carrying: Vec<_> = nodes.drain(..options.carrying.min(nodes.len())).collect();
    let report = CrowdReport {
        join_seconds: joined.as_secs_f64(),
        watch_seconds: watching.as_secs_f64(),
        addresses: carrying.iter().map(|node| node.address).collect(),
    };
    let carrier = Carrier::new(carrying, &view)?;
    announce(serde_json::to_string(&report)?)?;

    carrier.run()
}

async fn join(options: &Options) -> Result<Vec<SimulatedNode>> {
    let join =
        |number| async move { SimulatedNode::join(&options.join, plan(options, number)?).await };

    stream::iter(1..=options.nodes).map(join).buffered(AT_ONCE).try_collect().await
}

fn plan(options: &Options, number: usize) -> Result<NodePlan> {
    let bind = |_| UdpSocket::bind(SocketAddr::from((options.address, 0)));

    Ok(NodePlan {
        name: format!("{PREFIX}{number}").parse()?,
        address: options.address,
        network: options.network.clone(),
        sockets: (0..options.lanes).map(bind).collect::<Result<_, _>>()?,
    })
}

/// Opens all watches, and returns the first node's view once the last has joined.
async fn watch(nodes: &[SimulatedNode]) -> Result<View> {
    let snapshots: Vec<_> =
        stream::iter(nodes).map(SimulatedNode::watch).buffered(AT_ONCE).try_collect().await?;
    let first = snapshots.into_iter().next().context("a crowd has a node")?;

    Ok(View::try_from(first)?)
}
