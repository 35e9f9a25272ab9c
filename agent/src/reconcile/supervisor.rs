//! Computes what is desired whenever something changes, and hands each network's part to its
//! worker.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use overlay_core::NetworkId;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::clean;
use super::context::ReconcileContext;
use super::wanted::{Sources, Wanted};
use super::worker::{self, WorkerContext};
use crate::backend::{Backend, NetworkConfigs};
use crate::desired::NetworkDesired;
use crate::dns::DnsServers;
use crate::kernel::{MountEvents, NamespaceEvents};
use crate::membership::admission::Admission;
use crate::problem_key::ProblemKey;

/// How long control may take to say whether another host uses this node's identity, until packets
/// are carried all the same.
const VERDICT: Duration = Duration::from_secs(1);
/// Where the host's resolvers stand.
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// A network that is kept.
struct Kept {
    desired: watch::Sender<Arc<NetworkDesired>>,
    unwanted: CancellationToken,
}

struct Supervisor {
    context: Arc<ReconcileContext>,
    dns: Arc<Mutex<DnsServers>>,
    tasks: JoinSet<NetworkId>,
    kept: BTreeMap<NetworkId, Kept>,
    /// Workers that are removing their network.
    leaving: BTreeMap<NetworkId, ()>,
    wanted: Wanted,
    cleaned: bool,
    events: Option<Arc<NamespaceEvents>>,
    mounts: watch::Sender<u64>,
    sweeps: Arc<Semaphore>,
    carried: Carried,
}

/// Keeps everything as desired until the node leaves or the agent stops; what stands in the kernel
/// then stays.
pub(crate) async fn run(context: Arc<ReconcileContext>) {
    let mut membership = context.membership.subscribe();
    let mut journal = context.journal.subscribe();
    let mut mtu = context.host.underlay_mtu();
    let mut own = context.host.own();
    let mut admission = context.admission.subscribe();
    let mut lapsed = context.lapsed.subscribe();
    let mut supervisor = Supervisor {
        dns: Arc::new(Mutex::new(DnsServers::counting(
            PathBuf::from(RESOLV_CONF),
            Arc::clone(&context.dns_counts),
        ))),
        tasks: JoinSet::new(),
        kept: BTreeMap::new(),
        leaving: BTreeMap::new(),
        wanted: Wanted::new(),
        cleaned: false,
        events: context.events.open().await,
        mounts: watch::Sender::default(),
        sweeps: Arc::new(Semaphore::new(1)),
        carried: Carried::default(),
        context: Arc::clone(&context),
    };
    let mut wholeness = context.journal.wholeness();
    let mut mounts = MountEvents::open().ok();
    supervisor.update().await;
    supervisor.forget_earlier();
    // Names are answered until the next process does.
    let _lingering = context.descriptors.lingering(Arc::clone(&supervisor.dns));
    let presumed = Instant::now() + VERDICT;
    let mut has_woken = false;

    loop {
        if supervisor.carried.carries && !std::mem::replace(&mut has_woken, true) {
            // Peers may hold sessions with a process that is no more.
            context.backend.wake_peers();
        }
        tokio::select! {
            () = context.stop.cancelled() => break,
            _ = membership.changed() => {}
            _ = journal.changed() => {}
            _ = mtu.changed() => {}
            _ = own.changed() => {}
            _ = admission.changed() => {}
            _ = lapsed.changed() => {}
            _ = wholeness.changed() => {}
            () = sleep_until(presumed), if context.admission.current() == Admission::Unproven => {
                context.admission.assume();
            }
            Some(ended) = supervisor.tasks.join_next() => supervisor.ended(ended),
            () = remounted(&mut mounts) => {
                supervisor.mounts.send_modify(|count| *count += 1);
                continue;
            }
        }
        membership.mark_unchanged();
        journal.mark_unchanged();
        supervisor.update().await;
    }
    while supervisor.tasks.join_next().await.is_some() {}
}

/// Waits until a mount came or went.
async fn remounted(mounts: &mut Option<MountEvents>) {
    match mounts {
        Some(events) => {
            if events.changed().await.is_err() {
                *mounts = None;
            }
        }
        None => std::future::pending().await,
    }
}

impl Supervisor {
    /// Closes what an earlier session had of networks that are there no more.
    fn forget_earlier(&self) {
        self.context.backend.forget_earlier(&self.kept.keys().copied().collect());
        let kept: BTreeSet<_> = self.kept.keys().map(|id| super::kept_dns(*id)).collect();
        self.context.descriptors.forget(super::KEPT_DNS, |name| kept.contains(name));
    }

    async fn update(&mut self) {
        let is_live = self.compute();
        if is_live {
            self.drop_unwanted();
            if !self.cleaned {
                self.cleaned = true;
                let names: Vec<_> =
                    self.wanted.networks().keys().chain(self.leaving.keys()).copied().collect();
                clean::all_but(&self.context.run_dir, &names, &self.context.problems).await;
            }
        }
        for (network, desired) in self.wanted.networks().clone() {
            self.keep(network, desired);
        }
    }

    /// Computes what is wanted and hands it to backend and DNS servers; tells whether the
    /// membership is what control said.
    fn compute(&mut self) -> bool {
        let context = Arc::clone(&self.context);
        // Borrowed rather than copied: whoever holds a view makes the next change copy all of it.
        let membership = context.membership.borrow();
        let computed = self.wanted.update(Sources {
            node: context.node,
            membership: &membership,
            journal: &context.journal.entries(),
            strays: &context.journal.strays(),
            own: &context.host.own().borrow(),
            mtu: context.host.mtu(),
            interface: &|network, mtu| context.backend.interface(network, mtu),
            keys: &|network| context.keyring.find(network),
        });
        let is_live = membership.live;
        context.backend.know_notices(membership.revocations.notices());
        drop(membership);
        let carries = context.admission.current().carries();
        let configs = self.wanted.configs();
        let lapsed = context.lapsed.borrow();
        self.carried.publish(
            &*context.backend,
            carries,
            configs,
            &lapsed,
            computed.has_new_configs,
        );
        drop(lapsed);
        if !computed.networks.is_empty() {
            self.publish_names();
        }

        is_live
    }

