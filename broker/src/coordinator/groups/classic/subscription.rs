//! What is read of classic consumers' own formats: which topics they subscribe to, and what each was assigned.
//!
//! ```text
//! subscription  i16 version | list (i32 count) of topic names (i16 length, UTF-8) | what later versions add
//! assignment    i16 version | list of (topic name, list of i32 partitions) | what later versions add
//! ```

use std::collections::BTreeSet;

use logweir_proto::PartitionId;

/// The topics of a subscription; `None` if it cannot be read.
pub(crate) fn subscribed_topics(metadata: &[u8]) -> Option<BTreeSet<&str>> {
    let (version, rest) = metadata.split_first_chunk::<2>()?;
    if i16::from_be_bytes(*version) < 0 {
        return None;
    }
    let (count, mut rest) = rest.split_first_chunk::<4>()?;
    let mut topics = BTreeSet::new();
    for _ in 0..u32::from_be_bytes(*count) {
        topics.insert(name(&mut rest)?);
    }
    Some(topics)
}

/// The partitions of an assignment by topic; `None` if it cannot be read.
pub(crate) fn assigned_partitions(bytes: &[u8]) -> Option<Vec<(&str, Vec<PartitionId>)>> {
    let (version, mut rest) = bytes.split_first_chunk::<2>()?;
    if i16::from_be_bytes(*version) < 0 {
        return None;
    }
    let mut topics = Vec::new();
    for _ in 0..number(&mut rest)? {
        let topic = name(&mut rest)?;
        let mut partitions = Vec::new();
        for _ in 0..number(&mut rest)? {
            partitions.push(PartitionId::new(number(&mut rest)?));
        }
        topics.push((topic, partitions));
    }
    Some(topics)
}

fn number(rest: &mut &[u8]) -> Option<i32> {
    let (number, after) = rest.split_first_chunk::<4>()?;
    *rest = after;
    Some(i32::from_be_bytes(*number))
}

fn name<'a>(rest: &mut &'a [u8]) -> Option<&'a str> {
    let (length, after) = rest.split_first_chunk::<2>()?;
    let (name, after) = after.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
    *rest = after;
    std::str::from_utf8(name).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_are_read_and_anything_else_is_none() {
        let metadata = b"\0\x01\0\0\0\x02\0\x01a\0\x03b-c\0\0\0\0";
        assert_eq!(
            subscribed_topics(metadata),
            Some(BTreeSet::from(["a", "b-c"]))
        );
        for end in 0..13 {
            assert_eq!(subscribed_topics(&metadata[..end]), None, "{end}");
        }
        assert_eq!(subscribed_topics(b"\xff\xff\0\0\0\0"), None);
        assert_eq!(subscribed_topics(b"\0\0\xff\xff\xff\xff"), None);
        assert_eq!(subscribed_topics(b"\0\0\0\0\0\x01\0\x01\xff"), None);
    }

    #[test]
    fn assigned_partitions_are_read_and_anything_else_is_none() {
        let bytes = b"\0\x01\0\0\0\x01\0\x02ab\0\0\0\x02\0\0\0\x05\0\0\0\x07\0\0\0\0";
        let partitions = vec![PartitionId::new(5), PartitionId::new(7)];
        assert_eq!(assigned_partitions(bytes), Some(vec![("ab", partitions)]));
        for end in 0..22 {
            assert_eq!(assigned_partitions(&bytes[..end]), None, "{end}");
        }
        assert_eq!(assigned_partitions(b"\0\0\x7f\xff\xff\xff"), None);
    }
}
