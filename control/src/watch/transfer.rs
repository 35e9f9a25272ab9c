//! Sends a watcher what it lacks in parts of bounded size, read from the state as it is when each
//! part is made.
//!
//! The rows to send are listed at one revision, 24 bytes each, and read as the watcher takes them:
//! no copy of them waits for a slow reader. Those that changed meanwhile are sent again at the end,
//! so that all of them together are right at the revision of the last part; before that the watcher
//! uses none of them.

use overlay_core::{Change, Delta, NodeId, Revision, RowKey, Stamp};
use overlay_proto::{convert, v1};

use super::catch_up::{self, MissingRows};
use super::hub::Present;

/// How many bytes of rows a part has at least, unless it is the last: the longest row (a policy of
/// 1 MiB) may come on top.
pub(crate) const CHUNK: usize = 256 << 10;

/// What a watcher has still to be sent.
#[derive(Debug)]
pub(crate) struct WatchTransfer {
    /// Where the watcher stands; nowhere when it gets everything.
    from: Option<Revision>,
    /// Where it will stand after the rows that are left.
    to: Revision,
    keys: std::collections::btree_set::IntoIter<RowKey>,
    /// Whether rows that are missing must be told: the watcher may have them.
    tells_removed: bool,
    put_out: Vec<overlay_core::NetworkId>,
    is_first: bool,
}

/// A part of what a watcher is sent.
#[derive(Debug)]
pub(crate) enum Part {
    /// All that changed.
    Delta(Delta),
    /// One of several parts.
    Chunk(v1::Chunk),
}

impl WatchTransfer {
    /// Begins to bring a node from its revision to the current one.
    pub(super) fn new(present: &Present, node: NodeId, from: Option<Revision>) -> Self {
        let state = &present.state;
        let step = from.and_then(|from| catch_up::since(state, &present.history, node, from));

        Self::of(step.unwrap_or_else(|| catch_up::whole(state, node)))
    }

    fn of(step: MissingRows) -> Self {
        let MissingRows { from, to, keys, put_out } = step;
        let tells_removed = from.is_some();

        Self { from, to, keys: keys.into_iter(), tells_removed, put_out, is_first: true }
    }

    /// Returns the revision that the last part led to.
    pub(crate) fn reached(&self) -> Revision {
        self.to
    }

    /// Makes the next part. After the last one there is none.
    pub(super) fn next(&mut self, present: &Present, node: NodeId) -> Part {
        let (mut changes, mut bytes) = (Vec::new(), 0);
        let is_last = loop {
            match self.keys.next() {
                Some(key) => {
                    let row = catch_up::change(&present.state, node, key);
                    if self.tells_removed || !matches!(row, Change::Removed(_)) {
                        bytes += convert::encoded_len(&row);
                        changes.push(row);
                    }
                }
                None if self.to == present.state.view().revision => break true,
                None => {
                    if self.go_on(present, node) {
                        (changes, bytes) = (Vec::new(), 0);
                    }
                }
            }
            if bytes >= CHUNK {
                break false;
            }
        };
        let stamp = is_last.then(|| present.stamp(self.to)).flatten();

        self.part(changes, is_last, stamp)
    }

    /// Adds what changed since the rows were listed; returns whether everything begins anew.
    fn go_on(&mut self, present: &Present, node: NodeId) -> bool {
        match catch_up::since(&present.state, &present.history, node, self.to) {
            Some(step) => {
                (self.to, self.keys, self.tells_removed) = (step.to, step.keys.into_iter(), true);
                self.put_out.extend(step.put_out);
                false
            }
            None => {
                *self = Self::of(catch_up::whole(&present.state, node));
                true
            }
        }
    }

    fn part(&mut self, changes: Vec<Change>, is_last: bool, stamp: Option<Stamp>) -> Part {
        let is_first = std::mem::take(&mut self.is_first);
        if let (Some(from), true, true) = (self.from, is_first, is_last) {
            let put_out = std::mem::take(&mut self.put_out);
            return Part::Delta(Delta { from, to: self.to, changes, put_out, stamp });
        }
        let (lineage, mark) = convert::stamp_fields(stamp);
        let put_out = if is_last { std::mem::take(&mut self.put_out) } else { Vec::new() };

        Part::Chunk(v1::Chunk {
            first: is_first,
            last: is_last,
            from: self.from.filter(|_| is_first).map(|from| from.0),
            changes: changes.into_iter().map(Into::into).collect(),
            put_out: put_out.iter().map(ToString::to_string).collect(),
            to: if is_last { self.to.0 } else { 0 },
            lineage,
            mark,
        })
    }
}
