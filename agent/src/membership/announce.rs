//! Tells control how this node is reached and which prefixes its host uses, on every connection and
//! as soon as it changes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use overlay_proto::convert::{MAX_HOLDER, MAX_UNDERLAY};
use overlay_proto::{Code, v1};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

use super::connection;
use super::control_error::ControlError;
use super::control_link::ControlLink;
use crate::backend::DataPath;
use crate::event_source::EventSource;
use crate::host_state::{HostPrefixes, HostState};
use crate::kernel::host::HostNetwork;
use crate::kernel::{ChangeScope, Changes, KernelError, NamespaceEvents, Netns, Subscription};
use crate::problem::{Problems, explain};
use crate::problem_key::ProblemKey;
use crate::state::SandboxRecord;
use crate::state::journal::Journal;

/// How often the host's network is looked at though the kernel told of no change.
const SWEEP: Duration = Duration::from_secs(30);
/// How often where the kernel tells nothing, or control could not be told.
const BLIND: Duration = Duration::from_secs(3);
/// How long a change may take to be whole: a bridge is there before its address is.
const SETTLE: Duration = Duration::from_millis(10);
/// The least time between two looks: containers that come and go are changes, too.
const PACE: Duration = Duration::from_millis(100);
/// Routes told at the most.
const MAX_ROUTES: usize = 1_000;

/// What control is told of this host, and by what.
#[derive(Debug)]
pub(crate) struct Announcer {
    /// Whom to tell.
    pub(crate) control: Arc<ControlLink>,
    /// Where what was seen is noted.
    pub(crate) host: Arc<HostState>,
    /// The endpoints of this node: interfaces of ours are none of the host's.
    pub(crate) journal: Arc<Journal>,
    /// The networks that differ on this host.
    pub(crate) differences: watch::Sender<Vec<v1::Difference>>,
    /// The tunnels: their ports are announced, and peers in use are told by them.
    pub(crate) data_path: DataPath,
    /// What says that the host's network has changed.
    pub(crate) events: Arc<EventSource>,
    /// Where it is told what is wrong.
    pub(crate) problems: Arc<Problems>,
}

/// What control is known to have. Whether an announcement that failed, or was given up, has reached
/// it, nobody knows: until the next one succeeds it is known to have nothing.
#[derive(Debug, Default)]
struct Told(Option<v1::AnnounceRequest>);

impl Told {
    fn is(&self, wanted: &v1::AnnounceRequest) -> bool {
        self.0.as_ref() == Some(wanted)
    }

    /// Announces by `attempt`. Given up before its end, it counts as failed.
    async fn announce(
        &mut self,
        wanted: &v1::AnnounceRequest,
        attempt: impl Future<Output = Result<(), ControlError>>,
    ) -> Result<(), ControlError> {
        self.forget();
        attempt.await?;
        self.0 = Some(wanted.clone());

        Ok(())
    }

    fn forget(&mut self) {
        self.0 = None;
    }
}

/// Announces while the node is joined.
pub(crate) async fn run(announcer: &Announcer) {
    let mut connection = announcer.control.connection.subscribe();
    let mut differences = announcer.differences.subscribe();
    let mut told = Told::default();
    let changes = Arc::<Changes>::default();
    let events = announcer.events.open().await;
    let heard = events.as_ref().and_then(|events| listen(events, &changes));
    let mut before = None;
    loop {
        // What changes from here on is heard.
        changes.take();
        let is_heard = heard.is_some() && events.as_ref().is_some_and(|events| events.is_heard());
        if events.as_ref().is_some_and(|events| !events.is_heard()) {
            let text = "the kernel's events are heard no more, so everything is looked at every second; start overlayd anew";
            announcer.problems.raise(ProblemKey::Events, Code::Kernel, text);
        }
        let sweep = if is_heard { SWEEP } else { BLIND };
        let looked = Instant::now();
        let settled = || sleep_until((looked + PACE).max(Instant::now() + SETTLE));
        let gathered = gather(announcer, &mut before).await;
        match &gathered {
            Ok(_) => announcer.problems.clear(&ProblemKey::HostNetwork),
            Err(error) => {
                announcer.problems.raise(ProblemKey::HostNetwork, Code::Kernel, explain(error))
            }
        }
        if let Ok(wanted) = &gathered
            && !told.is(wanted)
            && announcer.control.connection.is_connected()
        {
            // Control may not answer for seconds just because an address has changed; peers need
            // not wait for that.
            let announced = tokio::select! {
                announced = told.announce(wanted, announce(announcer, wanted.clone())) => announced,
                () = changes.changed() => {
                    settled().await;
                    continue;
                }
            };
            match announced {
                Ok(()) => announcer.problems.clear(&ProblemKey::Announcement),
                Err(error) if error.code() == Code::ControlAway => {}
                Err(error) => {
                    announcer.problems.raise(ProblemKey::Announcement, error.code(), &error)
                }
            }
        }
        let is_told = gathered.is_ok_and(|wanted| told.is(&wanted));
        tokio::select! {
            () = sleep(if is_told { sweep } else { BLIND }) => {}
            () = changes.changed() => settled().await,
            // The sender belongs to the joined node.
            _ = differences.changed() => {}
            () = connection.changed() => told.forget(),
        }
    }
}

