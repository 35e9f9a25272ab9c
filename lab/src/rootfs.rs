//! The private parts of a host's file tree: `/run`, `/etc`, `/var/lib`, `/proc` and `/sys`.
//!
//! `/etc` and `/var/lib` become writable folders in memory with links to what the machine has
//! there, except for what each host must have of its own. So a host can write where a real one
//! would, and nothing of it reaches the machine's disk.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

/// Where the machine's folders can be reached inside a host, in one folder for each lab that the
/// host is nested in.
pub(crate) const BASES: &str = "/run/overlay-lab/base";
/// What a host does not see of the machine's `/etc`.
const OWN_ETC: [&str; 5] = ["hostname", "hosts", "resolv.conf", "overlay", "mtab"];
/// What a host does not see of the machine's `/var/lib`.
const OWN_VAR_LIB: [&str; 1] = ["overlay"];

/// Makes the file tree of a host for this process, which has a mount namespace of its own.
///
/// # Errors
///
/// If a mount is refused.
pub(crate) fn make(host: &str, hosts_file: &str) -> Result<()> {
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
        .context("cannot make the mounts private")?;
    forget_namespaces();
    let base = mount_run()?;
    mount_private("/etc", &OWN_ETC, &base)?;
    mount_private("/var/lib", &OWN_VAR_LIB, &base)?;
    write("/etc/hostname", &format!("{host}\n"))?;
    write("/etc/hosts", hosts_file)?;
    write("/etc/resolv.conf", "# This host has no name server.\n")?;
    symlink("../proc/self/mounts", "/etc/mtab").context("cannot make /etc/mtab")?;
    mount_proc()?;
    mount_sys(&base);

    // As on a host that systemd has booted: what is unmounted later also disappears from the mount
    // namespaces of containers. Not earlier, or the mount over /etc would also cover its copy.
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_SHARED, None::<&str>)
        .context("cannot share the mounts inside the host")
}

/// Unmounts the machine's pinned namespaces, which the host would otherwise keep alive. An
/// unprivileged user may not do that, and keeps them.
fn forget_namespaces() {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    for line in mounts.lines() {
        let mut words = line.split(' ');
        if let (Some(_), Some(target), Some("nsfs")) = (words.next(), words.next(), words.next()) {
            let _ = umount2(target, MntFlags::MNT_DETACH);
        }
    }
}

fn write(path: &str, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {path}"))
}

fn mount_memory(target: &str) -> Result<()> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;

    mount(Some("overlay-lab"), target, Some("tmpfs"), flags, Some("mode=0755"))
        .with_context(|| format!("cannot mount a private {target}"))
}

/// Gives the host a `/run` and returns the folder in it in which the machine's folders can be
/// reached. In a lab within a host, the machine is itself a host whose links lead to a folder like
/// that, so it is kept.
fn mount_run() -> Result<PathBuf> {
    let outer: Vec<_> =
        (0..).map_while(|depth: u32| File::open(format!("{BASES}/{depth}")).ok()).collect();
    mount_memory("/run")?;
    for (depth, folder) in outer.iter().enumerate() {
        let target = PathBuf::from(format!("{BASES}/{depth}"));
        fs::create_dir_all(&target).with_context(|| format!("cannot make {}", target.display()))?;
        bind(Path::new(&format!("/proc/self/fd/{}", folder.as_raw_fd())), &target)?;
    }

    Ok(PathBuf::from(format!("{BASES}/{}", outer.len())))
}

/// Covers `folder` with one in memory whose entries are links to the machine's, except for those
/// named in `own`.
fn mount_private(folder: &str, own: &[&str], base: &Path) -> Result<()> {
    let base = base.join(folder.trim_start_matches('/'));
    fs::create_dir_all(&base).with_context(|| format!("cannot make {}", base.display()))?;
    bind(Path::new(folder), &base)?;
    mount_memory(folder)?;

    let entries = fs::read_dir(&base).with_context(|| format!("cannot read {}", base.display()))?;
    for entry in entries {
        let entry = entry?;
        if own.iter().any(|name| entry.file_name() == *name) {
            continue;
        }
        let target = link_target(&entry)?;
        symlink(target, Path::new(folder).join(entry.file_name()))
            .with_context(|| format!("cannot link {}", entry.path().display()))?;
    }

    Ok(())
}

/// A link keeps its own target, which may be relative to its place; anything else is reached
/// through the base.
fn link_target(entry: &fs::DirEntry) -> io::Result<PathBuf> {
    if entry.file_type()?.is_symlink() { fs::read_link(entry.path()) } else { Ok(entry.path()) }
}

fn bind(from: &Path, to: &Path) -> Result<()> {
    mount(Some(from), to, None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>)
        .with_context(|| format!("cannot keep {} reachable", from.display()))
}

fn mount_proc() -> Result<()> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;

    mount(Some("proc"), "/proc", Some("proc"), flags, None::<&str>).context(
        "cannot mount /proc for a host (a container runtime that masks parts of /proc forbids it: start the container with \
         --privileged)",
    )
}

/// Shows the host's links under `/sys/class/net`. A host works without that, so a refusal is not an
/// error.
fn mount_sys(base: &Path) {
    let cgroup = base.join("cgroup");
    let kept =
        fs::create_dir_all(&cgroup).is_ok() && bind(Path::new("/sys/fs/cgroup"), &cgroup).is_ok();
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;

    let mounted = mount(Some("sysfs"), "/sys", Some("sysfs"), flags, None::<&str>).is_ok();
    if mounted && kept {
        let _ = bind(&cgroup, Path::new("/sys/fs/cgroup"));
    }
}
