//! Resource quantities (`100m`, `1.5Gi`, `1e3`) and their canonical form, after the rules of
//! apimachinery's `resource.Quantity`.

use std::borrow::Cow;

/// Why a text is no quantity; the words are those of the real server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    /// It does not look like a number with a suffix.
    #[error(
        "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
    )]
    Format,
    /// The number before the suffix cannot be read.
    #[error("unable to parse numeric part of quantity")]
    Numeric,
    /// There is no such suffix.
    #[error("unable to parse quantity's suffix")]
    Suffix,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Decimal,
    Exponent,
    Binary,
}

/// A quantity.
///
/// Amounts are kept in units of 10⁻⁹, rounded away from zero; beyond ±1.7·10²⁹, which no resource
/// reaches, they stay at that limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quantity {
    nano: i128,
    format: Format,
    /// The text stands for itself: Go keeps it instead of making the canonical form.
    verbatim: bool,
}

const NANO: i128 = 1_000_000_000;
const DECIMAL: [(i32, &str); 10] = [
    (-9, "n"),
    (-6, "u"),
    (-3, "m"),
    (0, ""),
    (3, "k"),
    (6, "M"),
    (9, "G"),
    (12, "T"),
    (15, "P"),
    (18, "E"),
];
const BINARY: [&str; 7] = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
/// Digits that a 64-bit number surely holds.
const SAFE_DIGITS: i64 = 18;

/// The parts of a text, before any arithmetic.
struct Parts<'a> {
    negative: bool,
    /// Digits before the point, without leading zeros; `0` where there are none.
    whole: &'a str,
    /// Digits after the point.
    fraction: &'a str,
    /// There was no digit at all.
    empty: bool,
    suffix: &'a str,
}

impl Quantity {
    /// Reads a quantity.
    pub fn parse(text: &str) -> Result<Self, QuantityError> {
        if text.is_empty() {
            return Err(QuantityError::Format);
        }
        if text == "0" {
            return Ok(Self {
                nano: 0,
                format: Format::Decimal,
                verbatim: true,
            });
        }
        let parts = split(text)?;
        let (exponent, mut format) = suffix(parts.suffix).ok_or(QuantityError::Suffix)?;
        if let Some(quick) = quick(&parts, exponent, format) {
            return Ok(quick);
        }
        if parts.empty {
            return Err(QuantityError::Numeric);
        }
        let mut nano = exact(&parts, exponent, format);
        if format == Format::Binary {
            nano = nano.min(i128::from(i64::MAX) * NANO);
            if nano > 0 && nano < NANO {
                format = Format::Decimal;
            }
        }
        Ok(Self {
            nano: if parts.negative { -nano } else { nano },
            format,
            verbatim: false,
        })
    }

    /// The amount in units of 10⁻⁹.
    pub fn nano(&self) -> i128 {
        self.nano
    }

    /// The amount in thousandths, rounded away from zero, as Go's `MilliValue`.
    pub fn milli(&self) -> i64 {
        round_up(self.nano, NANO / 1000)
    }

    /// The amount, rounded away from zero, as Go's `Value`.
    pub fn value(&self) -> i64 {
        round_up(self.nano, NANO)
    }

    /// The form that a server writes for `text`, which is what this quantity was read from.
    pub fn canonical<'a>(&self, text: &'a str) -> Cow<'a, str> {
        if self.verbatim {
            Cow::Borrowed(text)
        } else {
            Cow::Owned(self.to_string())
        }
    }
}

impl std::fmt::Display for Quantity {
    /// The canonical form.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.nano == 0 {
            return f.write_str("0");
        }
        let small = self.nano.abs() < 1024 * NANO;
        if self.format == Format::Binary && !small && self.nano % NANO == 0 {
            let mut number = self.nano / NANO;
            let mut power = 0;
            while number % 1024 == 0 && power + 1 < BINARY.len() {
                number /= 1024;
                power += 1;
            }
            return write!(f, "{number}{}", BINARY[power]);
        }
        let mut number = self.nano;
        let mut exponent = -9;
        while number % 10 == 0 {
            number /= 10;
            exponent += 1;
        }
        while exponent % 3 != 0 {
            number = number.saturating_mul(10);
            exponent -= 1;
        }
        let suffix = DECIMAL.iter().find(|(power, _)| *power == exponent);
        match (self.format, suffix) {
            (Format::Decimal | Format::Binary, Some((_, suffix))) => write!(f, "{number}{suffix}"),
            _ if exponent == 0 => write!(f, "{number}"),
            _ => write!(f, "{number}e{exponent}"),
        }
    }
}

