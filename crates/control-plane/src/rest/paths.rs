//! Everything that is no resource: discovery, OpenAPI, health, version, metrics, keys.

use http::header::{ACCEPT, CACHE_CONTROL, ETAG, HeaderMap, HeaderValue, IF_NONE_MATCH, VARY};
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use serde_json::{Value, json};

use super::accept::{negotiate, wants_aggregated_discovery};
use super::body::{self, Body};
use super::path::Target;
use super::query::Query;
use super::{Api, discovery, usage};
use crate::auth::tokens::openid_configuration;
use crate::openapi::v2;
use crate::resource::table;
use crate::status::ApiError;

const HOUR: HeaderValue = HeaderValue::from_static("public, max-age=3600");

pub(super) fn answer(
    api: &Api,
    target: &Target,
    request: &Request<Incoming>,
    query: &Query,
) -> Result<Response<Body>, ApiError> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return Err(match target {
            Target::Nothing => ApiError::no_such_path(),
            _ => ApiError::method_not_allowed(),
        });
    }
    let headers = request.headers();
    let aggregated = matches!(target, Target::CoreVersions | Target::Groups)
        && wants_aggregated_discovery(headers);
    if aggregated {
        let document = discovery::aggregated(*target == Target::CoreVersions);
        let mut response = body::bytes(
            StatusCode::OK,
            HeaderValue::from_static(discovery::AGGREGATED),
            document.to_string().into(),
        );
        let headers = response.headers_mut();
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("public"));
        headers.insert(VARY, HeaderValue::from_static("Accept"));
        return Ok(response);
    }
    let document = |value: &Value| -> Result<Response<Body>, ApiError> {
        let form = negotiate(headers, query.get("pretty"))?;
        Ok(body::object(StatusCode::OK, form.encoding, value))
    };
    match target {
        Target::Root => document(&json!({"paths": served_paths()})),
        Target::CoreVersions => document(&discovery::core_versions(&api.address)),
        Target::Groups => document(&discovery::group_list()),
        Target::Group(group) => {
            document(&discovery::group(group).ok_or_else(ApiError::no_such_path)?)
        }
        Target::GroupVersion(group, version) => {
            document(&discovery::resource_list(group, version).ok_or_else(ApiError::no_such_path)?)
        }
        Target::OpenApiV2 if wants_openapi_protobuf(headers) => Ok(body::bytes(
            StatusCode::OK,
            HeaderValue::from_static(v2::PROTOBUF),
            v2::protobuf(&api.version),
        )),
        Target::OpenApiV2 => document(&v2::json(&api.version)),
        Target::OpenApiIndex => document(&api.openapi.index()),
        Target::OpenApi(path) => openapi(api, path, request),
        Target::Version => document(&version(&api.version)),
        Target::Health(check) => health(api, check, query, request.uri().path()),
        Target::Metrics => Ok(body::text(
            StatusCode::OK,
            api.metrics.render(api.registry.store().revision()),
        )),
        Target::OpenIdConfiguration => {
            let url = format!("https://{}", api.address);
            Ok(public(&openid_configuration(&url), "application/json"))
        }
        Target::KeySet => Ok(public(
            &api.authenticator.tokens().key_set(),
            "application/jwk-set+json",
        )),
        Target::Resource(_) | Target::Usage(_) | Target::Nothing => Err(ApiError::no_such_path()),
    }
}

fn wants_openapi_protobuf(headers: &HeaderMap) -> bool {
    let accept = headers.get(ACCEPT).and_then(|it| it.to_str().ok());
    accept.is_some_and(v2::wants_protobuf)
}

fn public(value: &Value, kind: &'static str) -> Response<Body> {
    let kind = HeaderValue::from_static(kind);
    let mut response = body::bytes(StatusCode::OK, kind, value.to_string().into());
    response.headers_mut().insert(CACHE_CONTROL, HOUR);
    response
}

/// Documents never change while the server runs, and their hash is in the path: clients keep them.
fn openapi(api: &Api, path: &str, request: &Request<Incoming>) -> Result<Response<Body>, ApiError> {
    let (document, hash) = api
        .openapi
        .document(path)
        .ok_or_else(ApiError::no_such_path)?;
    let tag = format!("\"{hash}\"");
    let known = request
        .headers()
        .get_all(IF_NONE_MATCH)
        .iter()
        .any(|value| value.as_bytes() == tag.as_bytes());
    let mut response = if known {
        let mut response = body::bytes(StatusCode::OK, body::json_type(), bytes::Bytes::new());
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        response
    } else {
        body::bytes(StatusCode::OK, body::json_type(), document)
    };
    let headers = response.headers_mut();
    if let Ok(tag) = HeaderValue::from_str(&tag) {
        headers.insert(ETAG, tag);
    }
    headers.insert(VARY, HeaderValue::from_static("Accept"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("public, no-cache"));
    Ok(response)
}

/// The minor version of Kubernetes whose API is served.
const MINOR: &str = "34";

fn version(git_version: &str) -> Value {
    json!({
        "major": "1",
        "minor": MINOR,
        "emulationMajor": "1",
        "emulationMinor": MINOR,
        "minCompatibilityMajor": "1",
        "minCompatibilityMinor": "33",
        "gitVersion": git_version,
        "gitCommit": "",
        "gitTreeState": "",
        "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "",
        "compiler": "rustc",
        "platform": format!("{}/{}", std::env::consts::OS, go_arch()),
    })
}

/// The machine's architecture as Go names it, since clients compare it with theirs.
fn go_arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn health(api: &Api, check: &str, query: &Query, path: &str) -> Result<Response<Body>, ApiError> {
    // All checks hold as long as the process answers: the store refuses writes, not reads, when
    // its disk is full.
    let checks = ["ping", "log", "etcd"];
    if !check.is_empty() {
        return if checks.contains(&check) {
            Ok(body::text(StatusCode::OK, "ok"))
        } else {
            Err(ApiError::no_such_path())
        };
    }
    let _ = api;
    if query.get("verbose").is_none() {
        return Ok(body::text(StatusCode::OK, "ok"));
    }
    let mut lines: String = checks
        .iter()
        .map(|check| format!("[+]{check} ok\n"))
        .collect();
    lines.push_str(path.trim_matches('/'));
    lines.push_str(" check passed\n");
    Ok(body::text(StatusCode::OK, lines))
}

fn served_paths() -> Vec<String> {
    let mut paths: Vec<String> = [
        "/.well-known/openid-configuration",
        "/api",
        "/api/v1",
        "/apis",
        "/healthz",
        "/livez",
        "/metrics",
        "/openapi/v2",
        "/openapi/v3",
        "/openid/v1/jwks",
        "/readyz",
        "/version",
    ]
    .map(str::to_owned)
    .to_vec();
    for row in table().rows().iter().filter(|row| !row.group.is_empty()) {
        paths.push(format!("/apis/{}", row.group));
        paths.push(format!("/apis/{}/{}", row.group, row.version));
    }
    paths.push(format!("/apis/{}", usage::GROUP));
    paths.push(format!("/apis/{}/{}", usage::GROUP, usage::VERSION));
    paths.sort_unstable();
    paths.dedup();
    paths
}
