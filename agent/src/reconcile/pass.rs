//! One round over a network: container sides first, then the namespace, which lets their packets in. A new namespace is
//! brought to its value before that too, so that no endpoint ever comes into one that pins no source.

use std::collections::{BTreeMap, BTreeSet};

use overlay_core::EndpointId;

use super::site::Site;
use super::{EndpointState, NetworkReport};
use crate::desired::NetworkDesired;
use crate::kernel::{KernelError, SandboxDesired, Tun};
use crate::problem::explain;

/// Container sides looked into at each resync, turn by turn: each costs a thread and a netlink socket inside.
const SANDBOXES_A_RESYNC: usize = 32;

/// Why a round is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cause {
    /// Something else is desired than before.
    Desired,
    /// The kernel said that something changed.
    Event,
    /// It was time.
    Resync,
}

/// What a worker remembers between rounds.
#[derive(Debug, Default)]
pub(crate) struct Rounds {
    /// The container sides that are in place, as they were made.
    attached: BTreeMap<EndpointId, SandboxDesired>,
    /// Where the last resync of container sides stopped.
    looked_at: Option<EndpointId>,
    /// Whether the namespace has been brought to a wanted value once: no endpoint comes into one that has not.
    prepared: bool,
    report: NetworkReport,
}

impl Rounds {
    /// Returns how the network is doing since the last round.
    pub(crate) fn report(&self) -> &NetworkReport {
        &self.report
    }

    /// Runs one round; returns new TUN queues, if the old ones died.
    pub(crate) async fn run(&mut self, site: &mut impl Site, desired: &NetworkDesired, cause: Cause) -> Option<Tun> {
        self.attached.retain(|id, _| desired.sandboxes.contains_key(id));
        let mut round = Round::default();
        if !self.prepared {
            round.reconcile(site, desired).await;
            self.prepared = round.trouble.is_none();
        }
        for id in self.due(desired, cause) {
            self.attach(site, id, desired, &mut round).await;
        }
        round.reconcile(site, desired).await;
        // Veth pairs that had gone are made again, and then need their routes.
        let missing = std::mem::take(&mut round.missing);
        if !missing.is_empty() {
            for id in missing {
                self.attach(site, id, desired, &mut round).await;
            }
            round.reconcile(site, desired).await;
        }
        if cause == Cause::Desired {
            round.healed = 0;
        }

        self.conclude(desired, round)
    }

    /// Lists the container sides to look into.
    fn due(&mut self, desired: &NetworkDesired, cause: Cause) -> Vec<EndpointId> {
        let changed = desired.sandboxes.iter().filter(|(id, wanted)| self.attached.get(id) != Some(wanted));
        let mut due: BTreeSet<EndpointId> = changed.map(|(id, _)| *id).collect();
        if cause == Cause::Resync {
            let after = desired.sandboxes.keys().filter(|id| self.looked_at.is_none_or(|last| **id > last));
            let turn: Vec<_> = after.take(SANDBOXES_A_RESYNC).copied().collect();
            self.looked_at = turn.last().filter(|_| turn.len() == SANDBOXES_A_RESYNC).copied();
            due.extend(turn);
        }

        due.into_iter().collect()
    }

    /// Makes or heals one container side.
    async fn attach(&mut self, site: &mut impl Site, id: EndpointId, desired: &NetworkDesired, round: &mut Round) {
        let Some(wanted) = desired.sandboxes.get(&id) else { return };
        let failure = match site.attach(id, wanted).await {
            Ok(report) => {
                round.healed += report.steps.len();
                report.errors.first().map(refused)
            }
            Err(error) => Some(refused(&error)),
        };
        match failure {
            None => drop(self.attached.insert(id, wanted.clone())),
            Some(state) => {
                self.attached.remove(&id);
                round.failed.insert(id, state);
            }
        }
    }

    fn conclude(&mut self, desired: &NetworkDesired, round: Round) -> Option<Tun> {
        let usable = round.trouble.is_none();
        let state = |id: &EndpointId| match round.failed.get(id) {
            Some(state) => Some(state.clone()),
            None if usable && self.attached.contains_key(id) => Some(EndpointState::Ready),
            None => None,
        };
        self.report = NetworkReport {
            endpoints: desired.sandboxes.keys().filter_map(|id| Some((*id, state(id)?))).collect(),
            drift_healed: self.report.drift_healed.saturating_add(u32::try_from(round.healed).unwrap_or(u32::MAX)),
            trouble: round.trouble,
            offload: self.report.offload,
        };

        round.tun
    }
}

/// What one round has seen so far.
#[derive(Debug, Default)]
struct Round {
    failed: BTreeMap<EndpointId, EndpointState>,
    missing: BTreeSet<EndpointId>,
    healed: usize,
    trouble: Option<String>,
    tun: Option<Tun>,
}

impl Round {
    async fn reconcile(&mut self, site: &mut impl Site, desired: &NetworkDesired) {
        match site.reconcile(&desired.namespace).await {
            Ok(report) => {
                self.healed += report.steps.len();
                self.tun = report.tun.or(self.tun.take());
                self.trouble = report.errors.first().map(|error| explain(error));
                self.missing = report.missing.into_iter().filter(|id| !self.failed.contains_key(id)).collect();
            }
            Err(error) => self.trouble = Some(explain(&error)),
        }
    }
}

