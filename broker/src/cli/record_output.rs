//! How consumed records are written: a value a line, or a JSON object a line.

use std::io::{self, Write};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use logweir_proto::record::Record;
use serde::Serialize;
use serde::ser::{SerializeMap, SerializeSeq, Serializer};

/// How to write a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum RecordFormat {
    /// The value's bytes, after the key and a separator if one is given, and a line feed.
    Value {
        /// What stands between key and value; `None` leaves the key out.
        key_separator: Option<String>,
    },
    /// One JSON object.
    Json,
}

impl RecordFormat {
    /// Writes one record with its line feed. Null keys and values are written as nothing, except in JSON.
    ///
    /// # Errors
    /// The output cannot be written to.
    pub(super) fn write(
        &self,
        out: &mut impl Write,
        topic: &str,
        partition: i32,
        record: &Record,
    ) -> io::Result<()> {
        match self {
            Self::Value { key_separator } => {
                if let Some(separator) = key_separator {
                    out.write_all(record.key.as_deref().unwrap_or_default())?;
                    out.write_all(separator.as_bytes())?;
                }
                out.write_all(record.value.as_deref().unwrap_or_default())?;
            }
            Self::Json => {
                let place = Some((topic, partition));
                serde_json::to_writer(&mut *out, &JsonRecord { place, record })?;
            }
        }
        out.write_all(b"\n")
    }
}

/// Writes a record whose topic nobody knows as JSON, with its line feed.
///
/// # Errors
/// The output cannot be written to.
pub(super) fn write_bare_json(out: &mut impl Write, record: &Record) -> io::Result<()> {
    serde_json::to_writer(
        &mut *out,
        &JsonRecord {
            place: None,
            record,
        },
    )?;
    out.write_all(b"\n")
}

struct JsonRecord<'a> {
    /// Topic and partition, where they are known.
    place: Option<(&'a str, i32)>,
    record: &'a Record,
}

impl Serialize for JsonRecord<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        if let Some((topic, partition)) = self.place {
            map.serialize_entry("topic", topic)?;
            map.serialize_entry("partition", &partition)?;
        }
        map.serialize_entry("offset", &self.record.offset.get())?;
        map.serialize_entry("timestamp", &self.record.timestamp.get())?;
        data(&mut map, ["key", "key_base64"], self.record.key.as_deref())?;
        data(
            &mut map,
            ["value", "value_base64"],
            self.record.value.as_deref(),
        )?;
        map.serialize_entry("headers", &Headers(self.record))?;
        map.end()
    }
}

/// Text under the plain name; bytes that are not UTF-8 under the other, in base64.
fn data<M: SerializeMap>(
    map: &mut M,
    names: [&str; 2],
    bytes: Option<&[u8]>,
) -> Result<(), M::Error> {
    match bytes.map(|bytes| (bytes, std::str::from_utf8(bytes))) {
        None => map.serialize_entry(names[0], &()),
        Some((_, Ok(text))) => map.serialize_entry(names[0], text),
        Some((bytes, Err(_))) => map.serialize_entry(names[1], &STANDARD.encode(bytes)),
    }
}

struct Headers<'a>(&'a Record);

impl Serialize for Headers<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut list = serializer.serialize_seq(Some(self.0.headers.len()))?;
        for header in &self.0.headers {
            list.serialize_element(&Header(header))?;
        }
        list.end()
    }
}

struct Header<'a>(&'a logweir_proto::record::RecordHeader);

impl Serialize for Header<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("key", &String::from_utf8_lossy(&self.0.key))?;
        data(&mut map, ["value", "value_base64"], self.0.value.as_deref())?;
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use logweir_proto::record::RecordHeader;
    use logweir_proto::{Offset, Timestamp};

    use super::*;
    use crate::input::{Format, Input, Limit};

    fn record(key: Option<&'static [u8]>, value: Option<&'static [u8]>) -> Record {
        Record {
            offset: Offset::new(7),
            timestamp: Timestamp::new(1_000),
            key: key.map(Bytes::from_static),
            value: value.map(Bytes::from_static),
            headers: Vec::new(),
        }
    }

    fn check(format: &RecordFormat, record: &Record, expected: &str) {
        let mut out = Vec::new();
        format.write(&mut out, "t", 3, record).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }

    #[test]
    fn a_value_is_written_as_it_is_with_the_key_before_it_if_wanted() {
        let plain = RecordFormat::Value {
            key_separator: None,
        };
        let keyed = RecordFormat::Value {
            key_separator: Some("=>".to_owned()),
        };
        check(&plain, &record(Some(b"k"), Some(b"v, w")), "v, w\n");
        check(&keyed, &record(Some(b"k"), Some(b"v")), "k=>v\n");
        check(&keyed, &record(None, None), "=>\n");
    }

    #[test]
    fn json_tells_null_from_empty_and_carries_bytes_that_are_no_text() {
        let line = |data: &str| {
            format!("{{\"topic\":\"t\",\"partition\":3,\"offset\":7,\"timestamp\":1000,{data}}}\n")
        };
        let json = RecordFormat::Json;
        check(
            &json,
            &record(None, Some(b"")),
            &line("\"key\":null,\"value\":\"\",\"headers\":[]"),
        );
        check(
            &json,
            &record(Some(b"\xff"), None),
            &line("\"key_base64\":\"/w==\",\"value\":null,\"headers\":[]"),
        );
        let mut with_headers = record(Some(b"a\n"), Some(b"\""));
        with_headers.headers = vec![
            RecordHeader {
                key: Bytes::from_static(b"h"),
                value: None,
            },
            RecordHeader {
                key: Bytes::from_static(b"h"),
                value: Some(Bytes::from_static(b"\x80")),
            },
        ];
        check(
            &json,
            &with_headers,
            &line(
                "\"key\":\"a\\n\",\"value\":\"\\\"\",\"headers\":[{\"key\":\"h\",\"value\":null},\
                 {\"key\":\"h\",\"value_base64\":\"gA==\"}]",
            ),
        );
    }

    #[test]
    fn what_is_written_as_json_can_be_produced_again() {
        let mut original = record(Some(b"\xff\x00"), Some("é\u{1}\"\\".as_bytes()));
        original.headers = vec![RecordHeader {
            key: Bytes::from_static(b"h"),
            value: Some(Bytes::from_static(b"\x80")),
        }];
        let mut line = Vec::new();
        RecordFormat::Json
            .write(&mut line, "t", 3, &original)
            .unwrap();
        let limit = Limit {
            bytes: 1_000,
            has_flags: true,
        };
        let mut input = Input::new(line.as_slice(), &Format::Jsonl, limit)
            .ok()
            .unwrap();
        let again = input.next_record().unwrap().ok().unwrap();
        assert_eq!((again.key, again.value), (original.key, original.value));
        assert_eq!(
            again.headers,
            [("h".to_owned(), Some(Bytes::from_static(b"\x80")))]
        );
        assert_eq!(again.timestamp_ms, Some(1_000));
    }
}
