//! One request: who asks, what for, whether they may, and the answer.

use std::sync::Arc;
use std::time::Instant;

use http::header::{AUTHORIZATION, HeaderValue};
use http::{HeaderMap, Method, Request, Response};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use super::accept::{Form, negotiate};
use super::body::{self, Body};
use super::path::{self, ResourcePath, Target};
use super::query::Query;
use super::{Api, paths, resources, usage};
use crate::auth::authn::Peer;
use crate::auth::{self, Attributes, User, review};
use crate::registry::selector::FieldSelector;
use crate::registry::{Context, Warnings};
use crate::resource::ResourceDef;
use crate::status::{ApiError, FieldError};

/// A request about a resource, after authorization.
pub(super) struct Call {
    pub(super) api: Arc<Api>,
    pub(super) user: Arc<User>,
    pub(super) def: &'static ResourceDef,
    pub(super) path: ResourcePath,
    pub(super) verb: &'static str,
    pub(super) query: Query,
    pub(super) headers: HeaderMap,
    pub(super) form: Form,
    pub(super) warnings: Warnings,
    pub(super) shutdown: CancellationToken,
    /// The connection itself, once the answer was 101.
    pub(super) upgrade: OnUpgrade,
}

impl Call {
    /// The context of a write, as the query and the headers describe it.
    pub(super) fn context(&self, options_kind: &str) -> Result<Context, ApiError> {
        let mut context = Context::new(self.user.clone()).with_warnings(self.warnings.clone());
        context.dry_run = self.query.dry_run(options_kind)?;
        context.field_validation = self.query.field_validation(options_kind)?;
        context.field_manager = match self.query.get("fieldManager") {
            Some(manager) if manager.len() > MANAGER_LIMIT => {
                return Err(ApiError::invalid(
                    "meta.k8s.io",
                    options_kind,
                    "",
                    &[FieldError::too_long("fieldManager", MANAGER_LIMIT)],
                ));
            }
            Some(manager) if !manager.is_empty() => manager.to_owned(),
            _ => agent_name(&self.headers),
        };
        Ok(context)
    }
}

/// How long the name of a field manager may be, in bytes.
const MANAGER_LIMIT: usize = 128;

/// The first word of `User-Agent`: who owns fields when nobody says so.
fn agent_name(headers: &HeaderMap) -> String {
    let agent = headers
        .get(http::header::USER_AGENT)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    let name = agent.split('/').next().unwrap_or_default();
    let printable = name.chars().filter(|c| !c.is_control());
    let mut short = String::new();
    for c in printable {
        if short.len() + c.len_utf8() > MANAGER_LIMIT {
            break;
        }
        short.push(c);
    }
    if short.is_empty() {
        "unknown".to_owned()
    } else {
        short
    }
}

/// Answers a request, whatever it is.
pub(super) async fn handle(
    api: Arc<Api>,
    peer: &Peer,
    request: Request<Incoming>,
    shutdown: CancellationToken,
) -> Response<Body> {
    let started = Instant::now();
    let target = path::parse(request.uri().path());
    let query = Query::parse(request.uri().query());
    let verb = match &target {
        Target::Resource(path) => resource_verb(path, request.method(), &query),
        _ => method_name(request.method()),
    };
    let resource = match &target {
        Target::Resource(path) => path.def.plural,
        _ => "",
    };
    let method = request.method().clone();
    let uri = request.uri().path().to_owned();
    let warnings = Warnings::default();
    let parts = (target, query, verb);
    let answer = answer(api.clone(), peer, request, parts, &warnings, shutdown).await;
    let mut response = answer.unwrap_or_else(|error| body::failure(&error));
    for warning in warnings.take() {
        body::add_warning(&mut response, &warning);
    }
    let elapsed = started.elapsed();
    let code = response.status().as_u16();
    api.metrics.count(verb, resource, code, elapsed);
    tracing::debug!(%method, uri, code, ?elapsed, "request");
    response
}

