//! Tables: what `kubectl get` shows of a kind.
//!
//! Headings, their order and the wording of cells are those of the real server's printers, since
//! people and scripts read them.

pub(super) mod config;
pub(super) mod event;
mod format;
pub(super) mod network;
pub(super) mod node;
pub(super) mod pod;
pub(super) mod storage;
pub(super) mod workload;

use jiff::Timestamp;
use serde_json::Value;

pub use format::human_duration;

/// One column of a Table.
#[derive(Debug, Clone, Copy)]
pub struct Column {
    /// The heading as the server names it; kubectl turns it into capitals.
    pub name: &'static str,
    /// The OpenAPI type of the cells: `string`, `integer`, `boolean`, `date`.
    pub kind: &'static str,
    /// The OpenAPI format; `name` for the column that names the object.
    pub format: &'static str,
    /// What the column means.
    pub description: &'static str,
    /// 0 for columns that are always shown, 1 for those of `-o wide`.
    pub priority: u8,
}

/// The columns of a kind, and how an object fills them.
#[derive(Debug)]
pub struct Columns {
    /// The columns.
    pub definitions: &'static [Column],
    /// One cell for each column, from the stored form of an object.
    pub cells: fn(object: &Value, now: Timestamp) -> Vec<Value>,
}

const fn string(name: &'static str, description: &'static str) -> Column {
    Column {
        name,
        kind: "string",
        format: "",
        description,
        priority: 0,
    }
}

const fn integer(name: &'static str, description: &'static str) -> Column {
    Column {
        kind: "integer",
        ..string(name, description)
    }
}

const fn boolean(name: &'static str, description: &'static str) -> Column {
    Column {
        kind: "boolean",
        ..string(name, description)
    }
}

/// A column of `-o wide`.
const fn wide(name: &'static str, description: &'static str) -> Column {
    Column {
        priority: 1,
        ..string(name, description)
    }
}

const NAME: Column = Column {
    format: "name",
    ..string("Name", "The name of the object, unique in its namespace")
};

const AGE: Column = string("Age", "The time since the object was created");

const CREATED: Column = Column {
    kind: "date",
    ..string("Created At", "When the object was created")
};

/// Kinds without columns of their own.
pub(super) static NAME_AND_AGE: Columns = Columns {
    definitions: &[NAME, AGE],
    cells: |object, now| vec![format::name(object), format::age(object, now)],
};

/// Kinds that show when they were created.
pub(super) static NAME_AND_CREATED: Columns = Columns {
    definitions: &[NAME, CREATED],
    cells: |object, _now| {
        vec![
            format::name(object),
            object["metadata"]["creationTimestamp"].clone(),
        ]
    },
};
