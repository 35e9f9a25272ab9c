//! Watches over what endpoints live in: one whose process or namespace is gone goes too.

use std::collections::BTreeMap;
use std::time::Duration;

use overlay_core::EndpointId;
use tokio::time::sleep;

use super::{lifecycle, sandbox};
use crate::session::Session;

/// How often they are looked at. A look is one small file of `/proc` and one `stat` an endpoint.
const LOOK: Duration = Duration::from_millis(500);

/// Watches for as long as the session lasts.
pub(crate) async fn run(session: &Session) {
    loop {
        sleep(LOOK).await;
        let mut lost: BTreeMap<&'static str, Vec<EndpointId>> = BTreeMap::new();
        for (id, record) in session.journal.entries().iter() {
            if let Some(why) = why_lost(session, record) {
                lost.entry(why).or_default().push(*id);
            }
        }
        for (why, ids) in lost {
            if let Err(refusal) = lifecycle::remove(session, ids, why).await {
                session.problems.raise("journal", refusal.code.as_str(), refusal);
            }
        }
    }
}

fn why_lost(session: &Session, record: &crate::state::EndpointRecord) -> Option<&'static str> {
    let membership = session.membership.borrow();
    let is_removed = membership.live && !membership.view.networks.contains_key(&record.endpoint.network);
    // A network that Docker's containers are on comes back rather than that they lose it (`docker::sync`).
    if is_removed && !record.sandbox.is_docker() {
        return Some("its network was removed");
    }

    sandbox::lost(record)
}
