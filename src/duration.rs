//! Lengths of time as people write them: `90`, `90s`, `5m`, `1h30m`.

use std::time::Duration;

/// What a length of time looks like, for messages.
pub const FORM: &str = "write seconds (90) or hours, minutes and seconds (1h30m, 5m, 90s)";

/// Reads whole seconds, or numbers with the units `d`, `h`, `m`, `s`, each at most once and in this
/// order; none for anything else, or where it is longer than a clock holds.
pub fn parse(text: &str) -> Option<Duration> {
    if let Ok(seconds) = text.parse::<u32>() {
        // `parse` takes a sign, and a length of time has none.
        return (!text.starts_with('+')).then(|| Duration::from_secs(seconds.into()));
    }
    let mut rest = text;
    let mut total: u64 = 0;
    for (unit, seconds) in [('d', 86_400_u64), ('h', 3_600), ('m', 60), ('s', 1)] {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        if digits == 0 || !rest[digits..].starts_with(unit) {
            continue;
        }
        let number: u64 = rest[..digits].parse().ok()?;
        total = total.checked_add(number.checked_mul(seconds)?)?;
        rest = &rest[digits + 1..];
    }
    let read = !text.is_empty() && rest.is_empty() && u32::try_from(total).is_ok();
    read.then(|| Duration::from_secs(total))
}

/// The shortest form of whole seconds that [`parse`] reads back.
pub fn show(length: Duration) -> String {
    let seconds = length.as_secs();
    let parts = [
        (seconds / 86_400, 'd'),
        (seconds / 3_600 % 24, 'h'),
        (seconds / 60 % 60, 'm'),
        (seconds % 60, 's'),
    ];
    let text: String = parts
        .iter()
        .filter(|(number, _)| *number > 0)
        .map(|(number, unit)| format!("{number}{unit}"))
        .collect();
    if text.is_empty() {
        "0s".to_owned()
    } else {
        text
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_people_write_is_read() {
        for (text, seconds) in [
            ("0", 0),
            ("90", 90),
            ("90s", 90),
            ("5m", 300),
            ("1h30m", 5400),
            ("1d1s", 86_401),
        ] {
            assert_eq!(parse(text), Some(Duration::from_secs(seconds)), "{text}");
        }
        for text in [
            "",
            "abc",
            "-1",
            "+1",
            "1.5h",
            "5x",
            "s",
            "5m5m",
            "5s5m",
            "1h 30m",
            "99999999999",
            "99999999999999999999s",
            "m5",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_shown_is_read_back(seconds in any::<u32>()) {
            let length = Duration::from_secs(seconds.into());
            prop_assert_eq!(parse(&show(length)), Some(length));
        }
    }
}
