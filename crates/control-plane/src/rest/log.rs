//! `pods/NAME/log`: the log of a container, from the node that runs it.

use futures::StreamExt as _;
use http::header::HeaderValue;
use http::{Response, StatusCode};
use http_body_util::BodyExt;
use serde_json::Value;

use super::body::{self, Body};
use super::handler::Call;
use super::query::Query;
use crate::resource::stored;
use crate::status::{ApiError, FieldError};

const TEXT: HeaderValue = HeaderValue::from_static("text/plain");
/// How much of an error text of a node is read.
const ERROR_LIMIT: usize = 64 << 10;

pub(super) async fn answer(call: &Call) -> Result<Response<Body>, ApiError> {
    let (path, registry) = (&call.path, &call.api.registry);
    let options = LogOptions::parse(&call.query)?;
    options.check(&path.name)?;
    let pod = registry.get(call.def, &path.namespace, &path.name)?.value();
    let container = container(&pod, &path.name, &options.container)?;
    let node = pod["spec"]["nodeName"].as_str().unwrap_or_default();
    if node.is_empty() {
        // Nothing has run yet, so there is nothing to show; the real server says so too.
        let mut nothing = body::bytes(StatusCode::NO_CONTENT, TEXT, bytes::Bytes::new());
        nothing.headers_mut().remove(http::header::CONTENT_TYPE);
        return Ok(nothing);
    }
    let node = registry.get(stored("", "nodes"), "", node)?.value();
    let target = format!(
        "/containerLogs/{}/{}/{container}?{}",
        path.namespace,
        path.name,
        options.kubelet_query()
    );
    let response = call.api.kubelet.get(&node, &target).await?;
    if response.status().is_success() {
        // A log that is followed must not hold up the end of the server.
        let log = data(response.into_body()).take_until(call.shutdown.clone().cancelled_owned());
        return Ok(body::stream(TEXT, log));
    }
    let code = response.status();
    let mut body = http_body_util::Limited::new(response.into_body(), ERROR_LIMIT);
    let mut text = Vec::new();
    while let Some(Ok(frame)) = body.frame().await {
        if let Ok(data) = frame.into_data() {
            text.extend_from_slice(&data);
        }
    }
    Err(node_error(
        code,
        &path.name,
        String::from_utf8_lossy(&text).trim_end_matches('\n'),
    ))
}

/// The data of a body until it ends or breaks: the head of the answer is out already.
fn data(
    body: super::kubelet::NodeBody,
) -> impl futures::Stream<Item = bytes::Bytes> + Send + 'static {
    futures::stream::unfold(body, |mut body| async move {
        loop {
            match body.frame().await? {
                Ok(frame) => {
                    if let Ok(data) = frame.into_data() {
                        return Some((data, body));
                    }
                }
                Err(error) => {
                    tracing::debug!(error = &*error, "a log ended early");
                    return None;
                }
            }
        }
    })
}

/// What a client learns of a node's refusal.
fn node_error(code: StatusCode, pod: &str, text: &str) -> ApiError {
    match code {
        StatusCode::INTERNAL_SERVER_ERROR => ApiError::internal(text),
        StatusCode::BAD_REQUEST => ApiError::bad_request(text),
        StatusCode::NOT_FOUND => ApiError::new(
            code,
            "NotFound",
            format!("the server could not find the requested resource ( pods/log {pod}): {text}"),
        )
        .about("", "pods/log", pod),
        code => ApiError::new(
            code,
            "",
            format!(
                "the node answered {} for pods/log {pod}: {text}",
                code.as_u16()
            ),
        )
        .about("", "pods/log", pod),
    }
}

/// `PodLogOptions`.
#[derive(Debug, Default, PartialEq, Eq)]
struct LogOptions {
    container: String,
    follow: bool,
    previous: bool,
    timestamps: bool,
    since_seconds: Option<i64>,
    since_time: Option<String>,
    tail_lines: Option<i64>,
    limit_bytes: Option<i64>,
    stream: Option<String>,
}

impl LogOptions {
    fn parse(query: &Query) -> Result<Self, ApiError> {
        let text = |key: &str| {
            query
                .get(key)
                .filter(|value| !value.is_empty())
                .map(str::to_owned)
        };
        Ok(Self {
            container: text("container").unwrap_or_default(),
            follow: query.flag("follow").unwrap_or(false),
            previous: query.flag("previous").unwrap_or(false),
            timestamps: query.flag("timestamps").unwrap_or(false),
            since_seconds: query.number("sinceSeconds")?,
            since_time: text("sinceTime"),
            tail_lines: query.number("tailLines")?,
            limit_bytes: query.number("limitBytes")?,
            stream: text("stream"),
        })
    }

