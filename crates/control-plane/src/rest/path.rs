//! What a path names: a resource, or one of the few other things that are served.

use percent_encoding::percent_decode_str;

use super::usage::{self, UsagePath};
use crate::resource::{ResourceDef, table};

/// What a path names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// A resource, in a namespace or over all, a collection or one object or its sub-resource.
    Resource(ResourcePath),
    /// `/api`.
    CoreVersions,
    /// `/apis`.
    Groups,
    /// `/apis/GROUP`.
    Group(String),
    /// `/api/v1` (with an empty group), `/apis/GROUP/VERSION`.
    GroupVersion(String, String),
    /// `/openapi/v2`.
    OpenApiV2,
    /// `/openapi/v3`.
    OpenApiIndex,
    /// `/openapi/v3/PATH`, for example `api/v1`.
    OpenApi(String),
    /// `/version`.
    Version,
    /// `/healthz`, `/livez`, `/readyz`, and one check of them.
    Health(String),
    /// `/metrics`.
    Metrics,
    /// `/apis/metrics.k8s.io/v1beta1/…`.
    Usage(UsagePath),
    /// `/.well-known/openid-configuration`.
    OpenIdConfiguration,
    /// `/openid/v1/jwks`.
    KeySet,
    /// `/`: the paths that are served.
    Root,
    /// Nothing that is served.
    Nothing,
}

/// A path of a resource.
#[derive(Debug, Clone)]
pub struct ResourcePath {
    /// The row of the table.
    pub def: &'static ResourceDef,
    /// Empty for cluster-scoped resources, and for all namespaces.
    pub namespace: String,
    /// Empty for the collection.
    pub name: String,
    /// Empty for the object itself.
    pub subresource: String,
    /// What follows the sub-resource (`proxy` takes a path of its own).
    pub rest: String,
}

impl PartialEq for ResourcePath {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self.def, other.def)
            && (&self.namespace, &self.name, &self.subresource, &self.rest)
                == (
                    &other.namespace,
                    &other.name,
                    &other.subresource,
                    &other.rest,
                )
    }
}

impl Eq for ResourcePath {}

/// Reads a path, as it stands in the request line (percent-encoded).
pub fn parse(path: &str) -> Target {
    let Some(parts) = split(path) else {
        return Target::Nothing;
    };
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    match parts.as_slice() {
        [] => Target::Root,
        ["api"] => Target::CoreVersions,
        ["apis"] => Target::Groups,
        ["api", version] => Target::GroupVersion(String::new(), (*version).to_owned()),
        ["apis", group] => Target::Group((*group).to_owned()),
        ["apis", group, version] => {
            Target::GroupVersion((*group).to_owned(), (*version).to_owned())
        }
        ["api", version, rest @ ..] => resource("", version, rest),
        ["apis", usage::GROUP, usage::VERSION, rest @ ..] => {
            UsagePath::parse(rest).map_or(Target::Nothing, Target::Usage)
        }
        ["apis", group, version, rest @ ..] => resource(group, version, rest),
        ["openapi", "v2"] => Target::OpenApiV2,
        ["openapi", "v3"] => Target::OpenApiIndex,
        ["openapi", "v3", rest @ ..] => Target::OpenApi(rest.join("/")),
        ["version"] => Target::Version,
        ["healthz" | "livez" | "readyz"] => Target::Health(String::new()),
        ["healthz" | "livez" | "readyz", check] => Target::Health((*check).to_owned()),
        ["metrics"] => Target::Metrics,
        [".well-known", "openid-configuration"] => Target::OpenIdConfiguration,
        ["openid", "v1", "jwks"] => Target::KeySet,
        _ => Target::Nothing,
    }
}

/// The segments of the decoded path; none where it is not UTF-8. An encoded slash separates segments like any
/// other, as in the real server: no name ever holds one.
fn split(path: &str) -> Option<Vec<String>> {
    let path = percent_decode_str(path).decode_utf8().ok()?;
    let parts = path.split('/').filter(|part| !part.is_empty());
    Some(parts.map(str::to_owned).collect())
}

