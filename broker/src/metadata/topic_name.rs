//! Kafka's rules for topic names.

use super::error::MetadataError;

/// The most characters in a topic's name; with "-N" behind it a folder's name still fits.
pub(crate) const MAX_TOPIC_NAME: usize = 249;

/// Names that begin so are the broker's own.
const INTERNAL_PREFIX: &str = "__";

/// Checks a name: 1 to 249 characters of a-z, A-Z, 0-9, '.', '_' and '-', not "." or "..".
///
/// # Errors
/// [`MetadataError::InvalidTopicName`] with the rule it breaks.
pub(crate) fn check_topic_name(name: &str) -> Result<(), MetadataError> {
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let reason = if name.is_empty() {
        "it is empty"
    } else if name == "." || name == ".." {
        "\".\" and \"..\" are folders"
    } else if name.len() > MAX_TOPIC_NAME {
        "it has more than 249 characters"
    } else if !name.chars().all(legal) {
        "only a-z, A-Z, 0-9, '.', '_' and '-' are allowed"
    } else {
        return Ok(());
    };
    Err(MetadataError::InvalidTopicName {
        name: shortened(name),
        reason,
    })
}

/// Whether a name is kept for the broker's own topics.
pub(crate) fn is_internal_name(name: &str) -> bool {
    name.starts_with(INTERNAL_PREFIX)
}

/// A name from outside as it may stand in an error: at most 300 characters.
pub(super) fn shortened(name: &str) -> String {
    name.chars().take(300).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &str, expected: Result<(), &str>) {
        let found = check_topic_name(name);
        match (found, expected) {
            (Ok(()), Ok(())) => {}
            (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{error}"),
            (found, expected) => panic!("{name:?}: {found:?}, not {expected:?}"),
        }
    }

    #[test]
    fn names_follow_kafkas_rules() {
        check("flights", Ok(()));
        check("A.b_c-9", Ok(()));
        check("...", Ok(()));
        check(&"x".repeat(249), Ok(()));
        check(&"x".repeat(250), Err("249"));
        check("", Err("empty"));
        check(".", Err("folders"));
        check("..", Err("folders"));
        check("a/b", Err("allowed"));
        check("späti", Err("allowed"));
        check("a b", Err("allowed"));
        check("a\0", Err("allowed"));
    }

    #[test]
    fn a_long_name_is_cut_in_the_error() {
        let error = check_topic_name(&"ä".repeat(100_000)).unwrap_err();
        assert!(error.to_string().len() < 1_000);
    }
}
