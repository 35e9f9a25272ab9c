use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;
use overlay_core::NetworkId;
use overlay_core::policy::{Filter, FilterMode, Policy, PolicyEndpoint};
use tokio::time::Instant;

use super::*;
use crate::kernel::ReconcileReport;
use crate::kernel::nft::{NftError, NotEnforcedCause};
use crate::kernel::{
    InterfaceDesired, InterfaceOwner, NamespaceDesired, Step, Strays, TunDesired, VethDesired,
};
use crate::reconcile::pace::{Pace, SWEEP};

#[path = "pass_filter_tests.rs"]
mod filter;

/// A kernel that is two sets: the veth pairs that exist, and those that are routed.
#[derive(Debug, Default)]
struct Fake {
    veths: BTreeSet<EndpointId>,
    routed: BTreeSet<EndpointId>,
    gone: BTreeSet<EndpointId>,
    /// Those whose pair is removed as soon as it is made.
    lost: BTreeSet<EndpointId>,
    refuses: bool,
    refuses_routes: bool,
    attaches: usize,
    reads: usize,
    writes: usize,
    prepared: bool,
    /// Whether packets are forwarded.
    forwards: bool,
    /// The policy in force.
    policy: FilterDesired,
    refuses_policy: bool,
    /// How often the policy was put in force or looked at.
    enforcements: usize,
    /// Whether somebody else changed the policy's table.
    is_tampered: bool,
    /// What containers are kept to.
    guard: Arc<Guard>,
    refuses_guard: bool,
    /// Whether it cannot be changed for the moment.
    has_busy_guard: bool,
    /// Whether somebody else changed that.
    is_unguarded: bool,
}

impl NamespaceOps for Fake {
    async fn reconcile(
        &mut self,
        desired: &NamespaceDesired,
    ) -> Result<ReconcileReport, KernelError> {
        if self.refuses {
            return Err(KernelError::NotANamespace { path: "ovn-1".into() });
        }
        self.prepared = true;
        self.forwards = desired.forwards;
        self.reads += 1;
        let wanted: BTreeSet<_> = desired.endpoints.keys().copied().collect();
        let mut report = ReconcileReport {
            missing: wanted.difference(&self.veths).copied().collect(),
            ..ReconcileReport::default()
        };
        let routed: BTreeSet<_> = wanted.intersection(&self.veths).copied().collect();
        for id in routed.symmetric_difference(&self.routed) {
            report.steps.push(Step::RemoveLink(id.to_string()));
        }
        self.writes += report.steps.len();
        self.routed = routed;
        self.veths.retain(|id| wanted.contains(id));

        Ok(report)
    }

    async fn reroute(
        &mut self,
        held: &NamespaceDesired,
        desired: &NamespaceDesired,
    ) -> Option<Vec<Step>> {
        let steps = desired.route_steps(held).filter(|_| !self.refuses_routes)?;
        self.writes += steps.len();

        Some(steps)
    }

    async fn guard(&mut self, desired: Arc<Guard>) -> Guarded {
        let busy = || NftError::Run(std::io::ErrorKind::OutOfMemory.into());
        let failure = self.refuses_guard.then_some(NftError::NoProgram);
        let failure = failure.or_else(|| self.has_busy_guard.then(busy));
        let did_something = failure.is_none() && *desired != *self.guard;
        if did_something {
            self.guard = desired;
        }

        Guarded { did_something, failure, healed: std::mem::take(&mut self.is_unguarded) }
    }

    async fn enforce(&mut self, desired: &FilterDesired) -> Enforced {
        self.enforcements += 1;
        if self.refuses_policy {
            let failure = NotEnforced {
                cause: NotEnforcedCause::Table(NftError::NoProgram),
                has_earlier: self.policy != FilterDesired::Open,
            };
            return Enforced { failure: Some(failure), ..Enforced::default() };
        }
        let healed = std::mem::take(&mut self.is_tampered);
        let did_something = healed || self.policy != *desired;
        self.policy = desired.clone();

        Enforced { did_something, healed, failure: None }
    }

    async fn detach(&mut self, endpoint: EndpointId) -> Result<(), KernelError> {
        self.veths.remove(&endpoint);

        Ok(())
    }

