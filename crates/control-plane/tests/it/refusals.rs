//! Bad requests: each gets a `Status` that says what is wrong, in the words of the real server.

use http::StatusCode;
use serde_json::json;

use super::plane::{JSON, MAPS, Plane, config_map, text};

/// A request, and the code and message of its refusal.
struct Case(&'static str, &'static str, &'static str, u16, &'static str);

const PODS: &str = "/api/v1/namespaces/default/pods";

/// Codes and messages as kube-apiserver 1.34 gives them to the same requests.
const CASES: &[Case] = &[
    Case(
        "GET",
        "/api/v1/namespaces/default/configmaps/nope",
        "",
        404,
        "configmaps \"nope\" not found",
    ),
    Case(
        "GET",
        "/apis/apps/v1/namespaces/default/deployments/nope",
        "",
        404,
        "deployments.apps \"nope\" not found",
    ),
    Case(
        "GET",
        "/api/v1/nope",
        "",
        404,
        "the server could not find the requested resource",
    ),
    Case(
        "POST",
        MAPS,
        "{}",
        422,
        "ConfigMap \"\" is invalid: metadata.name: Required value: name or generateName is required",
    ),
    Case(
        "POST",
        MAPS,
        "{",
        400,
        "the object provided is unrecognized (must be of type ConfigMap): couldn't get version/kind; json parse error: unexpected end of JSON input ({)",
    ),
    Case(
        "POST",
        MAPS,
        r#"{"apiVersion":"v1","kind":"Secret","metadata":{"name":"x"}}"#,
        400,
        "Secret in version \"v1\" cannot be handled as a ConfigMap: converting (v1.Secret) to (core.ConfigMap): unknown conversion",
    ),
    Case(
        "POST",
        MAPS,
        r#"{"metadata":{"name":"x","namespace":"other"}}"#,
        400,
        "the namespace of the provided object does not match the namespace sent on the request",
    ),
    Case(
        "POST",
        MAPS,
        r#"{"metadata":{"name":"x","resourceVersion":"5"}}"#,
        500,
        "resourceVersion should not be set on objects to be created",
    ),
    Case(
        "POST",
        MAPS,
        r#"{"metadata":{"name":"x"},"data":{"a/b":"c"}}"#,
        422,
        "ConfigMap \"x\" is invalid: data[a/b]: Invalid value: \"a/b\": a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')",
    ),
    Case(
        "POST",
        "/api/v1/configmaps",
        "{}",
        405,
        "the server does not allow this method on the requested resource",
    ),
    Case(
        "PUT",
        "/api/v1/namespaces/default/configmaps/a",
        r#"{"metadata":{"name":"b"}}"#,
        400,
        "the name of the object (b) does not match the name on the URL (a)",
    ),
    Case(
        "PUT",
        "/api/v1/namespaces/default/configmaps/a",
        r#"{"metadata":{}}"#,
        400,
        "the name of the object (a based on URL) was undeterminable: name must be provided",
    ),
    Case(
        "PUT",
        "/api/v1/namespaces/default/configmaps/a",
        r#"{"metadata":{"name":"a"}}"#,
        404,
        "configmaps \"a\" not found",
    ),
    Case(
        "PATCH",
        "/api/v1/pods",
        "",
        405,
        "the server does not allow this method on the requested resource",
    ),
    Case(
        "GET",
        "/api/v1/pods?labelSelector=a%20in%20b",
        "",
        400,
        "unable to parse requirement: found 'b' expected: '('",
    ),
    Case(
        "GET",
        "/api/v1/pods?fieldSelector=foo%3Dbar",
        "",
        400,
        "field label not supported: foo",
    ),
    Case(
        "GET",
        "/api/v1/pods?limit=abc",
        "",
        400,
        "strconv.ParseInt: parsing \"abc\": invalid syntax",
    ),
    Case(
        "GET",
        "/api/v1/pods?resourceVersion=abc",
        "",
        400,
        "invalid resource version: resourceVersion: Invalid value: \"abc\": strconv.ParseUint: parsing \"abc\": invalid syntax",
    ),
    Case(
        "GET",
        "/api/v1/pods?resourceVersionMatch=Exact",
        "",
        422,
        "ListOptions.meta.k8s.io \"\" is invalid: resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden unless resourceVersion is provided",
    ),
    Case(
        "GET",
        "/api/v1/pods?watch=true&sendInitialEvents=true",
        "",
        422,
        "ListOptions.meta.k8s.io \"\" is invalid: resourceVersionMatch: Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
    ),
    Case(
        "POST",
        "/api/v1/namespaces/default/configmaps?dryRun=Some",
        "{}",
        422,
        "CreateOptions.meta.k8s.io \"\" is invalid: dryRun: Unsupported value: [\"Some\"]: supported values: \"All\"",
    ),
    Case(
        "DELETE",
        "/api/v1/namespaces/default/configmaps/a?propagationPolicy=Foo",
        "",
        422,
        "DeleteOptions.meta.k8s.io \"\" is invalid: propagationPolicy: Unsupported value: \"Foo\": supported values: \"Foreground\", \"Background\", \"Orphan\", \"nil\"",
    ),
    Case(
        "POST",
        "/api/v1/namespaces/default/pods?fieldValidation=Strict",
        r#"{"metadata":{"name":"x"},"spec":{"foo":1}}"#,
        400,
        "Pod in version \"v1\" cannot be handled as a Pod: strict decoding error: unknown field \"spec.foo\"",
    ),
    Case(
        "POST",
        PODS,
        r#"{"metadata":{"name":"x"},"spec":{"containers":[{"name":"c","image":"i","ports":"x"}]}}"#,
        400,
        "Pod in version \"v1\" cannot be handled as a Pod: json: cannot unmarshal string into Go struct field Container.spec.containers.ports of type []v1.ContainerPort",
    ),
    Case(
        "POST",
        "/api/v1/namespaces/default/pods/nope/binding",
        r#"{"metadata":{"name":"nope"},"target":{"name":"n"}}"#,
        404,
        "pods \"nope\" not found",
    ),
    Case(
        "GET",
        "/api/v1/namespaces/default/pods/nope/log",
        "",
        404,
        "pods \"nope\" not found",
    ),
];

