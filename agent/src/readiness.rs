//! Says that the agent is ready, to whoever started it and listens (`sd_notify(3)`): systemd, or
//! `overlayctl`.
//!
//! Ready means that the local socket is served and that the kernel's part of what this node had was
//! brought up once, so that what is started after the agent finds the containers' networks as they
//! were.

use std::time::Duration;

use sd_notify::NotifyState;
use tokio::time::timeout;

use crate::endpoint::lifecycle::Endpoints;
use crate::node_handle::{NodeHandle, Phase};

/// How long the networks may take: what does not come up must not keep the host from booting.
const PATIENCE: Duration = Duration::from_secs(20);

/// Waits until the agent is ready, and says so; ends then.
pub(crate) async fn tell(handle: &NodeHandle) {
    if let Phase::Joined(joined) = handle.phase() {
        say(&[NotifyState::Status("bringing the networks up")]);
        if timeout(PATIENCE, brought_up(&joined.endpoints)).await.is_err() {
            tracing::warn!("Not all endpoints could be brought up yet, going on");
        }
    }

    say(&[NotifyState::Ready, NotifyState::Status(&status(&handle.phase()))]);
}

/// Says that the agent ends.
pub(crate) fn ending() {
    say(&[NotifyState::Stopping]);
}

/// Says that another process is the agent from now on.
pub(crate) fn replaced_by(pid: u32) {
    say(&[NotifyState::MainPid(pid)]);
}

fn say(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "Failed to tell who started the agent");
    }
}

/// Waits until each endpoint of this node was tried, whatever came of it.
async fn brought_up(endpoints: &Endpoints) {
    let mut journal = endpoints.journal.subscribe();
    let mut networks = endpoints.reports.subscribe();
    while untried(endpoints) > 0 {
        tokio::select! {
            changed = journal.changed() => if changed.is_err() { return },
            changed = networks.changed() => if changed.is_err() { return },
        }
    }
}

fn untried(endpoints: &Endpoints) -> usize {
    let networks = endpoints.reports.borrow();
    let was_tried = |record: &crate::state::EndpointRecord| {
        networks.get(&record.endpoint.network).is_some_and(|report| {
            report.problem.is_some() || report.endpoints.contains_key(&record.endpoint.id)
        })
    };

    endpoints.journal.entries().values().filter(|record| !was_tried(record)).count()
}

fn status(phase: &Phase) -> String {
    match phase {
        Phase::Unjoined => "this host has joined nothing".to_owned(),
        Phase::Joining => "joining".to_owned(),
        Phase::Joined(joined) => {
            let who = joined.identity();
            let endpoints = joined.endpoints.journal.entries().len();
            format!("node {} of cluster {}, {endpoints} endpoints", who.name, who.cluster)
        }
        Phase::Expelled(_, reason) => format!("removed from its cluster: {reason}"),
    }
}
