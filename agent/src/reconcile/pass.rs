//! One round over a network: container sides first, then the namespace, which lets their packets in. A new namespace is
//! brought to its value before that too, so that no endpoint ever comes into one that pins no source.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use overlay_core::EndpointId;

use super::site::Site;
use super::{EndpointState, NetworkReport};
use crate::desired::NetworkDesired;
use crate::kernel::{KernelError, SandboxDesired, Tun};
use crate::problem::explain;

/// Container sides looked into at each resync, turn by turn: each costs a netlink socket inside.
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

/// How a round went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// Whether all is as desired.
    pub(crate) is_complete: bool,
    /// Whether anything had to be done for it.
    pub(crate) did_something: bool,
    /// How many resyncs it takes to look at all container sides.
    pub(crate) turns: usize,
}

/// What a worker remembers between rounds.
#[derive(Debug, Default)]
pub(crate) struct Rounds {
    /// The container sides that are in place, as they were made.
    attached: BTreeMap<EndpointId, SandboxDesired>,
    /// What the namespace was brought to, as far as that was possible: what differs from it later was changed by others.
    settled: Option<Arc<NetworkDesired>>,
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

    /// Runs one round; looks into the sandboxes in which something `changed` as well. Returns how it went, and new TUN
    /// queues if the old ones died.
    pub(crate) async fn run(
        &mut self,
        site: &mut impl Site,
        desired: &Arc<NetworkDesired>,
        cause: Cause,
        changed: &BTreeSet<EndpointId>,
    ) -> (Outcome, Option<Tun>) {
        self.attached.retain(|id, _| desired.sandboxes.contains_key(id));
        let is_settled = self.settled.as_ref().is_some_and(|settled| *settled == *desired);
        let mut round = Round { is_settled, ..Round::default() };
        if !self.prepared {
            round.reconcile(site, desired).await;
            self.prepared = round.trouble.is_none();
        }
        for id in self.due(desired, cause, changed) {
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

        self.conclude(desired, round)
    }

    /// Lists the container sides to look into.
    fn due(&mut self, desired: &NetworkDesired, cause: Cause, changed: &BTreeSet<EndpointId>) -> Vec<EndpointId> {
        let differ = desired.sandboxes.iter().filter(|(id, wanted)| self.attached.get(id) != Some(wanted));
        let mut due: BTreeSet<EndpointId> = differ.map(|(id, _)| *id).chain(changed.iter().copied()).collect();
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
        let was_in_place = self.attached.get(&id) == Some(wanted);
        let failure = match site.attach(id, wanted).await {
            Ok(report) => {
                // A new one takes changes of the namespace, too.
                round.is_settled &= was_in_place;
                round.done += report.steps.len();
                round.healed += if was_in_place { report.steps.len() } else { 0 };
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

    fn conclude(&mut self, desired: &Arc<NetworkDesired>, round: Round) -> (Outcome, Option<Tun>) {
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
        self.settled = usable.then(|| Arc::clone(desired));
        let outcome = Outcome {
            is_complete: usable && round.failed.is_empty() && round.missing.is_empty(),
            did_something: round.done > 0,
            turns: desired.sandboxes.len().div_ceil(SANDBOXES_A_RESYNC),
        };

        (outcome, round.tun)
    }
}

/// What one round has seen so far.
#[derive(Debug, Default)]
struct Round {
    failed: BTreeMap<EndpointId, EndpointState>,
    missing: BTreeSet<EndpointId>,
    /// Whether what differs in the namespace was changed by others.
    is_settled: bool,
    /// Steps taken.
    done: usize,
    /// Those of them that put right what others had changed.
    healed: usize,
    trouble: Option<String>,
    tun: Option<Tun>,
}

impl Round {
    async fn reconcile(&mut self, site: &mut impl Site, desired: &NetworkDesired) {
        match site.reconcile(&desired.namespace).await {
            Ok(report) => {
                self.done += report.steps.len();
                self.healed += if self.is_settled { report.steps.len() } else { 0 };
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
    use tokio::time::Instant;

    use super::*;
    use crate::kernel::namespace::Report;
    use crate::kernel::{Keeper, NamespaceDesired, Step, TunDesired, VethDesired};
    use crate::reconcile::pace::{Pace, SWEEP};

    /// A kernel that is two sets: the veth pairs that exist, and those that are routed.
    #[derive(Debug, Default)]
    struct Fake {
        veths: BTreeSet<EndpointId>,
        routed: BTreeSet<EndpointId>,
        gone: BTreeSet<EndpointId>,
        attaches: usize,
        reads: usize,
        writes: usize,
        prepared: bool,
    }

    impl Site for Fake {
        async fn reconcile(&mut self, desired: &NamespaceDesired) -> Result<Report, KernelError> {
            self.prepared = true;
            self.reads += 1;
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

    fn desired(ids: &[u64]) -> Arc<NetworkDesired> {
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
        Arc::new(NetworkDesired {
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
        })
    }

    async fn run(rounds: &mut Rounds, kernel: &mut Fake, desired: &Arc<NetworkDesired>, cause: Cause) -> Outcome {
        rounds.run(kernel, desired, cause, &BTreeSet::new()).await.0
    }

    /// Invariant 7.
    #[tokio::test]
    async fn the_same_desired_value_twice_writes_nothing() {
        let (mut kernel, mut rounds) = (Fake::default(), Rounds::default());
        run(&mut rounds, &mut kernel, &desired(&[1, 2]), Cause::Desired).await;
        let writes = kernel.writes;

        run(&mut rounds, &mut kernel, &desired(&[1, 2]), Cause::Desired).await;
        run(&mut rounds, &mut kernel, &desired(&[1, 2]), Cause::Resync).await;

        assert_eq!(kernel.writes, writes);
        assert_eq!(rounds.report().endpoints.get(&id(1)), Some(&EndpointState::Ready));
        assert_eq!(rounds.report().drift_healed, 0);
    }

    #[tokio::test]
    async fn a_veth_that_foreign_hands_removed_is_made_and_routed_in_one_round() {
        let (mut kernel, mut rounds) = (Fake::default(), Rounds::default());
        run(&mut rounds, &mut kernel, &desired(&[1]), Cause::Desired).await;
        kernel.veths.clear();
        kernel.routed.clear();

        run(&mut rounds, &mut kernel, &desired(&[1]), Cause::Event).await;

        assert!(kernel.routed.contains(&id(1)));
        assert!(rounds.report().drift_healed > 0);
    }

    #[tokio::test]
    async fn what_we_change_ourselves_is_not_healed() {
        let (mut kernel, mut rounds) = (Fake::default(), Rounds::default());
        for n in 1..=40 {
            // A container comes; its end takes the veth along before anybody says that it is not wanted any more.
            run(&mut rounds, &mut kernel, &desired(&[n]), Cause::Desired).await;
            run(&mut rounds, &mut kernel, &desired(&[n]), Cause::Event).await;
            kernel.veths.clear();
            kernel.routed.clear();
            kernel.gone.insert(id(n));
            run(&mut rounds, &mut kernel, &desired(&[n]), Cause::Event).await;
            // The news of the next one comes while events are gathered.
            run(&mut rounds, &mut kernel, &desired(&[n + 1]), Cause::Event).await;
        }
        assert_eq!(rounds.report().drift_healed, 0);

        kernel.routed.clear();
        run(&mut rounds, &mut kernel, &desired(&[41]), Cause::Event).await;

        assert_eq!(rounds.report().drift_healed, 1, "a route that others deleted");
    }

    #[tokio::test]
    async fn an_idle_network_is_looked_at_once_a_minute_and_never_written() {
        let (mut kernel, mut rounds) = (Fake::default(), Rounds::default());
        let start = Instant::now();
        let (mut now, mut pace) = (start, Pace::new(SWEEP, start));
        let outcome = run(&mut rounds, &mut kernel, &desired(&[1, 2]), Cause::Desired).await;
        pace.handle_round(Cause::Desired, outcome, 0.0, now);
        let writes = kernel.writes;
        kernel.reads = 0;
        while now < start + SWEEP * 60 {
            now = pace.poll_timeout();
            let outcome = run(&mut rounds, &mut kernel, &desired(&[1, 2]), Cause::Resync).await;
            pace.handle_round(Cause::Resync, outcome, 0.5, now);
        }

        assert!((58..=62).contains(&kernel.reads), "{} looks in an hour", kernel.reads);
        assert_eq!(kernel.writes, writes);
    }

    #[tokio::test]
    async fn a_change_in_a_sandbox_is_looked_into() {
        let (mut kernel, mut rounds) = (Fake::default(), Rounds::default());
        run(&mut rounds, &mut kernel, &desired(&[1, 2, 3]), Cause::Desired).await;
        kernel.attaches = 0;

        rounds.run(&mut kernel, &desired(&[1, 2, 3]), Cause::Event, &[id(2), id(9)].into()).await;

        assert_eq!(kernel.attaches, 1, "that one, and none that is not ours");
    }

    #[tokio::test]
    async fn one_lost_sandbox_does_not_hold_up_the_others() {
        let (mut kernel, mut rounds) = (Fake { gone: [id(1)].into(), ..Fake::default() }, Rounds::default());

        run(&mut rounds, &mut kernel, &desired(&[1, 2]), Cause::Desired).await;

        assert!(matches!(rounds.report().endpoints.get(&id(1)), Some(EndpointState::Gone(_))));
        assert_eq!(rounds.report().endpoints.get(&id(2)), Some(&EndpointState::Ready));
    }

    #[tokio::test]
    async fn an_endpoint_taken_away_leaves_report_and_kernel() {
        let (mut kernel, mut rounds) = (Fake::default(), Rounds::default());
        run(&mut rounds, &mut kernel, &desired(&[1, 2]), Cause::Desired).await;

        run(&mut rounds, &mut kernel, &desired(&[2]), Cause::Desired).await;

        assert_eq!(rounds.report().endpoints.keys().collect::<Vec<_>>(), [&id(2)]);
        assert_eq!(kernel.veths, [id(2)].into());
    }

    #[tokio::test]
    async fn resyncs_look_into_every_sandbox_in_turn() {
        let all: Vec<u64> = (1..=40).collect();
        let (mut kernel, mut rounds) = (Fake::default(), Rounds::default());
        run(&mut rounds, &mut kernel, &desired(&all), Cause::Desired).await;
        kernel.attaches = 0;

        run(&mut rounds, &mut kernel, &desired(&all), Cause::Resync).await;
        run(&mut rounds, &mut kernel, &desired(&all), Cause::Resync).await;

        assert_eq!(kernel.attaches, all.len());
    }
}
