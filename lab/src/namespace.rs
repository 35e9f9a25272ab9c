//! The system calls that make and enter namespaces. All of them need a single-threaded process.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::signal::Signal;
use nix::unistd::{Pid, dup2_stderr, dup2_stdin, dup2_stdout};

/// The program itself, even if its file has been replaced in the meantime.
const OWN_IMAGE: &std::ffi::CStr = c"/proc/self/exe";

/// The namespaces that each host has of its own.
const HOST: CloneFlags = CloneFlags::CLONE_NEWNET
    .union(CloneFlags::CLONE_NEWNS)
    .union(CloneFlags::CLONE_NEWUTS)
    .union(CloneFlags::CLONE_NEWIPC)
    .union(CloneFlags::CLONE_NEWPID);

/// Moves this process into a new network namespace; without root, also into a new user namespace,
/// as its root.
///
/// # Errors
///
/// If the system allows neither; the error says what would help.
pub(crate) fn enter_new_network() -> Result<()> {
    if unshare(CloneFlags::CLONE_NEWNET).is_ok() {
        return Ok(());
    }

    let (uid, gid) = (nix::unistd::geteuid(), nix::unistd::getegid());
    if let Err(errno) = unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET) {
        bail!(
            "this system allows no namespaces ({}): run as root, or allow user namespaces \
             (sysctl user.max_user_namespaces, kernel.apparmor_restrict_unprivileged_userns=0); \
             inside a container start it with --privileged",
            errno.desc()
        );
    }
    map_identity("setgroups", "deny")?;
    map_identity("uid_map", &format!("0 {uid} 1"))?;
    map_identity("gid_map", &format!("0 {gid} 1"))
}

fn map_identity(file: &str, text: &str) -> Result<()> {
    std::fs::write(Path::new("/proc/self").join(file), text)
        .with_context(|| format!("cannot write /proc/self/{file}"))
}

/// Starts this program again with `args` as the first process of a host: in namespaces of its own,
/// with its reports on `stdout`. It is killed as soon as the calling process is gone.
///
/// # Errors
///
/// If the kernel refuses the namespaces.
#[expect(
    unsafe_code,
    reason = "only clone(2) makes a process that is the first of its PID namespace"
)]
pub(crate) fn spawn_host(args: &[&str], stdin: &File, stdout: &OwnedFd) -> Result<Pid> {
    const STACK: usize = 128 * 1024;

    let args = args.iter().map(|arg| CString::new(*arg)).collect::<Result<Vec<_>, _>>()?;
    let child = || match replace_by_init(&args, stdin, stdout) {
        Ok(never) => match never {},
        Err(_) => 127,
    };
    let mut stack = vec![0; STACK];

    // SAFETY: without CLONE_VM the child works on a copy of this memory, as after fork, and only
    // the child uses `stack`. This process has one thread, so no other can hold a lock. The child
    // makes four system calls and executes the program.
    let pid = unsafe { nix::sched::clone(Box::new(child), &mut stack, HOST, Some(libc::SIGCHLD)) };

    pid.map_err(|errno| anyhow::anyhow!("cannot make a host: {}", errno.desc()))
}

fn replace_by_init(
    args: &[CString],
    stdin: &File,
    stdout: &OwnedFd,
) -> Result<std::convert::Infallible, Errno> {
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
    dup2_stdin(stdin)?;
    dup2_stdout(stdout)?;

    nix::unistd::execv(OWN_IMAGE, args)
}

/// Redirects the standard streams to `/dev/null`, so that a process that stays does not hold a
/// terminal or pipe open.
///
/// # Errors
///
/// If `/dev/null` cannot be opened.
pub(crate) fn drop_standard_streams() -> Result<()> {
    let null = File::options()
        .read(true)
        .write(true)
        .open("/dev/null")
        .context("cannot open /dev/null")?;

    dup2_stdin(&null)?;
    dup2_stdout(&null)?;
    dup2_stderr(&null)?;
    Ok(())
}

/// The namespaces of another process, in the order in which they are entered.
pub(crate) struct Namespaces {
    files: Vec<(File, CloneFlags)>,
}

impl Namespaces {
    /// Opens those namespaces of `pid` that differ from ours; the kernel may refuse to enter the
    /// others.
    ///
    /// # Errors
    ///
    /// If there is no such process, or it is not ours.
    pub(crate) fn of(pid: i32) -> Result<Self> {
        let mut files = Vec::new();
        for (name, flag) in [
            ("user", CloneFlags::CLONE_NEWUSER),
            ("net", CloneFlags::CLONE_NEWNET),
            ("uts", CloneFlags::CLONE_NEWUTS),
            ("ipc", CloneFlags::CLONE_NEWIPC),
            ("pid", CloneFlags::CLONE_NEWPID),
            ("mnt", CloneFlags::CLONE_NEWNS),
        ] {
            if same_namespace(pid, name)? {
                continue;
            }
            let path = format!("/proc/{pid}/ns/{name}");
            files.push((File::open(&path).with_context(|| format!("cannot open {path}"))?, flag));
        }

        Ok(Self { files })
    }

    /// Moves this thread into them; the PID namespace takes effect for its children.
    ///
    /// # Errors
    ///
    /// If the kernel refuses, as it does for a process with several threads.
    pub(crate) fn enter(&self) -> Result<()> {
        for (file, flag) in &self.files {
            setns(file, *flag)
                .map_err(|errno| anyhow::anyhow!("cannot enter {flag:?}: {}", errno.desc()))?;
        }

        Ok(())
    }
}

fn same_namespace(pid: i32, name: &str) -> Result<bool> {
    let theirs = format!("/proc/{pid}/ns/{name}");
    let link =
        std::fs::read_link(&theirs).with_context(|| format!("no host is held by process {pid}"))?;

    Ok(link == std::fs::read_link(format!("/proc/self/ns/{name}"))?)
}

/// Runs `work` inside the network namespace `inside` and returns to `home`.
///
/// # Errors
///
/// If a namespace cannot be entered, or `work` fails.
pub(crate) fn within_network<T>(
    inside: &File,
    home: &File,
    work: impl FnOnce() -> Result<T>,
) -> Result<T> {
    setns(inside, CloneFlags::CLONE_NEWNET).context("cannot enter the host's network")?;
    let result = work();
    setns(home, CloneFlags::CLONE_NEWNET).context("cannot return from the host's network")?;

    result
}

/// Forks this process; returns `None` in the child.
///
/// # Errors
///
/// If the kernel cannot make a process.
#[expect(unsafe_code, reason = "a PID namespace is entered by forking")]
pub(crate) fn fork() -> io::Result<Option<Pid>> {
    // SAFETY: the callers have one thread, so the child may do whatever the parent may.
    match unsafe { nix::unistd::fork() }? {
        nix::unistd::ForkResult::Parent { child } => Ok(Some(child)),
        nix::unistd::ForkResult::Child => Ok(None),
    }
}

/// Returns the number of a descriptor, for the kernel interface that takes numbers.
pub(crate) fn raw(fd: BorrowedFd<'_>) -> i32 {
    fd.as_raw_fd()
}
