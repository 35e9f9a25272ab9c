//! The bars: how Overlay must compare with the others, as ratios within one run. Pure.

use serde::Serialize;

use super::competitor::{BARE, OVERLAY, WITH_POLICY};
use super::metric::Metric;

/// The name for the best of the others, which throughput and round trips are compared with.
const BEST: &str = "best peer";

/// One bar, and whether it is met.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Bar {
    /// What is compared with what, for people.
    pub(super) what: String,
    /// The ratio found.
    pub(super) ratio: f64,
    /// What the ratio must be.
    pub(super) bound: Bound,
    /// Whether the ratio meets the bound.
    pub(super) holds: bool,
}

/// What a ratio must be.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Bound {
    /// At least this.
    AtLeast(f64),
    /// At most this.
    AtMost(f64),
}

impl Bound {
    fn admits(self, ratio: f64) -> bool {
        match self {
            Self::AtLeast(bound) => ratio >= bound,
            Self::AtMost(bound) => ratio <= bound,
        }
    }
}

impl std::fmt::Display for Bound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::AtLeast(bound) => write!(f, ">= {bound}"),
            Self::AtMost(bound) => write!(f, "<= {bound}"),
        }
    }
}

/// The figures of Overlay that are compared with those of another competitor, or of the best of
/// them.
const AGAINST: [(Metric, &str, Bound); 13] = [
    (Metric::Tcp1, "gotatun", Bound::AtLeast(3.0)),
    (Metric::Tcp1, "boringtun-cli", Bound::AtLeast(3.0)),
    (Metric::Tcp1, "wireguard-go", Bound::AtLeast(3.0)),
    (Metric::Tcp4, "gotatun", Bound::AtLeast(3.0)),
    (Metric::Tcp4, "boringtun-cli", Bound::AtLeast(3.0)),
    (Metric::Tcp4, "wireguard-go", Bound::AtLeast(3.0)),
    (Metric::Cost, "gotatun", Bound::AtMost(0.28)),
    (Metric::Small, BEST, Bound::AtLeast(2.0)),
    (Metric::Full, BEST, Bound::AtLeast(1.6)),
    (Metric::IdleMedian, BEST, Bound::AtMost(0.9)),
    (Metric::IdleTail, BEST, Bound::AtMost(0.8)),
    (Metric::LoadMedian, "boringtun-cli", Bound::AtMost(2.0)),
    (Metric::LoadTail, BEST, Bound::AtMost(0.7)),
];

/// What a policy must leave of Overlay's figures.
const LEFT_BY_POLICY: [(Metric, Bound); 2] =
    [(Metric::Tcp1, Bound::AtLeast(0.95)), (Metric::Small, Bound::AtLeast(0.9))];

/// The share of the cipher's limit that must be reached.
const OF_LIMIT: Bound = Bound::AtLeast(0.6);
/// The share of Overlay's TCP throughput that UDP must reach.
const UDP: Bound = Bound::AtLeast(0.6);

/// Compares the figures: `figure` returns the median of a competitor, `names` are the competitors,
/// `limit` is in Gbit/s.
pub(super) fn compare(
    names: &[&str],
    limit: Option<f64>,
    figure: impl Fn(&str, Metric) -> Option<f64>,
) -> Vec<Bar> {
    let ours = |metric| figure(OVERLAY, metric);
    let mut bars = Vec::new();
    for (metric, other, bound) in AGAINST {
        let theirs =
            if other == BEST { best(names, metric, bound, &figure) } else { figure(other, metric) };
        bars.extend(bar(format!("{} / {other}", metric.title()), ours(metric), theirs, bound));
    }
    for (metric, bound) in LEFT_BY_POLICY {
        let what = format!("{} {WITH_POLICY} / without", metric.title());
        bars.extend(bar(what, figure(WITH_POLICY, metric), ours(metric), bound));
    }
    bars.extend(bar("TCP 1 / limit of the cipher".to_owned(), ours(Metric::Tcp1), limit, OF_LIMIT));
    bars.extend(bar(
        "UDP trains / our TCP 1".to_owned(),
        ours(Metric::Trains),
        ours(Metric::Tcp1),
        UDP,
    ));

    bars
}

fn best(
    names: &[&str],
    metric: Metric,
    bound: Bound,
    figure: &impl Fn(&str, Metric) -> Option<f64>,
) -> Option<f64> {
    let others = names.iter().filter(|name| ![BARE, OVERLAY, WITH_POLICY].contains(name));
    let figures = others.filter_map(|name| figure(name, metric));

    match bound {
        Bound::AtLeast(_) => figures.max_by(f64::total_cmp),
        Bound::AtMost(_) => figures.min_by(f64::total_cmp),
    }
}

fn bar(what: String, ours: Option<f64>, theirs: Option<f64>, bound: Bound) -> Option<Bar> {
    let ratio = ours? / theirs.filter(|theirs| *theirs > 0.0)?;

    Some(Bar { what, ratio, bound, holds: bound.admits(ratio) })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: [&str; 5] = [BARE, OVERLAY, WITH_POLICY, "gotatun", "nebula"];

    fn figure(name: &str, metric: Metric) -> Option<f64> {
        match (name, metric) {
            (BARE, _) => Some(1000.0),
            (WITH_POLICY, Metric::Small) => Some(135.0),
            (OVERLAY, Metric::Tcp1) => Some(3.0),
            ("gotatun", Metric::Tcp1) => Some(1.0),
            (OVERLAY, Metric::Small) => Some(150.0),
            ("gotatun", Metric::Small) => Some(80.0),
            ("nebula", Metric::Small) => Some(100.0),
            (OVERLAY, Metric::IdleMedian) => Some(45.0),
            ("gotatun", Metric::IdleMedian) => Some(100.0),
            ("nebula", Metric::IdleMedian) => Some(50.0),
            _ => None,
        }
    }

    fn found(what: &str) -> Option<(f64, bool)> {
        compare(&NAMES, Some(6.0), figure)
            .into_iter()
            .find(|bar| bar.what == what)
            .map(|bar| (bar.ratio, bar.holds))
    }

    #[test]
    fn a_bar_is_reached_at_its_bound() {
        assert_eq!(found("TCP 1 Gbit/s / gotatun"), Some((3.0, true)));
        assert_eq!(found("RTT p50 us / best peer"), Some((0.9, true)));
        assert_eq!(found("TCP 1 / limit of the cipher"), Some((0.5, false)));
        assert_eq!(found("64 B kpps with policy / without"), Some((0.9, true)));
    }

    #[test]
    fn the_best_is_the_best_of_the_others() {
        assert_eq!(found("64 B kpps / best peer"), Some((1.5, false)));
    }

    #[test]
    fn what_was_not_measured_is_not_judged() {
        assert_eq!(found("TCP 1 Gbit/s / wireguard-go"), None);
        assert_eq!(found("UDP trains / our TCP 1"), None);
    }
}
