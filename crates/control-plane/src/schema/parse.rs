//! Reading `data/schema.txt`.
//!
//! The file is line-oriented:
//!
//! ```text
//! package <number> <OpenAPI package> <Go package>
//! kinds <apiVersion> <home package> [+]<Kind>[=<type>]…
//! in <package>                      the types that follow belong to it
//! type <Name> [special <form> | is <kind> | items <kind>] [atomic] [list=<type>] [enum=a|b]
//!  <json> <number> <kind> <flag>…   a field of the type above
//! ```
//!
//! A field named `.` is an embedded struct. A kind is `string`, `bool`, `int32`, `int64`,
//! `float64`, `bytes`, or the name of a type (`<package>:<Name>` outside its own package); before
//! it may stand `*` (pointer), `[]` (list of) and `{}` (map of). Fields are `omitempty` and
//! optional unless a flag says otherwise: `keep` (no `omitempty`; required too, unless `optional`),
//! `zero` (`omitzero`), `required`; further flags are `atomic`, `set`, `map=<keys>` (of a list),
//! `struct=atomic|granular` (of a map or a struct), `patch=<strategies>`, `key=<merge key>`, `default=<JSON>`. A plus sign before a type, a kind or
//! a field marks what came after the served version.

use std::collections::HashMap;
use std::sync::OnceLock;

use super::{Declared, Field, Kind, Layout, ListType, Omit, Schema, Special, Type, TypeId};

/// Reads names and kinds; fields stay text until they are needed.
///
/// # Panics
///
/// On a table that does not follow the format: it is part of the program, and a test reads it all.
pub(super) fn table(text: &'static str) -> Schema {
    let mut schema = Schema {
        packages: Vec::new(),
        types: Vec::new(),
        names: HashMap::new(),
        kinds: HashMap::new(),
        served_types: 0,
    };
    let mut kind_lines = Vec::new();
    let mut heads = Vec::new();
    let mut home = 0;
    let mut rest = text;
    while !rest.is_empty() {
        let (line, after) = rest.split_once('\n').unwrap_or((rest, ""));
        rest = after;
        let newer = line.starts_with("+type ");
        if newer || line.starts_with("type ") {
            let words = line.trim_start_matches('+').trim_start_matches("type ");
            let (name, head) = words.split_once(' ').unwrap_or((words, ""));
            let length = body_length(rest);
            let id = TypeId(u16::try_from(schema.types.len()).expect("fewer than 65536 types"));
            schema.types.push(Type {
                id,
                package: home,
                name,
                special: None,
                alias: None,
                wrapped: false,
                atomic: false,
                list: None,
                enumeration: &[],
                newer,
                body: &rest[..length],
                layout: OnceLock::new(),
            });
            heads.push(head);
            schema.names.insert((home, name), id);
            schema.served_types += usize::from(!newer);
            rest = &rest[length..];
        } else if let Some(number) = line.strip_prefix("in ") {
            home = number.parse().expect("the number of a package");
        } else if let Some(package) = line.strip_prefix("package ") {
            let mut words = package.split(' ').skip(1);
            let mut word = || words.next().expect("two names of a package");
            schema.packages.push((word(), word()));
        } else if let Some(kinds) = line.strip_prefix("kinds ") {
            kind_lines.push(kinds);
        }
    }
    for (at, head) in heads.into_iter().enumerate() {
        let package = schema.types[at].package;
        // Values of enumerations may have spaces in them, so they stand last.
        let (head, enumeration) = head.split_once("enum=").unwrap_or((head, ""));
        if !enumeration.is_empty() {
            schema.types[at].enumeration = enumeration.split('|').collect::<Vec<_>>().leak();
        }
        let mut words = head.split(' ');
        while let Some(word) = words.next() {
            let mut next = || {
                words
                    .next()
                    .expect("a word after `special`, `is` or `items`")
            };
            match word {
                "" => {}
                "special" => schema.types[at].special = Some(special(next())),
                "is" => schema.types[at].alias = Some(kind(&schema, package, next())),
                "items" => {
                    schema.types[at].alias = Some(kind(&schema, package, next()));
                    schema.types[at].wrapped = true;
                }
                "atomic" => schema.types[at].atomic = true,
                other => match other.split_once('=') {
                    Some(("list", "atomic")) => schema.types[at].list = Some(ListType::Atomic),
                    Some(("list", "set")) => schema.types[at].list = Some(ListType::Set),
                    _ => panic!("no such word in the type table: {other}"),
                },
            }
        }
    }
    for line in kind_lines {
        let mut words = line.split(' ');
        let api_version = words.next().expect("an apiVersion");
        let home = words
            .next()
            .and_then(|number| number.parse().ok())
            .expect("the number of a package");
        for word in words {
            let word = word.trim_start_matches('+');
            let (kind, reference) = word.split_once('=').unwrap_or((word, word));
            let id = named(&schema, home, reference);
            schema.kinds.insert((api_version, kind), id);
        }
    }
    schema
}

/// The length of the field lines at the start of `text`.
fn body_length(text: &str) -> usize {
    let mut length = 0;
    for line in text.split_inclusive('\n') {
        let field = line.starts_with(' ') || line.starts_with('+') && !line.starts_with("+type ");
        if !field {
            break;
        }
        length += line.len();
    }
    length
}

