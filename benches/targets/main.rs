//! The figures that must be reached, each measured in turns with its base in the same run.
//!
//! `cargo bench --bench targets` measures all; words choose some (`-- append fetch`), `--json FILE` keeps
//! the result. Without `--bench`, as `cargo test` calls it, each is carried out once and nothing is claimed.

mod append;
mod client;
mod commit;
mod fetch;
mod figure;
mod produce;

use std::path::PathBuf;

use anyhow::{Context as _, bail};
use figure::{Figure, print_table, to_json};

/// How much is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Effort {
    /// As much as a figure needs.
    Measure,
    /// As little as shows that it can be carried out.
    Try,
}

impl Effort {
    fn choose<T>(self, measure: T, attempt: T) -> T {
        match self {
            Self::Measure => measure,
            Self::Try => attempt,
        }
    }
}

/// A name, and what measures its figures.
type Target = (&'static str, fn(Effort) -> anyhow::Result<Vec<Figure>>);

const TARGETS: [Target; 5] = [
    ("append", append::measure),
    ("produce", produce::measure),
    ("fetch", fetch::measure),
    ("commit", commit::measure),
    ("client", client::measure),
];

fn main() -> anyhow::Result<()> {
    logweir_benches::serve_if_told();
    let mut effort = Effort::Try;
    let mut chosen = Vec::new();
    let mut json: Option<PathBuf> = None;
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        match word.as_str() {
            "--bench" => effort = Effort::Measure,
            "--test" => effort = Effort::Try,
            "--json" => json = Some(words.next().context("--json FILE")?.into()),
            name if TARGETS.iter().any(|(known, _)| *known == name) => {
                chosen.push(name.to_owned());
            }
            // What the test harness is asked for, and filters that fit none of these.
            flag if flag.starts_with('-') && effort == Effort::Try => {}
            other => bail!("{other:?} is none of {:?}", TARGETS.map(|(name, _)| name)),
        }
    }
    let mut figures = Vec::new();
    for (name, measure) in TARGETS {
        if chosen.is_empty() || chosen.iter().any(|chosen| chosen == name) {
            eprintln!("measuring {name}");
            figures.extend(measure(effort).with_context(|| format!("measuring {name}"))?);
        }
    }
    if effort == Effort::Try {
        println!("{} figures can be measured", figures.len());
        return Ok(());
    }
    print_table(&figures);
    if let Some(file) = json {
        std::fs::write(&file, to_json(&figures)).with_context(|| file.display().to_string())?;
    }
    Ok(())
}
