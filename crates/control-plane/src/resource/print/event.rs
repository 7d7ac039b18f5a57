//! Events, as they are stored: core/v1.

use jiff::Timestamp;
use serde_json::Value;

use super::format::{UNKNOWN, name, number, since, text, text_or};
use super::{Column, Columns, NAME, string, wide};

pub(in crate::resource) static EVENTS: Columns = Columns {
    definitions: &[
        string("Last Seen", "The time since the event was last seen"),
        string("Type", "Normal or Warning"),
        string("Reason", "The event in one word"),
        string("Object", "What the event is about"),
        wide(
            "Subobject",
            "The part of the object that the event is about",
        ),
        wide("Source", "Who reports the event, and from where"),
        string("Message", "The event in a sentence"),
        wide("First Seen", "The time since the event was first seen"),
        wide("Count", "How often it was seen"),
        Column {
            priority: 1,
            ..NAME
        },
    ],
    cells,
};

fn cells(event: &Value, now: Timestamp) -> Vec<Value> {
    let mut first = since(&event["firstTimestamp"], now);
    if first == UNKNOWN {
        first = since(&event["eventTime"], now);
    }
    let mut last = since(&event["lastTimestamp"], now);
    if last == UNKNOWN {
        last.clone_from(&first);
    }
    let mut seen = number(&event["count"]).max(1);
    if event["series"].is_object() {
        last = since(&event["series"]["lastObservedTime"], now);
        seen = number(&event["series"]["count"]);
    }
    let about = &event["involvedObject"];
    let kind = text(&about["kind"]).to_lowercase();
    let object = match text(&about["name"]) {
        "" => kind,
        name => format!("{kind}/{name}"),
    };
    let component = text_or(
        &event["source"]["component"],
        text(&event["reportingComponent"]),
    );
    let host = text_or(&event["source"]["host"], text(&event["reportingInstance"]));
    let source = if host.is_empty() {
        component.to_owned()
    } else {
        format!("{component}, {host}")
    };
    vec![
        last.into(),
        text(&event["type"]).into(),
        text(&event["reason"]).into(),
        object.into(),
        text(&about["fieldPath"]).into(),
        source.into(),
        text(&event["message"]).trim().into(),
        first.into(),
        seen.into(),
        name(event),
    ]
}
