//! Calls that were refused for who made them: without a certificate, beyond a role, with a wrong
//! token. They are counted by origin, and each origin becomes one record in time.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use overlay_core::NodeId;
use overlay_proto::Code;
use serde_json::{Value, json};
use tokio::time::sleep;

use super::CallOrigin;
use crate::connection_limits::Client;
use crate::writer::{Note, Writer};

/// How often what was refused is written down.
const PERIOD: Duration = Duration::from_secs(5);
/// The least time between two records of strangers, in seconds: 1,440 a day, however many addresses
/// they have.
const STRANGERS: u64 = 60;
/// Nodes that are counted one by one; further ones count as strangers.
const MAX_NODES: usize = 256;
/// Addresses of strangers that a record names.
const MAX_ADDRESSES: usize = 16;

/// What was refused since it was last written down; 256 KiB at most.
#[derive(Debug, Default)]
pub(crate) struct Refusals(Mutex<Counts>);

#[derive(Debug, Default)]
struct Counts {
    nodes: BTreeMap<NodeId, (CallOrigin, Refused)>,
    strangers: Refused,
    addresses: BTreeMap<IpAddr, u64>,
    /// When strangers were last written down, in seconds since 1970.
    written: u64,
}

/// How often which call was refused, and why.
#[derive(Debug, Default)]
struct Refused {
    counts: BTreeMap<String, u64>,
    since: u64,
    until: u64,
}

impl Refused {
    fn add(&mut self, call: &str, code: Code, now: u64) {
        if self.counts.is_empty() {
            self.since = now;
        }
        self.until = now;
        *self.counts.entry(format!("{call} {code}")).or_default() += 1;
    }

    fn details(self) -> Vec<(&'static str, Value)> {
        vec![
            ("refused", json!(self.counts)),
            ("since", self.since.into()),
            ("until", self.until.into()),
        ]
    }
}

impl Refusals {
    /// Counts a call that was refused at `now`, in seconds since 1970.
    pub(crate) fn note(&self, origin: &CallOrigin, call: &str, code: Code, now: u64) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let node = origin
            .node
            .filter(|node| counts.nodes.len() < MAX_NODES || counts.nodes.contains_key(node));
        if let Some(node) = node {
            let (last, refused) = counts.nodes.entry(node).or_default();
            *last = *origin;
            refused.add(call, code, now);
            return;
        }
        counts.strangers.add(call, code, now);
        if let Some(Client::Stranger(prefix)) = origin.address.map(Client::at)
            && (counts.addresses.len() < MAX_ADDRESSES || counts.addresses.contains_key(&prefix))
        {
            *counts.addresses.entry(prefix).or_default() += 1;
        }
    }

    /// Takes what is to be written down at `now`.
    fn due(&self, now: u64) -> Vec<Note> {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut notes: Vec<_> = std::mem::take(&mut counts.nodes)
            .into_iter()
            .map(|(node, (origin, refused))| Note {
                what: "refused",
                by: Some(node),
                origin,
                details: refused.details(),
            })
            .collect();
        let is_due = now.abs_diff(counts.written) >= STRANGERS;
        if is_due && !counts.strangers.counts.is_empty() {
            counts.written = now;
            let addresses = std::mem::take(&mut counts.addresses);
            let mut details = std::mem::take(&mut counts.strangers).details();
            let address = addresses.keys().next().copied().filter(|_| addresses.len() == 1);
            details.push(("addresses", json!(addresses)));
            let origin = CallOrigin { address, ..CallOrigin::default() };
            notes.push(Note { what: "refused", by: None, origin, details });
        }

        notes
    }

    /// Writes down what was refused, and closes sums that are due, as long as the writer is there.
    pub(crate) async fn run(&self, writer: Writer, clock: impl Fn() -> u64) {
        loop {
            sleep(PERIOD).await;
            for note in self.due(clock()) {
                // What cannot be stored is lost; that nothing can be stored is told elsewhere.
                let _ = writer.note(note).await;
            }
            writer.close_sums().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_800_000_000;

    #[test]
    fn a_nodes_refusals_are_one_note_and_those_of_all_strangers_are_another() {
        let refusals = Refusals::default();
        let of = |n| CallOrigin { node: Some(NodeId::from_random(n)), ..CallOrigin::default() };
        let stranger = |n: u32| CallOrigin {
            address: Some(IpAddr::from(n.to_be_bytes())),
            ..CallOrigin::default()
        };
        for n in 0..1_000 {
            refusals.note(&of(1), "CreateToken", Code::NotAllowed, NOW);
            refusals.note(&stranger(n), "Join", Code::TokenRefused, NOW + 1);
        }
        refusals.note(&of(2), "Watch", Code::NotAllowed, NOW);

        let notes = refusals.due(NOW + 2);

        let by: Vec<_> = notes.iter().map(|note| note.by.is_some()).collect();
        assert_eq!(by, [true, true, false]);
        let detail = |note: &Note, key: &str| {
            note.details.iter().find(|(it, _)| *it == key).map(|(_, value)| value.clone())
        };
        let counted = json!({ "CreateToken not-allowed": 1_000 });
        assert!(notes.iter().any(|note| detail(note, "refused").as_ref() == Some(&counted)));
        assert_eq!(detail(&notes[2], "refused"), Some(json!({ "Join token-refused": 1_000 })));
        let addresses = detail(&notes[2], "addresses").expect("addresses");
        assert_eq!(addresses.as_object().map(serde_json::Map::len), Some(MAX_ADDRESSES));
        assert!(refusals.due(NOW + 2).is_empty());
    }

    #[test]
    fn strangers_are_written_down_once_a_minute() {
        let refusals = Refusals::default();
        let told = (0..600)
            .map(|second| {
                refusals.note(&CallOrigin::default(), "Join", Code::TokenRefused, NOW + second);
                refusals.due(NOW + second).len()
            })
            .sum::<usize>();

        assert_eq!(told, 10);
    }

    #[test]
    fn beyond_the_bound_nodes_count_as_strangers() {
        let refusals = Refusals::default();
        for n in 1..=2 * MAX_NODES as u64 {
            let origin = CallOrigin { node: Some(NodeId::from_random(n)), ..CallOrigin::default() };
            refusals.note(&origin, "Watch", Code::NotAllowed, NOW);
        }

        assert_eq!(refusals.due(NOW).len(), MAX_NODES + 1);
    }
}
