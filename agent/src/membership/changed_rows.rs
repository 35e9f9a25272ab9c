//! Which rows of the view changed lately, so that work per change is that of the rows it touches.
//! Pure.

use std::collections::VecDeque;

use overlay_core::RowKey;

/// The most keys that are remembered, 100 KiB. Whoever has not looked for longer looks at
/// everything.
const MAX_KEYS: usize = 4_096;

/// Where somebody stands who has seen a view.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct ViewCursor {
    /// Counts the snapshots: rows of two of them may differ though their revisions do not.
    snapshots: u64,
    /// How many keys had been noted since the snapshot.
    noted: u64,
}

/// The keys of the rows that changed lately, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ChangedRows {
    cursor: ViewCursor,
    keys: VecDeque<RowKey>,
}

impl ChangedRows {
    /// Returns where somebody stands who has seen the present view.
    pub(crate) fn cursor(&self) -> ViewCursor {
        self.cursor
    }

    /// Notes that every row may have changed.
    pub(crate) fn note_snapshot(&mut self) {
        self.cursor = ViewCursor { snapshots: self.cursor.snapshots + 1, noted: 0 };
        self.keys.clear();
    }

    /// Notes changed rows.
    pub(crate) fn note(&mut self, keys: impl IntoIterator<Item = RowKey>) {
        for key in keys {
            self.keys.push_back(key);
            self.cursor.noted += 1;
        }
        let forgotten = self.keys.len().saturating_sub(MAX_KEYS);
        self.keys.drain(..forgotten);
    }

    /// Lists the rows that changed since; nothing when any may have.
    pub(crate) fn since(&self, seen: ViewCursor) -> Option<impl Iterator<Item = RowKey>> {
        let new = self
            .cursor
            .noted
            .checked_sub(seen.noted)
            .filter(|_| self.cursor.snapshots == seen.snapshots)?;
        let new = usize::try_from(new).ok().filter(|new| *new <= self.keys.len())?;

        Some(self.keys.iter().skip(self.keys.len() - new).copied())
    }
}

#[cfg(test)]
mod tests {
    use overlay_core::NodeId;

    use super::*;

    fn node(n: u64) -> RowKey {
        RowKey::Node(NodeId::from_random(n))
    }

    fn since(rows: &ChangedRows, seen: ViewCursor) -> Option<Vec<RowKey>> {
        rows.since(seen).map(Iterator::collect)
    }

    #[test]
    fn whoever_looked_before_sees_what_changed_since_and_no_more() {
        let mut rows = ChangedRows::default();
        rows.note([node(1)]);
        let seen = rows.cursor();

        rows.note([node(2), node(3)]);

        assert_eq!(since(&rows, seen), Some(vec![node(2), node(3)]));
        assert_eq!(since(&rows, rows.cursor()), Some(vec![]));
    }

    #[test]
    fn after_a_snapshot_or_too_many_changes_anything_may_have_changed() {
        let mut rows = ChangedRows::default();
        let seen = rows.cursor();
        rows.note((0..=MAX_KEYS as u64).map(node));
        assert_eq!(since(&rows, seen), None);

        let seen = rows.cursor();
        rows.note_snapshot();

        assert_eq!(since(&rows, seen), None);
        assert_eq!(since(&rows, rows.cursor()), Some(vec![]));
    }
}
