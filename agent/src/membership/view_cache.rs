//! Caches the view on disk, so that an agent that starts while control is away knows its networks.

use std::sync::Arc;
use std::time::Duration;

use overlay_core::{Change, Delta, Revision, View};
use tokio::sync::watch;
use tokio::time::sleep;

use super::Membership;
use crate::state::{StateStore, in_store};

/// How long changes are collected: a burst costs one write.
const GATHER: Duration = Duration::from_millis(100);
/// The pause after a failure.
const RETRY: Duration = Duration::from_secs(1);

/// Keeps it while the node is joined.
pub(crate) async fn run(mut membership: watch::Receiver<Membership>, store: &StateStore) {
    let mut kept = Arc::clone(&membership.borrow_and_update().view);
    loop {
        let view = Arc::clone(&membership.borrow_and_update().view);
        // A view that is waiting for its snapshot is no better than the one on disk.
        if view.revision != kept.revision && view.revision > Revision(0) {
            let delta = Delta { from: kept.revision, to: view.revision, changes: steps(&kept, &view) };
            match in_store(store, move |store| store.put_delta(&delta)).await {
                Ok(()) => {
                    kept = view;
                    sleep(GATHER).await;
                }
                // The store reports its own failure.
                Err(_) => sleep(RETRY).await,
            }
            continue;
        }
        if membership.changed().await.is_err() {
            return;
        }
    }
}

/// Lists the changes from one view to another.
fn steps(from: &View, to: &View) -> Vec<Change> {
    let set = to.rows().filter(|row| from.row(row.key()).as_ref() != Some(row));
    let removed = from.rows().map(|row| row.key()).filter(|key| to.row(*key).is_none()).map(Change::Removed);

    set.chain(removed).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use overlay_core::{Node, NodeId, Role};

    use super::*;

    fn node(n: u64, port: u16) -> Change {
        Change::Node(Node {
            id: NodeId::from_random(n),
            name: format!("n{n}").parse().expect("a name"),
            role: Role::Node,
            labels: BTreeMap::new(),
            underlay: Vec::new(),
            lane_ports: vec![port],
        })
    }

    #[test]
    fn the_steps_lead_there_and_nothing_unchanged_is_written() {
        let from = View::from_rows(Revision(1), [node(1, 1), node(2, 2), node(3, 3)]);
        let to = View::from_rows(Revision(4), [node(2, 9), node(3, 3), node(4, 4)]);

        let changes = steps(&from, &to);

        assert_eq!(changes.len(), 3);
        let mut reached = from;
        reached.apply_delta(Delta { from: Revision(1), to: Revision(4), changes }).expect("it starts there");
        assert_eq!(reached, to);
    }
}
