//! Admission: what a write must satisfy beyond its form, and what the cluster adds to it.
//!
//! The registry calls [`Admission::admit`] after defaulting and before validation, and
//! [`Admission::admit_delete`] before a delete. The plugins are those that the real server has on
//! by default and whose objects something here acts on; they run in its order. All of them read
//! the store alone, so a decision never waits.

mod certificates;
mod lifecycle;
mod node_restriction;
mod pods;
mod service_account;
mod storage;

use serde_json::Value;

use crate::auth::User;
use crate::auth::authz::Authorizer;
use crate::auth::escalation;
use crate::auth::rbac;
use crate::status::ApiError;
use crate::store::Store;

/// The kinds of writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// A new object, or a create on a sub-resource (`pods/eviction`, `serviceaccounts/token`).
    Create,
    /// A new version of an object, by update or patch.
    Update,
}

/// What is written, by whom.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// Who asks.
    pub user: &'a User,
    /// What for.
    pub operation: Operation,
    /// The API group; empty for the core group.
    pub group: &'a str,
    /// The plural resource.
    pub resource: &'a str,
    /// The sub-resource; empty for none.
    pub subresource: &'a str,
    /// The namespace; empty for cluster-scoped resources.
    pub namespace: &'a str,
    /// The name; empty where the server is to make one.
    pub name: &'a str,
}

impl Request<'_> {
    fn is(&self, group: &str, resource: &str) -> bool {
        self.group == group && self.resource == resource
    }

    /// A 403 of a plugin. An object without a name goes by its `generateName`.
    fn refuse(&self, object: &Value, why: impl std::fmt::Display) -> ApiError {
        let name = if self.name.is_empty() {
            let metadata = |key: &str| object.get("metadata")?.get(key)?.as_str();
            metadata("name")
                .filter(|name| !name.is_empty())
                .or_else(|| metadata("generateName"))
                .unwrap_or_default()
        } else {
            self.name
        };
        ApiError::forbidden(self.group, self.resource, name, why)
    }
}

/// What the plugins look up.
trait Lookup {
    /// The object under a key of the store, for example `pods/default/p`.
    fn object(&self, key: &str) -> Option<Value>;
    /// The objects under a prefix, for example `priorityclasses.scheduling.k8s.io/`.
    fn objects(&self, prefix: &str) -> Vec<Value>;
}

impl Lookup for Store {
    fn object(&self, key: &str) -> Option<Value> {
        self.get(key).map(|object| object.value())
    }

    fn objects(&self, prefix: &str) -> Vec<Value> {
        self.list(prefix)
            .objects
            .iter()
            .map(|object| object.value())
            .collect()
    }
}

/// All plugins.
#[derive(Debug, Clone)]
pub struct Admission {
    store: Store,
    authorizer: Authorizer,
}

impl Admission {
    /// Plugins over the objects in `store`.
    pub fn new(store: Store, authorizer: Authorizer) -> Self {
        Self { store, authorizer }
    }

    /// The authorizer whose decisions the plugins ask for.
    pub fn authorizer(&self) -> &Authorizer {
        &self.authorizer
    }

