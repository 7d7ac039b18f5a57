//! One HTTP/2 connection, as client libraries keep it: many requests and watches at once.

use anyhow::{Context, Result};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;

use crate::client::{Client, Request, Response, texts};

/// A connection; clones share it. It ends with the last of them.
#[derive(Clone)]
pub struct Link {
    sender: SendRequest<Full<Bytes>>,
    address: String,
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Link").field(&self.address).finish()
    }
}

impl Client {
    /// A new connection that speaks HTTP/2.
    ///
    /// # Errors
    /// Where the server cannot be reached or does not speak it.
    pub async fn link(&self) -> Result<Link> {
        let tcp = TcpStream::connect(&self.address).await?;
        tcp.set_nodelay(true)?;
        let tls = self.http2.connect(self.host.clone(), tcp).await?;
        let (sender, driver) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(tls)).await?;
        // Its errors come out of the requests too.
        tokio::spawn(driver);
        Ok(Link {
            sender,
            address: self.address.clone(),
        })
    }
}

impl Link {
    /// Sends a request and reads the answer to its end.
    ///
    /// # Errors
    /// Where the connection breaks.
    pub async fn send(&self, request: &Request) -> Result<Response> {
        let (parts, body) = self.start(request).await?.into_parts();
        Ok(Response {
            status: parts.status.as_u16(),
            headers: texts(&parts.headers),
            body: body.collect().await?.to_bytes(),
        })
    }

    /// Sends a request; the body of the answer is still to be read.
    ///
    /// # Errors
    /// Where the connection breaks.
    pub async fn start(&self, request: &Request) -> Result<hyper::Response<Incoming>> {
        let what = || format!("{} {}", request.method, request.path);
        let mut builder = hyper::Request::builder()
            .method(request.method.as_str())
            .uri(format!("https://{}{}", self.address, request.path));
        for (name, value) in &request.headers {
            builder = builder.header(name, value);
        }
        let message = builder.body(Full::new(request.body.clone()))?;
        let mut sender = self.sender.clone();
        sender.ready().await.with_context(what)?;
        sender.send_request(message).await.with_context(what)
    }
}
