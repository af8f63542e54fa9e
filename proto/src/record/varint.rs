//! Kafka's variable-length integers: zigzag, then seven bits a byte, low bits first, high bit = more follows.
//!
//! An `i32` takes 1 to 5 bytes, an `i64` 1 to 10. Decoding reads no further than that and refuses bits
//! beyond the type's width; overlong forms of small numbers are taken, as Kafka takes them.

/// The most bytes of an `i32`.
const MAX_I32_LEN: usize = 5;
/// The most bytes of an `i64`.
const MAX_I64_LEN: usize = 10;

/// Why a number could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum VarintError {
    /// The bytes end inside the number.
    Ended,
    /// The number has more bytes, or more bits, than its type.
    TooLong,
}

/// Reads an `i32` from the front of `bytes`; also returns how many bytes it took.
#[inline]
pub(super) fn read_i32(bytes: &[u8]) -> Result<(i32, usize), VarintError> {
    // Most numbers of a record fit one byte.
    if let Some(&byte) = bytes.first().filter(|byte| **byte < 0x80) {
        let raw = u32::from(byte);
        return Ok(((raw >> 1).cast_signed() ^ -(raw & 1).cast_signed(), 1));
    }
    let (raw, len) = read_raw(bytes, MAX_I32_LEN)?;
    let raw = u32::try_from(raw).map_err(|_| VarintError::TooLong)?;
    Ok(((raw >> 1).cast_signed() ^ -(raw & 1).cast_signed(), len))
}

/// Reads an `i64` from the front of `bytes`; also returns how many bytes it took.
#[inline]
pub(super) fn read_i64(bytes: &[u8]) -> Result<(i64, usize), VarintError> {
    let (raw, len) = read_raw(bytes, MAX_I64_LEN)?;
    Ok(((raw >> 1).cast_signed() ^ -(raw & 1).cast_signed(), len))
}

/// Reads an unsigned number of at most `max_len` bytes.
fn read_raw(bytes: &[u8], max_len: usize) -> Result<(u64, usize), VarintError> {
    let mut raw = 0_u64;
    for (index, &byte) in bytes.iter().take(max_len).enumerate() {
        let bits = u64::from(byte & 0x7f);
        // The tenth byte holds the 64th bit alone.
        if index == MAX_I64_LEN - 1 && bits > 1 {
            return Err(VarintError::TooLong);
        }
        raw |= bits << (7 * index);
        if byte < 0x80 {
            return Ok((raw, index + 1));
        }
    }
    Err(if bytes.len() < max_len {
        VarintError::Ended
    } else {
        VarintError::TooLong
    })
}

/// Appends an `i32`.
#[inline]
pub(super) fn write_i32(out: &mut Vec<u8>, value: i32) {
    write_raw(out, u64::from(zigzag_i32(value)));
}

/// Appends an `i64`.
#[inline]
pub(super) fn write_i64(out: &mut Vec<u8>, value: i64) {
    write_raw(out, zigzag_i64(value));
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "the low seven bits are wanted"
)]
#[inline]
fn write_raw(out: &mut Vec<u8>, mut raw: u64) {
    while raw >= 0x80 {
        out.push(raw as u8 | 0x80);
        raw >>= 7;
    }
    out.push(raw as u8);
}

/// How many bytes [`write_i32`] writes.
#[inline]
pub(super) const fn len_i32(value: i32) -> usize {
    len_raw(zigzag_i32(value) as u64)
}

/// How many bytes [`write_i64`] writes.
#[inline]
pub(super) const fn len_i64(value: i64) -> usize {
    len_raw(zigzag_i64(value))
}

const fn len_raw(raw: u64) -> usize {
    // Seven bits a byte; zero takes one byte too.
    (u64::BITS - (raw | 1).leading_zeros()).div_ceil(7) as usize
}

const fn zigzag_i32(value: i32) -> u32 {
    ((value << 1) ^ (value >> 31)).cast_unsigned()
}

const fn zigzag_i64(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)).cast_unsigned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_kafkas_bytes() {
        // The vectors of Kafka's `ByteUtilsTest`.
        for (value, bytes) in [
            (0, &[0x00][..]),
            (-1, &[0x01]),
            (1, &[0x02]),
            (63, &[0x7e]),
            (-64, &[0x7f]),
            (64, &[0x80, 0x01]),
            (-65, &[0x81, 0x01]),
            (8191, &[0xfe, 0x7f]),
            (-8192, &[0xff, 0x7f]),
            (8192, &[0x80, 0x80, 0x01]),
            (i32::MAX, &[0xfe, 0xff, 0xff, 0xff, 0x0f]),
            (i32::MIN, &[0xff, 0xff, 0xff, 0xff, 0x0f]),
        ] {
            let mut out = Vec::new();
            write_i32(&mut out, value);
            assert_eq!(out, bytes, "{value}");
            assert_eq!(len_i32(value), bytes.len(), "{value}");
            assert_eq!(read_i32(bytes), Ok((value, bytes.len())));
            assert_eq!(read_i64(bytes), Ok((i64::from(value), bytes.len())));
        }
    }

    #[test]
    fn every_width_of_long_comes_back() {
        for shift in 0..64 {
            for value in [
                1_i64 << shift,
                (1_i64 << shift).wrapping_neg(),
                !(1_i64 << shift),
            ] {
                let mut out = Vec::new();
                write_i64(&mut out, value);
                assert_eq!(out.len(), len_i64(value));
                assert_eq!(read_i64(&out), Ok((value, out.len())));
                for cut in 0..out.len() {
                    assert_eq!(read_i64(&out[..cut]), Err(VarintError::Ended));
                }
            }
        }
    }

    #[test]
    fn a_number_wider_than_its_type_is_refused() {
        assert_eq!(
            read_i32(&[0xff, 0xff, 0xff, 0xff, 0x1f]),
            Err(VarintError::TooLong)
        );
        assert_eq!(
            read_i32(&[0x80, 0x80, 0x80, 0x80, 0x80, 0x00]),
            Err(VarintError::TooLong)
        );
        assert_eq!(read_i32(&[0x80; 4]), Err(VarintError::Ended));
        let mut ten = [0xff; 10];
        ten[9] = 0x01;
        assert_eq!(read_i64(&ten), Ok((i64::MIN, 10)));
        ten[9] = 0x02;
        assert_eq!(read_i64(&ten), Err(VarintError::TooLong));
        assert_eq!(read_i64(&[0x80; 30]), Err(VarintError::TooLong));
    }

    #[test]
    fn an_overlong_small_number_is_taken_as_kafka_takes_it() {
        assert_eq!(read_i32(&[0x82, 0x00]), Ok((1, 2)));
    }
}
