//! One network on this lane: its interface, its peers, and who may send from which address.
//!
//! [`gateways`] says which peers lead to linked networks; [`handshake`] has handshakes, timers and
//! the life of tunnels; [`publish`] applies new tables; [`pmtu`] and [`probing`] deal with narrow
//! paths; [`hearing`] watches whether peers hear each other; [`notices`] passes on what nodes tell
//! each other; [`hand_over`] continues in another process.

mod gateways;
mod hand_over;
mod handshake;
mod hearing;
mod notices;
mod pmtu;
mod probing;
mod publish;

pub(crate) use publish::LaneIndex;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use overlay_core::PublicKey;
use overlay_core::token_bucket::TokenBucket;
use zeroize::Zeroizing;

use crate::context::LaneContext;
use crate::drop::DropReason;
use crate::icmp;
use crate::index::{LinkHandle, LinkIndex, PeerIndex};
use crate::ip::{self, Inner};
use crate::link::Link;
use crate::liveness::Liveness;
use crate::noise::{DataHeader, Interface, Open, sealed_len};
use crate::routes::{PeerRoutes, PrefixTable};
use crate::stage::{OpenedJob, SealJob};
use crate::status::{PeerError, PeerStatus};
use crate::tables::NetworkTable;

use self::gateways::Gateways;

/// Another member of the network.
#[derive(Debug)]
struct Peer {
    /// The lane of the peer that this lane sends to.
    send_to: Option<LinkIndex>,
}

/// One network.
#[derive(Debug)]
pub(crate) struct LaneNetwork {
    table: Arc<NetworkTable>,
    interface: Interface,
    /// Which peer holds an inner address: packets to it go there, and only that peer may send from
    /// it.
    routes: PeerRoutes,
    /// Which peers carry packets to and from linked networks.
    gateways: Gateways,
    /// The inner addresses of this node.
    local: PrefixTable<()>,
    peers: Vec<Peer>,
    #[expect(
        clippy::vec_box,
        reason = "a new table moves every link twice; as pointers they need no second room for that"
    )]
    links: Vec<Box<Link>>,
    keys: BTreeMap<PublicKey, LinkIndex>,
    errors: TokenBucket,
    /// Whether any path carries less than the tunnel's MTU.
    has_narrow: bool,
    /// The identification for the next packet that is cut into fragments.
    next_fragment: u32,
}

impl LaneNetwork {
    /// Makes a network without peers.
    pub(crate) fn new(
        table: &NetworkTable,
        seed: Zeroizing<[u8; 32]>,
        now: Instant,
        unix_time: Duration,
    ) -> Self {
        let interface = Interface::new(&table.private_key, seed, now, unix_time);
        // Lanes must not use the same identifications at the same time; each lane has a key of its
        // own.
        let [a, b, c, d, ..] = *interface.public_key().as_bytes();
        let next_fragment = u32::from_be_bytes([a, b, c, d]).wrapping_add(unix_time.subsec_nanos());

        Self {
            table: Arc::new(NetworkTable {
                peers: Arc::default(),
                local: Vec::new(),
                links: Arc::default(),
                ..table.clone()
            }),
            interface,
            routes: PeerRoutes::default(),
            gateways: Gateways::default(),
            local: PrefixTable::default(),
            peers: Vec::new(),
            links: Vec::new(),
            keys: BTreeMap::new(),
            errors: icmp::bucket(now),
            has_narrow: false,
            next_fragment,
        }
    }

