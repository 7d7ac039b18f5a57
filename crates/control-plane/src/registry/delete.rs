//! Delete: preconditions, grace periods, finalizers and what becomes of dependents.
//!
//! The rules are those of apiserver's `registry/rest/delete.go` and of the generic store.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use super::admit::{self, Operation};
use super::meta::{self, finalizers, metadata_mut, rfc3339, set_finalizers, text};
use super::write::{Target, unavailable, unstored};
use super::{Context, DeleteOptions, Deleted, ListOptions, Preconditions, Propagation, Registry};
use crate::resource::{ResourceDef, attributes_of};
use crate::status::ApiError;
use crate::store::{CommitError, Draft, Expected, Object};

/// The finalizer that holds an object until its dependents are gone.
pub const FOREGROUND: &str = "foregroundDeletion";
/// The finalizer that holds an object until its dependents are orphans.
pub const ORPHAN: &str = "orphan";

/// What a delete does to the object it meets.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    /// Nothing: it is on its way already.
    Nothing,
    /// The object is marked and stays.
    Mark(Value),
    /// The object goes; its last state.
    Remove(Value),
}

impl Registry {
    pub(super) async fn delete_object(
        &self,
        context: &Context,
        def: &'static ResourceDef,
        namespace: &str,
        name: &str,
        options: &DeleteOptions,
    ) -> Result<Deleted, ApiError> {
        let served = def;
        let def = def.storage();
        let key = def.key(namespace, name);
        let target = Target {
            def,
            namespace,
            name,
            subresource: "",
        };
        loop {
            let Some(existing) = self.store.get(&key) else {
                return Err(ApiError::not_found(served.group, served.plural, name));
            };
            let old = existing.value();
            let mut admitted = old.clone();
            admit::mutate(
                self,
                context,
                &target,
                Operation::Delete,
                &mut admitted,
                Some(&old),
            )
            .await?;
            check_preconditions(def, &old, &options.preconditions)?;
            let now = Timestamp::now();
            let step = if def.kind == "Namespace" {
                namespace_step(&old, now)
            } else {
                object_step(def, &old, options, now)
            };
            let committed = match step {
                Step::Nothing => return Ok(Deleted::Marked(existing)),
                Step::Mark(object) if context.dry_run => {
                    let object = unstored(&key, existing.revision, &object);
                    return Ok(Deleted::Marked(object));
                }
                Step::Remove(object) if context.dry_run => {
                    let object = unstored(&key, existing.revision, &object);
                    return Ok(Deleted::Gone(object));
                }
                Step::Mark(object) => {
                    let draft = Draft::new(&object, attributes_of(&key, &object));
                    self.store
                        .put(&key, Expected::Revision(existing.revision), draft)
                        .await
                        .map(Deleted::Marked)
                }
                Step::Remove(object) => {
                    let draft = Draft::new(&object, attributes_of(&key, &object));
                    self.store
                        .delete(&key, existing.revision, draft)
                        .await
                        .map(Deleted::Gone)
                }
            };
            match committed {
                Ok(deleted) => return Ok(deleted),
                Err(CommitError::Conflict { .. }) => {}
                Err(other) => return Err(unavailable(&other)),
            }
        }
    }

