//! Counts in messages for people: one record, two records.

use std::fmt::Display;

/// `1 record`, `2 records`; the noun is given in the singular. Knows the endings that occur: entry, batch.
pub(crate) fn counted(count: impl Display, noun: &str) -> String {
    let count = count.to_string();
    if count == "1" {
        return format!("1 {noun}");
    }
    match noun.strip_suffix('y') {
        Some(stem) => format!("{count} {stem}ies"),
        None if noun.ends_with("ch") => format!("{count} {noun}es"),
        None => format!("{count} {noun}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_told_apart_from_many_and_none() {
        let check = |count: u64, noun: &str, expected: &str| {
            assert_eq!(counted(count, noun), expected);
        };
        check(0, "record", "0 records");
        check(1, "record", "1 record");
        check(2, "entry", "2 entries");
        check(1, "batch", "1 batch");
        check(21, "batch", "21 batches");
    }
}
