//! A daemon of a host: found by its program, killed, and started again as a supervisor would.

use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::command::{HostCommand, Running};
use crate::host::Host;
use crate::tool::usage::{as_f64, cpu_ticks};
use crate::wait::wait_until;

/// How long a killed process may take to disappear.
const PATIENCE: Duration = Duration::from_secs(10);

/// The option that all daemons are started with.
const STATE: &str = "--state";

/// A daemon that runs, or ran, on a host.
#[derive(Clone, Debug)]
pub struct Daemon {
    host: Host,
    program: String,
    pid: i32,
    args: Vec<String>,
}

impl Daemon {
    /// Finds the one process on `host` that runs `program`.
    ///
    /// # Errors
    ///
    /// When there is none, or several.
    pub fn find(host: &Host, program: &str) -> Result<Self> {
        let mut found = Vec::new();
        for pid in host.pids_of(program)? {
            let line = host.try_command("cat")?.arg(format!("/proc/{pid}/cmdline")).run()?.stdout;
            let args: Vec<_> = line.split_terminator('\0').skip(1).map(str::to_owned).collect();
            // What keeps no state is something else that the program can be.
            if args.iter().any(|arg| arg == STATE) {
                found.push((pid, args));
            }
        }
        let count = found.len();
        let (Some((pid, args)), 1) = (found.pop(), count) else {
            bail!("{count} processes run {program} on {}, not one", host.name())
        };

        Ok(Self { host: host.clone(), program: program.to_owned(), pid, args })
    }

    /// The same daemon with another value of an option.
    #[must_use]
    pub fn with(&self, option: &str, value: &str) -> Self {
        let mut other = self.clone();
        if let Some(at) = other.args.iter().position(|word| word == option) {
            other.args.drain(at..other.args.len().min(at + 2));
        }
        other.args.extend([option, value].map(str::to_owned));
        other
    }

    /// The same daemon on another host, where it may not run at all.
    #[must_use]
    pub fn on(&self, host: &Host) -> Self {
        Self { host: host.clone(), ..self.clone() }
    }

    /// Its number inside the host.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// What the kernel says of its memory in a field of `/proc/PID/status`, in KiB.
    ///
    /// # Errors
    ///
    /// When it is gone, or there is no such field.
    pub fn memory(&self, field: &str) -> Result<u64> {
        let status = self.host.try_command("cat")?.arg(format!("/proc/{}/status", self.pid)).run()?.stdout;
        let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));

        line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).with_context(|| format!("no {field}"))
    }

    /// How long processors have worked for it so far, in hundredths of a second.
    ///
    /// # Errors
    ///
    /// When it is gone.
    pub fn processor_time(&self) -> Result<Duration> {
        let stat = self.host.try_command("cat")?.arg(format!("/proc/{}/stat", self.pid)).run()?.stdout;
        let ticks = cpu_ticks(&stat).context("an unknown form of /proc/PID/stat")?;
        let a_second = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK)?.context("no clock")?;

        Ok(Duration::from_secs_f64(ticks / as_f64(a_second)))
    }

    /// Kills it with SIGKILL and waits until it is gone.
    ///
    /// # Errors
    ///
    /// When it is gone already.
    pub fn kill(&self) -> Result<()> {
        self.host.kill(self.pid, "KILL")?;
        let gone = || self.host.pids_of(&self.program).is_ok_and(|pids| !pids.contains(&self.pid));

        wait_until(PATIENCE, "the daemon is gone", gone).with_context(|| self.program.clone()).map(drop)
    }

    /// The command that starts it again, with the arguments it had.
    ///
    /// # Errors
    ///
    /// When the host is gone.
    pub fn command(&self) -> Result<HostCommand> {
        Ok(self.host.try_command(&self.program)?.args(&self.args))
    }

    /// The command that starts it again with its log in a file, or what else can be opened by a path.
    ///
    /// # Errors
    ///
    /// When the host is gone.
    pub fn logging_to(&self, log: &str) -> Result<HostCommand> {
        let script = format!("exec \"$@\" 2>>{log}");

        Ok(self.host.try_command("sh")?.args(["-c", &script, "sh", &self.program]).args(&self.args))
    }

    /// The command that starts it again without a capability, as `setpriv` calls it.
    ///
    /// # Errors
    ///
    /// When the host is gone.
    pub fn without(&self, capability: &str) -> Result<HostCommand> {
        let less = format!("--bounding-set=-{capability}");

        Ok(self.host.try_command("setpriv")?.args([&less, &self.program]).args(&self.args))
    }

    /// Starts it again; it ends with the returned value.
    ///
    /// # Errors
    ///
    /// When the host is gone.
    pub fn start(&self) -> Result<Running> {
        self.command()?.spawn()
    }
}
