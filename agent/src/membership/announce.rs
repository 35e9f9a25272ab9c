//! Tells control how this node is reached and which prefixes its host uses, on every connection and as soon as it changes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use overlay_proto::convert::{MAX_HOLDER, MAX_UNDERLAY};
use overlay_proto::{Code, Refusal, v1};
use tokio::time::{Instant, sleep, sleep_until};

use super::connection;
use super::prefix_clash::HostPrefixes;
use crate::endpoint::sandbox::kernel;
use crate::joined_node::JoinedNode;
use crate::kernel::host::HostNetwork;
use crate::kernel::{ChangeScope, Changes, NamespaceEvents, Netns, Subscription};
use crate::state::SandboxRecord;

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

/// Announces while the node is joined.
pub(crate) async fn run(joined: &JoinedNode) {
    let mut connection = joined.connection.subscribe();
    let mut differences = joined.differences.subscribe();
    let mut told: Option<v1::AnnounceRequest> = None;
    let changes = Arc::<Changes>::default();
    let events = joined.events().await;
    let heard = events.as_ref().and_then(|events| listen(events, &changes));
    let mut before = None;
    loop {
        // What changes from here on is heard.
        changes.take();
        let is_heard = heard.is_some() && events.as_ref().is_some_and(|events| events.is_heard());
        if events.as_ref().is_some_and(|events| !events.is_heard()) {
            let text =
                "the kernel's events are heard no more, so everything is looked at every second; start overlayd anew";
            joined.problems.raise("events", "kernel", text);
        }
        let sweep = if is_heard { SWEEP } else { BLIND };
        let looked = Instant::now();
        let settled = || sleep_until((looked + PACE).max(Instant::now() + SETTLE));
        let gathered = gather(joined, &mut before).await;
        match &gathered {
            Ok(_) => joined.problems.clear("host network"),
            Err(refusal) => joined.problems.raise("host network", refusal.code.as_str(), refusal),
        }
        if let Ok(wanted) = &gathered
            && told.as_ref() != Some(wanted)
            && joined.connection.is_connected()
        {
            // Control may not answer for seconds just because an address has changed; peers need not wait for that.
            let announced = tokio::select! {
                announced = announce(joined, wanted.clone()) => announced,
                () = changes.changed() => {
                    settled().await;
                    continue;
                }
            };
            match announced {
                Ok(()) => {
                    joined.problems.clear("announce");
                    told = Some(wanted.clone());
                }
                Err(refusal) if refusal.code == Code::ControlAway => {}
                Err(refusal) => joined.problems.raise("announce", refusal.code.as_str(), &refusal),
            }
        }
        let is_told = gathered.is_ok_and(|wanted| told == Some(wanted));
        tokio::select! {
            () = sleep(if is_told { sweep } else { BLIND }) => {}
            () = changes.changed() => settled().await,
            // The sender belongs to the joined node.
            _ = differences.changed() => {}
            () = connection.changed() => told = None,
        }
    }
}

/// Hears of changes of the host's network.
fn listen(events: &NamespaceEvents, changes: &Arc<Changes>) -> Option<Subscription> {
    events.subscribe(&Netns::host().ok()?, ChangeScope::Network, changes).ok()
}

async fn announce(joined: &JoinedNode, request: v1::AnnounceRequest) -> Result<(), Refusal> {
    let mut client = joined.connection.client()?;
    connection::call(client.announce(request)).await.map(drop)
}

/// Writes a prefix with what holds it, as control reads it.
fn held(prefix: IpNet, holder: &str) -> String {
    let holder: String = holder.chars().filter(|c| !c.is_control()).take(MAX_HOLDER / 4).collect();

    format!("{prefix} {holder}").trim_end().to_owned()
}

/// Looks at the host's network. Peers in use are told inside the tunnel when this node's address may be another one than what
/// `before` says: who only receives would otherwise be lost until they miss it.
async fn gather(joined: &JoinedNode, before: &mut Option<HostNetwork>) -> Result<v1::AnnounceRequest, Refusal> {
    let host = HostNetwork::list(&Netns::host().map_err(kernel)?).await.map_err(kernel)?;
    joined.note_underlay_mtu(host.underlay_mtu());
    joined.note_own(host.own.clone());
    if before.as_ref().is_some_and(|before| before.addresses != host.addresses) {
        tracing::info!("The host's addresses have changed");
        // A lane that takes no commands has ended the process already.
        let _ = joined.lanes.announce();
    }
    if before.as_ref().is_some_and(|before| (&before.own, &before.ways) != (&host.own, &host.ways)) {
        joined.note_ways();
    }
    let request = request(joined, &host);
    *before = Some(host);

    Ok(request)
}

fn request(joined: &JoinedNode, host: &HostNetwork) -> v1::AnnounceRequest {
    let ours: BTreeSet<String> = joined
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
    joined.host_prefixes.send_if_modified(|known| {
        let changed = *known != prefixes;
        *known = prefixes;
        changed
    });
    let advertise = &joined.identity().advertise;
    let underlay = if advertise.is_empty() {
        host.addresses.iter().filter(|a| !ours.contains(&a.link)).map(|a| a.address.to_string()).collect()
    } else {
        advertise.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let routes = host.prefixes.iter().filter(|(_, holder)| !ours.contains(*holder));

    v1::AnnounceRequest {
        underlay: underlay.into_iter().take(MAX_UNDERLAY).collect(),
        lane_ports: joined.lanes.ports().iter().copied().map(u32::from).collect(),
        routes: routes.map(|(prefix, holder)| held(*prefix, holder)).take(MAX_ROUTES).collect(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        differences: joined.differences.borrow().clone(),
    }
}
