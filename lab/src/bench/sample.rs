//! Samples, and medians of those during which the machine was not slowed down. Pure.

use serde::Serialize;

/// A sample is not used if the hypervisor gave more than this share of processor time to others
/// while it was taken.
const STOLEN: f64 = 0.03;

/// One sample of a metric.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Sample {
    /// The value.
    pub(super) value: f64,
    /// The share of the machine's processor time that was stolen during the sample.
    pub(super) stolen: f64,
}

impl Sample {
    /// Returns whether it may be used.
    pub(super) fn is_clean(&self) -> bool {
        self.stolen <= STOLEN
    }
}

/// All samples of one metric.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Samples(Vec<Sample>);

/// The median of the clean samples, and their range.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Median {
    /// The middle one, or the mean of the middle two.
    pub(super) value: f64,
    /// The smallest.
    pub(super) least: f64,
    /// The largest.
    pub(super) most: f64,
}

impl Samples {
    /// Adds a sample.
    pub(super) fn push(&mut self, sample: Sample) {
        self.0.push(sample);
    }

    /// Returns how many are clean.
    pub(super) fn clean(&self) -> usize {
        self.0.iter().filter(|sample| sample.is_clean()).count()
    }

    /// Returns how many are not clean.
    pub(super) fn thrown_away(&self) -> usize {
        self.0.len() - self.clean()
    }

    /// Returns the median of the clean ones; `None` when there is none.
    pub(super) fn median(&self) -> Option<Median> {
        let mut values: Vec<f64> =
            self.0.iter().filter(|sample| sample.is_clean()).map(|s| s.value).collect();
        values.sort_by(f64::total_cmp);
        let (least, most) = (*values.first()?, *values.last()?);
        let (lower, upper) = (values[(values.len() - 1) / 2], values[values.len() / 2]);

        Some(Median { value: f64::midpoint(lower, upper), least, most })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(rows: &[(f64, f64)]) -> Samples {
        Samples(rows.iter().map(|&(value, stolen)| Sample { value, stolen }).collect())
    }

    #[test]
    fn stolen_samples_do_not_move_the_median() {
        let samples = samples(&[(3.0, 0.0), (900.0, 0.5), (1.0, 0.01), (2.0, 0.0), (0.1, 0.04)]);

        assert_eq!(samples.median(), Some(Median { value: 2.0, least: 1.0, most: 3.0 }));
        assert_eq!((samples.clean(), samples.thrown_away()), (3, 2));
    }

    #[test]
    fn of_an_even_number_the_middle_lies_between_two() {
        assert_eq!(
            samples(&[(1.0, 0.0), (2.0, 0.0)]).median().map(|median| median.value),
            Some(1.5)
        );
    }

    #[test]
    fn without_a_clean_sample_there_is_no_figure() {
        assert_eq!(samples(&[(1.0, 1.0)]).median(), None);
    }
}
