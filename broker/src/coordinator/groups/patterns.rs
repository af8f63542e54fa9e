//! Patterns of topic names that members subscribe to: RE2's syntax as far as the `regex` crate has it.
//!
//! Matching takes time linear in the name, whatever the pattern. A pattern means the whole name, as RE2J's `matches`
//! does in Kafka. Topic names are ASCII, so classes such as `\w` are, too, and no Unicode tables are needed.

use std::sync::Arc;

use regex::bytes::{Regex, RegexBuilder};

use super::config::Pattern;

/// The most bytes that a pattern takes once it is read. Counted repetitions multiply: `(a{100}){100}` is refused.
const MAX_PROGRAM_BYTES: usize = 64 << 10;
/// How deep groups may lie in each other.
const MAX_NESTING: u32 = 50;

/// Reads a pattern. Its length is for the caller to limit.
///
/// # Errors
/// What is wrong with it, in one line.
pub(crate) fn read_pattern(pattern: &str) -> Result<Pattern, String> {
    // By itself first: in the group that makes it mean the whole name, "a)(b" would be none the wiser.
    build(pattern)?;
    let regex = build(&format!("^(?:{pattern})$"))?;
    Ok(Pattern(Arc::new(move |name| {
        regex.is_match(name.as_bytes())
    })))
}

fn build(pattern: &str) -> Result<Regex, String> {
    let built = RegexBuilder::new(pattern)
        .unicode(false)
        .size_limit(MAX_PROGRAM_BYTES)
        .nest_limit(MAX_NESTING)
        .build();
    built.map_err(|error| match error {
        regex::Error::CompiledTooBig(limit) => format!("it takes more than {limit} bytes"),
        error => {
            // The last line says what is wrong; those before it draw where.
            let text = error.to_string();
            let last = text.lines().last().unwrap_or_default();
            last.trim_start_matches("error: ").to_owned()
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(pattern: &str, matching: &[&str], others: &[&str]) {
        let Pattern(matches) = read_pattern(pattern).unwrap();
        for name in matching {
            assert!(matches(name), "{pattern:?} and {name:?}");
        }
        for name in others {
            assert!(!matches(name), "{pattern:?} and {name:?}");
        }
    }

    fn refused(pattern: &str, why: &str) {
        let error = read_pattern(pattern).unwrap_err();
        assert!(error.contains(why), "{pattern:?}: {error}");
        assert!(!error.contains('\n'), "{error}");
    }

    #[test]
    fn a_pattern_means_the_whole_name() {
        check("pay.*", &["pay", "payments"], &["repay", "pa"]);
        check("a|ab", &["a", "ab"], &["abc", ""]);
        check("a$|^b", &["a", "b"], &["ab"]);
        check("(?i)orders-\\d+", &["ORDERS-12"], &["orders-", "orders-1x"]);
        check("(?m)^a$", &["a"], &["a\nb", "b\na"]);
        check("", &[""], &["a"]);
    }

    #[test]
    fn what_cannot_be_read_is_refused_with_the_reason() {
        refused("(", "unclosed group");
        refused("a)(b", "unopened group");
        refused("[a", "unclosed character class");
        refused("a**{", "repetition");
        refused("(?=a)", "look-around");
        refused(r"(a)\1", "backreferences");
        refused(r"\p{Greek}", "");
        refused("(?x) a # no end", "unclosed group");
    }

    #[test]
    fn patterns_that_grow_beyond_their_bounds_are_refused() {
        refused("(a{1000}){1000}", "takes more than");
        refused(&"[a-z]{9}".repeat(512), "takes more than");
        refused(&("(".repeat(60) + &")".repeat(60)), "nest");
    }

    #[test]
    fn hostile_patterns_take_no_time() {
        let Pattern(matches) = read_pattern("(a*)*(a|a)*(a+a+)+b").unwrap();
        assert!(!matches(&"a".repeat(249)));
    }
}
