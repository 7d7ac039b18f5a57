//! One entry of the combined log: `<RFC 3339 time with nanoseconds> <stdout|stderr> <F|P> <text>`.
//!
//! The format is that of the CRI (`KEP cri-container-stats`, kubelet `logs.go`): `P` marks text that the next entry of
//! the same stream continues, `F` text that a newline ended.

use std::{io::Write, time::Duration};

use jiff::Timestamp;

/// Which output an entry came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

impl Stream {
    /// Name in the format.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// Bytes of a formatted time.
pub const TIME_LEN: usize = "2026-01-02T03:04:05.123456789Z".len();

/// Formats a time since the epoch, always with nine digits so that times compare as text.
///
/// Proleptic Gregorian calendar by H. Hinnant's `civil_from_days` arithmetic.
pub fn format_time(since_epoch: Duration) -> [u8; TIME_LEN] {
    let seconds = since_epoch.as_secs();
    let (days, of_day) = (seconds / 86_400, seconds % 86_400);
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let day_of_era = shifted % 146_097;
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let mut text = *b"0000-00-00T00:00:00.000000000Z";
    let mut put = |from: usize, digits: usize, mut value: u64| {
        for place in text[from..from + digits].iter_mut().rev() {
            *place = b'0' + (value % 10) as u8;
            value /= 10;
        }
    };
    put(0, 4, year);
    put(5, 2, month);
    put(8, 2, day);
    put(11, 2, of_day / 3_600);
    put(14, 2, of_day / 60 % 60);
    put(17, 2, of_day % 60);
    put(20, 9, u64::from(since_epoch.subsec_nanos()));
    text
}

/// Appends the entries of a piece of output: one per line, the last one partial where no newline ends it.
pub fn write_entries(to: &mut Vec<u8>, time: &[u8; TIME_LEN], stream: Stream, output: &[u8]) {
    for line in output.split_inclusive(|&b| b == b'\n') {
        let (tag, text) = match line.strip_suffix(b"\n") {
            Some(text) => (b'F', text),
            None => (b'P', line),
        };
        to.extend_from_slice(time);
        to.push(b' ');
        to.extend_from_slice(stream.name().as_bytes());
        to.extend_from_slice(&[b' ', tag, b' ']);
        to.extend_from_slice(text);
        to.push(b'\n');
    }
}

/// An entry, borrowed from the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// Time as it stands in the log.
    pub time: &'a [u8],
    /// Which output.
    pub stream: Stream,
    /// Whether a newline ended the text.
    pub full: bool,
    /// The text without newline.
    pub text: &'a [u8],
}

impl<'a> Entry<'a> {
    /// Parses a line without its newline; `None` for what is no entry.
    pub fn parse(line: &'a [u8]) -> Option<Self> {
        let (time, rest) = split(line)?;
        let (stream, rest) = split(rest)?;
        let (tags, text) = split(rest)?;
        let stream = match stream {
            b"stdout" => Stream::Stdout,
            b"stderr" => Stream::Stderr,
            _ => return None,
        };
        // More tags may follow the first after colons.
        let full = match tags.split(|&b| b == b':').next()? {
            b"F" => true,
            b"P" => false,
            _ => return None,
        };
        Some(Self {
            time,
            stream,
            full,
            text,
        })
    }

    /// The time, where it is one.
    pub fn timestamp(&self) -> Option<Timestamp> {
        std::str::from_utf8(self.time).ok()?.parse().ok()
    }
}

fn split(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let space = text.iter().position(|&b| b == b' ')?;
    Some((&text[..space], &text[space + 1..]))
}

/// A note of ours in the log of a container.
pub fn write_note(to: &mut Vec<u8>, time: &[u8; TIME_LEN], note: std::fmt::Arguments<'_>) {
    let mut text = Vec::new();
    // Writing to a vector cannot fail.
    let _ = writeln!(text, "[vk-cmd: {note}]");
    write_entries(to, time, Stream::Stderr, &text);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn times_are_what_a_calendar_says(seconds in 0_u64..4_102_444_800, nanos in 0_u32..1_000_000_000) {
            let text = format_time(Duration::new(seconds, nanos));
            let parsed: Timestamp = std::str::from_utf8(&text).expect("ascii").parse().expect("RFC 3339");
            prop_assert_eq!(parsed.as_nanosecond(), i128::from(seconds) * 1_000_000_000 + i128::from(nanos));
        }

        #[test]
        fn output_comes_back_whatever_its_bytes(output: Vec<u8>, cut in 1_usize..20) {
            let time = format_time(Duration::ZERO);
            let mut log = Vec::new();
            for piece in output.chunks(cut) {
                write_entries(&mut log, &time, Stream::Stdout, piece);
            }
            let mut back = Vec::new();
            for line in log.split_inclusive(|&b| b == b'\n') {
                let entry = Entry::parse(line.strip_suffix(b"\n").expect("entries are whole")).expect("an entry");
                back.extend_from_slice(entry.text);
                if entry.full {
                    back.push(b'\n');
                }
            }
            prop_assert_eq!(back, output);
        }

        #[test]
        fn strange_lines_do_not_panic(line: Vec<u8>) {
            let _ = Entry::parse(&line).map(|entry| entry.timestamp());
        }
    }

    #[test]
    fn entries_look_as_the_format_says() {
        let mut log = Vec::new();
        write_entries(
            &mut log,
            &format_time(Duration::new(1_767_323_045, 6)),
            Stream::Stderr,
            b"a b\n\nrest",
        );
        assert_eq!(
            String::from_utf8_lossy(&log),
            "2026-01-02T03:04:05.000000006Z stderr F a b\n\
             2026-01-02T03:04:05.000000006Z stderr F \n\
             2026-01-02T03:04:05.000000006Z stderr P rest\n"
        );
    }
}
