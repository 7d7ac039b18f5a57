//! A server between an agent and its API server: it ends TLS, and answers itself what a test wants answered.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use anyhow::{Context, Result};
use base64::Engine;
use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Method, Uri};
use hyper_util::rt::TokioIo;
use rustls::pki_types::PrivateKeyDer;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::client::{Client, Request};

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// The API server answers, as the kubeconfig's user.
    Pass,
    /// It is answered with this code, and `Retry-After` where seconds are given.
    Refuse(u16, Option<u64>),
    /// It is never answered.
    Hang,
}

/// A request that did not pass.
#[derive(Clone, Debug)]
pub struct Stopped {
    /// When it came.
    pub at: Instant,
    /// Its method.
    pub method: String,
    /// Its path, without the query.
    pub path: String,
}

type Rule = Box<dyn Fn(&Method, &Uri) -> Fate + Send + Sync>;

struct Shared {
    rule: Mutex<Rule>,
    stopped: Mutex<Vec<Stopped>>,
    upstream: Client,
}

/// The server; it ends with the value.
pub struct Between {
    shared: Arc<Shared>,
    // Ends its tasks with it.
    _runtime: tokio::runtime::Runtime,
}

impl std::fmt::Debug for Between {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Between").finish_non_exhaustive()
    }
}

impl Between {
    /// A server before that of a kubeconfig; `new` is written to reach it. All passes.
    ///
    /// # Errors
    /// Where the kubeconfig cannot be used or no port can be had.
    pub fn before(kubeconfig: &Path, new: &Path) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()?;
        let upstream = Client::new(kubeconfig)?;
        let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()])?;
        let key = PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)?;
        let socket = runtime.block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))?;
        write_kubeconfig(kubeconfig, new, socket.local_addr()?, &made.cert.pem())?;
        let shared = Arc::new(Shared {
            rule: Mutex::new(Box::new(|_, _| Fate::Pass)),
            stopped: Mutex::default(),
            upstream,
        });
        runtime.spawn(Arc::clone(&shared).accept(socket, TlsAcceptor::from(Arc::new(tls))));
        Ok(Self {
            shared,
            _runtime: runtime,
        })
    }

    /// Decides from now on what becomes of requests; those that hang go on hanging.
    pub fn set(&self, rule: impl Fn(&Method, &Uri) -> Fate + Send + Sync + 'static) {
        *lock(&self.shared.rule) = Box::new(rule);
    }

    /// The requests that did not pass since this was asked last.
    pub fn take_stopped(&self) -> Vec<Stopped> {
        std::mem::take(&mut *lock(&self.shared.stopped))
    }

    /// How many did not.
    pub fn stopped(&self) -> usize {
        lock(&self.shared.stopped).len()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn write_kubeconfig(old: &Path, new: &Path, address: SocketAddr, authority: &str) -> Result<()> {
    let mut file: serde_json::Value = serde_norway::from_slice(&std::fs::read(old)?)?;
    let authority = base64::engine::general_purpose::STANDARD.encode(authority);
    file["clusters"][0]["cluster"] = serde_json::json!({
        "server": format!("https://{address}"),
        "certificate-authority-data": authority,
    });
    std::fs::write(new, serde_json::to_vec(&file)?).context("a kubeconfig")
}

type Answer = hyper::Response<UnsyncBoxBody<Bytes, hyper::Error>>;

impl Shared {
    async fn accept(self: Arc<Self>, socket: TcpListener, tls: TlsAcceptor) {
        while let Ok((stream, _)) = socket.accept().await {
            let (shared, tls) = (Arc::clone(&self), tls.clone());
            tokio::spawn(async move {
                let Ok(stream) = tls.accept(stream).await else {
                    return;
                };
                let service = service_fn(|request| {
                    let shared = Arc::clone(&shared);
                    async move { Ok::<_, Infallible>(shared.answer(request).await) }
                });
                // What breaks a connection breaks it on both sides.
                let _ = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
            });
        }
    }

    async fn answer(&self, request: hyper::Request<Incoming>) -> Answer {
        let fate = lock(&self.rule)(request.method(), request.uri());
        if fate != Fate::Pass {
            lock(&self.stopped).push(Stopped {
                at: Instant::now(),
                method: request.method().to_string(),
                path: request.uri().path().to_owned(),
            });
        }
        match fate {
            Fate::Hang => std::future::pending().await,
            Fate::Refuse(code, retry_after) => refusal(code, retry_after),
            Fate::Pass => self
                .pass(request)
                .await
                .unwrap_or_else(|_| refusal(502, None)),
        }
    }

    async fn pass(&self, request: hyper::Request<Incoming>) -> Result<Answer> {
        let (head, body) = request.into_parts();
        let kept = ["host", "connection", "content-length", "transfer-encoding"];
        let headers = head
            .headers
            .iter()
            .filter(|(name, _)| !kept.contains(&name.as_str()))
            .map(|(name, value)| Ok((name.to_string(), value.to_str()?.to_owned())))
            .collect::<Result<_>>()?;
        let request = Request {
            method: head.method.to_string(),
            path: head.uri.to_string(),
            headers,
            body: body.collect().await?.to_bytes(),
        };
        let (answer, connection) = self.upstream.start(&request).await?;
        // The connection lives as long as what comes over it.
        Ok(answer.map(|body| {
            body.map_frame(move |frame| {
                let _ = &connection;
                frame
            })
            .boxed_unsync()
        }))
    }
}

fn refusal(code: u16, retry_after: Option<u64>) -> Answer {
    let text = Full::new(Bytes::from_static(b"not now")).map_err(|never| match never {});
    let mut answer = hyper::Response::new(text.boxed_unsync());
    *answer.status_mut() = hyper::StatusCode::from_u16(code).expect("a status code");
    if let Some(seconds) = retry_after {
        answer.headers_mut().insert("retry-after", seconds.into());
    }
    answer
}
