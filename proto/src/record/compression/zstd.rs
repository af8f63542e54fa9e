//! Zstandard (RFC 8878), unpacked in one call straight into the output.
//!
//! Streaming would have to allocate the window that the frame's header asks for, up to 128 MiB for a frame of twenty bytes.
//! In one call the output is its own window; where the frame does not tell its size (Java's client
//! does not), the output is tried again larger, by factors, up to the limit.
//!
//! Each thread keeps one context of either kind, because making one (some 20 us, and for packing more than a
//! megabyte) costs much more than a small batch. Calls share nothing through them.

use std::cell::RefCell;

use zstd::zstd_safe::{
    self, CCtx, DCtx, compress_bound, get_error_name, get_frame_content_size,
    zstd_sys::ZSTD_ErrorCode,
};

use super::{Fault, first_output};

/// The level of Kafka's Java client.
const LEVEL: i32 = 3;

/// How much larger the next try is.
const GROWTH: usize = 4;

thread_local! {
    static PACKING: RefCell<Option<CCtx<'static>>> = const { RefCell::new(None) };
    static UNPACKING: RefCell<Option<DCtx<'static>>> = const { RefCell::new(None) };
}

pub(super) fn compress(body: &[u8], out: &mut Vec<u8>) -> Result<(), String> {
    let start = out.len();
    out.resize(start + compress_bound(body.len()), 0);
    let written: Result<usize, &str> = PACKING.with_borrow_mut(|context| {
        let context = kept(context, CCtx::try_create)?;
        context
            .compress(&mut out[start..], body, LEVEL)
            .map_err(get_error_name)
    });
    out.truncate(start + written.map_err(str::to_owned)?);
    Ok(())
}

pub(super) fn decompress(body: &[u8], limit: usize) -> Result<Vec<u8>, Fault> {
    UNPACKING.with_borrow_mut(|context| {
        let context = kept(context, DCtx::try_create).map_err(Fault::corrupt)?;
        decompress_with(context, body, limit)
    })
}

/// The context of this thread, made on first use.
fn kept<C>(
    context: &mut Option<C>,
    create: impl FnOnce() -> Option<C>,
) -> Result<&mut C, &'static str> {
    if context.is_none() {
        *context = create();
    }
    context.as_mut().ok_or("out of memory")
}

fn decompress_with(context: &mut DCtx<'_>, body: &[u8], limit: usize) -> Result<Vec<u8>, Fault> {
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
                let least = first_output(body.len(), limit);
                room = room.saturating_mul(GROWTH).max(least).min(limit);
            }
        }
    }
}

fn is_too_small(code: zstd_safe::ErrorCode) -> bool {
    // An error is a negated number in an unsigned one.
    let number = ZSTD_ErrorCode::ZSTD_error_dstSize_tooSmall as usize;
    code == number.wrapping_neg()
}
