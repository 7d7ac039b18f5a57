//! Figures, and the table that sets two control planes side by side.

use std::fmt::Write as _;

/// What is better of a figure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Better {
    Lower,
    Higher,
}

/// One measured value.
#[derive(Clone, Debug)]
pub(crate) struct Figure {
    pub(crate) what: String,
    pub(crate) unit: &'static str,
    pub(crate) value: f64,
    pub(crate) better: Better,
}

/// The figures of one control plane, in the order of their measurement.
#[derive(Clone, Debug, Default)]
pub(crate) struct Figures(pub(crate) Vec<Figure>);

impl Figures {
    /// A figure of which less is better.
    pub(crate) fn low(&mut self, what: impl Into<String>, unit: &'static str, value: f64) {
        self.push(what.into(), unit, value, Better::Lower);
    }

    /// A figure of which more is better.
    pub(crate) fn high(&mut self, what: impl Into<String>, unit: &'static str, value: f64) {
        self.push(what.into(), unit, value, Better::Higher);
    }

    /// p50 and p99 of durations in seconds, as milliseconds.
    pub(crate) fn spread(&mut self, what: &str, seconds: &mut [f64]) {
        for (name, share) in [("p50", 0.5), ("p99", 0.99)] {
            let value = percentile(seconds, share) * 1e3;
            self.low(format!("{what}, {name}"), "ms", value);
        }
    }

    fn push(&mut self, what: String, unit: &'static str, value: f64, better: Better) {
        testkit::note(&format!("  {what}: {} {unit}", shown(value)));
        self.0.push(Figure {
            what,
            unit,
            value,
            better,
        });
    }
}

/// The value below which `share` of the values lie; the nearest of them.
///
/// # Panics
/// Where there are none.
pub(crate) fn percentile(values: &mut [f64], share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    values[((values.len() - 1) as f64 * share).round() as usize]
}

/// How many times better the first is than the second; none where one is too small to be measured.
fn ratio(ours: &Figure, theirs: &Figure) -> Option<f64> {
    let ratio = match ours.better {
        Better::Lower => theirs.value / ours.value,
        Better::Higher => ours.value / theirs.value,
    };
    (ratio.is_finite() && ratio > 0.0).then_some(ratio)
}

/// Three digits that say something.
fn shown(value: f64) -> String {
    match value.abs() {
        v if v >= 1000.0 => {
            let digits = format!("{value:.0}");
            let mut text = String::new();
            for (index, digit) in digits.chars().enumerate() {
                if index > 0 && (digits.len() - index) % 3 == 0 {
                    text.push(',');
                }
                text.push(digit);
            }
            text
        }
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// The table in Markdown; a plane that could not be had has an empty column.
pub(crate) fn table(ours: &Figures, theirs: Option<&Figures>) -> String {
    let mut text =
        String::from("| what | embedded | Kubernetes v1.34 | times better |\n|---|---|---|---|\n");
    for figure in &ours.0 {
        let unit = figure.unit;
        let other = theirs.and_then(|all| all.0.iter().find(|one| one.what == figure.what));
        let (value, times) = match other {
            Some(other) => (
                format!("{} {unit}", shown(other.value)),
                ratio(figure, other).map_or_else(String::new, shown),
            ),
            None => Default::default(),
        };
        let _ = writeln!(
            text,
            "| {} | {} {unit} | {value} | {times} |",
            figure.what,
            shown(figure.value)
        );
    }
    text
}

/// The same as data: what, unit, embedded, real, times better, with tabs between them and a line of names.
pub(crate) fn data(ours: &Figures, theirs: Option<&Figures>) -> String {
    let mut text = String::from("what\tunit\tembedded\treal\ttimes better\n");
    for figure in &ours.0 {
        let other = theirs.and_then(|all| all.0.iter().find(|one| one.what == figure.what));
        let (real, times) = other.map_or_else(Default::default, |other| {
            let times = ratio(figure, other).map_or_else(String::new, |times| times.to_string());
            (other.value.to_string(), times)
        });
        let (what, unit, value) = (&figure.what, figure.unit, figure.value);
        let _ = writeln!(text, "{what}\t{unit}\t{value}\t{real}\t{times}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_occur() {
        let mut values: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        assert_eq!(percentile(&mut values, 0.5), 51.0);
        assert_eq!(percentile(&mut values, 0.99), 99.0);
        assert_eq!(percentile(&mut values, 1.0), 100.0);
        assert_eq!(percentile(&mut [7.0], 0.99), 7.0);
    }

    #[test]
    fn ratios_say_how_many_times_better_ours_is() {
        let (mut ours, mut theirs) = (Figures::default(), Figures::default());
        ours.low("time", "ms", 2.0);
        theirs.low("time", "ms", 5.0);
        ours.high("rate", "/s", 3000.0);
        theirs.high("rate", "/s", 1500.0);
        let text = table(&ours, Some(&theirs));
        assert!(
            text.contains("| time | 2.00 ms | 5.00 ms | 2.50 |"),
            "{text}"
        );
        assert!(
            text.contains("| rate | 3,000 /s | 1,500 /s | 2.00 |"),
            "{text}"
        );
        ours.low("nothing", "%", 0.0);
        theirs.low("nothing", "%", 3.0);
        let text = table(&ours, Some(&theirs));
        assert!(text.contains("| nothing | 0.00 % | 3.00 % |  |"), "{text}");
        assert!(table(&ours, None).contains("| time | 2.00 ms |  |  |"));
        assert!(data(&ours, Some(&theirs)).contains("\nrate\t/s\t3000\t1500\t2\n"));
    }
}
