//! Anything that may happen to hosts and the underlay between them, in any order, with a model of
//! what containers may see of it.

use std::time::Duration;

use arbitrary::Arbitrary;

use super::sound::assert_sound;
use super::*;
use crate::ip;

/// How many hosts there are.
pub(crate) const HOSTS: usize = 3;

/// How many seconds a peer may take to notice that its session is useless: 15 seconds in which
/// nothing is heard, then a handshake that waits at most 5 seconds for its turn.
const PATIENCE: usize = 25;
/// How many datagrams an eavesdropper remembers.
const REMEMBERED: usize = 512;
/// The size of packets in bytes: the smallest has room for a number.
const SIZES: std::ops::RangeInclusive<usize> = 64..=1600;
/// How narrow a narrow path is: the largest IP packet in bytes. Such paths occur in practice.
const NARROW: std::ops::RangeInclusive<usize> = 576..=1500;
const ICMP: [u8; 2] = [1, 58];
const FRAGMENT_V6: u8 = 44;
const DONT_FRAGMENT: u8 = 0x40;

/// An event of the history. Numbers are taken modulo the range that is valid.
#[derive(Debug, Clone, Arbitrary)]
pub(crate) enum Deed {
    /// Containers send packets.
    Say { from: u8, to: u8, count: u8, size: u16, v6: bool },
    /// Time passes.
    Run { millis: u32 },
    /// An agent restarts.
    Restart { host: u8, wakes: bool },
    /// A host is told who the members are, one bit for each host.
    Publish { host: u8, members: u8 },
    /// A host is told that it is no member.
    Withdraw { host: u8 },
    /// A host's datagrams come from another port from now on.
    Move { host: u8, port: u8 },
    /// The faults of the underlay change.
    Weather { loss: u8, twice: u8, jitter: u8 },
    /// The size of packets that a path carries changes, without a notice.
    Narrow { from: u8, to: u8, most: Option<u16> },
    /// A stranger sends an overheard datagram again, possibly from another address and with a
    /// changed bit.
    Replay { which: u16, elsewhere: bool, bit: Option<u16> },
}

/// A world, and the packets that were sent in it.
pub(crate) struct History {
    world: World,
    /// Every packet sent, indexed by its number: the destination host, its bytes, and whether it
    /// arrived.
    sent: Vec<(usize, Vec<u8>, bool)>,
}

fn of(number: impl Into<usize>, many: usize) -> usize {
    number.into() % many
}

fn within(range: &std::ops::RangeInclusive<usize>, number: u16) -> usize {
    range.start() + of(number, range.end() - range.start() + 1)
}

impl History {
    /// Makes three members of one network.
    pub(crate) fn new() -> Self {
        let mut world = World::connected(HOSTS);
        world.tap = Some(Vec::new());

        Self { world, sent: Vec::new() }
    }

    /// Performs one event and checks its consequences.
    pub(crate) fn perform(&mut self, deed: &Deed) {
        match *deed {
            Deed::Say { from, to, count, size, v6 } => {
                let size = within(&SIZES, size);
                (0..count % 20).for_each(|_| self.say(of(from, HOSTS), of(to, HOSTS), size, v6));
            }
            Deed::Run { millis } => {
                self.world.run(Duration::from_millis(u64::from(millis) % 400_000))
            }
            Deed::Restart { host, wakes } => {
                // A process takes some time to start, so its clock has moved on.
                self.world.run(Duration::from_millis(5));
                self.world.restart(of(host, HOSTS), 0);
                if wakes {
                    self.world.wake(of(host, HOSTS));
                }
            }
            Deed::Publish { host, members } => {
                let members: Vec<_> =
                    (0..HOSTS).filter(|member| members >> member & 1 == 1).collect();
                self.world.publish(of(host, HOSTS), table(NET, of(host, HOSTS), &members));
            }
            Deed::Withdraw { host } => self.world.withdraw(of(host, HOSTS), NET),
            Deed::Move { host, port } => {
                self.world.hosts[of(host, HOSTS)].addr.set_port(1000 + u16::from(port % 5))
            }
            Deed::Weather { loss, twice, jitter } => {
                self.world.faults = Faults {
                    loss_percent: u32::from(loss) % 101,
                    twice_percent: u32::from(twice) % 50,
                    jitter: Duration::from_millis(jitter.into()),
                    ..Faults::NONE
                };
            }
            Deed::Narrow { from, to, most } => {
                let path = (of(from, HOSTS), of(to, HOSTS));
                match most {
                    Some(most) => self.world.narrow.insert(path, within(&NARROW, most)),
                    None => self.world.narrow.remove(&path),
                };
            }
            Deed::Replay { which, elsewhere, bit } => self.replay(which, elsewhere, bit),
        }
        self.check();
    }

