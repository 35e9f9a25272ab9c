//! Which of a TUN device's queues a packet is written to: sparse flows leave a busy lane. Pure, but
//! for what lanes tell each other.
//!
//! The kernel hands a flow's packets to the queue through which packets of its other direction were
//! last written (`tun_flow_update` in `drivers/net/tun.c`). A lane that carries a bulk flow has a
//! queue of super-packets in front of it, and whoever shares the lane stands in that queue, for
//! milliseconds. So a busy lane writes the packets of sparse flows through the queue of a lane that
//! is not: the answers go that way, the peer hears them on another port, and does the same. A flow
//! moves when it is heard from, once, and stays where it went; a bulk flow and its acknowledgements
//! never move.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use super::packet::Segment;

/// What is carried is counted by windows of this length; the last one counts as well.
const WINDOW: Duration = Duration::from_millis(10);
/// More than this in two windows, and a lane is busy: some 100 Mbit/s, of which a queue may be.
const BUSY: u32 = 256 << 10;
/// More than this in two windows, and a flow is not sparse: some 6 Mbit/s.
const SPARSE: u32 = 16 << 10;
/// A lane that was busy within this many windows may be so again at once.
const RECENT: u32 = 3;
/// How many flows are told apart; flows that share a place share their bytes. 3 KiB a lane.
const FLOW_SLOTS: usize = 256;

/// Where lanes say that they are busy.
#[derive(Debug)]
pub(crate) struct LaneLoad {
    start: Instant,
    /// For each lane the number of the window in which it was last busy.
    busy: Box<[AtomicU32]>,
}

impl LaneLoad {
    /// Begins with `lanes` lanes, none of them busy.
    pub(crate) fn new(lanes: usize, now: Instant) -> Self {
        Self { start: now, busy: (0..lanes).map(|_| AtomicU32::new(0)).collect() }
    }

    /// Numbers windows from [`RECENT`] on, so that none is close to the start. Comes round after a
    /// year.
    fn window(&self, now: Instant) -> u32 {
        let windows = now.saturating_duration_since(self.start).as_millis() / WINDOW.as_millis();

        // Truncation is what coming round means.
        (windows & u128::from(u32::MAX))
            .try_into()
            .map_or(0, |window: u32| window.wrapping_add(RECENT))
    }
}

/// Bytes carried in this window and the last.
#[derive(Debug, Clone, Copy, Default)]
struct Carried {
    window: u32,
    now: u32,
    before: u32,
}

impl Carried {
    fn add(&mut self, window: u32, bytes: u32) {
        self.turn(window);
        self.now = self.now.saturating_add(bytes);
    }

    fn total(&mut self, window: u32) -> u32 {
        self.turn(window);

        self.now.saturating_add(self.before)
    }

    fn turn(&mut self, window: u32) {
        match window.wrapping_sub(self.window) {
            0 => return,
            1 => self.before = self.now,
            _ => self.before = 0,
        }
        self.window = window;
        self.now = 0;
    }
}

/// What one lane knows of its flows.
#[derive(Debug)]
pub(crate) struct Steering {
    lane: usize,
    load: Arc<LaneLoad>,
    window: u32,
    carried: Carried,
    flows: Box<[Carried]>,
}

impl Steering {
    /// Makes the steering of the lane with this number.
    pub(crate) fn new(lane: usize, load: Arc<LaneLoad>) -> Self {
        Self {
            lane,
            load,
            window: 0,
            carried: Carried::default(),
            flows: vec![Carried::default(); FLOW_SLOTS].into(),
        }
    }

    /// Notes what time it is; everything else takes place then.
    pub(crate) fn turn(&mut self, now: Instant) {
        self.window = self.load.window(now);
    }

    /// Notes that a super-packet of `bytes` was read or written whose headers are those of
    /// `packet`.
    pub(crate) fn carried(&mut self, packet: &[u8], bytes: usize) {
        let (window, bytes) = (self.window, u32::try_from(bytes).unwrap_or(u32::MAX));
        self.carried.add(window, bytes);
        self.flow(packet).add(window, bytes);
        if self.is_busy()
            && let Some(busy) = self.load.busy.get(self.lane)
        {
            busy.store(self.window, Ordering::Relaxed);
        }
    }

    /// Returns the queue through which a packet is written that is no super-packet.
    pub(crate) fn queue(&mut self, packet: &[u8]) -> usize {
        if !self.is_busy() {
            return self.lane;
        }
        let window = self.window;
        let flow = self.flow(packet);
        flow.add(window, u32::try_from(packet.len()).unwrap_or(u32::MAX));
        if flow.total(window) > SPARSE {
            return self.lane;
        }

        self.quiet_lane().unwrap_or(self.lane)
    }

    fn is_busy(&mut self) -> bool {
        self.carried.total(self.window) > BUSY
    }

    /// Finds a lane that is not busy, the next one first, so that not all choose the same.
    fn quiet_lane(&self) -> Option<usize> {
        let lanes = self.load.busy.len();
        let others = (1..lanes).map(|step| (self.lane + step) % lanes);

        others.into_iter().find(|&lane| {
            let busy =
                self.load.busy.get(lane).map_or(self.window, |busy| busy.load(Ordering::Relaxed));
            // Another lane's clock may be a window ahead.
            self.window.wrapping_add(1).wrapping_sub(busy) > RECENT + 1
        })
    }

    fn flow(&mut self, packet: &[u8]) -> &mut Carried {
        let place = usize::try_from(flow_hash(packet) >> 24).unwrap_or(0) % FLOW_SLOTS;

        &mut self.flows[place]
    }
}

