//! The lanes: the threads that carry packets between containers and the underlay.
//!
//! A packet's way out: a container sends it, the network's namespace routes it to its TUN device,
//! which hands it to one of its queues, by flow; a queue belongs to one lane. `tun` reads it, with
//! luck as part of a super-packet of 64 KiB that `split` takes apart; the lane's engine
//! (`overlay_dataplane`) finds the peer, seals it and makes batches of equal datagrams; `udp` sends
//! a batch in one call. The way in: `udp` receives a batch, the engine opens it and checks who may
//! have sent it, `coalesce` merges packets of one flow, and `tun` writes them in one call.
//!
//! A lane (`lane`) is one thread with everything it needs: a UDP port, an engine, and for every
//! network a queue and a key of its own. Lanes share nothing but who of them is busy (`steering`),
//! so there is no lock on a packet's way. What the rest of the agent wants of them goes through a
//! mailbox (`command`), and the handle on all of them is [`Lanes`].
//!
//! Not here: making TUN devices and namespaces (`kernel`), deciding what the tables hold, anything
//! about WireGuard.

#[cfg(feature = "bench")]
pub mod bench;
mod busy_poll;
mod coalesce;
mod command;
mod counters;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod lane;
mod lane_hand_over;
mod lanes;
mod lanes_hand_over;
mod loopback;
mod packet;
mod queue;
mod report;
mod split;
mod steering;
#[cfg(any(test, fuzzing))]
mod testing;
mod tun;
mod udp;

pub use coalesce::Offload;
pub use command::Busy;
pub use counters::{CounterKind, LaneCounters};
pub use lanes::{
    AddError, Lanes, LanesConfig, LanesError, TunQueues, consecutive_ports, default_lanes,
};
pub use report::{LaneEvent, LaneReport};
pub use udp::LaneSockets;
