//! The entry points for fuzzers: one function for each kind of input that an outsider can make.
//! None of them may ever panic.
//!
//! The corpora are in `fuzz/corpus`; the tests of this module replay all of them.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use arbitrary::{Arbitrary, Unstructured};

use crate::sim::history::{Deed, live};
use crate::sim::raw_peer::RawPeer;
use crate::sim::sound::assert_sound;
use crate::sim::{Datagram, NET, World, network, underlay};

/// The most deeds taken from one input; more find nothing that fewer do not.
const MOST_DEEDS: usize = 200;
/// The most bytes that a driver passes in one call.
const MOST_BYTES: usize = 65_507;

/// Performs an arbitrary history on three hosts and the underlay between them, see
/// [`crate::sim::history`].
pub fn engine_ops(bytes: &[u8]) {
    let mut input = Unstructured::new(bytes);
    let deeds = std::iter::from_fn(|| {
        (!input.is_empty()).then(|| Deed::arbitrary(&mut input).ok()).flatten()
    });
    live(deeds.take(MOST_DEEDS).collect::<Vec<_>>());
}

/// A part of what a stranger sends.
#[derive(Debug, Arbitrary)]
enum Part {
    /// Something made up.
    Own(Vec<u8>),
    /// Something overheard, with some bytes changed and possibly cut short.
    Heard { which: u8, changes: Vec<(u16, u8)>, len: Option<u16> },
}

/// The datagrams that a stranger sends in one batch.
#[derive(Debug, Arbitrary)]
struct GsoBatch {
    /// The source address: a member's, or another.
    from: Option<(u32, u16)>,
    segment: u16,
    parts: Vec<Part>,
}

impl Part {
    fn bytes(self, heard: &[Datagram]) -> Vec<u8> {
        match self {
            Self::Own(bytes) => bytes,
            Self::Heard { which, changes, len } => {
                let mut bytes = heard[usize::from(which) % heard.len()].bytes.clone();
                if let Some(len) = len {
                    bytes.resize(usize::from(len % 2048), 0);
                }
                for (at, change) in changes {
                    if let Some(byte) = bytes.get_mut(usize::from(at)) {
                        *byte ^= change;
                    }
                }
                bytes
            }
        }
    }
}

/// Gives a host whatever strangers may send it, made of what they overheard and what they make up.
///
/// # Panics
///
/// If any of it gets through, or moves or disturbs a session.
pub fn datagrams(bytes: &[u8]) {
    let mut world = World::connected(2);
    world.tap = Some(Vec::new());
    world.say(0, 1, 0);
    world.say(1, 0, 1);
    world.run(Duration::from_secs(1));
    world.restart(0, 0);
    world.say(0, 1, 2);
    world.run(Duration::from_secs(1));
    let heard = world.tap.take().expect("a listener");
    assert_eq!((world.numbers(0), world.numbers(1)), (vec![1], vec![0, 2]));

    let mut input = Unstructured::new(bytes);
    while !input.is_empty() {
        let Ok(batch) = GsoBatch::arbitrary(&mut input) else { break };
        let from = batch
            .from
            .map_or(underlay(0), |(ip, port)| SocketAddr::from((Ipv4Addr::from_bits(ip), port)));
        let mut bytes: Vec<u8> =
            batch.parts.into_iter().flat_map(|part| part.bytes(&heard)).collect();
        bytes.truncate(MOST_BYTES);
        world.hosts[1].engine.handle_udp(from, &bytes, batch.segment.into(), world.now);
        world.run(Duration::from_millis(1));
    }

    assert!(world.numbers(1).is_empty(), "something got through");
    assert_eq!(world.status(1).underlay, Some(underlay(0)), "the session moved");
    world.say(0, 1, 3);
    world.run(Duration::from_secs(1));
    assert_eq!(world.numbers(1), [3], "the session is disturbed");
    world.assert_accounted();
}

/// Gives a host inner packets. The first byte of the input says whether the host's own containers
/// send them or a member that has no engine does; then each packet follows its length in two bytes.
///
/// # Panics
///
/// If a packet gets through that is not whole or whose source is not its sender's.
pub fn inner_packets(bytes: &[u8]) {
    let Some((&direction, rest)) = bytes.split_first() else { return };
    let packets = lengths(rest);
    let mut world = World::connected(3);
    if direction % 2 == 0 {
        world.say(0, 1, 0);
        world.run(Duration::from_secs(1));
        assert_eq!(world.numbers(1), [0]);
        world.hosts[0].engine.handle_tun(network(NET), packets, world.now);
        world.collect();
        world.run(Duration::from_secs(1));
        world.hosts[1].received.iter().for_each(|(_, packet)| assert_sound(packet, 0, 1));
        // ICMP errors claim to come from the packet's destination.
        world.hosts[0].received.iter().for_each(|(_, packet)| {
            let from = usize::from(packet[if packet[0] >> 4 == 4 { 14 } else { 21 }]);
            assert_sound(packet, from, 0);
        });
    } else {
        let mut raw_peer = RawPeer::new(&mut world);
        // Answers are discarded.
        world.faults.loss_percent = 100;
        for packet in packets.iter().filter(|packet| !packet.is_empty()) {
            raw_peer.tell(&mut world, packet);
        }
        world.hosts[0].received.iter().for_each(|(_, packet)| assert_sound(packet, 2, 0));
    }
    world.assert_accounted();
}

/// Splits the input into packets that follow their length; the last may be shorter than it says.
fn lengths(mut bytes: &[u8]) -> Vec<&[u8]> {
    let mut packets = Vec::new();
    while let Some((len, rest)) = bytes.split_first_chunk() {
        let (packet, rest) = rest.split_at(usize::from(u16::from_be_bytes(*len)).min(rest.len()));
        packets.push(packet);
        bytes = rest;
    }

    packets
}

#[cfg(test)]
#[path = "../../fuzz/corpus.rs"]
mod corpus;

#[cfg(test)]
mod tests {
    use super::corpus;

    #[test]
    fn engine_ops() {
        corpus::replay("engine_ops", super::engine_ops);
    }

    #[test]
    fn datagrams() {
        corpus::replay("datagrams", super::datagrams);
    }

    #[test]
    fn inner_packets() {
        corpus::replay("inner_packets", super::inner_packets);
    }
}
