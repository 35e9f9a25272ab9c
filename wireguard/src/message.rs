//! The four messages of the protocol as bytes (§5.4). All numbers are little-endian.

use std::fmt;
use std::ops::Deref;

use crate::handshake::{FIRST_LEN, SECOND_LEN};
use crate::index::Index;
use crate::mac::MAC_LEN;

/// The type of the first message, with the three reserved zero bytes after it (§5.4.2).
const INITIATION: [u8; 4] = [1, 0, 0, 0];
/// The type of the second message (§5.4.3).
const RESPONSE: [u8; 4] = [2, 0, 0, 0];
/// The type of a cookie reply (§5.4.7).
const COOKIE_REPLY: [u8; 4] = [3, 0, 0, 0];
/// The type of a data message (§5.4.6).
const DATA: [u8; 4] = [4, 0, 0, 0];

/// The length of the first message: type, sender index, Noise, two MACs (§5.4.2).
pub(crate) const INITIATION_LEN: usize = 8 + FIRST_LEN + 2 * MAC_LEN;
/// The length of the second message: type, sender and receiver index, Noise, two MACs (§5.4.3).
pub(crate) const RESPONSE_LEN: usize = 12 + SECOND_LEN + 2 * MAC_LEN;
/// The length of the nonce of a cookie reply (§5.4.7).
pub(crate) const COOKIE_NONCE_LEN: usize = 24;
/// The length of a cookie reply: type, receiver index, nonce, encrypted cookie with its tag
/// (§5.4.7).
const COOKIE_REPLY_LEN: usize = 8 + COOKIE_NONCE_LEN + SEALED_COOKIE_LEN;
/// The length of an encrypted cookie with its tag (§5.4.7).
pub(crate) const SEALED_COOKIE_LEN: usize = MAC_LEN + overlay_aead::TAG_LEN;

/// The header of a data message: type, receiver index, counter (§5.4.6).
pub(crate) const DATA_HEADER_LEN: usize = 16;
/// How much longer than its padded packet a data message is: the header and the tag (§5.4.6).
const DATA_OVERHEAD: usize = DATA_HEADER_LEN + overlay_aead::TAG_LEN;
/// Packets are padded with zeros to a multiple of this many bytes (§5.4.6).
pub const PADDING: usize = 16;

/// Returns the length of the data message that carries a packet of `len` bytes.
pub const fn sealed_len(len: usize) -> usize {
    len.next_multiple_of(PADDING) + DATA_OVERHEAD
}

/// Returns the size of the buffer that opening a data message of `len` bytes needs.
pub const fn open_room(len: usize) -> usize {
    len.saturating_sub(DATA_OVERHEAD)
}

/// What a datagram seems to be, by its type, length and receiver index. Nothing is verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The first message of a handshake. Only its mac1 tells which interface it is for.
    Initiation,
    /// The second message, or a cookie reply, for a handshake of ours.
    Answer(Index),
    /// A data message.
    Data(DataHeader),
}

/// The header of a data message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DataHeader {
    /// The index of our session that it is for.
    pub index: Index,
    /// Its counter in that session.
    pub(crate) counter: u64,
}

impl Kind {
    /// Returns what a datagram seems to be, or `None` if it cannot be any message.
    #[inline]
    pub fn of(datagram: &[u8]) -> Option<Self> {
        let (kind, rest) = datagram.split_first_chunk()?;
        match (*kind, datagram.len()) {
            (DATA, DATA_OVERHEAD..) => Some(Self::Data(DataHeader {
                index: Index::from_bytes(*rest.first_chunk()?),
                counter: u64::from_le_bytes(*rest.get(4..)?.first_chunk()?),
            })),
            (INITIATION, INITIATION_LEN) => Some(Self::Initiation),
            (RESPONSE, RESPONSE_LEN) => {
                Some(Self::Answer(Index::from_bytes(*rest.get(4..)?.first_chunk()?)))
            }
            (COOKIE_REPLY, COOKIE_REPLY_LEN) => {
                Some(Self::Answer(Index::from_bytes(*rest.first_chunk()?)))
            }
            _ => None,
        }
    }
}

/// Writes the header of a data message.
#[inline]
pub(crate) fn write_data_header(
    header: &mut [u8; DATA_HEADER_LEN],
    receiver: [u8; 4],
    counter: u64,
) {
    header[..4].copy_from_slice(&DATA);
    header[4..8].copy_from_slice(&receiver);
    header[8..].copy_from_slice(&counter.to_le_bytes());
}

/// A handshake message or an empty data message, ready to be sent.
#[derive(Clone)]
pub struct Datagram {
    bytes: [u8; INITIATION_LEN],
    len: usize,
}

impl Datagram {
    /// Makes an empty data message (§6.5), without its header and tag.
    pub(crate) fn keepalive() -> Self {
        Self { bytes: [0; INITIATION_LEN], len: DATA_OVERHEAD }
    }

    /// Makes the first message, without its MACs.
    pub(crate) fn initiation(sender: Index, noise: &[u8; FIRST_LEN]) -> Self {
        Self::of(INITIATION_LEN, &[&INITIATION, &sender.to_bytes(), noise])
    }

    /// Makes the second message, without its MACs.
    pub(crate) fn response(sender: Index, receiver: [u8; 4], noise: &[u8; SECOND_LEN]) -> Self {
        Self::of(RESPONSE_LEN, &[&RESPONSE, &sender.to_bytes(), &receiver, noise])
    }