    async fn attach(
        &mut self,
        endpoint: EndpointId,
        desired: &SandboxDesired,
    ) -> Result<ReconcileReport, KernelError> {
        let is_known = *self.guard == Guard::default() || self.guard.knows(endpoint);
        assert!(is_known, "the guard is there first");
        if let FilterDesired::Filter(filter) = &self.policy {
            assert!(filter.known.contains(&address(endpoint)), "the policy is there first");
        }
        assert!(
            self.prepared || self.refuses,
            "no endpoint comes into a namespace that pins no source"
        );
        self.attaches += 1;
        if self.gone.contains(&endpoint) {
            return Err(KernelError::SandboxGone { path: desired.netns.clone() });
        }
        let steps = if self.veths.insert(endpoint) {
            vec![Step::MakeVeth(endpoint.to_string())]
        } else {
            Vec::new()
        };
        self.writes += steps.len();
        self.veths.retain(|id| !self.lost.contains(id));

        Ok(ReconcileReport { steps, ..ReconcileReport::default() })
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
        linked: Vec::new(),
        mtu: 1408,
        owner: InterfaceOwner::Agent,
        mac: None,
    };
    let veth = VethDesired { addresses: Vec::new(), mtu: 1408, gateway6: None };
    Arc::new(NetworkDesired {
        namespace: NamespaceDesired {
            network: NetworkId::FIRST,
            interface: InterfaceDesired::Tun(TunDesired { mtu: 1408, queues: 1 }),
            gateways: BTreeSet::new(),
            node: BTreeSet::new(),
            endpoints: ids.iter().map(|&n| (id(n), veth.clone())).collect(),
            joins: BTreeMap::new(),
            linked: BTreeSet::new(),
            strays: Strays::default(),
            forwards: true,
            remote: BTreeSet::new(),
            unreachable: BTreeSet::new(),
        },
        sandboxes: ids.iter().map(|&n| (id(n), sandbox.clone())).collect(),
        host: BTreeSet::new(),
        filter: FilterDesired::Open,
    })
}

async fn run(
    reconciler: &mut Reconciler,
    kernel: &mut Fake,
    desired: &Arc<NetworkDesired>,
    cause: Cause,
) -> PassOutcome {
    reconciler.run(kernel, desired, cause, &BTreeSet::new()).await.0
}

/// One endpoint here, and these beyond the TUN.
fn routed(remote: &[u8]) -> Arc<NetworkDesired> {
    let mut desired = Arc::unwrap_or_clone(desired(&[1]));
    let prefix = |n: &u8| IpNet::from(IpAddr::from([10, 0, 0, *n]));
    desired.namespace.remote = remote.iter().map(prefix).collect();

    Arc::new(desired)
}

/// Returns the address of an endpoint, as policies see it.
fn address(endpoint: EndpointId) -> IpAddr {
    let known = (1..=u8::MAX).find(|n| id(u64::from(*n)) == endpoint);

    IpAddr::from([10, 0, 0, known.expect("one of few endpoints")])
}

#[tokio::test]
async fn other_routes_are_written_and_nothing_is_read_back() {
    let (mut kernel, mut reconciler) = (Fake::default(), Reconciler::default());
    run(&mut reconciler, &mut kernel, &routed(&[2, 3]), Cause::Desired).await;
    (kernel.reads, kernel.writes, kernel.attaches) = (0, 0, 0);

    for (remote, writes) in [(&[2][..], 1), (&[2, 4, 5], 3), (&[2, 4, 5], 3)] {
        let outcome = run(&mut reconciler, &mut kernel, &routed(remote), Cause::Desired).await;

        assert!(outcome.is_complete && !outcome.is_whole, "{outcome:?}");
        assert_eq!((kernel.reads, kernel.writes, kernel.attaches), (0, writes, 0));
    }
    assert_eq!(reconciler.report().endpoints, [(id(1), EndpointState::Ready)].into());
    assert_eq!(reconciler.report().drift_healed, 0);
}

#[tokio::test]
async fn whatever_casts_doubt_on_the_namespace_has_it_read_back() {
    let network = BTreeSet::from([ChangeScope::Network]);
    let sandbox = BTreeSet::from([ChangeScope::Sandbox(id(1))]);
    let none = BTreeSet::new();
    for (cause, changed) in [
        (Cause::Desired, &network),
        (Cause::Desired, &sandbox),
        (Cause::Event, &none),
        (Cause::Resync, &none),
    ] {
        let (mut kernel, mut reconciler) = (Fake::default(), Reconciler::default());
        run(&mut reconciler, &mut kernel, &routed(&[2]), Cause::Desired).await;

        let (outcome, _) = reconciler.run(&mut kernel, &routed(&[3]), cause, changed).await;

        assert!(outcome.is_whole, "{cause:?} {changed:?}");
        assert_eq!(kernel.reads, 3, "{cause:?} {changed:?}");
    }
}

