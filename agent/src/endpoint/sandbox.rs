//! Sandboxes and owners, looked at from outside: which namespace a path means, and whether it and
//! its process still live.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use overlay_core::Runtime;
use overlay_proto::Code;

use crate::kernel::{KernelError, Netns};
use crate::problem::explain;
use crate::state::{EndpointRecord, ManagedSandbox, Owner, SandboxRecord};

/// Why a sandbox, or the process that an endpoint shall go with, does not serve.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SandboxError {
    /// The kernel stands in the way.
    #[error("{}", explain(.0))]
    Kernel(KernelError),
    /// What was named is no path of a namespace.
    #[error("netns {netns:?} is not an absolute path")]
    NotAbsolute {
        /// What was named.
        netns: String,
    },
    /// Nothing is at the path.
    #[error("no network namespace is at {}", .path.display())]
    Missing {
        /// The path.
        path: PathBuf,
    },
    /// What is at the path is not to be opened as a network namespace.
    #[error("{}", explain(.0))]
    Unusable(KernelError),
    /// The path leads to the host's own namespace.
    #[error(
        "{} is the host's own network namespace; use --host to attach the host itself",
        .path.display()
    )]
    IsHost {
        /// The path.
        path: PathBuf,
    },
    /// The interfaces in the namespace cannot be listed.
    #[error("{}", explain(.0))]
    Interfaces(nix::Error),
    /// The process cannot be looked at.
    #[error("owner_pid {pid}: {}", explain(.error))]
    OwnerUnknown {
        /// Its id.
        pid: u32,
        /// Why.
        error: io::Error,
    },
    /// The process does not exist.
    #[error("owner_pid {pid}: there is no such process")]
    OwnerGone {
        /// Its id.
        pid: u32,
    },
}

impl SandboxError {
    /// Returns the stable code.
    pub(crate) fn code(&self) -> Code {
        match self {
            Self::Kernel(_) | Self::Interfaces(_) | Self::OwnerUnknown { .. } => Code::Kernel,
            Self::NotAbsolute { .. } | Self::Unusable(_) | Self::IsHost { .. } => {
                Code::InvalidInput
            }
            Self::Missing { .. } | Self::OwnerGone { .. } => Code::NotFound,
        }
    }
}

/// Opens the sandbox that a request names, and says which it is.
pub(crate) fn identify(
    runtime: Runtime,
    netns: &str,
) -> Result<(SandboxRecord, Netns), SandboxError> {
    let host = Netns::host().map_err(SandboxError::Kernel)?;
    if runtime == Runtime::Host {
        return Ok((SandboxRecord::Host, host));
    }
    let path = PathBuf::from(netns);
    if !path.is_absolute() || path.to_str().is_none_or(|text| text.chars().any(char::is_control)) {
        return Err(SandboxError::NotAbsolute { netns: netns.to_owned() });
    }
    let opened = Netns::open(&path).map_err(|error| unopened(&path, error))?;
    let identity = opened.identity();
    if identity == host.identity() {
        return Err(SandboxError::IsHost { path });
    }

    let place = SandboxRecord::Netns {
        path,
        device: identity.dev,
        inode: identity.ino,
        boot: BOOT.clone(),
    };

    Ok((place, opened))
}

fn unopened(path: &Path, error: KernelError) -> SandboxError {
    match error.errno() {
        Some(libc::ENOENT) => SandboxError::Missing { path: path.to_owned() },
        Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM) => SandboxError::Kernel(error),
        Some(_) | None => SandboxError::Unusable(error),
    }
}

/// Lists the interfaces inside a namespace.
pub(crate) async fn interfaces(netns: &Netns) -> Result<BTreeSet<String>, SandboxError> {
    let listed = netns.enter(|| {
        let interfaces = nix::net::if_::if_nameindex()?;
        Ok::<_, nix::Error>(
            interfaces.iter().map(|i| i.name().to_string_lossy().into_owned()).collect(),
        )
    });

    listed.await.map_err(SandboxError::Kernel)?.map_err(SandboxError::Interfaces)
}

/// Finds a process that an endpoint shall go with.
pub(crate) fn owner(pid: u32) -> Result<Owner, SandboxError> {
    let looked = start_time(pid).map_err(|error| SandboxError::OwnerUnknown { pid, error })?;
    let started = looked.ok_or(SandboxError::OwnerGone { pid })?;

    Ok(Owner { pid, started })
}

