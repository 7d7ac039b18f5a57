//! What the documents say of tests is true.

use std::collections::BTreeSet;
use std::path::Path;

/// Every function of the tests and sources, as `module::name`, and `module::tests::name` for those beside the code.
fn functions() -> BTreeSet<String> {
    let base = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = BTreeSet::new();
    for root in ["src", "tests/it", "tests"] {
        let root = base.join(root);
        let mut dirs = vec![root.clone()];
        while let Some(dir) = dirs.pop() {
            for entry in std::fs::read_dir(dir).expect("a directory").flatten() {
                let path = entry.path();
                if path.is_dir() {
                    dirs.push(path);
                } else if path.extension().is_some_and(|it| it == "rs") {
                    let module = path.strip_prefix(&root).expect("below").with_extension("");
                    let module = module.to_str().expect("a name").replace('/', "::");
                    let module = module.trim_end_matches("::mod");
                    let text = std::fs::read_to_string(&path).expect("a source");
                    for line in text.lines() {
                        let after = line.trim_start().trim_start_matches("async ");
                        let name = after
                            .strip_prefix("fn ")
                            .and_then(|it| it.split('(').next());
                        if let Some(name) = name {
                            found.insert(format!("{module}::{name}"));
                            found.insert(format!("{module}::tests::{name}"));
                        }
                    }
                }
            }
        }
    }
    found
}

/// Texts between backquotes.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

#[test]
fn every_supported_field_of_pods_has_tests_that_exist() {
    let document = include_str!("../../docs/pods.md");
    let table = document
        .split("\n## Fields\n")
        .nth(1)
        .expect("the table of fields");
    let table = table.split("\n##").next().unwrap_or_default();
    let known = functions();
    let (mut rows, mut wrong) = (0, Vec::new());
    for row in table.lines().filter(|line| line.starts_with('|')).skip(2) {
        rows += 1;
        let tests = row
            .trim_end_matches([' ', '|'])
            .rsplit(" | ")
            .next()
            .unwrap_or_default();
        let names: Vec<_> = quoted(tests).collect();
        if names.is_empty() {
            wrong.push(format!("no test: {row}"));
        }
        for name in names {
            if !known.contains(name) {
                wrong.push(format!("no such test: {name}"));
            }
        }
    }
    assert!(rows > 20, "the table has {rows} rows");
    assert!(wrong.is_empty(), "{wrong:#?}");
}
