//! What is read and written by hand: arrays, strings and tagged fields, before and since flexible versions (KIP-482).

use bytes::{BufMut, BytesMut};
use kafka_wire_core::{DecodeError, Decoder, EncodeError, Encoder};

use super::message::text;

pub(super) fn array_len(decoder: &mut Decoder, flexible: bool) -> Result<usize, DecodeError> {
    let count = match flexible {
        true => decoder.read_compact_array_len()?,
        false => decoder.read_array_len()?,
    };
    Ok(count.get())
}

pub(super) fn skip_tags(decoder: &mut Decoder, flexible: bool) -> Result<(), DecodeError> {
    if flexible {
        decoder.read_tagged_fields()?;
    }
    Ok(())
}

pub(super) fn put_array_len(
    frame: &mut BytesMut,
    length: usize,
    flexible: bool,
) -> Result<(), EncodeError> {
    let mut encoder = Encoder::new(frame);
    match flexible {
        true => encoder.write_compact_array_len(length)?,
        false => encoder.write_array_len(length)?,
    }
    Ok(())
}

pub(super) fn put_string(
    frame: &mut BytesMut,
    value: &str,
    flexible: bool,
) -> Result<(), EncodeError> {
    let value = text(value);
    let mut encoder = Encoder::new(frame);
    match flexible {
        true => encoder.write_compact_string(&value)?,
        false => encoder.write_string(&value)?,
    }
    Ok(())
}

pub(super) fn put_nullable_string(
    frame: &mut BytesMut,
    value: Option<&str>,
    flexible: bool,
) -> Result<(), EncodeError> {
    let value = value.map(text);
    let mut encoder = Encoder::new(frame);
    match flexible {
        true => encoder.write_compact_nullable_string(value.as_ref())?,
        false => encoder.write_nullable_string(value.as_ref())?,
    }
    Ok(())
}

pub(super) fn put_no_tags(frame: &mut BytesMut, flexible: bool) {
    if flexible {
        frame.put_u8(0);
    }
}
