//! The change log: which rows each of the latest revisions changed.

use std::collections::VecDeque;

use overlay_core::Revision;

use crate::store::{ChangeLogEntry, HISTORY};

/// The most keys that are kept, 32 MiB; the oldest commits are dropped first.
const MAX_CHANGED: usize = 1 << 19;

/// Consecutive commits, up to the current revision.
#[derive(Debug, Default)]
pub(crate) struct ChangeLog {
    commits: VecDeque<ChangeLogEntry>,
    changed: usize,
}

impl ChangeLog {
    /// Appends a commit.
    pub(crate) fn push(&mut self, commit: ChangeLogEntry) {
        if self.commits.back().is_some_and(|last| last.to.next() != commit.to) {
            self.commits.clear();
            self.changed = 0;
        }
        self.changed += commit.changed.len();
        self.commits.push_back(commit);
        while self.commits.len() as u64 > HISTORY
            || (self.changed > MAX_CHANGED && self.commits.len() > 1)
        {
            let forgotten = self.commits.pop_front().map_or(0, |commit| commit.changed.len());
            self.changed -= forgotten;
        }
    }

    /// Returns by what a revision is marked, where its commit is kept and has a mark.
    pub(crate) fn nonce(&self, revision: Revision) -> Option<u64> {
        let last = self.commits.back()?.to.0;
        let back = usize::try_from(last.checked_sub(revision.0)?).ok()?;
        let commit = self.commits.iter().rev().nth(back)?;

        Some(commit.nonce).filter(|nonce| *nonce != 0)
    }

    /// Lists the commits after a revision, latest first; `None` when that is too long ago.
    pub(crate) fn since(
        &self,
        from: Revision,
        present: Revision,
    ) -> Option<impl Iterator<Item = &ChangeLogEntry>> {
        let missing = usize::try_from(present.0.checked_sub(from.0)?).ok()?;

        (missing <= self.commits.len()).then(|| self.commits.iter().rev().take(missing))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn commit(to: u64) -> ChangeLogEntry {
        ChangeLogEntry { to: Revision(to), changed: Vec::new(), nonce: to }
    }

    #[test]
    fn the_past_is_there_as_far_as_it_reaches() {
        let mut history = ChangeLog::default();
        for to in 5..=9 {
            history.push(commit(to));
        }

        let commits = |from| {
            history
                .since(Revision(from), Revision(9))
                .map(|s| s.map(|s| s.to.0).collect::<Vec<_>>())
        };
        assert_eq!(commits(9), Some(vec![]));
        assert_eq!(commits(7), Some(vec![9, 8]));
        assert_eq!(commits(4), Some(vec![9, 8, 7, 6, 5]));
        assert_eq!(commits(3), None);
        assert_eq!(commits(10), None);
        assert_eq!(
            [4, 5, 9, 10].map(|to| history.nonce(Revision(to))),
            [None, Some(5), Some(9), None]
        );
    }

    #[test]
    fn the_past_is_bounded() {
        let mut history = ChangeLog::default();
        for to in 1..=HISTORY + 7 {
            history.push(commit(to));
        }

        assert!(history.since(Revision(7), Revision(HISTORY + 7)).is_some());
        assert!(history.since(Revision(6), Revision(HISTORY + 7)).is_none());
    }
}
