//! Why packets are dropped, and how many were: every packet ends in exactly one counter.

use std::fmt;

/// The direction in which a packet was going.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    /// From the TUN device to a peer.
    Outbound,
    /// From the UDP socket to the TUN device.
    Inbound,
}

/// How serious a dropped packet is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DropKind {
    /// A packet that should have arrived was lost, or somebody tried something that is not allowed.
    Refusal,
    /// Occurs in a healthy network, too: what kernels say on their links, strangers on the port,
    /// messages of a session that has ended, duplicates, and packets whose senders were told to
    /// make them smaller.
    Noise,
}

macro_rules! drop_reasons {
    ($($(#[$doc:meta])* $name:ident => $direction:ident, $kind:ident, $label:literal;)*) => {
        /// Why a packet was not carried.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum DropReason {
            $($(#[$doc])* $name,)*
        }

        impl DropReason {
            /// Every reason, in the order of the counters.
            pub const ALL: [Self; [$(Self::$name),*].len()] = [$(Self::$name),*];

            /// Returns the name of the reason in metrics.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $label,)*
                }
            }

            /// Returns whether a packet that should have arrived was lost.
            pub const fn kind(self) -> DropKind {
                match self {
                    $(Self::$name => DropKind::$kind,)*
                }
            }

            /// Returns the direction in which the dropped packets were going.
            pub const fn direction(self) -> Direction {
                match self {
                    $(Self::$name => Direction::$direction,)*
                }
            }
        }
    };
}

drop_reasons! {
    /// The TUN device belongs to a network that is not published, or no longer is.
    UnknownNetwork => Outbound, Refusal, "unknown_network";
    /// What came from the TUN device is not a valid IP packet.
    Malformed => Outbound, Refusal, "malformed";
    /// The inner source is multicast, broadcast, loopback, link-local or unspecified.
    SourceNotUnicast => Outbound, Refusal, "source_not_unicast";
    /// A packet that the kernel sends on the link by itself, without an address of the network as
    /// its source, such as a multicast listener report. It is not meant for other nodes, so this is
    /// no refusal.
    LinkScope => Outbound, Noise, "link_scope";
    /// The inner source is not an address of this node.
    SourceNotLocal => Outbound, Refusal, "source_not_local";
    /// No peer holds the inner destination address.
    NoRoute => Outbound, Refusal, "no_route";
    /// The packet is larger than the network's MTU or than the path to the peer carries. An ICMP
    /// error was due.
    TooBig => Outbound, Noise, "too_big";
    /// The peer that holds the destination has published no lane.
    NoLane => Outbound, Refusal, "no_lane";
    /// No session can be made with the peer's public key.
    InvalidKey => Outbound, Refusal, "invalid_key";
    /// No underlay address of the peer is known.
    NoUnderlayAddr => Outbound, Refusal, "no_underlay_address";
    /// Too many packets were waiting for the session; the oldest was dropped.
    QueueOverflow => Outbound, Refusal, "queue_overflow";
    /// The peer answered no handshake while the packet was waiting.
    HandshakeTimeout => Outbound, Refusal, "handshake_timeout";
    /// The peer was removed while the packet was waiting.
    PeerRemoved => Outbound, Refusal, "peer_removed";
    /// Packets come faster than the driver sends them.
    TransmitOverflow => Outbound, Refusal, "transmit_overflow";

    /// Not a WireGuard message.
    NotWireguard => Inbound, Noise, "not_wireguard";
    /// The receiver index belongs to no tunnel of this lane.
    UnknownIndex => Inbound, Noise, "unknown_index";
    /// The MAC of the message was made with none of this lane's public keys.
    WrongMac => Inbound, Noise, "wrong_mac";
    /// An initiation with a key that belongs to no member of the network.
    UnknownPeer => Inbound, Refusal, "unknown_peer";
    /// An initiation that is not newer than the last one of the same peer.
    HandshakeReplayed => Inbound, Noise, "handshake_replayed";
    /// Too many handshakes from this source while the lane is under load.
    RateLimited => Inbound, Refusal, "rate_limited";
    /// A handshake message or cookie that does not decrypt, or that was not asked for.
    HandshakeRefused => Inbound, Noise, "handshake_refused";
    /// The session that a data message belongs to has ended.
    NoSession => Inbound, Noise, "no_session";
    /// The counter of a data message was seen before, is too old, or is beyond the limit of a
    /// session.
    CounterRefused => Inbound, Noise, "counter_refused";
    /// A data message that does not authenticate.
    WrongTag => Inbound, Refusal, "wrong_tag";
    /// A peer sent something that is not a valid IP packet.
    InnerMalformed => Inbound, Refusal, "inner_malformed";
    /// A peer sent from a multicast, broadcast, loopback, link-local or unspecified address.
    InnerSourceNotUnicast => Inbound, Refusal, "inner_source_not_unicast";
    /// A peer sent from an address that it does not hold.
    InnerSourceForged => Inbound, Refusal, "inner_source_forged";
    /// A peer sent to an address that is not on this node.
    InnerNotLocal => Inbound, Refusal, "inner_not_local";
    /// Packets come faster than the driver takes them out of the engine.
    DeliveryOverflow => Inbound, Refusal, "delivery_overflow";
}

impl fmt::Display for DropReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What happened to the packets of one lane since it started.
///
/// `tun_packets` plus `fragments` equals `forwarded` plus the outbound drops plus `waiting`;
/// `udp_datagrams` equals `delivered` plus `control` plus the inbound drops.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counters {
    /// Inner packets read from TUN devices.
    pub tun_packets: u64,
    /// Datagrams read from the UDP socket.
    pub udp_datagrams: u64,
    /// Packets gained by fragmentation: for each packet that was cut, one less than its fragments.
    pub fragments: u64,
    /// Inner packets sealed for a peer.
    pub forwarded: u64,
    /// Bytes of the inner packets in `forwarded`.
    pub forwarded_bytes: u64,
    /// Inner packets opened and delivered to a TUN device.
    pub delivered: u64,
    /// Bytes of the inner packets in `delivered`.
    pub delivered_bytes: u64,
    /// Accepted messages without an inner packet: handshakes, cookies, keepalives, probes, echoes
    /// and their answers.
    pub control: u64,
    /// Inner packets that are waiting for a session now.
    pub waiting: u64,
    /// Messages without an inner packet that this lane sent: handshakes, cookies, keepalives,
    /// probes, echoes and their answers.
    pub control_sent: u64,
    /// ICMP errors that this lane sent.
    pub icmp_sent: u64,
    /// TCP handshakes whose segment size was lowered to what the path carries.
    pub mss_clamped: u64,
    drops: [u64; DropReason::ALL.len()],
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            tun_packets: 0,
            fragments: 0,
            udp_datagrams: 0,
            forwarded: 0,
            forwarded_bytes: 0,
            delivered: 0,
            delivered_bytes: 0,
            control: 0,
            waiting: 0,
            control_sent: 0,
            icmp_sent: 0,
            mss_clamped: 0,
            drops: [0; DropReason::ALL.len()],
        }
    }
}

