//! The data path of the nodes that carry packets: an engine and a socket per lane, all on one
//! thread. Echoes are answered.

use std::collections::BTreeMap;
use std::net::UdpSocket;
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result};
use ipnet::IpNet;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use overlay_core::{Member, NetworkId, PublicKey, View};
use overlay_dataplane::{Engine, EngineConfig, LaneId, NetworkTable, PeerLane, PeerTable, Tables};
use overlay_traffic::icmp;
use overlay_traffic::signal::is_stopped;
use overlay_traffic::wait::poll_timeout;

use super::node::{PREFIX, SimulatedNode};

/// The largest inner packet in bytes, as agents have it on an underlay with an MTU of 1,500 bytes.
const MTU: u16 = 1408;
/// The largest datagram, in bytes.
const MAX_DATAGRAM: usize = 65_535;

/// All lanes of all nodes that carry packets.
pub(super) struct Carrier {
    lanes: Vec<Lane>,
    buffer: Vec<u8>,
}

struct Lane {
    network: NetworkId,
    engine: Engine,
    socket: UdpSocket,
}

impl Carrier {
    /// Starts the engines. Their peers are the members in `view` that are not part of the crowd.
    pub(super) fn new(nodes: Vec<SimulatedNode>, view: &View) -> Result<Self> {
        let mut lanes = Vec::new();
        for node in nodes {
            let is_foreign = |member: &&Member| {
                let row = view.nodes.get(&member.node);
                row.is_some_and(|row| !row.name.to_string().starts_with(PREFIX))
            };
            let peers = view
                .members_of(node.network.id)
                .filter(is_foreign)
                .map(|member| Arc::new(peer(view, member)));
            lanes.extend(Lane::of(node, &Arc::new(peers.collect()))?);
        }

        Ok(Self { lanes, buffer: vec![0; MAX_DATAGRAM] })
    }

    /// Carries packets until stopped.
    pub(super) fn run(mut self) -> Result<()> {
        for lane in &mut self.lanes {
            // As an agent does when it starts: its peers may be waiting for it.
            lane.engine.wake_peers(Instant::now());
            lane.carry();
        }
        while !is_stopped() {
            for index in self.wait()? {
                self.lanes[index].receive(&mut self.buffer);
            }
            for lane in &mut self.lanes {
                lane.handle_timeout();
            }
        }

        Ok(())
    }

    /// Waits for a datagram or an engine's timeout, and lists the lanes that have something to
    /// read.
    fn wait(&self) -> Result<Vec<usize>> {
        let due = self.lanes.iter().filter_map(|lane| lane.engine.poll_timeout()).min();
        let timeout = due.map_or(PollTimeout::NONE, |due| {
            poll_timeout(due.saturating_duration_since(Instant::now()))
        });
        let mut all: Vec<_> = self
            .lanes
            .iter()
            .map(|lane| PollFd::new(lane.socket.as_fd(), PollFlags::POLLIN))
            .collect();
        match poll(&mut all, timeout) {
            Ok(_) => {}
            Err(Errno::EINTR) => return Ok(Vec::new()),
            Err(error) => return Err(error).context("cannot wait"),
        }

        Ok((0..all.len()).filter(|&index| all[index].any() == Some(true)).collect())
    }
}

impl Lane {
    /// Starts the engines of one node.
    fn of(node: SimulatedNode, peers: &Arc<Vec<Arc<PeerTable>>>) -> Result<Vec<Self>> {
        let count = u16::try_from(node.sockets.len())?;
        let unix_time = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
        let local: Vec<_> =
            node.member.blocks.iter().map(|block| IpNet::V4(block.prefix)).collect();

        (0..count)
            .zip(node.sockets)
            .zip(node.keys)
            .map(|((lane, socket), private_key)| {
                socket.set_nonblocking(true)?;
                let (peers, local) = (Arc::clone(peers), local.clone());
                let (id, links) = (node.network.id, Arc::default());
                let table = NetworkTable { id, private_key, peers, local, links, mtu: MTU };

                Ok(Self {
                    network: table.id,
                    engine: engine(LaneId(lane), count, table, unix_time),
                    socket,
                })
            })
            .collect()
    }

    fn receive(&mut self, buffer: &mut [u8]) {
        while let Ok((length, from)) = self.socket.recv_from(buffer) {
            self.engine.handle_udp(from, &buffer[..length], length, Instant::now());
            self.carry();
        }
    }

    fn handle_timeout(&mut self) {
        let now = Instant::now();
        if self.engine.poll_timeout().is_some_and(|due| due <= now) {
            self.engine.handle_timeout(now);
            self.carry();
        }
    }

    /// Answers echo requests, and sends whatever the engine has produced.
    fn carry(&mut self) {
        let mut answers = Vec::new();
        while let Some(delivery) = self.engine.poll_tun() {
            answers.extend(
                delivery
                    .packets
                    .iter()
                    .filter_map(|range| icmp::answer(&delivery.bytes[range.clone()])),
            );
        }
        self.engine.handle_tun(self.network, answers.iter().map(Vec::as_slice), Instant::now());
        while let Some(transmit) = self.engine.poll_transmit() {
            for datagram in transmit.bytes.chunks(transmit.segment) {
                // Datagrams that the kernel rejects are lost like any others.
                let _ = self.socket.send_to(datagram, transmit.to);
            }
        }
        while self.engine.poll_event().is_some() {}
    }
}

fn engine(lane: LaneId, lanes: u16, table: NetworkTable, unix_time: Duration) -> Engine {
    let now = Instant::now();
    let mut engine =
        Engine::new(EngineConfig { lane, lanes, seed: rand::random(), now, unix_time });
    engine.publish(
        &Tables { networks: BTreeMap::from([(table.id, Arc::new(table))]), ..Tables::default() },
        now,
    );

    engine
}

/// Returns a member as a peer, with those of its addresses that the sockets here can reach.
fn peer(view: &View, member: &Member) -> PeerTable {
    let node = view.nodes.get(&member.node);
    let lane = |(lane, public_key): (usize, &PublicKey)| {
        let mut candidates = node.map(|node| node.candidates(lane)).unwrap_or_default();
        candidates.retain(|candidate| candidate.address.is_ipv4());

        PeerLane { public_key: *public_key, candidates }
    };

    PeerTable {
        node: member.node,
        lanes: member.lane_keys.iter().enumerate().map(lane).collect(),
        allowed_ips: member.blocks.iter().map(|block| IpNet::V4(block.prefix)).collect(),
    }
}
