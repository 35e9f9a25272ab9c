//! Why a policy is not applied, rolled back or shown.

use overlay_core::policy::PolicyMistake;
use overlay_proto::Code;

/// What is wrong with a policy, or with the request to replace the live one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PolicyError {
    /// The document is no policy.
    #[error("{first}{}", and_others(*others, "mistakes"))]
    Mistaken {
        /// The first mistake.
        first: PolicyMistake,
        /// How many more there are.
        others: usize,
    },
    /// A test in the document does not hold.
    #[error("line {line}: {failure}{}; nothing is changed", and_others(*others, "failures"))]
    TestFails {
        /// The line of the test.
        line: usize,
        /// What is wrong.
        failure: String,
        /// How many more failures there are.
        others: usize,
    },
    /// Something in the document does nothing, and the caller wants no such policy.
    #[error(
        "{what}{}; --strict allows no such thing, nothing is changed",
        and_others(*others, "warnings")
    )]
    DoesNothing {
        /// The first such thing, with its line.
        what: String,
        /// How many more there are.
        others: usize,
    },
    /// Another policy is live than the caller thinks.
    #[error(
        "{} is live, and {} was expected; nothing is changed: `overlayctl policy diff FILE` shows \
         what differs", called(*live), called(*expected)
    )]
    Moved {
        /// The policy revision that is live; 0 for none.
        live: u64,
        /// The one that the caller expected.
        expected: u64,
    },
    /// There is no policy of this revision, or none any more.
    #[error(
        "revision {0} of the policy is not kept: `overlayctl policy history` lists those that are"
    )]
    NotKept(u64),
}

impl PolicyError {
    /// Returns the stable code that callers are told.
    pub(super) fn code(&self) -> Code {
        match self {
            Self::Mistaken { .. } | Self::TestFails { .. } | Self::DoesNothing { .. } => {
                Code::InvalidInput
            }
            Self::Moved { .. } => Code::WrongState,
            Self::NotKept(_) => Code::NotFound,
        }
    }
}

fn and_others(others: usize, what: &str) -> String {
    match others {
        0 => String::new(),
        others => format!(" (and {others} more {what}: `overlayctl policy test FILE` lists them)"),
    }
}

fn called(revision: u64) -> String {
    match revision {
        0 => "no policy".to_owned(),
        revision => format!("revision {revision} of the policy"),
    }
}
