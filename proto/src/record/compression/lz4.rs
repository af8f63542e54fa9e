//! LZ4 frames, as Kafka has them since message format 2: a standard header checksum, independent blocks.
//!
//! Written by lz4_flex. Read by hand over its block decoder, because its frame reader allocates what the header's
//! largest block size says, 4 MiB with some clients, for every small batch. Here blocks are unpacked straight into the
//! output. Linked blocks are read too; dictionaries, which Kafka has no place for, are refused.

use std::io::Write;

use lz4_flex::{
    block::{DecompressError, decompress_into, decompress_into_with_dict},
    frame::{BlockMode, BlockSize, FrameEncoder, FrameInfo},
};
use twox_hash::XxHash32;

use super::{Fault, first_output};

const MAGIC: u32 = 0x184d_2204;
/// How far back a match of a linked block may reach.
const WINDOW: usize = 64 * 1024;

const VERSION_MASK: u8 = 0b1100_0000;
const VERSION: u8 = 0b0100_0000;
const INDEPENDENT: u8 = 0b0010_0000;
const BLOCK_CHECKSUMS: u8 = 0b0001_0000;
const CONTENT_SIZE: u8 = 0b0000_1000;
const CONTENT_CHECKSUM: u8 = 0b0000_0100;
const RESERVED: u8 = 0b0000_0010;
const DICTIONARY: u8 = 0b0000_0001;

pub(super) fn compress(body: &[u8], out: &mut Vec<u8>) -> Result<(), String> {
    let info = FrameInfo::new()
        .block_mode(BlockMode::Independent)
        .block_size(BlockSize::Max64KB);
    let mut encoder = FrameEncoder::with_frame_info(info, out);
    encoder.write_all(body).map_err(|error| error.to_string())?;
    encoder.finish().map_err(|error| error.to_string())?;
    Ok(())
}

pub(super) fn decompress(body: &[u8], limit: usize) -> Result<Vec<u8>, Fault> {
    let mut input = Input { rest: body };
    let frame = Frame::read(&mut input)?;
    let mut out = Vec::new();
    loop {
        let word = input.u32("block size")?;
        if word == 0 {
            break;
        }
        // The highest bit marks a block that is stored as it is.
        let stored = word >> 31 == 1;
        let block = input.take(word & (u32::MAX >> 1), "block")?;
        if frame.block_checksums && input.u32("block checksum")? != XxHash32::oneshot(0, block) {
            return Err(Fault::corrupt("block checksum does not fit"));
        }
        if stored {
            if block.len() > frame.max_block {
                return Err(Fault::corrupt("block larger than the frame allows"));
            }
            grow(&mut out, block.len(), limit)?;
            out.extend_from_slice(block);
        } else {
            unpack(&frame, block, &mut out, limit)?;
        }
    }
    if frame.content_checksum && input.u32("content checksum")? != XxHash32::oneshot(0, &out) {
        return Err(Fault::corrupt("content checksum does not fit"));
    }
    if frame
        .content_size
        .is_some_and(|size| u64::try_from(out.len()) != Ok(size))
    {
        return Err(Fault::corrupt("content size does not fit"));
    }
    if !input.rest.is_empty() {
        return Err(Fault::Corrupt(format!(
            "{} bytes follow the frame",
            input.rest.len()
        )));
    }
    Ok(out)
}

/// Unpacks one block onto the end of `out`.
fn unpack(frame: &Frame, block: &[u8], out: &mut Vec<u8>, limit: usize) -> Result<(), Fault> {
    let start = out.len();
    let most = frame.max_block.min(limit - start);
    // Room is guessed first, because the most (4 MiB) would be cleared for nothing in small batches.
    let mut room = first_output(block.len(), most);
    loop {
        out.truncate(start);
        grow(out, room, limit)?;
        out.resize(start + room, 0);
        let (before, after) = out.split_at_mut(start);
        let result = if frame.independent || before.is_empty() {
            decompress_into(block, after)
        } else {
            let window = before.len().saturating_sub(WINDOW);
            decompress_into_with_dict(block, after, &before[window..])
        };
        match result {
            Ok(written) => {
                out.truncate(start + written);
                return Ok(());
            }
            Err(DecompressError::OutputTooSmall { .. }) if room < most => {
                room = room.saturating_mul(8).min(most);
            }
            Err(DecompressError::OutputTooSmall { .. }) if most < frame.max_block => {
                return Err(Fault::TooLarge);
            }
            Err(error) => return Err(Fault::corrupt(error)),
        }
    }
}

/// Makes room for `more` bytes after those of `out`, never beyond the limit.
fn grow(out: &mut Vec<u8>, more: usize, limit: usize) -> Result<(), Fault> {
    let left = limit
        .checked_sub(out.len())
        .filter(|left| more <= *left)
        .ok_or(Fault::TooLarge)?;
    if out.capacity() - out.len() < more {
        // Doubles like a vector would, but stops at the limit.
        out.reserve_exact(more.max(out.len().min(left)));
    }
    Ok(())
}

/// What a frame's header says.
struct Frame {
    independent: bool,
    block_checksums: bool,
    content_checksum: bool,
    content_size: Option<u64>,
    max_block: usize,
}

impl Frame {
    fn read(input: &mut Input<'_>) -> Result<Self, Fault> {
        let magic = input.u32("magic")?;
        if magic != MAGIC {
            return Err(Fault::Corrupt(format!(
                "magic {magic:#010x} where {MAGIC:#010x} is due"
            )));
        }
        let descriptor = input.rest;
        let [flags, block_descriptor] = input.array("frame descriptor")?;
        if flags & VERSION_MASK != VERSION || flags & RESERVED != 0 || block_descriptor & 0x8f != 0
        {
            return Err(Fault::corrupt("unknown version or reserved bits"));
        }
        if flags & DICTIONARY != 0 {
            return Err(Fault::corrupt("needs a dictionary"));
        }
        let max_block = match block_descriptor >> 4 {
            size @ 4..=7 => 1 << (2 * size + 8),
            size => return Err(Fault::Corrupt(format!("unknown block size {size}"))),
        };
        let content_size = match flags & CONTENT_SIZE {
            0 => None,
            _ => Some(u64::from_le_bytes(input.array("content size")?)),
        };
        let descriptor = &descriptor[..descriptor.len() - input.rest.len()];
        let [_, _, computed, _] = XxHash32::oneshot(0, descriptor).to_be_bytes();
        let [checksum] = input.array("header checksum")?;
        if checksum != computed {
            return Err(Fault::corrupt("header checksum does not fit"));
        }
        Ok(Self {
            independent: flags & INDEPENDENT != 0,
            block_checksums: flags & BLOCK_CHECKSUMS != 0,
            content_checksum: flags & CONTENT_CHECKSUM != 0,
            content_size,
            max_block,
        })
    }
}

struct Input<'a> {
    rest: &'a [u8],
}

impl<'a> Input<'a> {
    fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N], Fault> {
        let (head, rest) = self
            .rest
            .split_first_chunk()
            .ok_or_else(|| Fault::Corrupt(format!("{what} cut short")))?;
        self.rest = rest;
        Ok(*head)
    }

    fn u32(&mut self, what: &str) -> Result<u32, Fault> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    fn take(&mut self, len: u32, what: &str) -> Result<&'a [u8], Fault> {
        let (head, rest) = usize::try_from(len)
            .ok()
            .and_then(|len| self.rest.split_at_checked(len))
            .ok_or_else(|| Fault::Corrupt(format!("{what} cut short")))?;
        self.rest = rest;
        Ok(head)
    }
}
