//! Why packets are refused, and how many were: every packet ends in exactly one counter.

use std::fmt;

/// Which way a packet was going.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    /// From the TUN device to a peer.
    Outbound,
    /// From the UDP socket to the TUN device.
    Inbound,
}

/// What a dropped packet means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DropKind {
    /// Somebody's packet did not arrive, or somebody tried what is not allowed.
    Refusal,
    /// A sound network has it, too: what kernels say to their links, strangers on a port, messages of a session that is over,
    /// copies, and packets whose senders were told to make them smaller.
    Noise,
}

macro_rules! drop_reasons {
    ($($(#[$doc:meta])* $name:ident => $direction:ident, $kind:ident, $label:literal;)*) => {
        /// Why a packet went no further.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum DropReason {
            $($(#[$doc])* $name,)*
        }

        impl DropReason {
            /// Every reason, in the order of the counters.
            pub const ALL: [Self; [$(Self::$name),*].len()] = [$(Self::$name),*];

            /// Returns the reason's name in metrics.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $label,)*
                }
            }

            /// Returns whether somebody lost a packet that should have arrived.
            pub const fn kind(self) -> DropKind {
                match self {
                    $(Self::$name => DropKind::$kind,)*
                }
            }

            /// Returns which way the refused packets were going.
            pub const fn direction(self) -> Direction {
                match self {
                    $(Self::$name => Direction::$direction,)*
                }
            }
        }
    };
}

drop_reasons! {
    /// The TUN device belongs to a network that is not (or no longer) published.
    UnknownNetwork => Outbound, Refusal, "unknown_network";
    /// No sound IP packet came from the TUN device.
    Malformed => Outbound, Refusal, "malformed";
    /// The inner source is multicast, broadcast, loopback, link-local or unspecified.
    SourceNotUnicast => Outbound, Refusal, "source_not_unicast";
    /// What the kernel says on the link by itself, from no address of the network, such as reports of multicast listeners: it is
    /// for nobody beyond, and no refusal.
    LinkScope => Outbound, Noise, "link_scope";
    /// The inner source does not live on this node.
    SourceNotLocal => Outbound, Refusal, "source_not_local";
    /// No peer holds the inner destination.
    NoRoute => Outbound, Refusal, "no_route";
    /// The packet is larger than the network's MTU, or than the path to the peer carries; an ICMP error was due.
    TooBig => Outbound, Noise, "too_big";
    /// The peer that holds the destination published no lane.
    NoLane => Outbound, Refusal, "no_lane";
    /// The peer's public key is one that no session can be made with.
    InvalidKey => Outbound, Refusal, "invalid_key";
    /// Nobody knows where the peer could be reached.
    NoUnderlayAddr => Outbound, Refusal, "no_underlay_address";
    /// Too many packets waited for the session; the oldest went.
    QueueOverflow => Outbound, Refusal, "queue_overflow";
    /// The peer answered no handshake while the packet waited.
    HandshakeTimeout => Outbound, Refusal, "handshake_timeout";
    /// The peer was removed while the packet waited.
    PeerRemoved => Outbound, Refusal, "peer_removed";
    /// The driver does not send as fast as packets come.
    TransmitOverflow => Outbound, Refusal, "transmit_overflow";

    /// No WireGuard message.
    NotWireguard => Inbound, Noise, "not_wireguard";
    /// The receiver index belongs to no tunnel of this lane.
    UnknownIndex => Inbound, Noise, "unknown_index";
    /// The message proves knowledge of none of this lane's public keys.
    WrongMac => Inbound, Noise, "wrong_mac";
    /// An initiation by a key that is no member of the network.
    UnknownPeer => Inbound, Refusal, "unknown_peer";
    /// An initiation not newer than the last of the same peer.
    HandshakeReplayed => Inbound, Noise, "handshake_replayed";
    /// Too many handshakes from this source while under load.
    RateLimited => Inbound, Refusal, "rate_limited";
    /// A handshake message or cookie that does not decrypt, or that nobody asked for.
    HandshakeRefused => Inbound, Noise, "handshake_refused";
    /// The session of a data message is over.
    NoSession => Inbound, Noise, "no_session";
    /// The counter of a data message was seen before, is too old, or past the limit of a session.
    CounterRefused => Inbound, Noise, "counter_refused";
    /// A data message that does not authenticate.
    WrongTag => Inbound, Refusal, "wrong_tag";
    /// A peer sent something that is no sound IP packet.
    InnerMalformed => Inbound, Refusal, "inner_malformed";
    /// A peer sent from a multicast, broadcast, loopback, link-local or unspecified address.
    InnerSourceNotUnicast => Inbound, Refusal, "inner_source_not_unicast";
    /// A peer sent from an address that is not its own.
    InnerSourceForged => Inbound, Refusal, "inner_source_forged";
    /// A peer sent to an address that does not live on this node.
    InnerNotLocal => Inbound, Refusal, "inner_not_local";
    /// The driver does not empty the engine as fast as packets come.
    DeliveryOverflow => Inbound, Refusal, "delivery_overflow";
}

impl fmt::Display for DropReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What became of the packets of one lane since it started.
///
/// `tun_packets` and `fragments` are the sum of `forwarded`, the outbound drops and the packets that wait for a session;
/// `udp_datagrams` is the sum of `delivered`, `control` and the inbound drops.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counters {
    /// Inner packets taken from TUN devices.
    pub tun_packets: u64,
    /// Datagrams taken from the UDP socket.
    pub udp_datagrams: u64,
    /// How many more packets there are because some were cut into fragments: one less than fragments, for each.
    pub fragments: u64,
    /// Inner packets sealed for a peer.
    pub forwarded: u64,
    /// Their inner bytes.
    pub forwarded_bytes: u64,
    /// Inner packets opened and handed to a TUN device.
    pub delivered: u64,
    /// Their inner bytes.
    pub delivered_bytes: u64,
    /// Accepted messages that carry no inner packet: handshakes, cookies, keepalives, probes and their answers.
    pub control: u64,
    /// Inner packets that wait for a session at this moment.
    pub waiting: u64,
    /// Handshake initiations, responses, cookies, keepalives, probes and their answers made by this lane.
    pub control_sent: u64,
    /// ICMP errors made by this lane.
    pub icmp_sent: u64,
    /// TCP handshakes whose segment size was brought down to what the path carries.
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
    /// Returns how many packets went no further for `reason`.
    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.drops.get(reason as usize).copied().unwrap_or_default()
    }

    /// Lists every reason with its count, also those that never occurred.
    pub fn drops(&self) -> impl Iterator<Item = (DropReason, u64)> + '_ {
        DropReason::ALL.into_iter().zip(self.drops)
    }

    /// Returns how many packets were refused in one direction.
    pub fn dropped_in(&self, direction: Direction) -> u64 {
        self.drops().filter(|(reason, _)| reason.direction() == direction).map(|(_, count)| count).sum()
    }

    /// Counts a packet that went no further; those that did are counted where they went.
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