/// Returns the same for both directions of a flow: of addresses, and of ports where there are any.
fn flow_hash(packet: &[u8]) -> u64 {
    let segment = Segment::read(packet);
    let addresses = segment.map_or_else(|| addresses(packet), |segment| segment.addresses());
    let ports = segment.map_or(&[0; 4][..], |segment| &segment.transport()[..4]);
    let (source, destination) = addresses.split_at(addresses.len() / 2);

    // Spread by the golden ratio; the best bits are the highest.
    end_hash(source, &ports[..2])
        .wrapping_add(end_hash(destination, &ports[2..]))
        .wrapping_mul(0x9e37_79b9_7f4a_7c15)
        >> 32
}

fn addresses(packet: &[u8]) -> &[u8] {
    let range = match packet.first().map(|first| first >> 4) {
        Some(4) => 12..20,
        _ => 8..40,
    };

    packet.get(range).unwrap_or_default()
}

fn end_hash(address: &[u8], port: &[u8]) -> u64 {
    // FNV-1a (draft-eastlake-fnv): few bytes, and nobody gains by a collision.
    address.iter().chain(port).fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::path::testing::{Tcp, tcp4, udp4};

    struct World {
        load: Arc<LaneLoad>,
        now: Instant,
    }

    impl World {
        fn new(lanes: usize) -> Self {
            let now = Instant::now();

            Self { load: Arc::new(LaneLoad::new(lanes, now)), now: now + WINDOW }
        }

        fn lane(&self, lane: usize) -> Steering {
            let mut steering = Steering::new(lane, Arc::clone(&self.load));
            steering.turn(self.now);

            steering
        }
    }

    fn bulk(seq: u32) -> Vec<u8> {
        tcp4(Tcp { source_port: 1000, seq, ..Tcp::default() }, &[1; 1000])
    }

    fn make_busy(steering: &mut Steering) {
        for seq in 0..40 {
            steering.carried(&bulk(seq), 60_000);
        }
    }

    #[test]
    fn a_lane_that_is_not_busy_writes_to_its_own_queue() {
        let world = World::new(2);
        let mut lane = world.lane(0);

        assert_eq!(lane.queue(&udp4(1, 2, b"ping")), 0);
    }

    #[test]
    fn a_sparse_flow_leaves_a_busy_lane() {
        let world = World::new(2);
        let mut lane = world.lane(0);

        make_busy(&mut lane);

        assert_eq!(lane.queue(&udp4(1, 2, b"ping")), 1);
        assert_eq!(lane.queue(&[0x45; 28]), 1, "whatever it is");
        assert_eq!(lane.queue(&[]), 1);
    }

    #[test]
    fn the_acknowledgements_of_a_bulk_flow_stay() {
        let world = World::new(2);
        let mut lane = world.lane(0);
        let mut acknowledgement = tcp4(Tcp { source_port: 1000, ..Tcp::default() }, &[]);
        let (addresses, ports) =
            (acknowledgement[12..20].to_vec(), acknowledgement[20..24].to_vec());
        acknowledgement[12..20].copy_from_slice(&[&addresses[4..], &addresses[..4]].concat());
        acknowledgement[20..24].copy_from_slice(&[&ports[2..], &ports[..2]].concat());

        make_busy(&mut lane);

        assert_eq!(lane.queue(&acknowledgement), 0);
    }

    #[test]
    fn a_flow_of_many_small_packets_stays_once_it_is_known() {
        let world = World::new(2);
        let mut lane = world.lane(0);
        make_busy(&mut lane);

        let queues: Vec<_> = (0..200).map(|_| lane.queue(&udp4(1, 2, &[0; 100]))).collect();

        assert_eq!((queues[0], queues[199]), (1, 0));
    }

    #[test]
    fn nobody_moves_where_all_are_busy_or_alone() {
        let world = World::new(2);
        let (mut first, mut second) = (world.lane(0), world.lane(1));
        make_busy(&mut first);
        make_busy(&mut second);
        let mut alone = World::new(1).lane(0);
        make_busy(&mut alone);

        assert_eq!(first.queue(&udp4(1, 2, b"ping")), 0);
        assert_eq!(second.queue(&udp4(1, 2, b"ping")), 1);
        assert_eq!(alone.queue(&udp4(1, 2, b"ping")), 0);
    }

    #[test]
    fn what_was_busy_is_quiet_again_after_a_while() {
        let mut world = World::new(3);
        let (mut first, mut second) = (world.lane(0), world.lane(1));
        make_busy(&mut first);
        make_busy(&mut second);
        assert_eq!(first.queue(&udp4(1, 2, b"ping")), 2, "the one after it is busy");

        world.now += WINDOW * 5;
        first.turn(world.now);
        assert_eq!(first.queue(&udp4(1, 2, b"ping")), 0, "not busy any more");
        make_busy(&mut first);

        assert_eq!(first.queue(&udp4(1, 2, b"ping")), 1);
    }

    #[test]
    fn both_directions_of_a_flow_are_one() {
        let packet = udp4(7, 9, b"x");
        let mut answer = udp4(9, 7, b"x");
        let addresses = packet[12..20].to_vec();
        answer[12..20].copy_from_slice(&[&addresses[4..], &addresses[..4]].concat());

        assert_eq!(flow_hash(&packet), flow_hash(&answer));
        assert_ne!(flow_hash(&packet), flow_hash(&udp4(8, 9, b"x")));
    }
}
