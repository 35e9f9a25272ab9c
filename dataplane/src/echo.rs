//! The messages by which two ends tell each other that they hear, and how much of it.
//!
//! They travel as probes do ([`crate::probe`]): as the payload of data messages, marked so that no other WireGuard takes
//! them for a packet. An answer is as long as what it answers, so nobody gains by asking.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use crate::path::canonical;

/// The length of a message, in bytes.
pub(crate) const LEN: usize = 48;
/// No IP version, and the version of these messages; the same as that of probes.
const MARK: u8 = 0x01;
const REQUEST: u8 = 3;
const ANSWER: u8 = 4;
/// The loss is high and lasts.
const HIGH_LOSS: u8 = 1;
/// Stands for what is not known.
const UNKNOWN: u16 = u16::MAX;
/// Times since the sender heard us are told in these.
const AGE_UNIT: Duration = Duration::from_millis(10);
const TIME_BITS: u64 = (1 << 48) - 1;

/// Whether an answer is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EchoKind {
    /// Asks to be answered.
    Request,
    /// Answers.
    Answer,
}

/// How much of what was sent did not arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Loss {
    /// Of a thousand messages.
    pub permille: u16,
    /// Whether it is more than 5 % and has been for several seconds.
    pub is_high: bool,
}

/// What one end tells the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Echo {
    pub(crate) kind: EchoKind,
    /// When the request was sent, in microseconds since its sender's own beginning; the low 48 bits. Answers bring it back.
    pub(crate) sent_micros: u64,
    /// How long ago the sender heard the receiver last; nothing if never, or not in the last ten minutes.
    pub(crate) heard_ago: Option<Duration>,
    /// What the sender misses of the receiver's messages.
    pub(crate) loss: Option<Loss>,
    /// Where the sender sees the receiver.
    pub(crate) seen_at: Option<SocketAddr>,
    /// How many messages the sender has sent on this link, this one included; wraps.
    pub(crate) sent: u32,
}

impl Echo {
    /// Reads a payload that is no IP packet.
    pub(crate) fn parse(payload: &[u8]) -> Option<Self> {
        let message = payload.first_chunk::<LEN>()?;
        let [MARK, kind, flags, 0, t0, t1, t2, t3, t4, t5, a0, a1, l0, l1, p0, p1, rest @ ..] = message else {
            return None;
        };
        let kind = match *kind {
            REQUEST => EchoKind::Request,
            ANSWER => EchoKind::Answer,
            _ => return None,
        };
        let known = |high: &u8, low: &u8| Some(u16::from_be_bytes([*high, *low])).filter(|value| *value != UNKNOWN);
        let ip = Ipv6Addr::from(*rest.first_chunk::<16>()?);
        let seen_at = canonical(SocketAddr::new(IpAddr::V6(ip), u16::from_be_bytes([*p0, *p1])));

        Some(Self {
            kind,
            sent_micros: u64::from_be_bytes([0, 0, *t0, *t1, *t2, *t3, *t4, *t5]),
            heard_ago: known(a0, a1).map(|units| AGE_UNIT * u32::from(units)),
            loss: known(l0, l1).map(|permille| Loss { permille, is_high: flags & HIGH_LOSS != 0 }),
            seen_at: Some(seen_at).filter(|addr| !addr.ip().is_unspecified()),
            sent: u32::from_be_bytes(*rest.get(16..)?.first_chunk()?),
        })
    }

    /// Writes the message.
    pub(crate) fn write(self) -> [u8; LEN] {
        let kind = match self.kind {
            EchoKind::Request => REQUEST,
            EchoKind::Answer => ANSWER,
        };
        let is_high = self.loss.is_some_and(|loss| loss.is_high);
        let age = self.heard_ago.and_then(|age| u16::try_from(age.as_millis() / AGE_UNIT.as_millis()).ok());
        let seen_at = self.seen_at.unwrap_or_else(|| (Ipv6Addr::UNSPECIFIED, 0).into());
        let ip = match seen_at.ip() {
            IpAddr::V4(v4) => v4.to_ipv6_mapped(),
            IpAddr::V6(v6) => v6,
        };
        let mut bytes = [0; LEN];
        bytes[..3].copy_from_slice(&[MARK, kind, if is_high { HIGH_LOSS } else { 0 }]);
        bytes[4..10].copy_from_slice(&(self.sent_micros & TIME_BITS).to_be_bytes()[2..]);
        bytes[10..12].copy_from_slice(&age.unwrap_or(UNKNOWN).to_be_bytes());
        bytes[12..14].copy_from_slice(&self.loss.map_or(UNKNOWN, |loss| loss.permille).to_be_bytes());
        bytes[14..16].copy_from_slice(&seen_at.port().to_be_bytes());
        bytes[16..32].copy_from_slice(&ip.octets());
        bytes[32..36].copy_from_slice(&self.sent.to_be_bytes());

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
        (any::<bool>(), 0..=TIME_BITS, age, loss, seen_at, any::<u16>(), any::<u32>()).prop_map(
            |(asks, sent_micros, age, loss, ip, port, sent)| Echo {
                kind: if asks { EchoKind::Request } else { EchoKind::Answer },
                sent_micros,
                heard_ago: age.map(|units| AGE_UNIT * u32::from(units)),
                loss: loss.map(|(permille, is_high)| Loss { permille, is_high }),
                seen_at: ip.map(|ip| canonical(SocketAddr::new(ip, port))),
                sent,
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
