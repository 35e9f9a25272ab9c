//! The sessions of one network: handshakes in both directions, tunnels made on demand, and the
//! packets that wait for them.
//!
//! ```text
//!   nothing ──packet, wake──► trying ──answer──► session ──needed again after 180 s──► trying
//!      ▲                        │ 90 s without an answer                │ not needed for 180 s
//!      └────────────────────────┴───────────────────────────────────────┘
//! ```
//! A peer's own initiation makes a session from any state; the session carries packets once the
//! peer proved that it has it, too.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::context::LaneContext;
use crate::drop::DropReason;
use crate::event::Event;
use crate::index::{LinkHandle, LinkIndex};
use crate::link::Link;
use crate::noise::{
    CookieReply, Datagram, Initiation, Message, Response, Tunnel, TunnelEvent, sealed_len,
};
use crate::stage::{SealJob, seal_one};
use crate::status::{PeerError, PeerState};

use super::LaneNetwork;

/// How many times a tunnel is made anew because its random index is already taken on this socket.
/// With 10,000 tunnels a lane, one in 1,600 tunnels is.
const MAX_TUNNEL_DRAWS: usize = 8;
/// How many times a tunnel that is still due is handled again at once.
const MAX_TIMEOUTS: usize = 8;
/// The delay after which a tunnel that is still due is handled again, so that no driver can spin.
const TIMEOUT_PAUSE: Duration = Duration::from_millis(1);

impl LaneNetwork {
    /// Verifies that a handshake message is for this network.
    pub(crate) fn receive(
        &mut self,
        from: SocketAddr,
        datagram: &[u8],
        now: Instant,
    ) -> Result<Message, DropReason> {
        self.interface.receive(from, datagram, now)
    }

    /// Accepts a message other than data. `link` is the link that its receiver index belongs to, if
    /// it has one.
    pub(crate) fn handle_message(
        &mut self,
        link: Option<LinkIndex>,
        message: Message,
        from: SocketAddr,
        cx: &mut LaneContext,
        now: Instant,
    ) -> Result<(), DropReason> {
        match (message, link) {
            (Message::Challenge(reply), _) => cx.send_control(from, &reply),
            (Message::Initiation(initiation), None) => self.answer(initiation, from, cx, now)?,
            (Message::Response(response), Some(link)) => {
                self.complete(link, response, from, cx, now)?
            }
            (Message::Cookie(cookie), Some(link)) => self.keep_cookie(link, cookie, cx, now)?,
            (Message::Initiation(_) | Message::Response(_) | Message::Cookie(_), _) => {
                return Err(DropReason::NotWireguard);
            }
        }
        cx.counters.control += 1;

        Ok(())
    }

    /// Sends a handshake on used links that have no session, at most `most`, and returns on how
    /// many.
    pub(crate) fn wake(&mut self, most: usize, cx: &mut LaneContext, now: Instant) -> usize {
        let is_used = |link: &Link| link.is_used && link.path.is_known();

        self.call(is_used, most, cx, now)
    }

    /// Sends a handshake to the peer lane that is reached at `address`, if there is no session with
    /// it.
    pub(crate) fn call_back(&mut self, address: SocketAddr, cx: &mut LaneContext, now: Instant) {
        self.call(|link| link.path.has(address), usize::MAX, cx, now);
    }

    fn call(
        &mut self,
        which: impl Fn(&Link) -> bool,
        most: usize,
        cx: &mut LaneContext,
        now: Instant,
    ) -> usize {
        let mut called = 0;
        for index in (0..self.links.len()).map(LinkIndex) {
            let link = &self.links[index.0];
            if called < most
                && which(link)
                && !link.has_session(now)
                && self.ensure_tunnel(index, cx, now)
            {
                self.start_handshake(index, cx, now);
                called += 1;
            }
        }

        called
    }

