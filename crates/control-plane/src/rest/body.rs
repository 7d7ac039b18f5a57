//! Bodies: reading requests within limits, writing responses.

use std::convert::Infallible;

use bytes::{Bytes, BytesMut};
use futures::Stream;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use http::{HeaderMap, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Body as _, Frame, Incoming};
use serde_json::Value;

use super::accept::Encoding;
use crate::codec;
use crate::status::ApiError;

/// The body of a response.
pub(super) type Body = UnsyncBoxBody<Bytes, Infallible>;

/// How large the body of a request may be, in bytes: what the real server allows.
pub(super) const REQUEST_LIMIT: usize = 3 << 20;
/// How much more of a body that is too large is read, so that its sender gets to read the answer.
const DRAIN_LIMIT: usize = 32 << 20;

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const YAML: HeaderValue = HeaderValue::from_static("application/yaml");
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
const PRIVATE: HeaderValue = HeaderValue::from_static("no-cache, private");

/// Reads a whole body.
///
/// # Errors
/// 413 beyond [`REQUEST_LIMIT`]; 400 when the connection breaks.
pub(super) async fn read(mut body: Incoming) -> Result<Bytes, ApiError> {
    let expected = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
    let mut whole = BytesMut::with_capacity(expected.min(REQUEST_LIMIT));
    let mut length = 0usize;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| {
            ApiError::bad_request(format!(
                "the body of the request could not be read: {error}"
            ))
        })?;
        let Ok(data) = frame.into_data() else {
            continue;
        };
        length += data.len();
        if length > DRAIN_LIMIT {
            break;
        }
        if length <= REQUEST_LIMIT {
            whole.extend_from_slice(&data);
        }
    }
    if length > REQUEST_LIMIT {
        Err(ApiError::too_large(REQUEST_LIMIT))
    } else {
        Ok(whole.freeze())
    }
}

/// The encoding that a request's `Content-Type` names; JSON where there is none.
///
/// # Errors
/// 415.
pub(super) fn encoding_of(headers: &HeaderMap) -> Result<codec::Encoding, ApiError> {
    let media = media_type(headers);
    match media.as_str() {
        "" | "application/json" => Ok(codec::Encoding::Json),
        "application/yaml" => Ok(codec::Encoding::Yaml),
        "application/vnd.kubernetes.protobuf" => Ok(codec::Encoding::Protobuf),
        other => Err(ApiError::unsupported_media_type(
            other,
            &[
                "application/json",
                "application/yaml",
                "application/vnd.kubernetes.protobuf",
            ],
        )),
    }
}

/// `Content-Type` without parameters.
pub(super) fn media_type(headers: &HeaderMap) -> String {
    headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split(';').next())
        .unwrap_or_default()
        .trim()
        .to_ascii_lowercase()
}

/// A response with these bytes.
pub(super) fn bytes(status: StatusCode, kind: HeaderValue, body: Bytes) -> Response<Body> {
    let mut response = Response::new(Full::new(body).boxed_unsync());
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response.headers_mut().insert(CACHE_CONTROL, PRIVATE);
    response
}

/// A response that is written as it comes.
pub(super) fn stream(
    kind: HeaderValue,
    stream: impl Stream<Item = Bytes> + Send + 'static,
) -> Response<Body> {
    use futures::StreamExt;
    let frames = stream.map(|bytes| Ok(Frame::data(bytes)));
    let mut response = Response::new(StreamBody::new(frames).boxed_unsync());
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response.headers_mut().insert(CACHE_CONTROL, PRIVATE);
    response
}

/// Plain text.
pub(super) fn text(status: StatusCode, body: impl Into<String>) -> Response<Body> {
    let mut response = bytes(status, TEXT, Bytes::from(body.into()));
    response.headers_mut().insert(
        "x-content-type-options",
        HeaderValue::from_static("nosniff"),
    );
    response
}

/// An object in the negotiated encoding.
pub(super) fn object(status: StatusCode, encoding: Encoding, value: &Value) -> Response<Body> {
    match encoding {
        Encoding::Json { pretty: false } => {
            let mut text = value.to_string().into_bytes();
            text.push(b'\n');
            bytes(status, JSON, text.into())
        }
        Encoding::Json { pretty: true } => {
            let text = format!("{value:#}");
            bytes(status, JSON, text.into())
        }
        Encoding::Yaml => match serde_norway::to_string(value) {
            Ok(text) => bytes(status, YAML, text.into()),
            Err(error) => failure(&ApiError::internal(error)),
        },
    }
}

/// An object whose JSON text is at hand.
pub(super) fn json_text(status: StatusCode, encoding: Encoding, text: Bytes) -> Response<Body> {
    match encoding {
        Encoding::Json { pretty: false } => bytes(status, JSON, text),
        other => match serde_json::from_slice::<Value>(&text) {
            Ok(value) => object(status, other, &value),
            Err(error) => failure(&ApiError::internal(error)),
        },
    }
}

/// A refusal.
pub(super) fn failure(error: &ApiError) -> Response<Body> {
    let mut response = object(
        error.code,
        Encoding::Json { pretty: false },
        &error.to_value(),
    );
    if error.retry_after_seconds > 0 {
        response
            .headers_mut()
            .insert(RETRY_AFTER, error.retry_after_seconds.into());
    }
    response
}

/// `application/json`.
pub(super) fn json_type() -> HeaderValue {
    JSON
}

/// Adds a `Warning` header.
pub(super) fn add_warning(response: &mut Response<Body>, warning: &str) {
    let plain: String = warning
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    let quoted = plain.replace('\\', "\\\\").replace('"', "\\\"");
    if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{quoted}\"")) {
        response.headers_mut().append("warning", value);
    }
}