    /// Takes an inner packet for its peer: it is sealed later in the batch, or kept until there is
    /// a session.
    pub(crate) fn forward<'p>(
        &mut self,
        raw: &'p [u8],
        seals: &mut Vec<SealJob<'p>>,
        cx: &mut LaneContext,
        now: Instant,
    ) -> Result<(), DropReason> {
        let inner = ip::parse(raw).ok_or(DropReason::Malformed)?;
        let packet = raw.get(..inner.len).ok_or(DropReason::Malformed)?;
        self.check_source(&inner)?;
        let link = self.route(&inner)?;
        if self.fits(link, packet) {
            return self.begin_seal(link, packet, seals, cx, now);
        }

        self.fit_to_pmtu(link, packet, &inner, cx, now)
    }

    /// Finds the session of a data message.
    pub(crate) fn begin_open(
        &mut self,
        link: LinkIndex,
        header: DataHeader,
        now: Instant,
    ) -> Result<Open, DropReason> {
        let tunnel = self
            .links
            .get(link.0)
            .and_then(|link| link.tunnel.as_ref())
            .ok_or(DropReason::NoSession)?;

        Ok(tunnel.begin_open(header, now)?)
    }

    /// Accepts an opened message, once, and delivers its packet if the sender may send it.
    pub(crate) fn accept(
        &mut self,
        job: OpenedJob,
        from: SocketAddr,
        cx: &mut LaneContext,
        now: Instant,
    ) -> Result<(), DropReason> {
        let Some(payload_len) =
            self.commit(&job.handle, job.opened, job.message_len, from, cx, now)?
        else {
            cx.counters.control += 1;
            return Ok(());
        };
        let start = job.buffer.start;
        let Some(inner) = ip::parse(cx.rx_buffer.buffer(start..start + payload_len)) else {
            return self.handle_payload(job.handle.link, start..start + payload_len, cx, now);
        };
        self.links[job.handle.link.0].fed(now);
        self.check_sender(job.handle.link, &inner)?;
        self.check_destination(&inner)?;
        if self.has_narrow {
            self.clamp_incoming(job.handle.link, start..start + inner.len, cx);
        }

        cx.rx_buffer.push(self.table.id, start..start + inner.len);
        cx.counters.delivered += 1;
        cx.counters.delivered_bytes += inner.len as u64;
        Ok(())
    }

    /// Lists the IP addresses at which members may be reached or were heard.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.links.iter().flat_map(|link| link.path.addresses())
    }

    /// Lists the status of each peer lane.
    pub(crate) fn status(&self, now: Instant) -> impl Iterator<Item = PeerStatus> + '_ {
        self.links.iter().map(move |link| {
            let (state, since) = link.shown_state(now);
            let life = link.life.as_deref();
            let age = |at: Instant| now.saturating_duration_since(at);

            PeerStatus {
                network: self.table.id,
                node: link.node,
                lane: link.lane,
                public_key: link.public_key,
                underlay: link.path.shown(),
                last_handshake: link.handshake_age(now),
                tx_bytes: link.tx_bytes,
                rx_bytes: link.rx_bytes,
                state,
                since,
                error: link.error(now),
                heard: life.and_then(Liveness::heard).map(age),
                wanted: life.and_then(Liveness::wanted).map(age),
                seen_at: life.and_then(Liveness::seen_at),
                is_translated: link.path.is_translated(),
                incoming_loss: life.and_then(|life| life.incoming_loss(now)),
                outgoing_loss: life.and_then(|life| life.outgoing_loss(now)),
                round_trip: life.and_then(Liveness::round_trip),
                mtu: link.mtu.mtu(),
                mtu_source: link.mtu.source(),
            }
        })
    }

    fn check_source(&self, inner: &Inner) -> Result<(), DropReason> {
        if !ip::is_routed_unicast(inner.source) {
            let is_talk = ip::is_link_multicast(inner.destination);
            return Err(if is_talk { DropReason::LinkScope } else { DropReason::SourceNotUnicast });
        }

        self.local.lookup(inner.source).ok_or(DropReason::SourceNotLocal)
    }

    fn route(&self, inner: &Inner) -> Result<LinkIndex, DropReason> {
        let Some(peer) = self.routes.lookup(inner.destination) else {
            return self.gateway(inner.destination);
        };

        self.send_to(peer).ok_or(DropReason::NoLane)
    }

    /// Returns the link to the gateway in use for an address of a linked network: the first that is
    /// not lost, or the first where all are.
    fn gateway(&self, destination: IpAddr) -> Result<LinkIndex, DropReason> {
        let mut links =
            self.gateways.of(destination).iter().filter_map(|peer| self.send_to(*peer)).peekable();
        let first = links.peek().copied();
        let is_lost = |link: &LinkIndex| self.links.get(link.0).is_some_and(|link| link.is_lost());

        links.find(|link| !is_lost(link)).or(first).ok_or(DropReason::NoRoute)
    }

    fn send_to(&self, peer: PeerIndex) -> Option<LinkIndex> {
        self.peers.get(peer.0).and_then(|peer| peer.send_to)
    }

    fn begin_seal<'p>(
        &mut self,
        index: LinkIndex,
        packet: &'p [u8],
        seals: &mut Vec<SealJob<'p>>,
        cx: &mut LaneContext,
        now: Instant,
    ) -> Result<(), DropReason> {
        let link = &mut self.links[index.0];
        let Some(seal) = link.tunnel.as_mut().and_then(|tunnel| tunnel.begin_seal(now)) else {
            return self.wait(index, packet, cx, now);
        };
        let to = link.path.current().ok_or(DropReason::NoUnderlayAddr)?;
        let len = sealed_len(packet.len());
        let slot = cx
            .transmit_queue
            .reserve(&mut link.batch, to, len)
            .ok_or(DropReason::TransmitOverflow)?;
        link.life(now).note_wanted(now);
        link.note_sent(len);
        link.used(now);
        link.mtu.note_sent(packet.len());
        seals.push(SealJob { seal, packet, slot });
        self.mark_dirty(index, cx);

        Ok(())
    }

    fn wait(
        &mut self,
        index: LinkIndex,
        packet: &[u8],
        cx: &mut LaneContext,
        now: Instant,
    ) -> Result<(), DropReason> {
        let link = &mut self.links[index.0];
        if link.error(now) == Some(PeerError::InvalidKey) {
            return Err(DropReason::InvalidKey);
        }
        if !link.path.is_known() {
            link.set_error(PeerError::NoUnderlayAddr);
            return Err(DropReason::NoUnderlayAddr);
        }
        if !self.ensure_tunnel(index, cx, now) {
            return Err(DropReason::InvalidKey);
        }
        self.links[index.0].life(now).note_wanted(now);
        if self.links[index.0].wait(packet) {
            cx.counters.drop(DropReason::QueueOverflow);
        } else {
            cx.counters.waiting += 1;
        }
        self.start_handshake(index, cx, now);

        Ok(())
    }

    /// Marks a message as received. From here on its sender is known to be the peer, whatever the
    /// packet says.
    fn commit(
        &mut self,
        handle: &LinkHandle,
        opened: crate::noise::Opened,
        message_len: usize,
        from: SocketAddr,
        cx: &mut LaneContext,
        now: Instant,
    ) -> Result<Option<usize>, DropReason> {
        let link = self.links.get_mut(handle.link.0).ok_or(DropReason::NoSession)?;
        let tunnel = link.tunnel.as_mut().ok_or(DropReason::NoSession)?;
        let payload_len = tunnel.commit(&opened, now)?;
        link.rx_bytes += message_len as u64;
        link.note_received(now);
        // All messages of a batch have the same time, so only the first changes anything.
        if !link.is_heard(from, now) {
            self.heard(handle.link, from, cx, now);
            self.flush(handle.link, cx, now);
        }
        self.mark_dirty(handle.link, cx);

        Ok(payload_len)
    }

    fn check_sender(&self, link: LinkIndex, inner: &Inner) -> Result<(), DropReason> {
        if !ip::is_routed_unicast(inner.source) {
            return Err(DropReason::InnerSourceNotUnicast);
        }
        let peer = self.links.get(link.0).map(|link| link.peer);
        let may_send = match self.routes.lookup(inner.source) {
            owner @ Some(_) => owner == peer,
            None => peer.is_some_and(|peer| self.gateways.of(inner.source).contains(&peer)),
        };

        may_send.then_some(()).ok_or(DropReason::InnerSourceForged)
    }

    fn check_destination(&self, inner: &Inner) -> Result<(), DropReason> {
        self.local.lookup(inner.destination).ok_or(DropReason::InnerNotLocal)
    }

    /// Marks a link to be checked after the batch.
    fn mark_dirty(&mut self, index: LinkIndex, cx: &mut LaneContext) {
        let link = &mut self.links[index.0];
        if !link.is_touched {
            link.is_touched = true;
            cx.dirty.push(LinkHandle { network: self.table.id, link: index });
        }
    }
}
