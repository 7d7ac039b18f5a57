//! The kubelet API: what an API server, and through it `kubectl logs`, asks of this node.
//!
//! | path | method | right (any of these on `nodes`) |
//! |---|---|---|
//! | `/healthz` | GET | `healthz`, `proxy` |
//! | `/pods`, `/runningpods/` | GET | `pods`, `proxy` |
//! | `/stats/summary` | GET | `stats` |
//! | `/metrics/resource`, `/metrics` | GET | `metrics` |
//! | `/containerLogs/NAMESPACE/POD/CONTAINER` | GET | `proxy` |
//! | `/exec/NAMESPACE/POD/[UID/]CONTAINER` | GET (WebSocket), POST (SPDY) | `proxy` |
//! | `/attach/NAMESPACE/POD/[UID/]CONTAINER` | GET (WebSocket), POST (SPDY) | `proxy` |
//! | `/portForward/NAMESPACE/POD[/UID]` | GET (WebSocket), POST (SPDY) | `proxy` |
//! | all else that a kubelet serves | | answered with 501, after the same checks |
//!
//! TLS always; a client is known by a certificate of the cluster's CA or by a bearer token
//! (TokenReview), and allowed by a SubjectAccessReview. Nobody is anonymous here.
//!
//! Tasks: one accepts, one serves each connection, one carries each stream; all end with the token of [`serve`].

mod auth;
mod channel;
mod forward;
mod logs;
mod route;
mod server;
mod stats;
mod stream;
mod tls;

pub use auth::Caller;
pub use server::{Listener, ServeError, serve};
pub use tls::{Replaceable, ServingCertificate, TlsError, server_config};
