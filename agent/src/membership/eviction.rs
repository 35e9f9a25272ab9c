//! Learns of removed nodes, from control and from peers: whoever is named by a revocation that the
//! cluster's authority signed is no peer from then on, whatever control says later, and all other
//! peers are told.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use overlay_proto::revocation::InvalidRevocation;
use overlay_proto::{SignedRevocation, v1};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{broadcast, watch};
use tokio::time::sleep;

use super::control_link::ControlLink;
use super::revocations::Revocations;
use super::{Membership, connection};
use crate::state::{Identity, StateStore, in_store};

/// The pause after a notice that is no revocation: to verify those of a hostile peer takes less
/// than one percent of a core.
const PAUSE: Duration = Duration::from_millis(20);
/// The pause after a failure to keep them.
const RETRY: Duration = Duration::from_secs(1);

/// Takes a revocation that anybody may have sent. Returns why this node is none any more, if it is
/// of this one.
///
/// # Errors
///
/// Why it is no revocation of this cluster; nothing changes then.
pub(crate) fn learn(
    membership: &watch::Sender<Membership>,
    who: &Identity,
    bytes: &[u8],
) -> Result<Option<String>, InvalidRevocation> {
    // To look at one costs less than to verify it.
    let node = SignedRevocation::trusted(bytes, who.cluster)?.revocation().node;
    if !membership.borrow().revocations.names(node) {
        let signed = SignedRevocation::verified(bytes, who.cluster, &who.ca)?;
        let text = signed.revocation().to_string();
        if membership.send_if_modified(|membership| membership.revoke(signed)) {
            tracing::warn!(revocation = %text, "A node was removed");
        }
    }

    Ok(expulsion(membership, who))
}

/// Says why this node is none any more, if it was removed.
fn expulsion(membership: &watch::Sender<Membership>, who: &Identity) -> Option<String> {
    membership.borrow().revocations.find(who.node).map(ToString::to_string)
}

/// Takes what control tells of removed nodes, and tells it what it wants to know. Returns why this
/// node is none any more, if it was removed.
pub(crate) async fn hear_control(
    membership: &watch::Sender<Membership>,
    control: &ControlLink,
    news: &v1::Revocations,
) -> Option<String> {
    let who = control.identity();
    for bytes in &news.signed {
        match learn(membership, &who, bytes) {
            Ok(Some(reason)) => return Some(reason),
            Ok(None) => {}
            Err(error) => tracing::warn!(%error, "Control told of a revocation that is none"),
        }
    }
    let known = Arc::clone(&membership.borrow().revocations);
    let is_wanted = |node: overlay_core::NodeId| news.wanted.contains(&node.as_u64());
    let signed: Vec<_> =
        known.iter().filter(|(node, _)| is_wanted(*node)).map(|it| it.1.bytes().to_vec()).collect();
    if !signed.is_empty()
        && let Ok(mut client) = control.connection.client()
    {
        let told = connection::call(client.tell_revocations(v1::TellRevocationsRequest { signed }));
        match told.await {
            Ok(answer) => tracing::warn!(added = answer.added, "Told control of removed nodes"),
            // The next watch begins with the same question.
            Err(error) => tracing::info!(%error, "Control was not told of removed nodes"),
        }
    }

    None
}

/// Takes what peers tell, until this node itself was removed; returns why.
pub(crate) async fn run(
    membership: &watch::Sender<Membership>,
    control: &ControlLink,
    notices: &broadcast::Sender<Arc<[u8]>>,
) -> String {
    let mut notices = notices.subscribe();
    loop {
        // It may have been kept by a process that ended before it said so.
        if let Some(reason) = expulsion(membership, &control.identity()) {
            return reason;
        }
        match notices.recv().await {
            Ok(notice) => {
                if let Err(error) = learn(membership, &control.identity(), &notice) {
                    tracing::debug!(%error, "A peer's notice is no revocation");
                    sleep(PAUSE).await;
                }
            }
            Err(RecvError::Lagged(lost)) => tracing::debug!(lost, "Notices of peers were lost"),
            // The lanes are gone, and with them the process.
            Err(RecvError::Closed) => std::future::pending().await,
        }
    }
}

/// Keeps on disk what is known of removed nodes.
pub(crate) async fn keep(mut membership: watch::Receiver<Membership>, store: &StateStore) {
    let mut kept = Arc::<Revocations>::clone(&membership.borrow_and_update().revocations);
    loop {
        let known = Arc::clone(&membership.borrow_and_update().revocations);
        if known == kept {
            if membership.changed().await.is_err() {
                return;
            }
            continue;
        }
        let signed = known.iter().map(|(node, signed)| (node, Arc::clone(signed.bytes())));
        let signed: BTreeMap<_, _> = signed.collect();
        match in_store(store, move |store| store.put_revocations(&signed)).await {
            Ok(()) => kept = known,
            // The store reports its own failure.
            Err(_) => sleep(RETRY).await,
        }
    }
}

#[cfg(test)]
#[path = "eviction_tests.rs"]
mod tests;