#[tokio::test]
async fn bad_requests_are_refused_in_known_words() {
    let plane = Plane::start().await;
    let mut client = plane.admin().await;
    for Case(method, target, body, code, message) in CASES {
        let (status, answer) = client.call(method, target, JSON, body).await;
        assert_eq!(answer["message"], *message, "{method} {target} {body}");
        assert_eq!(status.as_u16(), *code, "{method} {target} {body}: {answer}");
        assert_eq!(answer["kind"], "Status");
        assert_eq!(answer["code"], *code);
    }
    plane.stop().await;
}

#[tokio::test]
async fn media_types_that_are_not_spoken_are_refused() {
    let plane = Plane::start().await;
    let mut client = plane.admin().await;
    let (status, _) = client.call("POST", MAPS, "application/cbor", "x").await;
    assert_eq!(status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    let response = client
        .send("GET", MAPS, &[("accept", "text/html")], "")
        .await;
    assert_eq!(response.status(), StatusCode::NOT_ACCEPTABLE);
    text(response).await;
    let yaml = "metadata: {name: from-yaml}\ndata: {a: \"1\"}\n";
    let (status, created) = client.call("POST", MAPS, "application/yaml", yaml).await;
    assert_eq!(status, StatusCode::CREATED, "{created}");
    plane.stop().await;
}

#[tokio::test]
async fn a_huge_body_gets_an_answer_and_the_server_lives_on() {
    let plane = Plane::start().await;
    let mut client = plane.admin().await;
    let object = config_map("huge", &"x".repeat(10 << 20));
    let (status, answer) = client.post(MAPS, &object).await;
    assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(answer["reason"], "RequestEntityTooLarge");
    let mut client = plane.admin().await;
    assert_eq!(client.get("/version").await.0, StatusCode::OK);
    plane.stop().await;
}

#[tokio::test]
async fn who_brings_no_credentials_sees_health_and_version_alone() {
    let plane = Plane::start().await;
    let mut client = plane.anonymous().await;
    for path in ["/healthz", "/livez", "/readyz", "/version"] {
        let response = client.send("GET", path, &[], "").await;
        assert_eq!(response.status(), StatusCode::OK, "{path}");
        text(response).await;
    }
    for path in [
        "/api",
        "/api/v1/namespaces",
        "/metrics",
        "/openapi/v3",
        MAPS,
    ] {
        let (status, answer) = client.get(path).await;
        assert_eq!(status, StatusCode::FORBIDDEN, "{path}: {answer}");
    }
    let wrong = [("authorization", "Bearer nonsense")];
    let response = client.send("GET", "/version", &wrong, "").await;
    assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
    text(response).await;
    plane.stop().await;
}

#[tokio::test]
async fn what_nothing_acts_on_is_said_in_a_warning() {
    const WARNING: &str = "299 - \"persistentvolumeclaims is stored, but no controller of this control plane acts on it\"";
    // Where our controllers do not run, others do.
    for (controllers, warning) in [(true, Some(WARNING)), (false, None)] {
        let plane = Plane::start_with(controllers).await;
        let mut client = plane.admin().await;
        let claim = json!({"metadata": {"name": "c"}, "spec": {"accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": "1Gi"}}}});
        let response = client
            .send(
                "POST",
                "/api/v1/namespaces/default/persistentvolumeclaims",
                &[("content-type", JSON)],
                claim.to_string(),
            )
            .await;
        assert_eq!(response.status(), StatusCode::CREATED);
        let given = response.headers().get("warning");
        let given = given.map(|value| value.to_str().expect("text").to_owned());
        assert_eq!(given.as_deref(), warning);
        text(response).await;
        plane.stop().await;
    }
}
