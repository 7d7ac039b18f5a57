use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::patch::testing::any_json;
use crate::status::ApiError;

fn pod() -> TypeId {
    schema().type_of("", "v1", "Pod").expect("pods are known")
}

fn patched(document: Value, patch: Value) -> Value {
    strategic(&document, &patch, pod()).unwrap_or_else(|error| panic!("{patch}: {error}"))
}

fn refused(document: Value, patch: Value) -> PatchError {
    strategic(&document, &patch, pod()).expect_err("a wrong patch")
}

#[test]
fn items_merge_by_their_key_and_new_ones_follow() {
    let document = json!({"spec": {"containers": [
        {"name": "a", "image": "one", "ports": [{"containerPort": 80, "name": "web"}]},
        {"name": "b", "image": "two"},
    ]}});
    assert_eq!(
        patched(
            document,
            json!({"spec": {"containers": [
                {"name": "b", "image": "three"},
                {"name": "c", "image": "four"},
                {"name": "a", "ports": [{"containerPort": 80, "protocol": "TCP"}, {"containerPort": 81}]},
            ]}})
        ),
        json!({"spec": {"containers": [
            {"name": "b", "image": "three"},
            {"name": "c", "image": "four"},
            {"name": "a", "image": "one", "ports": [
                {"containerPort": 80, "name": "web", "protocol": "TCP"}, {"containerPort": 81}]},
        ]}})
    );
}

#[test]
fn items_that_the_patch_does_not_name_keep_their_place() {
    let document = json!({"spec": {"containers": [{"name": "a"}, {"name": "b"}, {"name": "c"}]}});
    assert_eq!(
        patched(
            document,
            json!({"spec": {"containers": [{"name": "c", "image": "x"}]}})
        ),
        json!({"spec": {"containers": [{"name": "a"}, {"name": "b"}, {"name": "c", "image": "x"}]}})
    );
}

#[test]
fn set_element_order_puts_merged_items_in_order() {
    let document = json!({"spec": {"containers": [{"name": "a"}, {"name": "b"}, {"name": "c"}]}});
    assert_eq!(
        patched(
            document,
            json!({"spec": {
                "$setElementOrder/containers": [{"name": "c"}, {"name": "d"}, {"name": "a"}],
                "containers": [{"name": "d", "image": "x"}],
            }})
        ),
        json!({"spec": {"containers": [
            {"name": "b"}, {"name": "c"}, {"name": "d", "image": "x"}, {"name": "a"}]}})
    );
}

#[test]
fn kubectl_deletes_an_item_by_directive() {
    let document = json!({"spec": {"containers": [{"name": "a"}, {"name": "b"}]}});
    assert_eq!(
        patched(
            document,
            json!({"spec": {
                "$setElementOrder/containers": [{"name": "a"}],
                "containers": [{"$patch": "delete", "name": "b"}],
            }})
        ),
        json!({"spec": {"containers": [{"name": "a"}]}})
    );
}

#[test]
fn a_list_is_replaced_by_directive_and_a_plain_one_always() {
    let document = json!({"spec": {
        "containers": [{"name": "a"}, {"name": "b"}],
        "tolerations": [{"key": "x"}],
    }});
    assert_eq!(
        patched(
            document,
            json!({"spec": {
                "containers": [{"$patch": "replace"}, {"name": "z"}],
                "tolerations": [{"key": "y"}],
            }})
        ),
        json!({"spec": {"containers": [{"name": "z"}], "tolerations": [{"key": "y"}]}})
    );
}

#[test]
fn maps_are_replaced_and_deleted_by_directive() {
    let document = json!({"metadata": {"labels": {"a": "1", "b": "2"}, "annotations": {"c": "3"}}});
    assert_eq!(
        patched(
            document,
            json!({"metadata": {
                "labels": {"$patch": "replace", "z": "9"},
                "annotations": {"$patch": "delete"},
            }})
        ),
        json!({"metadata": {"labels": {"z": "9"}, "annotations": {}}})
    );
}

