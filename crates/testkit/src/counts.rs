//! Bounds of what a step may cost, in counts: requests, system calls, allocations.
//!
//! They stand in `tests/counts.tsv`, each with its reason.

/// Asserts that a count is within its bound, and above half of it: a gain is to be written down, or the next
/// loss hides behind it.
///
/// # Panics
/// Where it is not, or where there is no bound of that name.
#[track_caller]
pub fn within_bound(name: &str, count: f64) {
    crate::note(&format!("counted: {name}: {count:.1}"));
    if let Err(what) = check(&bounds(), name, count) {
        panic!("{what} (tests/counts.tsv)");
    }
}

fn bounds() -> String {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/counts.tsv");
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn check(bounds: &str, name: &str, count: f64) -> Result<(), String> {
    let mut rows = bounds
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| line.split('\t').collect::<Vec<_>>());
    let row = rows.find(|row| row[0] == name);
    let [_, bound, why] = row.as_deref().ok_or_else(|| format!("no bound {name:?}"))? else {
        return Err(format!("{name}: not three columns"));
    };
    let limit: f64 = bound
        .parse()
        .map_err(|_| format!("{name}: no number: {bound}"))?;
    if count > limit {
        Err(format!("{name}: {count:.1} is more than {limit}: {why}"))
    } else if count <= limit / 2.0 {
        Err(format!(
            "{name}: {count:.1} is less than half of {limit}: lower the bound"
        ))
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bound_has_a_number_and_a_reason() {
        for line in bounds().lines().filter(|line| !line.starts_with('#')) {
            let row: Vec<&str> = line.split('\t').collect();
            assert_eq!(row.len(), 3, "{line:?}");
            assert!(
                row[1].parse::<f64>().is_ok_and(|bound| bound > 0.0),
                "{line:?}"
            );
            assert!(row[2].len() > 10, "{line:?}");
        }
    }

    #[test]
    fn counts_beyond_noise_are_told() {
        let bounds = "# words\nwrites\t10\tthree of the agent\n";
        assert_eq!(check(bounds, "writes", 10.0), Ok(()));
        assert_eq!(check(bounds, "writes", 5.1), Ok(()));
        let more = check(bounds, "writes", 10.1).expect_err("more");
        assert!(more.contains("more than 10: three of the agent"), "{more}");
        assert!(
            check(bounds, "writes", 5.0)
                .expect_err("less")
                .contains("lower the bound")
        );
        assert!(check(bounds, "reads", 1.0).is_err());
    }
}
