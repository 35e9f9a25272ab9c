//! What engines know, as bytes. Keys are wiped wherever they were.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use overlay_core::{NetworkId, NodeId, PublicKey};
use overlay_dataplane::{
    EngineState, LivenessState, MtuSource, NetworkState, PathState, PeerLinkState, PeerState,
    SecretBytes, SessionState, TimersState, TunnelState,
};
use overlay_proto::v1;
use prost::Message as _;
use zeroize::{Zeroize as _, Zeroizing};

use super::moments::Moments;

/// The bytes are not what an engine knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the state of the sessions is damaged: {0}")]
pub(crate) struct Damaged(&'static str);

/// Messages with keys in them, which are wiped when this is dropped.
struct Keyed(v1::HandOverEngines);

impl Drop for Keyed {
    fn drop(&mut self) {
        let networks = self.0.engines.iter_mut().flat_map(|engine| &mut engine.networks);
        let tunnels =
            networks.flat_map(|network| &mut network.links).filter_map(|link| link.tunnel.as_mut());
        for tunnel in tunnels {
            tunnel.shared.zeroize();
            for session in tunnel.current.iter_mut().chain(&mut tunnel.others) {
                session.sealing.zeroize();
                session.opening.zeroize();
            }
        }
    }
}

/// Writes what the engines know.
pub(crate) fn encode(engines: Vec<EngineState>, moments: &Moments) -> Zeroizing<Vec<u8>> {
    let write = Writer { moments };
    let message = Keyed(v1::HandOverEngines {
        engines: engines.into_iter().map(|one| write.engine(one)).collect(),
    });
    // Of one size from the beginning: what grows leaves copies behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(message.0.encoded_len()));
    message.0.encode_raw(&mut *bytes);

    bytes
}

/// Reads what engines knew.
pub(crate) fn decode(bytes: &[u8], moments: &Moments) -> Result<Vec<EngineState>, Damaged> {
    let message = v1::HandOverEngines::decode(bytes).map_err(|_| Damaged("it cannot be read"))?;
    let mut message = Keyed(message);
    let read = Reader { moments };

    message.0.engines.iter_mut().map(|engine| read.engine(engine)).collect()
}

struct Writer<'m> {
    moments: &'m Moments,
}

