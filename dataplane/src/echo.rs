//! The messages by which two lanes tell each other what they hear of each other.
//!
//! Like probes ([`crate::probe`]) they travel as the payload of data messages, with a mark by which
//! no other WireGuard implementation takes them for a packet. An answer is as long as its request,
//! so requests cannot be used for amplification.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use crate::underlay::canonical;

/// The length of a message, in bytes.
pub(crate) const LEN: usize = 48;
/// The version of these messages, where a packet has its IP version; probes have the same.
const MARK: u8 = 0x01;
const REQUEST: u8 = 3;
const ANSWER: u8 = 4;
/// The flag for a loss that is high and lasts.
const HIGH_LOSS: u8 = 1;
/// The flag of a sender that knows notices; where it is not set, the digest says nothing.
const NOTICES: u8 = 2;
/// The value of a field that is not known.
const UNKNOWN: u16 = u16::MAX;
/// The unit in which a message gives the time since the receiver was last heard.
const AGE_UNIT: Duration = Duration::from_millis(10);
const TIME_BITS: u64 = (1 << 48) - 1;

/// Whether a message is a request or an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EchoKind {
    /// Is to be answered.
    Request,
    /// Answers a request.
    Answer,
}

/// The part of the messages sent that did not arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Loss {
    /// Lost messages per thousand, 0 to 1000.
    pub permille: u16,
    /// Whether more than 5 % were lost in each of the last three windows of about a second.
    pub is_high: bool,
}

/// The contents of an echo message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Echo {
    pub(crate) kind: EchoKind,
    /// When the request was sent, in microseconds since its sender was created; the low 48 bits.
    /// Its answer returns the value.
    pub(crate) sent_micros: u64,
    /// How long ago the sender last heard the receiver; `None` if never, or not in the last ten
    /// minutes.
    pub(crate) heard_ago: Option<Duration>,
    /// How many of the receiver's messages the sender misses.
    pub(crate) loss: Option<Loss>,
    /// The address at which the sender sees the receiver.
    pub(crate) seen_at: Option<SocketAddr>,
    /// How many messages the sender has sent on this link, including this one; wraps around.
    pub(crate) sent: u32,
    /// The digest of the notices that the sender knows; `None` from one that knows of none.
    pub(crate) notices: Option<u64>,
}

impl Echo {
    /// Parses a payload that is not an IP packet.
    pub(crate) fn parse(payload: &[u8]) -> Option<Self> {
        let message = payload.first_chunk::<LEN>()?;
        let [MARK, kind, flags, 0, t0, t1, t2, t3, t4, t5, a0, a1, l0, l1, p0, p1, rest @ ..] =
            message
        else {
            return None;
        };
        let kind = match *kind {
            REQUEST => EchoKind::Request,
            ANSWER => EchoKind::Answer,
            _ => return None,
        };
        let known = |high: &u8, low: &u8| {
            Some(u16::from_be_bytes([*high, *low])).filter(|value| *value != UNKNOWN)
        };
        let ip = Ipv6Addr::from(*rest.first_chunk::<16>()?);
        let seen_at = canonical(SocketAddr::new(IpAddr::V6(ip), u16::from_be_bytes([*p0, *p1])));

        Some(Self {
            kind,
            sent_micros: u64::from_be_bytes([0, 0, *t0, *t1, *t2, *t3, *t4, *t5]),
            heard_ago: known(a0, a1).map(|units| AGE_UNIT * u32::from(units)),
            loss: known(l0, l1).map(|permille| Loss { permille, is_high: flags & HIGH_LOSS != 0 }),
            seen_at: Some(seen_at).filter(|addr| !addr.ip().is_unspecified()),
            sent: u32::from_be_bytes(*rest.get(16..)?.first_chunk()?),
            notices: (flags & NOTICES != 0)
                .then_some(u64::from_be_bytes(*rest.get(20..)?.first_chunk()?)),
        })
    }

    /// Encodes the message.
    pub(crate) fn write(self) -> [u8; LEN] {
        let kind = match self.kind {
            EchoKind::Request => REQUEST,
            EchoKind::Answer => ANSWER,
        };
        let is_high = self.loss.is_some_and(|loss| loss.is_high);
        let age = self
            .heard_ago
            .and_then(|age| u16::try_from(age.as_millis() / AGE_UNIT.as_millis()).ok());
        let seen_at = self.seen_at.unwrap_or_else(|| (Ipv6Addr::UNSPECIFIED, 0).into());
        let ip = match seen_at.ip() {
            IpAddr::V4(v4) => v4.to_ipv6_mapped(),
            IpAddr::V6(v6) => v6,
        };
        let mut bytes = [0; LEN];
        let flags =
            if is_high { HIGH_LOSS } else { 0 } | if self.notices.is_some() { NOTICES } else { 0 };
        bytes[..3].copy_from_slice(&[MARK, kind, flags]);
        bytes[4..10].copy_from_slice(&(self.sent_micros & TIME_BITS).to_be_bytes()[2..]);
        bytes[10..12].copy_from_slice(&age.unwrap_or(UNKNOWN).to_be_bytes());
        bytes[12..14]
            .copy_from_slice(&self.loss.map_or(UNKNOWN, |loss| loss.permille).to_be_bytes());
        bytes[14..16].copy_from_slice(&seen_at.port().to_be_bytes());
        bytes[16..32].copy_from_slice(&ip.octets());
        bytes[32..36].copy_from_slice(&self.sent.to_be_bytes());
        bytes[36..44].copy_from_slice(&self.notices.unwrap_or_default().to_be_bytes());

        bytes
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::ip;
    use crate::probe::ProbeMessage;

    fn echo() -> impl Strategy<Value = Echo> {
        let loss = proptest::option::of((0..=1000_u16, any::<bool>()));
        let seen_at = proptest::option::of(prop_oneof![
            (1..=u32::MAX).prop_map(|bits| IpAddr::V4(bits.into())),
            (1..u128::MAX).prop_map(|bits| IpAddr::V6(bits.into())),
        ]);
        let age = proptest::option::of(0..u16::MAX);
        let rest = (any::<u16>(), any::<u32>(), any::<Option<u64>>());
        (any::<bool>(), 0..=TIME_BITS, age, loss, seen_at, rest).prop_map(
            |(asks, sent_micros, age, loss, ip, (port, sent, notices))| Echo {
                kind: if asks { EchoKind::Request } else { EchoKind::Answer },
                sent_micros,
                heard_ago: age.map(|units| AGE_UNIT * u32::from(units)),
                loss: loss.map(|(permille, is_high)| Loss { permille, is_high }),
                seen_at: ip.map(|ip| canonical(SocketAddr::new(ip, port))),
                sent,
                notices,
            },
        )
    }

    proptest! {
        #[test]
        fn a_message_survives_the_wire_and_is_nothing_else(echo in echo()) {
            let bytes = echo.write();

            prop_assert_eq!(Echo::parse(&bytes), Some(echo));
            prop_assert_eq!(ip::parse(&bytes), None);
            prop_assert_eq!(ProbeMessage::parse(&bytes), None);
            prop_assert_eq!(Echo::parse(&bytes[..LEN - 1]), None);
        }

        #[test]
        fn no_bytes_are_too_strange(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let is_packet = ip::parse(&bytes).is_some();

            prop_assert!(Echo::parse(&bytes).is_none() || !is_packet);
        }
    }
}