/// The canonical form of a text.
pub fn canonical(text: &str) -> Result<Cow<'_, str>, QuantityError> {
    Quantity::parse(text).map(|quantity| quantity.canonical(text))
}

fn round_up(nano: i128, unit: i128) -> i64 {
    let rounded = if nano >= 0 {
        (nano + (unit - 1)) / unit
    } else {
        (nano - (unit - 1)) / unit
    };
    i64::try_from(rounded).unwrap_or(if nano < 0 { i64::MIN } else { i64::MAX })
}

fn split(text: &str) -> Result<Parts<'_>, QuantityError> {
    let negative = text.starts_with('-');
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    let digits = |text: &str| text.bytes().take_while(u8::is_ascii_digit).count();
    let (whole, rest) = unsigned.split_at(digits(unsigned));
    let (fraction, tail) = match rest.strip_prefix('.') {
        Some(rest) => rest.split_at(digits(rest)),
        None => ("", rest),
    };
    let empty = whole.is_empty() && fraction.is_empty();
    let letters = tail
        .bytes()
        .take_while(|byte| b"eEinumkKMGTP".contains(byte))
        .count();
    let power = tail[letters..]
        .strip_prefix(['-', '+'])
        .unwrap_or(&tail[letters..]);
    if digits(power) != power.len() {
        return Err(QuantityError::Format);
    }
    let stripped = whole.trim_start_matches('0');
    Ok(Parts {
        negative,
        whole: if stripped.is_empty() { "0" } else { stripped },
        fraction,
        empty,
        suffix: tail,
    })
}

/// The power that a suffix stands for (of 10, or of 2 in the binary format).
fn suffix(text: &str) -> Option<(i32, Format)> {
    if let Some((power, _)) = DECIMAL.iter().find(|(_, suffix)| *suffix == text) {
        return Some((*power, Format::Decimal));
    }
    if let Some(at) = BINARY.iter().position(|suffix| *suffix == text) {
        return Some((i32::try_from(at).ok()? * 10, Format::Binary));
    }
    let power = text.strip_prefix(['e', 'E'])?;
    // Go reads 64 bits and keeps the lower 32; nobody means that.
    Some((power.parse().ok()?, Format::Exponent))
}

/// What Go does in 64-bit arithmetic. The result is the same as that of [`exact`], except that
/// texts which look canonical are kept as they are (`1.500` stays, though `1500m` is the form).
fn quick(parts: &Parts<'_>, exponent: i32, format: Format) -> Option<Quantity> {
    let whole = i64::try_from(parts.whole.len()).ok()?;
    let fraction = i64::try_from(parts.fraction.len()).ok()?;
    let exponent = i64::from(exponent);
    let (scale, factor, precision) = match format {
        Format::Decimal | Format::Exponent => (exponent, 1, SAFE_DIGITS - whole - fraction),
        Format::Binary if fraction == 0 => {
            (0, 1_i64 << exponent, 15 - whole - exponent * 3 / 10 - 1)
        }
        Format::Binary => return None,
    };
    let scale = scale - fraction;
    if precision < 0 || scale < -9 {
        return None;
    }
    let digits = format!("{}{}", parts.whole, parts.fraction);
    let number: i64 = digits.parse().ok()?;
    let product = number.checked_mul(factor)?;
    let power = u32::try_from(scale + 9).ok()?;
    let nano = i128::from(product).checked_mul(10_i128.checked_pow(power)?)?;
    let verbatim = match format {
        Format::Binary => number & 0x07 != 0,
        _ => scale % 3 == 0 && !digits.ends_with("000") && !digits.starts_with('0'),
    };
    Some(Quantity {
        nano: if parts.negative { -nano } else { nano },
        format,
        verbatim,
    })
}

