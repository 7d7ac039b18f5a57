//! Resources that keep nothing: reviews, and bindings by POST.

use http::{Response, StatusCode};
use hyper::body::Incoming;
use jiff::Timestamp;

use super::accept::Shape;
use super::body::{self, Body};
use super::handler::Call;
use super::subresources;
use crate::auth::review;
use crate::status::ApiError;

pub(super) async fn answer(call: Call, body: Incoming) -> Result<Response<Body>, ApiError> {
    if call.def.kind == "Binding" {
        return subresources::bind(&call, body).await;
    }
    // A review is no list and has no metadata to show.
    if call.form.shape != Shape::Full {
        return Err(ApiError::not_acceptable(&super::accept::SERVED));
    }
    let context = call.context("CreateOptions")?;
    let object = call.object(&context, &call.def.gvk(), body).await?;
    let (user, authorizer) = (&call.user, &call.api.authorizer);
    let now = Timestamp::now();
    let answer = match call.def.kind {
        "SelfSubjectReview" => review::self_subject(user, now),
        "TokenReview" => review::token(&call.api.authenticator, object, now)?,
        "SubjectAccessReview" => review::subject_access(authorizer, object)?,
        "SelfSubjectAccessReview" => review::self_subject_access(authorizer, user, object)?,
        "LocalSubjectAccessReview" => {
            review::local_subject_access(authorizer, &call.path.namespace, object)?
        }
        "SelfSubjectRulesReview" => review::self_subject_rules(authorizer, user, &object)?,
        other => return Err(ApiError::not_implemented(other)),
    };
    Ok(body::object(
        StatusCode::CREATED,
        call.form.encoding,
        &answer,
    ))
}
