//! Who asks, and whether they may.
//!
//! [`authn`] turns a client certificate or a bearer token into a [`User`]; [`authz`] asks the Node
//! authorizer and then the stored RBAC objects whether that user may do what [`Attributes`] say.
//! Nothing in here knows HTTP: the REST layer fills in the attributes and words the answer with
//! [`forbidden`].

pub mod authn;
pub mod authz;
pub mod csr;
pub mod escalation;
pub mod files;
pub mod follow;
pub mod graph;
pub mod node;
pub mod pki;
pub mod rbac;
pub mod request;
pub mod review;
pub mod rules;
pub mod tls;
pub mod tokens;

use std::collections::BTreeMap;

use crate::status::ApiError;

/// Every user that was authenticated is in this group.
pub const GROUP_AUTHENTICATED: &str = "system:authenticated";
/// Requests without credentials are in this group.
pub const GROUP_UNAUTHENTICATED: &str = "system:unauthenticated";
/// Members may do everything.
pub const GROUP_MASTERS: &str = "system:masters";
/// Members are nodes; their names start with [`NODE_USER_PREFIX`].
pub const GROUP_NODES: &str = "system:nodes";
/// The name of the user without credentials.
pub const USER_ANONYMOUS: &str = "system:anonymous";
/// What stands before a node's name in its user name.
pub const NODE_USER_PREFIX: &str = "system:node:";
/// What stands before `NAMESPACE:NAME` in the user name of a service account.
pub const SERVICE_ACCOUNT_USER_PREFIX: &str = "system:serviceaccount:";
/// All service accounts are in this group.
pub const GROUP_SERVICE_ACCOUNTS: &str = "system:serviceaccounts";

/// Who made a request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct User {
    /// For example `kubernetes-admin`, `system:node:n1`, `system:serviceaccount:default:builder`.
    pub name: String,
    /// The UID of a service account; empty for others.
    pub uid: String,
    /// All groups, the `system:authenticated` that authentication adds included.
    pub groups: Vec<String>,
    /// More facts, such as the pod that a token is bound to.
    pub extra: BTreeMap<String, Vec<String>>,
}

impl User {
    /// The user of a request that carries no credentials.
    pub fn anonymous() -> Self {
        Self {
            name: USER_ANONYMOUS.to_owned(),
            groups: vec![GROUP_UNAUTHENTICATED.to_owned()],
            ..Self::default()
        }
    }

    /// A part of this control plane, for example `system:kube-scheduler`; it may do everything.
    pub fn system(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            groups: vec![GROUP_MASTERS.to_owned(), GROUP_AUTHENTICATED.to_owned()],
            ..Self::default()
        }
    }

    /// Whether the user is in `group`.
    pub fn in_group(&self, group: &str) -> bool {
        self.groups.iter().any(|other| other == group)
    }

    /// The name of the node whose identity this is, if it is one: the name starts with
    /// `system:node:` and the user is in `system:nodes`.
    pub fn node_name(&self) -> Option<&str> {
        self.name
            .strip_prefix(NODE_USER_PREFIX)
            .filter(|node| !node.is_empty() && self.in_group(GROUP_NODES))
    }
}

/// What a request wants to do. With an empty `resource` it is about the path `path`.
#[derive(Debug, Clone, Copy)]
pub struct Attributes<'a> {
    /// Who asks.
    pub user: &'a User,
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`, or a
    /// special verb; for paths the HTTP method in lower case.
    pub verb: &'a str,
    /// The API group; empty for the core group.
    pub group: &'a str,
    /// The version in the path.
    pub version: &'a str,
    /// The plural resource; empty for a path.
    pub resource: &'a str,
    /// For example `status`, `log`; empty for none.
    pub subresource: &'a str,
    /// Empty for cluster-scoped resources and for requests over all namespaces.
    pub namespace: &'a str,
    /// Empty where no single object is meant. For a list or watch with the field selector
    /// `metadata.name=X` it is `X`, as it is for the real server.
    pub name: &'a str,
    /// The path of a non-resource request, for example `/healthz`.
    pub path: &'a str,
    /// The requirements `key=value` of the field selector (not those with `!=`).
    pub fields: &'a [(String, String)],
}

impl<'a> Attributes<'a> {
    /// A request about a path that is no resource.
    pub fn of_path(user: &'a User, verb: &'a str, path: &'a str) -> Self {
        Self {
            user,
            verb,
            group: "",
            version: "",
            resource: "",
            subresource: "",
            namespace: "",
            name: "",
            path,
            fields: &[],
        }
    }

    /// A request about a resource, without name and namespace.
    pub fn of_resource(user: &'a User, verb: &'a str, group: &'a str, resource: &'a str) -> Self {
        Self {
            group,
            resource,
            ..Self::of_path(user, verb, "")
        }
    }

    /// `pods`, or `pods/log`.
    pub fn combined_resource(&self) -> String {
        if self.subresource.is_empty() {
            self.resource.to_owned()
        } else {
            format!("{}/{}", self.resource, self.subresource)
        }
    }
}

/// The answer of an authorizer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// It may be done.
    Allow {
        /// Why, for `SubjectAccessReview`; may be empty.
        reason: String,
    },
    /// Nothing allows it.
    Deny {
        /// Why, for people; may be empty.
        reason: String,
    },
}

impl Decision {
    /// Whether it may be done.
    pub fn is_allowed(&self) -> bool {
        matches!(self, Self::Allow { .. })
    }
}

/// A time as it stands in objects: RFC 3339, whole seconds, UTC.
pub(crate) fn rfc3339(time: jiff::Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// The 403 that the REST layer answers a denied request with, worded as the real server does.
pub fn forbidden(attributes: &Attributes<'_>, reason: &str) -> ApiError {
    let user = &attributes.user.name;
    let verb = attributes.verb;
    let mut why = if attributes.resource.is_empty() {
        format!("User \"{user}\" cannot {verb} path \"{}\"", attributes.path)
    } else {
        let scope = if attributes.namespace.is_empty() {
            "at the cluster scope".to_owned()
        } else {
            format!("in the namespace \"{}\"", attributes.namespace)
        };
        format!(
            "User \"{user}\" cannot {verb} resource \"{}\" in API group \"{}\" {scope}",
            attributes.combined_resource(),
            attributes.group,
        )
    };
    if !reason.is_empty() {
        why.push_str(": ");
        why.push_str(reason);
    }
    if attributes.resource.is_empty() {
        let mut error = ApiError::forbidden("", "", "", "");
        error.message = format!("forbidden: {why}");
        error
    } else {
        ApiError::forbidden(attributes.group, attributes.resource, attributes.name, why)
    }
}

#[cfg(test)]
mod tests;
