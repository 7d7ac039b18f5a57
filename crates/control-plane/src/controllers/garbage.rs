//! The garbage collector: dependents go after their owners, before them, or stay, as the delete
//! of the owner asked for.
//!
//! Rules are those of the real one (kubernetes/kubernetes, pkg/controller/garbagecollector). Since
//! the store is in this process, an owner that is not found there does not exist; nothing has to
//! be asked twice.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use serde_json::{Value, json};

use super::feed::{Feed, News};
use super::meta::{FOREGROUND, Meta, ORPHAN, OwnerReference, mentions};
use super::queue::Queue;
use crate::registry::{Context, DeleteOptions, Preconditions, Propagation, Registry};
use crate::resource::{split_api_version, table};
use crate::status::ApiError;
use crate::store::{Object, Store};

type Key = Arc<str>;

/// How many objects are worked on at once.
const AT_ONCE: usize = 32;

/// What has become of an owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Owner {
    /// It is there, or nobody can tell: its kind is unknown, or it would have to be in another
    /// namespace.
    Solid,
    /// It is not there, or another one has its name.
    Absent,
    /// It goes once its dependents are gone.
    Waiting,
}

/// What is to be done with an object because of its owners.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Keep,
    /// References to owners that are absent or waiting go.
    DropReferences,
    Delete(Propagation),
}

/// Decides over an object with these owners.
fn judge(owners: &[Owner], object: &Meta, has_dependents: bool) -> Verdict {
    if owners.is_empty() || owners.iter().all(|owner| *owner == Owner::Solid) {
        return Verdict::Keep;
    }
    if owners.contains(&Owner::Solid) {
        return Verdict::DropReferences;
    }
    if owners.contains(&Owner::Waiting) && has_dependents {
        return Verdict::Delete(Propagation::Foreground);
    }
    Verdict::Delete(if object.has_finalizer(ORPHAN) {
        Propagation::Orphan
    } else if object.has_finalizer(FOREGROUND) {
        Propagation::Foreground
    } else {
        Propagation::Background
    })
}

/// What is to be done, without anything that must be read once more.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    Delete {
        uid: String,
        /// What was looked at: whoever gives the object a new owner meanwhile saves it.
        revision: u64,
        propagation: Propagation,
        /// The object waits for its dependents and one of them for it: it lets go first.
        unblock: bool,
    },
    DropReferences(Vec<String>),
    Orphan {
        uid: String,
        dependents: Vec<Key>,
    },
    Release,
}

/// Who depends on whom.
#[derive(Debug, Default)]
struct Graph {
    /// By the owner's UID.
    dependents: HashMap<String, BTreeSet<Key>>,
    /// The owners of each dependent.
    owners: HashMap<Key, Vec<String>>,
}

impl Graph {
    fn put(&mut self, key: &Key, meta: &Meta) {
        self.remove(key);
        if meta.owners().is_empty() {
            return;
        }
        let uids: Vec<String> = meta
            .owners()
            .iter()
            .map(|owner| owner.uid.clone())
            .collect();
        for uid in &uids {
            self.dependents
                .entry(uid.clone())
                .or_default()
                .insert(key.clone());
        }
        self.owners.insert(key.clone(), uids);
    }

    fn remove(&mut self, key: &Key) {
        for uid in self.owners.remove(key).unwrap_or_default() {
            if let Some(keys) = self.dependents.get_mut(&uid) {
                keys.remove(key);
                if keys.is_empty() {
                    self.dependents.remove(&uid);
                }
            }
        }
    }

    fn dependents(&self, uid: &str) -> impl Iterator<Item = &Key> {
        self.dependents.get(uid).into_iter().flatten()
    }
}

/// The key of an owner; `None` where its kind is unknown or it is out of reach of the dependent.
fn owner_key(owner: &OwnerReference, dependent: &Object) -> Option<String> {
    let (group, version) = split_api_version(&owner.api_version);
    let def = table().by_kind(group, version, &owner.kind)?;
    let namespace = if def.namespaced {
        Some(dependent.namespace()).filter(|namespace| !namespace.is_empty())?
    } else {
        ""
    };
    Some(def.key(namespace, &owner.name))
}

fn owner_state(store: &Store, owner: &OwnerReference, dependent: &Object) -> Owner {
    let Some(key) = owner_key(owner, dependent) else {
        return Owner::Solid;
    };
    let Some(object) = store.get(&key) else {
        return Owner::Absent;
    };
    let meta = Meta::of(&object);
    if meta.uid != owner.uid {
        Owner::Absent
    } else if meta.waits_for_dependents() {
        Owner::Waiting
    } else {
        Owner::Solid
    }
}

