//! Kafka's key routing: the same key goes to the same partition, whichever client sends it.

use crate::ids::PartitionId;

/// The 32-bit murmur2 hash of Java's Kafka client (`org.apache.kafka.common.utils.Utils.murmur2`).
#[must_use]
pub fn murmur2(key: &[u8]) -> u32 {
    const SEED: u32 = 0x9747_b28c;
    const M: u32 = 0x5bd1_e995;
    #[expect(clippy::cast_possible_truncation, reason = "Java's int length")]
    let mut hash = SEED ^ key.len() as u32;
    let mut words = key.chunks_exact(4);
    for word in &mut words {
        let mut k = u32::from_le_bytes([word[0], word[1], word[2], word[3]]);
        k = k.wrapping_mul(M);
        k ^= k >> 24;
        hash = hash.wrapping_mul(M) ^ k.wrapping_mul(M);
    }
    let rest = words.remainder();
    if !rest.is_empty() {
        for (index, byte) in rest.iter().enumerate() {
            hash ^= u32::from(*byte) << (8 * index);
        }
        hash = hash.wrapping_mul(M);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(M);
    hash ^ (hash >> 15)
}

/// The partition of a key among `partitions` (at least 1), as Kafka's default partitioner chooses it.
///
/// # Panics
/// If `partitions` is below 1.
#[must_use]
#[expect(clippy::cast_possible_wrap, reason = "the sign bit is cleared first")]
pub fn partition_for_key(key: &[u8], partitions: i32) -> PartitionId {
    assert!(partitions >= 1, "a topic has at least one partition");
    PartitionId::new((murmur2(key) & 0x7fff_ffff) as i32 % partitions)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The vectors of Kafka's own `UtilsTest.testMurmur2`.
    #[test]
    #[expect(
        clippy::cast_sign_loss,
        reason = "Kafka writes the hashes as signed numbers"
    )]
    fn hashes_equal_those_of_kafkas_java_client() {
        for (key, hash) in [
            ("21", -973_932_308_i32),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            (
                "lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8",
                -58_897_971,
            ),
            ("abc", 479_470_107),
        ] {
            assert_eq!(murmur2(key.as_bytes()), hash as u32, "{key}");
        }
    }

    #[test]
    fn a_key_stays_within_the_partitions() {
        for partitions in 1..40 {
            for key in 0..200_u32 {
                let partition = partition_for_key(&key.to_be_bytes(), partitions).get();
                assert!((0..partitions).contains(&partition));
            }
        }
    }
}