async fn answer(
    api: Arc<Api>,
    peer: &Peer,
    request: Request<Incoming>,
    (target, query, verb): (Target, Query, &'static str),
    warnings: &Warnings,
    shutdown: CancellationToken,
) -> Result<Response<Body>, ApiError> {
    let user = authenticate(&api, peer, request.headers())?;
    let path = match target {
        Target::Resource(path) => path,
        Target::Usage(path) => {
            let verb = match verb {
                "get" if path.name.is_empty() => "list",
                other => other,
            };
            permit(
                &api,
                &Attributes {
                    version: usage::VERSION,
                    namespace: &path.namespace,
                    name: &path.name,
                    ..Attributes::of_resource(&user, verb, usage::GROUP, path.plural())
                },
            )?;
            let (head, _) = request.into_parts();
            return { &api.usage }
                .answer(&path, &head.method, &head.headers, &query)
                .await;
        }
        other => {
            let path = request.uri().path();
            permit(&api, &Attributes::of_path(&user, verb, path))?;
            return paths::answer(&api, &other, &request, &query);
        }
    };
    authorize(&api, &user, &path, verb, &query)?;
    let form = negotiate(request.headers(), query.get("pretty"))?;
    let mut request = request;
    let upgrade = hyper::upgrade::on(&mut request);
    let (head, body) = request.into_parts();
    let call = Call {
        api,
        user,
        def: path.def,
        path,
        verb,
        query,
        headers: head.headers,
        form,
        warnings: warnings.clone(),
        shutdown,
        upgrade,
    };
    resources::answer(call, body).await
}

/// The user of a request, impersonation included.
fn authenticate(api: &Api, peer: &Peer, headers: &HeaderMap) -> Result<Arc<User>, ApiError> {
    let authorization = headers
        .get(AUTHORIZATION)
        .map(HeaderValue::to_str)
        .and_then(Result::ok);
    let user = api
        .authenticator
        .authenticate(peer, authorization, Timestamp::now())
        .map_err(|refused| {
            tracing::debug!(reason = refused.reason, "not authenticated");
            ApiError::unauthorized()
        })?;
    let impersonation = impersonation(headers)?;
    if impersonation.is_empty() {
        return Ok(user);
    }
    Ok(
        match review::impersonate(&api.authorizer, &user, &impersonation)? {
            Some(other) => Arc::new(other),
            None => user,
        },
    )
}

/// The headers that ask to act as somebody else. One that cannot be read refuses the request: left
/// out, it would be done with the rights of who asks.
fn impersonation(headers: &HeaderMap) -> Result<Vec<(&str, &str)>, ApiError> {
    headers
        .iter()
        .filter(|(name, _)| name.as_str().starts_with("impersonate-"))
        .map(|(name, value)| {
            std::str::from_utf8(value.as_bytes())
                .map(|value| (name.as_str(), value))
                .map_err(|_| ApiError::bad_request(format!("the header {name} is not UTF-8")))
        })
        .collect()
}

/// Whether the user may create what the path names, where a request for something else comes to
/// that. As it is for the real server.
pub(super) fn permit_creation(call: &Call) -> Result<(), ApiError> {
    let (def, path) = (call.def, &call.path);
    let namespace = if def.group.is_empty() && def.plural == "namespaces" {
        &path.name
    } else {
        &path.namespace
    };
    permit(
        &call.api,
        &Attributes {
            version: def.version,
            namespace,
            name: &path.name,
            ..Attributes::of_resource(&call.user, "create", def.group, def.plural)
        },
    )
}

/// Whether the user may create the stream that the path names: a WebSocket begins with a GET.
pub(super) fn permit_stream(call: &Call) -> Result<(), ApiError> {
    let (def, path) = (call.def, &call.path);
    permit(
        &call.api,
        &Attributes {
            version: def.version,
            subresource: &path.subresource,
            namespace: &path.namespace,
            name: &path.name,
            ..Attributes::of_resource(&call.user, "create", def.group, def.plural)
        },
    )
}

fn permit(api: &Api, attributes: &Attributes<'_>) -> Result<(), ApiError> {
    match api.authorizer.authorize(attributes) {
        auth::Decision::Allow { .. } => Ok(()),
        auth::Decision::Deny { reason } => Err(auth::forbidden(attributes, &reason)),
    }
}

fn authorize(
    api: &Api,
    user: &User,
    path: &ResourcePath,
    verb: &str,
    query: &Query,
) -> Result<(), ApiError> {
    let def = path.def;
    let mut name = path.name.clone();
    let mut fields = Vec::new();
    if matches!(verb, "list" | "watch" | "deletecollection") {
        // A selector that does not parse is refused later; until then it narrows nothing.
        let selector = query.get("fieldSelector").unwrap_or_default();
        if let Ok(selector) = FieldSelector::parse(def, selector) {
            if name.is_empty() {
                name = selector.name().unwrap_or_default().to_owned();
            }
            fields = selector.requirements();
        }
    }
    // A request about a namespace is a request in it.
    let namespace = if def.group.is_empty() && def.plural == "namespaces" {
        &path.name
    } else {
        &path.namespace
    };
    permit(
        api,
        &Attributes {
            version: def.version,
            subresource: &path.subresource,
            namespace,
            name: &name,
            fields: &fields,
            ..Attributes::of_resource(user, verb, def.group, def.plural)
        },
    )
}

/// The verb that authorization knows a request by.
fn resource_verb(path: &ResourcePath, method: &Method, query: &Query) -> &'static str {
    let one = !path.name.is_empty();
    match method.as_str() {
        "GET" if path.subresource.is_empty() && query.is_watch() => "watch",
        "GET" if one => "get",
        "GET" => "list",
        "POST" => "create",
        "PUT" => "update",
        "PATCH" => "patch",
        "DELETE" if one => "delete",
        "DELETE" => "deletecollection",
        other => other_method(other),
    }
}

fn method_name(method: &Method) -> &'static str {
    match method.as_str() {
        "GET" => "get",
        "POST" => "post",
        "PUT" => "put",
        "PATCH" => "patch",
        "DELETE" => "delete",
        other => other_method(other),
    }
}

fn other_method(method: &str) -> &'static str {
    match method {
        "HEAD" => "head",
        "OPTIONS" => "options",
        _ => "other",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_to_act_under_is_never_left_out() {
        let headers = |value: &[u8]| {
            let value = HeaderValue::from_bytes(value).expect("a value");
            HeaderMap::from_iter([(http::HeaderName::from_static("impersonate-user"), value)])
        };
        let found = headers("jürgen".as_bytes());
        assert_eq!(
            impersonation(&found).expect("readable"),
            [("impersonate-user", "jürgen")]
        );
        let refused = impersonation(&headers(b"j\xfcrgen")).expect_err("unreadable");
        assert_eq!(refused.code, http::StatusCode::BAD_REQUEST);
    }
}
