//! The lock that keeps a second process from attaching to a network's TUN. The kernel lets go of it
//! when its holder dies.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use overlay_core::NetworkId;

use super::error::KernelError;
use super::netns::pin_name;

/// Held for as long as a process uses a network's namespace.
#[derive(Debug)]
pub(crate) struct Lock {
    path: PathBuf,
    _held: Flock<fs::File>,
}

impl Lock {
    /// Takes the lock of a network, or says that somebody has it.
    pub(crate) fn take(run_dir: &Path, network: NetworkId) -> Result<Self, KernelError> {
        let name = pin_name(network);
        let path = run_dir.join("lock").join(&name);
        let refused =
            |source| KernelError::Namespace { action: "lock", namespace: name.clone(), source };

        let file = open(&path).map_err(refused)?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            // Its last holder removed the file meanwhile; the next one to come would make another.
            Ok(held) if !is_at(&held, &path) => Err(KernelError::InUse { namespace: name }),
            Ok(held) => Ok(Self { path, _held: held }),
            Err((_, Errno::EWOULDBLOCK)) => Err(KernelError::InUse { namespace: name }),
            Err((_, errno)) => Err(refused(errno.into())),
        }
    }

    /// Removes the lock's file, once the namespace is gone.
    pub(crate) fn remove(&self) {
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::debug!(%error, path = %self.path.display(), "Failed to remove lock file");
        }
    }
}

fn open(path: &Path) -> io::Result<fs::File> {
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir)?;
    }

    OpenOptions::new().create(true).append(true).mode(0o600).open(path)
}

fn is_at(file: &fs::File, path: &Path) -> bool {
    match (file.metadata(), fs::metadata(path)) {
        (Ok(held), Ok(named)) => (held.dev(), held.ino()) == (named.dev(), named.ino()),
        (Err(_), _) | (_, Err(_)) => false,
    }
}
