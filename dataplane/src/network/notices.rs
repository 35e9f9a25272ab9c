//! Passes notices on to peers, and takes theirs.

use std::sync::Arc;
use std::time::Instant;

use crate::context::LaneContext;
use crate::drop::DropReason;
use crate::event::Event;
use crate::index::LinkIndex;
use crate::link::Link;
use crate::notice;

use super::LaneNetwork;

impl LaneNetwork {
    /// Sends notices on every link that has a session.
    pub(crate) fn tell(&mut self, news: &[Arc<[u8]>], cx: &mut LaneContext, now: Instant) {
        for index in (0..self.links.len()).map(LinkIndex) {
            if self.links[index.0].has_session(now) {
                self.send_notices(index, news, cx, now);
            }
        }
    }

    /// Calls peer lanes that there is no session with, at most `most`, beginning with one drawn by
    /// `dice`: they are told when the session is there. Returns how many were called.
    pub(crate) fn call_to_tell(
        &mut self,
        most: usize,
        dice: usize,
        cx: &mut LaneContext,
        now: Instant,
    ) -> usize {
        let count = self.links.len();
        let is_callable =
            |link: &Link| link.is_used && link.path.is_known() && !link.has_session(now);
        let mut called = 0;
        for index in (0..count).map(|at| LinkIndex((at + dice) % count)) {
            if called < most
                && is_callable(&self.links[index.0])
                && self.ensure_tunnel(index, cx, now)
            {
                self.start_handshake(index, cx, now);
                called += 1;
            }
        }

        called
    }

    /// Acts on what a peer says that it knows.
    pub(super) fn compare_notices(
        &mut self,
        index: LinkIndex,
        theirs: u64,
        cx: &mut LaneContext,
        now: Instant,
    ) {
        let ours = Arc::clone(&cx.notices);
        if let Some(batch) = self.links[index.0].exchange(now).compare(&ours, theirs, now) {
            self.send_notices(index, &batch, cx, now);
        }
    }

    /// Accepts a peer's notice.
    pub(super) fn handle_notice(
        &mut self,
        index: LinkIndex,
        message: Box<[u8]>,
        cx: &mut LaneContext,
        now: Instant,
    ) -> Result<(), DropReason> {
        let link = &mut self.links[index.0];
        if !link.exchange(now).admits(now) {
            return Err(DropReason::RateLimited);
        }
        cx.counters.control += 1;
        if !cx.notices.has(&message) {
            let (network, node, lane) = (self.table.id, link.node, link.lane);
            cx.events.push(Event::Notice { network, node, lane, message });
        }

        Ok(())
    }

    /// Sends notices, and asks a little later whether the peer has them: they may be lost.
    fn send_notices(
        &mut self,
        index: LinkIndex,
        messages: &[Arc<[u8]>],
        cx: &mut LaneContext,
        now: Instant,
    ) {
        let mut scratch = std::mem::take(&mut cx.scratch);
        for message in messages {
            notice::write(message, &mut scratch);
            self.send_payload(index, &scratch, cx, now);
        }
        cx.scratch = scratch;
        self.links[index.0].life(now).ask_soon(now);
        self.mark_dirty(index, cx);
    }
}
