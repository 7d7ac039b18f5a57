use std::{convert::Infallible, sync::Arc};

use ::http::{Request, Response, StatusCode};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use k8s_openapi::api::core::v1::{
    ContainerPort, ExecAction, GRPCAction, HTTPHeader, TCPSocketAction,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use super::{
    check::{Outcome, dial_failure, go_duration, judge},
    http::{Client, Fault, Url},
    *,
};

const LIMIT: Duration = Duration::from_secs(30);

fn get(port: u16, path: &str) -> HttpGet {
    HttpGet {
        https: false,
        host: None,
        port: Ok(port),
        path: path.into(),
        headers: Vec::new(),
    }
}

async fn listen() -> (TcpListener, u16) {
    let listener = TcpListener::bind((LOOPBACK, 0)).await.expect("a port");
    let port = listener.local_addr().expect("bound").port();
    (listener, port)
}

type Body = BoxBody<Bytes, Infallible>;

fn text(body: impl Into<Bytes>) -> Body {
    Full::new(body.into()).boxed()
}

/// A server that answers by a function, until the test ends.
async fn serve(answer: fn(Request<Incoming>) -> Response<Body>) -> u16 {
    let (listener, port) = listen().await;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service =
                service_fn(move |request| async move { Ok::<_, Infallible>(answer(request)) });
            let served = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service);
            tokio::spawn(served);
        }
    });
    port
}

async fn ask(get: &HttpGet) -> Outcome {
    let client = Client::new().expect("TLS");
    let url = Url::new(get).expect("a URL");
    match client
        .get(url, &get.headers, "kube-probe/1.34", Some(LIMIT))
        .await
    {
        Ok(response) => judge(&response),
        Err(Fault::Request(text)) => Outcome::Failure(text),
        Err(Fault::Body(text)) => Outcome::Error("failure", text),
    }
}

fn statuses(request: Request<Incoming>) -> Response<Body> {
    let status = request.uri().path().trim_start_matches('/').parse();
    let mut response = Response::new(text("words"));
    *response.status_mut() = status.unwrap_or(StatusCode::IM_A_TEAPOT);
    response
}

#[tokio::test]
async fn statuses_from_200_to_399_are_well() {
    let port = serve(statuses).await;
    for (status, wanted) in [
        ("200", Outcome::Success),
        ("204", Outcome::Success),
        (
            "302",
            Outcome::Warning("Probe terminated redirects, Response body: words".into()),
        ),
        (
            "400",
            Outcome::Failure("HTTP probe failed with statuscode: 400".into()),
        ),
        (
            "500",
            Outcome::Failure("HTTP probe failed with statuscode: 500".into()),
        ),
    ] {
        // With a slash in front or without.
        assert_eq!(ask(&get(port, status)).await, wanted);
        assert_eq!(ask(&get(port, &format!("/{status}"))).await, wanted);
    }
}

fn redirects(request: Request<Incoming>) -> Response<Body> {
    let host = request.headers()["host"].to_str().expect("text").to_owned();
    let path = request.uri().path_and_query().map_or("", |it| it.as_str());
    let to = match path {
        "/relative" => "end?a=b#c".to_owned(),
        "/absolute" => format!("http://{host}/end?a=b"),
        "/away" => "http://example.invalid/".to_owned(),
        "/loop" => "/loop".to_owned(),
        "/odd" => "gopher://x/".to_owned(),
        "/end?a=b" => return Response::new(text("here")),
        other => panic!("{other}"),
    };
    let mut response = Response::new(text("there"));
    *response.status_mut() = StatusCode::FOUND;
    response
        .headers_mut()
        .insert("location", to.parse().expect("a header"));
    response
}

#[tokio::test]
async fn redirects_are_followed_within_the_host_and_ten_times() {
    let port = serve(redirects).await;
    assert_eq!(ask(&get(port, "/relative")).await, Outcome::Success);
    assert_eq!(ask(&get(port, "/absolute")).await, Outcome::Success);
    let away = Outcome::Warning("Probe terminated redirects, Response body: there".into());
    assert_eq!(ask(&get(port, "/away")).await, away);
    let stopped = format!("Get \"http://127.0.0.1:{port}/loop\": stopped after 10 redirects");
    assert_eq!(ask(&get(port, "/loop")).await, Outcome::Failure(stopped));
    let odd =
        format!("Get \"http://127.0.0.1:{port}/odd\": unsupported protocol scheme \"gopher\"");
    assert_eq!(ask(&get(port, "/odd")).await, Outcome::Failure(odd));
}

