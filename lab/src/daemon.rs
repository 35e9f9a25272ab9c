//! A daemon on a host: found by its program, killed, and restarted as a supervisor would do.

use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::command::{HostCommand, Running};
use crate::host::Host;
use crate::tool::usage::{Usage, status_field};
use crate::wait_until;

/// How long a killed process may take to disappear.
const PATIENCE: Duration = Duration::from_secs(10);

/// The option that all daemons have.
const STATE: &str = "--state";

/// A daemon that runs, or has run, on a host.
#[derive(Clone, Debug)]
pub struct Daemon {
    host: Host,
    program: String,
    pid: i32,
    args: Vec<String>,
}

impl Daemon {
    /// Finds the only process on `host` that runs `program` as a daemon.
    ///
    /// # Errors
    ///
    /// If there is none, or more than one.
    pub fn find(host: &Host, program: &str) -> Result<Self> {
        let mut found = running(host, program)?;
        if found.len() > 1 {
            // For a moment, a child that is about to run another program is one of this one.
            let still = running(host, program)?;
            found.retain(|(pid, _)| still.iter().any(|(other, _)| other == pid));
        }
        let count = found.len();
        let (Some((pid, args)), 1) = (found.pop(), count) else {
            bail!("{count} processes run {program} on {}, not one", host.name())
        };

        Ok(Self { host: host.clone(), program: program.to_owned(), pid, args })
    }

    /// Returns the same daemon with another value for an option.
    #[must_use]
    pub fn with(&self, option: &str, value: &str) -> Self {
        let mut other = self.clone();
        if let Some(at) = other.args.iter().position(|word| word == option) {
            other.args.drain(at..other.args.len().min(at + 2));
        }
        other.args.extend([option, value].map(str::to_owned));
        other
    }

    /// Returns the same daemon on another host, whether or not it runs there.
    #[must_use]
    pub fn on(&self, host: &Host) -> Self {
        Self { host: host.clone(), ..self.clone() }
    }

    /// Returns its process id inside the host.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Returns a memory figure: a field of `/proc/PID/status`, in KiB.
    ///
    /// # Errors
    ///
    /// If the process is gone, or there is no such field.
    pub fn memory(&self, field: &str) -> Result<u64> {
        let status =
            self.host.try_command("cat")?.arg(format!("/proc/{}/status", self.pid)).run()?.stdout;

        status_field(&status, field).with_context(|| format!("no {field}"))
    }

    /// Makes `VmHWM` the highest figure from now on.
    ///
    /// # Errors
    ///
    /// If the process is gone.
    pub(crate) fn forget_peak(&self) -> Result<()> {
        // proc(5): 5 resets the peak of resident memory.
        self.host.shell(&format!("echo 5 > /proc/{}/clear_refs", self.pid)).map(drop)
    }

    /// Returns the processor time that it has used so far.
    ///
    /// # Errors
    ///
    /// If the process is gone.
    pub fn processor_time(&self) -> Result<Duration> {
        Ok(Duration::from_secs_f64(self.usage()?.cpu_seconds))
    }

    /// Returns what it has cost so far.
    ///
    /// # Errors
    ///
    /// If the process is gone.
    pub(crate) fn usage(&self) -> Result<Usage> {
        let pid = self.pid.to_string();
        let command = self.host.try_command("overlay-lab")?.args(["usage", "--pid", &pid]);

        Ok(serde_json::from_str(&command.run()?.stdout)?)
    }

    /// Kills it with SIGKILL and waits until it is gone.
    ///
    /// # Errors
    ///
    /// If it is gone already.
    pub fn kill(&self) -> Result<()> {
        self.host.kill(self.pid, "KILL")?;
        let gone = || self.host.pids_of(&self.program).is_ok_and(|pids| !pids.contains(&self.pid));

        wait_until(PATIENCE, "the daemon is gone", gone)
            .with_context(|| self.program.clone())
            .map(drop)
    }

    /// Returns the command that restarts it with the same arguments.
    ///
    /// # Errors
    ///
    /// If the host is gone.
    pub fn command(&self) -> Result<HostCommand> {
        Ok(self.host.try_command(&self.program)?.args(&self.args))
    }

    /// Returns the command that restarts it with its log in a file, or in anything else that can be
    /// opened by a path.
    ///
    /// # Errors
    ///
    /// If the host is gone.
    pub fn logging_to(&self, log: &str) -> Result<HostCommand> {
        let script = format!("exec \"$@\" 2>>{log}");

        Ok(self.host.try_command("sh")?.args(["-c", &script, "sh", &self.program]).args(&self.args))
    }

    /// Returns the command that restarts it without a capability, named as in `setpriv`.
    ///
    /// # Errors
    ///
    /// If the host is gone.
    pub fn without(&self, capability: &str) -> Result<HostCommand> {
        let less = format!("--bounding-set=-{capability}");

        Ok(self.host.try_command("setpriv")?.args([&less, &self.program]).args(&self.args))
    }

    /// Restarts it; it ends with the returned value.
    ///
    /// # Errors
    ///
    /// If the host is gone.
    pub fn start(&self) -> Result<Running> {
        self.command()?.spawn()
    }
}

/// Lists the processes on a host that run a program as a daemon, with their arguments.
fn running(host: &Host, program: &str) -> Result<Vec<(i32, Vec<String>)>> {
    let mut found = Vec::new();
    for pid in host.pids_of(program)? {
        let read = host.try_command("cat")?.arg(format!("/proc/{pid}/cmdline")).output()?;
        // One that has ended meanwhile has none.
        let args = read.stdout.split_terminator('\0').skip(1);
        let args: Vec<_> = args.map(str::to_owned).collect();
        // Without a state directory, it is another command of the program.
        if args.iter().any(|arg| arg == STATE) {
            found.push((pid, args));
        }
    }

    Ok(found)
}
