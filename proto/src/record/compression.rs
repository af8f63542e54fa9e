//! Packing and unpacking the body of a batch.
//!
//! Unpacking never makes more than the caller's limit: no output buffer is larger than that, whatever the packed
//! bytes promise, and none is much larger than what the packed bytes can hold. Java's levels are used: gzip 6,
//! zstd 3.

mod lz4;
mod snappy;
mod zstd;

use std::io::{self, Read, Write};

use flate2::{bufread::MultiGzDecoder, write::GzEncoder};

use super::{error::BatchError, header::Compression};

/// The smallest output buffer worth making, if the limit allows it.
const MIN_OUTPUT: usize = 8 * 1024;

/// Why a body could not be unpacked.
#[derive(Debug)]
enum Fault {
    /// There is more than the limit.
    TooLarge,
    /// The decoder's words.
    Corrupt(String),
}

impl Fault {
    fn corrupt(reason: impl ToString) -> Self {
        Self::Corrupt(reason.to_string())
    }
}

/// Packs `buffer[skip..]` into a new buffer that begins with `skip` zero bytes.
pub(super) fn compress(
    compression: Compression,
    buffer: &[u8],
    skip: usize,
) -> Result<Vec<u8>, BatchError> {
    let body = &buffer[skip..];
    let mut out = vec![0; skip];
    let result = match compression {
        Compression::None => {
            out.extend_from_slice(body);
            Ok(())
        }
        Compression::Gzip => gzip(body, &mut out).map_err(|error| error.to_string()),
        Compression::Snappy => snappy::compress(body, &mut out),
        Compression::Lz4 => lz4::compress(body, &mut out),
        Compression::Zstd => zstd::compress(body, &mut out),
    };
    result.map_err(|reason| BatchError::Compress {
        compression,
        reason,
    })?;
    Ok(out)
}

/// Unpacks `body` into at most `limit` bytes.
pub(super) fn decompress(
    compression: Compression,
    body: &[u8],
    limit: usize,
) -> Result<Vec<u8>, BatchError> {
    let result = match compression {
        Compression::None if body.len() > limit => Err(Fault::TooLarge),
        Compression::None => Ok(body.to_vec()),
        Compression::Gzip => read_all(MultiGzDecoder::new(body), body.len(), limit),
        Compression::Snappy => snappy::decompress(body, limit),
        Compression::Lz4 => lz4::decompress(body, limit),
        Compression::Zstd => zstd::decompress(body, limit),
    };
    result.map_err(|fault| match fault {
        Fault::TooLarge => BatchError::DecompressedTooLarge {
            compression,
            limit_bytes: limit,
        },
        Fault::Corrupt(reason) => BatchError::Decompress {
            compression,
            reason,
        },
    })
}

fn gzip(body: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
    let mut encoder = GzEncoder::new(out, flate2::Compression::default());
    encoder.write_all(body)?;
    encoder.finish()?;
    Ok(())
}

/// The first size of an output buffer for `packed` bytes: a guess, kept within the limit.
fn first_output(packed: usize, limit: usize) -> usize {
    packed.saturating_mul(4).max(MIN_OUTPUT).min(limit)
}

/// Reads to the end, growing the buffer in steps that never pass the limit.
fn read_all(mut reader: impl Read, packed: usize, limit: usize) -> Result<Vec<u8>, Fault> {
    let mut out = vec![0; first_output(packed, limit)];
    let mut filled = 0;
    loop {
        if filled == out.len() {
            if filled == limit {
                // Full: anything more is too much.
                return match reader.read(&mut [0]).map_err(Fault::corrupt)? {
                    0 => Ok(out),
                    _ => Err(Fault::TooLarge),
                };
            }
            let grown = out.len().saturating_mul(2).min(limit);
            out.reserve_exact(grown - out.len());
            out.resize(grown, 0);
        }
        match reader.read(&mut out[filled..]).map_err(Fault::corrupt)? {
            0 => break,
            read => filled += read,
        }
    }
    out.truncate(filled);
    Ok(out)
}

#[cfg(test)]
mod tests;
