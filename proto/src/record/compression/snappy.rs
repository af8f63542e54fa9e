//! Snappy in Xerial's framing, which Kafka's Java client reads and writes (`SnappyOutputStream`); bare Snappy is read too.
//!
//! Frame: magic `82 53 4E 41 50 50 59 00`, version i32 = 1, compatible version i32 = 1, then blocks of length i32
//! and that many bytes of bare Snappy; all big-endian.

use snap::raw::{Decoder, Encoder, decompress_len, max_compress_len};

use super::Fault;

const MAGIC: [u8; 8] = [0x82, b'S', b'N', b'A', b'P', b'P', b'Y', 0];
const HEADER: [u8; 16] = [
    0x82, b'S', b'N', b'A', b'P', b'P', b'Y', 0, 0, 0, 0, 1, 0, 0, 0, 1,
];

/// How much goes into a block, as in Kafka's Java client.
const BLOCK_LEN: usize = 32 * 1024;

/// The best ratio of Snappy is about 21 (three bytes say "copy 64"): a promise beyond this is a lie.
const MAX_RATIO: usize = 32;

pub(super) fn compress(body: &[u8], out: &mut Vec<u8>) -> Result<(), String> {
    out.extend_from_slice(&HEADER);
    let mut encoder = Encoder::new();
    for block in body.chunks(BLOCK_LEN) {
        let length_at = out.len();
        let start = length_at + 4;
        out.resize(start + max_compress_len(block.len()), 0);
        let written = encoder
            .compress(block, &mut out[start..])
            .map_err(|error| error.to_string())?;
        out.truncate(start + written);
        let length = u32::try_from(written).map_err(|error| error.to_string())?;
        out[length_at..start].copy_from_slice(&length.to_be_bytes());
    }
    Ok(())
}

pub(super) fn decompress(body: &[u8], limit: usize) -> Result<Vec<u8>, Fault> {
    let mut out = Vec::new();
    let mut decoder = Decoder::new();
    if !body.starts_with(&MAGIC) {
        block(&mut decoder, body, &mut out, limit)?;
        return Ok(out);
    }
    let mut rest = body;
    while !rest.is_empty() {
        // Streams may follow each other; Java's reader takes that, so the header is looked for at every block.
        if rest.starts_with(&MAGIC) {
            rest = rest
                .get(HEADER.len()..)
                .ok_or_else(|| Fault::corrupt("header cut short"))?;
            continue;
        }
        let (length, after) = rest
            .split_first_chunk()
            .ok_or_else(|| Fault::corrupt("block length cut short"))?;
        let length = u32::from_be_bytes(*length);
        let packed = usize::try_from(length)
            .ok()
            .and_then(|length| after.get(..length));
        let packed = packed.ok_or_else(|| {
            Fault::Corrupt(format!(
                "block of {length} bytes where {} are left",
                after.len()
            ))
        })?;
        block(&mut decoder, packed, &mut out, limit)?;
        rest = &after[packed.len()..];
    }
    Ok(out)
}

fn block(
    decoder: &mut Decoder,
    packed: &[u8],
    out: &mut Vec<u8>,
    limit: usize,
) -> Result<(), Fault> {
    let promised = decompress_len(packed).map_err(Fault::corrupt)?;
    if promised > limit - out.len() {
        return Err(Fault::TooLarge);
    }
    if promised > packed.len().saturating_mul(MAX_RATIO) {
        return Err(Fault::Corrupt(format!(
            "{} bytes promise {promised}",
            packed.len()
        )));
    }
    let start = out.len();
    // Grown by hand, because a vector that doubles may pass the limit.
    if out.capacity() - start < promised {
        out.reserve_exact(promised.max(start.min(limit - start)));
    }
    out.resize(start + promised, 0);
    let written = decoder
        .decompress(packed, &mut out[start..])
        .map_err(Fault::corrupt)?;
    debug_assert_eq!(
        written, promised,
        "the decoder fills what the block promised"
    );
    out.truncate(start + written);
    Ok(())
}
