//! The way of one changed endpoint through the agent, part by part, for the benchmarks of this
//! crate. What the kernel itself takes is in `kernel` alone.

mod kernel;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ipnet::Ipv4Net;
use overlay_core::{
    Block, Change, Delta, Endpoint, EndpointId, Member, Network, NetworkId, NetworkMode,
    NetworkSettings, Node, NodeId, PrivateKey, PublicKey, Revision, Role, Runtime, View,
};
use overlay_dataplane::{Engine, EngineConfig, LaneId};

use super::wanted::{Sources, Wanted};
use crate::backend::lane_tables::LaneTables;
use crate::desired::NetworkDesired;
use crate::dns::Names;
use crate::kernel::{InterfaceDesired, Step, Strays, TunDesired};
use crate::membership::Membership;
use crate::state::journal::Entries;

pub use kernel::{KernelCost, KernelNetwork};

const NETWORK: NetworkId = NetworkId::FIRST;
const MTU: u32 = 1408;
/// Where the endpoints of a block begin.
const FIRST_ENDPOINT: u32 = 10;

/// How large the network is.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    /// The lanes of each node.
    pub lanes: u16,
    /// The members, this node among them.
    pub members: u32,
    /// The endpoints of each member.
    pub endpoints: u32,
    /// Where their addresses are.
    pub placement: Placement,
}

/// Where the addresses of endpoints are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placement {
    /// In the blocks of their nodes, so that one route leads to all endpoints of a node.
    InBlocks,
    /// Outside, as where a container engine assigns them, so that each has a route of its own.
    Outside,
}

/// What changes of an endpoint on another node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Move {
    /// It gets another address of its node's block, so packets to it go where they went.
    WithinBlock,
    /// It gets an address outside of its node's block, or one inside again.
    OutOfBlock,
}

/// How long each part took.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Parts {
    /// Applying the delta to the view.
    pub view: Duration,
    /// Computing what is wanted.
    pub wanted: Duration,
    /// Making the tables of all lanes.
    pub tables: Duration,
    /// Publishing them in the engines of all lanes.
    pub engines: Duration,
    /// Comparing what is wanted of the kernel with what it holds.
    pub kernel: Duration,
    /// Publishing the names.
    pub names: Duration,
}

impl Parts {
    /// Returns the sum.
    pub fn whole(&self) -> Duration {
        self.view + self.wanted + self.tables + self.engines + self.kernel + self.names
    }
}

/// An agent with one large network, without its shells.
pub struct LargeNetwork {
    membership: Membership,
    journal: Entries,
    own: Arc<BTreeSet<IpAddr>>,
    keys: Vec<PrivateKey>,
    wanted: Wanted,
    lanes: LaneTables,
    engines: Vec<Engine>,
    desired: Option<Arc<NetworkDesired>>,
    names: Arc<Names>,
    size: Size,
    changes: u32,
}

impl LargeNetwork {
    /// Makes an agent that has seen its network whole. Each member holds a /24 of 10.0.0.0/8 with
    /// the IPv6 prefix below.
    ///
    /// # Panics
    ///
    /// With more than 30,000 members, or more than 100 endpoints of each.
    pub fn new(size: Size) -> Self {
        assert!(size.members <= 30_000 && size.endpoints <= 100, "the addresses do not suffice");
        let now = Instant::now();
        let engine = |lane| {
            Engine::new(EngineConfig {
                lane: LaneId(lane),
                lanes: size.lanes,
                seed: [7; 32],
                now,
                unix_time: Duration::from_secs(1),
            })
        };
        let mut network = Self {
            membership: Membership::kept(View::from_rows(Revision(1), rows(size))),
            journal: Entries::default(),
            own: Arc::default(),
            keys: (0..size.lanes).map(|lane| key(0, lane)).map(PrivateKey::from).collect(),
            wanted: Wanted::new(),
            lanes: LaneTables::new(size.lanes.into()),
            engines: (0..size.lanes).map(engine).collect(),
            desired: None,
            names: Arc::default(),
            size,
            changes: 0,
        };
        network.compute();
        network.publish();
        network.desired = network.wanted.networks().get(&NETWORK).cloned();

        network
    }

    /// Lets one endpoint change.
    ///
    /// # Panics
    ///
    /// When anything did not come where it belongs.
    pub fn change(&mut self, how: Move) -> Parts {
        let delta = self.next_delta(how);
        let parts = self.follow(delta);
        let (kernel, steps) = timed(|| self.plan());
        assert_eq!(steps.len(), self.routes_of(how), "{steps:?}");

        Parts { kernel, ..parts }
    }

    /// Does all that comes of a delta but for the kernel's part.
    fn follow(&mut self, delta: Delta) -> Parts {
        let (view, ()) = timed(|| self.membership.go_on(delta, node(0)).expect("the next delta"));
        let (wanted, ()) = timed(|| self.compute());
        let (tables, engines) = self.publish();
        let (names, ()) = timed(|| self.names = Arc::new(self.wanted.names()));

        Parts { view, wanted, tables, engines, kernel: Duration::ZERO, names }
    }

    /// Returns how many routes of both families a change makes, replaces or removes.
    fn routes_of(&self, how: Move) -> usize {
        match (self.size.placement, how) {
            (Placement::InBlocks, Move::WithinBlock) => 0,
            (Placement::InBlocks, Move::OutOfBlock) => 2,
            // One address goes and another comes.
            (Placement::Outside, Move::WithinBlock | Move::OutOfBlock) => 4,
        }
    }

