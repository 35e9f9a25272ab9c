//! Network namespaces: made, pinned to a file, opened by path, entered on a thread that no other
//! work is on.
//!
//! A pin is a bind mount of the namespace on `<run_dir>/netns/ovn-<network id>`; the name is how a
//! process with no memory knows what is ours. Nothing here looks into a namespace.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::panic;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use nix::mount::{MntFlags, MsFlags};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::statfs::{FsType, fstatfs};
use overlay_core::NetworkId;
use tokio::sync::oneshot;

use super::error::KernelError;
use super::netns_threads::NETNS_THREADS;

/// Where pins and locks live unless the operator says otherwise.
pub const DEFAULT_RUN_DIR: &str = "/run/overlay";

const PIN_PREFIX: &str = "ovn-";
/// `NSFS_MAGIC`, "nsfs".
const NSFS: FsType = FsType(0x6e73_6673);
/// `NS_GET_NSTYPE`, `_IO(0xb7, 3)`: asks a namespace's descriptor which kind it is.
const NS_GET_NSTYPE: libc::Ioctl = 0xb703;
/// How many mounts are taken off one pin before giving up: foreign hands may stack them.
const MAX_STACKED: usize = 16;

/// What tells one namespace from another while both exist; numbers of dead ones are used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct NetnsId {
    /// The device of the namespace file system.
    pub dev: u64,
    /// The namespace's number on it.
    pub ino: u64,
}

/// An open network namespace. It lives at least as long as this value or a clone of it.
#[derive(Debug, Clone)]
pub struct Netns {
    file: Arc<File>,
    identity: NetnsId,
    label: String,
}

impl Netns {
    /// Opens the namespace that this process lives in: the host's.
    ///
    /// # Errors
    ///
    /// When `/proc` is not there.
    pub fn host() -> Result<Self, KernelError> {
        Ok(Self { label: "host".to_owned(), ..Self::open(Path::new("/proc/self/ns/net"))? })
    }

    /// Opens a namespace by path, such as `/run/netns/x` or `/proc/PID/ns/net`.
    ///
    /// # Errors
    ///
    /// When nothing is there, or something else than a network namespace.
    pub fn open(path: &Path) -> Result<Self, KernelError> {
        let label = path.display().to_string();
        let file = File::open(path).map_err(|source| namespace_error("open", &label, source))?;

        Self::of_file(file, label.clone())
            .map_err(|source| namespace_error("open", &label, source))?
            .ok_or_else(|| KernelError::NotANamespace { path: path.to_owned() })
    }