    /// Performs what is due on one link.
    pub(crate) fn handle_timeout(&mut self, index: LinkIndex, cx: &mut LaneContext, now: Instant) {
        let Some(link) = self.links.get_mut(index.0) else { return };
        link.deadline = None;
        for _ in 0..MAX_TIMEOUTS {
            let Some(tunnel) = &mut self.links[index.0].tunnel else { break };
            tunnel.handle_timeout(now);
            self.grant_wishes(index, cx, now);
            if self.tunnel_timeout(index).is_none_or(|at| at > now) {
                break;
            }
        }
        self.handle_probe_timeout(index, cx, now);
        self.handle_hearing_timeout(index, cx, now);
        let next =
            self.next_timeout(index, now).map(|at| if at > now { at } else { now + TIMEOUT_PAUSE });
        self.schedule(index, next, cx);
    }

    /// Updates the deadline of a link whose tunnel was used.
    pub(crate) fn update_timers(&mut self, index: LinkIndex, cx: &mut LaneContext, now: Instant) {
        let Some(link) = self.links.get_mut(index.0) else { return };
        link.is_touched = false;
        self.grant_wishes(index, cx, now);
        let (old, next) = (self.links[index.0].deadline, self.next_timeout(index, now));
        // If the deadline only moved to a later time, it is updated when the earlier time comes,
        // which is cheaper than to move it each time.
        if old.is_none() || next.is_none() || next < old {
            self.schedule(index, next, cx);
        }
    }

    /// Makes the tunnel of a link if there is none. Returns whether there is one now: no session
    /// can be made with an invalid key.
    pub(super) fn ensure_tunnel(
        &mut self,
        index: LinkIndex,
        cx: &mut LaneContext,
        now: Instant,
    ) -> bool {
        if self.links[index.0].tunnel.is_some() {
            return true;
        }
        let Some(tunnel) = self.draw_tunnel(index, cx, now) else {
            self.links[index.0].set_error(PeerError::InvalidKey);
            return false;
        };
        cx.demux.insert(tunnel.id(), LinkHandle { network: self.table.id, link: index });
        self.links[index.0].tunnel = Some(tunnel);
        self.mark_dirty(index, cx);

        true
    }

    /// Sends an initiation unless one is under way.
    pub(super) fn start_handshake(&mut self, index: LinkIndex, cx: &mut LaneContext, now: Instant) {
        self.links[index.0].used(now);
        let initiation =
            self.links[index.0].tunnel.as_mut().and_then(|tunnel| tunnel.initiate(now));
        if let Some(initiation) = initiation {
            self.send_initiation(index, &initiation, cx, now);
            self.mark_dirty(index, cx);
        }
    }

    /// Sends an initiation unless one is under way, although no packet waits for it.
    pub(super) fn call_again(&mut self, index: LinkIndex, cx: &mut LaneContext, now: Instant) {
        let initiation =
            self.links[index.0].tunnel.as_mut().and_then(|tunnel| tunnel.initiate(now));
        if let Some(initiation) = initiation {
            self.send_initiation(index, &initiation, cx, now);
            self.mark_dirty(index, cx);
        }
    }

    /// Sends an initiation to the next address even if one is under way.
    pub(super) fn restart_handshake(
        &mut self,
        index: LinkIndex,
        cx: &mut LaneContext,
        now: Instant,
    ) {
        let initiation =
            self.links[index.0].tunnel.as_mut().and_then(|tunnel| tunnel.initiate_again(now));
        if let Some(initiation) = initiation {
            self.send_initiation(index, &initiation, cx, now);
            self.mark_dirty(index, cx);
        }
    }

    /// Notes that an authentic message of the peer came from an address.
    pub(super) fn heard(
        &mut self,
        index: LinkIndex,
        from: SocketAddr,
        cx: &mut LaneContext,
        now: Instant,
    ) {
        let network = self.table.id;
        let link = &mut self.links[index.0];
        let (node, lane) = (link.node, link.lane);
        let before = link.path.confirm(from);
        if let Some(before) = before {
            cx.events.push(Event::Roamed { network, node, lane, from: before, to: from });
        }
        let is_news = link.heard(now);
        let is_first = is_news && link.is_used;
        link.life(now).note_heard(is_first, now);
        if is_news {
            cx.events.push(Event::Established { network, node, lane, underlay: from });
        }
        if is_news || before.is_some() {
            self.begin_probing(index, cx, now);
        }
    }