/// The collector's memory: the graph, and the keys to look at.
struct Collector {
    store: Store,
    graph: Graph,
    queue: Queue<Key>,
}

impl Collector {
    fn learn(&mut self, news: &News) {
        match news {
            News::All(objects) => {
                self.graph = Graph::default();
                for object in objects {
                    self.learn_put(object, None);
                }
            }
            News::Put(event) => self.learn_put(&event.object, event.previous.as_deref()),
            News::Deleted(event) => {
                let meta = Meta::of(&event.object);
                self.graph.remove(&event.object.key);
                for key in self.graph.dependents(&meta.uid) {
                    self.queue.add(key.clone());
                }
                self.recheck_owners(&meta, &event.object);
            }
        }
    }

    fn learn_put(&mut self, object: &Arc<Object>, previous: Option<&Object>) {
        let had_owners = self.graph.owners.contains_key(&object.key);
        let has_owners = mentions(object, "\"ownerReferences\"");
        let goes = mentions(object, "\"deletionTimestamp\"");
        if !had_owners && !has_owners && !goes {
            return;
        }
        let meta = Meta::of(object);
        let owners_changed = previous.is_none_or(|previous| {
            previous.json.len() != object.json.len() || Meta::of(previous) != meta
        });
        self.graph.put(&object.key, &meta);
        if owners_changed && (!meta.owners().is_empty() || meta.is_terminating()) {
            self.queue.add(object.key.clone());
        }
        if had_owners && let Some(previous) = previous {
            self.recheck_owners(&Meta::of(previous), previous);
        }
    }

    /// Owners that wait for their dependents may now go.
    fn recheck_owners(&mut self, dependent: &Meta, object: &Object) {
        for owner in dependent.owners() {
            let waiting = owner_key(owner, object)
                .and_then(|key| self.store.get(&key))
                .filter(|owner| Meta::of(owner).waits_for_dependents());
            if let Some(owner) = waiting {
                self.queue.add(owner.key.clone());
            }
        }
    }

    /// What is to be done with an object as things are.
    fn plan(&mut self, key: &Key) -> Option<Step> {
        let object = self.store.get(key)?;
        let meta = Meta::of(&object);
        if meta.is_terminating() {
            return self.plan_terminating(&meta);
        }
        let states: Vec<(Owner, &OwnerReference)> = meta
            .owners()
            .iter()
            .map(|owner| (owner_state(&self.store, owner, &object), owner))
            .collect();
        let dependents: Vec<Key> = self.graph.dependents(&meta.uid).cloned().collect();
        let owners: Vec<Owner> = states.iter().map(|(state, _)| *state).collect();
        match judge(&owners, &meta, !dependents.is_empty()) {
            Verdict::Keep => None,
            Verdict::DropReferences => Some(Step::DropReferences(
                states
                    .iter()
                    .filter(|(state, _)| *state != Owner::Solid)
                    .map(|(_, owner)| owner.uid.clone())
                    .collect(),
            )),
            Verdict::Delete(propagation) => {
                let unblock = propagation == Propagation::Foreground
                    && dependents.iter().any(|key| {
                        self.store
                            .get(key)
                            .is_some_and(|dependent| Meta::of(&dependent).waits_for_dependents())
                    });
                Some(Step::Delete {
                    uid: meta.uid,
                    revision: object.revision,
                    propagation,
                    unblock,
                })
            }
        }
    }

    fn plan_terminating(&mut self, meta: &Meta) -> Option<Step> {
        let dependents: Vec<Key> = self.graph.dependents(&meta.uid).cloned().collect();
        if meta.has_finalizer(ORPHAN) {
            return Some(Step::Orphan {
                uid: meta.uid.clone(),
                dependents,
            });
        }
        if !meta.has_finalizer(FOREGROUND) {
            return None;
        }
        let mut blocked = false;
        for key in dependents {
            let Some(dependent) = self.store.get(&key) else {
                continue;
            };
            blocked |= Meta::of(&dependent)
                .owners()
                .iter()
                .any(|owner| owner.uid == meta.uid && owner.block_owner_deletion == Some(true));
            self.queue.add(key);
        }
        (!blocked).then_some(Step::Release)
    }
}

