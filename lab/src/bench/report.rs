//! The results of a run, for people and as JSON.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use super::bars::{self, Bar};
use super::cipher::Cipher;
use super::competitor::{BARE, Competitor};
use super::machine::{self, Machine};
use super::metric::Metric;
use super::sample::{Median, Samples};
use crate::cluster::Cluster;

/// The results of one run.
#[derive(Debug, Serialize)]
pub(super) struct BenchReport {
    machine: Machine,
    /// The competitors.
    pub(super) rows: Vec<Row>,
    /// The competitors that are not installed, and how to install them.
    missing: Vec<String>,
    limit: Option<Limit>,
    /// How Overlay compares.
    pub(super) bars: Vec<Bar>,
}

/// One competitor.
#[derive(Debug, Serialize)]
pub(super) struct Row {
    /// Its name.
    pub(super) name: &'static str,
    version: Option<String>,
    has_agents: bool,
    /// All samples.
    pub(super) samples: BTreeMap<Metric, Samples>,
    /// The medians of the clean samples.
    medians: BTreeMap<Metric, Median>,
}

impl Row {
    /// Makes a row without samples.
    pub(super) fn new(competitor: &Competitor, cluster: &Cluster) -> Self {
        Self {
            name: competitor.name(),
            version: competitor.version(cluster),
            has_agents: competitor.program().is_some(),
            samples: BTreeMap::new(),
            medians: BTreeMap::new(),
        }
    }

    /// Returns whether this competitor can have such a figure.
    pub(super) fn has(&self, metric: Metric) -> bool {
        self.has_agents || !metric.is_of_agents()
    }

    /// Returns the median of a metric.
    pub(super) fn median(&self, metric: Metric) -> Option<Median> {
        self.medians.get(&metric).copied()
    }

    fn show(&self, metric: Metric) -> String {
        self.median(metric).map_or_else(
            || "-".to_owned(),
            |m| {
                format!(
                    "{} ({}-{})",
                    metric.show(m.value),
                    metric.show(m.least),
                    metric.show(m.most)
                )
            },
        )
    }
}

/// What no tunnel with this cipher could exceed on this machine.
#[derive(Clone, Copy, Debug, Serialize)]
struct Limit {
    seal_gb_per_second: f64,
    open_gb_per_second: f64,
    /// Processor seconds that sender, receiver and the bare link cost for each GB.
    pair_seconds_per_gb: f64,
    /// All cores / (pair + 1 / seal + 1 / open), in Gbit/s.
    gbit_per_second: f64,
}

impl Limit {
    fn new(ciphers: &[Cipher], pair: f64) -> Option<Self> {
        let seal = median(ciphers.iter().map(|cipher| cipher.seal))?;
        let open = median(ciphers.iter().map(|cipher| cipher.open))?;
        let cores = f64::from(u32::try_from(machine::cores()).ok()?);

        Some(Self {
            seal_gb_per_second: seal,
            open_gb_per_second: open,
            pair_seconds_per_gb: pair,
            gbit_per_second: cores / (pair + 1.0 / seal + 1.0 / open) * 8.0,
        })
    }
}

fn median(figures: impl Iterator<Item = f64>) -> Option<f64> {
    let mut figures: Vec<_> = figures.collect();
    figures.sort_by(f64::total_cmp);

    figures.get(figures.len() / 2).copied()
}

impl BenchReport {
    /// Makes the report of these rows and evaluates it.
    pub(super) fn new(mut rows: Vec<Row>, missing: Vec<String>, ciphers: &[Cipher]) -> Self {
        for row in &mut rows {
            row.medians = row
                .samples
                .iter()
                .filter_map(|(metric, all)| Some((*metric, all.median()?)))
                .collect();
        }
        let figure = |name: &str, metric| {
            let row = rows.iter().find(|row| row.name == name)?;
            row.median(metric).map(|median| median.value)
        };
        let limit = figure(BARE, Metric::EndsCost).and_then(|pair| Limit::new(ciphers, pair));
        let names: Vec<_> = rows.iter().map(|row| row.name).collect();
        let bars = bars::compare(&names, limit.map(|limit| limit.gbit_per_second), figure);

        Self { machine: Machine::this(), rows, missing, limit, bars }
    }

