//! Flag values with units and escapes, as clap's value parsers.

use std::time::Duration;

use logweir_client::Acks;
use logweir_proto::record::Compression;

use crate::config::{bytes_to_digits, duration_to_digits};

/// A duration such as `500ms`, `5s` or a plain number of milliseconds.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let ms: u64 = duration_to_digits(text)?
        .parse()
        .map_err(|_| format!("{text:?} is below 0"))?;
    Ok(Duration::from_millis(ms))
}

/// A size such as `64KiB` or a plain number of bytes; at least 1.
pub(super) fn bytes(text: &str) -> Result<usize, String> {
    match bytes_to_digits(text)?.parse() {
        Ok(0) | Err(_) => Err(format!("{text:?} is not at least 1 byte")),
        Ok(bytes) => Ok(bytes),
    }
}

/// Text with the escapes `\t`, `\n`, `\r`, `\0`, `\\` and `\xNN`; not empty.
pub(super) fn separator(text: &str) -> Result<String, String> {
    let mut plain = String::new();
    let mut rest = text.chars();
    while let Some(c) = rest.next() {
        if c != '\\' {
            plain.push(c);
            continue;
        }
        let refused =
            || format!("{text:?} has an unknown escape; there are \\t \\n \\r \\0 \\\\ and \\xNN");
        plain.push(match rest.next() {
            Some('t') => '\t',
            Some('n') => '\n',
            Some('r') => '\r',
            Some('0') => '\0',
            Some('\\') => '\\',
            Some('x') => {
                let digits: String = rest.by_ref().take(2).collect();
                let code = u8::from_str_radix(&digits, 16).map_err(|_| refused())?;
                if digits.len() != 2 || !code.is_ascii() {
                    return Err(refused());
                }
                char::from(code)
            }
            _ => return Err(refused()),
        });
    }
    if plain.is_empty() {
        Err("a separator has at least one character".to_owned())
    } else {
        Ok(plain)
    }
}

/// A single ASCII character that can stand between CSV cells.
pub(super) fn delimiter(text: &str) -> Result<u8, String> {
    let plain = separator(text)?;
    match plain.as_bytes() {
        [b'"' | b'\n' | b'\r'] => {
            Err("a quote or line break cannot stand between cells".to_owned())
        }
        [byte] if byte.is_ascii() => Ok(*byte),
        _ => Err(format!(
            "{text:?} is not a single ASCII character, such as ; or \\t"
        )),
    }
}

/// `all`, `1` or `0`, and Kafka's other spellings.
pub(super) fn acks(text: &str) -> Result<Acks, String> {
    text.parse()
        .map_err(|error: logweir_client::Error| error.message().to_owned())
}

/// A codec by its name.
pub(super) fn compression(text: &str) -> Result<Compression, String> {
    text.parse()
        .map_err(|_| format!("{text:?} is none of none, gzip, snappy, lz4 and zstd"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn separators_may_be_escaped() {
        assert_eq!(separator("\\t").as_deref(), Ok("\t"));
        assert_eq!(separator("::").as_deref(), Ok("::"));
        assert_eq!(separator("\\x1f\\\\").as_deref(), Ok("\u{1f}\\"));
        for bad in ["", "\\", "\\q", "\\x1", "\\xff", "\\xzz"] {
            assert!(separator(bad).is_err(), "{bad}");
        }
        assert_eq!(delimiter("\\t"), Ok(b'\t'));
        for bad in [",,", "é", "\"", "\\n"] {
            assert!(delimiter(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes_and_times_have_units() {
        assert_eq!(bytes("64KiB"), Ok(65_536));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        assert_eq!(duration("5"), Ok(Duration::from_millis(5)));
        for bad in ["0", "-1", "x"] {
            assert!(bytes(bad).is_err(), "{bad}");
        }
        assert!(duration("-5").is_err());
    }
}
