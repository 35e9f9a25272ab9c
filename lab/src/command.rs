//! A command that runs inside a host.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::binary::{PROGRAMS, bin, bin_dir};
use crate::enter;
use crate::process::ProcessHandle;

/// How long a command may take by default.
const DEADLINE: Duration = Duration::from_secs(30);

/// A command to be run inside a host, with its output captured.
///
/// The output goes to files, not pipes, so that nobody waits for a daemon that the command leaves
/// behind with its standard output open.
#[derive(Debug)]
pub struct HostCommand {
    command: Command,
    line: String,
    deadline: Duration,
}

/// The result of a command.
#[derive(Clone, Debug)]
pub struct CommandOutput {
    /// How it ended; a signal N is shown as exit code 128 + N.
    pub status: ExitStatus,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
    /// How long it took.
    pub elapsed: Duration,
}

impl HostCommand {
    pub(crate) fn new(init: i32, host: &str, lab: &str, program: &OsStr) -> Result<Self> {
        let mut command = Command::new(bin("overlay-lab")?);
        let own = program.to_str().filter(|name| PROGRAMS.contains(name));
        let program = own.map_or_else(|| Ok(program.into()), bin)?;
        command.args([enter::COMMAND, &init.to_string(), "--"]).arg(&program);
        command
            .env("PATH", search_path(&[])?)
            .env("OVERLAY_LAB", lab)
            .env("OVERLAY_LAB_HOST", host);
        // It names a folder in the machine's `/run`, which a host does not see.
        command.env_remove("XDG_RUNTIME_DIR").stdin(Stdio::null());

        let line =
            format!("{host}$ {}", own.map_or_else(|| program.display().to_string(), str::to_owned));
        Ok(Self { command, line, deadline: DEADLINE })
    }

    /// Returns the command as a person would type it, with the host in front.
    #[must_use]
    pub fn line(&self) -> &str {
        &self.line
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.line.push(' ');
        self.line.push_str(&arg.as_ref().to_string_lossy());
        self.command.arg(arg);
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args(self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        args.into_iter().fold(self, Self::arg)
    }

    /// Sets a variable of the command's environment.
    #[must_use]
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Makes programs be found in these folders first, before the workspace's own.
    ///
    /// # Errors
    ///
    /// If the name of a folder contains a colon.
    pub(crate) fn with_programs_of(mut self, folders: &[PathBuf]) -> Result<Self> {
        self.command.env("PATH", search_path(folders)?);

        Ok(self)
    }

    /// Passes `text` to the command's standard input, which is empty otherwise.
    ///
    /// # Errors
    ///
    /// If no temporary file can be made.
    pub fn input(mut self, text: &str) -> io::Result<Self> {
        let file = tempfile::tempfile()?;
        file.write_all_at(text.as_bytes(), 0)?;
        self.command.stdin(file);
        Ok(self)
    }

    /// Passes a file to the command's standard input.
    #[must_use]
    pub(crate) fn input_file(mut self, file: File) -> Self {
        self.command.stdin(file);
        self
    }

    /// Sets the time after which the command is killed; 30 s by default.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Runs the command; any exit code is a result.
    ///
    /// # Errors
    ///
    /// If it cannot be started, or does not end before the deadline.
    pub fn output(self) -> Result<CommandOutput> {
        let deadline = self.deadline;

        self.spawn()?.wait(deadline)
    }

    /// Runs the command, which must succeed.
    ///
    /// # Errors
    ///
    /// If it cannot be started, does not end before the deadline, or fails; the error contains the
    /// command and its output.
    pub fn run(self) -> Result<CommandOutput> {
        let line = self.line.clone();

        let output = self.output()?;
        if !output.status.success() {
            bail!("{line}: {}\n{}{}", output.status, output.stdout, output.stderr);
        }
        Ok(output)
    }

    /// Runs the command with this program's own standard streams, as `overlay-lab exec` does,
    /// without a deadline.
    ///
    /// # Errors
    ///
    /// If it cannot be started.
    pub fn status(mut self) -> Result<ExitStatus> {
        self.command.stdin(Stdio::inherit());

        self.command.status().with_context(|| format!("cannot start {}", self.line))
    }

    /// Starts the command in the background.
    ///
    /// # Errors
    ///
    /// If it cannot be started.
    pub fn spawn(mut self) -> Result<Running> {
        let (stdout, stderr) = (tempfile::tempfile()?, tempfile::tempfile()?);
        self.command.stdout(stdout.try_clone()?).stderr(stderr.try_clone()?);
        let child = self.command.spawn().with_context(|| format!("cannot start {}", self.line))?;

        Ok(Running { child, line: self.line, stdout, stderr, started: Instant::now() })
    }
}

/// A command that runs inside a host; dropping it kills it.
#[derive(Debug)]
pub struct Running {
    child: Child,
    line: String,
    stdout: File,
    stderr: File,
    started: Instant,
}

impl Running {
    /// Returns what it has written to standard output so far.
    #[must_use]
    pub fn stdout(&self) -> String {
        contents(&self.stdout)
    }

    /// Returns what it has written to standard error so far.
    #[must_use]
    pub fn stderr(&self) -> String {
        contents(&self.stderr)
    }

    /// Returns whether it is still running.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Sends it a signal. SIGKILL always ends it; other signals are passed on to the command, which
    /// may handle them.
    ///
    /// # Errors
    ///
    /// If it has ended.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill(self.pid()?, signal).with_context(|| format!("cannot signal {}", self.line))
    }

    /// Waits for its end; after `deadline` it is killed.
    ///
    /// # Errors
    ///
    /// If it does not end in time; the error contains its output.
    pub fn wait(mut self, deadline: Duration) -> Result<CommandOutput> {
        if self.is_running() && !ProcessHandle::open(self.pid()?.as_raw())?.wait_gone(deadline) {
            let _ = self.child.kill();
            let _ = self.child.wait();
            bail!("{}: not done after {deadline:?}\n{}{}", self.line, self.stdout(), self.stderr());
        }

        let status = self.child.wait().context("cannot wait")?;
        Ok(CommandOutput {
            status,
            stdout: self.stdout(),
            stderr: self.stderr(),
            elapsed: self.started.elapsed(),
        })
    }

    fn pid(&self) -> Result<Pid> {
        Ok(Pid::from_raw(i32::try_from(self.child.id())?))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Reads without moving the offset, which the writing process shares.
fn contents(file: &File) -> String {
    let length = file.metadata().map_or(0, |metadata| metadata.len());
    let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
    let read = file.read_at(&mut bytes, 0).unwrap_or(0);

    String::from_utf8_lossy(&bytes[..read]).into_owned()
}

/// Returns a `PATH` by which commands on a host find the workspace's programs first.
fn search_path(first: &[PathBuf]) -> Result<std::ffi::OsString> {
    let old = std::env::var_os("PATH")
        .unwrap_or_else(|| "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".into());
    let folders =
        std::iter::once(bin_dir()?).chain(first.iter().cloned()).chain(std::env::split_paths(&old));

    std::env::join_paths(folders).context("a folder of programs has a colon in its name")
}
