//! Caches the view on disk, so that an agent that starts while control is away knows its networks.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use overlay_core::{Change, Delta, Revision, RowKey, Stamp, View};
use tokio::sync::watch;
use tokio::time::sleep;

use super::Membership;
use super::changed_rows::ViewCursor;
use crate::state::{StateError, StateStore, in_store};

/// How long changes are collected: a burst costs one write.
const GATHER: Duration = Duration::from_millis(100);
/// The pause after a failure.
const RETRY: Duration = Duration::from_secs(1);

/// Keeps it while the node is joined. No view is held on to: one that somebody holds is copied
/// whole by the next change.
pub(crate) async fn run(mut membership: watch::Receiver<Membership>, store: &StateStore) {
    let (mut kept, mut seen) = {
        let kept = membership.borrow_and_update();
        (position(&kept.view), kept.changed.cursor())
    };
    loop {
        let Some(update) = Update::new(&membership.borrow_and_update(), kept, seen) else {
            if membership.changed().await.is_err() {
                return;
            }
            continue;
        };
        let now = (update.position(), update.seen);
        match in_store(store, move |store| update.write(store)).await {
            Ok(()) => {
                (kept, seen) = now;
                sleep(GATHER).await;
            }
            // The store reports its own failure.
            Err(_) => sleep(RETRY).await,
        }
    }
}

/// Where a view stands: revisions of two histories say nothing about each other.
type Position = (Revision, Option<Stamp>);

fn position(view: &View) -> Position {
    (view.revision, view.stamp)
}

/// What is to be written.
struct Update {
    rows: Rows,
    /// Where whoever has written it stands.
    seen: ViewCursor,
}

enum Rows {
    All(Arc<View>),
    Changed(Delta),
}

impl Update {
    /// Compares the membership with what is on disk; nothing where that is as good.
    fn new(membership: &Membership, kept: Position, seen: ViewCursor) -> Option<Self> {
        let view = &membership.view;
        // A view that is waiting for its snapshot is no better than the one on disk.
        if position(view) == kept || view.revision == Revision(0) {
            return None;
        }
        let rows = match membership.changed.since(seen) {
            Some(keys) => Rows::Changed(Delta {
                from: kept.0,
                to: view.revision,
                changes: steps(view, keys),
                put_out: Vec::new(),
                stamp: view.stamp,
            }),
            None => Rows::All(Arc::clone(view)),
        };

        Some(Self { rows, seen: membership.changed.cursor() })
    }

    fn position(&self) -> Position {
        match &self.rows {
            Rows::All(view) => position(view),
            Rows::Changed(delta) => (delta.to, delta.stamp),
        }
    }

    fn write(&self, store: &StateStore) -> Result<(), StateError> {
        match &self.rows {
            Rows::All(view) => store.put_view(view),
            Rows::Changed(delta) => store.put_delta(delta),
        }
    }
}

/// Lists the changes that lead to a view, where rows with these keys differ.
fn steps(to: &View, keys: impl Iterator<Item = RowKey>) -> Vec<Change> {
    let keys: BTreeSet<RowKey> = keys.collect();

    keys.into_iter().map(|key| to.row(key).unwrap_or(Change::Removed(key))).collect()
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
    fn the_same_revision_of_another_history_is_written_whole() {
        let stamp = |n| Some(Stamp { lineage: [n; 16].into(), mark: None });
        let view =
            |n| View { stamp: stamp(n), ..View::from_rows(Revision(3), [node(n.into(), 1)]) };
        let mut membership = Membership::kept(view(1));
        let (kept, seen) = (position(&membership.view), membership.changed.cursor());
        assert!(Update::new(&membership, kept, seen).is_none());

        membership.begin_anew(view(2), NodeId::FIRST);
        let update = Update::new(&membership, kept, seen).expect("it is another one");

        assert!(matches!(&update.rows, Rows::All(_)));
        assert_eq!(update.position(), (Revision(3), stamp(2)));
    }

    #[test]
    fn the_steps_lead_there_and_nothing_unchanged_is_written() {
        let from = View::from_rows(Revision(1), [node(1, 1), node(2, 2), node(3, 3)]);
        let to = View::from_rows(Revision(4), [node(2, 9), node(3, 3), node(4, 4)]);

        let changed = [1, 2, 4].map(|n| RowKey::Node(NodeId::from_random(n)));
        let changes = steps(&to, changed.into_iter().chain(changed));

        assert_eq!(changes.len(), 3);
        let mut reached = from;
        reached
            .apply_delta(Delta {
                from: Revision(1),
                to: Revision(4),
                changes,
                put_out: Vec::new(),
                stamp: None,
            })
            .expect("it starts there");
        assert_eq!(reached, to);
    }
}