    /// Makes a cookie reply (§5.4.7).
    pub(crate) fn cookie_reply(reply: &CookieReply) -> Self {
        let receiver = reply.receiver.to_bytes();

        Self::of(COOKIE_REPLY_LEN, &[&COOKIE_REPLY, &receiver, &reply.nonce, &reply.sealed])
    }

    fn of(len: usize, parts: &[&[u8]]) -> Self {
        let mut datagram = Self { bytes: [0; INITIATION_LEN], len };
        let mut rest = &mut datagram.bytes[..];
        for part in parts {
            let Some((place, behind)) = rest.split_at_mut_checked(part.len()) else { break };
            place.copy_from_slice(part);
            rest = behind;
        }

        datagram
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[..self.len]
    }
}

impl Deref for Datagram {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl fmt::Debug for Datagram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Datagram({:?}, {} bytes)", Kind::of(self), self.len)
    }
}

/// The first message, parsed only up to its MACs.
#[derive(Debug)]
pub(crate) struct Initiation<'a> {
    pub(crate) sender: [u8; 4],
    pub(crate) noise: &'a [u8; FIRST_LEN],
}

impl<'a> Initiation<'a> {
    pub(crate) fn read(message: &'a [u8]) -> Option<Self> {
        let ([_, sender], rest) = split_numbers(message)?;

        Some(Self { sender, noise: rest.first_chunk()? })
    }
}

/// The second message, with a valid mac1.
#[derive(Debug, Clone)]
pub struct Response {
    /// The index of our handshake that it answers.
    pub(crate) receiver: Index,
    /// The sender's own index.
    pub(crate) sender: [u8; 4],
    pub(crate) noise: [u8; SECOND_LEN],
}

impl Response {
    pub(crate) fn read(message: &[u8]) -> Option<Self> {
        let ([_, sender, receiver], rest) = split_numbers(message)?;

        Some(Self { receiver: Index::from_bytes(receiver), sender, noise: *rest.first_chunk()? })
    }
}

/// A cookie reply, not verified yet.
#[derive(Debug, Clone)]
pub struct CookieReply {
    /// The index of our handshake message that it is about.
    pub(crate) receiver: Index,
    pub(crate) nonce: [u8; COOKIE_NONCE_LEN],
    pub(crate) sealed: [u8; SEALED_COOKIE_LEN],
}

impl CookieReply {
    pub(crate) fn read(message: &[u8]) -> Option<Self> {
        let ([_, receiver], rest) = split_numbers(message)?;
        let (nonce, rest) = rest.split_first_chunk()?;

        Some(Self {
            receiver: Index::from_bytes(receiver),
            nonce: *nonce,
            sealed: *rest.first_chunk()?,
        })
    }
}

/// Splits `N` numbers of four bytes from the front.
fn split_numbers<const N: usize>(message: &[u8]) -> Option<([[u8; 4]; N], &[u8])> {
    let mut numbers = [[0; 4]; N];
    let mut rest = message;
    for number in &mut numbers {
        (*number, rest) = rest.split_first_chunk().map(|(number, rest)| (*number, rest))?;
    }

    Some((numbers, rest))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lengths_are_those_of_the_paper() {
        assert_eq!((INITIATION_LEN, RESPONSE_LEN, COOKIE_REPLY_LEN), (148, 92, 64));
        assert_eq!(DATA_OVERHEAD, 32);
    }

    #[test]
    fn sizes_follow_the_padding() {
        let lens = [0, 1, 16, 17, 1408, 1409];

        assert_eq!(lens.map(sealed_len), [32, 48, 48, 64, 1440, 1456]);
        assert_eq!([3, 32, 48, 1440].map(open_room), [0, 0, 16, 1408]);
    }

    #[test]
    fn a_data_header_is_read_as_it_was_written() {
        let mut message = [0; DATA_OVERHEAD];
        let header = message.first_chunk_mut().expect("long enough");
        write_data_header(header, [5, 6, 7, 8], 0x1122_3344_5566_7788);

        assert_eq!(
            message[..16],
            [4, 0, 0, 0, 5, 6, 7, 8, 0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11]
        );
        let index = Index::from_bytes([5, 6, 7, 8]);
        let header = DataHeader { index, counter: 0x1122_3344_5566_7788 };
        assert_eq!(Kind::of(&message), Some(Kind::Data(header)));
    }

    #[test]
    fn reserved_bytes_must_be_zero() {
        for (kind, len) in [(1, 148), (2, 92), (3, 64), (4, 32)] {
            let mut message = vec![0; len];
            message[0] = kind;
            assert!(Kind::of(&message).is_some());
            for at in 1..4 {
                message[at] = 1;
                assert_eq!(Kind::of(&message), None);
                message[at] = 0;
            }
        }
    }

    proptest! {
        #[test]
        fn only_messages_of_the_right_size_have_a_kind(
            kind in 0..6_u8,
            rest in proptest::collection::vec(any::<u8>(), 0..300),
        ) {
            let bytes = [&[kind, 0, 0, 0], &rest[..]].concat();
            match Kind::of(&bytes) {
                Some(Kind::Initiation) => prop_assert_eq!((kind, bytes.len()), (1, 148)),
                Some(Kind::Answer(_)) => {
                    prop_assert!(matches!((kind, bytes.len()), (2, 92) | (3, 64)));
                }
                Some(Kind::Data(_)) => prop_assert!(kind == 4 && bytes.len() >= 32),
                None => {
                    let len = bytes.len();
                    prop_assert!(!matches!((kind, len), (1, 148) | (2, 92) | (3, 64) | (4, 32..)));
                }
            }
        }
    }
}
