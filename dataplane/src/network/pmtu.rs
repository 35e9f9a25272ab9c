//! Packets that are larger than the path to their peer: fragmented, or refused with an ICMP error
//! that gives the size; and TCP handshakes, whose segment size is lowered before anything is lost.

use std::ops::Range;
use std::time::Instant;

use crate::context::LaneContext;
use crate::drop::DropReason;
use crate::fragment::{self, V6_MIN_MTU};
use crate::icmp;
use crate::index::LinkIndex;
use crate::ip::Inner;
use crate::mss;
use crate::noise::sealed_len;
use crate::stage::{SealJob, seal_one};

use super::LaneNetwork;

impl LaneNetwork {
    /// Returns whether a packet can be sent unchanged.
    #[inline]
    pub(super) fn fits(&self, index: LinkIndex, packet: &[u8]) -> bool {
        let mtu = &self.links[index.0].mtu;

        packet.len() <= usize::from(mtu.mtu()) && !(mtu.is_narrow() && mss::is_syn(packet))
    }

    /// Takes a packet for its peer that cannot be sent unchanged.
    pub(super) fn fit_to_pmtu(
        &mut self,
        index: LinkIndex,
        packet: &[u8],
        inner: &Inner,
        cx: &mut LaneContext,
        now: Instant,
    ) -> Result<(), DropReason> {
        let mtu = self.links[index.0].mtu.mtu();
        if packet.len() <= usize::from(mtu) {
            return self.send_clamped(index, packet, mtu, cx, now);
        }
        // Packets that are larger than the tunnel's MTU do not come from a TUN device with that
        // MTU.
        if packet.len() > usize::from(self.table.mtu) {
            return self.refuse(packet, inner, self.table.mtu.min(mtu), cx, now);
        }
        self.next_fragment = self.next_fragment.wrapping_add(1);
        let mut fragments = Vec::new();
        if !fragment::cut(packet, mtu, self.next_fragment, |fragment| {
            fragments.push(fragment.to_vec())
        }) {
            let least = if inner.destination.is_ipv6() { V6_MIN_MTU } else { 0 };
            return self.refuse(packet, inner, mtu.max(least), cx, now);
        }

        cx.counters.fragments += fragments.len() as u64 - 1;
        // Each fragment is counted by itself; the caller counts the last.
        let mut sent = Ok(());
        for fragment in fragments {
            cx.counters.count(sent);
            sent = self.send_now(index, &fragment, cx, now);
        }
        sent
    }

    /// Lowers the segment size that a peer's container offers to one of ours.
    pub(super) fn clamp_incoming(
        &self,
        link: LinkIndex,
        packet: Range<usize>,
        cx: &mut LaneContext,
    ) {
        let peer = self.links[link.0].peer;
        let Some(ours) = self.peers.get(peer.0).and_then(|peer| peer.send_to) else { return };
        let mtu = &self.links[ours.0].mtu;
        let packet = cx.rx_buffer.buffer(packet);
        if mtu.is_narrow() && mss::is_syn(packet) && mss::clamp(packet, mtu.mtu()) {
            cx.counters.mss_clamped += 1;
        }
    }

    fn send_clamped(
        &mut self,
        index: LinkIndex,
        packet: &[u8],
        mtu: u16,
        cx: &mut LaneContext,
        now: Instant,
    ) -> Result<(), DropReason> {
        let mut scratch = std::mem::take(&mut cx.scratch);
        scratch.clear();
        scratch.extend_from_slice(packet);
        cx.counters.mss_clamped += u64::from(mss::clamp(&mut scratch, mtu));
        let sent = self.send_now(index, &scratch, cx, now);
        cx.scratch = scratch;

        sent
    }

    /// Seals one packet at once, behind those of its link that wait for the end of the batch, or
    /// keeps it until there is a session.
    fn send_now(
        &mut self,
        index: LinkIndex,
        packet: &[u8],
        cx: &mut LaneContext,
        now: Instant,
    ) -> Result<(), DropReason> {
        let mut seals = Vec::with_capacity(1);
        self.begin_seal(index, packet, &mut seals, cx, now)?;
        seals.into_iter().for_each(|job: SealJob<'_>| seal_one(job, cx));

        Ok(())
    }

    /// Tells the sender of a packet how large it may be, by an ICMP error.
    fn refuse(
        &mut self,
        packet: &[u8],
        inner: &Inner,
        mtu: u16,
        cx: &mut LaneContext,
        now: Instant,
    ) -> Result<(), DropReason> {
        if self.errors.take(now)
            && let Some(buffer) = cx.rx_buffer.reserve(icmp::MAX_LEN)
            && let Some(len) =
                icmp::too_big(packet, inner, mtu, cx.rx_buffer.buffer(buffer.clone()))
        {
            cx.rx_buffer.push(self.table.id, buffer.start..buffer.start + len);
            cx.counters.icmp_sent += 1;
        }

        Err(DropReason::TooBig)
    }

    /// Seals a payload that is not a packet, as a datagram of its own. Sends nothing if there is no
    /// session.
    pub(super) fn send_payload(
        &mut self,
        index: LinkIndex,
        payload: &[u8],
        cx: &mut LaneContext,
        now: Instant,
    ) {
        let link = &mut self.links[index.0];
        let Some(to) = link.path.current() else { return };
        let Some(seal) = link.tunnel.as_mut().and_then(|tunnel| tunnel.begin_seal(now)) else {
            return;
        };
        let len = sealed_len(payload.len());
        let Some(slot) = cx.transmit_queue.reserve(&mut None, to, len) else { return };
        let is_sealed =
            cx.transmit_queue.slot(slot).is_some_and(|buffer| seal.run(payload, buffer));
        link.note_sent(len);
        cx.counters.control_sent += u64::from(is_sealed);
        self.mark_dirty(index, cx);
    }
}