fn headers(request: Request<Incoming>) -> Response<Body> {
    let all = request.headers();
    let text_of = |name: &str| {
        let values = all.get_all(name).iter();
        let values: Vec<_> = values
            .map(|it| String::from_utf8_lossy(it.as_bytes()))
            .collect();
        values.join("+")
    };
    let got = ["host", "user-agent", "accept", "x-one"]
        .map(text_of)
        .join(" ");
    let target = request.uri().to_string();
    let mut response = Response::new(text(format!("{got} {target}")));
    *response.status_mut() = StatusCode::MULTIPLE_CHOICES;
    response
}

#[tokio::test]
async fn headers_are_the_kubelets_where_the_pod_says_nothing_else() {
    let port = serve(headers).await;
    let seen = |outcome| match outcome {
        Outcome::Warning(text) => text
            .trim_start_matches("Probe terminated redirects, Response body: ")
            .to_owned(),
        other => panic!("{other:?}"),
    };
    let plain = seen(ask(&get(port, "/a b?c=d")).await);
    assert_eq!(
        plain,
        format!("127.0.0.1:{port} kube-probe/1.34 */*  /a%20b?c=d")
    );
    let given = [
        ("Host", "h.example"),
        ("User-Agent", "me"),
        ("Accept", ""),
        ("X-One", "1"),
        ("X-One", "2"),
    ];
    let given = HttpGet {
        headers: given
            .iter()
            .map(|(name, value)| ((*name).into(), (*value).into()))
            .collect(),
        ..get(port, "/")
    };
    assert_eq!(seen(ask(&given).await), "h.example me  1+2 /");
}

#[tokio::test]
async fn closed_ports_and_servers_that_hang_up_fail_in_the_words_of_a_kubelet() {
    let (listener, port) = listen().await;
    drop(listener);
    let refused = format!(
        "Get \"http://127.0.0.1:{port}/x\": dial tcp 127.0.0.1:{port}: connect: connection refused"
    );
    assert_eq!(ask(&get(port, "/x")).await, Outcome::Failure(refused));
    let (listener, port) = listen().await;
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = [0; 1024];
            let _ = stream.read(&mut request).await;
        }
    });
    let hung_up = format!("Get \"http://127.0.0.1:{port}/x\": EOF");
    assert_eq!(ask(&get(port, "/x")).await, Outcome::Failure(hung_up));
}

#[tokio::test]
async fn a_server_that_says_nothing_or_half_of_it_takes_no_longer_than_the_timeout() {
    let client = Client::new().expect("TLS");
    let limit = Some(Duration::from_millis(50));
    let (listener, port) = listen().await;
    let url = Url::new(&get(port, "/x")).expect("a URL");
    // The kernel accepts, nobody answers.
    match client.get(url.clone(), &[], "a", limit).await {
        Err(Fault::Request(text)) => assert_eq!(
            text,
            format!(
                "Get \"http://127.0.0.1:{port}/x\": context deadline exceeded \
                 (Client.Timeout exceeded while awaiting headers)"
            )
        ),
        other => panic!("{other:?}"),
    }
    let half = tokio::spawn(async move {
        let mut streams = Vec::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = [0; 1024];
            let _ = stream.read(&mut request).await;
            let head = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf";
            let _ = stream.write_all(head).await;
            streams.push(stream);
        }
    });
    match client.get(url, &[], "a", limit).await {
        Err(Fault::Body(text)) => assert!(text.contains("reading body"), "{text}"),
        other => panic!("{other:?}"),
    }
    half.abort();
}

fn endless(_: Request<Incoming>) -> Response<Body> {
    let piece = || Ok(hyper::body::Frame::data(Bytes::from_static(&[b'x'; 4096])));
    let pieces = futures::stream::repeat_with(piece);
    Response::new(StreamBody::new(pieces).boxed())
}

#[tokio::test]
async fn of_an_endless_body_only_the_beginning_is_read() {
    let port = serve(endless).await;
    let client = Client::new().expect("TLS");
    let url = Url::new(&get(port, "/")).expect("a URL");
    let response = client
        .get(url, &[], "a", Some(LIMIT))
        .await
        .expect("an answer");
    assert_eq!((response.status, response.body.len()), (200, MAX_OUTPUT));
}

