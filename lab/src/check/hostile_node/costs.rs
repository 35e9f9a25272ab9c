//! What control and the agents of honest hosts cost during the attack.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::{AGENT_GROWTH, AGENT_LOAD, CONTROL_GROWTH, HONEST};
use crate::check::Notes;
use crate::cluster::Cluster;
use crate::daemon::Daemon;

/// What the daemons had cost when the attack began.
pub(super) struct Costs {
    since: Instant,
    control: Meter,
    agents: Vec<Meter>,
}

struct Meter {
    daemon: Daemon,
    memory: u64,
    time: Duration,
}

/// What they cost by the attack.
pub(super) struct AttackCosts {
    control: Cost,
    agents: Vec<Cost>,
}

/// What one daemon cost.
struct Cost {
    /// Resident memory in KiB, before and at most.
    memory: (u64, u64),
    /// The share of a core.
    load: f64,
}

impl Costs {
    /// Begins to measure; the highest figures of memory so far are forgotten.
    pub(super) fn begin(cluster: &Cluster) -> Result<Self> {
        let agents = (0..HONEST).map(|host| Meter::of(cluster.agent(host)?));

        Ok(Self {
            control: Meter::of(cluster.control()?)?,
            agents: agents.collect::<Result<_>>()?,
            since: Instant::now(),
        })
    }

    /// Ends measuring; the daemons must still be the same processes.
    pub(super) fn end(self, cluster: &Cluster) -> Result<AttackCosts> {
        let elapsed = self.since.elapsed();
        ensure!(cluster.control()?.pid() == self.control.daemon.pid(), "control was restarted");

        Ok(AttackCosts {
            control: self.control.read(elapsed)?,
            agents: self.agents.iter().map(|agent| agent.read(elapsed)).collect::<Result<_>>()?,
        })
    }
}

impl Meter {
    fn of(daemon: Daemon) -> Result<Self> {
        daemon.forget_peak()?;

        Ok(Self { memory: daemon.memory("VmRSS")?, time: daemon.processor_time()?, daemon })
    }

    fn read(&self, elapsed: Duration) -> Result<Cost> {
        let used = self.daemon.processor_time()?.saturating_sub(self.time);

        Ok(Cost {
            memory: (self.memory, self.daemon.memory("VmHWM")?),
            load: used.as_secs_f64() / elapsed.as_secs_f64(),
        })
    }
}

impl Cost {
    fn growth(&self) -> u64 {
        self.memory.1.saturating_sub(self.memory.0)
    }

    fn tell(&self) -> String {
        let mib = |kib: u64| f64::from(u32::try_from(kib).unwrap_or(u32::MAX)) / 1024.0;
        let (before, most) = self.memory;

        format!(
            "{:.1} MiB before, {:.1} MiB at most (+ {:.1} MiB), {:.1} % of a core",
            mib(before),
            mib(most),
            mib(self.growth()),
            self.load * 100.0
        )
    }
}

impl AttackCosts {
    pub(super) fn say(&self, notes: &mut Notes) {
        notes.say(&format!("control: {}", self.control.tell()));
        for (host, agent) in self.agents.iter().enumerate() {
            notes.say(&format!("agent of host{}: {}", host + 1, agent.tell()));
        }
    }

    pub(super) fn judge(&self) -> Result<()> {
        let growth = self.control.growth();
        ensure!(growth <= CONTROL_GROWTH, "control grew by {growth} KiB");
        for (host, agent) in self.agents.iter().enumerate() {
            let (growth, load) = (agent.growth(), agent.load);
            ensure!(growth <= AGENT_GROWTH, "the agent of host{} grew by {growth} KiB", host + 1);
            ensure!(load <= AGENT_LOAD, "the agent of host{} uses {load:.2} cores", host + 1);
        }

        Ok(())
    }
}
