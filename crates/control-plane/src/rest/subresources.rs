//! Requests about sub-resources.

use http::{Response, StatusCode};
use hyper::body::Incoming;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::body::{self, Body};
use super::handler::Call;
use super::resources::{patch, write};
use super::{eviction, log, scale, stream};
use crate::admission;
use crate::auth::request::token_request;
use crate::schema::Gvk;
use crate::status::ApiError;

pub(super) async fn answer(call: Call, body: Incoming) -> Result<Response<Body>, ApiError> {
    match call.path.subresource.as_str() {
        "status" | "finalize" | "approval" | "ephemeralcontainers" => part(&call, body).await,
        "scale" => scale::answer(&call, body).await,
        "binding" => bind(&call, body).await,
        "eviction" => eviction::answer(&call, body).await,
        "log" => log::answer(&call).await,
        "token" => token(&call, body).await,
        "exec" | "attach" | "portforward" => stream::answer(&call).await,
        other => {
            // A path of an object that is not there is not found, whatever stands behind it.
            let path = &call.path;
            call.api
                .registry
                .get(call.def, &path.namespace, &path.name)?;
            Err(ApiError::not_implemented(format!(
                "{}/{other}",
                call.def.plural
            )))
        }
    }
}

/// A part of the object itself, read and written as the whole object.
async fn part(call: &Call, body: Incoming) -> Result<Response<Body>, ApiError> {
    match call.verb {
        "get" => {
            let path = &call.path;
            let object = call
                .api
                .registry
                .get(call.def, &path.namespace, &path.name)?;
            Ok(call.show(StatusCode::OK, &object))
        }
        "update" => {
            let context = call.context("UpdateOptions")?;
            let object = call.object(&context, &call.def.gvk(), body).await?;
            write(call, &context, object).await
        }
        "patch" => patch(call, body).await,
        _ => Err(ApiError::method_not_allowed()),
    }
}

/// `pods/NAME/binding`, or a POST of a Binding to `bindings`.
pub(super) async fn bind(call: &Call, body: Incoming) -> Result<Response<Body>, ApiError> {
    let context = call.context("CreateOptions")?;
    let binding = call
        .object(&context, &Gvk::new("", "v1", "Binding"), body)
        .await?;
    let name = match call.path.name.as_str() {
        "" => binding["metadata"]["name"].as_str().unwrap_or_default(),
        name => name,
    };
    call.api
        .registry
        .bind(&context, &call.path.namespace, name, &binding)
        .await?;
    Ok(done(call))
}

/// The `Status` of a create that makes no object.
pub(super) fn done(call: &Call) -> Response<Body> {
    let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {},
                        "status": "Success", "code": 201});
    body::object(StatusCode::CREATED, call.form.encoding, &status)
}

/// Lets admission refuse a create on a sub-resource.
pub(super) fn admit_create(call: &Call, object: &mut Value) -> Result<(), ApiError> {
    let Some(admission) = call.api.registry.admission() else {
        return Ok(());
    };
    let request = admission::Request {
        user: &call.user,
        operation: admission::Operation::Create,
        group: call.def.group,
        resource: call.def.plural,
        subresource: &call.path.subresource,
        namespace: &call.path.namespace,
        name: &call.path.name,
    };
    admission.admit(&request, object, None)
}

/// `serviceaccounts/NAME/token`.
async fn token(call: &Call, body: Incoming) -> Result<Response<Body>, ApiError> {
    let context = call.context("CreateOptions")?;
    let expected = Gvk::new("authentication.k8s.io", "v1", "TokenRequest");
    let mut request = call.object(&context, &expected, body).await?;
    admit_create(call, &mut request)?;
    let answer = token_request(
        &call.api.authenticator,
        &call.path.namespace,
        &call.path.name,
        &request,
        Timestamp::now(),
    )?;
    Ok(body::object(
        StatusCode::CREATED,
        call.form.encoding,
        &answer,
    ))
}
