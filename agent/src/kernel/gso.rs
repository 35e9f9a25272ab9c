//! How large the super-packets of a container are to be: as many segments as one send of a lane
//! takes, not one more. Pure.

/// The most bytes that one send with `UDP_SEGMENT` takes: the payload of the largest UDP datagram
/// over IPv4.
const MAX_SEND: u32 = 65_507;
/// The most datagrams that one such send takes (`UDP_MAX_SEGMENTS` of old kernels).
const MAX_SEGMENTS: u32 = 64;
/// Header and tag of a WireGuard data message.
const OVERHEAD: u32 = 32;
/// What Linux keeps free of the limit for headers (`MAX_TCP_HEADER`, 320 with the usual options),
/// and a little more, but less than any segment.
const KERNEL_RESERVE: u32 = 440;
/// The largest limit that all kernels know (`GSO_LEGACY_MAX_SIZE`).
const LEGACY: u32 = 65_536;

/// Limits of one link, in bytes of a whole super-packet as Linux counts them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct GsoSize {
    /// For IPv4.
    pub(crate) v4: u32,
    /// For IPv6.
    pub(crate) v6: u32,
}

impl GsoSize {
    /// Computes the limits for a link of this MTU.
    ///
    /// With one segment more, every super-packet would leave in two sends, and the second would be
    /// nearly empty.
    pub(crate) fn of_mtu(mtu: u32) -> Self {
        let datagram = mtu.next_multiple_of(16) + OVERHEAD;
        let segments = (MAX_SEND / datagram).clamp(1, MAX_SEGMENTS);
        // The IP and TCP headers without options.
        let limit =
            |headers: u32| (segments * mtu.saturating_sub(headers) + KERNEL_RESERVE).min(LEGACY);

        Self { v4: limit(40), v6: limit(60) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many segments of `mss` bytes Linux puts into a super-packet under a limit
    /// (`tcp_xmit_size_goal`).
    fn segments(limit: u32, mss: u32) -> u32 {
        (limit - 321) / mss
    }

    #[test]
    fn a_super_packet_is_one_send_with_and_without_options() {
        let size = GsoSize::of_mtu(1408);

        for (limit, headers) in [(size.v4, 40), (size.v4, 52), (size.v6, 60), (size.v6, 72)] {
            assert_eq!(segments(limit, 1408 - headers), 45, "{headers}");
        }
        assert_eq!(45, MAX_SEND / 1440);
    }

    #[test]
    fn limits_stay_within_what_kernels_take() {
        for mtu in [68, 576, 1280, 1376, 1408, 1440, 8928, 65_535] {
            let size = GsoSize::of_mtu(mtu);

            assert!(size.v4 <= LEGACY && size.v6 <= LEGACY && size.v4 > 0, "{mtu}: {size:?}");
        }
    }
}
