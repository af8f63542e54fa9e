//! Points in a partition as people type them: `earliest`, `latest`, an offset, a time, an age.

use std::str::FromStr;
use std::time::Duration;

use jiff::civil::{Date, DateTime};
use jiff::tz::TimeZone;
use logweir_proto::{Offset, Timestamp};

use crate::config::duration_to_digits;

/// Where to begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Position {
    /// The first record there is.
    Earliest,
    /// After the last record.
    Latest,
    /// An offset.
    Offset(Offset),
    /// The first record at or after a time.
    Time(When),
}

/// A time as typed; an age needs to know when now is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum When {
    /// Milliseconds since 1970-01-01 UTC.
    At(i64),
    /// Milliseconds before now.
    Ago(i64),
}

impl When {
    /// The point in time.
    pub(super) fn resolve(self, now: Timestamp) -> Timestamp {
        match self {
            Self::At(ms) => Timestamp::new(ms),
            Self::Ago(ms) => Timestamp::new(now.get().saturating_sub(ms).max(0)),
        }
    }
}

impl FromStr for Position {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "earliest" | "beginning" => return Ok(Self::Earliest),
            "latest" | "end" => return Ok(Self::Latest),
            _ => {}
        }
        if let Ok(offset) = text.parse::<i64>() {
            if offset < 0 {
                return Err(format!("{text:?} is below 0; offsets begin at 0"));
            }
            return Ok(Self::Offset(Offset::new(offset)));
        }
        text.parse().map(Self::Time).map_err(|_: String| {
            format!(
                "{text:?} is none of earliest, latest, an offset such as 1234, and a time such as \
                 2025-01-31T08:00:00Z, 2025-01-31 (UTC), @1738310400000 (milliseconds) or 2h (two hours ago)"
            )
        })
    }
}

impl FromStr for When {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(ms) = text.strip_prefix('@').and_then(|ms| ms.parse::<i64>().ok())
            && ms >= 0
        {
            return Ok(Self::At(ms));
        }
        if let Ok(time) = text.parse::<jiff::Timestamp>() {
            return Ok(Self::At(time.as_millisecond().max(0)));
        }
        let civil = text
            .parse::<DateTime>()
            .or_else(|_| text.parse::<Date>().map(DateTime::from));
        if let Ok(civil) = civil
            && let Ok(zoned) = civil.to_zoned(TimeZone::UTC)
        {
            return Ok(Self::At(zoned.timestamp().as_millisecond().max(0)));
        }
        // A plain number is an offset, never an age: without a unit nobody could tell.
        if !text.starts_with('-')
            && text.parse::<i64>().is_err()
            && let Ok(ms) = duration_to_digits(text)
            && let Ok(ms) = ms.parse()
        {
            return Ok(Self::Ago(ms));
        }
        Err(format!(
            "{text:?} is not a time such as 2025-01-31T08:00:00Z, 2025-01-31 (UTC), @1738310400000 (milliseconds) or \
             2h (two hours ago)"
        ))
    }
}

/// A time as people read it (RFC 3339, UTC, milliseconds); `-` if there is none.
pub(super) fn format_timestamp(timestamp: Timestamp) -> String {
    match jiff::Timestamp::from_millisecond(timestamp.get()) {
        Ok(time) if timestamp.get() >= 0 => format!("{time:.3}"),
        _ => "-".to_owned(),
    }
}

/// An age as people read it, in its two largest units: `0s`, `350ms`, `12s`, `3m 20s`, `2h 5m`, `9d`.
pub(super) fn format_age(age: Duration) -> String {
    const UNITS: [(u64, &str); 4] = [(86_400, "d"), (3_600, "h"), (60, "m"), (1, "s")];
    let seconds = age.as_secs();
    if seconds == 0 && age.subsec_millis() > 0 {
        return format!("{}ms", age.subsec_millis());
    }
    let Some(first) = UNITS.iter().position(|(unit, _)| seconds >= *unit) else {
        return "0s".to_owned();
    };
    let mut rest = seconds;
    let mut parts = Vec::new();
    for (unit, name) in UNITS.iter().skip(first).take(2) {
        if rest / unit > 0 {
            parts.push(format!("{}{name}", rest / unit));
        }
        rest %= unit;
    }
    parts.join(" ")
}

/// An age in milliseconds, for programs.
pub(super) fn whole_ms(age: Duration) -> u64 {
    u64::try_from(age.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_are_read_as_typed() {
        let check =
            |text: &str, expected: Position| assert_eq!(text.parse(), Ok(expected), "{text}");
        let at = |ms| Position::Time(When::At(ms));
        check("earliest", Position::Earliest);
        check("latest", Position::Latest);
        check("0", Position::Offset(Offset::ZERO));
        check("1234", Position::Offset(Offset::new(1234)));
        check("2025-01-31T08:00:00Z", at(1_738_310_400_000));
        check("2025-01-31T08:00:00.250Z", at(1_738_310_400_250));
        check("2025-01-31T09:00:00+01:00", at(1_738_310_400_000));
        check("2025-01-31T08:00", at(1_738_310_400_000));
        check("2025-01-31 08:00:00", at(1_738_310_400_000));
        check("2025-01-31", at(1_738_281_600_000));
        check("@1738310400000", at(1_738_310_400_000));
        check("2h", Position::Time(When::Ago(7_200_000)));
        check("1d", Position::Time(When::Ago(86_400_000)));
        check("90s", Position::Time(When::Ago(90_000)));
    }

    #[test]
    fn what_is_no_position_is_refused_with_examples() {
        for text in [
            "",
            "-1",
            "-2h",
            "h",
            "2x",
            "tomorrow",
            "2025-13-01",
            "@",
            "@x",
            "1.5h",
            "0x10",
        ] {
            let refused = text.parse::<Position>().unwrap_err();
            assert!(refused.contains("offset"), "{text}: {refused}");
        }
    }

    #[test]
    fn an_age_counts_back_from_now_and_not_below_the_epoch() {
        let now = Timestamp::new(10_000);
        assert_eq!(When::Ago(4_000).resolve(now), Timestamp::new(6_000));
        assert_eq!(When::Ago(40_000).resolve(now), Timestamp::new(0));
        assert_eq!(When::At(7).resolve(now), Timestamp::new(7));
    }

    #[test]
    fn times_are_written_with_milliseconds_in_utc() {
        assert_eq!(
            format_timestamp(Timestamp::new(1_738_310_400_250)),
            "2025-01-31T08:00:00.250Z"
        );
        assert_eq!(format_timestamp(Timestamp::NONE), "-");
    }

    #[test]
    fn ages_are_written_in_their_two_largest_units() {
        let check =
            |ms, expected: &str| assert_eq!(format_age(Duration::from_millis(ms)), expected);
        check(0, "0s");
        check(350, "350ms");
        check(12_900, "12s");
        check(200_000, "3m 20s");
        check(7_500_000, "2h 5m");
        check(3_600_000, "1h");
        check(86_400_000 * 9 + 59_000, "9d");
    }
}
