//! The replay window: messages may arrive out of order, but each only once (§5.4.6, after RFC
//! 6479).

use crate::timers::REJECT_AFTER_MESSAGES;

/// How far behind the latest counter a counter may be (rule D4: 8,192, as in the kernel).
pub(crate) const WINDOW: u64 = 8_192;
const WORD: u64 = u64::BITS as u64;
const WORDS: usize = (WINDOW / WORD) as usize;

/// The counters of one session that were seen.
#[derive(Debug, Clone)]
pub(crate) struct ReplayWindow {
    /// One more than the highest counter seen: at most [`REJECT_AFTER_MESSAGES`].
    next: u64,
    /// One bit for each of the [`WINDOW`] counters below `next`, at the counter modulo [`WINDOW`].
    seen: [u64; WORDS],
}

impl ReplayWindow {
    pub(crate) fn new() -> Self {
        Self { next: 0, seen: [0; WORDS] }
    }

    /// Returns one more than the highest counter seen, and which counters below it were seen.
    pub(crate) fn parts(&self) -> (u64, &[u64]) {
        (self.next, &self.seen)
    }

    /// Makes a window from what [`ReplayWindow::parts`] returned, if it is valid.
    pub(crate) fn from_parts(next: u64, seen: &[u64]) -> Option<Self> {
        let seen = seen.try_into().ok()?;

        (next <= REJECT_AFTER_MESSAGES).then_some(Self { next, seen })
    }

    /// Returns whether a counter may still be accepted.
    #[inline]
    pub(crate) fn admits(&self, counter: u64) -> bool {
        if counter >= self.next {
            return counter < REJECT_AFTER_MESSAGES;
        }
        let (word, bit) = place(counter);

        self.next - counter <= WINDOW && self.seen[word] & bit == 0
    }

    /// Accepts a counter, once. Returns whether it was accepted.
    #[inline]
    pub(crate) fn accept(&mut self, counter: u64) -> bool {
        if !self.admits(counter) {
            return false;
        }
        if counter >= self.next {
            self.advance(counter);
        }
        let (word, bit) = place(counter);
        self.seen[word] |= bit;

        true
    }

    /// Makes `counter` the highest one and clears the bits that it and the skipped counters take
    /// over.
    #[inline]
    fn advance(&mut self, counter: u64) {
        let skipped = counter - self.next;
        if skipped >= WINDOW {
            self.seen = [0; WORDS];
        } else if skipped == 0 {
            let (word, bit) = place(counter);
            self.seen[word] &= !bit;
        } else {
            self.clear(self.next, counter);
        }
        self.next = counter + 1;
    }

    /// Clears the bits of the counters from `first` to `last`, fewer than [`WINDOW`] of them.
    fn clear(&mut self, first: u64, last: u64) {
        let mut at = first;
        while at <= last {
            let end = last.min(at | (WORD - 1));
            let (word, _) = place(at);
            self.seen[word] &= !((u64::MAX << (at % WORD)) & (u64::MAX >> (WORD - 1 - end % WORD)));
            at = end + 1;
        }
    }
}

/// Returns the word and the bit of a counter.
#[inline]
fn place(counter: u64) -> (usize, u64) {
    let at = counter % WINDOW;

    ((at / WORD) as usize, 1 << (at % WORD))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    /// The same rule in its simplest form.
    #[derive(Default)]
    struct Model {
        seen: BTreeSet<u64>,
    }

    impl Model {
        fn accept(&mut self, counter: u64) -> bool {
            let last = self.seen.last().copied();
            let is_old =
                last.is_some_and(|last| u128::from(counter) + u128::from(WINDOW) <= last.into());

            counter < REJECT_AFTER_MESSAGES && !is_old && self.seen.insert(counter)
        }
    }

    #[test]
    fn everything_in_the_window_is_accepted_once() {
        let mut window = ReplayWindow::new();
        assert!(window.accept(10_000));

        for counter in (10_001 - WINDOW..10_000).rev() {
            assert!(window.accept(counter), "{counter}");
            assert!(!window.accept(counter), "{counter}");
        }
        assert!(!window.admits(10_000 - WINDOW));
    }

    #[test]
    fn the_last_counters_are_refused() {
        let mut window = ReplayWindow::new();

        for counter in [REJECT_AFTER_MESSAGES, u64::MAX - 6, u64::MAX] {
            assert!(!window.admits(counter));
            assert!(!window.accept(counter));
        }
        assert!(window.accept(REJECT_AFTER_MESSAGES - 1));
        assert!(window.accept(REJECT_AFTER_MESSAGES - 2));
        assert!(!window.accept(REJECT_AFTER_MESSAGES - 1));
        assert!(!window.accept(0));
    }

    /// Counters as a reordering path brings them: steps around the last one, some of them far.
    fn counters() -> impl Strategy<Value = Vec<u64>> {
        let steps = prop_oneof![
            8 => -70..70_i64,
            2 => -9_000..9_000_i64,
            1 => any::<i64>(),
        ];

        (any::<u64>(), proptest::collection::vec(steps, 1..200)).prop_map(|(start, steps)| {
            let mut last = if start % 2 == 0 { start } else { start % 20_000 };
            steps
                .into_iter()
                .map(|step| {
                    last = last.saturating_add_signed(step);
                    last
                })
                .collect()
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]
        #[test]
        fn it_decides_as_the_rule_does(counters in counters()) {
            let (mut window, mut model) = (ReplayWindow::new(), Model::default());

            for counter in counters {
                let admits = window.admits(counter);
                let accepted = window.accept(counter);

                prop_assert_eq!(accepted, model.accept(counter), "{}", counter);
                prop_assert_eq!(accepted, admits);
            }
        }
    }
}