impl Writer<'_> {
    fn moment(&self, at: Instant) -> u64 {
        self.moments.nanos(at)
    }

    fn maybe(&self, at: Option<Instant>) -> u64 {
        at.map_or(0, |at| self.moment(at))
    }

    fn engine(&self, engine: EngineState) -> v1::EngineState {
        v1::EngineState {
            networks: engine.networks.into_iter().map(|network| self.network(network)).collect(),
            translated: text(engine.translated),
        }
    }

    fn network(&self, network: NetworkState) -> v1::EngineNetwork {
        v1::EngineNetwork {
            id: network.id.as_u64(),
            public_key: network.public_key.as_bytes().to_vec(),
            next_fragment: network.next_fragment,
            links: network.links.into_iter().map(|link| self.link(link)).collect(),
        }
    }

    fn link(&self, link: PeerLinkState) -> v1::EngineLink {
        v1::EngineLink {
            node: link.node.as_u64(),
            public_key: link.public_key.as_bytes().to_vec(),
            tunnel: link.tunnel.map(|tunnel| self.tunnel(tunnel)),
            last_initiation: link.last_initiation.to_vec(),
            confirmed: text(link.path.confirmed),
            attempts: link.path.attempts,
            trying_since: self.maybe(link.path.trying_since),
            mtu: link.path.mtu.map_or(0, u32::from),
            mtu_source: match link.path.mtu_source {
                MtuSource::Unprobed => 0,
                MtuSource::Link => 1,
                MtuSource::Probed => 2,
                MtuSource::Assumed => 3,
            },
            answers_probes: link.path.answers_probes,
            is_probing: link.path.is_probing,
            life: link.life.as_ref().map(|life| self.life(life)),
            tx_bytes: link.tx_bytes,
            rx_bytes: link.rx_bytes,
            last_use: self.moment(link.last_use),
            waiting: link.waiting,
            last_handshake: self.maybe(link.last_handshake),
            state: match link.state {
                PeerState::Idle => 0,
                PeerState::Connecting => 1,
                PeerState::Established => 2,
                PeerState::Unreachable => 3,
            },
            since: self.moment(link.since),
        }
    }

    fn tunnel(&self, mut tunnel: TunnelState) -> v1::EngineTunnel {
        v1::EngineTunnel {
            id: tunnel.id,
            handshakes: tunnel.handshakes.into(),
            peer: tunnel.peer.as_bytes().to_vec(),
            shared: std::mem::take(&mut *tunnel.shared),
            current: tunnel.current.map(|session| self.session(session)),
            others: tunnel.others.into_iter().map(|session| self.session(session)).collect(),
            handshake: self.moment(tunnel.timers.handshake),
            trying: self.maybe(tunnel.timers.trying),
            scheduled: self.maybe(tunnel.timers.scheduled),
            unanswered: self.maybe(tunnel.timers.unanswered),
            unacknowledged: self.maybe(tunnel.timers.unacknowledged),
            retry_nanos: nanos(tunnel.timers.retry),
            told: tunnel.told.to_vec(),
            heard: tunnel.heard.to_vec(),
        }
    }

    fn session(&self, mut session: SessionState) -> v1::EngineSession {
        v1::EngineSession {
            is_initiator: session.is_initiator,
            index: session.index,
            receiver: session.receiver.to_vec(),
            since: self.moment(session.since),
            sealing: std::mem::take(&mut *session.sealing),
            opening: std::mem::take(&mut *session.opening),
            next: session.next,
            window_next: session.window_next,
            window_seen: session.window_seen,
            is_confirmed: session.is_confirmed,
            has_sent: session.has_sent,
            has_received: session.has_received,
        }
    }

    fn life(&self, life: &LivenessState) -> v1::EngineLiveness {
        v1::EngineLiveness {
            born: self.moment(life.born),
            speaks: match life.speaks {
                None => 0,
                Some(true) => 1,
                Some(false) => 2,
            },
            sent: life.sent,
            received: life.received,
            heard: self.maybe(life.heard),
            unanswered: self.maybe(life.unanswered),
            wanted: self.maybe(life.wanted),
            check: self.maybe(life.check.map(|(at, _)| at)),
            checks: life.check.map_or(0, |(_, count)| count),
            silent: self.maybe(life.silent),
            keep_open: self.maybe(life.keep_open),
            told: self.moment(life.told.0),
            told_sent: life.told.1,
            trip: life.trip.map_or(0, |trip| nanos(trip).saturating_add(1)),
            seen_at: text(life.seen_at),
        }
    }
}

struct Reader<'m> {
    moments: &'m Moments,
}

