//! `Check` of `grpc.health.v1.Health`, over plain HTTP/2.
//!
//! One request of one field and an answer of one field: a frame is a flag (0: not compressed), a length (`u32`,
//! big-endian) and a protobuf message. See the gRPC protocol over HTTP/2 and `grpc/health/v1/health.proto`.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{net::TcpStream, time::timeout};

use super::{
    MAX_OUTPUT, VERSION,
    check::{go_duration, join},
};

/// Names of `HealthCheckResponse.ServingStatus`, by number.
const STATUSES: [&str; 4] = ["UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN"];
const SERVING: u64 = 1;
/// `grpc-status` of success, and of a method that the server does not have.
const OK: &str = "0";
const UNIMPLEMENTED: &str = "12";

/// Asks; an error is what the user is told.
pub(super) async fn check(
    host: &str,
    port: u16,
    service: &str,
    limit: Duration,
) -> Result<(), String> {
    let at = join(host, port);
    let deadline = tokio::time::Instant::now() + limit;
    let within = go_duration(limit);
    let stream = match timeout(limit, TcpStream::connect((host, port))).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            return Err(format!(
                "error: failed to connect service at {at:?}: {error}"
            ));
        }
        Err(_) => {
            return Err(format!(
                "timeout: failed to connect service {at:?} within {within}: context deadline exceeded"
            ));
        }
    };
    let asked = tokio::time::timeout_at(deadline, ask(stream, &at, service)).await;
    let answer = asked.unwrap_or_else(|_| {
        Err(format!(
            "timeout: health rpc did not complete within {within}"
        ))
    })?;
    match answer {
        SERVING => Ok(()),
        other => {
            let name = usize::try_from(other).ok().and_then(|it| STATUSES.get(it));
            let name = name.map_or_else(|| other.to_string(), |name| (*name).to_owned());
            Err(format!("service unhealthy (responded with {name:?})"))
        }
    }
}

fn failed(text: impl std::fmt::Display) -> String {
    format!("error: health rpc probe failed: {text}")
}

/// The number of the serving status.
async fn ask(stream: TcpStream, authority: &str, service: &str) -> Result<u64, String> {
    let (mut sender, connection) = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
        .handshake::<_, Full<Bytes>>(TokioIo::new(stream))
        .await
        .map_err(failed)?;
    let request = Request::builder()
        .method(Method::POST)
        .uri(format!("http://{authority}/grpc.health.v1.Health/Check"))
        .header(header::CONTENT_TYPE, "application/grpc")
        .header(header::TE, "trailers")
        .header(header::USER_AGENT, format!("kube-probe/{VERSION}"))
        .body(Full::new(Bytes::from(message(service))))
        .map_err(failed)?;
    let talk = async {
        let response = sender.send_request(request).await.map_err(failed)?;
        let status = response.status();
        if !status.is_success() {
            return Err(failed(format!("unexpected HTTP status code {status}")));
        }
        let (head, body) = response.into_parts();
        let (bytes, trailers) = read(body).await?;
        // A server that has nothing to say sends its status at once.
        judge(trailers.as_ref().unwrap_or(&head.headers))?;
        serving_status(&bytes).ok_or_else(|| failed("an answer that is no HealthCheckResponse"))
    };
    tokio::pin!(connection, talk);
    tokio::select! {
        biased;
        outcome = &mut talk => outcome,
        _ = &mut connection => talk.await,
    }
}

async fn read(mut body: Incoming) -> Result<(Vec<u8>, Option<HeaderMap>), String> {
    let (mut bytes, mut trailers) = (Vec::new(), None);
    while let Some(frame) = body.frame().await {
        match frame.map_err(failed)?.into_data() {
            Ok(piece) if bytes.len() + piece.len() > MAX_OUTPUT => {
                return Err(failed(format!("an answer of more than {MAX_OUTPUT} bytes")));
            }
            Ok(piece) => bytes.extend_from_slice(&piece),
            Err(frame) => trailers = frame.into_trailers().ok(),
        }
    }
    Ok((bytes, trailers))
}

fn judge(headers: &HeaderMap) -> Result<(), String> {
    let text = |name: &str| {
        let value = headers.get(name).map(|it| it.as_bytes());
        let value = value.unwrap_or_default();
        percent_encoding::percent_decode(value)
            .decode_utf8_lossy()
            .into_owned()
    };
    let (status, message) = (text("grpc-status"), text("grpc-message"));
    match status.as_str() {
        OK => Ok(()),
        UNIMPLEMENTED => Err(format!(
            "error: this server does not implement the grpc health protocol \
             (grpc.health.v1.Health): {message}"
        )),
        "" => Err(failed("an answer without grpc-status")),
        code => Err(failed(format!("rpc error: code = {code} desc = {message}"))),
    }
}

/// `HealthCheckRequest{service = 1}` in its frame; a default is left out.
fn message(service: &str) -> Vec<u8> {
    let mut body = Vec::new();
    if !service.is_empty() {
        body.push(0x0a);
        varint(&mut body, service.len() as u64);
        body.extend_from_slice(service.as_bytes());
    }
    let mut frame = vec![0];
    frame.extend_from_slice(&u32::try_from(body.len()).unwrap_or(u32::MAX).to_be_bytes());
    frame.extend(body);
    frame
}

fn varint(to: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        to.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    to.push(value as u8);
}

/// `HealthCheckResponse{status = 1}` from its frame; fields of newer servers are passed over.
fn serving_status(frame: &[u8]) -> Option<u64> {
    let (&[flag, a, b, c, d], rest) = frame.split_first_chunk::<5>()?;
    let length = u32::from_be_bytes([a, b, c, d]) as usize;
    if flag != 0 {
        return None;
    }
    let mut body = rest.get(..length)?;
    let mut status = 0;
    while !body.is_empty() {
        let key = take_varint(&mut body)?;
        match (key >> 3, key & 7) {
            (1, 0) => status = take_varint(&mut body)?,
            (_, 0) => drop(take_varint(&mut body)?),
            (_, 1) => body = body.get(8..)?,
            (_, 2) => {
                let length = usize::try_from(take_varint(&mut body)?).ok()?;
                body = body.get(length..)?;
            }
            (_, 5) => body = body.get(4..)?,
            _ => return None,
        }
    }
    Some(status)
}

fn take_varint(from: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = from.split_first()?;
        *from = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_messages_are_those_of_the_protocol() {
        assert_eq!(message(""), [0, 0, 0, 0, 0]);
        assert_eq!(message("ab"), [0, 0, 0, 0, 4, 0x0a, 2, b'a', b'b']);
        assert_eq!(serving_status(&[0, 0, 0, 0, 2, 8, 1]), Some(1));
        assert_eq!(serving_status(&[0, 0, 0, 0, 0]), Some(0));
        // With a field that we do not know; compressed; cut off.
        assert_eq!(serving_status(&[0, 0, 0, 0, 5, 0x12, 1, 9, 8, 2]), Some(2));
        assert_eq!(serving_status(&[1, 0, 0, 0, 2, 8, 1]), None);
        assert_eq!(serving_status(&[0, 0, 0, 0, 9, 8, 1]), None);
    }

    proptest! {
        #[test]
        fn strange_answers_are_no_panic(frame: Vec<u8>) {
            let _ = serving_status(&frame);
        }

        #[test]
        fn numbers_come_out_as_they_went_in(value: u64) {
            let mut bytes = Vec::new();
            varint(&mut bytes, value);
            prop_assert_eq!(take_varint(&mut bytes.as_slice()), Some(value));
        }
    }
}
