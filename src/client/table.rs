//! The server's own tables, aligned for a terminal.

use serde_json::Value;

/// Renders a `meta.k8s.io` Table: the columns of priority 0, or all where `wide`.
/// With `namespaces`, the namespace of each row comes first.
pub fn render(table: &Value, wide: bool, namespaces: bool) -> String {
    let columns: Vec<(usize, &Value)> = table["columnDefinitions"]
        .as_array()
        .into_iter()
        .flatten()
        .enumerate()
        .filter(|(_, column)| wide || column["priority"].as_i64().unwrap_or(0) == 0)
        .collect();
    let mut lines: Vec<Vec<String>> = Vec::new();
    let mut head: Vec<String> = columns
        .iter()
        .map(|(_, column)| column["name"].as_str().unwrap_or_default().to_uppercase())
        .collect();
    if namespaces {
        head.insert(0, "NAMESPACE".to_owned());
    }
    lines.push(head);
    for row in table["rows"].as_array().into_iter().flatten() {
        let mut cells: Vec<String> = columns
            .iter()
            .map(|(index, _)| cell(&row["cells"][*index]))
            .collect();
        if namespaces {
            cells.insert(0, cell(&row["object"]["metadata"]["namespace"]));
        }
        lines.push(cells);
    }
    align(&lines)
}

fn cell(value: &Value) -> String {
    match value {
        Value::String(text) => text.replace('\n', "\\n"),
        Value::Null => "<none>".to_owned(),
        other => other.to_string(),
    }
}

fn align(lines: &[Vec<String>]) -> String {
    let columns = lines.iter().map(Vec::len).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns)
        .map(|index| {
            lines
                .iter()
                .filter_map(|line| line.get(index))
                .map(|cell| cell.chars().count())
                .max()
                .unwrap_or(0)
        })
        .collect();
    let mut text = String::new();
    for line in lines {
        let mut row = String::new();
        for (cell, width) in line.iter().zip(&widths) {
            row.push_str(&format!("{cell:<width$}   "));
        }
        text.push_str(row.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn wide_columns_show_only_when_asked_for() {
        let table = json!({
            "columnDefinitions": [{"name": "Name", "priority": 0}, {"name": "Node", "priority": 1}, {"name": "Age"}],
            "rows": [{"cells": ["long-name", "n1", "5s"], "object": {"metadata": {"namespace": "default"}}},
                     {"cells": ["b", null, "1m"], "object": {"metadata": {"namespace": "x"}}}]});
        assert_eq!(
            render(&table, false, false),
            "NAME        AGE\nlong-name   5s\nb           1m\n"
        );
        assert_eq!(
            render(&table, true, true),
            "NAMESPACE   NAME        NODE     AGE\ndefault     long-name   n1       5s\nx           b           <none>   1m\n"
        );
    }
}