/// Says why an endpoint has lost what it lived in; nothing while all of it lives, or cannot be
/// looked at: descriptors may be used up.
pub(crate) fn lost(record: &EndpointRecord) -> Option<&'static str> {
    if let Some(owner) = record.owner
        && start_time(owner.pid).is_ok_and(|started| started != Some(owner.started))
    {
        return Some("its process is gone");
    }

    match &record.sandbox {
        SandboxRecord::Host => None,
        // Its engine says when its containers end, and whoever speaks with the engine finds those
        // it did not tell of.
        SandboxRecord::Managed(managed) => {
            is_of_earlier_boot(managed).then_some("the host was started anew")
        }
        SandboxRecord::Netns { boot, .. } if !BOOT.is_empty() && *boot != *BOOT => {
            Some("the host was started anew")
        }
        SandboxRecord::Netns { path, device, inode, boot: _ } => match fs::metadata(path) {
            Ok(found) if found.dev() == *device && found.ino() == *inode => None,
            Ok(_) => Some("its namespace was replaced"),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Some("its namespace is gone"),
            // A path below /proc/PID whose process just died.
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {
                Some("its namespace is gone")
            }
            Err(_) => None,
        },
    }
}

/// Tells whether a managed endpoint was made before the host was started anew.
pub(crate) fn is_of_earlier_boot(managed: &ManagedSandbox) -> bool {
    // Records of older agents do not say.
    !managed.boot.is_empty() && !BOOT.is_empty() && managed.boot != *BOOT
}

/// Returns which run of the kernel this is.
pub(crate) fn boot() -> String {
    BOOT.clone()
}

/// Which run of the kernel this is.
static BOOT: LazyLock<String> = LazyLock::new(|| {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
});

/// Finds out which run of the kernel this is, before descriptors can be used up.
pub(crate) fn look_at_boot() {
    LazyLock::force(&BOOT);
}

/// Reads when a process started; nothing for one that is gone or only waits to be reaped.
///
/// # Errors
///
/// When that cannot be known.
fn start_time(pid: u32) -> io::Result<Option<u64>> {
    match fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("stat")) {
        Ok(stat) => Ok(parse_start_time(&stat)),
        Err(error)
            if error.kind() == io::ErrorKind::NotFound
                || error.raw_os_error() == Some(libc::ESRCH) =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// The name in parentheses may hold anything; what follows the last one is regular
/// (proc_pid_stat(5)).
pub(crate) fn parse_start_time(stat: &str) -> Option<u64> {
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    let state = fields.next()?;
    // Field 22; the state is field 3.
    let started = fields.nth(18)?.parse().ok()?;

    (!matches!(state, "Z" | "X" | "x")).then_some(started)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_name_cannot_forge_its_start() {
        let stat = |state: &str| {
            format!(
                "7 (a) R 1 (b)) {state} 1 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 424242 1000 10 184 1 1 0 0"
            )
        };

        assert_eq!(parse_start_time(&stat("S")), Some(424_242));
        assert_eq!(parse_start_time(&stat("Z")), None);
        assert_eq!(parse_start_time("nonsense"), None);
    }

    #[test]
    fn this_process_lives_and_an_impossible_one_does_not() {
        let me = owner(std::process::id()).expect("alive");

        assert_eq!(start_time(me.pid).expect("it can be read"), Some(me.started));
        assert!(owner(u32::MAX).is_err());
    }

    #[test]
    fn who_cannot_be_looked_at_is_not_taken_for_dead() {
        use nix::sys::resource::{Resource, getrlimit, setrlimit};
        look_at_boot();
        let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");

        setrlimit(Resource::RLIMIT_NOFILE, 0, hard).expect("lowered");
        let (own, gone) = (start_time(std::process::id()), start_time(u32::MAX));
        let refused = owner(std::process::id());
        setrlimit(Resource::RLIMIT_NOFILE, soft, hard).expect("raised");

        assert!(own.is_err() && gone.is_err(), "{own:?} {gone:?}");
        let text = refused.expect_err("it cannot be looked at").to_string();
        assert!(text.contains("raise LimitNOFILE="), "{text}");
        assert!(matches!(start_time(u32::MAX), Ok(None)));
    }

    #[test]
    fn what_is_no_namespace_is_refused() {
        let refused =
            |path: &str| identify(Runtime::Attach, path).expect_err("no namespace").code();

        assert_eq!(refused("/nonexistent/netns"), Code::NotFound);
        assert_eq!(refused("/proc/self/stat"), Code::InvalidInput);
        assert_eq!(refused("relative"), Code::InvalidInput);
        assert_eq!(refused("/proc/self/ns/net"), Code::InvalidInput);
    }
}
