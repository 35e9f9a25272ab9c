//! What a lane counts at its borders with the kernel; the engine counts what happens in between.

use std::ops::AddAssign;

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// Counts of one lane, or of all lanes together.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
        pub struct Counters {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl Counters {
            /// Lists the counts by name.
            pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($name), self.$name)),*].into_iter()
            }
        }

        impl AddAssign for Counters {
            fn add_assign(&mut self, other: Self) {
                $(self.$name += other.$name;)*
            }
        }
    };
}

counters! {
    /// Reads of TUN devices that returned something.
    tun_reads,
    /// Packets read from TUN devices, after splitting.
    tun_packets_in,
    /// Reads that held no packet.
    tun_malformed,
    /// Packets from TUN devices that were this node's own tunnel traffic, routed into an overlay network.
    tun_own_outer,
    /// Writes to TUN devices.
    tun_writes,
    /// Packets written to TUN devices, before merging.
    tun_packets_out,
    /// Packets of sparse flows written through the queue of a lane that is less busy.
    tun_steered,
    /// Packets that a TUN device refused.
    tun_refused,
    /// Packets for a network whose TUN device is not there.
    tun_missing,
    /// Receives that returned something.
    udp_receives,
    /// Datagrams received.
    udp_datagrams_in,
    /// Errors of receiving, ICMP errors among them.
    udp_receive_errors,
    /// Sends.
    udp_sends,
    /// Datagrams sent.
    udp_datagrams_out,
    /// Batches that had to be sent datagram by datagram because the device refused them whole.
    udp_singly,
    /// Datagrams larger than the underlay takes.
    udp_too_big,
    /// Datagrams lost because no buffer became free in time.
    udp_no_buffer,
    /// Datagrams the host refused to send: firewall.
    udp_refused,
    /// Datagrams that had no route.
    udp_unreachable,
    /// Datagrams lost to any other error.
    udp_failed,
}
