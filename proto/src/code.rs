//! The stable codes of refusals.

use std::fmt;

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $text:literal => $grpc:ident;)*) => {
        /// Why something was refused. The words are stable: scripts may rely on them.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Code {
            $($(#[$doc])* $name,)*
        }

        impl Code {
            /// Returns the stable word.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }

            /// Returns the code for a stable word.
            pub fn from_word(word: &str) -> Option<Self> {
                match word {
                    $($text => Some(Self::$name),)*
                    _ => None,
                }
            }

            /// Returns the code of gRPC that stands for it.
            pub(crate) const fn grpc(self) -> tonic::Code {
                match self {
                    $(Self::$name => tonic::Code::$grpc,)*
                }
            }
        }
    };
}

codes! {
    /// A field is missing, malformed or out of range.
    InvalidInput = "invalid-input" => InvalidArgument;
    /// The object does not exist, or the caller may not know of it.
    NotFound = "not-found" => NotFound;
    /// The name is taken.
    NameTaken = "name-taken" => AlreadyExists;
    /// The address or prefix is taken or overlaps one that is.
    AddressTaken = "address-taken" => AlreadyExists;
    /// The object is still in use.
    InUse = "in-use" => FailedPrecondition;
    /// The node is not a member of the network, has not joined, or is not in the state that the
    /// call needs.
    WrongState = "wrong-state" => FailedPrecondition;
    /// No address, block or other bounded resource is left.
    Exhausted = "exhausted" => ResourceExhausted;
    /// The join token is unknown, expired, used up or revoked; the caller is not told which.
    TokenRefused = "token-refused" => PermissionDenied;
    /// The caller's role or identity does not allow it.
    NotAllowed = "not-allowed" => PermissionDenied;
    /// No valid certificate was presented.
    NotAuthenticated = "not-authenticated" => Unauthenticated;
    /// The server's certificate authority is not the one pinned in the join line.
    WrongPin = "wrong-pin" => Unauthenticated;
    /// Another host uses the caller's identity, and was there first.
    IdentityClash = "identity-clash" => FailedPrecondition;
    /// Control's history began anew, and it needs a report of what the caller holds.
    ReportWanted = "report-wanted" => FailedPrecondition;
    /// Control cannot be reached.
    ControlAway = "control-away" => Unavailable;
    /// The agent cannot be reached.
    AgentAway = "agent-away" => Unavailable;
    /// This build or host does not support it.
    Unsupported = "unsupported" => Unimplemented;
    /// The kernel returned an error.
    Kernel = "kernel" => Internal;
    /// A state file cannot be read or written.
    Storage = "storage" => Internal;
    /// An internal error.
    Fault = "fault" => Internal;
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}