#[tokio::test]
async fn any_certificate_will_do_and_none_is_told() {
    let key = rcgen::generate_simple_self_signed(vec!["nobody.example".to_owned()]).expect("a key");
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(
        rustls::crypto::ring::default_provider(),
    ))
    .with_safe_default_protocol_versions()
    .expect("versions")
    .with_no_client_auth()
    .with_single_cert(
        vec![key.cert.der().clone()],
        rustls::pki_types::PrivatePkcs8KeyDer::from(key.signing_key.serialize_der()).into(),
    )
    .expect("a certificate");
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let (listener, port) = listen().await;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(stream) = acceptor.accept(stream).await else {
                continue;
            };
            let service = service_fn(|_| async { Ok::<_, Infallible>(Response::new(text("ok"))) });
            let served = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service);
            tokio::spawn(served);
        }
    });
    let secure = HttpGet {
        https: true,
        ..get(port, "/")
    };
    assert_eq!(ask(&secure).await, Outcome::Success);
    // A server without TLS says so.
    let plain = HttpGet {
        https: true,
        ..get(serve(statuses).await, "/200")
    };
    match ask(&plain).await {
        Outcome::Failure(text) => assert!(text.ends_with(http::PLAIN_SERVER), "{text}"),
        other => panic!("{other:?}"),
    }
}

/// A gRPC server that answers by the service that is asked for.
async fn grpc_server() -> u16 {
    async fn answer(request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
        assert_eq!(request.uri().path(), "/grpc.health.v1.Health/Check");
        assert_eq!(request.headers()["content-type"], "application/grpc");
        let body = request
            .into_body()
            .collect()
            .await
            .expect("a body")
            .to_bytes();
        let (status, code) = match body.get(7..).unwrap_or_default() {
            b"" => (1, "0"),
            b"down" => (2, "0"),
            b"strange" => (77, "0"),
            b"none" => (0, "5"),
            b"mute" => return std::future::pending().await,
            _ => (0, "12"),
        };
        let mut trailers = ::http::HeaderMap::new();
        trailers.insert("grpc-status", code.parse().expect("a header"));
        trailers.insert("grpc-message", "no%20such".parse().expect("a header"));
        let data = Bytes::copy_from_slice(&[0, 0, 0, 0, 2, 8, status]);
        let frames = [
            hyper::body::Frame::data(data),
            hyper::body::Frame::trailers(trailers),
        ];
        let frames = futures::stream::iter(frames.map(Ok));
        Ok(Response::new(StreamBody::new(frames).boxed()))
    }
    let (listener, port) = listen().await;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let served = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), service_fn(answer));
            tokio::spawn(served);
        }
    });
    port
}

#[tokio::test]
async fn grpc_is_well_where_the_service_is_serving() {
    let port = grpc_server().await;
    let check = |service: &'static str| grpc::check(LOOPBACK, port, service, LIMIT);
    assert_eq!(check("").await, Ok(()));
    let told = |text: &str| Err(text.to_owned());
    assert_eq!(
        check("down").await,
        told("service unhealthy (responded with \"NOT_SERVING\")")
    );
    assert_eq!(
        check("strange").await,
        told("service unhealthy (responded with \"77\")")
    );
    assert_eq!(
        check("none").await,
        told("error: health rpc probe failed: rpc error: code = 5 desc = no such")
    );
    assert_eq!(
        check("other").await,
        told(
            "error: this server does not implement the grpc health protocol \
             (grpc.health.v1.Health): no such"
        )
    );
    let mute = grpc::check(LOOPBACK, port, "mute", Duration::from_millis(50)).await;
    assert_eq!(mute, told("timeout: health rpc did not complete within 0s"));
    // A server that speaks something else.
    let other = grpc::check(LOOPBACK, serve(statuses).await, "", LIMIT).await;
    assert!(other.is_err_and(|it| it.starts_with("error: health rpc probe failed: ")));
    let (listener, closed) = listen().await;
    drop(listener);
    let closed = grpc::check(LOOPBACK, closed, "", LIMIT).await;
    assert!(closed.is_err_and(|it| it.contains("failed to connect service at")));
}