#[test]
fn retain_keys_clears_the_other_sources_of_a_volume() {
    let document = json!({"spec": {"volumes": [{"name": "v", "emptyDir": {}}]}});
    assert_eq!(
        patched(
            document,
            json!({"spec": {"volumes": [
                {"name": "v", "configMap": {"name": "c"}, "$retainKeys": ["name", "configMap"]}]}})
        ),
        json!({"spec": {"volumes": [{"name": "v", "configMap": {"name": "c"}}]}})
    );
}

#[test]
fn finalizers_merge_as_a_set_and_leave_by_directive() {
    let document = json!({"metadata": {"finalizers": ["x.io/a", "x.io/b"]}});
    let merged = patched(
        document,
        json!({"metadata": {"finalizers": ["x.io/z", "x.io/a"]}}),
    );
    assert_eq!(
        merged,
        json!({"metadata": {"finalizers": ["x.io/z", "x.io/a", "x.io/b"]}})
    );
    assert_eq!(
        patched(
            merged,
            json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["x.io/a"]}})
        ),
        json!({"metadata": {"finalizers": ["x.io/z", "x.io/b"]}})
    );
}

#[test]
fn nulls_remove_members_and_are_not_stored() {
    assert_eq!(
        patched(
            json!({"metadata": {"labels": {"a": "1", "b": "2"}}}),
            json!({"metadata": {"labels": {"a": null}, "annotations": {"c": null, "d": "4"}}})
        ),
        json!({"metadata": {"labels": {"b": "2"}, "annotations": {"d": "4"}}})
    );
}

#[test]
fn wrong_patches_are_refused_in_the_words_of_the_server() {
    let document = json!({"spec": {"containers": [{"name": "a"}]}});
    for (patch, code, words) in [
        (
            json!({"spec": {"containers": [{"image": "x"}]}}),
            500,
            "map: map[image:x] does not contain declared merge key: name",
        ),
        (
            json!({"$patch": "foo"}),
            500,
            "unknown patch type: foo in map: map[$patch:foo]",
        ),
        (
            json!({"$retainKeys": ["data"], "metadata": {}}),
            400,
            "invalid patch format of retainKeys",
        ),
        (
            json!({"spec": {"containers": [{"name": "a", "$patch": "merge"}]}}),
            500,
            "merging lists cannot yet be specified in the patch",
        ),
        (
            json!({"spec": {
                "$setElementOrder/containers": [{"name": "b"}],
                "containers": [{"name": "a"}],
            }}),
            500,
            "The order in patch list:\n[map[name:a]]\n doesn't match $setElementOrder list:\n[map[name:b]]\n",
        ),
        (
            json!({"spec": {"containers": ["a"]}}),
            500,
            "list element types are not identical: [[map[name:a]] [a]]",
        ),
    ] {
        let error = ApiError::from(refused(document.clone(), patch.clone()));
        assert_eq!(error.message, words, "{patch}");
        assert_eq!(error.code.as_u16(), code, "{patch}");
    }
}

proptest! {
    #[test]
    fn an_empty_patch_is_the_identity(document in any_json()) {
        let document = json!({"metadata": {"labels": {"a": "b"}}, "spec": document});
        prop_assert_eq!(patched(document.clone(), json!({})), document);
    }

    #[test]
    fn any_patch_ends_in_an_answer(document in any_json(), patch in any_json()) {
        let _ = strategic(&json!({"spec": document}), &json!({"spec": patch}), pod());
    }

    #[test]
    fn merging_containers_twice_is_merging_them_once(
        live in prop::collection::vec("[a-e]", 0..5),
        patch in prop::collection::vec("[a-e]", 0..5),
    ) {
        let containers = |names: &[String], image: &str| {
            let mut seen: Vec<&String> = Vec::new();
            for name in names {
                if !seen.contains(&name) {
                    seen.push(name);
                }
            }
            seen.iter().map(|name| json!({"name": name, "image": image})).collect::<Vec<_>>()
        };
        let document = json!({"spec": {"containers": containers(&live, "old")}});
        let patch = json!({"spec": {"containers": containers(&patch, "new")}});
        let once = patched(document, patch.clone());
        prop_assert_eq!(patched(once.clone(), patch), once);
    }
}
