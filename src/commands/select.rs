//! From `TYPE [NAME…]` or `TYPE/NAME…` to kinds and names.

use anyhow::Result;

use crate::cli::SelectArgs;
use crate::client::{Kind, Kinds};
use crate::exit::UsageError;

/// One kind, and one object of it or all.
#[derive(Debug, Clone)]
pub(super) struct Selected {
    pub(super) kind: Kind,
    pub(super) name: Option<String>,
}

/// Resolves what was typed.
pub(super) fn resolve(kinds: &Kinds, args: &SelectArgs) -> Result<Vec<Selected>, UsageError> {
    let Some(first) = args.what.first() else {
        return Err(usage(
            "",
            "names nothing",
            "say what: `pods`, `pod NAME` or `pod/NAME`",
        ));
    };
    if args.what.iter().any(|word| word.contains('/')) {
        return args
            .what
            .iter()
            .map(|word| resolve_pair(kinds, word))
            .collect();
    }
    let mut selected = Vec::new();
    for name in first.split(',') {
        let many: Vec<Kind> = kinds.by_category(name).cloned().collect();
        let found = if many.is_empty() {
            vec![lookup(kinds, name)?]
        } else {
            many
        };
        for kind in found {
            if args.what.len() == 1 {
                selected.push(Selected { kind, name: None });
            } else {
                selected.extend(args.what[1..].iter().map(|name| Selected {
                    kind: kind.clone(),
                    name: Some(name.clone()),
                }));
            }
        }
    }
    Ok(selected)
}

fn resolve_pair(kinds: &Kinds, word: &str) -> Result<Selected, UsageError> {
    match word.split_once('/') {
        Some((kind, name)) if !kind.is_empty() && !name.is_empty() => Ok(Selected {
            kind: lookup(kinds, kind)?,
            name: Some(name.to_owned()),
        }),
        _ => Err(usage(
            word,
            "is not TYPE/NAME",
            "do not mix `TYPE NAME` with `TYPE/NAME`",
        )),
    }
}

fn lookup(kinds: &Kinds, name: &str) -> Result<Kind, UsageError> {
    kinds.by_name(name).cloned().ok_or_else(|| {
        let hint = kinds.similar(name).map_or_else(
            || "see the types with `kubectl api-resources`".to_owned(),
            |near| format!("did you mean {near:?}?"),
        );
        usage(name, "is no type that the server knows", &hint)
    })
}

fn usage(value: &str, problem: &str, mend: &str) -> UsageError {
    UsageError {
        key: "TYPE".to_owned(),
        value: value.to_owned(),
        problem: problem.to_owned(),
        origin: "command line".to_owned(),
        mend: mend.to_owned(),
    }
}
