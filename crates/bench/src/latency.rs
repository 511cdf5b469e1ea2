//! Latencies, counted so finely that a quantile is right to three digits.

use std::time::Duration;

use hdrhistogram::Histogram;

/// The longest that is told from longer ones, in microseconds.
const LONGEST: u64 = 600_000_000;

/// How long each of many requests took.
#[derive(Clone, Debug)]
pub struct Latencies(Histogram<u64>);

impl Latencies {
    /// None yet.
    pub fn new() -> Self {
        Self(
            Histogram::new_with_bounds(1, LONGEST, 3)
                .unwrap_or_else(|_| unreachable!("the bounds are constant")),
        )
    }

    /// Counts one more.
    pub fn record(&mut self, latency: Duration) {
        let microseconds = u64::try_from(latency.as_micros()).unwrap_or(LONGEST);
        self.0.saturating_record(microseconds.max(1));
    }

    /// Counts all of another's.
    pub fn add(&mut self, other: &Self) {
        for value in other.0.iter_recorded() {
            self.0.saturating_record_n(value.value_iterated_to(), value.count_at_value());
        }
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.0.len()
    }

    /// What this part of them took at most, in milliseconds: `0.5` is the median.
    pub fn milliseconds(&self, quantile: f64) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "microseconds of minutes")]
        let microseconds = self.0.value_at_quantile(quantile) as f64;
        microseconds / 1e3
    }
}

impl Default for Latencies {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_right_to_three_digits() {
        let mut latencies = Latencies::new();
        (1..=1_000).for_each(|millis| latencies.record(Duration::from_millis(millis)));
        for (quantile, expected) in [(0.5, 500.0), (0.99, 990.0), (1.0, 1_000.0)] {
            let found = latencies.milliseconds(quantile);
            assert!((found / expected - 1.0).abs() < 0.002, "{quantile}: {found}");
        }
    }

    #[test]
    fn those_of_several_clients_add_up() {
        let (mut all, mut one) = (Latencies::new(), Latencies::new());
        all.record(Duration::from_millis(1));
        one.record(Duration::from_millis(9));
        one.record(Duration::from_millis(9));
        all.add(&one);
        assert_eq!(all.count(), 3);
        assert!(all.milliseconds(0.5) > 8.9);
    }

    #[test]
    fn the_extremes_are_counted_too() {
        let mut latencies = Latencies::new();
        latencies.record(Duration::ZERO);
        latencies.record(Duration::from_hours(9));
        assert_eq!(latencies.count(), 2);
    }
}