/// Hears of changes of the host's network.
fn listen(events: &NamespaceEvents, changes: &Arc<Changes>) -> Option<Subscription> {
    events.subscribe(&Netns::host().ok()?, ChangeScope::Network, changes).ok()
}

async fn announce(announcer: &Announcer, request: v1::AnnounceRequest) -> Result<(), ControlError> {
    let mut client = announcer.control.connection.client()?;
    connection::call(client.announce(request)).await.map(drop)
}

/// Writes a prefix with what holds it, as control reads it.
fn held(prefix: IpNet, holder: &str) -> String {
    let holder: String = holder.chars().filter(|c| !c.is_control()).take(MAX_HOLDER / 4).collect();

    format!("{prefix} {holder}").trim_end().to_owned()
}

/// Looks at the host's network. Peers in use are told inside the tunnel when this node's address
/// may be another one than what `before` says: who only receives would otherwise be lost until they
/// miss it.
async fn gather(
    announcer: &Announcer,
    before: &mut Option<HostNetwork>,
) -> Result<v1::AnnounceRequest, KernelError> {
    let host = HostNetwork::list(&Netns::host()?).await?;
    announcer.host.note_underlay_mtu(host.underlay_mtu());
    if announcer.host.note_own(host.own.clone()) {
        announcer.data_path.backend.know_own(&announcer.host.own().borrow());
    }
    if before.as_ref().is_some_and(|before| before.addresses != host.addresses) {
        tracing::info!("The host's addresses have changed");
        announcer.data_path.backend.announce();
    }
    if before.as_ref().is_some_and(|before| (&before.own, &before.ways) != (&host.own, &host.ways))
    {
        announcer.host.note_ways();
    }
    let request = request(announcer, &host);
    *before = Some(host);

    Ok(request)
}

fn request(announcer: &Announcer, host: &HostNetwork) -> v1::AnnounceRequest {
    let ours: BTreeSet<String> = announcer
        .journal
        .entries()
        .values()
        .filter(|record| record.sandbox == SandboxRecord::Host)
        .map(|record| record.ifname.clone())
        .collect();
    let foreign = |all: &BTreeMap<IpNet, String>| -> BTreeMap<IpNet, String> {
        all.iter()
            .filter(|(_, holder)| !ours.contains(*holder))
            .map(|(prefix, holder)| (*prefix, holder.clone()))
            .collect()
    };
    let prefixes = HostPrefixes { links: foreign(&host.links), routes: foreign(&host.prefixes) };
    announcer.host.note_prefixes(prefixes);
    let advertise = &announcer.control.identity().advertise;
    let underlay = if advertise.is_empty() {
        host.addresses
            .iter()
            .filter(|a| !ours.contains(&a.link))
            .map(|a| a.address.to_string())
            .collect()
    } else {
        advertise.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let routes = host.prefixes.iter().filter(|(_, holder)| !ours.contains(*holder));

    v1::AnnounceRequest {
        underlay: underlay.into_iter().take(MAX_UNDERLAY).collect(),
        lane_ports: announcer.data_path.ports.iter().copied().map(u32::from).collect(),
        routes: routes.map(|(prefix, holder)| held(*prefix, holder)).take(MAX_ROUTES).collect(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        differences: announcer.differences.borrow().clone(),
    }
}

#[cfg(test)]
mod tests {
    use overlay_proto::Refusal;

    use super::*;

    #[tokio::test]
    async fn after_a_failure_even_what_was_announced_before_is_announced_again() {
        let request = |name: &str| v1::AnnounceRequest {
            routes: vec![name.to_owned()],
            ..Default::default()
        };
        let (before, after) = (request("10.1.0.0/16"), request("10.2.0.0/16"));
        let mut told = Told::default();
        told.announce(&before, async { Ok(()) }).await.expect("announced");
        assert!(told.is(&before));

        let refused = told
            .announce(&after, async {
                Err(ControlError::Refused(Refusal::new(Code::Storage, "the disk is full")))
            })
            .await;
        assert!(refused.is_err() && !told.is(&before) && !told.is(&after));

        told.announce(&before, async { Ok(()) }).await.expect("announced");
        let given_up =
            tokio::time::timeout(PACE, told.announce(&after, std::future::pending())).await;
        assert!(given_up.is_err() && !told.is(&before) && !told.is(&after));
    }
}
