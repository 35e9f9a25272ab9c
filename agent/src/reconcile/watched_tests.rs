//! What a reconciler makes of its own changes of routes and of those by others, in a real
//! namespace.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use super::*;
use crate::desired::NetworkDesired;
use crate::kernel::NetworkInterface;
use crate::kernel::namespace_desired::TUN_NAME;
use crate::kernel::tests::rig::{Hands, Rig, desired, skipped};
use crate::reconcile::pass::{Cause, PassOutcome, Reconciler};

/// Within this time anything that is to be heard is.
const HEARD: Duration = Duration::from_secs(1);
/// After so long without one, no more events come.
const QUIET: Duration = Duration::from_millis(300);

/// A network that is kept, without endpoints of this node.
struct Kept {
    watched: Watched,
    reconciler: Reconciler,
    _events: Arc<NamespaceEvents>,
    interface: NetworkInterface,
    _rig: Rig,
}

impl Kept {
    /// Makes one, with these routes, that is at rest.
    async fn new(remote: &[IpNet]) -> Self {
        let rig = Rig::new();
        let (namespace, tun) = rig.open(1).await;
        let events = Arc::new(NamespaceEvents::open().await.expect("events"));
        let queue = Arc::new(ReconcileQueue::new());
        let watched =
            Watched::new(namespace, queue, Some(Arc::clone(&events)), &TaskTracker::new())
                .expect("a subscription");
        let reconciler = Reconciler::default();
        let interface = NetworkInterface::Tun(tun);
        let mut kept = Self { watched, reconciler, interface, _events: events, _rig: rig };
        kept.run(remote, Cause::Desired).await;
        kept.rest(remote).await;

        kept
    }

    /// Runs passes for what is heard until nothing is.
    async fn rest(&mut self, remote: &[IpNet]) {
        while self.hears_something(QUIET).await {
            self.run(remote, Cause::Event).await;
        }
    }

    async fn hears_something(&self, within: Duration) -> bool {
        timeout(within, self.watched.changes.changed()).await.is_ok()
    }

    /// Runs one pass, as a worker does.
    async fn run(&mut self, remote: &[IpNet], cause: Cause) -> PassOutcome {
        let mut namespace = desired(1, &[]);
        namespace.remote.extend(remote.iter().copied());
        let desired = NetworkDesired {
            namespace,
            sandboxes: BTreeMap::new(),
            host: BTreeSet::new(),
            filter: FilterDesired::Open,
        };
        let desired = Arc::new(desired);
        let changed = self.watched.changes.take();
        let pass = self.reconciler.run(&mut self.watched, &desired, cause, &changed);
        let (outcome, interface) = pass.await;
        if let Some(interface) = interface {
            self.interface = interface;
        }
        assert!(outcome.is_complete, "{:?}", self.reconciler.report());

        outcome
    }
}

/// Routes of both families to single addresses.
fn routes(numbers: impl IntoIterator<Item = u8>) -> Vec<IpNet> {
    let both = |n: u8| {
        let v6 = IpAddr::from([0xfd42, 0, 0, 0, 0, 0, 1, n.into()]);
        [IpNet::from(IpAddr::from([10, 42, 7, n])), IpNet::from(v6)]
    };

    numbers.into_iter().flat_map(both).collect()
}

#[tokio::test]
async fn a_change_of_routes_of_our_own_sets_off_no_pass() {
    if skipped() {
        return;
    }
    let mut kept = Kept::new(&routes(0..200)).await;
    let mut hands = Hands::of(kept.watched.namespace()).await;

    let outcome = kept.run(&routes(1..201), Cause::Desired).await;

    assert!(!outcome.is_whole && outcome.did_something, "{outcome:?}");
    assert!(!kept.hears_something(HEARD).await);
    for (number, is_there) in [(0, false), (1, true), (200, true)] {
        for route in routes([number]) {
            assert_eq!(hands.has_route(route).await, is_there, "{route}");
        }
    }
}

#[tokio::test]
async fn a_route_that_others_delete_beside_a_change_of_our_own_comes_back() {
    if skipped() {
        return;
    }
    let mut kept = Kept::new(&routes(0..100)).await;
    let mut hands = Hands::of(kept.watched.namespace()).await;

    for taken in routes([50, 51]) {
        // Each change takes the one before back.
        for (round, last) in [(0, 101), (1, 100), (2, 101)] {
            let wanted = routes(0..last);
            match round {
                0 => {
                    hands.take_route(taken).await;
                    kept.run(&wanted, Cause::Desired).await;
                }
                1 => {
                    kept.run(&wanted, Cause::Desired).await;
                    hands.take_route(taken).await;
                }
                _ => {
                    tokio::join!(kept.run(&wanted, Cause::Desired), hands.take_route(taken));
                }
            }
            kept.rest(&wanted).await;

            assert!(hands.has_route(taken).await, "{taken} in round {round}");
        }
    }
}

#[tokio::test]
async fn a_route_through_a_tun_that_others_deleted_has_all_made_again() {
    if skipped() {
        return;
    }
    let mut kept = Kept::new(&routes(0..3)).await;
    let mut hands = Hands::of(kept.watched.namespace()).await;

    hands.take_link(TUN_NAME).await;
    let outcome = kept.run(&routes(0..4), Cause::Desired).await;

    assert!(outcome.is_whole);
    for route in routes(0..4) {
        assert!(hands.has_route(route).await, "{route}");
    }
}