    pub(super) async fn delete_objects(
        &self,
        context: &Context,
        def: &'static ResourceDef,
        namespace: &str,
        list: &ListOptions,
        options: &DeleteOptions,
    ) -> Result<Vec<Arc<Object>>, ApiError> {
        let listed = self.list(def, namespace, list)?;
        let mut deleted = Vec::with_capacity(listed.objects.len());
        for object in listed.objects {
            let outcome = self
                .delete_object(context, def, object.namespace(), object.name(), options)
                .await;
            match outcome {
                Ok(_) => deleted.push(object),
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(deleted)
    }
}

fn check_preconditions(
    def: &ResourceDef,
    object: &Value,
    preconditions: &Preconditions,
) -> Result<(), ApiError> {
    let name = text(object, "name");
    let uid = text(object, "uid");
    let version = text(object, "resourceVersion");
    if let Some(wanted) = preconditions.uid.as_deref().filter(|wanted| *wanted != uid) {
        return Err(ApiError::conflict(
            def.group,
            def.kind,
            name,
            format!(
                "the UID in the precondition ({wanted}) does not match the UID in record ({uid}). The object might have been deleted and then recreated"
            ),
        ));
    }
    if let Some(wanted) = preconditions
        .resource_version
        .as_deref()
        .filter(|wanted| *wanted != version)
    {
        return Err(ApiError::conflict(
            def.group,
            def.kind,
            name,
            format!(
                "the ResourceVersion in the precondition ({wanted}) does not match the ResourceVersion in record ({version}). The object might have been modified"
            ),
        ));
    }
    Ok(())
}

/// A namespace goes in two steps: it is marked, its content is deleted by a controller, and only
/// when `spec.finalizers` is empty it can go.
fn namespace_step(old: &Value, now: Timestamp) -> Step {
    let mut object = old.clone();
    if !meta::is_terminating(old) {
        metadata_mut(&mut object).insert("deletionTimestamp".to_owned(), rfc3339(now).into());
        object["status"]["phase"] = "Terminating".into();
        return Step::Mark(object);
    }
    let held = |list: &Value| list.as_array().is_some_and(|list| !list.is_empty());
    if held(&old["spec"]["finalizers"]) || held(&old["metadata"]["finalizers"]) {
        Step::Nothing
    } else {
        Step::Remove(object)
    }
}

/// The seconds that a kind with a graceful end gets; `None` for kinds without one.
fn grace_period(def: &ResourceDef, object: &Value, options: &DeleteOptions) -> Option<i64> {
    if def.kind != "Pod" || !def.group.is_empty() {
        return None;
    }
    let bound = object["spec"]["nodeName"]
        .as_str()
        .is_some_and(|node| !node.is_empty());
    let phase = object["status"]["phase"].as_str();
    if !bound || matches!(phase, Some("Succeeded" | "Failed")) {
        return Some(0);
    }
    let own = object["spec"]["terminationGracePeriodSeconds"].as_i64();
    let seconds = options.grace_period_seconds.or(own).unwrap_or(0);
    Some(if seconds < 0 { 1 } else { seconds })
}

fn object_step(def: &ResourceDef, old: &Value, options: &DeleteOptions, now: Timestamp) -> Step {
    let mut object = old.clone();
    let grace = grace_period(def, old, options);
    let given = old["metadata"]["deletionGracePeriodSeconds"].as_i64();
    // Without a graceful end, or with one that was never given a period, the object goes at once.
    let graceful = match (grace, given) {
        (Some(grace), Some(given)) if meta::is_terminating(old) => {
            // Once deletion began, a user may only shorten it.
            if options.grace_period_seconds.is_none() || grace >= given {
                if given > 0 || !finalizers(old).is_empty() {
                    return Step::Nothing;
                }
                return Step::Remove(object);
            }
            shorten(&mut object, given, grace);
            true
        }
        (Some(_), None) if meta::is_terminating(old) => false,
        (Some(grace), _) => {
            mark_graceful(&mut object, grace, now);
            true
        }
        (None, _) => false,
    };
    let wish = options
        .propagation
        .or_else(|| default_propagation(def, old));
    set_finalizers(&mut object, propagate(finalizers(old), wish));
    let held = !finalizers(&object).is_empty();
    if !graceful {
        if !held {
            return Step::Remove(object);
        }
        mark_ungraceful(&mut object, now);
    } else if !held && grace == Some(0) {
        return Step::Remove(object);
    }
    if object == *old {
        Step::Nothing
    } else {
        Step::Mark(object)
    }
}

fn mark_graceful(object: &mut Value, seconds: i64, now: Timestamp) {
    let end = now
        .checked_add(SignedDuration::from_secs(seconds))
        .unwrap_or(Timestamp::MAX);
    let metadata = metadata_mut(object);
    metadata.insert("deletionTimestamp".to_owned(), rfc3339(end).into());
    metadata.insert("deletionGracePeriodSeconds".to_owned(), seconds.into());
    meta::raise_generation(object);
}

/// Moves the end of a grace period of `given` seconds to where one of `grace` would have ended.
fn shorten(object: &mut Value, given: i64, grace: i64) {
    let earlier = text(object, "deletionTimestamp")
        .parse::<Timestamp>()
        .ok()
        .and_then(|end| {
            end.checked_sub(SignedDuration::from_secs(given - grace))
                .ok()
        });
    let metadata = metadata_mut(object);
    if let Some(earlier) = earlier {
        metadata.insert("deletionTimestamp".to_owned(), rfc3339(earlier).into());
    }
    metadata.insert("deletionGracePeriodSeconds".to_owned(), grace.into());
}

/// Marks an object of a kind without a graceful end, which finalizers hold.
fn mark_ungraceful(object: &mut Value, now: Timestamp) {
    if object["metadata"]["deletionGracePeriodSeconds"].is_null() {
        meta::raise_generation(object);
    }
    let later = text(object, "deletionTimestamp")
        .parse::<Timestamp>()
        .is_ok_and(|end| end > now);
    let metadata = metadata_mut(object);
    if later || !metadata.contains_key("deletionTimestamp") {
        metadata.insert("deletionTimestamp".to_owned(), rfc3339(now).into());
    }
    metadata.insert("deletionGracePeriodSeconds".to_owned(), 0.into());
}

/// What becomes of dependents where nobody says it: the oldest kinds let them live on.
fn default_propagation(def: &ResourceDef, object: &Value) -> Option<Propagation> {
    let said = finalizers(object)
        .iter()
        .any(|finalizer| finalizer == FOREGROUND || finalizer == ORPHAN);
    let old = matches!(
        (def.group, def.kind),
        ("batch", "Job") | ("", "ReplicationController")
    );
    (old && !said).then_some(Propagation::Orphan)
}

/// The finalizers after the wish for the dependents is known.
fn propagate(mut finalizers: Vec<String>, propagation: Option<Propagation>) -> Vec<String> {
    let Some(propagation) = propagation else {
        return finalizers;
    };
    finalizers.retain(|finalizer| finalizer != FOREGROUND && finalizer != ORPHAN);
    match propagation {
        Propagation::Background => {}
        Propagation::Foreground => finalizers.push(FOREGROUND.to_owned()),
        Propagation::Orphan => finalizers.push(ORPHAN.to_owned()),
    }
    finalizers
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resource::stored;
    use serde_json::json;

    fn now() -> Timestamp {
        "2026-01-01T00:00:00Z".parse().expect("a timestamp")
    }

    fn pod(metadata: Value, phase: &str) -> Value {
        json!({"metadata": metadata, "status": {"phase": phase},
               "spec": {"nodeName": "n", "terminationGracePeriodSeconds": 30}})
    }

    fn grace(seconds: i64) -> DeleteOptions {
        DeleteOptions {
            grace_period_seconds: Some(seconds),
            ..DeleteOptions::default()
        }
    }

    fn step(resource: &str, object: &Value, options: &DeleteOptions) -> Step {
        object_step(stored("", resource), object, options, now())
    }

    #[test]
    fn a_running_pod_gets_its_grace_period() {
        let Step::Mark(marked) = step(
            "pods",
            &pod(json!({"name": "p", "generation": 1}), "Running"),
            &DeleteOptions::default(),
        ) else {
            panic!("the pod should be marked");
        };
        assert_eq!(
            marked["metadata"],
            json!({"name": "p", "generation": 2, "deletionGracePeriodSeconds": 30,
                   "deletionTimestamp": "2026-01-01T00:00:30Z"})
        );
        // A second delete changes nothing, and a shorter one shortens.
        assert_eq!(
            step("pods", &marked, &DeleteOptions::default()),
            Step::Nothing
        );
        assert_eq!(step("pods", &marked, &grace(60)), Step::Nothing);
        let Step::Mark(shorter) = step("pods", &marked, &grace(5)) else {
            panic!("the pod should be marked again");
        };
        assert_eq!(
            shorter["metadata"]["deletionTimestamp"],
            "2026-01-01T00:00:05Z"
        );
        assert!(matches!(step("pods", &marked, &grace(0)), Step::Remove(_)));
    }

    #[test]
    fn an_ended_or_unbound_pod_goes_at_once() {
        let ended = pod(json!({"name": "p"}), "Succeeded");
        assert!(matches!(step("pods", &ended, &grace(30)), Step::Remove(_)));
        let unbound =
            json!({"metadata": {"name": "p"}, "spec": {}, "status": {"phase": "Pending"}});
        assert!(matches!(
            step("pods", &unbound, &grace(30)),
            Step::Remove(_)
        ));
    }

    #[test]
    fn finalizers_hold_an_object() {
        let object = json!({"metadata": {"name": "c", "finalizers": ["example.com/hold"]}});
        let Step::Mark(marked) = step("configmaps", &object, &DeleteOptions::default()) else {
            panic!("the object should be marked");
        };
        assert_eq!(marked["metadata"]["deletionGracePeriodSeconds"], 0);
        assert_eq!(
            step("configmaps", &marked, &DeleteOptions::default()),
            Step::Nothing
        );
    }

    #[test]
    fn the_wish_for_dependents_becomes_a_finalizer() {
        let object = json!({"metadata": {"name": "c"}});
        for (wish, finalizer) in [
            (Propagation::Foreground, FOREGROUND),
            (Propagation::Orphan, ORPHAN),
        ] {
            let options = DeleteOptions {
                propagation: Some(wish),
                ..DeleteOptions::default()
            };
            let Step::Mark(marked) = step("configmaps", &object, &options) else {
                panic!("the object should be marked");
            };
            assert_eq!(marked["metadata"]["finalizers"], json!([finalizer]));
        }
    }
}