    fn keep(&mut self, network: NetworkId, desired: Arc<NetworkDesired>) {
        // One that is being removed begins anew when that is done.
        if self.leaving.contains_key(&network) {
            return;
        }
        if let Some(kept) = self.kept.get(&network) {
            kept.desired.send_if_modified(|known| {
                let changed = !Arc::ptr_eq(known, &desired) && *known != desired;
                *known = desired;
                changed
            });
            return;
        }
        let unwanted = CancellationToken::new();
        let (sender, receiver) = watch::channel(desired);
        let worker = WorkerContext {
            reconcile: Arc::clone(&self.context),
            dns: Arc::clone(&self.dns),
            events: self.events.clone(),
            mounts: self.mounts.subscribe(),
            sweeps: Arc::clone(&self.sweeps),
            unwanted: unwanted.clone(),
        };
        self.kept.insert(network, Kept { desired: sender, unwanted });
        self.tasks.spawn(async move {
            worker::run(worker, network, receiver).await;
            network
        });
    }

    fn drop_unwanted(&mut self) {
        let wanted = self.wanted.networks();
        let gone: Vec<_> =
            self.kept.keys().filter(|network| !wanted.contains_key(network)).copied().collect();
        for network in gone {
            if let Some(kept) = self.kept.remove(&network) {
                kept.unwanted.cancel();
                self.context.problems.clear(&ProblemKey::Membership(network));
                self.leaving.insert(network, ());
            }
        }
    }

    fn ended(&mut self, ended: Result<NetworkId, tokio::task::JoinError>) {
        match ended {
            Ok(network) => drop(self.leaving.remove(&network)),
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }

    /// Only the networks this node is a member of have names here.
    fn publish_names(&self) {
        let names = Arc::new(self.wanted.names());
        self.dns.lock().unwrap_or_else(PoisonError::into_inner).publish(Arc::clone(&names));
        self.context.names.send_replace(names);
    }
}

/// What the backend was told to carry.
#[derive(Debug, Default)]
struct Carried {
    /// Whether it was told the networks: those of a host that may not carry packets are kept from
    /// it.
    carries: bool,
    /// The networks that were kept from it because their lease had run out.
    lapsed: Arc<BTreeSet<NetworkId>>,
}

impl Carried {
    fn publish(
        &mut self,
        backend: &dyn Backend,
        carries: bool,
        wanted: &NetworkConfigs,
        lapsed: &Arc<BTreeSet<NetworkId>>,
        has_new: bool,
    ) {
        let carried = std::mem::replace(&mut self.carries, carries);
        if !carries {
            return backend.publish(&NetworkConfigs::new());
        }
        let has_returned = self.lapsed.difference(lapsed).next().is_some();
        self.lapsed = Arc::clone(lapsed);
        if lapsed.is_empty() {
            backend.publish(wanted);
        } else {
            let trusted = wanted.iter().filter(|(network, _)| !lapsed.contains(network));
            backend.publish(&trusted.map(|(id, config)| (*id, Arc::clone(config))).collect());
        }
        if has_new || has_returned || !carried {
            backend.greet();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::NetworkConfig;
    use crate::backend::fake::FakeBackend;

    fn wanted() -> NetworkConfigs {
        let config = NetworkConfig {
            id: NetworkId::FIRST,
            keys: vec![[1; 32].into()],
            peers: Arc::default(),
            local: Vec::new(),
            links: Arc::default(),
            mtu: 1408,
        };

        NetworkConfigs::from([(NetworkId::FIRST, Arc::new(config))])
    }

    #[test]
    fn a_host_that_may_not_carry_packets_keeps_its_networks_from_the_backend() {
        let (backend, mut carried) = (FakeBackend::default(), Carried::default());

        carried.publish(&backend, false, &wanted(), &Arc::default(), true);
        assert!(backend.told().networks.is_empty());

        carried.publish(&backend, true, &wanted(), &Arc::default(), false);
        assert_eq!(backend.told().networks.len(), 1);

        carried.publish(&backend, false, &wanted(), &Arc::default(), false);
        assert!(backend.told().networks.is_empty(), "it was turned away later");
    }

    #[test]
    fn a_network_whose_lease_has_run_out_is_kept_from_the_backend_until_it_is_renewed() {
        let (backend, mut carried) = (FakeBackend::default(), Carried::default());
        let lapsed = Arc::new(BTreeSet::from([NetworkId::FIRST]));

        carried.publish(&backend, true, &wanted(), &lapsed, true);
        assert!(backend.told().networks.is_empty());

        carried.publish(&backend, true, &wanted(), &Arc::default(), false);
        assert_eq!(backend.told().networks.len(), 1);
        assert_eq!(backend.told().greetings, 2, "peers are called at once");
    }

    #[test]
    fn peers_are_greeted_when_something_is_carried_otherwise() {
        let (backend, mut carried) = (FakeBackend::default(), Carried::default());

        for (carries, has_new, greetings) in
            [(false, true, 0), (true, false, 1), (true, false, 1), (true, true, 2)]
        {
            carried.publish(&backend, carries, &wanted(), &Arc::default(), has_new);
            assert_eq!(backend.told().greetings, greetings);
        }
    }
}
