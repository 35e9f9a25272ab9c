//! The numbers by which a receiver finds a session: the sender and receiver index of §5.4.
//!
//! Our indices consist of 24 random bits that identify the tunnel and 8 bits that count its
//! handshakes. So one lookup by tunnel finds everything, and an index does not reveal how many
//! tunnels there are.

use crate::entropy::Entropy;

/// Identifies a tunnel in the indices of its sessions: 24 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct TunnelId(u32);

/// Identifies a session of ours, or a handshake that may become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Index(u32);

impl TunnelId {
    /// Draws a random id. Ids may repeat, in which case whoever routes by them draws again.
    pub(crate) fn draw(entropy: &mut Entropy) -> Self {
        let [a, b, c] = *entropy.draw();

        Self(u32::from_le_bytes([a, b, c, 0]))
    }

    /// Returns the id as a number of 24 bits.
    pub(crate) fn number(self) -> u32 {
        self.0
    }

    /// Makes an id of a number, if it has at most 24 bits.
    pub(crate) fn of_number(number: u32) -> Option<Self> {
        (number >> 24 == 0).then_some(Self(number))
    }

    /// Returns the index of the tunnel's handshake with this number.
    pub(crate) fn index(self, handshake: u8) -> Index {
        Index((self.0 << 8) | u32::from(handshake))
    }
}

impl Index {
    /// Returns the tunnel that the index belongs to.
    pub fn tunnel(self) -> TunnelId {
        TunnelId(self.0 >> 8)
    }

    pub(crate) fn from_bytes(bytes: [u8; 4]) -> Self {
        Self(u32::from_le_bytes(bytes))
    }

    /// Returns the index as a number.
    pub(crate) fn number(self) -> u32 {
        self.0
    }

    pub(crate) fn of_number(number: u32) -> Self {
        Self(number)
    }

    pub(crate) fn to_bytes(self) -> [u8; 4] {
        self.0.to_le_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_names_its_tunnel_and_survives_the_wire() {
        let mut entropy = Entropy::new(&[1; 32]);
        let (one, other) = (TunnelId::draw(&mut entropy), TunnelId::draw(&mut entropy));

        assert_ne!(one, other);
        for handshake in [0, 1, 255] {
            let index = Index::from_bytes(one.index(handshake).to_bytes());
            assert_eq!((index.tunnel(), index), (one, one.index(handshake)));
        }
    }
}