fn special(word: &str) -> Special {
    match word {
        "time" => Special::Time,
        "microTime" => Special::MicroTime,
        "duration" => Special::Duration,
        "quantity" => Special::Quantity,
        "intOrString" => Special::IntOrString,
        "rawExtension" => Special::RawExtension,
        "fieldsV1" => Special::FieldsV1,
        "json" => Special::Json,
        "schemaOrArray" => Special::SchemaOrArray,
        "schemaOrBool" => Special::SchemaOrBool,
        "schemaOrStrings" => Special::SchemaOrStrings,
        other => panic!("no such special form in the type table: {other}"),
    }
}

fn named(schema: &Schema, home: u16, reference: &'static str) -> TypeId {
    let (package, name) = match reference.split_once(':') {
        Some((number, name)) => (number.parse().expect("the number of a package"), name),
        None => (home, reference),
    };
    *schema
        .names
        .get(&(package, name))
        .unwrap_or_else(|| panic!("no type {reference} in the type table"))
}

fn kind(schema: &Schema, home: u16, word: &'static str) -> Kind {
    if let Some(element) = word.strip_prefix("[]") {
        return Kind::List(interned(kind(schema, home, element)));
    }
    if let Some(element) = word.strip_prefix("{}") {
        return Kind::Map(interned(kind(schema, home, element)));
    }
    match word {
        "string" => Kind::String,
        "bool" => Kind::Bool,
        "int32" => Kind::Int32,
        "int64" => Kind::Int64,
        "float64" => Kind::Float64,
        "bytes" => Kind::Bytes,
        name => Kind::Named(named(schema, home, name)),
    }
}

/// A kind that lives as long as the table. The common ones are shared; the others are few, since
/// the fields of a type are read once.
fn interned(kind: Kind) -> &'static Kind {
    match kind {
        Kind::String => &Kind::String,
        Kind::Bytes => &Kind::Bytes,
        Kind::Int32 => &Kind::Int32,
        other => Box::leak(Box::new(other)),
    }
}

/// Reads the fields of a type, with those of embedded structs.
pub(super) fn layout(schema: &'static Schema, entry: &'static Type) -> Layout {
    let mut fields = Vec::new();
    let mut declared = Vec::new();
    for line in entry.body.lines() {
        let newer = line.starts_with('+');
        let mut words = line[1..].split(' ');
        let mut word = || words.next().expect("name, number and kind of a field");
        let (json, number, kind_word) = (word(), word(), word());
        let number: u32 = number.parse().expect("the number of a field");
        let bare = kind_word.trim_start_matches('*');
        let kind = kind(schema, entry.package, bare);
        if json == "." {
            let Kind::Named(embedded) = kind else {
                panic!("an embedded {kind_word} in the type table")
            };
            let inner = schema.get(embedded);
            fields.extend(inner.layout().fields.iter().map(|field| Field {
                embedded: true,
                newer: field.newer || newer,
                ..field.clone()
            }));
            if number != 0 {
                declared.push((number, Declared::Embedded(embedded)));
            }
            continue;
        }
        let mut field = Field {
            json,
            number,
            kind,
            pointer: bare.len() < kind_word.len(),
            omit: Omit::Empty,
            required: false,
            list: None,
            atomic: false,
            granular: false,
            patch_strategy: &[],
            patch_merge_key: None,
            default: None,
            newer,
            embedded: false,
            resolved: schema.resolve(kind),
        };
        for flag in words {
            match flag.split_once('=').unwrap_or((flag, "")) {
                ("keep", _) => (field.omit, field.required) = (Omit::Never, true),
                ("zero", _) => field.omit = Omit::Zero,
                ("required", _) => field.required = true,
                ("optional", _) => field.required = false,
                ("set", _) => field.list = Some(ListType::Set),
                ("atomic", _) => field.list = Some(ListType::Atomic),
                ("struct", kind) => {
                    field.atomic = kind == "atomic";
                    field.granular = kind == "granular";
                }
                ("map", keys) => field.list = Some(ListType::Map(split(keys))),
                ("patch", strategies) => field.patch_strategy = split(strategies),
                ("key", key) => field.patch_merge_key = Some(key),
                ("default", json) => field.default = Some(json),
                _ => panic!("no such flag in the type table: {flag}"),
            }
        }
        fields.push(field);
    }
    fields.sort_by(|a, b| (a.newer, a.json).cmp(&(b.newer, b.json)));
    for (at, field) in fields.iter().enumerate() {
        if field.number != 0 && !field.embedded {
            let at = u16::try_from(at).expect("fewer than 65536 fields");
            declared.push((field.number, Declared::Field(at)));
        }
    }
    declared.sort_by_key(|(number, _)| *number);
    let mut kept = Vec::new();
    for (at, field) in fields.iter().enumerate() {
        if field.kept() {
            kept.push(u16::try_from(at).expect("fewer than 65536 fields"));
        }
    }
    Layout {
        kept,
        served: fields.iter().filter(|field| !field.newer).count(),
        fields,
        declared,
    }
}

fn split(words: &'static str) -> &'static [&'static str] {
    words.split(',').collect::<Vec<_>>().leak()
}
