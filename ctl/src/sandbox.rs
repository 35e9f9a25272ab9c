//! Namespaces of its own for this process and the command it runs: network, mounts and host name.
//!
//! Everything made here dies with the last process inside: no file, mount or interface stays
//! behind.

mod child;
mod files;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::libc;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::sethostname;
use overlay_proto::{Code, Refusal};

pub(crate) use child::run;
pub(crate) use files::Files;

/// The mount point that is borrowed for a moment, inside our own mount namespace only.
const BORROWED: &str = "/tmp";

/// This process inside namespaces of its own.
#[derive(Debug)]
pub(crate) struct Sandbox {
    netns: PathBuf,
}

impl Sandbox {
    /// Moves this process into new namespaces; it must have one thread.
    pub(crate) fn enter() -> Result<Self, Refusal> {
        if !nix::unistd::geteuid().is_root() {
            return Err(Refusal::new(
                Code::NotAllowed,
                "making network namespaces needs root: try with sudo",
            ));
        }
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWUTS)
            .map_err(kernel("new namespaces"))?;
        // Unmounts of the host still reach us, ours do not reach the host.
        let slave = MsFlags::MS_REC | MsFlags::MS_SLAVE;
        mount(None::<&str>, "/", None::<&str>, slave, None::<&str>)
            .map_err(kernel("a mount namespace of its own"))?;
        loopback_up().map_err(kernel("the loopback interface"))?;

        Ok(Self { netns: PathBuf::from(format!("/proc/{}/ns/net", std::process::id())) })
    }

    /// Returns the path by which others find the network namespace.
    pub(crate) fn netns(&self) -> &Path {
        &self.netns
    }

    /// Names the host, and puts the files that resolve names in place; returns what could not be
    /// put there.
    #[expect(
        clippy::unused_self,
        reason = "the process must be inside, or the host's own files would be covered"
    )]
    pub(crate) fn furnish(&self, files: &Files) -> Result<Vec<String>, Refusal> {
        sethostname(&files.hostname).map_err(kernel("the host name"))?;
        mount(Some("tmpfs"), BORROWED, Some("tmpfs"), MsFlags::empty(), Some("mode=0755"))
            .map_err(kernel("a place for resolv.conf"))?;
        let covered = files.each().map(|(target, text)| cover(target, text)).collect::<Vec<_>>();
        umount2(BORROWED, MntFlags::MNT_DETACH).map_err(kernel("a place for resolv.conf"))?;

        Ok(covered.into_iter().filter_map(Result::err).collect())
    }
}

/// Lays a text over a file of the host, for this mount namespace only.
fn cover(target: &str, text: &str) -> Result<(), String> {
    let name = Path::new(target).file_name().unwrap_or_default();
    let source = Path::new(BORROWED).join(name);
    let lay = || -> io::Result<()> {
        fs::write(&source, text)?;
        mount(Some(&source), target, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
        Ok(())
    };

    lay().map_err(|error| format!("{target} stays the host's: {error}"))
}

fn kernel(what: &'static str) -> impl FnOnce(Errno) -> Refusal {
    move |errno| Refusal::new(Code::Kernel, format!("the kernel refuses {what}: {}", errno.desc()))
}

#[expect(unsafe_code, reason = "interface flags are set by ioctl")]
fn loopback_up() -> nix::Result<()> {
    use std::os::fd::AsRawFd;

    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

    let socket = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    let mut name = [0; libc::IFNAMSIZ];
    for (to, from) in name.iter_mut().zip(b"lo") {
        *to = from.cast_signed();
    }
    let flags =
        libc::c_short::try_from(libc::IFF_UP | libc::IFF_RUNNING).map_err(|_| Errno::EINVAL)?;
    let request = libc::ifreq {
        ifr_name: name,
        ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_flags: flags },
    };
    // SAFETY: SIOCSIFFLAGS reads one ifreq from a pointer that is valid for the call.
    let done = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) };

    Errno::result(done).map(drop)
}
