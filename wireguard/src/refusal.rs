//! Why a message is not accepted. The sender is never told (§5.1: silence is a virtue).

/// Why a handshake message or cookie reply is not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HandshakeRefusal {
    /// Its type or length is that of no message.
    #[error("not a handshake message")]
    Malformed,
    /// Its mac1 was made for another static key (§5.4.4).
    #[error("mac1 is wrong")]
    WrongMac,
    /// Its source sent too many messages while we are under load (§5.3).
    #[error("too many handshake messages from this source")]
    RateLimited,
    /// Its timestamp is not later than the last one of this peer (§5.1).
    #[error("the initiation is not newer than the last")]
    Replayed,
    /// It does not answer any message of ours.
    #[error("it answers no handshake message of ours")]
    Unexpected,
    /// It comes from a peer other than the tunnel's.
    #[error("the initiator is another peer")]
    WrongPeer,
    /// Decryption failed, or a public key in it gives no shared secret.
    #[error("the message is not authentic")]
    NotAuthentic,
}

/// Why a data message is not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DataRefusal {
    /// Its session is not known, or has ended (§6.2).
    #[error("no session")]
    NoSession,
    /// Its counter was seen before, is below the window, or is too large (§5.4.6, §6.2).
    #[error("the counter is not acceptable")]
    Counter,
    /// Its tag is wrong.
    #[error("the message is not authentic")]
    NotAuthentic,
}
