//! What can go wrong between us and the kernel, named so that a person knows the object and the
//! namespace.

use std::io;
use std::path::PathBuf;

/// The kernel, or what we found in it, stands in the way.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// The kernel refused one change or one read.
    #[error("failed to {action} {object} in network namespace {namespace}")]
    Refused {
        /// What was tried, as a verb.
        action: &'static str,
        /// What it was tried on.
        object: String,
        /// The namespace, by the name it goes under here.
        namespace: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A namespace could not be made, pinned, opened, entered or removed.
    #[error("failed to {action} network namespace {namespace}")]
    Namespace {
        /// What was tried, as a verb.
        action: &'static str,
        /// The namespace, by name or path.
        namespace: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The path names something else than a network namespace.
    #[error("{} is no network namespace", path.display())]
    NotANamespace {
        /// What was given.
        path: PathBuf,
    },
    /// The sandbox that was attached to does not exist any more.
    #[error("the sandbox {} is gone", path.display())]
    SandboxGone {
        /// Where it was.
        path: PathBuf,
    },
    /// The sandbox has an interface of that name and it is not the one we made.
    #[error("interface {ifname} already exists in network namespace {namespace} and is not ours")]
    IfnameTaken {
        /// The interface.
        ifname: String,
        /// The sandbox.
        namespace: String,
    },
    /// An interface name that Linux would refuse.
    #[error("{ifname:?} is no interface name (1 to 15 characters, no '/', ':', '%' and no space)")]
    InvalidIfname {
        /// What was given.
        ifname: String,
    },
    /// Another process holds the network's TUN.
    #[error("network namespace {namespace} is in use by another process")]
    InUse {
        /// The namespace.
        namespace: String,
    },
}

impl KernelError {
    /// Returns the kernel's error number, if the kernel gave one.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Refused { source, .. } | Self::Namespace { source, .. } => source.raw_os_error(),
            Self::NotANamespace { .. }
            | Self::SandboxGone { .. }
            | Self::IfnameTaken { .. }
            | Self::InvalidIfname { .. }
            | Self::InUse { .. } => None,
        }
    }
}
