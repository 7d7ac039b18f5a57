//! A claim without a storage class gets the default one.

use serde_json::{Value, json};

use super::{Lookup, text};

const DEFAULT_CLASS: &str = "storageclass.kubernetes.io/is-default-class";

/// Names the default class in a claim that names none; an empty name means none and stays.
/// Of several defaults the newest is taken, then the first by name.
pub(super) fn set_default_class(lookup: &dyn Lookup, claim: &mut Value) {
    let named = claim
        .pointer("/spec/storageClassName")
        .is_some_and(|name| !name.is_null());
    if named {
        return;
    }
    let class = lookup
        .objects("storageclasses.storage.k8s.io/")
        .into_iter()
        .filter(|class| {
            class
                .pointer("/metadata/annotations")
                .is_some_and(|annotations| annotations[DEFAULT_CLASS] == "true")
        })
        .max_by(|a, b| {
            let created = |class| text(class, "/metadata/creationTimestamp");
            let name = |class| text(class, "/metadata/name");
            created(a).cmp(created(b)).then(name(b).cmp(name(a)))
        });
    if let Some(class) = class
        && let Some(spec) = claim.get_mut("spec").and_then(Value::as_object_mut)
    {
        spec.insert(
            "storageClassName".to_owned(),
            json!(text(&class, "/metadata/name")),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::Objects;
    use super::*;

    #[test]
    fn the_newest_default_class_is_taken_and_an_explicit_choice_stays() {
        let class = |name: &str, created: &str| json!({"metadata": {"name": name, "creationTimestamp": created, "annotations": {DEFAULT_CLASS: "true"}}});
        let objects = Objects::of(&[
            (
                "storageclasses.storage.k8s.io//a",
                class("a", "2026-01-01T00:00:00Z"),
            ),
            (
                "storageclasses.storage.k8s.io//b",
                class("b", "2026-01-02T00:00:00Z"),
            ),
            (
                "storageclasses.storage.k8s.io//c",
                class("c", "2026-01-02T00:00:00Z"),
            ),
            (
                "storageclasses.storage.k8s.io//d",
                json!({"metadata": {"name": "d"}}),
            ),
        ]);
        let mut claim = json!({"spec": {}});
        set_default_class(&objects, &mut claim);
        assert_eq!(claim["spec"]["storageClassName"], "b");
        let mut none = json!({"spec": {"storageClassName": ""}});
        set_default_class(&objects, &mut none);
        assert_eq!(none["spec"]["storageClassName"], "");
    }
}
