//! Times and durations in Go's words: the layouts of `metav1.Time`, `metav1.MicroTime` and
//! `metav1.Duration`.

use jiff::Timestamp;

/// A layout of the time package.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Precision {
    /// RFC 3339; fractions of a second are read and dropped.
    Seconds,
    /// RFC 3339 with exactly six digits of a second.
    Micros,
}

impl Precision {
    fn layout(self) -> &'static str {
        match self {
            Self::Seconds => "2006-01-02T15:04:05Z07:00",
            Self::Micros => "2006-01-02T15:04:05.000000Z07:00",
        }
    }
}

/// Seconds of Go's zero time, which JSON writes as `null`.
pub(super) const ZERO_TIME: i64 = -62_135_596_800;

/// Writes a time in UTC; `None` for the zero time and for what no calendar of four-digit years
/// holds.
pub(super) fn format(seconds: i64, nanos: i32, precision: Precision) -> Option<String> {
    let micros = nanos.clamp(0, 999_999_999) / 1000;
    if seconds == ZERO_TIME && micros == 0 {
        return None;
    }
    let whole = Timestamp::from_second(seconds).ok()?;
    let mut text = whole.to_string();
    if precision == Precision::Micros {
        text.pop();
        text.push_str(&format!(".{micros:06}Z"));
    }
    Some(text)
}

/// Reads a time: seconds since the epoch and nanoseconds. The error is Go's.
pub(super) fn parse(text: &str, precision: Precision) -> Result<(i64, i32), String> {
    let mut reader = Reader {
        text,
        rest: text,
        layout: precision.layout(),
    };
    let year = reader.number("2006", 4, 4, None)?;
    reader.literal("-")?;
    let month = reader.number("01", 2, 2, Some(("month", 1, 12)))?;
    reader.literal("-")?;
    let day = reader.number("02", 2, 2, None)?;
    reader.literal("T")?;
    let hour = reader.number("15", 1, 2, Some(("hour", 0, 23)))?;
    reader.literal(":")?;
    let minute = reader.number("04", 2, 2, Some(("minute", 0, 59)))?;
    reader.literal(":")?;
    let second = reader.number("05", 2, 2, Some(("second", 0, 59)))?;
    let nanos = match precision {
        Precision::Seconds => {
            reader.optional_fraction();
            0
        }
        Precision::Micros => reader.micros()? * 1000,
    };
    let offset = reader.zone()?;
    if !reader.rest.is_empty() {
        return Err(reader.message(&format!(": extra text: {}", quoted(reader.rest))));
    }
    let date = narrow(year, month, day)
        .and_then(|(year, month, day)| jiff::civil::Date::new(year, month, day).ok())
        .ok_or_else(|| reader.message(": day out of range"))?;
    let epoch = jiff::civil::Date::constant(1970, 1, 1);
    let days = i64::from(date.since(epoch).map_or(0, |span| span.get_days()));
    Ok((
        days * 86_400 + hour * 3600 + minute * 60 + second - offset,
        nanos,
    ))
}

fn narrow(year: i64, month: i64, day: i64) -> Option<(i16, i8, i8)> {
    Some((
        year.try_into().ok()?,
        month.try_into().ok()?,
        day.try_into().ok()?,
    ))
}

struct Reader<'a> {
    text: &'a str,
    rest: &'a str,
    layout: &'static str,
}

