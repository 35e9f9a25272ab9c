//! The same way to its end: a namespace in the kernel, the passes over it, and the events that
//! they cause.

use std::iter::Sum;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use tokio::runtime::Runtime;
use tokio::time::{sleep, timeout};
use tokio_util::task::TaskTracker;

use super::{LargeNetwork, Move, NETWORK, Size, interface};
use crate::desired::NetworkDesired;
use crate::kernel::{Changes, NamespaceEvents, NetworkInterface, NetworkNamespace};
use crate::reconcile::ReconcileQueue;
use crate::reconcile::pace::GATHER;
use crate::reconcile::pass::{Cause, Reconciler};
use crate::reconcile::watched::Watched;

/// When nothing was heard for so long, nothing more comes of a change.
const QUIET: Duration = Duration::from_millis(150);

/// What one change took.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct KernelCost {
    /// The processor time of this process, the kernel's work for it included.
    pub cpu: Duration,
    /// The part of it that went into passes over the network.
    pub passing: Duration,
    /// The passes over the network.
    pub passes: u32,
}

impl Sum for KernelCost {
    fn sum<I: Iterator<Item = Self>>(costs: I) -> Self {
        costs.fold(Self::default(), |sum, cost| Self {
            cpu: sum.cpu + cost.cpu,
            passing: sum.passing + cost.passing,
            passes: sum.passes + cost.passes,
        })
    }
}

/// An agent with one large network and its namespace; removes it when dropped.
pub struct KernelNetwork {
    runtime: Runtime,
    network: LargeNetwork,
    shell: Option<Shell>,
}

/// What a worker has of the kernel.
struct Shell {
    watched: Watched,
    changes: Arc<Changes>,
    reconciler: Reconciler,
    desired: Option<Arc<NetworkDesired>>,
    _interface: NetworkInterface,
}

impl KernelNetwork {
    /// Makes an agent that has seen its network whole and has made its namespace, pinned below
    /// `dir`. Nothing where the kernel gives no namespace.
    ///
    /// # Panics
    ///
    /// As [`LargeNetwork::new`], and when the kernel refuses anything inside the namespace.
    pub fn new(size: Size, dir: &Path) -> Option<Self> {
        let runtime = Runtime::new().expect("a runtime");
        let network = LargeNetwork::new(size);
        let mut shell = runtime.block_on(Shell::open(dir))?;
        runtime.block_on(shell.settle(network.desired.as_ref()?));

        Some(Self { runtime, network, shell: Some(shell) })
    }

    /// Returns how many routes lead to other nodes.
    pub fn routes(&self) -> usize {
        self.network.wanted.networks()[&NETWORK].namespace.remote.len()
    }

    /// Lets one endpoint change, and waits until nothing more comes of it.
    ///
    /// # Panics
    ///
    /// When anything did not come where it belongs.
    pub fn change(&mut self, how: Move) -> KernelCost {
        let delta = self.network.next_delta(how);
        let shell = self.shell.as_mut().expect("it is there until dropped");

        let before = cpu();
        self.network.follow(delta);
        let desired = Arc::clone(&self.network.wanted.networks()[&NETWORK]);
        let cost = self.runtime.block_on(shell.settle(&desired));

        KernelCost { cpu: cpu() - before, ..cost }
    }
}

impl Drop for KernelNetwork {
    fn drop(&mut self) {
        let Some(shell) = self.shell.take() else { return };
        // Whatever is left goes with the folder.
        let _ = self.runtime.block_on(shell.watched.into_namespace().delete());
    }
}

impl Shell {
    async fn open(dir: &Path) -> Option<Self> {
        let interface = interface(super::MTU);
        let opened = NetworkNamespace::open_with(dir, NETWORK, interface, None).await;
        let (namespace, interface) = opened.ok()?;
        let events = Some(Arc::new(NamespaceEvents::open().await.ok()?));
        let watched =
            Watched::new(namespace, Arc::new(ReconcileQueue::new()), events, &TaskTracker::new())
                .ok()?;

        Some(Self {
            changes: watched.changes(),
            watched,
            reconciler: Reconciler::default(),
            desired: None,
            _interface: interface,
        })
    }

    /// Runs passes as a worker does: one if something else is desired than before, and one for
    /// what is heard, until nothing is.
    async fn settle(&mut self, desired: &Arc<NetworkDesired>) -> KernelCost {
        let mut cost = KernelCost::default();
        if self.desired.as_ref() != Some(desired) {
            self.desired = Some(Arc::clone(desired));
            self.pass(desired, Cause::Desired, &mut cost).await;
        }
        while timeout(QUIET, self.changes.changed()).await.is_ok() {
            sleep(GATHER).await;
            self.pass(desired, Cause::Event, &mut cost).await;
        }

        cost
    }

    async fn pass(&mut self, desired: &Arc<NetworkDesired>, cause: Cause, cost: &mut KernelCost) {
        let changed = self.changes.take();
        let before = cpu();
        let pass = self.reconciler.run(&mut self.watched, desired, cause, &changed);
        let (outcome, _) = pass.await;
        assert!(outcome.is_complete, "{:?}", self.reconciler.report());
        cost.passing += cpu() - before;
        cost.passes += 1;
    }
}

/// Returns the processor time that this process has taken.
fn cpu() -> Duration {
    let time = clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID).expect("every process has one");

    time.into()
}