#[tokio::test]
async fn a_route_that_is_refused_has_the_namespace_read_back() {
    let (mut kernel, mut reconciler) = (Fake::default(), Reconciler::default());
    run(&mut reconciler, &mut kernel, &routed(&[2]), Cause::Desired).await;
    kernel.refuses_routes = true;

    let outcome = run(&mut reconciler, &mut kernel, &routed(&[3]), Cause::Desired).await;

    assert!(outcome.is_complete && outcome.is_whole, "{outcome:?}");
}

#[tokio::test]
async fn a_namespace_that_lost_a_pair_meanwhile_is_read_back() {
    let (mut kernel, mut reconciler) =
        (Fake { lost: [id(1)].into(), ..Fake::default() }, Reconciler::default());
    let outcome = run(&mut reconciler, &mut kernel, &routed(&[2]), Cause::Desired).await;
    assert!(!outcome.is_complete, "{outcome:?}");
    kernel.lost.clear();

    let outcome = run(&mut reconciler, &mut kernel, &routed(&[3]), Cause::Desired).await;

    assert!(outcome.is_complete && outcome.is_whole, "{outcome:?}");
    assert!(kernel.routed.contains(&id(1)));
}

#[tokio::test]
async fn a_namespace_that_was_left_half_done_is_read_back() {
    let (mut kernel, mut reconciler) =
        (Fake { gone: [id(1)].into(), ..Fake::default() }, Reconciler::default());
    run(&mut reconciler, &mut kernel, &routed(&[2]), Cause::Desired).await;
    kernel.gone.clear();
    let outcome = run(&mut reconciler, &mut kernel, &routed(&[3]), Cause::Desired).await;
    assert!(outcome.is_complete && outcome.is_whole, "{outcome:?}");
    kernel.refuses = true;
    run(&mut reconciler, &mut kernel, &routed(&[4]), Cause::Event).await;
    kernel.refuses = false;

    let outcome = run(&mut reconciler, &mut kernel, &routed(&[5]), Cause::Desired).await;

    assert!(outcome.is_complete && outcome.is_whole, "{outcome:?}");
}

/// Invariant 7.
#[tokio::test]
async fn the_same_desired_value_twice_writes_nothing() {
    let (mut kernel, mut reconciler) = (Fake::default(), Reconciler::default());
    run(&mut reconciler, &mut kernel, &desired(&[1, 2]), Cause::Desired).await;
    let writes = kernel.writes;

    run(&mut reconciler, &mut kernel, &desired(&[1, 2]), Cause::Desired).await;
    run(&mut reconciler, &mut kernel, &desired(&[1, 2]), Cause::Resync).await;

    assert_eq!(kernel.writes, writes);
    assert_eq!(reconciler.report().endpoints.get(&id(1)), Some(&EndpointState::Ready));
    assert_eq!(reconciler.report().drift_healed, 0);
}

#[tokio::test]
async fn a_veth_that_foreign_hands_removed_is_made_and_routed_in_one_round() {
    let (mut kernel, mut reconciler) = (Fake::default(), Reconciler::default());
    run(&mut reconciler, &mut kernel, &desired(&[1]), Cause::Desired).await;
    kernel.veths.clear();
    kernel.routed.clear();

    run(&mut reconciler, &mut kernel, &desired(&[1]), Cause::Event).await;

    assert!(kernel.routed.contains(&id(1)));
    assert!(reconciler.report().drift_healed > 0);
}

#[tokio::test]
async fn what_we_change_ourselves_is_not_healed() {
    let (mut kernel, mut reconciler) = (Fake::default(), Reconciler::default());
    for n in 1..=40 {
        // A container comes; its end takes the veth along before anybody says that it is not
        // wanted any more.
        run(&mut reconciler, &mut kernel, &desired(&[n]), Cause::Desired).await;
        run(&mut reconciler, &mut kernel, &desired(&[n]), Cause::Event).await;
        kernel.veths.clear();
        kernel.routed.clear();
        kernel.gone.insert(id(n));
        run(&mut reconciler, &mut kernel, &desired(&[n]), Cause::Event).await;
        // The news of the next one comes while events are gathered.
        run(&mut reconciler, &mut kernel, &desired(&[n + 1]), Cause::Event).await;
    }
    assert_eq!(reconciler.report().drift_healed, 0);

    kernel.routed.clear();
    run(&mut reconciler, &mut kernel, &desired(&[41]), Cause::Event).await;

    assert_eq!(reconciler.report().drift_healed, 1, "a route that others deleted");
}