    /// Sends what waited for the session.
    pub(super) fn flush(&mut self, index: LinkIndex, cx: &mut LaneContext, now: Instant) {
        let link = &mut self.links[index.0];
        while link.waiting() > 0 {
            let Some(seal) = link.tunnel.as_mut().and_then(|tunnel| tunnel.begin_seal(now)) else {
                return;
            };
            let Some(packet) = link.next_waiting() else { return };
            cx.counters.waiting -= 1;
            let len = sealed_len(packet.len());
            let slot = link
                .path
                .current()
                .and_then(|to| cx.transmit_queue.reserve(&mut link.batch, to, len));
            let Some(slot) = slot else {
                cx.counters.drop(DropReason::TransmitOverflow);
                continue;
            };
            link.life(now).note_wanted(now);
            link.note_sent(len);
            seal_one(SealJob { seal, packet: &packet, slot }, cx);
        }
    }

    /// Answers an initiation of a member. The address that it came from is not confirmed until the
    /// first message of the new session.
    fn answer(
        &mut self,
        initiation: Initiation,
        from: SocketAddr,
        cx: &mut LaneContext,
        now: Instant,
    ) -> Result<(), DropReason> {
        let index = *self.keys.get(initiation.peer()).ok_or(DropReason::UnknownPeer)?;
        if !self.ensure_tunnel(index, cx, now) {
            return Err(DropReason::HandshakeRefused);
        }
        self.mark_dirty(index, cx);
        let link = &mut self.links[index.0];
        let timestamp = initiation.timestamp();
        // A tunnel remembers the timestamp of the last one, but tunnels do not last.
        let answer = match &mut link.tunnel {
            Some(tunnel) if timestamp > link.last_initiation => {
                tunnel.answer(initiation, now).map_err(DropReason::from)
            }
            Some(_) | None => Err(DropReason::HandshakeReplayed),
        };
        if matches!(answer, Err(DropReason::HandshakeReplayed)) && !link.has_session(now) {
            link.set_error(PeerError::ClockWentBack);
        }
        let response = answer?;
        link.last_initiation = timestamp;
        link.life(now).note_called(now);
        link.tx_bytes += response.len() as u64;
        cx.send_control(from, &response);

        Ok(())
    }

    fn complete(
        &mut self,
        index: LinkIndex,
        response: Response,
        from: SocketAddr,
        cx: &mut LaneContext,
        now: Instant,
    ) -> Result<(), DropReason> {
        let tunnel = self.tunnel(index)?;
        let keepalive = tunnel.complete(response, now)?;
        self.heard(index, from, cx, now);
        self.links[index.0].life(now).note_answered();
        self.send(index, &keepalive, cx);
        self.flush(index, cx, now);
        self.mark_dirty(index, cx);

        Ok(())
    }

    fn keep_cookie(
        &mut self,
        index: LinkIndex,
        cookie: CookieReply,
        cx: &mut LaneContext,
        now: Instant,
    ) -> Result<(), DropReason> {
        self.tunnel(index)?.keep_cookie(&cookie, now)?;
        self.mark_dirty(index, cx);

        Ok(())
    }

    fn tunnel(&mut self, index: LinkIndex) -> Result<&mut Tunnel, DropReason> {
        let link = self.links.get_mut(index.0);

        link.and_then(|link| link.tunnel.as_mut()).ok_or(DropReason::UnknownIndex)
    }

    fn draw_tunnel(&mut self, index: LinkIndex, cx: &LaneContext, now: Instant) -> Option<Tunnel> {
        let key = self.links[index.0].public_key;

        (0..MAX_TUNNEL_DRAWS)
            .map_while(|_| self.interface.new_tunnel(&key, now))
            .find(|tunnel| !cx.demux.contains(tunnel.id()))
    }

    fn grant_wishes(&mut self, index: LinkIndex, cx: &mut LaneContext, now: Instant) {
        while let Some(event) =
            self.links[index.0].tunnel.as_mut().and_then(|tunnel| tunnel.poll_action())
        {
            match event {
                TunnelEvent::Initiate(_) if self.links[index.0].is_idle(now) => {
                    self.rest(index, cx, now)
                }
                TunnelEvent::Initiate(initiation) => {
                    self.send_initiation(index, &initiation, cx, now)
                }
                TunnelEvent::KeepAlive(keepalive) => self.send(index, &keepalive, cx),
                TunnelEvent::Forget => self.forget_tunnel(index, cx, now),
            }
        }
        self.links[index.0].note_handshake(now);
    }