impl Reader<'_> {
    fn message(&self, what: &str) -> String {
        format!("parsing time {}{what}", quoted(self.text))
    }

    fn unreadable(&self, element: &str) -> String {
        self.message(&format!(
            " as {}: cannot parse {} as {}",
            quoted(self.layout),
            quoted(self.rest),
            quoted(element)
        ))
    }

    fn literal(&mut self, word: &str) -> Result<(), String> {
        self.rest = self
            .rest
            .strip_prefix(word)
            .ok_or_else(|| self.unreadable(word))?;
        Ok(())
    }

    fn number(
        &mut self,
        element: &str,
        least: usize,
        most: usize,
        range: Option<(&str, i64, i64)>,
    ) -> Result<i64, String> {
        let digits = self
            .rest
            .bytes()
            .take(most)
            .take_while(u8::is_ascii_digit)
            .count();
        if digits < least {
            return Err(self.unreadable(element));
        }
        let number: i64 = self.rest[..digits]
            .parse()
            .map_err(|_| self.unreadable(element))?;
        if let Some((name, low, high)) = range
            && !(low..=high).contains(&number)
        {
            return Err(self.message(&format!(": {name} out of range")));
        }
        self.rest = &self.rest[digits..];
        Ok(number)
    }

    /// Go takes a fraction after the seconds where the layout has none.
    fn optional_fraction(&mut self) {
        if let Some(rest) = self.rest.strip_prefix(['.', ',']) {
            let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
            if digits > 0 {
                self.rest = &rest[digits..];
            }
        }
    }

    fn micros(&mut self) -> Result<i32, String> {
        const ELEMENT: &str = ".000000";
        let digits = self
            .rest
            .strip_prefix(['.', ','])
            .and_then(|rest| rest.get(..6))
            .filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()))
            .ok_or_else(|| self.unreadable(ELEMENT))?;
        let number = digits.parse().map_err(|_| self.unreadable(ELEMENT))?;
        self.rest = &self.rest[7..];
        Ok(number)
    }

    /// Seconds east of UTC.
    fn zone(&mut self) -> Result<i64, String> {
        const ELEMENT: &str = "Z07:00";
        if let Some(rest) = self.rest.strip_prefix('Z') {
            self.rest = rest;
            return Ok(0);
        }
        let bytes = self.rest.as_bytes();
        let shaped = bytes.len() >= 6
            && matches!(bytes[0], b'+' | b'-')
            && bytes[3] == b':'
            && [1, 2, 4, 5].iter().all(|at| bytes[*at].is_ascii_digit());
        if !shaped {
            return Err(self.unreadable(ELEMENT));
        }
        let two = |at: usize| i64::from(bytes[at] - b'0') * 10 + i64::from(bytes[at + 1] - b'0');
        let (hours, minutes) = (two(1), two(4));
        if hours > 24 {
            return Err(self.message(": time zone offset hour out of range"));
        }
        if minutes > 60 {
            return Err(self.message(": time zone offset minute out of range"));
        }
        let offset = hours * 3600 + minutes * 60;
        let offset = if bytes[0] == b'-' { -offset } else { offset };
        self.rest = &self.rest[6..];
        Ok(offset)
    }
}

/// A text in quotes, as Go's time package quotes.
fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => {
                out.push('\\');
                out.push(c);
            }
            ' '..='~' => out.push(c),
            other => {
                let mut bytes = [0; 4];
                for byte in other.encode_utf8(&mut bytes).bytes() {
                    out.push_str(&format!("\\x{byte:02x}"));
                }
            }
        }
    }
    out.push('"');
    out
}

