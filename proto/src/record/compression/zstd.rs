//! Zstandard (RFC 8878), unpacked in one call straight into the output.
//!
//! Streaming would have to allocate the window that the frame's header asks for, up to 128 MiB for a frame of twenty bytes.
//! In one call the output is its own window; where the frame does not tell its size (Java's client
//! does not), the output is tried again larger, by factors, up to the limit.

use zstd::zstd_safe::{
    self, CCtx, DCtx, compress_bound, get_error_name, get_frame_content_size,
    zstd_sys::ZSTD_ErrorCode,
};

use super::{Fault, first_output};

/// The level of Kafka's Java client.
const LEVEL: i32 = 3;

/// How much larger the next try is.
const GROWTH: usize = 4;

pub(super) fn compress(body: &[u8], out: &mut Vec<u8>) -> Result<(), String> {
    let start = out.len();
    out.resize(start + compress_bound(body.len()), 0);
    let mut context = CCtx::try_create().ok_or_else(|| "out of memory".to_owned())?;
    let written = context
        .compress(&mut out[start..], body, LEVEL)
        .map_err(|code| get_error_name(code).to_owned())?;
    out.truncate(start + written);
    Ok(())
}

pub(super) fn decompress(body: &[u8], limit: usize) -> Result<Vec<u8>, Fault> {
    let mut context = DCtx::try_create().ok_or_else(|| Fault::corrupt("out of memory"))?;
    // The first frame's promise (there is seldom another). It is no more than a first guess: a false one costs a
    // failed try within the limit.
    let promised = get_frame_content_size(body).ok().flatten();
    let promised = promised.and_then(|size| usize::try_from(size).ok());
    let mut room = match promised {
        Some(promised) if promised > limit => return Err(Fault::TooLarge),
        Some(promised) => promised,
        None => first_output(body.len(), limit),
    };
    loop {
        let mut out = Vec::with_capacity(room);
        match context.decompress(&mut out, body) {
            Ok(_) => return Ok(out),
            Err(code) if !is_too_small(code) => return Err(Fault::corrupt(get_error_name(code))),
            Err(_) if room >= limit => return Err(Fault::TooLarge),
            Err(_) => {
                room = room
                    .saturating_mul(GROWTH)
                    .max(first_output(body.len(), limit))
                    .min(limit)
            }
        }
    }
}

fn is_too_small(code: zstd_safe::ErrorCode) -> bool {
    // An error is a negated number in an unsigned one.
    let number = ZSTD_ErrorCode::ZSTD_error_dstSize_tooSmall as usize;
    code == number.wrapping_neg()
}
