//! Kafka's primitive encodings, old and compact, for the records of `__consumer_offsets`.
//!
//! Reading is bounded: a length is believed only as far as there are bytes left, so that no input makes it allocate
//! more than a small multiple of its own size. Big-endian, as everywhere in Kafka.

use std::sync::Arc;

use bytes::Bytes;
use logweir_proto::TopicId;

/// Bytes that are not what they should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct DecodeError(pub(crate) &'static str);

const ENDS_EARLY: DecodeError = DecodeError("the bytes end early");
const BAD_LENGTH: DecodeError = DecodeError("a length is negative or beyond the end");

/// Reads forwards through one key or value.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    rest: &'a [u8],
    /// Compact lengths and tagged fields are in use.
    pub(super) flexible: bool,
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        let flexible = false;
        Self {
            rest: bytes,
            flexible,
        }
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], DecodeError> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(ENDS_EARLY)?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let taken = self.take(N)?;
        taken.try_into().map_err(|_| ENDS_EARLY)
    }

    pub(super) fn i8(&mut self) -> Result<i8, DecodeError> {
        self.array().map(i8::from_be_bytes)
    }

    pub(super) fn i16(&mut self) -> Result<i16, DecodeError> {
        self.array().map(i16::from_be_bytes)
    }

    pub(super) fn i32(&mut self) -> Result<i32, DecodeError> {
        self.array().map(i32::from_be_bytes)
    }

    pub(super) fn i64(&mut self) -> Result<i64, DecodeError> {
        self.array().map(i64::from_be_bytes)
    }

    pub(super) fn topic_id(&mut self) -> Result<TopicId, DecodeError> {
        self.array().map(TopicId::new)
    }

    pub(super) fn uvarint(&mut self) -> Result<u32, DecodeError> {
        let mut value = 0_u64;
        for shift in [0, 7, 14, 21, 28] {
            let [byte] = self.array()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return u32::try_from(value).map_err(|_| BAD_LENGTH);
            }
        }
        Err(BAD_LENGTH)
    }

    /// A length or count; `None` is null. `old` reads it where the encoding is not compact.
    fn length(
        &mut self,
        old: impl FnOnce(&mut Self) -> Result<i32, DecodeError>,
    ) -> Result<Option<usize>, DecodeError> {
        if self.flexible {
            let length = self.uvarint()?.checked_sub(1);
            return length
                .map(|l| usize::try_from(l).map_err(|_| BAD_LENGTH))
                .transpose();
        }
        match old(self)? {
            -1 => Ok(None),
            length => usize::try_from(length).map(Some).map_err(|_| BAD_LENGTH),
        }
    }

    pub(super) fn nullable_string(&mut self) -> Result<Option<Arc<str>>, DecodeError> {
        let Some(length) = self.length(|r| r.i16().map(i32::from))? else {
            return Ok(None);
        };
        let text = std::str::from_utf8(self.take(length)?);
        text.map(|text| Some(text.into()))
            .map_err(|_| DecodeError("a string is not UTF-8"))
    }

    pub(super) fn string(&mut self) -> Result<Arc<str>, DecodeError> {
        self.nullable_string()?
            .ok_or(DecodeError("a string is null"))
    }

    pub(super) fn bytes(&mut self) -> Result<Bytes, DecodeError> {
        let length = self
            .length(Self::i32)?
            .ok_or(DecodeError("bytes are null"))?;
        self.take(length).map(Bytes::copy_from_slice)
    }

    /// A list, each of whose items takes at least one byte.
    pub(super) fn list<T>(
        &mut self,
        mut item: impl FnMut(&mut Self) -> Result<T, DecodeError>,
    ) -> Result<Vec<T>, DecodeError> {
        let count = self
            .length(Self::i32)?
            .ok_or(DecodeError("a list is null"))?;
        if count > self.rest.len() {
            return Err(BAD_LENGTH);
        }
        // Grown as items are read: `count` may be as large as the input, and an item larger than a byte.
        let mut items = Vec::new();
        for _ in 0..count {
            items.push(item(self)?);
        }
        Ok(items)
    }

    /// The tagged fields at the end of a flexible structure: known ones are read by `field`, others are skipped.
    pub(super) fn tags(
        &mut self,
        mut field: impl FnMut(u32, &mut Reader<'a>) -> Result<(), DecodeError>,
    ) -> Result<(), DecodeError> {
        if !self.flexible {
            return Ok(());
        }
        for _ in 0..self.uvarint()? {
            let tag = self.uvarint()?;
            let length = usize::try_from(self.uvarint()?).map_err(|_| BAD_LENGTH)?;
            let mut inner = Reader {
                rest: self.take(length)?,
                flexible: true,
            };
            field(tag, &mut inner)?;
        }
        Ok(())
    }

    pub(super) fn skip_tags(&mut self) -> Result<(), DecodeError> {
        self.tags(|_, _| Ok(()))
    }

    /// Nothing may follow.
    pub(super) fn end(&self) -> Result<(), DecodeError> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(DecodeError("bytes follow the end"))
        }
    }
}

