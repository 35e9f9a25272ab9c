//! Tells control how this node is reached and which prefixes its host uses, on every connection and as soon as it changes.

use std::collections::BTreeSet;
use std::time::Duration;

use ipnet::IpNet;
use overlay_proto::convert::{MAX_HOLDER, MAX_UNDERLAY};
use overlay_proto::{Code, Refusal, v1};
use tokio::time::{Instant, sleep, sleep_until};

use super::link;
use crate::endpoint::sandbox::kernel;
use crate::kernel::host::HostNetwork;
use crate::kernel::{Events, Netns};
use crate::problem::explain;
use crate::session::Session;
use crate::state::SandboxRecord;

/// How often the host's network is looked at though the kernel told of no change.
const SWEEP: Duration = Duration::from_secs(30);
/// How often where the kernel tells nothing.
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
    let mut changes = Changes::open().await;
    loop {
        changes.looked = Instant::now();
        match gather(session).await {
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
        tokio::select! {
            () = sleep(changes.sweep()) => {}
            () = changes.next() => {}
            // The sender is the session's.
            _ = differences.changed() => {}
            () = connection.changed() => told = None,
        }
    }
}

/// What the kernel tells of the host's own network.
struct Changes {
    events: Option<Events>,
    looked: Instant,
}

impl Changes {
    async fn open() -> Self {
        let opened = match Netns::host() {
            Ok(host) => Events::open(&host).await,
            Err(error) => Err(error),
        };
        if let Err(error) = &opened {
            tracing::warn!(error = %explain(error), "Changes of the host's network are heard of late");
        }

        Self { events: opened.ok(), looked: Instant::now() }
    }

    fn sweep(&self) -> Duration {
        if self.events.is_some() { SWEEP } else { BLIND }
    }

    /// Waits for a change, and until it is worth a look. Safe to cancel: who does looks anyway.
    async fn next(&mut self) {
        let Some(events) = &mut self.events else { return std::future::pending().await };
        match events.changed().await {
            Ok(()) => sleep_until((self.looked + PACE).max(Instant::now() + SETTLE)).await,
            Err(error) => {
                tracing::warn!(%error, "Changes of the host's network are heard of late");
                self.events = None;
            }
        }
    }
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