    /// Makes a namespace that no path names; it goes when the last holder does.
    ///
    /// # Errors
    ///
    /// When the kernel refuses, most often for want of `CAP_SYS_ADMIN`.
    pub fn unnamed(label: &str) -> Result<Self, KernelError> {
        let made = thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET)?;
            File::open("/proc/thread-self/ns/net")
        });
        let file =
            joined(made.join()).map_err(|source| namespace_error("create", label, source))?;

        Self::of_file(file, label.to_owned())
            .map_err(|source| namespace_error("create", label, source))?
            .ok_or_else(|| KernelError::NotANamespace { path: PathBuf::from(label) })
    }

    /// Returns what tells this namespace from others.
    pub fn identity(&self) -> NetnsId {
        self.identity
    }

    /// Returns the name or path it goes under in messages.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// Runs `work` inside the namespace, on a fresh thread, and waits for it. What `work` opens
    /// there (sockets, TUN queues) stays in that namespace wherever it is used.
    ///
    /// # Errors
    ///
    /// When the thread cannot start or may not enter.
    ///
    /// # Panics
    ///
    /// When `work` does.
    pub fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, KernelError> {
        thread::scope(|scope| {
            let thread = thread::Builder::new()
                .name("netns".to_owned())
                .spawn_scoped(scope, || self.entered(work))?;

            joined(thread.join())
        })
        .map_err(|source| namespace_error("enter", &self.label, source))
    }

    /// Does the same without blocking the caller, on a thread that others use as well: `work` must
    /// not wait for anything but the kernel.
    ///
    /// # Errors
    ///
    /// When the thread cannot start or may not enter, or `work` panics.
    pub async fn enter<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, KernelError> {
        let (done, result) = oneshot::channel();
        let netns = self.clone();

        let given = NETNS_THREADS.run(Box::new(move || {
            // The receiver is gone only when nobody waits any more.
            drop(done.send(netns.entered(work)));
        }));

        match given {
            Ok(()) => {
                result.await.unwrap_or_else(|_| Err(io::Error::other("the work inside panicked")))
            }
            Err(source) => Err(source),
        }
        .map_err(|source| namespace_error("enter", &self.label, source))
    }

    fn entered<T>(&self, work: impl FnOnce() -> T) -> io::Result<T> {
        setns(&*self.file, CloneFlags::CLONE_NEWNET)?;

        Ok(work())
    }

    /// Returns nothing when the file is no network namespace.
    fn of_file(file: File, label: String) -> io::Result<Option<Self>> {
        if fstatfs(&file)?.filesystem_type() != NSFS || !is_network(&file) {
            return Ok(None);
        }
        let identity = identity_of(&file.metadata()?);

        Ok(Some(Self { file: Arc::new(file), identity, label }))
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// The pinned namespaces of the networks that this node takes part in.
#[derive(Debug, Clone)]
pub struct Pins {
    dir: PathBuf,
}

impl Pins {
    /// Names the folder, `<run_dir>/netns`; it is made when the first pin is.
    pub fn new(run_dir: &Path) -> Self {
        Self { dir: run_dir.join("netns") }
    }

    /// Returns where a network's namespace is pinned.
    pub fn path(&self, network: NetworkId) -> PathBuf {
        self.dir.join(pin_name(network))
    }

    /// Opens a network's namespace, or makes and pins it. What a crash left half done is done
    /// again.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn open_or_create(&self, network: NetworkId) -> Result<Netns, KernelError> {
        if let Some(netns) = self.open(network)? {
            return Ok(netns);
        }
        let netns = Netns::unnamed(&pin_name(network))?;
        self.pin(network, &netns)?;

        Ok(netns)
    }

    /// Opens a network's namespace if it is pinned.
    ///
    /// # Errors
    ///
    /// When the pin cannot be read.
    pub fn open(&self, network: NetworkId) -> Result<Option<Netns>, KernelError> {
        let opened = Netns::open(&self.path(network));

        match opened {
            Ok(netns) => Ok(Some(Netns { label: pin_name(network), ..netns })),
            Err(KernelError::NotANamespace { .. }) => Ok(None),
            Err(error) if error.errno() == Some(libc::ENOENT) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Says whether this very namespace is pinned for the network.
    pub fn holds(&self, network: NetworkId, netns: &Netns) -> bool {
        fs::metadata(self.path(network)).is_ok_and(|meta| identity_of(&meta) == netns.identity)
    }

    /// Pins a namespace, in place of whatever is there.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn pin(&self, network: NetworkId, netns: &Netns) -> Result<(), KernelError> {
        let path = self.path(network);

        self.try_pin(&path, netns)
            .map_err(|source| namespace_error("pin", &path.display().to_string(), source))
    }

    /// Removes a pin; one that is not there is removed already. The namespace goes with its last
    /// holder.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn remove(&self, network: NetworkId) -> Result<(), KernelError> {
        let path = self.path(network);
        let removed = unmount_all(&path).and_then(|()| fs::remove_file(&path));

        match removed {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(namespace_error("remove", &path.display().to_string(), source))
            }
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Lists the networks that have a pin, whole or half done.
    ///
    /// # Errors
    ///
    /// When the folder cannot be read; one that is not there is empty.
    pub fn list(&self) -> Result<Vec<NetworkId>, KernelError> {
        let refused = |source| namespace_error("list", &self.dir.display().to_string(), source);
        let entries = match fs::read_dir(&self.dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(refused(error)),
        };

        let mut networks = Vec::new();
        for entry in entries {
            let name = entry.map_err(refused)?.file_name();
            networks.extend(
                name.to_str()
                    .and_then(|name| name.strip_prefix(PIN_PREFIX)?.parse::<NetworkId>().ok()),
            );
        }
        networks.sort_unstable();

        Ok(networks)
    }

    fn try_pin(&self, path: &Path, netns: &Netns) -> io::Result<()> {
        fs::create_dir_all(&self.dir)?;
        OpenOptions::new().create(true).append(true).mode(0o600).open(path).map(drop).or_else(
            |error| {
                // A namespace file refuses to be opened for writing; it is there, which is all we
                // need.
                if path.exists() { Ok(()) } else { Err(error) }
            },
        )?;
        unmount_all(path)?;
        let source = format!("/proc/self/fd/{}", netns.file.as_raw_fd());
        nix::mount::mount(
            Some(source.as_str()),
            path,
            None::<&str>,
            MsFlags::MS_BIND,
            None::<&str>,
        )?;

        Ok(())
    }
}

/// Returns the name under which a network's namespace is pinned.
pub fn pin_name(network: NetworkId) -> String {
    format!("{PIN_PREFIX}{network}")
}

fn unmount_all(path: &Path) -> io::Result<()> {
    for _ in 0..MAX_STACKED {
        match nix::mount::umount2(path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
            Ok(()) => {}
            // Not a mount point, or not there at all.
            Err(nix::errno::Errno::EINVAL | nix::errno::Errno::ENOENT) => return Ok(()),
            Err(errno) => return Err(errno.into()),
        }
    }

    Ok(())
}

#[expect(unsafe_code, reason = "no crate wraps this ioctl")]
fn is_network(file: &File) -> bool {
    // SAFETY: the descriptor is open for the whole call, and the request takes no argument.
    let kind = unsafe { libc::ioctl(file.as_raw_fd(), NS_GET_NSTYPE) };

    kind == libc::CLONE_NEWNET
}

fn identity_of(meta: &fs::Metadata) -> NetnsId {
    NetnsId { dev: meta.dev(), ino: meta.ino() }
}

fn joined<T>(result: thread::Result<io::Result<T>>) -> io::Result<T> {
    result.unwrap_or_else(|panic| panic::resume_unwind(panic))
}

fn namespace_error(action: &'static str, namespace: &str, source: io::Error) -> KernelError {
    KernelError::Namespace { action, namespace: namespace.to_owned(), source }
}
