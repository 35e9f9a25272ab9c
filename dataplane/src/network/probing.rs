//! Probes how large a packet each path carries, and answers the probes of peers.
//!
//! Only the links on which this lane sends are probed. A peer's answer can only change what is sent
//! to that peer.

use std::ops::Range;
use std::time::Instant;

use crate::context::LaneContext;
use crate::drop::DropReason;
use crate::echo::Echo;
use crate::event::Event;
use crate::index::LinkIndex;
use crate::notice;
use crate::probe::ProbeMessage;

use super::LaneNetwork;

impl LaneNetwork {
    /// Starts to probe a new path.
    pub(super) fn begin_probing(&mut self, index: LinkIndex, cx: &mut LaneContext, now: Instant) {
        let peer = self.links[index.0].peer;
        if self.peers.get(peer.0).and_then(|peer| peer.send_to) != Some(index) {
            return;
        }
        self.links[index.0].mtu.start(now);
        self.send_probes(index, cx, now);
        self.mark_dirty(index, cx);
    }

    /// Applies the MTU of a new table.
    pub(super) fn limit_mtu(&mut self, cx: &mut LaneContext, now: Instant) {
        let limit = self.table.mtu;
        for index in (0..self.links.len()).map(LinkIndex) {
            let link = &mut self.links[index.0];
            if link.mtu.set_limit(limit) && link.has_session(now) {
                self.begin_probing(index, cx, now);
            }
        }
        self.has_narrow = self.links.iter().any(|link| link.mtu.is_narrow());
    }

    /// Accepts a payload that is not an IP packet.
    pub(super) fn handle_payload(
        &mut self,
        index: LinkIndex,
        payload: Range<usize>,
        cx: &mut LaneContext,
        now: Instant,
    ) -> Result<(), DropReason> {
        let len = u16::try_from(payload.len()).unwrap_or(u16::MAX);
        let payload = cx.rx_buffer.buffer(payload);
        if let Some(echo) = Echo::parse(payload) {
            cx.counters.control += 1;
            self.handle_echo(index, &echo, cx, now);
            return Ok(());
        }
        if let Some(message) = notice::parse(payload).map(Box::from) {
            return self.handle_notice(index, message, cx, now);
        }
        let message = ProbeMessage::parse(payload).ok_or(DropReason::InnerMalformed)?;
        cx.counters.control += 1;
        match message {
            // The answer is never longer than the probe, so probes cannot be used for
            // amplification.
            ProbeMessage::Probe(tag) => {
                self.send_payload(index, &ProbeMessage::Answer(tag, len).write(), cx, now);
            }
            ProbeMessage::Answer(tag, len) => {
                self.learn(index, cx, |mtu| mtu.handle_answer(tag, len, now));
                self.send_probes(index, cx, now);
            }
        }

        Ok(())
    }

    /// Performs what is due for the path of one link.
    pub(super) fn handle_probe_timeout(
        &mut self,
        index: LinkIndex,
        cx: &mut LaneContext,
        now: Instant,
    ) {
        self.learn(index, cx, |mtu| mtu.handle_timeout(now));
        self.send_probes(index, cx, now);
    }

    fn send_probes(&mut self, index: LinkIndex, cx: &mut LaneContext, now: Instant) {
        while let Some(probe) = self.links[index.0].mtu.poll_probe(now) {
            let mut scratch = std::mem::take(&mut cx.scratch);
            scratch.clear();
            scratch.extend_from_slice(&ProbeMessage::Probe(probe.tag).write());
            scratch.resize(probe.len, 0);
            self.send_payload(index, &scratch, cx, now);
            cx.scratch = scratch;
        }
    }

    fn learn(
        &mut self,
        index: LinkIndex,
        cx: &mut LaneContext,
        change: impl FnOnce(&mut crate::path_mtu::PathMtu),
    ) {
        let link = &mut self.links[index.0];
        let before = link.mtu.mtu();
        change(&mut link.mtu);
        let mtu = link.mtu.mtu();
        if mtu != before {
            let (network, node, lane) = (self.table.id, link.node, link.lane);
            cx.events.push(Event::PathMtu { network, node, lane, mtu });
            self.has_narrow = self.links.iter().any(|link| link.mtu.is_narrow());
        }
    }
}