/// Writes one key or value.
#[derive(Debug, Default)]
pub(super) struct Writer {
    out: Vec<u8>,
    /// Compact lengths and tagged fields are in use.
    pub(super) flexible: bool,
}

impl Writer {
    /// Begins with the version, or a key with its type.
    pub(super) fn new(version: i16, flexible: bool) -> Self {
        let out = version.to_be_bytes().to_vec();
        Self { out, flexible }
    }

    pub(super) fn i8(&mut self, value: i8) -> &mut Self {
        self.raw(&value.to_be_bytes())
    }

    pub(super) fn i16(&mut self, value: i16) -> &mut Self {
        self.raw(&value.to_be_bytes())
    }

    pub(super) fn i32(&mut self, value: i32) -> &mut Self {
        self.raw(&value.to_be_bytes())
    }

    pub(super) fn i64(&mut self, value: i64) -> &mut Self {
        self.raw(&value.to_be_bytes())
    }

    pub(super) fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.out.extend_from_slice(bytes);
        self
    }

    pub(super) fn uvarint(&mut self, mut value: u32) -> &mut Self {
        while value >= 0x80 {
            self.out.push(value.to_le_bytes()[0] | 0x80);
            value >>= 7;
        }
        self.out.push(value.to_le_bytes()[0]);
        self
    }

    fn compact_length(&mut self, length: Option<usize>) -> &mut Self {
        let length = length.map_or(0, |l| {
            u32::try_from(l + 1).expect("limits keep lengths small")
        });
        self.uvarint(length)
    }

    pub(super) fn nullable_string(&mut self, text: Option<&str>) -> &mut Self {
        if self.flexible {
            self.compact_length(text.map(str::len));
        } else {
            let length = text.map_or(-1, |t| {
                i16::try_from(t.len()).expect("names are at most MAX_NAME_BYTES long")
            });
            self.i16(length);
        }
        self.raw(text.unwrap_or_default().as_bytes())
    }

    pub(super) fn string(&mut self, text: &str) -> &mut Self {
        self.nullable_string(Some(text))
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.count(bytes.len()).raw(bytes)
    }

    /// The length of a list, or of bytes.
    pub(super) fn count(&mut self, count: usize) -> &mut Self {
        if self.flexible {
            return self.compact_length(Some(count));
        }
        self.i32(i32::try_from(count).expect("limits keep lists small"))
    }

    /// The tagged fields at the end of a flexible structure, in ascending order of their tags.
    pub(super) fn tags(&mut self, fields: &[(u32, Vec<u8>)]) -> &mut Self {
        if !self.flexible {
            return self;
        }
        let length = |l: usize| u32::try_from(l).expect("limits keep lengths small");
        self.uvarint(length(fields.len()));
        for (tag, field) in fields {
            self.uvarint(*tag).uvarint(length(field.len())).raw(field);
        }
        self
    }

    pub(super) fn finish(&mut self) -> Bytes {
        std::mem::take(&mut self.out).into()
    }
}