#[tokio::test]
async fn an_idle_network_is_looked_at_once_a_minute_and_never_written() {
    let (mut kernel, mut reconciler) = (Fake::default(), Reconciler::default());
    let start = Instant::now();
    let (mut now, mut pace) = (start, Pace::new(SWEEP, start));
    let outcome = run(&mut reconciler, &mut kernel, &desired(&[1, 2]), Cause::Desired).await;
    pace.handle_pass(Cause::Desired, outcome, 0.0, now);
    let writes = kernel.writes;
    kernel.reads = 0;
    while now < start + SWEEP * 60 {
        now = pace.poll_timeout();
        let outcome = run(&mut reconciler, &mut kernel, &desired(&[1, 2]), Cause::Resync).await;
        pace.handle_pass(Cause::Resync, outcome, 0.5, now);
    }

    assert!((58..=62).contains(&kernel.reads), "{} looks in an hour", kernel.reads);
    assert_eq!(kernel.writes, writes);
}

#[tokio::test]
async fn a_change_in_a_sandbox_is_looked_into() {
    let (mut kernel, mut reconciler) = (Fake::default(), Reconciler::default());
    run(&mut reconciler, &mut kernel, &desired(&[1, 2, 3]), Cause::Desired).await;
    kernel.attaches = 0;

    reconciler
        .run(
            &mut kernel,
            &desired(&[1, 2, 3]),
            Cause::Event,
            &[ChangeScope::Sandbox(id(2)), ChangeScope::Sandbox(id(9))].into(),
        )
        .await;

    assert_eq!(kernel.attaches, 1, "that one, and none that is not ours");
}

#[tokio::test]
async fn one_lost_sandbox_does_not_hold_up_the_others() {
    let (mut kernel, mut reconciler) =
        (Fake { gone: [id(1)].into(), ..Fake::default() }, Reconciler::default());

    run(&mut reconciler, &mut kernel, &desired(&[1, 2]), Cause::Desired).await;

    assert!(matches!(reconciler.report().endpoints.get(&id(1)), Some(EndpointState::Gone(_))));
    assert_eq!(reconciler.report().endpoints.get(&id(2)), Some(&EndpointState::Ready));
}

#[tokio::test]
async fn what_a_refusing_namespace_holds_up_is_told_from_what_was_not_tried_yet() {
    let (mut kernel, mut reconciler) =
        (Fake { refuses: true, ..Fake::default() }, Reconciler::default());
    run(&mut reconciler, &mut kernel, &desired(&[1]), Cause::Desired).await;
    assert_eq!(reconciler.report().endpoints, [(id(1), EndpointState::HeldUp)].into());

    kernel.refuses = false;
    run(&mut reconciler, &mut kernel, &desired(&[1]), Cause::Resync).await;

    assert_eq!(reconciler.report().endpoints, [(id(1), EndpointState::Ready)].into());
}

#[tokio::test]
async fn an_endpoint_taken_away_leaves_report_and_kernel() {
    let (mut kernel, mut reconciler) = (Fake::default(), Reconciler::default());
    run(&mut reconciler, &mut kernel, &desired(&[1, 2]), Cause::Desired).await;

    run(&mut reconciler, &mut kernel, &desired(&[2]), Cause::Desired).await;

    assert_eq!(reconciler.report().endpoints.keys().collect::<Vec<_>>(), [&id(2)]);
    assert_eq!(kernel.veths, [id(2)].into());
}

#[tokio::test]
async fn resyncs_look_into_every_sandbox_in_turn() {
    let all: Vec<u64> = (1..=40).collect();
    let (mut kernel, mut reconciler) = (Fake::default(), Reconciler::default());
    run(&mut reconciler, &mut kernel, &desired(&all), Cause::Desired).await;
    kernel.attaches = 0;

    run(&mut reconciler, &mut kernel, &desired(&all), Cause::Resync).await;
    run(&mut reconciler, &mut kernel, &desired(&all), Cause::Resync).await;

    assert_eq!(kernel.attaches, all.len());
}