/// Collects until the store is closed.
pub async fn run(registry: Registry) {
    let mut feed = Feed::new(registry.store(), "");
    let mut collector = Collector {
        store: registry.store().clone(),
        graph: Graph::default(),
        queue: Queue::default(),
    };
    let mut work = FuturesUnordered::new();
    loop {
        // All arms are cancel-safe: feed, queue and futures lose nothing when another is taken.
        // News go first, so that plans are made with what is known.
        tokio::select! {
            biased;
            news = feed.next() => {
                let Some(news) = news else { return };
                collector.learn(&news);
            }
            Some((key, outcome)) = work.next(), if !work.is_empty() => {
                let key: Key = key;
                let outcome: Result<(), ApiError> = outcome;
                match outcome {
                    Ok(()) => collector.queue.succeeded(&key),
                    // It is not what was looked at any more: look again.
                    Err(error) if error.is_conflict() => collector.queue.retry(key),
                    Err(error) => {
                        tracing::warn!(%key, %error, "cannot collect the object");
                        collector.queue.retry(key);
                    }
                }
            }
            key = collector.queue.next(), if work.len() < AT_ONCE => {
                if let Some(step) = collector.plan(&key) {
                    let registry = &registry;
                    work.push(async move {
                        let outcome = execute(registry, &key, step).await;
                        (key, outcome)
                    });
                }
            }
        }
    }
}

fn unless_gone<T>(outcome: Result<T, ApiError>) -> Result<(), ApiError> {
    match outcome {
        Err(error) if error.is_not_found() => Ok(()),
        Err(error) => Err(error),
        Ok(_) => Ok(()),
    }
}

async fn execute(registry: &Registry, key: &Key, step: Step) -> Result<(), ApiError> {
    let context = Context::system("system:generic-garbage-collector");
    match step {
        Step::Delete {
            uid,
            mut revision,
            propagation,
            unblock,
        } => {
            if unblock {
                let edited = edit(registry, &context, key, |metadata| {
                    each_owner(metadata, |owner| {
                        owner["blockOwnerDeletion"] = json!(false);
                        true
                    });
                });
                match edited.await? {
                    Some(edited) => revision = edited,
                    None => return Ok(()),
                }
            }
            let Some((def, namespace, name)) = parts(key) else {
                return Ok(());
            };
            let options = DeleteOptions {
                preconditions: Preconditions {
                    uid: Some(uid),
                    resource_version: Some(revision.to_string()),
                },
                propagation: Some(propagation),
                ..DeleteOptions::default()
            };
            tracing::debug!(%key, ?propagation, "collecting the object");
            unless_gone(
                registry
                    .delete(&context, def, namespace, name, &options)
                    .await,
            )
        }
        Step::DropReferences(uids) => drop_references(registry, &context, key, &uids).await,
        Step::Orphan { uid, dependents } => {
            for dependent in &dependents {
                drop_references(registry, &context, dependent, std::slice::from_ref(&uid)).await?;
            }
            release(registry, &context, key, ORPHAN).await
        }
        Step::Release => release(registry, &context, key, FOREGROUND).await,
    }
}

fn parts(key: &str) -> Option<(&'static crate::resource::ResourceDef, &str, &str)> {
    let def = table().by_key(key)?;
    let mut words = key.splitn(3, '/').skip(1);
    Some((def, words.next()?, words.next()?))
}

/// Changes an object's metadata and tells its revision; none where it is gone.
async fn edit(
    registry: &Registry,
    context: &Context,
    key: &str,
    change: impl Fn(&mut Value) + Send + Sync,
) -> Result<Option<u64>, ApiError> {
    let Some((def, namespace, name)) = parts(key) else {
        return Ok(None);
    };
    let outcome = registry
        .modify(context, def, namespace, name, "", |object| {
            change(&mut object["metadata"]);
            Ok(())
        })
        .await;
    match outcome {
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
        Ok(object) => Ok(Some(object.revision)),
    }
}

/// Keeps the owner references for which `keep` holds; it may change them.
fn each_owner(metadata: &mut Value, mut keep: impl FnMut(&mut Value) -> bool) {
    let Some(fields) = metadata.as_object_mut() else {
        return;
    };
    if let Some(owners) = fields
        .get_mut("ownerReferences")
        .and_then(Value::as_array_mut)
    {
        owners.retain_mut(&mut keep);
        if owners.is_empty() {
            fields.remove("ownerReferences");
        }
    }
}

async fn drop_references(
    registry: &Registry,
    context: &Context,
    key: &str,
    uids: &[String],
) -> Result<(), ApiError> {
    edit(registry, context, key, |metadata| {
        each_owner(metadata, |owner| {
            !uids.iter().any(|uid| owner["uid"] == uid.as_str())
        });
    })
    .await
    .map(drop)
}

async fn release(
    registry: &Registry,
    context: &Context,
    key: &str,
    finalizer: &str,
) -> Result<(), ApiError> {
    edit(registry, context, key, |metadata| {
        if let Some(finalizers) = metadata.get_mut("finalizers").and_then(Value::as_array_mut) {
            finalizers.retain(|other| other != finalizer);
        }
    })
    .await
    .map(drop)
}

#[cfg(test)]
mod tests;
