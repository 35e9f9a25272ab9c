//! The messages that measure a path: a padded probe and its short answer.
//!
//! They travel as the payload of data messages, so a session authenticates them and its replay
//! window accepts each once. The first four bits, where an inner packet has its IP version, are
//! zero: every other WireGuard implementation drops such a payload after opening it, and never
//! answers (ADR 9).

/// The length of an answer, and of the shortest probe, in bytes.
pub(crate) const LEN: usize = 16;
/// The version of these messages, where a packet has its IP version.
const MARK: u8 = 0x01;
const PROBE: u8 = 1;
const ANSWER: u8 = 2;

/// Identifies a probe; the answer returns it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tag {
    /// The number of the round on this link.
    pub(crate) round: u32,
    /// When the probe was sent, in microseconds since its sender was created; the low 48 bits.
    pub(crate) sent_micros: u64,
}

/// A probe message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ProbeMessage {
    /// Is to be answered.
    Probe(Tag),
    /// Gives the length of the probe that arrived, in bytes of payload.
    Answer(Tag, u16),
}

impl ProbeMessage {
    /// Parses a payload that is not an IP packet.
    pub(crate) fn parse(payload: &[u8]) -> Option<Self> {
        let [MARK, kind, l0, l1, r0, r1, r2, r3, 0, 0, time @ ..] = payload.first_chunk::<LEN>()?
        else {
            return None;
        };
        let [t0, t1, t2, t3, t4, t5] = *time;
        let tag = Tag {
            round: u32::from_be_bytes([*r0, *r1, *r2, *r3]),
            sent_micros: u64::from_be_bytes([0, 0, t0, t1, t2, t3, t4, t5]),
        };
        match *kind {
            PROBE => Some(Self::Probe(tag)),
            ANSWER => Some(Self::Answer(tag, u16::from_be_bytes([*l0, *l1]))),
            _ => None,
        }
    }

    /// Encodes the message; whoever sends a probe pads it with zeros.
    pub(crate) fn write(self) -> [u8; LEN] {
        let (kind, tag, len) = match self {
            Self::Probe(tag) => (PROBE, tag, 0),
            Self::Answer(tag, len) => (ANSWER, tag, len),
        };
        let mut bytes = [0; LEN];
        bytes[..2].copy_from_slice(&[MARK, kind]);
        bytes[2..4].copy_from_slice(&len.to_be_bytes());
        bytes[4..8].copy_from_slice(&tag.round.to_be_bytes());
        bytes[10..].copy_from_slice(&tag.sent_micros.to_be_bytes()[2..]);

        bytes
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::ip;

    proptest! {
        #[test]
        fn a_message_survives_the_wire_and_is_never_an_ip_packet(
            round in any::<u32>(),
            sent_micros in 0..1_u64 << 48,
            len in any::<u16>(),
            padding in 0..2000_usize,
        ) {
            let tag = Tag { round, sent_micros };
            for message in [ProbeMessage::Probe(tag), ProbeMessage::Answer(tag, len)] {
                let mut payload = message.write().to_vec();
                payload.resize(LEN + padding, 0);

                prop_assert_eq!(ProbeMessage::parse(&payload), Some(message));
                prop_assert_eq!(ip::parse(&payload), None);
            }
        }

        #[test]
        fn what_is_an_ip_packet_is_never_a_message(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            if ip::parse(&bytes).is_some() {
                prop_assert_eq!(ProbeMessage::parse(&bytes), None);
            }
        }
    }

    #[test]
    fn what_is_cut_or_of_a_later_version_is_no_message() {
        let bytes = ProbeMessage::Probe(Tag { round: 1, sent_micros: 2 }).write();

        assert_eq!(ProbeMessage::parse(&bytes[..15]), None);
        for (at, byte) in [(0, 2), (0, 0x41), (1, 0), (1, 3), (8, 1)] {
            let mut other = bytes;
            other[at] = byte;
            assert_eq!(ProbeMessage::parse(&other), None, "byte {at}");
        }
    }
}
