//! What several measurements of one thing say together.

use serde::Serialize;

/// Measurements of one thing, in the order in which they were taken; at least one where anything is asked of them.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(transparent)]
pub struct Samples(Vec<f64>);

impl Samples {
    /// Adds the next measurement.
    pub fn push(&mut self, sample: f64) {
        self.0.push(sample);
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// One after the other.
    pub fn iter(&self) -> impl Iterator<Item = f64> {
        self.0.iter().copied()
    }

    /// Each by a divisor.
    #[must_use]
    pub fn divided_by(&self, divisor: f64) -> Self {
        self.iter().map(|sample| sample / divisor).collect()
    }

    /// The one in the middle, or the mean of the two there; not a number without any.
    pub fn median(&self) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        match sorted.len() {
            0 => f64::NAN,
            length if length % 2 == 1 => sorted[middle],
            _ => f64::midpoint(sorted[middle - 1], sorted[middle]),
        }
    }

    /// The smallest.
    pub fn min(&self) -> f64 {
        self.0.iter().copied().fold(f64::NAN, f64::min)
    }

    /// The largest.
    pub fn max(&self) -> f64 {
        self.0.iter().copied().fold(f64::NAN, f64::max)
    }

    /// How many times the other's measurement each one is, taken in pairs: what was measured one after the other had the same machine.
    #[must_use]
    pub fn ratios(&self, other: &Self) -> Self {
        self.0.iter().zip(&other.0).map(|(mine, theirs)| mine / theirs).collect()
    }
}

impl FromIterator<f64> for Samples {
    fn from_iter<I: IntoIterator<Item = f64>>(samples: I) -> Self {
        Self(samples.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(values: &[f64]) -> Samples {
        values.iter().copied().collect()
    }

    #[test]
    fn the_median_is_the_middle_whatever_the_order() {
        for (values, median) in [(&[3.0][..], 3.0), (&[9.0, 1.0, 2.0], 2.0), (&[4.0, 1.0, 3.0, 100.0], 3.5)] {
            assert!((samples(values).median() - median).abs() < 1e-9, "{values:?}");
        }
    }

    #[test]
    fn the_spread_is_from_the_smallest_to_the_largest() {
        let samples = samples(&[2.0, 5.0, 1.0]);
        assert_eq!((samples.min(), samples.max()), (1.0, 5.0));
    }

    #[test]
    fn ratios_are_of_what_was_measured_one_after_the_other() {
        assert_eq!(samples(&[10.0, 30.0]).ratios(&samples(&[2.0, 3.0])), samples(&[5.0, 10.0]));
    }

    #[test]
    fn nothing_measured_gives_no_number() {
        let none = Samples::default();
        assert!(none.median().is_nan() && none.min().is_nan() && none.max().is_nan());
    }
}
