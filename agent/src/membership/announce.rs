//! Tells control how this node is reached and which prefixes its host uses, on every connection and as soon as it changes.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use overlay_proto::convert::{MAX_HOLDER, MAX_UNDERLAY};
use overlay_proto::{Code, Refusal, v1};
use tokio::time::{Instant, sleep, sleep_until};

use super::link;
use crate::endpoint::sandbox::kernel;
use crate::kernel::host::HostNetwork;
use crate::kernel::{Changes, Netns, Place, Subscription};
use crate::session::Session;
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

/// Announces for as long as the session lasts.
pub(crate) async fn run(session: &Session) {
    let mut connection = session.link.subscribe();
    let mut differences = session.differences.subscribe();
    let mut told: Option<v1::AnnounceRequest> = None;
    let changes = Arc::<Changes>::default();
    let heard = listen(session, &changes).await;
    let sweep = if heard.is_some() { SWEEP } else { BLIND };
    loop {
        // What changes from here on is heard.
        changes.take();
        let looked = Instant::now();
        let gathered = gather(session).await;
        match gathered.clone() {
            Ok(wanted) if told.as_ref() != Some(&wanted) && session.link.is_connected() => {
                match announce(session, wanted.clone()).await {
                    Ok(()) => {
                        session.problems.clear("announce");
                        told = Some(wanted);
                    }
                    Err(refusal) if refusal.code == Code::ControlAway => {}
                    Err(refusal) => session.problems.raise("announce", refusal.code.as_str(), &refusal),
                }
            }
            Ok(_) => {}
            Err(refusal) => session.problems.raise("announce", refusal.code.as_str(), &refusal),
        }
        let is_told = gathered.is_ok_and(|wanted| told == Some(wanted));
        tokio::select! {
            () = sleep(if is_told { sweep } else { BLIND }) => {}
            () = changes.changed() => sleep_until((looked + PACE).max(Instant::now() + SETTLE)).await,
            // The sender is the session's.
            _ = differences.changed() => {}
            () = connection.changed() => told = None,
        }
    }
}

/// Hears of changes of the host's network.
async fn listen(session: &Session, changes: &Arc<Changes>) -> Option<Subscription> {
    let events = session.events().await?;

    events.subscribe(&Netns::host().ok()?, Place::Network, changes).ok()
}

async fn announce(session: &Session, request: v1::AnnounceRequest) -> Result<(), Refusal> {
    let mut client = session.link.client()?;
    link::call(client.announce(request)).await.map(drop)
}

/// Writes a prefix with what holds it, as control reads it.
fn held(prefix: IpNet, holder: &str) -> String {
    let holder: String = holder.chars().filter(|c| !c.is_control()).take(MAX_HOLDER / 4).collect();

    format!("{prefix} {holder}").trim_end().to_owned()
}

async fn gather(session: &Session) -> Result<v1::AnnounceRequest, Refusal> {
    let host = HostNetwork::list(&Netns::host().map_err(kernel)?).await.map_err(kernel)?;
    session.note_underlay_mtu(host.underlay_mtu());
    let ours: BTreeSet<String> = session
        .journal
        .entries()
        .values()
        .filter(|record| record.sandbox == SandboxRecord::Host)
        .map(|record| record.ifname.clone())
        .collect();
    let advertise = &session.identity().advertise;
    let underlay = if advertise.is_empty() {
        host.addresses.iter().filter(|a| !ours.contains(&a.link)).map(|a| a.address.to_string()).collect()
    } else {
        advertise.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let routes = host.prefixes.iter().filter(|(_, holder)| !ours.contains(*holder));

    Ok(v1::AnnounceRequest {
        underlay: underlay.into_iter().take(MAX_UNDERLAY).collect(),
        lane_ports: session.lanes.ports().iter().copied().map(u32::from).collect(),
        routes: routes.map(|(prefix, holder)| held(*prefix, holder)).take(MAX_ROUTES).collect(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        differences: session.differences.borrow().clone(),
    })
}