/// The amount in units of 10⁻⁹, rounded up; without the sign.
fn exact(parts: &Parts<'_>, exponent: i32, format: Format) -> i128 {
    // With 18 digits after the point, an exbibyte still fits into 128 bits.
    const MOST: usize = 18;
    let kept = parts.fraction.len().min(MOST);
    let (fraction, dropped) = parts.fraction.split_at(kept);
    let mut rest = dropped.bytes().any(|digit| digit != b'0');
    let mut number: i128 = 0;
    for digit in parts.whole.bytes().chain(fraction.bytes()) {
        number = number
            .saturating_mul(10)
            .saturating_add(i128::from(digit - b'0'));
    }
    if number == 0 {
        return i128::from(rest);
    }
    let mut places = 9 - i64::try_from(kept).unwrap_or(0);
    if format == Format::Binary {
        number = number.saturating_mul(1_i128 << exponent.clamp(0, 60));
    } else {
        places += i64::from(exponent);
    }
    while places > 0 && number < i128::MAX {
        number = number.saturating_mul(10);
        places -= 1;
    }
    while places < 0 && number > 0 {
        rest |= number % 10 != 0;
        number /= 10;
        places += 1;
    }
    number.saturating_add(i128::from(rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn form(text: &str) -> String {
        canonical(text).expect(text).into_owned()
    }

    #[test]
    fn quantities_get_their_canonical_form() {
        for (text, expected) in [
            ("0", "0"),
            ("0Mi", "0"),
            ("0.0", "0"),
            ("1000m", "1"),
            ("0.5Gi", "512Mi"),
            ("1.5Gi", "1536Mi"),
            ("1024Mi", "1Gi"),
            ("1023Mi", "1023Mi"),
            ("512Ki", "512Ki"),
            ("1024", "1024"),
            ("1000", "1k"),
            ("100000", "100k"),
            ("0.1", "100m"),
            ("1.5", "1500m"),
            (".5", "500m"),
            ("1.", "1."),
            ("1.5E", "1500P"),
            ("100e-3", "100e-3"),
            ("-1.5Ki", "-1536"),
            ("01Ki", "01Ki"),
            ("1e3", "1e3"),
            ("1000e3", "1e6"),
            ("1E", "1E"),
            ("1e-3", "1e-3"),
            ("0.1e1", "1"),
            ("-1.5", "-1500m"),
            ("+2000", "2k"),
            ("0.0000000001", "1n"),
            ("0.1Ki", "102400m"),
            ("0.0001Ki", "102400u"),
            ("1.500", "1.500"),
            ("12.345", "12.345"),
            ("1024Ei", "9223372036854775807"),
            ("123456789012345678", "123456789012345678"),
            ("100Mi", "100Mi"),
            ("8Ki", "8Ki"),
            ("1Ki", "1Ki"),
        ] {
            assert_eq!(form(text), expected, "{text}");
        }
    }

    #[test]
    fn nonsense_is_refused_in_the_words_of_the_server() {
        assert_eq!(Quantity::parse(""), Err(QuantityError::Format));
        assert_eq!(Quantity::parse("abc"), Err(QuantityError::Format));
        assert_eq!(Quantity::parse("1 Mi"), Err(QuantityError::Format));
        assert_eq!(Quantity::parse("1.2.3"), Err(QuantityError::Format));
        assert_eq!(Quantity::parse("1MiB"), Err(QuantityError::Format));
        assert_eq!(Quantity::parse("1mM"), Err(QuantityError::Suffix));
        assert_eq!(Quantity::parse("1e"), Err(QuantityError::Suffix));
    }

    #[test]
    fn amounts_round_away_from_zero() {
        let amount =
            |text| Quantity::parse(text).map(|quantity| (quantity.value(), quantity.milli()));
        assert_eq!(amount("1500m"), Ok((2, 1500)));
        assert_eq!(amount("-1500m"), Ok((-2, -1500)));
        assert_eq!(amount("1u"), Ok((1, 1)));
        assert_eq!(amount("64Gi"), Ok((68_719_476_736, 68_719_476_736_000)));
    }

    proptest::proptest! {
        #[test]
        fn no_text_panics(text in "\\PC*") {
            let _ = Quantity::parse(&text);
        }

        #[test]
        fn the_canonical_form_is_its_own_canonical_form(
            text in "[-+]?[0-9]{1,12}(\\.[0-9]{0,12})?(n|u|m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|e-?[0-9])?"
        ) {
            let first = Quantity::parse(&text).expect("a quantity");
            let second = Quantity::parse(&first.to_string()).expect("a quantity");
            proptest::prop_assert_eq!(first.to_string(), second.to_string());
            proptest::prop_assert_eq!(first.nano(), second.nano());
        }
    }
}