impl Reader<'_> {
    fn moment(&self, nanos: u64) -> Result<Instant, Damaged> {
        self.moments.instant(nanos).ok_or(Damaged("a moment is none"))
    }

    fn maybe(&self, nanos: u64) -> Result<Option<Instant>, Damaged> {
        (nanos != 0).then(|| self.moment(nanos)).transpose()
    }

    fn engine(&self, engine: &mut v1::EngineState) -> Result<EngineState, Damaged> {
        let networks = engine
            .networks
            .iter_mut()
            .map(|network| self.network(network))
            .collect::<Result<_, _>>()?;

        Ok(EngineState { networks, translated: address(&engine.translated)? })
    }

    fn network(&self, network: &mut v1::EngineNetwork) -> Result<NetworkState, Damaged> {
        Ok(NetworkState {
            id: NetworkId::try_from(network.id).map_err(|_| Damaged("a network has no such id"))?,
            public_key: key(&network.public_key)?,
            next_fragment: network.next_fragment,
            links: network
                .links
                .iter_mut()
                .map(|link| self.link(link))
                .collect::<Result<_, _>>()?,
        })
    }

    fn link(&self, link: &mut v1::EngineLink) -> Result<PeerLinkState, Damaged> {
        let mtu = u16::try_from(link.mtu).map_err(|_| Damaged("an MTU is too large"))?;

        Ok(PeerLinkState {
            node: NodeId::try_from(link.node).map_err(|_| Damaged("a node has no such id"))?,
            public_key: key(&link.public_key)?,
            tunnel: link.tunnel.as_mut().map(|tunnel| self.tunnel(tunnel)).transpose()?,
            last_initiation: bytes(&link.last_initiation)?,
            path: PathState {
                confirmed: address(&link.confirmed)?,
                attempts: link.attempts,
                trying_since: self.maybe(link.trying_since)?,
                mtu: (mtu != 0).then_some(mtu),
                mtu_source: match link.mtu_source {
                    0 => MtuSource::Unprobed,
                    1 => MtuSource::Link,
                    2 => MtuSource::Probed,
                    3 => MtuSource::Assumed,
                    _ => return Err(Damaged("an MTU is known in a way that is not known")),
                },
                answers_probes: link.answers_probes,
                is_probing: link.is_probing,
            },
            life: link.life.as_ref().map(|life| self.life(life)).transpose()?,
            tx_bytes: link.tx_bytes,
            rx_bytes: link.rx_bytes,
            last_use: self.moment(link.last_use)?,
            waiting: std::mem::take(&mut link.waiting),
            last_handshake: self.maybe(link.last_handshake)?,
            state: match link.state {
                0 => PeerState::Idle,
                1 => PeerState::Connecting,
                2 => PeerState::Established,
                3 => PeerState::Unreachable,
                _ => return Err(Damaged("a peer has no such state")),
            },
            since: self.moment(link.since)?,
        })
    }

    fn tunnel(&self, tunnel: &mut v1::EngineTunnel) -> Result<TunnelState, Damaged> {
        Ok(TunnelState {
            id: tunnel.id,
            handshakes: u8::try_from(tunnel.handshakes)
                .map_err(|_| Damaged("too many handshakes"))?,
            peer: key(&tunnel.peer)?,
            shared: SecretBytes::new(std::mem::take(&mut tunnel.shared)),
            current: tunnel.current.as_mut().map(|session| self.session(session)).transpose()?,
            others: tunnel
                .others
                .iter_mut()
                .map(|session| self.session(session))
                .collect::<Result<_, _>>()?,
            timers: TimersState {
                handshake: self.moment(tunnel.handshake)?,
                trying: self.maybe(tunnel.trying)?,
                scheduled: self.maybe(tunnel.scheduled)?,
                unanswered: self.maybe(tunnel.unanswered)?,
                unacknowledged: self.maybe(tunnel.unacknowledged)?,
                retry: Duration::from_nanos(tunnel.retry_nanos),
            },
            told: bytes(&tunnel.told)?,
            heard: bytes(&tunnel.heard)?,
        })
    }

    fn session(&self, session: &mut v1::EngineSession) -> Result<SessionState, Damaged> {
        Ok(SessionState {
            is_initiator: session.is_initiator,
            index: session.index,
            receiver: bytes(&session.receiver)?,
            since: self.moment(session.since)?,
            sealing: SecretBytes::new(std::mem::take(&mut session.sealing)),
            opening: SecretBytes::new(std::mem::take(&mut session.opening)),
            next: session.next,
            window_next: session.window_next,
            window_seen: std::mem::take(&mut session.window_seen),
            is_confirmed: session.is_confirmed,
            has_sent: session.has_sent,
            has_received: session.has_received,
        })
    }

    fn life(&self, life: &v1::EngineLiveness) -> Result<LivenessState, Damaged> {
        Ok(LivenessState {
            born: self.moment(life.born)?,
            speaks: match life.speaks {
                0 => None,
                1 => Some(true),
                2 => Some(false),
                _ => return Err(Damaged("a peer speaks in a way that is not known")),
            },
            sent: life.sent,
            received: life.received,
            heard: self.maybe(life.heard)?,
            unanswered: self.maybe(life.unanswered)?,
            wanted: self.maybe(life.wanted)?,
            check: self.maybe(life.check)?.map(|at| (at, life.checks)),
            silent: self.maybe(life.silent)?,
            keep_open: self.maybe(life.keep_open)?,
            told: (self.moment(life.told)?, life.told_sent),
            trip: life.trip.checked_sub(1).map(Duration::from_nanos),
            seen_at: address(&life.seen_at)?,
        })
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn text(address: Option<SocketAddr>) -> String {
    address.map(|address| address.to_string()).unwrap_or_default()
}

fn address(text: &str) -> Result<Option<SocketAddr>, Damaged> {
    (!text.is_empty()).then(|| text.parse().map_err(|_| Damaged("an address is none"))).transpose()
}

fn bytes<const N: usize>(bytes: &[u8]) -> Result<[u8; N], Damaged> {
    bytes.try_into().map_err(|_| Damaged("a field has another length"))
}

fn key(key: &[u8]) -> Result<PublicKey, Damaged> {
    bytes::<32>(key).map(PublicKey::from)
}

#[cfg(test)]
#[path = "encoding_tests.rs"]
mod tests;
