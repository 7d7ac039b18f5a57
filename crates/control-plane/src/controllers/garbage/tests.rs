use proptest::prelude::*;

use super::super::testing::{eventually, registry};
use super::*;
use crate::resource::{ResourceDef, stored};

fn with_finalizers(finalizers: &[&str]) -> Meta {
    Meta {
        finalizers: Some(finalizers.iter().map(|one| (*one).to_owned()).collect()),
        ..Meta::default()
    }
}

#[test]
fn an_object_goes_when_all_its_owners_went_and_in_the_way_it_asks_for() {
    use Owner::{Absent, Solid, Waiting};
    let plain = Meta::default();
    assert_eq!(judge(&[], &plain, true), Verdict::Keep);
    assert_eq!(judge(&[Solid], &plain, true), Verdict::Keep);
    assert_eq!(
        judge(&[Solid, Absent], &plain, true),
        Verdict::DropReferences
    );
    assert_eq!(
        judge(&[Solid, Waiting], &plain, true),
        Verdict::DropReferences
    );
    assert_eq!(
        judge(&[Absent], &plain, true),
        Verdict::Delete(Propagation::Background)
    );
    assert_eq!(
        judge(&[Absent, Waiting], &plain, true),
        Verdict::Delete(Propagation::Foreground)
    );
    assert_eq!(
        judge(&[Waiting], &plain, false),
        Verdict::Delete(Propagation::Background)
    );
    assert_eq!(
        judge(&[Absent], &with_finalizers(&[ORPHAN]), false),
        Verdict::Delete(Propagation::Orphan)
    );
    assert_eq!(
        judge(&[Absent], &with_finalizers(&[FOREGROUND]), false),
        Verdict::Delete(Propagation::Foreground)
    );
}

proptest! {
    /// An object with an owner that is there is never deleted, and one without owners never touched.
    #[test]
    fn a_living_owner_protects(
        owners in proptest::collection::vec(
            proptest::sample::select(&[Owner::Solid, Owner::Absent, Owner::Waiting][..]), 0..5),
        has_dependents in any::<bool>(),
        finalizers in proptest::sample::subsequence(&[ORPHAN, FOREGROUND, "other"][..], 0..3),
    ) {
        let verdict = judge(&owners, &with_finalizers(&finalizers), has_dependents);
        let deletes = matches!(verdict, Verdict::Delete(_));
        prop_assert_eq!(deletes, !owners.is_empty() && !owners.contains(&Owner::Solid));
    }

    /// After any history the graph knows exactly the references of the objects that are there.
    #[test]
    fn the_graph_forgets_nothing_and_keeps_nothing(
        steps in proptest::collection::vec((0..5_u8, any::<bool>(), proptest::collection::btree_set(0..4_u8, 0..3)), 0..30),
    ) {
        let mut graph = Graph::default();
        let mut present: HashMap<u8, BTreeSet<u8>> = HashMap::new();
        for (name, gone, owners) in steps {
            let key: Key = format!("configmaps/a/{name}").into();
            if gone {
                graph.remove(&key);
                present.remove(&name);
            } else {
                let references = owners.iter().map(|uid| OwnerReference { uid: uid.to_string(), ..OwnerReference::default() }).collect();
                graph.put(&key, &Meta { owner_references: Some(references), ..Meta::default() });
                present.insert(name, owners);
            }
        }
        for uid in 0..4_u8 {
            let known: BTreeSet<String> = graph.dependents(&uid.to_string()).map(|key| key.to_string()).collect();
            let expected: BTreeSet<String> = present
                .iter()
                .filter(|(_, owners)| owners.contains(&uid))
                .map(|(name, _)| format!("configmaps/a/{name}"))
                .collect();
            prop_assert_eq!(known, expected);
        }
    }
}

struct World {
    _dir: tempfile::TempDir,
    registry: Registry,
    task: tokio::task::JoinHandle<()>,
}

fn maps() -> &'static ResourceDef {
    stored("", "configmaps")
}

impl World {
    async fn start() -> Self {
        let (dir, registry) = registry();
        let context = Context::system("test");
        for namespace in ["a", "b"] {
            let object =
                json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}});
            registry
                .create(&context, stored("", "namespaces"), "", object)
                .await
                .unwrap();
        }
        let task = tokio::spawn(run(registry.clone()));
        Self {
            _dir: dir,
            registry,
            task,
        }
    }

    /// Creates a ConfigMap; owners are `(name, uid, blocks)`.
    async fn create(&self, name: &str, owners: &[(&str, &str, bool)]) -> String {
        let owners: Vec<Value> = owners
            .iter()
            .map(|(name, uid, blocks)| {
                json!({"apiVersion": "v1", "kind": "ConfigMap", "name": name, "uid": uid, "blockOwnerDeletion": blocks})
            })
            .collect();
        let object = json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": name, "namespace": "a", "ownerReferences": owners},
        });
        let created = self
            .registry
            .create(&Context::system("test"), maps(), "a", object)
            .await
            .unwrap();
        Meta::of(&created).uid
    }

    async fn delete(&self, name: &str, propagation: Propagation) {
        let options = DeleteOptions {
            propagation: Some(propagation),
            ..DeleteOptions::default()
        };
        self.registry
            .delete(&Context::system("test"), maps(), "a", name, &options)
            .await
            .unwrap();
    }

    fn there(&self, name: &str) -> Option<Meta> {
        self.registry
            .get(maps(), "a", name)
            .ok()
            .map(|object| Meta::of(&object))
    }

    async fn gone(&self, name: &str) {
        eventually(&self.registry, || self.there(name).is_none().then_some(())).await;
    }

    async fn end(self) {
        self.registry.store().close().await;
        self.task.await.unwrap();
    }
}

