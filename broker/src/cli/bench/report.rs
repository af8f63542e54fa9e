//! What a benchmark found: lines for people, with histograms, or one JSON object.

use serde_json::{Map, Value};

use super::super::output::{OutputArgs, OutputFormat, print_json, print_line};
use super::histogram::Times;

/// How the result is printed.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(super) struct ReportArgs {
    #[command(flatten)]
    output: OutputArgs,
    /// No progress display
    #[arg(long, short)]
    pub(super) quiet: bool,
}

/// Figures in the order in which they are told.
#[derive(Debug, Default)]
pub(super) struct Report {
    json: Map<String, Value>,
    lines: Vec<(String, String)>,
    drawings: Vec<(String, String)>,
}

impl Report {
    /// Adds a figure under its JSON name, with its words for people.
    pub(super) fn add(&mut self, name: &str, value: impl Into<Value>, label: &str, words: String) {
        self.json.insert(name.to_owned(), value.into());
        self.lines.push((label.to_owned(), words));
    }

    /// Adds a figure that is told in JSON only.
    pub(super) fn note(&mut self, name: &str, value: impl Into<Value>) {
        self.json.insert(name.to_owned(), value.into());
    }

    /// Adds a histogram; nothing if it is empty.
    pub(super) fn times(&mut self, name: &str, label: &str, times: &Times) {
        if times.count() == 0 {
            return;
        }
        self.add(name, times.to_json(), label, times.percentiles());
        self.drawings.push((label.to_owned(), times.draw()));
    }

    /// Prints all of it.
    ///
    /// # Errors
    /// Standard output cannot be written to.
    pub(super) fn print(self, args: ReportArgs) -> std::io::Result<()> {
        if args.output.format() == OutputFormat::Json {
            return print_json(&Value::Object(self.json));
        }
        let width = self
            .lines
            .iter()
            .map(|(label, _)| label.len())
            .max()
            .unwrap_or(0);
        for (label, words) in self.lines {
            print_line(&format!("{label:<width$}  {words}"))?;
        }
        for (label, drawing) in self.drawings {
            print_line(&format!("\n{label}\n{}", drawing.trim_end()))?;
        }
        Ok(())
    }
}

/// `count` over `seconds`, rounded.
pub(super) fn per_second(count: u64, seconds: f64) -> f64 {
    // Exact below 2^53.
    let count = to_f64(count);
    if seconds > 0.0 { count / seconds } else { 0.0 }
}

/// A count as a number with a point.
#[expect(
    clippy::cast_precision_loss,
    reason = "figures for people, exact to 2^53"
)]
pub(super) fn to_f64(count: u64) -> f64 {
    count as f64
}

/// A rate in figures of three digits: `1,234,000`.
pub(super) fn human_rate(rate: f64) -> String {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "rates are positive and far below 2^63"
    )]
    let whole = rate.round() as u64;
    indicatif::HumanCount(whole).to_string()
}
