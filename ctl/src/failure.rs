//! Why a command did not do what was asked, and the exit code that says so.

use std::fmt::Display;
use std::io;

use nix::libc;
use overlay_proto::{Code, Refusal};

/// How a command ends when it is not simply done.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Refused, with one line and a stable code.
    Refused(Refusal),
    /// A process of ours did not come up; its last words follow the line.
    Startup(Refusal, Vec<String>),
    /// The words on the command line do not go together.
    Usage(String),
    /// Ends with this code; whatever there was to say has been said.
    Exit(u8),
}

/// What a command returns.
pub(crate) type Outcome<T = ()> = Result<T, Failure>;

impl Failure {
    /// Returns the exit code: 1 refused, 2 wrong usage, 3 agent or control cannot be reached.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Refused(refusal) | Self::Startup(refusal, _) => match refusal.code {
                Code::AgentAway | Code::ControlAway => 3,
                Code::InvalidInput
                | Code::NotFound
                | Code::NameTaken
                | Code::AddressTaken
                | Code::InUse
                | Code::WrongState
                | Code::Exhausted
                | Code::TokenRefused
                | Code::NotAllowed
                | Code::NotAuthenticated
                | Code::WrongPin
                | Code::IdentityClash
                | Code::Unsupported
                | Code::Kernel
                | Code::Storage
                | Code::ReportWanted
                | Code::Fault => 1,
            },
            Self::Usage(_) => 2,
            Self::Exit(code) => *code,
        }
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

/// Refuses because a file cannot be read or written, with what helps where that is known.
pub(crate) fn storage(what: impl Display, error: &io::Error) -> Refusal {
    let remedy = match error.raw_os_error() {
        Some(libc::EACCES | libc::EPERM) if !nix::unistd::geteuid().is_root() => ": try with sudo",
        Some(libc::ENOSPC | libc::EDQUOT) => ": make room there",
        Some(libc::EROFS) => ": choose another place, or mount it writable",
        Some(_) | None => "",
    };

    Refusal::new(Code::Storage, format!("{what}: {error}{remedy}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_told_with_what_helps() {
        let full = io::Error::from_raw_os_error(libc::ENOSPC);

        assert_eq!(
            storage("/state", &full).message,
            "/state: No space left on device: make room there"
        );
    }

    #[test]
    fn exit_codes_are_the_contract() {
        let refused = |code| Failure::from(Refusal::new(code, "x")).exit_code();

        assert_eq!(refused(Code::NotFound), 1);
        assert_eq!(refused(Code::AgentAway), 3);
        assert_eq!(refused(Code::ControlAway), 3);
        assert_eq!(Failure::Usage("x".into()).exit_code(), 2);
        assert_eq!(Failure::Exit(42).exit_code(), 42);
    }
}
