//! What became of packets, over all lanes.

use std::collections::BTreeMap;

use overlay_dataplane::DropKind;

use crate::path::{CounterKind, LaneReport};

/// A count of packets or of the calls that carry them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Counter {
    /// Its stable name.
    pub(crate) name: &'static str,
    /// What it means to people.
    pub(crate) kind: CounterKind,
    /// How often it happened.
    pub(crate) value: u64,
}

/// Adds up all lanes, by name. A drop is counted under its reason.
pub(super) fn sum(reports: &[LaneReport]) -> Vec<Counter> {
    let mut sums: BTreeMap<&'static str, Counter> = BTreeMap::new();
    for (name, kind, value) in reports.iter().flat_map(of_lane) {
        sums.entry(name).or_insert(Counter { name, kind, value: 0 }).value += value;
    }

    sums.into_values().collect()
}

fn of_lane(report: &LaneReport) -> impl Iterator<Item = (&'static str, CounterKind, u64)> {
    use CounterKind::{Noise, Refusal, Traffic};

    let engine = &report.engine;
    let engine_counts = [
        ("tun_packets", engine.tun_packets),
        ("udp_datagrams", engine.udp_datagrams),
        ("forwarded", engine.forwarded),
        ("forwarded_bytes", engine.forwarded_bytes),
        ("delivered", engine.delivered),
        ("delivered_bytes", engine.delivered_bytes),
        ("control", engine.control),
        ("control_sent", engine.control_sent),
        ("icmp_sent", engine.icmp_sent),
        ("fragments", engine.fragments),
        ("mss_clamped", engine.mss_clamped),
        ("waiting", engine.waiting),
    ];
    let engine_counts = engine_counts.into_iter().map(|(name, count)| (name, Traffic, count));
    let drops = engine.drops().map(|(reason, count)| match reason.kind() {
        DropKind::Refusal => (reason.as_str(), Refusal, count),
        DropKind::Noise => (reason.as_str(), Noise, count),
    });

    engine_counts.chain(drops).chain(report.io.iter())
}

#[cfg(test)]
mod tests {
    use overlay_dataplane::LaneId;

    use super::*;
    use crate::path::LaneCounters;

    fn lane(forwarded: u64, udp_failed: u64) -> LaneReport {
        let mut engine = overlay_dataplane::Counters::default();
        engine.forwarded = forwarded;

        LaneReport {
            lane: LaneId(0),
            port: 51820,
            engine,
            io: LaneCounters { udp_failed, ..LaneCounters::default() },
            segments: true,
            refused: None,
            peers: Vec::new(),
        }
    }

    #[test]
    fn lanes_are_added_up_by_name() {
        let counters = sum(&[lane(3, 0), lane(4, 1)]);

        let find = |name| counters.iter().find(|counter| counter.name == name).copied();
        let (forwarded, failed) = (find("forwarded"), find("udp_failed"));
        let counter = |name, kind, value| Some(Counter { name, kind, value });
        assert_eq!(forwarded, counter("forwarded", CounterKind::Traffic, 7));
        assert_eq!(failed, counter("udp_failed", CounterKind::Refusal, 1));
        assert!(counters.is_sorted_by_key(|counter| counter.name));
    }
}
