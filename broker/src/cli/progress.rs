//! The progress display of `produce` and `consume`: on standard error, only where that is a terminal.

use std::fmt::Write as _;
use std::io::IsTerminal as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use indicatif::{BinaryBytes, HumanCount, ProgressBar, ProgressState, ProgressStyle};

use crate::words::counted;

/// How often the display is drawn while nothing happens.
const TICK: Duration = Duration::from_millis(200);

/// Counts records and shows how it goes; clones share the display.
#[derive(Clone, Debug)]
pub(super) struct Progress {
    bar: Option<ProgressBar>,
    counts: Arc<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    records: AtomicU64,
    bytes: AtomicU64,
}

impl Progress {
    /// A display, with a bar if the length of the input in bytes is known; none where nobody would see it.
    pub(super) fn new(length: Option<u64>, quiet: bool) -> Self {
        let counts = Arc::<Counts>::default();
        if quiet || !std::io::stderr().is_terminal() {
            return Self { bar: None, counts };
        }
        let (bar, template) = match length {
            Some(length) => (
                ProgressBar::new(length),
                "{wide_bar} {percent:>3}% {counts} ({eta} left)",
            ),
            None => (ProgressBar::new_spinner(), "{spinner} {counts}"),
        };
        let shared = Arc::clone(&counts);
        let style = ProgressStyle::with_template(template)
            .unwrap_or_else(|_| ProgressStyle::default_spinner())
            .with_key(
                "counts",
                move |state: &ProgressState, out: &mut dyn std::fmt::Write| {
                    let _ = out.write_str(&shared.describe(state.elapsed()));
                },
            );
        bar.set_style(style);
        bar.enable_steady_tick(TICK);
        Self {
            bar: Some(bar),
            counts,
        }
    }

    /// More of the input was read.
    pub(super) fn read(&self, bytes: u64) {
        if let Some(bar) = &self.bar {
            bar.inc(bytes);
        }
    }

    /// More records are done.
    pub(super) fn done(&self, records: u64, bytes: u64) {
        self.counts.records.fetch_add(records, Ordering::Relaxed);
        self.counts.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Says something on standard error, above the display.
    pub(super) fn say(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| eprintln!("{text}")),
            None => eprintln!("{text}"),
        }
    }

    /// Takes the display away.
    pub(super) fn clear(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

impl Counts {
    fn describe(&self, elapsed: Duration) -> String {
        let records = self.records.load(Ordering::Relaxed);
        rate(records, self.bytes.load(Ordering::Relaxed), elapsed)
    }
}

/// `336,776 records, 29.6 MiB, 280,000 records/s, 24.7 MiB/s`.
pub(super) fn rate(records: u64, bytes: u64, elapsed: Duration) -> String {
    let mut text = format!(
        "{}, {}",
        counted(HumanCount(records), "record"),
        BinaryBytes(bytes)
    );
    let millis = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
    let per_second = |count: u64| count.saturating_mul(1_000) / millis.max(1);
    // Over less than this a rate says more about the clock than about the work; below one it says nothing.
    if millis >= 100 && per_second(records) > 0 {
        let _ = write!(
            text,
            ", {} records/s, {}/s",
            HumanCount(per_second(records)),
            BinaryBytes(per_second(bytes))
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_told_with_units_and_left_out_where_it_would_mean_nothing() {
        let second = Duration::from_secs(2);
        assert_eq!(
            rate(336_776, 2 << 20, second),
            "336,776 records, 2.00 MiB, 168,388 records/s, 1.00 MiB/s"
        );
        assert_eq!(rate(1, 5, Duration::from_millis(3)), "1 record, 5 B");
    }
}
