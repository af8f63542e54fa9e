//! Which partition of an internal topic is responsible for a key, as Kafka's clients and tools have it.

use logweir_proto::PartitionId;

/// The partition of a group, a transactional id or the like, of `partitions` (at least 1): Java's hash of the text,
/// its absolute value (0 for the one that has none, as Kafka's `Utils.abs`), modulo.
pub(super) fn partition_for(key: &str, partitions: i32) -> PartitionId {
    let hash = java_hash(key).checked_abs().unwrap_or(0);
    PartitionId::new(hash % partitions.max(1))
}

/// `java.lang.String.hashCode`: over UTF-16 code units, with overflow.
fn java_hash(text: &str) -> i32 {
    text.encode_utf16().fold(0_i32, |hash, unit| {
        hash.wrapping_mul(31).wrapping_add(i32::from(unit))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_javas() {
        for (text, hash) in [
            ("", 0),
            ("a", 97),
            ("group", 98_629_247),
            ("my-consumer-group", 1_513_705_513),
            // The classic text whose hash has no absolute value.
            ("polygenelubricants", i32::MIN),
            // Two code units.
            ("\u{1d11e}", 55_348 * 31 + 56_606),
        ] {
            assert_eq!(java_hash(text), hash, "{text:?}");
        }
    }

    #[test]
    fn a_key_has_one_partition_also_where_the_hash_has_no_absolute_value() {
        for (key, partitions, expected) in [
            ("polygenelubricants", 16, 0),
            ("a", 16, 1),
            ("a", 1, 0),
            ("group", 50, 47),
        ] {
            let found = partition_for(key, partitions);
            assert_eq!(found, PartitionId::new(expected), "{key}");
        }
    }
}