impl Counters {
    /// Returns how many packets were dropped for `reason`.
    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.drops.get(reason as usize).copied().unwrap_or_default()
    }

    /// Lists every reason with its count, including those that never occurred.
    pub fn drops(&self) -> impl Iterator<Item = (DropReason, u64)> + '_ {
        DropReason::ALL.into_iter().zip(self.drops)
    }

    /// Returns how many packets were dropped in one direction.
    pub fn dropped_in(&self, direction: Direction) -> u64 {
        self.drops()
            .filter(|(reason, _)| reason.direction() == direction)
            .map(|(_, count)| count)
            .sum()
    }

    /// Counts a dropped packet; one that was carried has been counted already.
    pub(crate) fn count(&mut self, result: Result<(), DropReason>) {
        if let Err(reason) = result {
            self.drop(reason);
        }
    }

    pub(crate) fn drop(&mut self, reason: DropReason) {
        self.drop_many(reason, 1);
    }

    pub(crate) fn drop_many(&mut self, reason: DropReason, count: u64) {
        if let Some(slot) = self.drops.get_mut(reason as usize) {
            *slot += count;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_reason_has_a_slot_and_a_label_of_its_own() {
        let mut counters = Counters::default();

        for reason in DropReason::ALL {
            counters.drop(reason);
        }

        assert!(counters.drops().all(|(_, count)| count == 1));
        let labels: BTreeSet<_> = DropReason::ALL.iter().map(|reason| reason.as_str()).collect();
        assert_eq!(labels.len(), DropReason::ALL.len());
    }

    #[test]
    fn the_directions_share_no_reason() {
        let mut counters = Counters::default();

        counters.drop_many(DropReason::NoRoute, 3);
        counters.drop_many(DropReason::WrongTag, 4);

        assert_eq!(counters.dropped_in(Direction::Outbound), 3);
        assert_eq!(counters.dropped_in(Direction::Inbound), 4);
        assert_eq!(counters.dropped(DropReason::NoRoute), 3);
    }
}
