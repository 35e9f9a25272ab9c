//! Whether the peers hear this lane and this lane hears them: sends requests, answers those of
//! peers, and acts on the conclusions of [`crate::liveness`].

use std::time::Instant;

use overlay_core::NodeId;

use crate::context::LaneContext;
use crate::echo::{Echo, EchoKind};
use crate::event::Event;
use crate::index::LinkIndex;
use crate::status::PeerState;

use super::LaneNetwork;

impl LaneNetwork {
    /// Returns whether a peer has said where it sees this lane.
    pub(crate) fn is_seen(&self) -> bool {
        self.links
            .iter()
            .any(|link| link.life.as_ref().is_some_and(|life| life.seen_at().is_some()))
    }

    /// Tells every peer with a session that this lane's address may have changed.
    pub(crate) fn announce(&mut self, cx: &mut LaneContext, now: Instant) {
        for index in (0..self.links.len()).map(LinkIndex) {
            if self.links[index.0].has_session(now) {
                self.links[index.0].life(now).move_away(now);
                self.handle_hearing_timeout(index, cx, now);
                self.mark_dirty(index, cx);
            }
        }
    }

    /// Tries to reach the silent lanes of a node at once.
    pub(crate) fn hurry(&mut self, node: NodeId, cx: &mut LaneContext, now: Instant) {
        for index in (0..self.links.len()).map(LinkIndex) {
            let link = &mut self.links[index.0];
            if link.node != node {
                continue;
            }
            let Some(life) = link.life.as_mut().filter(|life| life.is_silent()) else { continue };
            life.hurry(now);
            self.restart_handshake(index, cx, now);
            self.handle_hearing_timeout(index, cx, now);
            self.mark_dirty(index, cx);
        }
    }

    /// Accepts a peer's echo message.
    pub(super) fn handle_echo(
        &mut self,
        index: LinkIndex,
        echo: &Echo,
        cx: &mut LaneContext,
        now: Instant,
    ) {
        let life = self.links[index.0].life(now);
        life.handle_echo(echo, now);
        if let Some(seen_at) = echo.seen_at.filter(|_| !cx.own.is_empty()) {
            let is_translated = !cx.own.contains(&seen_at.ip());
            life.keep_open(is_translated, now);
            if is_translated {
                cx.is_news |= cx.translated.is_none();
                cx.translated = Some(seen_at);
            }
        }
        if echo.kind == EchoKind::Request {
            self.send_echo(index, EchoKind::Answer, echo.sent_micros, cx, now);
        }
        if let Some(theirs) = echo.notices {
            self.compare_notices(index, theirs, cx, now);
        }
    }

    /// Performs what is due for a link's liveness.
    pub(super) fn handle_hearing_timeout(
        &mut self,
        index: LinkIndex,
        cx: &mut LaneContext,
        now: Instant,
    ) {
        let link = &mut self.links[index.0];
        let has_session = link.has_session(now);
        let Some(life) = &mut link.life else { return };
        let is_kept_open = life.is_kept_open();
        let due = life.handle_timeout(has_session, now);
        let micros = life.micros(now);
        if is_kept_open {
            link.used(now);
        }
        if due.is_silent {
            link.enter(PeerState::Unreachable, now);
            cx.events.push(Event::Unreachable {
                network: self.table.id,
                node: link.node,
                lane: link.lane,
            });
        }
        if due.is_over {
            link.path.give_up();
            link.enter(PeerState::Idle, now);
        }
        if due.ask {
            self.send_echo(index, EchoKind::Request, micros, cx, now);
        }
        if due.call_elsewhere {
            self.links[index.0].path.look_elsewhere();
            self.restart_handshake(index, cx, now);
        } else if due.call
            && self.links[index.0].path.is_known()
            && self.ensure_tunnel(index, cx, now)
        {
            self.call_again(index, cx, now);
        }
    }

    fn send_echo(
        &mut self,
        index: LinkIndex,
        kind: EchoKind,
        micros: u64,
        cx: &mut LaneContext,
        now: Instant,
    ) {
        let link = &mut self.links[index.0];
        let seen_at = link.path.current();
        let echo = link.life(now).write(kind, micros, seen_at, now);
        let message = Echo { notices: Some(cx.notices.digest), ..echo }.write();
        self.send_payload(index, &message, cx, now);
    }
}
