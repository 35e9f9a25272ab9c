//! When control was last heard, by a clock that nobody sets: the time since the host booted, which
//! goes on while the host sleeps.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use tokio::sync::watch;

use crate::state::KeptContact;

/// When control was last heard. Until it was, nothing is known: then every lease has run out.
#[derive(Debug)]
pub(crate) struct Contact(watch::Sender<Option<Duration>>);

impl Contact {
    /// Goes on from what was kept, if the host runs since then.
    pub(crate) fn new(kept: Option<KeptContact>, boot: &str, now: Duration) -> Self {
        let is_of_this_boot = |kept: &KeptContact| !boot.is_empty() && kept.boot == boot;
        let at = kept.filter(is_of_this_boot).map(|kept| Duration::from_millis(kept.at_ms));

        // A time yet to come is a lie.
        Self(watch::Sender::new(at.filter(|at| *at <= now)))
    }

    /// Notes that control was heard.
    pub(crate) fn heard(&self, now: Duration) {
        self.0.send_replace(Some(now));
    }

    /// Returns when control was last heard, since the boot.
    pub(crate) fn last(&self) -> Option<Duration> {
        *self.0.borrow()
    }

    /// Subscribes to control being heard.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Option<Duration>> {
        self.0.subscribe()
    }

    /// Returns what is to be kept.
    pub(crate) fn to_kept(&self, boot: &str) -> Option<KeptContact> {
        let at_ms = u64::try_from(self.last()?.as_millis()).ok()?;

        Some(KeptContact { boot: boot.to_owned(), at_ms })
    }
}

/// Returns the time since the host booted.
pub(crate) fn boot_time() -> Duration {
    // The kernel has this clock since 2.6.39; without it no lease would ever run out.
    clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(Duration::MAX, Duration::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn kept(boot: &str, secs: u64) -> Option<KeptContact> {
        Some(KeptContact { boot: boot.to_owned(), at_ms: secs * 1_000 })
    }

    #[test]
    fn only_what_was_kept_since_this_boot_and_lies_in_the_past_counts() {
        let last = |kept, boot| Contact::new(kept, boot, SECOND * 100).last();

        assert_eq!(last(kept("a", 90), "a"), Some(SECOND * 90));
        assert_eq!(last(kept("a", 90), "b"), None, "another boot");
        assert_eq!(last(kept("", 90), ""), None, "no boot is known");
        assert_eq!(last(kept("a", 101), "a"), None, "it is yet to come");
        assert_eq!(last(None, "a"), None);
    }

    #[test]
    fn what_is_kept_is_what_was_heard() {
        let contact = Contact::new(None, "a", SECOND);
        assert_eq!(contact.to_kept("a"), None);

        contact.heard(SECOND * 7);

        assert_eq!(contact.to_kept("a"), kept("a", 7));
    }

    #[test]
    fn the_clock_runs() {
        assert!(boot_time() > Duration::ZERO && boot_time() < Duration::MAX);
    }
}
