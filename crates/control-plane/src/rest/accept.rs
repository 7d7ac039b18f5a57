//! Content negotiation of responses.

use http::HeaderMap;
use http::header::{ACCEPT, USER_AGENT};

use crate::status::ApiError;

/// How a response is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Encoding {
    Json { pretty: bool },
    Yaml,
}

/// What objects a response shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    /// The objects themselves.
    Full,
    /// `as=Table`.
    Table,
    /// `as=PartialObjectMetadata` or `…List`: metadata alone.
    Metadata,
}

/// The form of a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Form {
    pub(super) encoding: Encoding,
    pub(super) shape: Shape,
}

/// The media types that a response may have, as the 406 lists them.
pub(super) const SERVED: [&str; 2] = ["application/json", "application/yaml"];

/// One clause of `Accept`.
struct Clause<'a> {
    media: &'a str,
    parameters: Vec<(&'a str, &'a str)>,
    quality: f32,
}

fn clauses(header: &str) -> Vec<Clause<'_>> {
    let mut clauses: Vec<Clause<'_>> = header
        .split(',')
        .filter_map(|clause| {
            let mut parts = clause.split(';').map(str::trim);
            let media = parts.next().filter(|media| !media.is_empty())?;
            let mut parameters: Vec<_> = parts.filter_map(|part| part.split_once('=')).collect();
            let quality = parameters
                .iter()
                .find(|(name, _)| *name == "q")
                .map_or(1.0, |(_, value)| value.parse().unwrap_or(1.0));
            parameters.retain(|(name, _)| *name != "q");
            Some(Clause {
                media,
                parameters,
                quality,
            })
        })
        .collect();
    // Stable: among equals the first wins.
    clauses.sort_by(|a, b| b.quality.total_cmp(&a.quality));
    clauses
}

impl Clause<'_> {
    fn parameter(&self, name: &str) -> &str {
        self.parameters
            .iter()
            .find(|(key, _)| *key == name)
            .map_or("", |(_, value)| value)
    }

    fn is_yaml(&self) -> Option<bool> {
        match self.media {
            "application/json" | "*/*" | "application/*" => Some(false),
            "application/yaml" => Some(true),
            _ => None,
        }
    }

    fn shape(&self) -> Option<Shape> {
        let known = self.parameter("g") == "meta.k8s.io" && self.parameter("v") == "v1";
        match self.parameter("as") {
            "" => Some(Shape::Full),
            "Table" if known => Some(Shape::Table),
            "PartialObjectMetadata" | "PartialObjectMetadataList" if known => Some(Shape::Metadata),
            _ => None,
        }
    }
}

fn accept(headers: &HeaderMap) -> String {
    let all: Vec<&str> = headers
        .get_all(ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .collect();
    all.join(",")
}

/// People who look with a browser or curl get indented JSON.
fn wants_pretty(headers: &HeaderMap, query: Option<&str>) -> bool {
    if let Some(pretty) = query {
        return !matches!(pretty, "0" | "false");
    }
    let agent = headers
        .get(USER_AGENT)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    ["curl", "Wget", "Mozilla/5.0"]
        .iter()
        .any(|prefix| agent.starts_with(prefix))
}

/// The form that the client likes best.
///
/// # Errors
/// 406 where it accepts nothing that is served.
pub(super) fn negotiate(headers: &HeaderMap, pretty: Option<&str>) -> Result<Form, ApiError> {
    let json = Encoding::Json {
        pretty: wants_pretty(headers, pretty),
    };
    let header = accept(headers);
    if header.trim().is_empty() {
        return Ok(Form {
            encoding: json,
            shape: Shape::Full,
        });
    }
    clauses(&header)
        .iter()
        .find_map(|clause| {
            let encoding = if clause.is_yaml()? {
                Encoding::Yaml
            } else {
                json
            };
            Some(Form {
                encoding,
                shape: clause.shape()?,
            })
        })
        .ok_or_else(|| ApiError::not_acceptable(&SERVED))
}

/// Whether the client takes the aggregated discovery document, version 2.
pub(super) fn wants_aggregated_discovery(headers: &HeaderMap) -> bool {
    let header = accept(headers);
    for clause in clauses(&header) {
        if clause.is_yaml() != Some(false) {
            continue;
        }
        match clause.parameter("as") {
            "" => return false,
            "APIGroupDiscoveryList"
                if clause.parameter("g") == "apidiscovery.k8s.io"
                    && clause.parameter("v") == "v2" =>
            {
                return true;
            }
            _ => {}
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn form(accept: &str) -> Option<Form> {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, accept.parse().expect("a header"));
        negotiate(&headers, None).ok()
    }

    const PLAIN: Encoding = Encoding::Json { pretty: false };

    #[test]
    fn the_first_form_that_is_served_wins() {
        for (accept, encoding, shape) in [
            ("*/*", PLAIN, Shape::Full),
            (
                "application/json;as=Table;v=v1;g=meta.k8s.io,application/json",
                PLAIN,
                Shape::Table,
            ),
            (
                "application/json;as=Table;v=v1beta1;g=meta.k8s.io, application/json",
                PLAIN,
                Shape::Full,
            ),
            (
                "application/vnd.kubernetes.protobuf,application/json",
                PLAIN,
                Shape::Full,
            ),
            (
                "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1",
                PLAIN,
                Shape::Metadata,
            ),
            (
                "application/json;q=0.5, application/yaml",
                Encoding::Yaml,
                Shape::Full,
            ),
            ("application/json;stream=watch", PLAIN, Shape::Full),
        ] {
            assert_eq!(form(accept), Some(Form { encoding, shape }), "{accept}");
        }
        assert_eq!(form("application/vnd.kubernetes.protobuf"), None);
        assert_eq!(form("text/html"), None);
    }
}
