//! A measured figure beside its base and its target.

use serde_json::json;

/// What a figure must be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Goal {
    AtMost(f64),
    AtLeast(f64),
}

impl Goal {
    fn is_reached_by(self, value: f64) -> bool {
        match self {
            Self::AtMost(limit) => value <= limit,
            Self::AtLeast(limit) => value >= limit,
        }
    }

    fn in_words(self) -> String {
        match self {
            Self::AtMost(limit) => format!("<= {limit}"),
            Self::AtLeast(limit) => format!(">= {limit}"),
        }
    }
}

/// One figure.
#[derive(Clone, Debug)]
pub(crate) struct Figure {
    /// Names it in charts.
    pub(crate) name: String,
    /// What was measured.
    pub(crate) what: String,
    pub(crate) value: f64,
    pub(crate) unit: &'static str,
    pub(crate) goal: Goal,
    /// What the figure is made of: Logweir's measurement and the base's, with units.
    pub(crate) parts: Vec<(&'static str, f64, &'static str)>,
}

/// Prints all figures for people.
pub(crate) fn print_table(figures: &[Figure]) {
    for figure in figures {
        let reached = if figure.goal.is_reached_by(figure.value) {
            "reached"
        } else {
            "NOT REACHED"
        };
        println!(
            "{}: {:.3} {} ({}, {reached})",
            figure.what,
            figure.value,
            figure.unit,
            figure.goal.in_words()
        );
        for (label, value, unit) in &figure.parts {
            println!("    {label}: {value:.3} {unit}");
        }
    }
}

/// All figures as a JSON document.
pub(crate) fn to_json(figures: &[Figure]) -> String {
    let list: Vec<_> = figures
        .iter()
        .map(|figure| {
            let parts: Vec<_> = figure
                .parts
                .iter()
                .map(|(label, value, unit)| json!({"label": label, "value": value, "unit": unit}))
                .collect();
            json!({
                "name": figure.name,
                "what": figure.what,
                "value": figure.value,
                "unit": figure.unit,
                "goal": figure.goal.in_words(),
                "reached": figure.goal.is_reached_by(figure.value),
                "parts": parts,
            })
        })
        .collect();
    format!("{:#}\n", json!({ "figures": list }))
}

/// A count as a number with a point.
#[expect(clippy::cast_precision_loss, reason = "figures, exact to 2^53")]
pub(crate) fn number(count: u64) -> f64 {
    count as f64
}
