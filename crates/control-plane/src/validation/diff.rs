//! The difference of two values, as messages about forbidden changes show it.

use serde_json::Value;

/// Lines around a change.
const CONTEXT: usize = 3;

/// A unified diff of the two values, written as indented JSON.
pub(super) fn unified(old: &Value, new: &Value) -> String {
    let text = |value: &Value| serde_json::to_string_pretty(value).unwrap_or_default();
    let (old, new) = (text(old), text(new));
    let old: Vec<&str> = old.lines().collect();
    let new: Vec<&str> = new.lines().collect();
    let lines = edits(&old, &new);
    let changed: Vec<usize> = lines
        .iter()
        .enumerate()
        .filter(|(_, (mark, _))| *mark != ' ')
        .map(|(index, _)| index)
        .collect();
    let mut result = String::new();
    let mut shown_to = 0;
    for (index, (mark, line)) in lines.iter().enumerate() {
        let near = changed
            .iter()
            .any(|change| change.abs_diff(index) <= CONTEXT);
        if !near {
            continue;
        }
        if index != shown_to || result.is_empty() {
            let before = |mark: char| {
                lines[..index]
                    .iter()
                    .filter(|(other, _)| *other != mark)
                    .count()
                    + 1
            };
            result.push_str(&format!("@@ -{} +{} @@\n", before('+'), before('-')));
        }
        shown_to = index + 1;
        result.push(*mark);
        result.push_str(line);
        result.push('\n');
    }
    result
}

/// The lines of both texts in order, each with ' ', '-' or '+'.
fn edits<'a>(old: &[&'a str], new: &[&'a str]) -> Vec<(char, &'a str)> {
    let prefix = old.iter().zip(new).take_while(|(a, b)| a == b).count();
    let suffix = old[prefix..]
        .iter()
        .rev()
        .zip(new[prefix..].iter().rev())
        .take_while(|(a, b)| a == b)
        .count();
    let (old_middle, new_middle) = (
        &old[prefix..old.len() - suffix],
        &new[prefix..new.len() - suffix],
    );
    let mut lines: Vec<(char, &str)> = old[..prefix].iter().map(|line| (' ', *line)).collect();
    lines.extend(middle(old_middle, new_middle));
    lines.extend(old[old.len() - suffix..].iter().map(|line| (' ', *line)));
    lines
}

/// The longest common subsequence; where the texts are so long that its table would be large,
/// everything old goes and everything new comes.
fn middle<'a>(old: &[&'a str], new: &[&'a str]) -> Vec<(char, &'a str)> {
    const LARGEST: usize = 1 << 20;
    if old.len().saturating_mul(new.len()) > LARGEST {
        let gone = old.iter().map(|line| ('-', *line));
        return gone.chain(new.iter().map(|line| ('+', *line))).collect();
    }
    let width = new.len() + 1;
    let mut common = vec![0u32; (old.len() + 1) * width];
    for i in (0..old.len()).rev() {
        for j in (0..new.len()).rev() {
            common[i * width + j] = if old[i] == new[j] {
                common[(i + 1) * width + j + 1] + 1
            } else {
                common[(i + 1) * width + j].max(common[i * width + j + 1])
            };
        }
    }
    let (mut i, mut j) = (0, 0);
    let mut lines = Vec::new();
    while i < old.len() || j < new.len() {
        if i < old.len() && j < new.len() && old[i] == new[j] {
            lines.push((' ', old[i]));
            i += 1;
            j += 1;
        } else if i < old.len()
            && (j == new.len() || common[(i + 1) * width + j] >= common[i * width + j + 1])
        {
            lines.push(('-', old[i]));
            i += 1;
        } else {
            lines.push(('+', new[j]));
            j += 1;
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_change_is_shown_with_its_surroundings() {
        let text = unified(
            &json!({"a": 1, "b": 2, "c": 3, "d": 4, "e": 5, "f": 6, "g": 7, "h": 8, "i": 9}),
            &json!({"a": 1, "b": 2, "c": 3, "d": 4, "e": 55, "f": 6, "g": 7, "h": 8, "i": 9}),
        );
        assert_eq!(
            text,
            "@@ -3 +3 @@\n   \"b\": 2,\n   \"c\": 3,\n   \"d\": 4,\n-  \"e\": 5,\n+  \"e\": 55,\n   \"f\": 6,\n   \"g\": 7,\n   \"h\": 8,\n"
        );
        assert_eq!(unified(&json!({}), &json!({})), "");
    }
}