    fn metrics(&self) -> impl Iterator<Item = Metric> {
        Metric::ALL
            .into_iter()
            .filter(|metric| self.rows.iter().any(|row| row.samples.contains_key(metric)))
    }
}

impl fmt::Display for BenchReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Machine { processor, cores, kernel } = &self.machine;
        writeln!(
            f,
            "{processor}, {cores} cores, Linux {kernel}. Medians (least-most) of clean samples.\n"
        )?;

        let titles: Vec<_> = self.metrics().map(Metric::title).collect();
        writeln!(f, "| | {} |", titles.join(" | "))?;
        writeln!(f, "|---|{}", "---|".repeat(titles.len()))?;
        for row in &self.rows {
            let figures: Vec<_> = self.metrics().map(|metric| row.show(metric)).collect();
            writeln!(f, "| {} | {} |", row.name, figures.join(" | "))?;
        }
        writeln!(f)?;
        for (name, version) in
            self.rows.iter().filter_map(|row| Some((row.name, row.version.as_ref()?)))
        {
            writeln!(f, "{name}: {version}")?;
        }
        for missing in &self.missing {
            writeln!(f, "NOT MEASURED, not installed: {missing}")?;
        }
        let thrown: usize =
            self.rows.iter().flat_map(|row| row.samples.values()).map(Samples::thrown_away).sum();
        writeln!(f, "figures not used because the hypervisor took processor time: {thrown}")?;
        if let Some(limit) = self.limit {
            writeln!(
                f,
                "limit of the cipher: {:.2} Gbit/s (seals {:.2}, opens {:.2} GB/s a core; ends and link cost {:.2} s/GB)",
                limit.gbit_per_second,
                limit.seal_gb_per_second,
                limit.open_gb_per_second,
                limit.pair_seconds_per_gb
            )?;
        }
        writeln!(f)?;
        for Bar { what, ratio, bound, holds } in &self.bars {
            writeln!(
                f,
                "{} {what}: {ratio:.2} ({bound})",
                if *holds { "reached" } else { "MISSED " }
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::competitor::OVERLAY;
    use super::super::sample::Sample;
    use super::*;

    /// A report of two competitors with one figure each.
    pub(in crate::bench) fn report() -> BenchReport {
        let row = |name, value| {
            let mut samples = Samples::default();
            samples.push(Sample { value, stolen: 0.0 });
            samples.push(Sample { value: 99.0, stolen: 0.9 });
            let samples = BTreeMap::from([(Metric::Tcp1, samples)]);
            Row { name, version: None, has_agents: true, samples, medians: BTreeMap::new() }
        };

        BenchReport::new(
            vec![row(OVERLAY, 6.0), row("gotatun", 1.5)],
            vec!["nebula (`…`)".to_owned()],
            &[],
        )
    }

    #[test]
    fn people_see_figures_ratios_and_who_is_missing() {
        let text = report().to_string();

        assert!(text.contains("| overlay | 6.00 (6.00-6.00) |"), "{text}");
        assert!(text.contains("reached TCP 1 Gbit/s / gotatun: 4.00 (>= 3)"), "{text}");
        assert!(text.contains("NOT MEASURED, not installed: nebula"), "{text}");
        assert!(text.contains("hypervisor took processor time: 2"), "{text}");
    }

    #[test]
    fn programs_see_every_sample() {
        let json = serde_json::to_value(report()).unwrap();

        assert_eq!(json["rows"][0]["samples"]["tcp1"].as_array().unwrap().len(), 2);
        assert_eq!(json["rows"][0]["medians"]["tcp1"]["value"], 6.0);
        assert_eq!(json["bars"][0]["holds"], true);
    }

    #[test]
    fn the_limit_is_what_all_cores_can_seal_open_and_carry() {
        let limit = Limit::new(&[Cipher { seal: 1.0, open: 1.0 }], 0.5).unwrap();

        let cores = f64::from(u32::try_from(machine::cores()).unwrap());
        assert!((limit.gbit_per_second - cores / 2.5 * 8.0).abs() < 1e-9);
    }
}
