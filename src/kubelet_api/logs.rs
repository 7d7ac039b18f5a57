//! `/containerLogs`: the query of a `PodLogOptions`, and which attempt's log answers it.

use http::StatusCode;
use jiff::{SignedDuration, Timestamp};

use crate::container::log::{ReadOptions, Stream};
use crate::pod::{ContainerView, PodView};

/// An answer that is not a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) code: StatusCode,
    pub(super) text: String,
}

fn refuse<T>(code: StatusCode, text: impl Into<String>) -> Result<T, Refusal> {
    let text = text.into();
    Err(Refusal { code, text })
}

/// What is asked of a log.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Query {
    pub(super) previous: bool,
    pub(super) read: ReadOptions,
}

/// Reads the query string. Bad numbers are 400, numbers out of range 422, as a kubelet answers.
pub(super) fn parse(query: &str, now: Timestamp) -> Result<Query, Refusal> {
    let mut parsed = Query::default();
    let mut since_seconds = None;
    let mut since_time = None;
    for (key, value) in form_urlencoded::parse(query.as_bytes()) {
        match key.as_ref() {
            "follow" => parsed.read.follow = boolean(&key, &value)?,
            "previous" => parsed.previous = boolean(&key, &value)?,
            "timestamps" => parsed.read.timestamps = boolean(&key, &value)?,
            "sinceSeconds" => since_seconds = Some(number(&key, &value, 1)?),
            "sinceTime" if !value.is_empty() => since_time = Some(time(&key, &value)?),
            // `tail=all` is the old way to say "everything".
            "tail" if value == "all" => parsed.read.tail = None,
            "tailLines" | "tail" => parsed.read.tail = Some(number(&key, &value, 0)?),
            "limitBytes" => parsed.read.limit_bytes = Some(number(&key, &value, 1)?),
            "stream" => parsed.read.stream = stream(&value)?,
            _ => {}
        }
    }
    parsed.read.since = match (since_seconds, since_time) {
        (Some(_), Some(_)) => {
            return refuse(
                StatusCode::UNPROCESSABLE_ENTITY,
                "at most one of `sinceTime` or `sinceSeconds` may be specified",
            );
        }
        (Some(seconds), None) => {
            let back = SignedDuration::from_secs(i64::try_from(seconds).unwrap_or(i64::MAX));
            Some(now.checked_sub(back).unwrap_or(Timestamp::MIN))
        }
        (None, time) => time,
    };
    Ok(parsed)
}

fn boolean(key: &str, value: &str) -> Result<bool, Refusal> {
    match value {
        "" | "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => refuse(
            StatusCode::BAD_REQUEST,
            format!("{key}: {value:?} is neither true nor false"),
        ),
    }
}

fn number(key: &str, value: &str, least: i64) -> Result<u64, Refusal> {
    let Ok(number) = value.parse::<i64>() else {
        return refuse(
            StatusCode::BAD_REQUEST,
            format!("{key}: {value:?} is not a number"),
        );
    };
    if number < least {
        return refuse(
            StatusCode::UNPROCESSABLE_ENTITY,
            format!("{key}: {number} must be {least} or more"),
        );
    }
    Ok(number.unsigned_abs())
}

fn time(key: &str, value: &str) -> Result<Timestamp, Refusal> {
    value.parse().or_else(|_| {
        refuse(
            StatusCode::BAD_REQUEST,
            format!("{key}: {value:?} is not a time as RFC 3339 writes it"),
        )
    })
}

fn stream(value: &str) -> Result<Option<Stream>, Refusal> {
    match value {
        "" | "All" => Ok(None),
        "Stdout" => Ok(Some(Stream::Stdout)),
        "Stderr" => Ok(Some(Stream::Stderr)),
        _ => refuse(
            StatusCode::UNPROCESSABLE_ENTITY,
            format!("stream: {value:?} must be All, Stdout or Stderr"),
        ),
    }
}

/// Which attempt of which container answers, or why none does. The words are a kubelet's: they
/// reach the user as they are.
pub(super) fn choose<'a>(
    pod: &'a PodView,
    name: &str,
    container: &str,
    previous: bool,
) -> Result<(&'a ContainerView, u32), Refusal> {
    let Some(view) = pod.containers.iter().find(|view| view.name == container) else {
        return refuse(
            StatusCode::NOT_FOUND,
            format!("container {container:?} not found in pod {name:?}"),
        );
    };
    if previous {
        return view.previous.map_or_else(
            || {
                refuse(
                    StatusCode::BAD_REQUEST,
                    format!(
                        "previous terminated container {container:?} in pod {name:?} not found"
                    ),
                )
            },
            |attempt| Ok((view, attempt)),
        );
    }
    view.current.map_or_else(
        || {
            let reason = view.waiting.as_deref().unwrap_or("ContainerCreating");
            refuse(
                StatusCode::BAD_REQUEST,
                format!("container {container:?} in pod {name:?} is waiting to start: {reason}"),
            )
        },
        |attempt| Ok((view, attempt)),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Timestamp {
        "2026-01-02T03:04:05Z".parse().expect("a time")
    }

    #[test]
    fn every_option_of_kubectl_logs_is_read() {
        let query = "follow=true&previous=false&timestamps=true&tailLines=5&limitBytes=9&sinceSeconds=65&stream=Stderr&unknown=1";
        let parsed = parse(query, now()).expect("a good query");
        assert!(parsed.read.follow && parsed.read.timestamps && !parsed.previous);
        assert_eq!(parsed.read.tail, Some(5));
        assert_eq!(parsed.read.limit_bytes, Some(9));
        assert_eq!(parsed.read.since, "2026-01-02T03:03:00Z".parse().ok());
        assert_eq!(parsed.read.stream, Some(Stream::Stderr));
        let legacy = parse("tail=all&sinceTime=2026-01-01T00:00:00Z", now()).expect("a good query");
        assert_eq!(legacy.read.tail, None);
        assert_eq!(legacy.read.since, "2026-01-01T00:00:00Z".parse().ok());
    }

    #[test]
    fn nonsense_is_400_and_a_wrong_range_422() {
        for (query, code) in [
            ("tailLines=x", 400),
            ("follow=maybe", 400),
            ("sinceTime=yesterday", 400),
            ("tailLines=-1", 422),
            ("sinceSeconds=0", 422),
            ("limitBytes=0", 422),
            ("stream=Both", 422),
            ("sinceSeconds=1&sinceTime=2026-01-01T00:00:00Z", 422),
        ] {
            let refusal = parse(query, now()).expect_err(query);
            assert_eq!(refusal.code.as_u16(), code, "{query}: {}", refusal.text);
        }
    }
}
