//! Which request means what, and which right it needs.

use http::Method;
use percent_encoding::percent_decode_str;

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Route {
    Healthz,
    Pods,
    RunningPods,
    ContainerLogs {
        namespace: String,
        pod: String,
        container: String,
    },
    /// `/stats/summary`.
    Summary,
    /// `/metrics/resource`.
    ResourceMetrics,
    /// `/metrics`.
    Metrics,
    Exec(Container),
    Attach(Container),
    PortForward {
        namespace: String,
        pod: String,
        /// The pod's, where the caller means that one and no later one of its name.
        uid: Option<String>,
    },
    /// A kubelet serves it; this agent does not yet.
    NotBuilt {
        path: &'static str,
        subresources: &'static [&'static str],
    },
    /// Known path, wrong method; the methods that are right.
    WrongMethod(&'static str),
    Unknown,
}

/// A container of a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Container {
    pub(super) namespace: String,
    pub(super) pod: String,
    /// The pod's, where the caller means that one and no later one of its name.
    pub(super) uid: Option<String>,
    pub(super) name: String,
}

impl Container {
    fn of(parts: &[&str]) -> Option<Self> {
        let (namespace, pod, uid, name) = match parts {
            [namespace, pod, name] => (namespace, pod, None, name),
            [namespace, pod, uid, name] => (namespace, pod, Some((*uid).to_owned()), name),
            _ => return None,
        };
        Some(Self {
            namespace: (*namespace).to_owned(),
            pod: (*pod).to_owned(),
            uid,
            name: (*name).to_owned(),
        })
    }
}

const NOT_BUILT: [(&str, &[&str]); 9] = [
    ("run", &["proxy"]),
    ("cri", &["proxy"]),
    ("debug", &["proxy"]),
    ("checkpoint", &["checkpoint", "proxy"]),
    ("configz", &["configz", "proxy"]),
    ("logs", &["log", "proxy"]),
    ("stats", &["stats"]),
    ("metrics", &["metrics"]),
    ("spec", &["spec", "proxy"]),
];

impl Route {
    /// Reads method and path (as it came, percent-encoded).
    pub(super) fn of(method: &Method, path: &str) -> Self {
        let decoded: Option<Vec<String>> = path
            .trim_matches('/')
            .split('/')
            .map(|part| percent_decode_str(part).decode_utf8().ok().map(Into::into))
            .collect();
        let Some(parts) = decoded else {
            return Self::Unknown;
        };
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        let found = match parts.as_slice() {
            ["healthz"] | ["healthz", "ping" | "log" | "syncloop"] => Self::Healthz,
            ["pods"] => Self::Pods,
            ["runningpods"] => Self::RunningPods,
            ["containerLogs", namespace, pod, container] => Self::ContainerLogs {
                namespace: (*namespace).to_owned(),
                pod: (*pod).to_owned(),
                container: (*container).to_owned(),
            },
            ["stats", "summary"] => Self::Summary,
            ["metrics", "resource"] => Self::ResourceMetrics,
            ["metrics"] => Self::Metrics,
            ["exec", rest @ ..] => Container::of(rest).map_or(Self::Unknown, Self::Exec),
            ["attach", rest @ ..] => Container::of(rest).map_or(Self::Unknown, Self::Attach),
            ["portForward", namespace, pod, uid @ ..] if uid.len() < 2 => Self::PortForward {
                namespace: (*namespace).to_owned(),
                pod: (*pod).to_owned(),
                uid: uid.first().map(|it| (*it).to_owned()),
            },
            [first, ..] => NOT_BUILT.iter().find(|(path, _)| path == first).map_or(
                Self::Unknown,
                |(path, subresources)| Self::NotBuilt { path, subresources },
            ),
            [] => Self::Unknown,
        };
        match found {
            Self::Unknown | Self::NotBuilt { .. } => found,
            // Streams begin with a GET (WebSocket) or a POST (SPDY).
            Self::Exec(_) | Self::Attach(_) | Self::PortForward { .. }
                if method == Method::POST =>
            {
                found
            }
            _ if method != Method::GET && method != Method::HEAD => Self::WrongMethod("GET"),
            _ => found,
        }
    }

    /// The sub-resources of `nodes` of which one must be allowed (kubelet `server/auth.go`).
    pub(super) fn subresources(&self) -> &'static [&'static str] {
        match self {
            Self::Healthz => &["healthz", "proxy"],
            Self::Pods | Self::RunningPods => &["pods", "proxy"],
            Self::Summary => &["stats"],
            Self::ResourceMetrics | Self::Metrics => &["metrics"],
            Self::NotBuilt { subresources, .. } => subresources,
            Self::ContainerLogs { .. }
            | Self::Exec(_)
            | Self::Attach(_)
            | Self::PortForward { .. }
            | Self::WrongMethod(_)
            | Self::Unknown => &["proxy"],
        }
    }
}

/// The verb of an access review for a method (kubelet `server/auth.go`).
pub(super) fn verb(method: &Method) -> &'static str {
    match *method {
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => "get",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_read_as_a_kubelet_reads_them() {
        let logs = Route::ContainerLogs {
            namespace: "n".to_owned(),
            pod: "p".to_owned(),
            container: "c".to_owned(),
        };
        assert_eq!(Route::of(&Method::GET, "/containerLogs/n/p/c"), logs);
        assert_eq!(
            Route::of(&Method::GET, "/containerLogs/n/p"),
            Route::Unknown
        );
        assert_eq!(
            Route::of(&Method::POST, "/containerLogs/n/p/c"),
            Route::WrongMethod("GET")
        );
        assert_eq!(Route::of(&Method::GET, "/runningpods/"), Route::RunningPods);
        assert_eq!(Route::of(&Method::GET, "/stats/summary/"), Route::Summary);
        assert_eq!(Route::of(&Method::GET, "/metrics"), Route::Metrics);
        assert_eq!(
            Route::of(&Method::GET, "/metrics/resource"),
            Route::ResourceMetrics
        );
        assert!(matches!(
            Route::of(&Method::GET, "/metrics/cadvisor"),
            Route::NotBuilt { .. }
        ));
        assert_eq!(
            Route::of(&Method::GET, "/containerLogs/n/p/%ff"),
            Route::Unknown
        );
        let forward = |uid: Option<&str>| Route::PortForward {
            namespace: "n".to_owned(),
            pod: "p".to_owned(),
            uid: uid.map(str::to_owned),
        };
        let of = |path| Route::of(&Method::POST, path);
        assert_eq!(of("/portForward/n/p"), forward(None));
        assert_eq!(of("/portForward/n/p/u"), forward(Some("u")));
        assert_eq!(of("/portForward/n/p/u/c"), Route::Unknown);
        assert!(matches!(
            of("/run/n/p/c"),
            Route::NotBuilt { path: "run", .. }
        ));
        let container = |uid: Option<&str>| Container {
            namespace: "n".to_owned(),
            pod: "p".to_owned(),
            uid: uid.map(str::to_owned),
            name: "c".to_owned(),
        };
        for method in [Method::GET, Method::POST] {
            let exec = Route::of(&method, "/exec/n/p/c");
            assert_eq!(exec, Route::Exec(container(None)));
        }
        let attach = Route::of(&Method::GET, "/attach/n/p/u/c");
        assert_eq!(attach, Route::Attach(container(Some("u"))));
        assert_eq!(Route::of(&Method::GET, "/exec/n/p"), Route::Unknown);
        let wrong = Route::of(&Method::DELETE, "/exec/n/p/c");
        assert_eq!(wrong, Route::WrongMethod("GET"));
    }
}
