//! What a lane counts at its borders with the kernel; the engine counts what happens in between.

use std::ops::AddAssign;

/// What a count means to people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CounterKind {
    /// Packets on their way, and the calls that carry them.
    Traffic,
    /// It happens in a healthy network, too.
    Noise,
    /// Packets that did not arrive.
    Refusal,
}

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident: $kind:ident),* $(,)?) => {
        /// Counts of one lane, or of all lanes together.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
        pub struct LaneCounters {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl LaneCounters {
            /// Lists the counts by name, with what they mean.
            pub fn iter(&self) -> impl Iterator<Item = (&'static str, CounterKind, u64)> {
                [$((stringify!($name), CounterKind::$kind, self.$name)),*].into_iter()
            }
        }

        impl AddAssign for LaneCounters {
            fn add_assign(&mut self, other: Self) {
                $(self.$name += other.$name;)*
            }
        }
    };
}

counters! {
    /// Reads of TUN devices that returned something.
    tun_reads: Traffic,
    /// Packets read from TUN devices, after splitting.
    tun_packets_in: Traffic,
    /// Reads that held no packet.
    tun_malformed: Refusal,
    /// Packets from TUN devices that were this node's own tunnel traffic, routed into an overlay
    /// network.
    tun_own_outer: Refusal,
    /// Writes to TUN devices.
    tun_writes: Traffic,
    /// Packets written to TUN devices, before merging.
    tun_packets_out: Traffic,
    /// Packets of sparse flows written through the queue of a lane that is less busy.
    tun_steered: Traffic,
    /// Packets that a TUN device refused.
    tun_refused: Refusal,
    /// Packets for a network whose TUN device is not there.
    tun_missing: Refusal,
    /// Receives that returned something.
    udp_receives: Traffic,
    /// Datagrams received.
    udp_datagrams_in: Traffic,
    /// Errors of receiving, ICMP errors among them.
    udp_receive_errors: Noise,
    /// Sends.
    udp_sends: Traffic,
    /// Datagrams sent.
    udp_datagrams_out: Traffic,
    /// Batches that had to be sent datagram by datagram because the device refused them whole.
    udp_singly: Noise,
    /// Datagrams larger than the underlay takes.
    udp_too_big: Noise,
    /// Datagrams lost because no buffer became free in time.
    udp_no_buffer: Refusal,
    /// Datagrams the host refused to send: firewall.
    udp_refused: Refusal,
    /// Datagrams that had no route.
    udp_unreachable: Refusal,
    /// Datagrams lost to any other error.
    udp_failed: Refusal,
}