fn refused(error: &KernelError) -> EndpointState {
    let text = explain(error);

    if matches!(error, KernelError::SandboxGone { .. }) {
        EndpointState::Gone(text)
    } else {
        EndpointState::Failed(text)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use overlay_core::NetworkId;

    use super::*;
    use crate::kernel::namespace::Report;
    use crate::kernel::{Keeper, NamespaceDesired, Step, TunDesired, VethDesired};

    /// A kernel that is two sets: the veth pairs that exist, and those that are routed.
    #[derive(Debug, Default)]
    struct Fake {
        veths: BTreeSet<EndpointId>,
        routed: BTreeSet<EndpointId>,
        gone: BTreeSet<EndpointId>,
        attaches: usize,
        writes: usize,
        prepared: bool,
    }

    impl Site for Fake {
        async fn reconcile(&mut self, desired: &NamespaceDesired) -> Result<Report, KernelError> {
            self.prepared = true;
            let wanted: BTreeSet<_> = desired.endpoints.keys().copied().collect();
            let mut report = Report { missing: wanted.difference(&self.veths).copied().collect(), ..Report::default() };
            let routed: BTreeSet<_> = wanted.intersection(&self.veths).copied().collect();
            for id in routed.symmetric_difference(&self.routed) {
                report.steps.push(Step::RemoveLink(id.to_string()));
            }
            self.writes += report.steps.len();
            self.routed = routed;
            self.veths.retain(|id| wanted.contains(id));

            Ok(report)
        }

        async fn attach(&mut self, endpoint: EndpointId, desired: &SandboxDesired) -> Result<Report, KernelError> {
            assert!(self.prepared, "no endpoint comes into a namespace that pins no source");
            self.attaches += 1;
            if self.gone.contains(&endpoint) {
                return Err(KernelError::SandboxGone { path: desired.netns.clone() });
            }
            let steps =
                if self.veths.insert(endpoint) { vec![Step::MakeVeth(endpoint.to_string())] } else { Vec::new() };
            self.writes += steps.len();

            Ok(Report { steps, ..Report::default() })
        }
    }

    fn id(n: u64) -> EndpointId {
        EndpointId::from_random(n)
    }

    fn desired(ids: &[u64]) -> NetworkDesired {
        let sandbox = SandboxDesired {
            netns: "/run/netns/x".into(),
            identity: None,
            ifname: "eth0".into(),
            addresses: Vec::new(),
            gateway: Some(Ipv4Addr::new(10, 0, 0, 1)),
            prefixes: Vec::new(),
            mtu: 1408,
            keeper: Keeper::Agent,
            mac: None,
        };
        let veth = VethDesired { addresses: Vec::new(), mtu: 1408, gateway6: None };
        NetworkDesired {
            namespace: NamespaceDesired {
                network: NetworkId::FIRST,
                tun: TunDesired { mtu: 1408, queues: 1 },
                gateways: BTreeSet::new(),
                node: BTreeSet::new(),
                endpoints: ids.iter().map(|&n| (id(n), veth.clone())).collect(),
                remote: BTreeSet::new(),
                unreachable: BTreeSet::new(),
            },
            sandboxes: ids.iter().map(|&n| (id(n), sandbox.clone())).collect(),
            host: BTreeSet::new(),
        }
    }

    #[tokio::test]
    async fn the_same_desired_value_twice_writes_nothing() {
        let (mut kernel, mut rounds) = (Fake::default(), Rounds::default());
        rounds.run(&mut kernel, &desired(&[1, 2]), Cause::Desired).await;
        let writes = kernel.writes;

        rounds.run(&mut kernel, &desired(&[1, 2]), Cause::Desired).await;
        rounds.run(&mut kernel, &desired(&[1, 2]), Cause::Resync).await;

        assert_eq!(kernel.writes, writes);
        assert_eq!(rounds.report().endpoints.get(&id(1)), Some(&EndpointState::Ready));
        assert_eq!(rounds.report().drift_healed, 0);
    }

    #[tokio::test]
    async fn a_veth_that_foreign_hands_removed_is_made_and_routed_in_one_round() {
        let (mut kernel, mut rounds) = (Fake::default(), Rounds::default());
        rounds.run(&mut kernel, &desired(&[1]), Cause::Desired).await;
        kernel.veths.clear();
        kernel.routed.clear();

        rounds.run(&mut kernel, &desired(&[1]), Cause::Event).await;

        assert!(kernel.routed.contains(&id(1)));
        assert!(rounds.report().drift_healed > 0);
    }

    #[tokio::test]
    async fn one_lost_sandbox_does_not_hold_up_the_others() {
        let (mut kernel, mut rounds) = (Fake { gone: [id(1)].into(), ..Fake::default() }, Rounds::default());

        rounds.run(&mut kernel, &desired(&[1, 2]), Cause::Desired).await;

        assert!(matches!(rounds.report().endpoints.get(&id(1)), Some(EndpointState::Gone(_))));
        assert_eq!(rounds.report().endpoints.get(&id(2)), Some(&EndpointState::Ready));
    }

    #[tokio::test]
    async fn an_endpoint_taken_away_leaves_report_and_kernel() {
        let (mut kernel, mut rounds) = (Fake::default(), Rounds::default());
        rounds.run(&mut kernel, &desired(&[1, 2]), Cause::Desired).await;

        rounds.run(&mut kernel, &desired(&[2]), Cause::Desired).await;

        assert_eq!(rounds.report().endpoints.keys().collect::<Vec<_>>(), [&id(2)]);
        assert_eq!(kernel.veths, [id(2)].into());
    }

    #[tokio::test]
    async fn resyncs_look_into_every_sandbox_in_turn() {
        let all: Vec<u64> = (1..=40).collect();
        let (mut kernel, mut rounds) = (Fake::default(), Rounds::default());
        rounds.run(&mut kernel, &desired(&all), Cause::Desired).await;
        kernel.attaches = 0;

        rounds.run(&mut kernel, &desired(&all), Cause::Resync).await;
        rounds.run(&mut kernel, &desired(&all), Cause::Resync).await;

        assert_eq!(kernel.attaches, all.len());
    }
}
