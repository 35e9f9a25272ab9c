//! How many records of its own each caller gets: nobody pushes out what is kept of others.
//!
//! The log is bounded, and its oldest records go first. A caller that changes more than its share
//! is recorded in sums: how many of each command, between which times. A sum is stored with each
//! change that it counts, so that none is lost, and becomes a record of its own in time.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use overlay_core::Revision;
use overlay_proto::audit::{AuditRecord, Who};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::entry;
use crate::registry::limits::MAX_NODES;

/// Records of what agents do by themselves that a caller may have at once; a host that starts and
/// stops two thousand containers.
const ROUTINE: Rate = Rate { burst: 4_096, every: 10 };
/// Records of everything else that a caller may have at once: networks, tokens, policies.
const NOTABLE: Rate = Rate { burst: 1_024, every: 60 };
/// Bytes of a record that count as one record more.
const BYTES: u64 = 512;
/// How long a sum goes on, in seconds, until it becomes a record.
const SUM: u64 = 600;

/// A number at once, and one more every so many seconds.
#[derive(Debug, Clone, Copy)]
struct Rate {
    burst: u64,
    every: u64,
}

/// Whose share a record is taken from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Payer(String);

impl Payer {
    /// Returns whose share a record is taken from; nobody's where control or somebody on its host
    /// is the one who acts.
    pub(crate) fn of(who: &Who) -> Option<Self> {
        match who {
            Who::Node { id, .. } => Some(Self(format!("node/{id}"))),
            Who::Token { id } => Some(Self(format!("token/{id}"))),
            Who::Operator | Who::Control | Who::Stranger => None,
        }
    }
}

/// What a caller changed beyond its share.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Sum {
    who: Who,
    from: Option<IpAddr>,
    /// When the first of these changes was made, in seconds since 1970.
    since: u64,
    /// When the last one was made.
    until: u64,
    /// The revision that the first one led to.
    first: u64,
    /// The revision that the last one led to.
    last: u64,
    /// How often each command was given.
    changes: BTreeMap<String, u64>,
}

/// The shares of all callers, and the sums that are not closed.
#[derive(Debug, Default)]
pub(crate) struct AuditPace {
    shares: BTreeMap<(Payer, bool), Share>,
    sums: BTreeMap<String, Sum>,
    changed: BTreeSet<String>,
}

#[derive(Debug, Clone, Copy)]
struct Share {
    left: u64,
    /// Until when it is filled up, in seconds since 1970.
    at: u64,
}

impl AuditPace {
    /// Goes on with the sums that were stored.
    pub(crate) fn with_sums(sums: BTreeMap<String, Sum>) -> Self {
        Self { sums, ..Self::default() }
    }

    /// Returns a record that may be kept; what is beyond its caller's share becomes part of a sum.
    pub(crate) fn admit(&mut self, record: AuditRecord, is_routine: bool) -> Option<AuditRecord> {
        let Some(payer) = Payer::of(&record.who) else { return Some(record) };
        let size = serde_json::to_vec(&record).map_or(0, |bytes| bytes.len() as u64);
        if self.take(&payer, is_routine, 1 + size / BYTES, record.at) {
            return Some(record);
        }
        self.add(payer, record);

        None
    }

    fn take(&mut self, payer: &Payer, is_routine: bool, cost: u64, now: u64) -> bool {
        let rate = if is_routine { ROUTINE } else { NOTABLE };
        if self.shares.len() >= 2 * MAX_NODES {
            self.shares.retain(|(_, routine), share| {
                let rate = if *routine { ROUTINE } else { NOTABLE };
                share.left + now.saturating_sub(share.at) / rate.every < rate.burst
            });
        }
        let new = Share { left: rate.burst, at: now };
        let share = self.shares.entry((payer.clone(), is_routine)).or_insert(new);
        let gained = now.saturating_sub(share.at) / rate.every;
        share.left = (share.left + gained).min(rate.burst);
        // A clock that was set back gives nothing, and keeps nothing back.
        share.at = if now < share.at { now } else { share.at + gained * rate.every };
        let is_enough = share.left >= cost;
        if is_enough {
            share.left -= cost;
        }

        is_enough
    }

    fn add(&mut self, payer: Payer, record: AuditRecord) {
        let AuditRecord { at, revision, who, from, what, .. } = record;
        let sum = self.sums.entry(payer.0.clone()).or_insert_with(|| Sum {
            who,
            from,
            since: at,
            until: at,
            first: revision,
            last: revision,
            changes: BTreeMap::new(),
        });
        (sum.until, sum.last) = (at, revision);
        *sum.changes.entry(what).or_default() += 1;
        self.changed.insert(payer.0);
    }