    fn check(&self, pod: &str) -> Result<(), ApiError> {
        let mut errors = Vec::new();
        if let Some(lines) = self.tail_lines.filter(|lines| *lines < 0) {
            errors.push(FieldError::invalid(
                "tailLines",
                lines,
                "must be greater than or equal to 0",
            ));
        }
        if let Some(limit) = self.limit_bytes.filter(|limit| *limit < 1) {
            errors.push(FieldError::invalid(
                "limitBytes",
                limit,
                "must be greater than 0",
            ));
        }
        match (self.since_seconds, &self.since_time) {
            (Some(_), Some(_)) => errors.push(FieldError::forbidden(
                "[]",
                "at most one of `sinceTime` or `sinceSeconds` may be specified",
            )),
            (Some(seconds), None) if seconds < 1 => errors.push(FieldError::invalid(
                "sinceSeconds",
                seconds,
                "must be greater than 0",
            )),
            _ => {}
        }
        if errors.is_empty() {
            Ok(())
        } else {
            Err(ApiError::invalid("", "PodLogOptions", pod, &errors))
        }
    }

    /// The query that a kubelet understands.
    fn kubelet_query(&self) -> String {
        let mut pairs: Vec<(&str, String)> = Vec::new();
        for (key, flag) in [
            ("follow", self.follow),
            ("previous", self.previous),
            ("timestamps", self.timestamps),
        ] {
            if flag {
                pairs.push((key, "true".to_owned()));
            }
        }
        for (key, number) in [
            ("sinceSeconds", self.since_seconds),
            ("tailLines", self.tail_lines),
            ("limitBytes", self.limit_bytes),
        ] {
            if let Some(number) = number {
                pairs.push((key, number.to_string()));
            }
        }
        for (key, text) in [("sinceTime", &self.since_time), ("stream", &self.stream)] {
            if let Some(text) = text {
                pairs.push((key, text.clone()));
            }
        }
        pairs
            .iter()
            .map(|(key, value)| {
                let value = percent_encoding::utf8_percent_encode(
                    value,
                    percent_encoding::NON_ALPHANUMERIC,
                );
                format!("{key}={value}")
            })
            .collect::<Vec<_>>()
            .join("&")
    }
}

fn names(pod: &Value, field: &str) -> Vec<String> {
    pod["spec"][field]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|container| Some(container["name"].as_str()?.to_owned()))
        .collect()
}

/// The container whose log is meant.
pub(super) fn container(pod: &Value, name: &str, wanted: &str) -> Result<String, ApiError> {
    let containers = names(pod, "containers");
    let init = names(pod, "initContainers");
    if wanted.is_empty() {
        return match containers.as_slice() {
            [only] => Ok(only.clone()),
            [] => Err(ApiError::bad_request(format!(
                "a container name must be specified for pod {name}"
            ))),
            several => {
                let mut why = format!(
                    "a container name must be specified for pod {name}, choose one of: [{}]",
                    several.join(" ")
                );
                if !init.is_empty() {
                    why.push_str(&format!(
                        " or one of the init containers: [{}]",
                        init.join(" ")
                    ));
                }
                Err(ApiError::bad_request(why))
            }
        };
    }
    let ephemeral = names(pod, "ephemeralContainers");
    if [containers, init, ephemeral]
        .iter()
        .flatten()
        .any(|container| container == wanted)
    {
        Ok(wanted.to_owned())
    } else {
        Err(ApiError::bad_request(format!(
            "container {wanted} is not valid for pod {name}"
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn options_reach_the_node_and_contradictions_do_not() {
        let query = Query::parse(Some(
            "container=c&follow=true&tailLines=5&sinceTime=2026-01-01T00%3A00%3A00Z",
        ));
        let options = LogOptions::parse(&query).expect("options");
        options.check("p").expect("good options");
        assert_eq!(
            options.kubelet_query(),
            "follow=true&tailLines=5&sinceTime=2026%2D01%2D01T00%3A00%3A00Z"
        );
        for bad in [
            "tailLines=-1",
            "limitBytes=0",
            "sinceSeconds=0",
            "sinceSeconds=1&sinceTime=2026-01-01T00:00:00Z",
        ] {
            let options = LogOptions::parse(&Query::parse(Some(bad))).expect(bad);
            let error = options.check("p").expect_err(bad);
            assert_eq!(error.code, StatusCode::UNPROCESSABLE_ENTITY, "{bad}");
        }
    }

    #[test]
    fn the_container_is_the_only_one_or_a_named_one() {
        let one = json!({"spec": {"containers": [{"name": "a"}]}});
        let two = json!({"spec": {"containers": [{"name": "a"}, {"name": "b"}],
                                  "initContainers": [{"name": "i"}]}});
        assert_eq!(container(&one, "p", "").expect("a"), "a");
        assert_eq!(container(&two, "p", "i").expect("i"), "i");
        assert_eq!(
            container(&two, "p", "").expect_err("two").message,
            "a container name must be specified for pod p, choose one of: [a b] or one of the init containers: [i]"
        );
        assert_eq!(
            container(&one, "p", "x").expect_err("x").message,
            "container x is not valid for pod p"
        );
    }
}
