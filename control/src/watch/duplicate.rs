//! Duplicate identities: two processes with the certificate of one node, as when a state directory
//! was copied. The one that was there first is kept, the other is turned away, and both are told.
//! Pure.

use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use overlay_proto::v1;
use tokio::time::Instant;

/// How long the first process is told of the other after the other was last turned away; it retries
/// every two seconds.
const STALE: Duration = Duration::from_secs(4);

/// Returns whether a new watch comes from another process than the open one. Agents that name no
/// instance count as the same.
pub(super) fn is_another(open: &str, coming: &str) -> bool {
    !open.is_empty() && !coming.is_empty() && open != coming
}

/// The process that was turned away last, if any.
#[derive(Debug, Default)]
pub(crate) struct Duplicate(Mutex<Option<TurnedAway>>);

#[derive(Debug, Clone, Copy)]
struct TurnedAway {
    address: IpAddr,
    since: u64,
    last: Instant,
}

impl Duplicate {
    /// Records that a process was turned away, at `unix` seconds since 1970; returns whether it is
    /// a new one.
    pub(super) fn turned_away(&self, address: IpAddr, unix: u64, now: Instant) -> bool {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let before = known.filter(|known| known.address == address && now < known.last + STALE);
        *known = Some(TurnedAway {
            address,
            since: before.map_or(unix, |before| before.since),
            last: now,
        });

        before.is_none()
    }

    /// Returns the notice for the process that was there first.
    pub(super) fn told(&self, now: Instant) -> Option<v1::IdentityClash> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *known = known.filter(|known| now < known.last + STALE);

        known.map(|known| v1::IdentityClash {
            address: known.address.to_string(),
            since_unix: known.since,
        })
    }

    /// Returns when the notice expires, if there is one.
    pub(super) fn until(&self) -> Option<Instant> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);

        known.map(|known| known.last + STALE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn only_two_named_instances_can_be_told_apart() {
        assert!(is_another("a", "b"));
        for (open, coming) in [("a", "a"), ("", "b"), ("a", ""), ("", "")] {
            assert!(!is_another(open, coming), "{open:?} {coming:?}");
        }
    }

    #[test]
    fn a_duplicate_is_told_of_while_it_comes_back_and_soon_not_any_more() {
        let duplicate = Duplicate::default();
        let (address, begun) = (IpAddr::from([192, 0, 2, 9]), Instant::now());

        let news = [(100, 0), (102, 2), (104, 4)]
            .map(|(unix, after)| duplicate.turned_away(address, unix, begun + SECOND * after));

        assert_eq!(news, [true, false, false]);
        let told = duplicate.told(begun + SECOND * 7).expect("it came three seconds ago");
        assert_eq!((told.address.as_str(), told.since_unix), ("192.0.2.9", 100));
        assert_eq!(duplicate.until(), Some(begun + SECOND * 8));
        assert_eq!(duplicate.told(begun + SECOND * 8), None);
        assert_eq!(duplicate.until(), None);
        assert!(duplicate.turned_away(address, 120, begun + SECOND * 20), "that is a new one");
    }
}
