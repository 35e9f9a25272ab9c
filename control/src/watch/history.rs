//! The recent past: which rows each of the latest revisions changed.

use std::collections::VecDeque;

use overlay_core::Revision;

use crate::store::{Footprint, HISTORY};

/// Touched rows remembered at the most: 32 MiB; older steps are forgotten first.
const MAX_TOUCHED: usize = 1 << 19;

/// A run of consecutive steps that ends at the present.
#[derive(Debug, Default)]
pub(crate) struct History {
    steps: VecDeque<Footprint>,
    touched: usize,
}

impl History {
    /// Remembers the next step.
    pub(crate) fn push(&mut self, step: Footprint) {
        if self.steps.back().is_some_and(|last| last.to.next() != step.to) {
            self.steps.clear();
            self.touched = 0;
        }
        self.touched += step.touched.len();
        self.steps.push_back(step);
        while self.steps.len() as u64 > HISTORY || (self.touched > MAX_TOUCHED && self.steps.len() > 1) {
            let forgotten = self.steps.pop_front().map_or(0, |step| step.touched.len());
            self.touched -= forgotten;
        }
    }

    /// Lists the steps after a revision, latest first; nothing when that is too long ago.
    pub(crate) fn since(&self, from: Revision, present: Revision) -> Option<impl Iterator<Item = &Footprint>> {
        let missing = usize::try_from(present.0.checked_sub(from.0)?).ok()?;

        (missing <= self.steps.len()).then(|| self.steps.iter().rev().take(missing))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(to: u64) -> Footprint {
        Footprint { to: Revision(to), touched: Vec::new() }
    }

    #[test]
    fn the_past_is_there_as_far_as_it_reaches() {
        let mut history = History::default();
        for to in 5..=9 {
            history.push(step(to));
        }

        let steps = |from| history.since(Revision(from), Revision(9)).map(|s| s.map(|s| s.to.0).collect::<Vec<_>>());
        assert_eq!(steps(9), Some(vec![]));
        assert_eq!(steps(7), Some(vec![9, 8]));
        assert_eq!(steps(4), Some(vec![9, 8, 7, 6, 5]));
        assert_eq!(steps(3), None);
        assert_eq!(steps(10), None);
    }

    #[test]
    fn the_past_is_bounded() {
        let mut history = History::default();
        for to in 1..=HISTORY + 7 {
            history.push(step(to));
        }

        assert!(history.since(Revision(7), Revision(HISTORY + 7)).is_some());
        assert!(history.since(Revision(6), Revision(HISTORY + 7)).is_none());
    }
}
