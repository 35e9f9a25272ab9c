//! `overlay-lab check`: properties of Overlay, each tested on hosts of its own. The end-to-end
//! tests run the same checks, in fewer rounds.

mod churn;
mod control;
mod control_moves;
mod descriptors;
mod docker;
mod evict;
mod exhaustion;
mod firewall;
mod first_packet;
mod flood;
mod foreign;
mod forgery;
mod healthy;
mod hostile;
mod hostile_node;
mod idle;
mod isolation;
mod loss;
mod measure;
mod memory;
mod mtu;
mod nat;
mod notes;
mod offline;
mod policy;
mod restart;
mod restore;
mod roam;
mod speed;
mod traffic;
mod truth;
mod upgrade;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

pub use docker::FIRST_HOUR;
pub(crate) use measure::{
    MARKER, PATIENCE, PingSummary, kernel, kernel_at_rest, median, ms, percentile, sealed,
    throughput, unreadable,
};
pub(crate) use notes::Notes;

use crate::docker::Release;

/// A property and how it is tested.
#[derive(Clone, Copy)]
pub struct Check {
    /// Its name.
    pub name: &'static str,
    /// What is true if it passes.
    pub what: &'static str,
    /// How many rounds it takes to be sure.
    pub rounds: u32,
    run: fn(u32, &mut Notes) -> Result<()>,
}

/// All checks.
pub const CHECKS: &[Check] = &[
    Check { name: "offline", what: "the data path needs no control", rounds: 1, run: offline::run },
    Check {
        name: "restart",
        what: "agents may be killed at any moment",
        rounds: 100,
        run: restart::run,
    },
    Check {
        name: "upgrade",
        what: "agents are replaced without a lost packet",
        rounds: 20,
        run: upgrade::run,
    },
    Check {
        name: "control",
        what: "what control acknowledged survives kill -9",
        rounds: 20,
        run: control::run,
    },
    Check {
        name: "restore",
        what: "control is restored, and nothing is given twice; rounds are hosts",
        rounds: 20,
        run: restore::run,
    },
    Check {
        name: "exhaustion",
        what: "no process dies when a host runs out of a resource",
        rounds: 5,
        run: exhaustion::run,
    },
    Check {
        name: "control-moves",
        what: "control is found wherever it goes",
        rounds: 20,
        run: control_moves::run,
    },
    Check {
        name: "foreign",
        what: "what somebody deletes is restored",
        rounds: 3,
        run: foreign::run,
    },
    Check {
        name: "firewall",
        what: "the host's firewall makes no difference",
        rounds: 1,
        run: firewall::run,
    },
    Check {
        name: "isolation",
        what: "networks are isolated, even with the same prefix",
        rounds: 1,
        run: isolation::run,
    },
    Check {
        name: "evict",
        what: "a removed node is refused without control, too",
        rounds: 3,
        run: evict::run,
    },
    Check {
        name: "forgery",
        what: "nobody can send from another's address",
        rounds: 4,
        run: forgery::run,
    },
    Check {
        name: "hostile",
        what: "root in a container harms no other; rounds are packets of each attack, and from 100 \
               on every port of the gateway is tried",
        rounds: 100,
        run: hostile::run,
    },
    Check {
        name: "hostile-node",
        what: "one hostile node slows nobody down; rounds are 10 s of attack",
        rounds: 60,
        run: hostile_node::run,
    },
    Check {
        name: "first-packet",
        what: "no container sends anything before its policy; rounds are starts",
        rounds: 10_000,
        run: first_packet::run,
    },
    Check {
        name: "policy",
        what: "a policy changes everywhere within a second; rounds are endpoints",
        rounds: 100,
        run: policy::run,
    },
    Check {
        name: "flood",
        what: "a flood of handshakes does not stop honest ones",
        rounds: 100,
        run: flood::run,
    },
    Check {
        name: "memory",
        what: "a thousand peers cost next to nothing",
        rounds: 50,
        run: memory::run,
    },
    Check { name: "idle", what: "idle networks cost next to nothing", rounds: 200, run: idle::run },
    Check {
        name: "loss",
        what: "loss on the underlay harms nothing else",
        rounds: 3,
        run: loss::run,
    },
    Check {
        name: "mtu",
        what: "no path is too narrow, whatever routers say",
        rounds: 4,
        run: mtu::run,
    },
    Check {
        name: "truth",
        what: "status names what is broken, and only that",
        rounds: 5,
        run: truth::run,
    },
    Check {
        name: "healthy",
        what: "a normal day causes no problem reports; rounds are minutes",
        rounds: 13,
        run: healthy::run,
    },
    Check {
        name: "nat",
        what: "hosts behind NAT are reached, or say why not",
        rounds: 1,
        run: nat::run,
    },
    Check {
        name: "roam",
        what: "a host's address may change under load",
        rounds: 20,
        run: roam::run,
    },
    Check {
        name: "speed",
        what: "throughput compared with other userspace WireGuards",
        rounds: 5,
        run: speed::run,
    },
    Check { name: "docker", what: "Docker networks span hosts", rounds: 100, run: docker::span },
    Check {
        name: "docker-networks",
        what: "many networks, none sees packets of another",
        rounds: 4,
        run: docker::networks,
    },
    Check {
        name: "docker-settings",
        what: "networks are alike on all hosts",
        rounds: 1,
        run: docker::settings,
    },
    Check {
        name: "docker-prefixes",
        what: "bridges of other hosts are no obstacle",
        rounds: 50,
        run: docker::prefixes,
    },
    Check {
        name: "docker-names",
        what: "containers are found by all their names",
        rounds: 1,
        run: docker::names,
    },
    Check {
        name: "docker-boot",
        what: "Docker boots whatever the agent does",
        rounds: 5,
        run: docker::boot,
    },
    Check {
        name: "docker-kills",
        what: "engines and agents may be killed",
        rounds: 100,
        run: docker::kills,
    },
    Check {
        name: "docker-upgrade",
        what: "Docker works on while agents are replaced",
        rounds: 10,
        run: docker::upgrade,
    },
    Check {
        name: "docker-churn",
        what: "Docker's containers leave nothing",
        rounds: 1000,
        run: docker::churn,
    },
    Check {
        name: "docker-removal",
        what: "no running container loses its network",
        rounds: 50,
        run: docker::removal,
    },
    Check {
        name: "docker-lost",
        what: "containers get back what they lost",
        rounds: 20,
        run: docker::lost,
    },
    Check {
        name: "docker-slow",
        what: "however long Docker takes, nothing is lost",
        rounds: 5,
        run: docker::slow,
    },
    Check {
        name: "docker-firewall",
        what: "firewalls make no difference to Docker",
        rounds: 3,
        run: docker::firewall,
    },
    Check {
        name: "docker-way-out",
        what: "ports, ways out and large transfers",
        rounds: 1,
        run: docker::way_out,
    },
    Check {
        name: "docker-hostile",
        what: "root in a Docker container harms no other; rounds as those of hostile",
        rounds: 100,
        run: docker::hostile,
    },
    Check {
        name: "docker-speed",
        what: "throughput with Docker and without",
        rounds: 7,
        run: docker::speed,
    },
    Check {
        name: "docker-protocol",
        what: "the plugin survives whatever comes",
        rounds: 200,
        run: docker::protocol,
    },
    Check { name: "churn", what: "coming and going leaves nothing", rounds: 1000, run: churn::run },
];