const UNITS: [(&str, i128); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000),
    ("μs", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

/// Reads a Go duration (`1h30m`, `-1.5s`) into nanoseconds.
pub(super) fn parse_duration(text: &str) -> Result<i64, String> {
    let invalid = || format!("time: invalid duration {}", quoted(text));
    let negative = text.starts_with('-');
    let mut rest = text.strip_prefix(['-', '+']).unwrap_or(text);
    if rest == "0" {
        return Ok(0);
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut total: i128 = 0;
    while !rest.is_empty() {
        let digits = |text: &str| text.bytes().take_while(u8::is_ascii_digit).count();
        let (whole, after) = rest.split_at(digits(rest));
        let (fraction, after) = match after.strip_prefix('.') {
            Some(after) => after.split_at(digits(after)),
            None => ("", after),
        };
        if whole.is_empty() && fraction.is_empty() {
            return Err(invalid());
        }
        let length = after
            .bytes()
            .take_while(|byte| *byte != b'.' && !byte.is_ascii_digit())
            .count();
        let (unit, after) = after.split_at(length);
        if unit.is_empty() {
            return Err(format!("time: missing unit in duration {}", quoted(text)));
        }
        let scale = UNITS
            .iter()
            .find(|(name, _)| *name == unit)
            .ok_or_else(|| {
                format!(
                    "time: unknown unit {} in duration {}",
                    quoted(unit),
                    quoted(text)
                )
            })?;
        let whole: i128 = match whole {
            "" => 0,
            digits => digits.parse::<i64>().map_err(|_| invalid())?.into(),
        };
        total += whole * scale.1;
        let mut place = scale.1;
        for digit in fraction.bytes() {
            place /= 10;
            total += i128::from(digit - b'0') * place;
        }
        if total > i128::from(i64::MAX) {
            return Err(invalid());
        }
        rest = after;
    }
    i64::try_from(if negative { -total } else { total }).map_err(|_| invalid())
}

/// Writes a duration as Go does (`1h30m0s`, `1.5s`, `20ms`, `0s`).
pub(super) fn format_duration(nanos: i64) -> String {
    let sign = if nanos < 0 { "-" } else { "" };
    let amount = nanos.unsigned_abs();
    let decimal = |amount: u64, unit: u64| {
        let fraction = format!("{:0width$}", amount % unit, width = unit.ilog10() as usize);
        match fraction.trim_end_matches('0') {
            "" => format!("{}", amount / unit),
            digits => format!("{}.{digits}", amount / unit),
        }
    };
    match amount {
        0 => "0s".to_owned(),
        1..1_000 => format!("{sign}{amount}ns"),
        1_000..1_000_000 => format!("{sign}{}µs", decimal(amount, 1_000)),
        1_000_000..1_000_000_000 => format!("{sign}{}ms", decimal(amount, 1_000_000)),
        _ => {
            let minutes = amount / 60_000_000_000;
            let seconds = decimal(amount % 60_000_000_000, 1_000_000_000);
            match (minutes / 60, minutes % 60) {
                (0, 0) => format!("{sign}{seconds}s"),
                (0, minutes) => format!("{sign}{minutes}m{seconds}s"),
                (hours, minutes) => format!("{sign}{hours}h{minutes}m{seconds}s"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn normal(text: &str, precision: Precision) -> Result<Option<String>, String> {
        parse(text, precision).map(|(seconds, nanos)| format(seconds, nanos, precision))
    }

    #[test]
    fn times_are_written_in_utc() {
        for (text, expected) in [
            ("2026-01-02T03:04:05Z", "2026-01-02T03:04:05Z"),
            ("2026-01-02T03:04:05.999Z", "2026-01-02T03:04:05Z"),
            ("2026-01-02T03:04:05+02:00", "2026-01-02T01:04:05Z"),
            ("1969-12-31T23:59:59-00:30", "1970-01-01T00:29:59Z"),
        ] {
            assert_eq!(
                normal(text, Precision::Seconds),
                Ok(Some(expected.to_owned()))
            );
        }
        assert_eq!(normal("0001-01-01T00:00:00Z", Precision::Seconds), Ok(None));
        assert_eq!(
            normal("2026-01-02T03:04:05.120000Z", Precision::Micros),
            Ok(Some("2026-01-02T03:04:05.120000Z".to_owned()))
        );
    }

    #[test]
    fn what_is_no_time_is_refused_as_go_does() {
        let refusal = |text| parse(text, Precision::Seconds).expect_err(text);
        assert_eq!(
            refusal("yesterday"),
            r#"parsing time "yesterday" as "2006-01-02T15:04:05Z07:00": cannot parse "yesterday" as "2006""#
        );
        assert_eq!(
            refusal("2026-01-02"),
            r#"parsing time "2026-01-02" as "2006-01-02T15:04:05Z07:00": cannot parse "" as "T""#
        );
        assert_eq!(
            refusal("2026-13-02T00:00:00Z"),
            r#"parsing time "2026-13-02T00:00:00Z": month out of range"#
        );
        assert_eq!(
            refusal("2026-02-30T00:00:00Z"),
            r#"parsing time "2026-02-30T00:00:00Z": day out of range"#
        );
        assert_eq!(
            parse("2026-01-02T03:04:05Z", Precision::Micros).expect_err("no fraction"),
            r#"parsing time "2026-01-02T03:04:05Z" as "2006-01-02T15:04:05.000000Z07:00": cannot parse "Z" as ".000000""#
        );
    }

    #[test]
    fn durations_are_written_as_go_does() {
        for (text, expected) in [
            ("1h30m", "1h30m0s"),
            ("90s", "1m30s"),
            ("1.5s", "1.5s"),
            ("20ms", "20ms"),
            ("0", "0s"),
            ("-2h", "-2h0m0s"),
            ("1500us", "1.5ms"),
        ] {
            assert_eq!(
                parse_duration(text).map(format_duration),
                Ok(expected.to_owned())
            );
        }
        assert_eq!(
            parse_duration("3 days"),
            Err("time: unknown unit \" days\" in duration \"3 days\"".to_owned())
        );
        assert!(parse_duration("").is_err());
        assert!(parse_duration("99999999h").is_err());
    }

    proptest::proptest! {
        #[test]
        fn no_text_panics(text in "\\PC*") {
            let _ = parse(&text, Precision::Seconds);
            let _ = parse(&text, Precision::Micros);
            let _ = parse_duration(&text);
        }

        #[test]
        fn durations_round_trip(nanos: i64) {
            if nanos != i64::MIN {
                proptest::prop_assert_eq!(parse_duration(&format_duration(nanos)), Ok(nanos));
            }
        }

        #[test]
        fn times_round_trip(seconds in -62_135_596_799_i64..253_402_207_200) {
            let text = format(seconds, 0, Precision::Seconds).expect("in range");
            proptest::prop_assert_eq!(parse(&text, Precision::Seconds), Ok((seconds, 0)));
        }
    }
}
