//! Keeps one network: opens its namespace, serves its interface and names, and runs passes on
//! change, on events and on time.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use overlay_core::NetworkId;
use overlay_proto::Code;
use tokio::sync::{Semaphore, SemaphorePermit, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::context::ReconcileContext;
use super::pace::{self, Pace};
use super::pass::{Cause, Reconciler};
use super::queue::{ReconcileQueue, Turn};
use super::watched::Watched;
use super::{EndpointState, NetworkReport};
use crate::backend::ServedInterface;
use crate::desired::NetworkDesired;
use crate::dns::{DnsServers, DnsSockets};
use crate::hand_over::Kept;
use crate::kernel::{
    ChangeScope, Changes, NamespaceEvents, Netns, NetworkInterface, NetworkNamespace,
};
use crate::problem::explain;
use crate::problem_code::ProblemCode;
use crate::problem_key::ProblemKey;

/// The pause after a failure to open a namespace.
const RETRY: Duration = Duration::from_millis(500);
/// How long a worker that ends waits for a program that still runs for its namespace. `nft` takes
/// some 15 ms, and a second with 10,000 endpoints on a busy host; one that hangs holds up nobody.
const RUNNING: Duration = Duration::from_secs(10);

/// What a worker shares with its supervisor.
#[derive(Debug, Clone)]
pub(crate) struct WorkerContext {
    /// What it takes to keep networks.
    pub(crate) reconcile: Arc<ReconcileContext>,
    /// All DNS servers.
    pub(crate) dns: Arc<Mutex<DnsServers>>,
    /// The source of events in namespaces; without it, all of them are polled.
    pub(crate) events: Option<Arc<NamespaceEvents>>,
    /// Counts changes of the host's mounts, of which the namespace's pin is one.
    pub(crate) mounts: watch::Receiver<u64>,
    /// Lets one network at a time be looked at without cause: those that have one go first.
    pub(crate) sweeps: Arc<Semaphore>,
    /// Ends the worker and removes the network from this host.
    pub(crate) unwanted: CancellationToken,
}

/// Keeps a network until the node leaves or the agent stops, which leaves it standing, or it is
/// unwanted, which removes it.
pub(crate) async fn run(
    context: WorkerContext,
    network: NetworkId,
    desired: watch::Receiver<Arc<NetworkDesired>>,
) {
    let reconcile = Arc::clone(&context.reconcile);
    let unwanted = context.unwanted.clone();
    let mut worker = Worker {
        context,
        network,
        desired,
        reconciler: Reconciler::default(),
        interface: None,
        names: None,
        served_host: None,
        runs: TaskTracker::new(),
    };
    let stays = tokio::select! {
        biased;
        () = reconcile.stop.cancelled() => true,
        () = unwanted.cancelled() => false,
        () = worker.keep() => false,
    };
    worker.finish_runs().await;
    if !stays {
        worker.remove().await;
    }
}

struct Worker {
    context: WorkerContext,
    network: NetworkId,
    desired: watch::Receiver<Arc<NetworkDesired>>,
    reconciler: Reconciler,
    /// The network's interface, as the backend has it.
    interface: Option<Box<dyn ServedInterface>>,
    /// The DNS server's sockets, for the next session.
    names: Option<Kept>,
    /// What the backend was told of the host's own addresses.
    served_host: Option<BTreeSet<IpAddr>>,
    /// The programs that run for the namespace.
    runs: TaskTracker,
}

impl Worker {
    async fn keep(&mut self) {
        let queue = Arc::clone(&self.context.reconcile.queue);
        loop {
            let turn = queue.turn(self.network).await;
            match self.open().await {
                Ok(namespace) => self.follow(namespace, &queue, turn).await,
                Err(text) => {
                    drop(turn);
                    self.state(unopened(&self.desired.borrow(), text));
                }
            }
            sleep(RETRY).await;
        }
    }

    /// Opens the namespace with interface, events and DNS sockets. What an earlier process left is
    /// taken over as it stands.
    async fn open(&mut self) -> Result<Watched, String> {
        let wanted = self.desired.borrow().namespace.clone();
        let reconcile = Arc::clone(&self.context.reconcile);
        let earlier = reconcile.backend.earlier_interface(self.network, wanted.interface);
        let opened = NetworkNamespace::open_with(
            &reconcile.run_dir,
            self.network,
            wanted.interface,
            earlier,
        );
        let (namespace, interface) = opened.await.map_err(|error| explain(&error))?;
        self.serve(Some(interface))?;
        let sockets = self.dns_sockets(namespace.netns(), &wanted.gateways).await?;
        let added = self
            .context
            .dns
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .serve(self.network, sockets);
        let served = added
            .map_err(|error| format!("failed to start the DNS server: {}", explain(&error)))?;
        self.names = Some(reconcile.descriptors.keep(&super::kept_dns(self.network), served));

        let queue = Arc::clone(&self.context.reconcile.queue);

        Watched::new(namespace, queue, self.context.events.clone(), &self.runs)
            .map_err(|error| explain(&error))
    }

    /// Opens the sockets of the DNS server, or goes on with those that an earlier session had.
    async fn dns_sockets(
        &self,
        netns: &Netns,
        gateways: &BTreeSet<IpAddr>,
    ) -> Result<DnsSockets, String> {
        let store = &self.context.reconcile.descriptors;
        let name = super::kept_dns(self.network);
        if let Some(adopted) =
            store.take(&name).and_then(|earlier| DnsSockets::adopt(earlier, gateways))
        {
            return Ok(adopted);
        }
        let gateways = gateways.clone();
        let bound = netns.enter(move || DnsSockets::bind(gateways)).await;

        bound.map_err(|error| explain(&error))?.map_err(|error| {
            format!("failed to open the sockets of the DNS server: {}", explain(&error))
        })
    }

    async fn follow<'a>(
        &mut self,
        mut namespace: Watched,
        queue: &'a ReconcileQueue,
        mut turn: Turn<'a>,
    ) {
        let events = self.context.events.clone();
        let sweep = || {
            if events.as_ref().is_some_and(|events| events.is_heard()) {
                pace::SWEEP
            } else {
                pace::UNHEARD
            }
        };
        let (sweeps, changes) = (Arc::clone(&self.context.sweeps), namespace.changes());
        let mut pace = Pace::new(sweep(), Instant::now());
        let mut cause = Cause::Desired;
        let mut sweeping = None;
        loop {
            let desired = Arc::clone(&self.desired.borrow_and_update());
            let mut changed = changes.take();
            if pace.is_due(Instant::now()) {
                // However many changes of what is desired come before it.
                changed.insert(ChangeScope::Network);
            }
            let (outcome, interface) =
                self.reconciler.run(&mut namespace, &desired, cause, &changed).await;
            drop(turn);
            drop::<Option<SemaphorePermit<'_>>>(sweeping);
            pace.set_sweep(sweep(), Instant::now());
            pace.handle_pass(cause, outcome, rand::random(), Instant::now());
            self.conclude(interface);
            match self.next(&namespace, &changes, &sweeps, &mut pace).await {
                Some(next) => (cause, sweeping) = next,
                None => return,
            }
            turn = queue.turn(self.network).await;
        }
    }

    /// Waits for the cause of the next pass; nothing when there will be none.
    async fn next<'a>(
        &mut self,
        namespace: &Watched,
        changes: &Changes,
        sweeps: &'a Semaphore,
        pace: &mut Pace,
    ) -> Option<(Cause, Option<SemaphorePermit<'a>>)> {
        let turn = async {
            sleep_until(pace.poll_timeout()).await;
            sweeps.acquire().await.ok()
        };
        tokio::select! {
            biased;
            changed = self.desired.changed() => return changed.ok().map(|()| (Cause::Desired, None)),
            () = changes.changed() => {}
            () = unpinned(&mut self.context.mounts, namespace) => {
                changes.note(ChangeScope::Network);
            }
            turn = turn => return Some((Cause::Resync, turn)),
        }
        // Events are gathered; a change of what is desired does not wait for them.
        tokio::select! {
            changed = self.desired.changed() => changed.ok().map(|()| (Cause::Desired, None)),
            () = sleep(pace.handle_event(Instant::now())) => Some((Cause::Event, None)),
        }
    }

    /// Serves what a pass made, and tells how the network is doing.
    fn conclude(&mut self, interface: Option<NetworkInterface>) {
        let served = self.serve(interface);
        let mut report = self.reconciler.report().clone();
        report.problem = report.problem.or(served.err());
        self.state(report);
    }

    /// Gives the backend a new interface, or tells it of a change of the host's own addresses.
    fn serve(&mut self, interface: Option<NetworkInterface>) -> Result<(), String> {
        let host = self.desired.borrow().host.clone();
        if interface.is_none() && self.served_host.as_ref() == Some(&host) {
            return Ok(());
        }
        if let Some(interface) = interface {
            let backend = &self.context.reconcile.backend;
            self.interface = Some(backend.take_interface(self.network, interface));
        }
        let Some(interface) = &self.interface else { return Ok(()) };
        interface.serve(&host).map_err(|error| explain(&error))?;
        self.served_host = Some(host);

        Ok(())
    }

    /// Publishes how the network is doing.
    fn state(&self, report: NetworkReport) {
        let reconcile = &self.context.reconcile;
        let key = ProblemKey::Network(self.network);
        let failed = report.endpoints.values().find_map(|state| match state {
            EndpointState::Failed(text) => Some(text.clone()),
            EndpointState::Ready | EndpointState::HeldUp | EndpointState::Gone(_) => None,
        });
        match report.problem.clone().or(failed) {
            Some(text) => reconcile.problems.raise(key, Code::Kernel, text),
            None => reconcile.problems.clear(&key),
        }
        let about_policy = ProblemKey::Policy(self.network);
        match &report.policy {
            Some(text) => reconcile.problems.raise(about_policy, ProblemCode::Policy, text),
            None => reconcile.problems.clear(&about_policy),
        }
        let about_guard = ProblemKey::Guard(self.network);
        match &report.guard {
            Some(text) => reconcile.problems.raise(about_guard, ProblemCode::Guard, text),
            None => reconcile.problems.clear(&about_guard),
        }
        reconcile.reports.send_if_modified(|reports| {
            let changed = reports.get(&self.network) != Some(&report);
            reports.insert(self.network, report);
            changed
        });
    }

    /// Waits until no program runs for the namespace any more: whoever comes next finds it free.
    async fn finish_runs(&self) {
        self.runs.close();
        if timeout(RUNNING, self.runs.wait()).await.is_err() {
            tracing::warn!(network = %self.network, "A program still runs for the network");
        }
    }

    async fn remove(mut self) {
        let reconcile = Arc::clone(&self.context.reconcile);
        (self.interface, self.names) = (None, None);
        self.context.dns.lock().unwrap_or_else(PoisonError::into_inner).remove(self.network);
        reconcile.backend.release_interface(self.network);
        super::clean::network(&reconcile.run_dir, self.network, &reconcile.problems).await;
        reconcile.problems.clear(&ProblemKey::Network(self.network));
        reconcile.problems.clear(&ProblemKey::Policy(self.network));
        reconcile.problems.clear(&ProblemKey::Guard(self.network));
        reconcile.reports.send_modify(|reports| drop(reports.remove(&self.network)));
    }
}

/// Reports a network whose namespace could not be opened.
fn unopened(desired: &NetworkDesired, text: String) -> NetworkReport {
    let endpoints = desired.sandboxes.keys().map(|id| (*id, EndpointState::HeldUp)).collect();

    NetworkReport { endpoints, problem: Some(text), ..NetworkReport::default() }
}

/// Waits until the namespace's pin is not there any more.
async fn unpinned(mounts: &mut watch::Receiver<u64>, namespace: &Watched) {
    loop {
        if mounts.changed().await.is_err() {
            return std::future::pending().await;
        }
        if !namespace.namespace().is_pinned() {
            return;
        }
    }
}
