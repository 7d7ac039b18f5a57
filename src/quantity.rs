//! Quantities of the API (`500m`, `1.5Gi`, `1e3`) as exact numbers.
//!
//! Grammar and suffixes: <https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/>.

/// An amount, counted in billionths; what is finer is rounded up, as the API does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Quantity(i128);

const NANO: i128 = 1_000_000_000;

impl Quantity {
    /// Nothing.
    pub const ZERO: Self = Self(0);

    /// A whole number of units.
    pub fn units(units: u64) -> Self {
        Self(i128::from(units) * NANO)
    }

    /// Thousandths of a unit.
    pub fn millis(millis: u64) -> Self {
        Self(i128::from(millis) * (NANO / 1_000))
    }

    /// Reads a sign, digits with at most one point, and a suffix; none for anything else.
    /// Amounts that no machine has saturate.
    pub fn parse(text: &str) -> Option<Self> {
        let (sign, rest) = match text.strip_prefix('-') {
            Some(rest) => (-1, rest),
            None => (1, text.strip_prefix('+').unwrap_or(text)),
        };
        let digits_end = rest
            .find(|it: char| !it.is_ascii_digit() && it != '.')
            .unwrap_or(rest.len());
        let (number, suffix) = rest.split_at(digits_end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if number.len() == number.matches('.').count() || fraction.contains('.') {
            return None;
        }
        let (factor, power) = scale(suffix)?;
        let mut value: i128 = 0;
        for digit in whole.bytes().chain(fraction.bytes()) {
            value = value
                .saturating_mul(10)
                .saturating_add(i128::from(digit - b'0'));
        }
        value = value.saturating_mul(factor);
        let mut shift = i64::from(power) + 9 - i64::try_from(fraction.len()).ok()?;
        while shift > 0 && value != 0 && value != i128::MAX {
            value = value.saturating_mul(10);
            shift -= 1;
        }
        if shift < 0 {
            let divisor = u32::try_from(-shift)
                .ok()
                .and_then(|shift| 10_i128.checked_pow(shift))
                .unwrap_or(i128::MAX);
            value = div_up(value, divisor);
        }
        Some(Self(sign * value))
    }

    /// How often `divisor` goes into this, rounded up; none where the divisor is nothing.
    pub fn divided_up(self, divisor: Self) -> Option<i128> {
        (divisor.0 > 0).then(|| div_up(self.0, divisor.0))
    }

    /// Whole units, rounded up; none below zero or beyond what the type holds.
    pub fn to_units(self) -> Option<u64> {
        u64::try_from(div_up(self.0, NANO)).ok()
    }

    /// Thousandths, rounded up; none below zero or beyond what the type holds.
    pub fn to_millis(self) -> Option<u64> {
        u64::try_from(div_up(self.0, NANO / 1_000)).ok()
    }

    /// Whether it is more than nothing.
    pub fn is_positive(self) -> bool {
        self.0 > 0
    }
}

fn div_up(value: i128, divisor: i128) -> i128 {
    value.div_euclid(divisor) + i128::from(value.rem_euclid(divisor) != 0)
}

/// What a suffix multiplies by: a factor, and a power of ten.
fn scale(suffix: &str) -> Option<(i128, i32)> {
    const DECIMAL: [(&str, i32); 10] = [
        ("n", -9),
        ("u", -6),
        ("m", -3),
        ("", 0),
        ("k", 3),
        ("M", 6),
        ("G", 9),
        ("T", 12),
        ("P", 15),
        ("E", 18),
    ];
    const BINARY: [&str; 6] = ["Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
    if let Some((_, power)) = DECIMAL.iter().find(|(name, _)| *name == suffix) {
        return Some((1, *power));
    }
    if let Some(at) = BINARY.iter().position(|name| *name == suffix) {
        return Some((1 << (10 * (at + 1)), 0));
    }
    let exponent = suffix.strip_prefix(['e', 'E'])?;
    Some((1, exponent.parse().ok()?))
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
            ("12E-1", 1_200),
            ("100u", 1),
            ("1n", 1),
            ("+1", 1_000),
            ("0", 0),
        ] {
            let parsed = Quantity::parse(text).and_then(Quantity::to_millis);
            assert_eq!(parsed, Some(millis), "{text}");
        }
        assert!(Quantity::parse("-1").unwrap() < Quantity::ZERO);
        assert!(Quantity::parse("1e999").unwrap() > Quantity::parse("9Ei").unwrap());
        for text in [
            "", "-", ".", "1.2.3", "1 ", " 1", "1Kb", "Gi", "1e", "x", "1,5",
        ] {
            assert_eq!(Quantity::parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn division_rounds_up() {
        let get = |text| Quantity::parse(text).unwrap();
        assert_eq!(get("1500m").divided_up(get("1")), Some(2));
        assert_eq!(get("1500m").divided_up(get("1m")), Some(1500));
        assert_eq!(get("1Gi").divided_up(get("1Mi")), Some(1024));
        assert_eq!(get("1").divided_up(Quantity::ZERO), None);
    }

    proptest::proptest! {
        #[test]
        fn no_text_panics(text in "[-+0-9.eEnumkKMGTPi]{0,24}") {
            let _ = Quantity::parse(&text);
        }

        #[test]
        fn whole_numbers_come_back(units: u64) {
            proptest::prop_assert_eq!(Quantity::parse(&units.to_string()), Some(Quantity::units(units)));
            proptest::prop_assert_eq!(Quantity::units(units).to_units(), Some(units));
        }
    }
}