    /// Clears all faults, makes every host a member again, and waits until packets flow from every
    /// host.
    ///
    /// The receiver does not answer, so that its answers cannot help.
    pub(crate) fn settle(&mut self) {
        self.world.faults = Faults::NONE;
        self.world.narrow.clear();
        for host in 0..HOSTS {
            self.world.hosts[host].addr = underlay(host);
            self.world.publish(host, table(NET, host, &[0, 1, 2]));
        }
        self.check();
        let begin = self.sent.len();
        let mut flows = [false; HOSTS];
        for second in 0.. {
            let status = || {
                self.world
                    .hosts
                    .iter()
                    .map(|host| host.engine.status(self.world.now))
                    .collect::<Vec<_>>()
            };
            assert!(second < PATIENCE, "{:#?}", status());
            for (from, to) in [(0, 1), (1, 2), (2, 0)] {
                self.say(from, to, 100, false);
            }
            self.world.run(Duration::from_secs(1));
            self.check();
            for (to, _, arrived) in &self.sent[begin..] {
                flows[*to] |= arrived;
            }
            if flows == [true; HOSTS] {
                return;
            }
        }
    }

    fn say(&mut self, from: usize, to: usize, size: usize, v6: bool) {
        let (source, destination) =
            if v6 { (inner6(from), inner6(to)) } else { (inner(from), inner(to)) };
        let number = u32::try_from(self.sent.len()).expect("few");
        let mut bytes = packet(source, destination, size);
        bytes[60..64].copy_from_slice(&number.to_be_bytes());
        if !v6 {
            bytes[6] = DONT_FRAGMENT;
        }
        self.world.send(from, NET, &bytes);
        self.sent.push((to, bytes, from == to));
    }

    fn replay(&mut self, which: u16, elsewhere: bool, bit: Option<u16>) {
        let heard = self.world.tap.as_ref().expect("a listener");
        if heard.is_empty() {
            return;
        }
        let mut datagram = heard[of(which, heard.len())].clone();
        if elsewhere {
            datagram.from = SocketAddr::from(([198, 51, 100, 7], 4));
        }
        if let Some(bit) = bit {
            let bit = of(bit, datagram.bytes.len() * 8);
            datagram.bytes[bit / 8] ^= 1 << (bit % 8);
        }
        self.world.inject(datagram);
    }

    /// Checks that each packet that arrived was sent there, is unchanged and arrived once, and that
    /// every packet is in one counter.
    fn check(&mut self) {
        self.world.assert_accounted();
        for host in 0..HOSTS {
            for (id, packet) in std::mem::take(&mut self.world.hosts[host].received) {
                assert_eq!(id, network(NET));
                self.check_packet(host, &packet);
            }
            self.world.hosts[host].events.clear();
        }
        let heard = self.world.tap.as_mut().expect("a listener");
        heard.drain(..heard.len().saturating_sub(REMEMBERED));
    }

    fn check_packet(&mut self, host: usize, packet: &[u8]) {
        let source = ip::parse(packet).expect("a header").source;
        let from =
            (0..HOSTS).find(|from| prefixes(*from).iter().any(|prefix| prefix.contains(&source)));
        assert_sound(packet, from.expect("a member"), host);
        if is_error(packet) || is_fragment(packet) {
            return;
        }
        let (to, sent, arrived) = &mut self.sent[number_of(packet) as usize];
        assert_eq!((*to, &sent[..]), (host, packet), "not what was sent");
        assert!(!std::mem::replace(arrived, true), "it came twice");
    }
}

fn is_v4(packet: &[u8]) -> bool {
    packet[0] >> 4 == 4
}

/// Returns whether a packet is an ICMP error for a packet that was too large.
fn is_error(packet: &[u8]) -> bool {
    ICMP.contains(if is_v4(packet) { &packet[9] } else { &packet[6] })
}

fn is_fragment(packet: &[u8]) -> bool {
    if is_v4(packet) {
        packet[6] & !DONT_FRAGMENT != 0 || packet[7] != 0
    } else {
        packet[6] == FRAGMENT_V6
    }
}

/// Performs all events, then waits until packets flow.
pub(crate) fn live(deeds: impl IntoIterator<Item = Deed>) {
    let mut history = History::new();
    for deed in deeds {
        history.perform(&deed);
    }
    history.settle();
}