#[tokio::test]
async fn a_refused_connection_is_worded_as_by_a_kubelet() {
    let (listener, port) = listen().await;
    drop(listener);
    let error = TcpStream::connect((LOOPBACK, port))
        .await
        .expect_err("closed");
    assert_eq!(
        dial_failure("::1", port, &error),
        format!("dial tcp [::1]:{port}: connect: connection refused")
    );
    assert_eq!(go_duration(Duration::from_secs(1)), "1s");
    assert_eq!(go_duration(Duration::from_secs(90)), "1m30s");
    assert_eq!(go_duration(Duration::from_secs(3601)), "1h0m1s");
}

fn container(probe: Probe) -> Container {
    let port = |name: &str, number| ContainerPort {
        name: Some(name.into()),
        container_port: number,
        ..ContainerPort::default()
    };
    Container {
        ports: Some(vec![port("web", 8080), port("admin", 9090)]),
        liveness_probe: Some(probe),
        ..Container::default()
    }
}

fn spec(probe: Probe) -> Spec {
    let probes = Probes::of(&container(probe)).expect("a probe");
    assert_eq!((probes.startup, probes.readiness), (None, None));
    probes.liveness.expect("the one")
}

#[test]
fn a_container_without_probes_has_none() {
    assert_eq!(Probes::of(&Container::default()), None);
}

#[test]
fn all_fields_are_taken_and_missing_ones_are_the_defaults() {
    let exec = |command: &[&str]| ExecAction {
        command: Some(command.iter().map(|&it| it.to_owned()).collect()),
    };
    let bare = spec(Probe {
        exec: Some(exec(&["true"])),
        ..Probe::default()
    });
    let defaults = Timing {
        initial_delay: Duration::ZERO,
        period: Duration::from_secs(10),
        success: 1,
        failure: 3,
    };
    assert_eq!(bare.timing, defaults);
    assert_eq!(bare.timeout, Duration::from_secs(1));
    assert_eq!(bare.action, Action::Exec(vec!["true".into()]));
    let full = spec(Probe {
        http_get: Some(HTTPGetAction {
            host: Some("h".into()),
            path: Some("/p".into()),
            port: IntOrString::String("web".into()),
            scheme: Some("HTTPS".into()),
            http_headers: Some(vec![HTTPHeader {
                name: "A".into(),
                value: "b".into(),
            }]),
        }),
        initial_delay_seconds: Some(2),
        period_seconds: Some(3),
        timeout_seconds: Some(4),
        success_threshold: Some(5),
        failure_threshold: Some(6),
        ..Probe::default()
    });
    let seconds = Duration::from_secs;
    assert_eq!(
        full.timing,
        Timing {
            initial_delay: seconds(2),
            period: seconds(3),
            success: 5,
            failure: 6
        }
    );
    assert_eq!(full.timeout, seconds(4));
    let wanted = HttpGet {
        https: true,
        host: Some("h".into()),
        port: Ok(8080),
        path: "/p".into(),
        headers: vec![("A".into(), "b".into())],
    };
    assert_eq!(full.action, Action::Http(wanted));
    let grpc = spec(Probe {
        grpc: Some(GRPCAction {
            port: 70_000,
            service: Some("s".into()),
        }),
        ..Probe::default()
    });
    let wanted = Action::Grpc {
        port: Err("invalid port number: 70000".into()),
        service: "s".into(),
    };
    assert_eq!(grpc.action, wanted);
}

#[test]
fn a_port_has_a_number_a_name_or_a_reason() {
    let port = |port| match spec(Probe {
        tcp_socket: Some(TCPSocketAction { host: None, port }),
        ..Probe::default()
    })
    .action
    {
        Action::Tcp { port, .. } => port,
        other => panic!("{other:?}"),
    };
    let named = |name: &str| port(IntOrString::String(name.into()));
    assert_eq!(port(IntOrString::Int(1)), Ok(1));
    assert_eq!(named("admin"), Ok(9090));
    assert_eq!(named("7"), Ok(7));
    assert_eq!(
        port(IntOrString::Int(0)),
        Err("invalid port number: 0".into())
    );
    assert_eq!(
        named("nosuch"),
        Err(
            "the container has no port named \"nosuch\" (its ports are named admin, web); \
             a number works as well"
                .into()
        )
    );
}