fn resource(group: &str, version: &str, parts: &[&str]) -> Target {
    let find = |plural: &str| table().by_plural(group, version, plural);
    // `namespaces/NAME/status` is about the namespace, `namespaces/NAME/pods` about pods in it.
    if let ["namespaces", namespace, plural, rest @ ..] = parts
        && let Some(def) = find(plural).filter(|def| def.namespaced)
    {
        return located(def, namespace, rest);
    }
    match parts {
        [plural, rest @ ..] => match find(plural) {
            // Over all namespaces only the collection can be named.
            Some(def) if def.namespaced && !rest.is_empty() => Target::Nothing,
            Some(def) => located(def, "", rest),
            None => Target::Nothing,
        },
        [] => Target::Nothing,
    }
}

fn located(def: &'static ResourceDef, namespace: &str, rest: &[&str]) -> Target {
    let (name, subresource, rest) = match rest {
        [] => ("", "", String::new()),
        [name] => (*name, "", String::new()),
        [name, subresource, rest @ ..] => (*name, *subresource, rest.join("/")),
    };
    let known = subresource.is_empty() || def.subresource(subresource).is_some();
    if !known || (!rest.is_empty() && subresource != "proxy") {
        return Target::Nothing;
    }
    Target::Resource(ResourcePath {
        def,
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        subresource: subresource.to_owned(),
        rest,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(path: &str) -> Option<(String, String, String, String)> {
        match parse(path) {
            Target::Resource(found) => Some((
                found.def.plural.to_owned(),
                found.namespace,
                found.name,
                found.subresource,
            )),
            _ => None,
        }
    }

    fn words(a: &str, b: &str, c: &str, d: &str) -> Option<(String, String, String, String)> {
        Some((a.to_owned(), b.to_owned(), c.to_owned(), d.to_owned()))
    }

    #[test]
    fn resources_are_found_in_and_over_namespaces() {
        assert_eq!(named("/api/v1/pods"), words("pods", "", "", ""));
        assert_eq!(
            named("/api/v1/namespaces/n/pods/p/log"),
            words("pods", "n", "p", "log")
        );
        assert_eq!(
            named("/apis/apps/v1/namespaces/n/deployments/d/"),
            words("deployments", "n", "d", "")
        );
        assert_eq!(named("/api/v1/nodes/a%2Eb"), words("nodes", "", "a.b", ""));
        // A slash that is hidden by encoding is one all the same.
        assert_eq!(
            named("/api/v1/namespaces/n%2Fpods%2fp"),
            words("pods", "n", "p", "")
        );
        assert_eq!(named("/api/v1/nodes/a%2Fb"), None);
        assert_eq!(
            named("/api/v1/namespaces/n"),
            words("namespaces", "", "n", "")
        );
        assert_eq!(
            named("/api/v1/namespaces/n/finalize"),
            words("namespaces", "", "n", "finalize")
        );
        assert_eq!(
            named("/api/v1/namespaces/n/status"),
            words("namespaces", "", "n", "status")
        );
    }

    #[test]
    fn what_is_not_served_is_nothing() {
        for path in [
            "/api/v1/pods/p",
            "/api/v1/namespaces/n/nodes/x",
            "/api/v1/namespaces/n/pods/p/nonsense",
            "/api/v1/namespaces/n/pods/p/log/more",
            "/api/v2/pods",
            "/apis/apps/v1/pods",
            "/nonsense",
            "/api/v1/nodes/%ff",
        ] {
            assert_eq!(parse(path), Target::Nothing, "{path}");
        }
    }

    #[test]
    fn the_rest_is_known_by_name() {
        assert_eq!(parse("/"), Target::Root);
        assert_eq!(parse("/apis/apps"), Target::Group("apps".to_owned()));
        assert_eq!(
            parse("/openapi/v3/apis/apps/v1"),
            Target::OpenApi("apis/apps/v1".to_owned())
        );
        assert_eq!(parse("/readyz/etcd"), Target::Health("etcd".to_owned()));
    }
}