    /// Admits a create or an update, and adds to `object` what the cluster adds. `old` is the
    /// present version for an update.
    ///
    /// # Errors
    /// 403 where a plugin refuses, 404 where the namespace is missing.
    pub fn admit(
        &self,
        request: &Request<'_>,
        object: &mut Value,
        old: Option<&Value>,
    ) -> Result<(), ApiError> {
        let lookup: &dyn Lookup = &self.store;
        lifecycle::admit(lookup, request, object)?;
        let is_pod = request.is("", "pods") && request.subresource.is_empty();
        let creates = request.operation == Operation::Create;
        if is_pod && creates {
            let suffix = pods::random_suffix();
            service_account::admit(lookup, request, object, &suffix)?;
        }
        node_restriction::admit(lookup, request, object, old)?;
        if is_pod {
            pods::set_priority(lookup, request, object, old)?;
            pods::add_default_tolerations(object);
            if creates {
                pods::check_runtime_class(lookup, request, object)?;
            }
        }
        match (request.group, request.resource, request.subresource) {
            ("", "nodes", "") if creates => pods::taint_new_node(object),
            ("", "persistentvolumeclaims", "") if creates => {
                storage::set_default_class(lookup, object);
            }
            ("scheduling.k8s.io", "priorityclasses", "") => {
                pods::check_priority_class(lookup, request, object)?;
            }
            ("certificates.k8s.io", "certificatesigningrequests", _) => {
                certificates::admit(&self.authorizer, request, object, old)?;
            }
            (rbac::GROUP, ..) => self.check_escalation(request, object)?,
            _ => {}
        }
        Ok(())
    }

    /// Admits a delete of `old`.
    ///
    /// # Errors
    /// 403 where a plugin refuses.
    pub fn admit_delete(
        &self,
        user: &User,
        group: &str,
        resource: &str,
        namespace: &str,
        name: &str,
        old: &Value,
    ) -> Result<(), ApiError> {
        lifecycle::admit_delete(group, resource, name)?;
        node_restriction::admit_delete(user, group, resource, namespace, name, old)
    }

    fn check_escalation(&self, request: &Request<'_>, object: &Value) -> Result<(), ApiError> {
        let Request {
            user,
            resource,
            namespace,
            ..
        } = *request;
        let name = if request.name.is_empty() {
            object
                .pointer("/metadata/name")
                .and_then(Value::as_str)
                .unwrap_or_default()
        } else {
            request.name
        };
        match resource {
            "roles" | "clusterroles" => {
                escalation::check_role(&self.authorizer, user, resource, namespace, name, object)
            }
            "rolebindings" | "clusterrolebindings" => {
                escalation::check_binding(&self.authorizer, user, resource, namespace, name, object)
            }
            _ => Ok(()),
        }
    }
}

fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value
        .pointer(pointer)
        .and_then(Value::as_str)
        .unwrap_or_default()
}

/// The list at `key` of the object at `pointer`, made where it is missing or null; `None` where
/// there is no such object or something else stands there.
fn list_at<'a>(value: &'a mut Value, pointer: &str, key: &str) -> Option<&'a mut Vec<Value>> {
    let slot = value
        .pointer_mut(pointer)?
        .as_object_mut()?
        .entry(key)
        .or_insert(Value::Null);
    if slot.is_null() {
        *slot = Value::Array(Vec::new());
    }
    slot.as_array_mut()
}

#[cfg(test)]
mod testing {
    use std::collections::BTreeMap;

    use serde_json::Value;

    use super::{Lookup, Operation, Request};
    use crate::auth::User;

    /// Objects by their key.
    #[derive(Default)]
    pub(super) struct Objects(pub(super) BTreeMap<String, Value>);

    impl Objects {
        pub(super) fn of(objects: &[(&str, Value)]) -> Self {
            Self(
                objects
                    .iter()
                    .map(|(key, value)| ((*key).to_owned(), value.clone()))
                    .collect(),
            )
        }
    }

    impl Lookup for Objects {
        fn object(&self, key: &str) -> Option<Value> {
            self.0.get(key).cloned()
        }

        fn objects(&self, prefix: &str) -> Vec<Value> {
            self.0
                .iter()
                .filter(|(key, _)| key.starts_with(prefix))
                .map(|(_, value)| value.clone())
                .collect()
        }
    }

    pub(super) fn create<'a>(user: &'a User, resource: &'a str, name: &'a str) -> Request<'a> {
        let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        let namespaced = !matches!(resource, "nodes" | "namespaces" | "priorityclasses");
        Request {
            user,
            operation: Operation::Create,
            group: "",
            resource,
            subresource,
            namespace: if namespaced { "default" } else { "" },
            name,
        }
    }
}
