use super::*;

fn by_name(name: &str) -> &'static Type {
    let id = schema().type_by_name(name).expect(name);
    schema().get(id)
}

#[test]
fn every_line_of_the_table_can_be_read() {
    let mut fields = 0;
    for entry in schema().types() {
        let layout = entry.layout();
        fields += layout.fields.len();
        for pair in layout.declared.windows(2) {
            assert!(pair[0].0 < pair[1].0, "{} repeats a number", entry.name());
        }
        for pair in entry.fields().windows(2) {
            assert!(
                pair[0].json < pair[1].json,
                "{} repeats a name",
                entry.name()
            );
        }
        for field in &layout.fields {
            if let Some(default) = field.default {
                serde_json::from_str::<serde_json::Value>(default).expect(default);
            }
        }
    }
    assert!(schema().types().len() > 1000 && fields > 5000);
}

#[test]
fn pods_are_known_with_their_facts() {
    let id = schema().type_of("", "v1", "Pod").expect("Pod");
    let pod = schema().get(id);
    assert_eq!(pod.full_name(), "io.k8s.api.core.v1.Pod");
    assert_eq!(pod.go_name(), "v1.Pod");
    assert_eq!(pod.field("status").map(|field| field.number), Some(3));

    let spec = by_name("io.k8s.api.core.v1.PodSpec");
    let containers = spec.field("containers").expect("containers");
    assert!(containers.required);
    assert_eq!(containers.patch_strategy, ["merge"]);
    assert_eq!(containers.patch_merge_key, Some("name"));
    assert_eq!(schema().list_type(containers), ListType::Map(&["name"]));
    let volumes = spec.field("volumes").expect("volumes");
    assert_eq!(volumes.patch_strategy, ["merge", "retainKeys"]);

    let ports = by_name("io.k8s.api.core.v1.ContainerPort");
    assert_eq!(
        ports.field("protocol").and_then(|field| field.default),
        Some("\"TCP\"")
    );

    let volume = by_name("io.k8s.api.core.v1.Volume");
    assert!(volume.field("emptyDir").is_some_and(|field| field.embedded));

    let policy = by_name("io.k8s.api.core.v1.PullPolicy");
    assert_eq!(policy.alias(), Some(Kind::String));
    assert_eq!(policy.enumeration(), ["Always", "IfNotPresent", "Never"]);
    assert!(by_name("io.k8s.apimachinery.pkg.apis.meta.v1.LabelSelector").atomic());
}

#[test]
fn options_are_known_in_every_group() {
    let core = schema().type_of("", "v1", "DeleteOptions");
    assert!(core.is_some());
    assert_eq!(core, schema().type_of("apps", "v1", "DeleteOptions"));
    assert_eq!(schema().type_of("apps", "v1", "Nonsense"), None);
}

#[test]
fn later_fields_are_not_served() {
    let newer: usize = schema()
        .types()
        .iter()
        .map(|entry| entry.layout().fields.len() - entry.fields().len())
        .sum();
    assert!(newer > 0);
    let later = schema()
        .type_by_name("io.k8s.api.lifecycle.v1alpha1.Eviction")
        .map(|id| schema().get(id).newer());
    assert_ne!(later, Some(false));
}
