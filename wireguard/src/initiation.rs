//! The first message of a handshake, decrypted and authentic.

use std::fmt;

use overlay_core::PublicKey;

use crate::handshake::Responder;
use crate::timestamp::Timestamp;

/// The first message of a handshake, decrypted and authentic. Whether it is a replay is checked by
/// the tunnel.
pub struct Initiation {
    pub(crate) responder: Responder,
    /// The index for the answer.
    pub(crate) sender: [u8; 4],
}

impl Initiation {
    /// Returns the initiator's key.
    pub fn peer(&self) -> &PublicKey {
        self.responder.peer()
    }

    /// Returns when it was made, by the peer's clock.
    pub fn timestamp(&self) -> Timestamp {
        self.responder.timestamp()
    }
}

impl fmt::Debug for Initiation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Initiation({}, {:?})", self.peer(), self.timestamp())
    }
}