    /// Sends an initiation to the next address of the peer.
    fn send_initiation(
        &mut self,
        index: LinkIndex,
        initiation: &Datagram,
        cx: &mut LaneContext,
        now: Instant,
    ) {
        let link = &mut self.links[index.0];
        let Some(to) = link.path.next_attempt(now) else { return };
        link.attempted(now);
        link.tx_bytes += initiation.len() as u64;
        cx.send_control(to, initiation);
    }

    /// Sends a keepalive.
    fn send(&mut self, index: LinkIndex, keepalive: &Datagram, cx: &mut LaneContext) {
        let link = &mut self.links[index.0];
        let Some(to) = link.path.current() else { return };
        link.note_sent(keepalive.len());
        cx.send_control(to, keepalive);
    }

    /// Drops the tunnel of a link that nobody uses.
    fn rest(&mut self, index: LinkIndex, cx: &mut LaneContext, now: Instant) {
        let link = &mut self.links[index.0];
        if let Some(tunnel) = link.tunnel.take() {
            cx.demux.remove(tunnel.id());
        }
        link.path.give_up();
        link.rest();
        link.enter(PeerState::Idle, now);
    }

    /// Drops a tunnel that expired, and makes another if packets wait and the peer may still
    /// answer.
    fn forget_tunnel(&mut self, index: LinkIndex, cx: &mut LaneContext, now: Instant) {
        let link = &mut self.links[index.0];
        if let Some(tunnel) = link.tunnel.take() {
            cx.demux.remove(tunnel.id());
        }
        if link.waiting() > 0 && !link.path.is_hopeless(now) && self.ensure_tunnel(index, cx, now) {
            self.start_handshake(index, cx, now);
            return;
        }
        let link = &mut self.links[index.0];
        let forgotten = link.forget_waiting();
        cx.counters.waiting -= forgotten;
        cx.counters.drop_many(DropReason::HandshakeTimeout, forgotten);
        if link.is_wanted() {
            link.path.pause();
        } else {
            link.path.give_up();
            link.enter(PeerState::Idle, now);
        }
    }

    fn next_timeout(&self, index: LinkIndex, now: Instant) -> Option<Instant> {
        let link = &self.links[index.0];
        let life = link.life.as_ref().and_then(|life| life.poll_timeout(|| link.has_session(now)));

        self.tunnel_timeout(index).into_iter().chain(link.mtu.poll_timeout()).chain(life).min()
    }

    fn tunnel_timeout(&self, index: LinkIndex) -> Option<Instant> {
        self.links[index.0].tunnel.as_ref().and_then(|tunnel| tunnel.poll_timeout())
    }

    fn schedule(&mut self, index: LinkIndex, next: Option<Instant>, cx: &mut LaneContext) {
        let handle = LinkHandle { network: self.table.id, link: index };
        let link = &mut self.links[index.0];
        cx.deadlines.replace(handle, link.deadline, next);
        link.deadline = next;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use zeroize::Zeroizing;

    use super::*;
    use crate::network::LaneIndex;
    use crate::sim::{start, table};
    use crate::tables::LaneId;

    #[test]
    fn an_index_that_another_network_holds_is_drawn_again() {
        let mut cx = LaneContext::default();
        // The same seed draws the same indices.
        let mut networks = [1, 2].map(|id| {
            let table = Arc::new(table(id, 0, &[0, 1]));
            let mut network =
                LaneNetwork::new(&table, Zeroizing::new([1; 32]), start(), Duration::ZERO);
            network.publish(&table, LaneIndex { lane: LaneId(0), lanes: 1 }, &mut cx, start());
            network
        });

        let ids = networks.each_mut().map(|network| {
            assert!(network.ensure_tunnel(LinkIndex(0), &mut cx, start()));
            network.links[0].tunnel.as_ref().expect("just made").id()
        });

        assert_ne!(ids[0], ids[1]);
        assert_eq!(cx.demux.find(ids[0]).expect("known").network, networks[0].table.id);
        assert_eq!(cx.demux.find(ids[1]).expect("known").network, networks[1].table.id);
    }
}
