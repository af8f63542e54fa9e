//! Bytes that nobody meant: flipped, cut, rewritten, random. Nothing may panic, and nothing wrong may pass.

use std::env;

use proptest::{collection, prelude::*};

use super::{super::fuzz, *};

/// The bits that the broker writes, which no checksum covers: base offset and leader epoch.
fn is_patched_by_the_broker(byte: usize) -> bool {
    (0..8).contains(&byte) || (12..16).contains(&byte)
}

/// How many random inputs: 20,000, or a tenth of that unless `LOGWEIR_PROOF=full`.
fn cases() -> u32 {
    if env::var("LOGWEIR_PROOF").is_ok_and(|proof| proof == "full") {
        20_000
    } else {
        2_000
    }
}

#[test]
fn every_flipped_bit_is_refused_except_where_the_broker_writes() {
    for compression in Compression::ALL {
        let batch = small(compression);
        for byte in 0..batch.len() {
            for bit in 0..8 {
                let mut flipped = batch.clone();
                flipped[byte] ^= 1 << bit;
                let accepted = accept(&flipped).is_ok();
                assert_eq!(
                    accepted,
                    is_patched_by_the_broker(byte),
                    "{compression} byte {byte} bit {bit}"
                );
            }
        }
    }
}

#[test]
fn a_batch_cut_at_any_byte_is_refused() {
    for compression in Compression::ALL {
        let batch = small(compression);
        for length in 0..batch.len() {
            let needed = if length < HEADER_LEN {
                HEADER_LEN
            } else {
                batch.len()
            };
            let expected = Err(BatchError::TooShort {
                needed,
                found: length,
            });
            assert_eq!(accept(&batch[..length]), expected, "{compression} {length}");
        }
    }
}

/// The checksum is no defence against a producer that computes it: whatever byte it changes, the batch is either
/// refused or can be read in full.
#[test]
fn a_changed_byte_under_a_right_checksum_is_refused_or_harmless() {
    for compression in Compression::ALL {
        let batch = small(compression);
        for byte in 0..batch.len() {
            for value in 0..=u8::MAX {
                let mut changed = batch.clone();
                changed[byte] = value;
                renew_crc(&mut changed);
                fuzz::check_as_batch(&changed);
            }
        }
    }
}

#[test]
fn a_body_cut_under_a_right_checksum_is_refused_or_an_error_when_read() {
    for compression in Compression::ALL {
        let batch = small(compression);
        for length in HEADER_LEN..batch.len() {
            let mut cut = batch[..length].to_vec();
            put(
                &mut cut,
                8,
                i32::try_from(length - 12).unwrap().to_be_bytes(),
            );
            renew_crc(&mut cut);
            assert!(read(&cut).is_err(), "{compression} {length}");
            if compression == Compression::None {
                assert!(accept(&cut).is_err(), "{length}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases()))]

    #[test]
    fn any_bytes_are_taken_or_refused_without_a_panic(bytes in collection::vec(any::<u8>(), 0..400)) {
        fuzz::check_any_bytes(&bytes);
    }

    #[test]
    fn a_mutated_batch_is_taken_or_refused_without_a_panic(
        compression in compression(),
        inputs in collection::vec(input(), 1..6),
        changes in collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 0..8),
        cut in option::of(any::<proptest::sample::Index>()),
    ) {
        let mut bytes = builder_of(compression, &inputs).build().unwrap().to_vec();
        for (index, value) in changes {
            let at = index.index(bytes.len());
            bytes[at] = value;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        fuzz::check_any_bytes(&bytes);
    }
}
