//! What whoever hears nothing must do.

/// What must be done now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Due {
    /// Send a request.
    pub(crate) ask: bool,
    /// Send an initiation, unless a handshake is under way.
    pub(crate) call: bool,
    /// Send an initiation to the next address, even if a handshake is under way.
    pub(crate) call_elsewhere: bool,
    /// The peer has just become silent.
    pub(crate) is_silent: bool,
    /// The peer has just been given up.
    pub(crate) is_over: bool,
}
