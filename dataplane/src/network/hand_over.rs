//! Hands a network over to another process: the state of its links is read and applied.

use std::time::Instant;

use crate::context::LaneContext;
use crate::event::Event;
use crate::index::{LinkHandle, LinkIndex};
use crate::state::{NetworkState, PeerLinkState};
use crate::status::PeerState;

use super::LaneNetwork;

impl LaneNetwork {
    /// Returns the state of the links.
    pub(crate) fn state(&self) -> NetworkState {
        NetworkState {
            id: self.table.id,
            public_key: self.interface.public_key(),
            next_fragment: self.next_fragment,
            links: self.links.iter().map(|link| link.to_state()).collect(),
        }
    }

    /// Continues with the state of another process, for the peers that this one has as well,
    /// without sealing anything. Returns how many sessions could not be taken over.
    pub(crate) fn resume(
        &mut self,
        state: NetworkState,
        cx: &mut LaneContext,
        now: Instant,
    ) -> usize {
        self.next_fragment = state.next_fragment;
        let mut refused = 0;
        for link in state.links {
            let index = self.keys.get(&link.public_key).copied();
            if let Some(index) = index.filter(|index| self.links[index.0].node == link.node) {
                refused += usize::from(!self.resume_link(index, link, cx, now));
            }
        }
        self.has_narrow = self.links.iter().any(|link| link.mtu.is_narrow());

        refused
    }

    fn resume_link(
        &mut self,
        index: LinkIndex,
        state: PeerLinkState,
        cx: &mut LaneContext,
        now: Instant,
    ) -> bool {
        let network = self.table.id;
        let tunnel = state.tunnel.as_ref().map(|tunnel| self.interface.resume_tunnel(tunnel, now));
        let link = &mut self.links[index.0];
        if let Some(before) = link.tunnel.take() {
            cx.demux.remove(before.id());
        }
        // If a tunnel cannot be taken over, its sessions are lost.
        let taken = match tunnel {
            Some(Some(tunnel)) if !cx.demux.contains(tunnel.id()) => {
                cx.demux.insert(tunnel.id(), LinkHandle { network, link: index });
                link.tunnel = Some(tunnel);
                true
            }
            Some(_) => false,
            None => true,
        };
        let waiting = link.resume(state, now);
        cx.counters.tun_packets += waiting;
        cx.counters.waiting += waiting;
        let link = &self.links[index.0];
        if let (PeerState::Established, Some(underlay)) = (link.state(now).0, link.path.current()) {
            cx.events.push(Event::Established {
                network,
                node: link.node,
                lane: link.lane,
                underlay,
            });
        }
        if !taken && self.links[index.0].path.is_known() && self.ensure_tunnel(index, cx, now) {
            self.start_handshake(index, cx, now);
        }
        self.mark_dirty(index, cx);

        taken
    }
}
