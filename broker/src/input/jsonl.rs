//! One JSON object a line: the form that `logweir consume --output json` writes, so that records can be copied.
//!
//! `value` is needed; `key`, `headers` and `timestamp` may be left out; `topic`, `partition` and
//! `offset` are passed over. A string stands for its text, `null` for none, anything else for
//! its own JSON text; `key_base64` and `value_base64` hold bytes that are not UTF-8.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny};
use serde_json::value::RawValue;

use super::InputRecord;

/// A line; every field remembers whether it was there, because `null` is not the same as absent.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line<'a> {
    #[serde(borrow, default, deserialize_with = "present")]
    key: Option<&'a RawValue>,
    #[serde(default)]
    key_base64: Option<String>,
    #[serde(borrow, default, deserialize_with = "present")]
    value: Option<&'a RawValue>,
    #[serde(default)]
    value_base64: Option<String>,
    #[serde(borrow, default, deserialize_with = "present")]
    headers: Option<&'a RawValue>,
    #[serde(default)]
    timestamp: Option<i64>,
    #[serde(default, rename = "topic")]
    _topic: IgnoredAny,
    #[serde(default, rename = "partition")]
    _partition: IgnoredAny,
    #[serde(default, rename = "offset")]
    _offset: IgnoredAny,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct HeaderObject<'a> {
    key: String,
    #[serde(borrow, default, deserialize_with = "present")]
    value: Option<&'a RawValue>,
    #[serde(default)]
    value_base64: Option<String>,
}

fn present<'de: 'a, 'a, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<&'a RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

/// Reads one line into a record (its line number is the caller's to set). `has_flags` as in [`Limit`](super::Limit).
///
/// # Errors
/// What is wrong with the line, in words.
pub(crate) fn parse(text: &[u8], has_flags: bool) -> Result<InputRecord, String> {
    let line: Line<'_> = serde_json::from_slice(text).map_err(|error| in_words(&error))?;
    let key = choose("key", line.key, line.key_base64)?.flatten();
    let value = choose("value", line.value, line.value_base64)?.ok_or_else(|| {
        let or_lines = if has_flags {
            ", or --format lines to send whole lines"
        } else {
            ""
        };
        format!("has no \"value\"; say null for a tombstone{or_lines}")
    })?;
    let headers = line.headers.map(headers).transpose()?.unwrap_or_default();
    if line.timestamp.is_some_and(|ms| ms < 0) {
        return Err("has a timestamp below 0; it is milliseconds since 1970-01-01 UTC".to_owned());
    }
    Ok(InputRecord {
        line: 0,
        key,
        value,
        headers,
        timestamp_ms: line.timestamp,
    })
}

/// The outer `None` is absent, the inner one null.
fn choose(
    name: &str,
    plain: Option<&RawValue>,
    base64: Option<String>,
) -> Result<Option<Option<Bytes>>, String> {
    match (plain, base64) {
        (Some(_), Some(_)) => Err(format!(
            "has both {name} and {name}_base64; give one of the two"
        )),
        (Some(raw), None) => text_of(raw).map(Some),
        (None, Some(text)) => {
            let bytes = STANDARD
                .decode(text)
                .map_err(|e| format!("{name}_base64 is not base64: {e}"))?;
            Ok(Some(Some(Bytes::from(bytes))))
        }
        (None, None) => Ok(None),
    }
}

/// The bytes that a JSON value stands for; `None` for null.
fn text_of(raw: &RawValue) -> Result<Option<Bytes>, String> {
    let text = raw.get();
    if text == "null" {
        return Ok(None);
    }
    if text.starts_with('"') {
        let string: String = serde_json::from_str(text).map_err(|error| in_words(&error))?;
        return Ok(Some(Bytes::from(string)));
    }
    Ok(Some(Bytes::copy_from_slice(text.as_bytes())))
}

/// Headers as a list of objects (the only form in which a name may repeat) or as one object.
fn headers(raw: &RawValue) -> Result<Vec<(String, Option<Bytes>)>, String> {
    let wrong = |error: &serde_json::Error| {
        format!(
            "headers: {}; they are [{{\"key\": …, \"value\": …}}, …] or {{\"name\": \"value\", …}}",
            in_words(error)
        )
    };
    match raw.get().as_bytes().first() {
        Some(b'[') => {
            let list: Vec<HeaderObject<'_>> =
                serde_json::from_str(raw.get()).map_err(|error| wrong(&error))?;
            list.into_iter()
                .map(|header| {
                    let value = choose("value", header.value, header.value_base64)?;
                    Ok((header.key, value.flatten()))
                })
                .collect()
        }
        Some(b'n') => Ok(Vec::new()),
        _ => {
            let object: Object<'_> =
                serde_json::from_str(raw.get()).map_err(|error| wrong(&error))?;
            object
                .0
                .into_iter()
                .map(|(name, value)| Ok((name, text_of(value)?)))
                .collect()
        }
    }
}

/// A JSON object in its own order.
struct Object<'a>(Vec<(String, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Object<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor<'a>(std::marker::PhantomData<&'a ()>);

        impl<'de: 'a, 'a> serde::de::Visitor<'de> for Visitor<'a> {
            type Value = Object<'a>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object or a list")
            }

            fn visit_map<M: serde::de::MapAccess<'de>>(
                self,
                mut map: M,
            ) -> Result<Self::Value, M::Error> {
                let mut fields = Vec::new();
                while let Some(field) = map.next_entry::<String, &RawValue>()? {
                    fields.push(field);
                }
                Ok(Object(fields))
            }
        }
        deserializer.deserialize_map(Visitor(std::marker::PhantomData))
    }
}

/// The error without "at line 1", which would contradict the line number of the input.
fn in_words(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let message = text
        .rsplit_once(" at line ")
        .map_or(text.as_str(), |(message, _)| message);
    match error.column() {
        0 => message.to_owned(),
        column => format!("{message} (column {column})"),
    }
}
