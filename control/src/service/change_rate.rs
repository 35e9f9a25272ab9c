//! How fast one node may change the state: changes are decided one after another, and every node
//! hears of them, so whoever sends without end would keep all others waiting.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use overlay_core::NodeId;
use overlay_core::token_bucket::TokenBucket;
use overlay_proto::{Code, Refusal};
use tokio::time::{Instant, sleep};

use crate::registry::{Operation, limits};

/// Changes that a node may make at once: a host that starts hundreds of containers.
const BURST: u32 = 2_000;
/// The interval at which it may make one more: a hundred a second.
const INTERVAL: Duration = Duration::from_millis(10);
/// Rows and entries of one call that count as one change more.
const ENTRIES: usize = 50;
/// How long a call waits for its turn before it is refused.
const PATIENCE: Duration = Duration::from_secs(2);

/// How fast each node changes the state.
#[derive(Debug, Default)]
pub(crate) struct ChangeRate(Mutex<BTreeMap<NodeId, TokenBucket>>);

impl ChangeRate {
    /// Waits until a node may submit a command.
    ///
    /// # Errors
    ///
    /// `exhausted` when that would be too long.
    pub(super) async fn wait(&self, node: NodeId, command: &Operation) -> Result<(), Refusal> {
        let cost = cost(command);
        let begun = Instant::now();
        while let Err(pause) = self.take(node, cost, Instant::now()) {
            if begun.elapsed() + pause > PATIENCE {
                let each = 1_000 / INTERVAL.as_millis();
                return Err(Refusal::new(
                    Code::Exhausted,
                    format!(
                        "this node makes more than {each} changes a second; try again in {} s",
                        pause.as_secs() + 1
                    ),
                ));
            }
            sleep(pause).await;
        }

        Ok(())
    }

    fn take(&self, node: NodeId, cost: u32, now: Instant) -> Result<(), Duration> {
        let now = now.into_std();
        let mut buckets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if buckets.len() >= limits::MAX_NODES {
            // Nodes that were removed long ago.
            buckets.retain(|_, bucket| !bucket.is_full(now));
        }
        let bucket = buckets.entry(node).or_insert_with(|| TokenBucket::new(BURST, INTERVAL, now));

        bucket.take_some(cost, now)
    }
}

/// Returns as how many changes a command counts.
fn cost(command: &Operation) -> u32 {
    let entries = match command {
        Operation::Announce(announce) => announce.prefixes.len() + announce.differences.len(),
        Operation::PutEndpoints(rows) => rows.len(),
        Operation::RemoveEndpoints(keys) => keys.len(),
        Operation::Report(report) => report.endpoints.len(),
        Operation::MergeRemoved(removed) => removed.len(),
        Operation::Join(_)
        | Operation::Leave
        | Operation::RemoveNode(_)
        | Operation::Revoke(_)
        | Operation::CreateNetwork(_)
        | Operation::SetNetwork { .. }
        | Operation::LinkNetworks { .. }
        | Operation::UnlinkNetworks { .. }
        | Operation::RemoveNetwork { .. }
        | Operation::EnterNetwork { .. }
        | Operation::ExitNetwork(_)
        | Operation::CreateToken(_)
        | Operation::RevokeToken(_)
        | Operation::BeginAnew(_)
        | Operation::ApplyPolicy(_)
        | Operation::RollBackPolicy { .. } => 0,
    };

    1 + u32::try_from(entries / ENTRIES).unwrap_or(u32::MAX - 1)
}

#[cfg(test)]
mod tests {
    use overlay_core::HostPrefix;

    use super::*;
    use crate::registry::Announce;

    #[tokio::test]
    async fn a_burst_passes_then_a_node_waits_and_the_others_do_not() {
        let (rate, start) = (ChangeRate::default(), Instant::now());
        let other = NodeId::from_random(2);
        let at = |millis| start + Duration::from_millis(millis);

        for _ in 0..BURST {
            assert_eq!(rate.take(NodeId::FIRST, 1, start), Ok(()));
        }

        assert_eq!(rate.take(NodeId::FIRST, 1, start), Err(INTERVAL));
        assert_eq!(rate.take(other, 1, start), Ok(()));
        assert_eq!(rate.take(NodeId::FIRST, 1, at(10)), Ok(()));
        let passed = (1..=100).filter(|n| rate.take(NodeId::FIRST, 1, at(10 + n * 10)).is_ok());
        assert_eq!(passed.count(), 100);
        assert_eq!(rate.0.lock().unwrap().len(), 2);
    }

    #[test]
    fn a_long_announcement_counts_as_many_changes() {
        let prefix = HostPrefix { prefix: "10.0.0.0/24".parse().unwrap(), holder: String::new() };
        let announced = |prefixes| {
            Operation::Announce(Announce {
                underlay: Vec::new(),
                lane_ports: Vec::new(),
                prefixes: vec![prefix.clone(); prefixes],
                differences: Vec::new(),
                version: String::new(),
            })
        };

        assert_eq!([0, 49, 50, 1_000].map(|prefixes| cost(&announced(prefixes))), [1, 1, 2, 21]);
    }

    #[tokio::test]
    async fn what_would_wait_too_long_is_refused_with_the_limit() {
        let rate = ChangeRate::default();
        let key = (overlay_core::NetworkId::FIRST, overlay_core::EndpointId::from_random(1));
        let large = Operation::RemoveEndpoints(vec![key; 100_000]);

        rate.wait(NodeId::FIRST, &large).await.expect("it is the burst");
        let refused = rate.wait(NodeId::FIRST, &large).await.expect_err("it is much more");

        assert_eq!(refused.code, Code::Exhausted);
        let told = "this node makes more than 100 changes a second; try again in 2";
        assert!(refused.message.starts_with(told), "{refused:?}");
        rate.wait(NodeId::FIRST, &Operation::Leave).await.expect("in a moment");
    }
}