#[tokio::test]
async fn dependents_go_after_their_owner_down_to_the_last() {
    let world = World::start().await;
    let top = world.create("top", &[]).await;
    let middle = world.create("middle", &[("top", &top, true)]).await;
    world.create("leaf", &[("middle", &middle, true)]).await;
    world.delete("top", Propagation::Background).await;
    world.gone("leaf").await;
    world.gone("middle").await;
    world.end().await;
}

#[tokio::test]
async fn an_owner_in_the_foreground_waits_for_those_that_block_it() {
    let world = World::start().await;
    let top = world.create("top", &[]).await;
    let middle = world.create("middle", &[("top", &top, true)]).await;
    world.create("leaf", &[("middle", &middle, true)]).await;
    let (_, mut watcher) = world.registry.store().watch_from_now("configmaps/");
    world.delete("top", Propagation::Foreground).await;
    world.gone("top").await;
    let mut order = Vec::new();
    while let Ok(Some(event)) = watcher.try_next() {
        if event.kind == crate::store::EventKind::Delete {
            order.push(event.object.name().to_owned());
        }
    }
    assert_eq!(order, ["leaf", "middle", "top"]);
    world.end().await;
}

#[tokio::test]
async fn orphans_stay_without_the_reference() {
    let world = World::start().await;
    let top = world.create("top", &[]).await;
    world.create("leaf", &[("top", &top, true)]).await;
    world.delete("top", Propagation::Orphan).await;
    world.gone("top").await;
    assert_eq!(world.there("leaf").unwrap().owners(), []);
    world.end().await;
}

#[tokio::test]
async fn one_owner_of_two_is_enough() {
    let world = World::start().await;
    let first = world.create("first", &[]).await;
    let second = world.create("second", &[]).await;
    world
        .create(
            "leaf",
            &[("first", &first, false), ("second", &second, false)],
        )
        .await;
    world.delete("first", Propagation::Background).await;
    eventually(&world.registry, || {
        let owners = world.there("leaf").expect("it stays").owners().len();
        (owners == 1).then_some(())
    })
    .await;
    world.delete("second", Propagation::Background).await;
    world.gone("leaf").await;
    world.end().await;
}

#[tokio::test]
async fn an_owner_that_never_was_or_has_another_uid_is_absent_and_an_unknown_kind_is_not() {
    let world = World::start().await;
    world.create("other", &[]).await;
    world
        .create("stale", &[("other", "another-uid", false)])
        .await;
    world.create("lost", &[("never", "u", false)]).await;
    let unknown = json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "unknown", "namespace": "a", "ownerReferences": [
            {"apiVersion": "example.com/v1", "kind": "Widget", "name": "w", "uid": "u"},
        ]},
    });
    world
        .registry
        .create(&Context::system("test"), maps(), "a", unknown)
        .await
        .unwrap();
    world.gone("stale").await;
    world.gone("lost").await;
    assert!(world.there("unknown").is_some());
    world.end().await;
}

#[tokio::test]
async fn a_circle_in_the_foreground_comes_apart() {
    let world = World::start().await;
    let first = world.create("first", &[]).await;
    let second = world.create("second", &[("first", &first, true)]).await;
    world
        .registry
        .modify(&Context::system("test"), maps(), "a", "first", "", |object| {
            object["metadata"]["ownerReferences"] = json!([
                {"apiVersion": "v1", "kind": "ConfigMap", "name": "second", "uid": second, "blockOwnerDeletion": true},
            ]);
            Ok(())
        })
        .await
        .unwrap();
    world.delete("first", Propagation::Foreground).await;
    world.gone("first").await;
    world.gone("second").await;
    world.end().await;
}

/// What a killed control plane left undone is done by the next one.
#[tokio::test]
async fn a_start_finishes_what_was_begun() {
    let world = World::start().await;
    world.task.abort();
    let top = world.create("top", &[]).await;
    world.create("leaf", &[("top", &top, true)]).await;
    let kept = world.create("kept", &[]).await;
    world.create("child", &[("kept", &kept, true)]).await;
    world.delete("top", Propagation::Background).await;
    world.delete("kept", Propagation::Foreground).await;
    assert!(world.there("leaf").is_some() && world.there("kept").is_some());
    let task = tokio::spawn(run(world.registry.clone()));
    world.gone("leaf").await;
    world.gone("kept").await;
    world.gone("child").await;
    world.registry.store().close().await;
    task.await.unwrap();
}
