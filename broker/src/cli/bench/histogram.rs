//! Times as a histogram: percentiles, a drawing for the terminal, JSON.

use std::fmt::Write as _;
use std::time::Duration;

use hdrhistogram::Histogram;
use indicatif::HumanCount;
use serde_json::{Value, json};

/// Longer times count as this.
const LONGEST: Duration = Duration::from_secs(3_600);
/// Three digits are kept of every time.
const DIGITS: u8 = 3;
/// The longest bar of the drawing, in characters.
const BAR: u64 = 40;

/// Times between 1 ns and an hour, kept to three digits.
#[derive(Clone, Debug)]
pub(super) struct Times(Histogram<u64>);

impl Default for Times {
    fn default() -> Self {
        let longest = u64::try_from(LONGEST.as_nanos()).unwrap_or(u64::MAX);
        Self(
            Histogram::new_with_bounds(1, longest, DIGITS)
                .expect("bounds and digits are within what the type allows"),
        )
    }
}

impl Times {
    /// Counts one time.
    pub(super) fn add(&mut self, time: Duration) {
        self.0
            .saturating_record(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX).max(1));
    }

    /// Counts all of `other`'s.
    pub(super) fn merge(&mut self, other: &Self) {
        self.0.add(&other.0).expect("both have the same bounds");
    }

    /// How many there are.
    pub(super) fn count(&self) -> u64 {
        self.0.len()
    }

    /// The time that `quantile` (0 to 1) of all do not exceed.
    pub(super) fn at(&self, quantile: f64) -> Duration {
        Duration::from_nanos(self.0.value_at_quantile(quantile))
    }

    /// The longest.
    pub(super) fn max(&self) -> Duration {
        Duration::from_nanos(self.0.max())
    }

    /// Percentiles in microseconds.
    pub(super) fn to_json(&self) -> Value {
        let micros = |time: Duration| time.as_secs_f64() * 1e6;
        json!({
            "count": self.count(),
            "min_us": micros(Duration::from_nanos(self.0.min())),
            "mean_us": self.0.mean() / 1e3,
            "p50_us": micros(self.at(0.5)),
            "p90_us": micros(self.at(0.9)),
            "p99_us": micros(self.at(0.99)),
            "p99_9_us": micros(self.at(0.999)),
            "max_us": micros(self.max()),
        })
    }

    /// `p50 1.2 ms, p99 …`.
    pub(super) fn percentiles(&self) -> String {
        format!(
            "p50 {}, p90 {}, p99 {}, p99.9 {}, max {}",
            short(self.at(0.5)),
            short(self.at(0.9)),
            short(self.at(0.99)),
            short(self.at(0.999)),
            short(self.max())
        )
    }

    /// A bar for each doubling of the time, from the shortest to the longest that occurred.
    pub(super) fn draw(&self) -> String {
        let mut steps: Vec<(u64, u64)> = Vec::new();
        let mut bound = 1_000_u64;
        while bound < self.0.min() {
            bound *= 2;
        }
        let mut below = 0;
        while below < self.count() {
            let until = self.0.count_between(0, bound);
            steps.push((bound, until - below));
            below = until;
            bound = bound.saturating_mul(2);
        }
        let most = steps
            .iter()
            .map(|(_, count)| *count)
            .max()
            .unwrap_or(1)
            .max(1);
        let mut text = String::new();
        for (bound, count) in steps {
            let length = (count * BAR).div_ceil(most);
            let bar = "#".repeat(usize::try_from(length).unwrap_or(0));
            let share = count * 1_000 / self.count().max(1);
            let _ = writeln!(
                text,
                "  <= {:>8}  {bar:<40} {:>3}.{} %  {}",
                short(Duration::from_nanos(bound)),
                share / 10,
                share % 10,
                HumanCount(count)
            );
        }
        text
    }
}

/// A time with three digits and a unit.
pub(super) fn short(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    let (value, unit) = match time {
        _ if seconds < 1e-6 => (seconds * 1e9, "ns"),
        _ if seconds < 1e-3 => (seconds * 1e6, "us"),
        _ if seconds < 1.0 => (seconds * 1e3, "ms"),
        _ => (seconds, "s"),
    };
    match value {
        _ if value < 10.0 => format!("{value:.2} {unit}"),
        _ if value < 100.0 => format!("{value:.1} {unit}"),
        _ => format!("{value:.0} {unit}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(micros: impl IntoIterator<Item = u64>) -> Times {
        let mut times = Times::default();
        for micros in micros {
            times.add(Duration::from_micros(micros));
        }
        times
    }

    #[test]
    fn percentiles_are_those_of_the_times_that_were_added() {
        let mut all = times(1..=999);
        all.merge(&times([50_000]));
        let json = all.to_json();
        assert_eq!(json["count"], 1_000);
        let about = |name: &str, expected: f64| {
            let found = json[name].as_f64().unwrap();
            assert!((found / expected - 1.0).abs() < 0.002, "{name}: {found}");
        };
        about("p50_us", 500.0);
        about("p99_us", 990.0);
        about("max_us", 50_000.0);
    }

    #[test]
    fn the_drawing_has_a_line_for_each_doubling_and_every_time_in_one_of_them() {
        let drawing = times([1, 1, 1, 3, 9]).draw();
        let lines: Vec<&str> = drawing.lines().collect();
        assert_eq!(lines.len(), 5, "{drawing}");
        assert!(
            lines[0].contains("1.00 us") && lines[0].contains("60.0 %"),
            "{drawing}"
        );
        assert!(lines[1].ends_with("0.0 %  0"), "{drawing}");
        assert!(
            lines[4].contains("16.0 us") && lines[4].ends_with('1'),
            "{drawing}"
        );
        assert_eq!(Times::default().draw(), "");
    }

    #[test]
    fn times_are_told_with_three_digits() {
        for (nanos, expected) in [
            (7, "7.00 ns"),
            (12_300, "12.3 us"),
            (999_400_000, "999 ms"),
            (61_000_000_000, "61.0 s"),
        ] {
            assert_eq!(short(Duration::from_nanos(nanos)), expected);
        }
    }

    #[test]
    fn a_time_beyond_an_hour_counts_as_an_hour() {
        let mut times = Times::default();
        times.add(Duration::from_secs(10_000));
        assert!(
            times.max() >= Duration::from_secs(3_599) && times.max() < Duration::from_secs(3_700)
        );
    }
}