    fn compute(&mut self) {
        let strays = Strays::default();
        self.wanted.update(Sources {
            node: node(0),
            membership: &self.membership,
            journal: &self.journal,
            strays: &strays,
            own: &self.own,
            mtu: MTU,
            interface: &|_, mtu| interface(mtu),
            keys: &|_| Some(self.keys.clone()),
        });
    }

    fn publish(&mut self) -> (Duration, Duration) {
        let (computing, tables) = timed(|| self.lanes.update(self.wanted.configs()));
        let now = Instant::now();
        let (publishing, ()) = timed(|| {
            for (engine, tables) in self.engines.iter_mut().zip(&tables) {
                engine.publish(tables, now);
            }
        });

        (computing, publishing)
    }

    fn plan(&mut self) -> Vec<Step> {
        let desired = &self.wanted.networks()[&NETWORK];
        if self.desired.as_ref() == Some(desired) {
            return Vec::new();
        }
        let held = self.desired.replace(Arc::clone(desired)).expect("it was seen whole");

        desired.namespace.route_steps(&held.namespace).expect("only routes differ")
    }

    /// Every second change takes back the one before.
    fn next_delta(&mut self, how: Move) -> Delta {
        let (at, is_back) = (self.changes / 2, self.changes % 2 == 1);
        self.changes += 1;
        let member = 1 + at % (self.size.members - 1);
        let number = at / (self.size.members - 1) % self.size.endpoints;
        let mut endpoint = endpoint(self.size.placement, member, number);
        if !is_back {
            let address = match (self.size.placement, how) {
                (Placement::InBlocks, Move::WithinBlock) => {
                    address(member, FIRST_ENDPOINT + 100 + number)
                }
                (Placement::InBlocks, Move::OutOfBlock) => outside(member, number),
                (Placement::Outside, Move::WithinBlock | Move::OutOfBlock) => {
                    outside(member, 100 + number)
                }
            };
            endpoint.addresses = row().addresses(address);
        }
        let from = self.membership.view.revision;

        Delta {
            from,
            to: from.next(),
            changes: vec![Change::Endpoint(endpoint)],
            put_out: Vec::new(),
            stamp: None,
        }
    }
}

fn timed<T>(part: impl FnOnce() -> T) -> (Duration, T) {
    let start = Instant::now();
    let value = part();

    (start.elapsed(), value)
}

fn interface(mtu: u32) -> InterfaceDesired {
    InterfaceDesired::Tun(TunDesired { mtu, queues: 8 })
}

fn node(member: u32) -> NodeId {
    NodeId::from_random(u64::from(member) + 1)
}

fn key(member: u32, lane: u16) -> [u8; 32] {
    let mut key = [9; 32];
    key[..4].copy_from_slice(&member.to_be_bytes());
    key[4..6].copy_from_slice(&lane.to_be_bytes());

    key
}

fn address(block: u32, host: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(10 << 24 | block << 8 | host)
}

/// An address in nobody's block.
fn outside(member: u32, number: u32) -> Ipv4Addr {
    address(member + 0x8000, FIRST_ENDPOINT + number)
}

fn row() -> Network {
    Network {
        id: NETWORK,
        name: "net".parse().expect("a name"),
        prefix: "10.0.0.0/8".parse().expect("a prefix"),
        prefix6: Some("fd42::/64".parse().expect("a prefix")),
        mode: NetworkMode::L3,
        labels: BTreeMap::new(),
        settings: NetworkSettings::default(),
        creator: None,
    }
}

fn endpoint(placement: Placement, member: u32, number: u32) -> Endpoint {
    let id = u64::from(member) << 16 | u64::from(number + 1);
    let address = match placement {
        Placement::InBlocks => address(member, FIRST_ENDPOINT + number),
        Placement::Outside => outside(member, number),
    };

    Endpoint {
        id: EndpointId::from_random(id.wrapping_mul(0x9E37_79B9_7F4A_7C15)),
        network: NETWORK,
        node: node(member),
        name: format!("e{member}-{number}").parse().expect("a name"),
        aliases: BTreeSet::new(),
        addresses: row().addresses(address),
        labels: BTreeMap::new(),
        runtime: Runtime::Run,
        group: None,
        container: None,
        taken: BTreeSet::new(),
    }
}

fn rows(size: Size) -> impl Iterator<Item = Change> {
    let of = move |member: u32| {
        let [_, _, third, fourth] = member.to_be_bytes();
        let machine = Node {
            id: node(member),
            name: format!("node-{member}").parse().expect("a name"),
            role: Role::Node,
            labels: BTreeMap::new(),
            underlay: vec![[192, 168, third, fourth].into()],
            lane_ports: (51_820..51_820 + size.lanes).collect(),
        };
        let lane_keys = (0..size.lanes).map(|lane| PublicKey::from(key(member, lane)));
        let prefix = Ipv4Net::new(address(member, 0), 24).expect("a prefix length");
        let member_row = Member {
            network: NETWORK,
            node: node(member),
            lane_keys: lane_keys.collect(),
            blocks: vec![Block { prefix, epoch: 1 }],
        };
        let endpoints =
            (0..size.endpoints).map(move |number| endpoint(size.placement, member, number));

        [Change::Node(machine), Change::Member(member_row)]
            .into_iter()
            .chain(endpoints.map(Change::Endpoint))
    };

    std::iter::once(Change::Network(row())).chain((0..size.members).flat_map(of))
}