/// The checks that consist of stages, each of which can be run by itself.
const STAGED: [(&str, &[&str]); 1] = [("docker-slow", &docker::SLOW_STAGES)];

impl Check {
    /// Finds a check by name.
    #[must_use]
    pub fn find(name: &str) -> Option<Self> {
        CHECKS.iter().find(|check| check.name == name).copied()
    }

    /// Returns the stages of the check; none if it is only run as a whole.
    #[must_use]
    pub fn stages(&self) -> &'static [&'static str] {
        STAGED
            .iter()
            .find(|(name, _)| *name == self.name)
            .map(|(_, stages)| *stages)
            .unwrap_or_default()
    }

    /// Runs the check and prints its figures on standard output.
    ///
    /// # Errors
    ///
    /// If the property does not hold, or the hosts cannot be made.
    pub fn run(&self, rounds: Option<u32>) -> Result<Duration> {
        self.run_with(rounds, &[], &[])
    }

    /// Runs the check as [`Check::run`] does, with these Docker engines on its hosts in turn; of a
    /// check with stages, only those that are named, if any are.
    ///
    /// # Errors
    ///
    /// As [`Check::run`], and if the check has no such stage.
    pub fn run_with(
        &self,
        rounds: Option<u32>,
        engines: &[Release],
        stages: &[String],
    ) -> Result<Duration> {
        let start = Instant::now();
        if let Some(unknown) = stages.iter().find(|stage| !self.stages().contains(&stage.as_str()))
        {
            let known = self.stages();
            ensure!(!known.is_empty(), "{} is not made of stages; leave --stage out", self.name);
            anyhow::bail!("{} has no stage {unknown}; it has {}", self.name, known.join(", "));
        }
        let mut notes = Notes::aloud(engines, stages);
        (self.run)(rounds.unwrap_or(self.rounds), &mut notes).with_context(|| self.name)?;

        Ok(start.elapsed())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stage_that_a_check_does_not_have_is_refused_with_those_that_it_has() {
        let refused = |name: &str| {
            let check = Check::find(name).expect("a check of this name");
            check.run_with(None, &[], &["7s".to_owned()]).expect_err("no such stage").to_string()
        };

        assert_eq!(
            refused("docker-slow"),
            "docker-slow has no stage 7s; it has held, 5s, 60s, 300s, load"
        );
        assert!(refused("offline").contains("not made of stages"));
    }
}
