//! The one thing that is read of classic consumers' metadata: which topics they subscribe to.
//!
//! ```text
//! i16 version | list (i32 count) of topic names (i16 length, UTF-8) | what later versions add
//! ```

use std::collections::BTreeSet;

/// The topics of a subscription; `None` if it cannot be read.
pub(super) fn topics(metadata: &[u8]) -> Option<BTreeSet<&str>> {
    let (version, rest) = metadata.split_first_chunk::<2>()?;
    if i16::from_be_bytes(*version) < 0 {
        return None;
    }
    let (count, mut rest) = rest.split_first_chunk::<4>()?;
    let mut topics = BTreeSet::new();
    for _ in 0..u32::from_be_bytes(*count) {
        let (length, after) = rest.split_first_chunk::<2>()?;
        let (name, after) = after.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
        topics.insert(std::str::from_utf8(name).ok()?);
        rest = after;
    }
    Some(topics)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_are_read_and_anything_else_is_none() {
        let metadata = b"\0\x01\0\0\0\x02\0\x01a\0\x03b-c\0\0\0\0";
        assert_eq!(topics(metadata), Some(BTreeSet::from(["a", "b-c"])));
        for end in 0..13 {
            assert_eq!(topics(&metadata[..end]), None, "{end}");
        }
        assert_eq!(topics(b"\xff\xff\0\0\0\0"), None);
        assert_eq!(topics(b"\0\0\xff\xff\xff\xff"), None);
        assert_eq!(topics(b"\0\0\0\0\0\x01\0\x01\xff"), None);
    }
}
