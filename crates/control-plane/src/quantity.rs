//! Quantities such as `500m` and `1Gi`, as exact numbers.

use std::iter::Sum;
use std::ops::{Add, AddAssign, Sub};

/// A quantity, counted in billionths; finer parts are rounded up, as the API does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Quantity(i128);

const NANO: i128 = 1_000_000_000;

impl Quantity {
    /// Nothing.
    pub const ZERO: Self = Self(0);

    /// Parses `[+-]digits[.digits][suffix]`, where the suffix is one of `n u m k M G T P E`,
    /// `Ki Mi Gi Ti Pi Ei`, or `e`/`E` and an exponent. `None` for anything else.
    pub fn parse(text: &str) -> Option<Self> {
        let (negative, unsigned) = match text.as_bytes().first()? {
            b'-' => (true, &text[1..]),
            b'+' => (false, &text[1..]),
            _ => (false, text),
        };
        let end = unsigned
            .find(|character: char| !character.is_ascii_digit() && character != '.')
            .unwrap_or(unsigned.len());
        let (number, suffix) = unsigned.split_at(end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
            return None;
        }
        let (multiplier, exponent) = scale(suffix)?;
        // Digits beyond what i128 holds saturate: such amounts are larger than any machine.
        let mut digits: i128 = 0;
        for digit in whole.bytes().chain(fraction.bytes()) {
            digits = digits
                .saturating_mul(10)
                .saturating_add(i128::from(digit - b'0'));
        }
        let digits = digits.saturating_mul(multiplier);
        let shift = i64::from(exponent) - i64::try_from(fraction.len()).ok()? + 9;
        let nanos = if shift >= 0 {
            (0..shift.min(40)).fold(digits, |value, _| value.saturating_mul(10))
        } else {
            let divisor = 10i128.checked_pow(u32::try_from(-shift).ok()?.min(38))?;
            digits / divisor + i128::from(digits % divisor != 0)
        };
        Some(Self(if negative { -nanos } else { nanos }))
    }

    /// A whole number.
    pub fn from_units(units: i64) -> Self {
        Self(i128::from(units) * NANO)
    }

    /// Thousandths.
    pub fn from_millis(millis: i64) -> Self {
        Self(i128::from(millis) * (NANO / 1_000))
    }

    /// Thousandths, rounded up.
    pub fn millis(self) -> i128 {
        div_up(self.0, NANO / 1_000)
    }

    /// Units, rounded up.
    pub fn units(self) -> i128 {
        div_up(self.0, NANO)
    }

    /// True for a whole number.
    pub fn is_whole(self) -> bool {
        self.0 % NANO == 0
    }
}

fn div_up(value: i128, divisor: i128) -> i128 {
    value.div_euclid(divisor) + i128::from(value.rem_euclid(divisor) != 0)
}

/// What a suffix multiplies by: a factor, and a power of ten.
fn scale(suffix: &str) -> Option<(i128, i32)> {
    Some(match suffix {
        "" => (1, 0),
        "n" => (1, -9),
        "u" => (1, -6),
        "m" => (1, -3),
        "k" => (1, 3),
        "M" => (1, 6),
        "G" => (1, 9),
        "T" => (1, 12),
        "P" => (1, 15),
        "E" => (1, 18),
        "Ki" => (1 << 10, 0),
        "Mi" => (1 << 20, 0),
        "Gi" => (1 << 30, 0),
        "Ti" => (1 << 40, 0),
        "Pi" => (1 << 50, 0),
        "Ei" => (1 << 60, 0),
        _ => {
            let exponent = suffix.strip_prefix(['e', 'E'])?;
            (1, exponent.parse().ok()?)
        }
    })
}

impl Add for Quantity {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

impl AddAssign for Quantity {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl Sub for Quantity {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}

impl Sum for Quantity {
    fn sum<I: Iterator<Item = Self>>(items: I) -> Self {
        items.fold(Self::ZERO, Add::add)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suffixes_scale() {
        for (text, millis) in [
            ("1", 1_000),
            ("500m", 500),
            ("0.5", 500),
            (".5", 500),
            ("1.", 1_000),
            ("2k", 2_000_000),
            ("1Ki", 1_024_000),
            ("1.5Gi", 1_610_612_736_000),
            ("1e3", 1_000_000),
            ("1E3", 1_000_000),
            ("12E-1", 1_200),
            ("100u", 1),
            ("1n", 1),
            ("-1", -1_000),
            ("+1", 1_000),
            ("0", 0),
            ("9Ei", 10_376_293_541_461_622_784_000),
        ] {
            assert_eq!(
                Quantity::parse(text).map(Quantity::millis),
                Some(millis),
                "{text}"
            );
        }
    }

    #[test]
    fn other_texts_are_no_quantities() {
        for text in [
            "", "-", ".", "1.2.3", "1 ", " 1", "1Kb", "Gi", "1e", "1ee3", "x", "1,5",
        ] {
            assert_eq!(Quantity::parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn absurd_amounts_saturate() {
        let huge = "9".repeat(60);
        assert!(Quantity::parse(&huge) > Quantity::parse("9Ei"));
        assert!(Quantity::parse("1e999").is_some());
        assert_eq!(Quantity::parse("1e-999").map(Quantity::units), Some(1));
    }
}
