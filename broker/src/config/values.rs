//! The values that settings take: addresses, flush modes, policies, and numbers with units.
//!
//! Every value has one text form, which `Display` writes and `FromStr` reads back.

use std::fmt;
use std::str::FromStr;

/// Where a listener listens.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ListenAddr {
    /// Nowhere: the listener is not started.
    Off,
    /// At `HOST:PORT`, such as `127.0.0.1:9093` or `[::1]:9093`; port 0 lets the system choose.
    At(String),
}

impl ListenAddr {
    /// A port of the system's choice on the loopback interface.
    #[must_use]
    pub fn any_port() -> Self {
        Self::At("127.0.0.1:0".to_owned())
    }

    /// The address; `None` if the listener is off.
    #[must_use]
    pub fn address(&self) -> Option<&str> {
        match self {
            Self::Off => None,
            Self::At(address) => Some(address),
        }
    }

    /// The port; `None` if the listener is off.
    #[must_use]
    pub fn port(&self) -> Option<u16> {
        self.address().and_then(port_of)
    }
}

impl fmt::Display for ListenAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.address().unwrap_or("off"))
    }
}

impl FromStr for ListenAddr {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.eq_ignore_ascii_case("off") {
            return Ok(Self::Off);
        }
        check_host_port(text)?;
        Ok(Self::At(text.to_owned()))
    }
}

/// The port of `HOST:PORT`, if both parts are there.
fn port_of(address: &str) -> Option<u16> {
    let (host, port) = address.rsplit_once(':')?;
    let bare_v6 = host.contains(':') && !(host.starts_with('[') && host.ends_with(']'));
    if host.is_empty() || bare_v6 {
        return None;
    }
    port.parse().ok()
}

/// Checks the shape of `HOST:PORT`, without looking the host up.
pub(crate) fn check_host_port(address: &str) -> Result<(), String> {
    if port_of(address).is_some() {
        return Ok(());
    }
    let hint = if address.parse::<u16>().is_ok() {
        format!("; for that port on this machine only, say 127.0.0.1:{address}")
    } else if let Some(port) = address.strip_prefix(':') {
        format!("; for every interface, say 0.0.0.0:{port}")
    } else {
        String::new()
    };
    Err(format!(
        "{address:?} is not HOST:PORT, such as 127.0.0.1:9093 or [::1]:9093{hint}"
    ))
}

/// When appended records are made durable, apart from `flush_messages` and `flush_ms`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum FlushMode {
    /// Per ack for topics with one replica that set neither `flush_messages` nor `flush_ms`; else left to the
    /// operating system.
    #[default]
    Auto,
    /// Before a record is acknowledged or shown to a reader. A power cut loses nothing acknowledged.
    PerAck,
    /// When the operating system likes. A killed broker loses nothing; a power cut may lose the last
    /// seconds, acknowledged or not, unless another replica has them.
    Os,
}

impl fmt::Display for FlushMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::PerAck => "per-ack",
            Self::Os => "os",
        })
    }
}

impl FromStr for FlushMode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "per-ack" => Ok(Self::PerAck),
            "os" => Ok(Self::Os),
            _ => Err(format!("{text:?} is none of auto, per-ack and os")),
        }
    }
}

/// What becomes of old records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum CleanupPolicy {
    /// Segments beyond `retention_ms` or `retention_bytes` are deleted.
    #[default]
    Delete,
    /// The last record of each key is kept.
    Compact,
    /// Both.
    CompactAndDelete,
}

impl fmt::Display for CleanupPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Delete => "delete",
            Self::Compact => "compact",
            Self::CompactAndDelete => "compact,delete",
        })
    }
}

impl FromStr for CleanupPolicy {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut policies: Vec<&str> = text.split(',').map(str::trim).collect();
        policies.sort_unstable();
        match policies.as_slice() {
            ["delete"] => Ok(Self::Delete),
            ["compact"] => Ok(Self::Compact),
            ["compact", "delete"] => Ok(Self::CompactAndDelete),
            _ => Err(format!(
                "{text:?} is not a cleanup policy; there are delete, compact and compact,delete"
            )),
        }
    }
}

/// Whose clock stamps a record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum MessageTimestampType {
    /// The producer's.
    #[default]
    CreateTime,
    /// The broker's, at the time of the append.
    LogAppendTime,
}

impl fmt::Display for MessageTimestampType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::CreateTime => "CreateTime",
            Self::LogAppendTime => "LogAppendTime",
        })
    }
}

impl FromStr for MessageTimestampType {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "CreateTime" => Ok(Self::CreateTime),
            "LogAppendTime" => Ok(Self::LogAppendTime),
            _ => Err(format!("{text:?} is neither CreateTime nor LogAppendTime")),
        }
    }
}

/// How the broker keeps batches compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum CompressionType {
    /// As the producer sent them.
    #[default]
    Producer,
}

impl fmt::Display for CompressionType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("producer")
    }
}