    /// Closes the sums that have gone on long enough; returns their records.
    pub(crate) fn close(&mut self, revision: Revision, now: u64) -> Vec<AuditRecord> {
        let is_due = |sum: &Sum| now.abs_diff(sum.since) >= SUM;
        let due: Vec<_> =
            self.sums.iter().filter(|(_, sum)| is_due(sum)).map(|(key, _)| key.clone()).collect();
        let sums = due.into_iter().filter_map(|key| {
            let sum = self.sums.remove(&key)?;
            self.changed.insert(key);
            Some(sum)
        });

        sums.map(|sum| sum.record(revision, now)).collect()
    }

    /// Returns the sums that changed since the last call, as they are now; none for those that were
    /// closed.
    pub(crate) fn changed(&mut self) -> Vec<(String, Option<Sum>)> {
        let changed = std::mem::take(&mut self.changed);

        changed.into_iter().map(|key| (key.clone(), self.sums.get(&key).cloned())).collect()
    }

    /// Returns all sums, to go back to when they could not be stored.
    pub(crate) fn sums(&self) -> BTreeMap<String, Sum> {
        self.sums.clone()
    }

    /// Goes back to sums that are stored.
    pub(crate) fn restore(&mut self, sums: BTreeMap<String, Sum>) {
        self.sums = sums;
        self.changed.clear();
    }
}

impl Sum {
    fn record(self, revision: Revision, now: u64) -> AuditRecord {
        let details = [
            ("changes", json!(self.changes)),
            ("since", self.since.into()),
            ("until", self.until.into()),
            ("revisions", json!([self.first, self.last])),
        ];

        AuditRecord { from: self.from, ..entry::note("sum", self.who, revision, now, details) }
    }
}

#[cfg(test)]
mod tests {
    use overlay_core::NodeId;

    use super::*;

    const NOW: u64 = 1_800_000_000;

    fn record(node: u64, what: &str, now: u64) -> AuditRecord {
        let who = Who::Node {
            id: NodeId::from_random(node).to_string(),
            name: format!("n{node}"),
            role: "node".to_owned(),
            certificate: String::new(),
        };

        entry::note(what, who, Revision(now - NOW + 1), now, [])
    }

    #[test]
    fn a_caller_beyond_its_share_is_summed_and_others_are_not() {
        let mut pace = AuditPace::default();
        let kept = (0..10_000).filter_map(|_| pace.admit(record(1, "put-endpoints", NOW), true));

        assert_eq!(kept.count(), 4_096);
        assert!(pace.admit(record(1, "create-network", NOW), false).is_some(), "that is notable");
        assert!(pace.admit(record(2, "put-endpoints", NOW), true).is_some(), "it is another node");
        assert!(
            pace.admit(record(1, "put-endpoints", NOW + 10), true).is_some(),
            "one more in 10 s"
        );
        assert!(pace.admit(record(1, "put-endpoints", NOW + 10), true).is_none());
        assert_eq!(pace.close(Revision(9), NOW + SUM - 1), []);
        let sums = pace.close(Revision(9), NOW + SUM);
        assert_eq!(sums.len(), 1);
        assert_eq!(sums[0].details["changes"], json!({ "put-endpoints": 10_000 - 4_096 + 1 }));
        assert_eq!(pace.close(Revision(9), NOW + 9 * SUM), []);
    }

    #[test]
    fn a_large_record_takes_more_of_a_share() {
        let mut pace = AuditPace::default();
        let mut large = record(1, "announce", NOW);
        large.details.insert("why".to_owned(), "x".repeat(64 << 10).into());

        let kept = (0..1_000).filter_map(|_| pace.admit(large.clone(), true)).count();

        assert_eq!(kept, 4_096 / 129);
    }

    #[test]
    fn sums_are_stored_as_they_change_and_survive_a_restart() {
        let mut pace = AuditPace::default();
        let over = |pace: &mut AuditPace, now| {
            while pace.admit(record(1, "announce", now), true).is_some() {}
        };
        over(&mut pace, NOW);
        let stored = pace.changed();
        assert_eq!((stored.len(), pace.changed().len()), (1, 0));

        let sums = stored.into_iter().filter_map(|(key, sum)| Some((key, sum?))).collect();
        let mut pace = AuditPace::with_sums(sums);
        over(&mut pace, NOW + 1);
        let records = pace.close(Revision(9), NOW + SUM);

        assert_eq!(records[0].details["changes"], json!({ "announce": 2 }));
        assert_eq!(records[0].details["until"], NOW + 1);
        assert_eq!(pace.changed().len(), 1, "it is gone");
    }

    #[test]
    fn shares_and_sums_are_bounded_by_the_number_of_nodes() {
        let mut pace = AuditPace::default();
        for n in 0..4 * MAX_NODES as u64 {
            drop(pace.admit(record(n + 1, "announce", NOW + n), true));
        }

        assert!(pace.shares.len() <= 2 * MAX_NODES, "{}", pace.shares.len());
    }
}