impl FromStr for CompressionType {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "producer" => Ok(Self::Producer),
            "uncompressed" | "none" | "gzip" | "snappy" | "lz4" | "zstd" => Err(format!(
                "{text:?} is not available: the broker keeps batches as the producer compressed them; use producer, \
                 and set the compression in the producer"
            )),
            _ => Err(format!(
                "{text:?} is not a compression type; this version knows producer"
            )),
        }
    }
}

/// How the program writes its log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum LogFormat {
    /// Lines for people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

impl fmt::Display for LogFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Text => "text",
            Self::Json => "json",
        })
    }
}

impl FromStr for LogFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err(format!("{text:?} is neither text nor json")),
        }
    }
}

/// Turns a number of bytes with an optional unit (`64KiB`, `1GiB`, `500MB`) into plain digits;
/// anything else is returned as it is, for the setting's own parser to judge.
pub(crate) fn bytes_to_digits(text: &str) -> Result<String, String> {
    const UNITS: [(&str, u64); 8] = [
        ("KiB", 1 << 10),
        ("MiB", 1 << 20),
        ("GiB", 1 << 30),
        ("TiB", 1 << 40),
        ("kB", 1_000),
        ("MB", 1_000_000),
        ("GB", 1_000_000_000),
        ("TB", 1_000_000_000_000),
    ];
    with_unit(
        text,
        &UNITS,
        "bytes, such as 1048576, 64KiB, 128MiB or 1GiB",
    )
}

/// Turns a duration with an optional unit (`500ms`, `90s`, `15m`, `12h`, `7d`) into milliseconds in plain digits.
pub(crate) fn duration_to_digits(text: &str) -> Result<String, String> {
    const UNITS: [(&str, u64); 5] = [
        ("ms", 1),
        ("s", 1_000),
        ("m", 60_000),
        ("h", 3_600_000),
        ("d", 86_400_000),
    ];
    with_unit(
        text,
        &UNITS,
        "milliseconds, or a number with a unit, such as 500ms, 90s, 15m, 12h or 7d",
    )
}

fn with_unit(text: &str, units: &[(&str, u64)], wanted: &str) -> Result<String, String> {
    let trimmed = text.trim();
    let plain = trimmed.replace('_', "");
    if plain.parse::<i64>().is_ok() {
        return Ok(plain);
    }
    let refused = || format!("{text:?} is not a number of {wanted}");
    let split = plain
        .find(|c: char| !c.is_ascii_digit())
        .ok_or_else(refused)?;
    let (digits, unit) = plain.split_at(split);
    let number: u64 = digits.parse().map_err(|_| refused())?;
    let factor = units
        .iter()
        .find(|(name, _)| *name == unit.trim())
        .ok_or_else(refused)?
        .1;
    let product = number.checked_mul(factor).ok_or_else(refused)?;
    i64::try_from(product)
        .map(|digits| digits.to_string())
        .map_err(|_| refused())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_needs_host_and_port() {
        for good in [
            "127.0.0.1:0",
            "[::1]:9093",
            "localhost:9093",
            "0.0.0.0:65535",
        ] {
            assert_eq!(good.parse(), Ok(ListenAddr::At(good.to_owned())));
        }
        assert_eq!("off".parse(), Ok(ListenAddr::Off));
        for bad in [
            "",
            "9093",
            ":9093",
            "host",
            "host:",
            "host:70000",
            "::1:9093",
        ] {
            assert!(bad.parse::<ListenAddr>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_bare_port_is_refused_with_the_address_that_was_meant() {
        let refused = "9093".parse::<ListenAddr>().unwrap_err();
        assert!(refused.contains("127.0.0.1:9093"), "{refused}");
    }

    #[test]
    fn a_cleanup_policy_is_a_list_in_any_order() {
        for policy in ["compact,delete", "delete, compact"] {
            assert_eq!(
                policy.parse(),
                Ok(CleanupPolicy::CompactAndDelete),
                "{policy}"
            );
        }
        for policy in [
            CleanupPolicy::Delete,
            CleanupPolicy::Compact,
            CleanupPolicy::CompactAndDelete,
        ] {
            assert_eq!(policy.to_string().parse(), Ok(policy));
        }
        let refused = "compact,compact".parse::<CleanupPolicy>().unwrap_err();
        assert!(refused.contains("compact,delete"), "{refused}");
    }

    #[test]
    fn numbers_may_carry_units() {
        let check = |text: &str, expected: &str| {
            assert_eq!(bytes_to_digits(text).as_deref(), Ok(expected), "{text}");
        };
        check("128MiB", "134217728");
        check("64 KiB", "65536");
        check("1_000", "1000");
        check("-1", "-1");
        check("1kB", "1000");
        assert_eq!(duration_to_digits("7d").as_deref(), Ok("604800000"));
        assert_eq!(duration_to_digits("250ms").as_deref(), Ok("250"));
        for bad in ["", "MiB", "1.5MiB", "12XB", "99999999999999TiB", "-5MiB"] {
            assert!(bytes_to_digits(bad).is_err(), "{bad}");
        }
    }
}
