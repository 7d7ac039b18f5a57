//! Keys, tokens, users and decisions together, over a store.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use serde_json::{Value, json};

use super::authn::{Authenticator, Peer};
use super::authz::Authorizer;
use super::pki::Pki;
use super::tokens::{ISSUER, TokenError, Tokens};
use super::*;
use crate::store::{Draft, Expected, Options, Store};

fn now() -> Timestamp {
    "2026-01-02T03:04:05Z".parse().unwrap()
}

fn later(seconds: i64) -> Timestamp {
    now() + SignedDuration::from_secs(seconds)
}

fn store(dir: &Path) -> Store {
    let options = Options {
        fsync: false,
        attributes: crate::resource::attributes_of_bytes,
        ..Options::default()
    };
    Store::open(&dir.join("store"), options).unwrap()
}

async fn put(store: &Store, key: &str, object: Value) {
    let expected = store
        .get(key)
        .map_or(Expected::Absent, |old| Expected::Revision(old.revision));
    let draft = Draft::new(&object, crate::resource::attributes_of(key, &object));
    store.put(key, expected, draft).await.unwrap();
}

async fn delete(store: &Store, key: &str) {
    let old = store.get(key).unwrap();
    let draft = Draft::new(&old.value(), old.attributes.clone());
    store.delete(key, old.revision, draft).await.unwrap();
}

fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            (name, std::fs::read(entry.path()).unwrap())
        })
        .collect()
}

#[test]
fn keys_and_certificates_stay_from_start_to_start() {
    let dir = tempfile::tempdir().unwrap();
    Pki::load_or_create(dir.path(), &[], now()).unwrap();
    let first = files(dir.path());
    Pki::load_or_create(dir.path(), &[], later(3600)).unwrap();
    assert_eq!(files(dir.path()), first);
    for name in first.keys() {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = std::fs::metadata(dir.path().join(name))
            .unwrap()
            .permissions()
            .mode()
            & 0o777;
        let expected = if name.ends_with(".key") { 0o600 } else { 0o644 };
        assert_eq!(mode, expected, "{name}");
    }
}

/// A kill leaves some files whole and the others missing: each is written by a rename.
#[test]
fn a_start_after_any_interrupted_one_makes_the_rest_and_keeps_the_authority() {
    let dir = tempfile::tempdir().unwrap();
    Pki::load_or_create(dir.path(), &[], now()).unwrap();
    let whole = files(dir.path());
    let order = [
        "ca.key",
        "ca.crt",
        "kubelet-ca.key",
        "kubelet-ca.crt",
        "sa.key",
        "sa.pub",
        "apiserver.key",
        "apiserver.crt",
        "admin.key",
        "admin.crt",
        "apiserver-kubelet-client.key",
        "apiserver-kubelet-client.crt",
    ];
    assert_eq!(order.len(), whole.len());
    for written in 0..order.len() {
        let dir = tempfile::tempdir().unwrap();
        for name in &order[..written] {
            std::fs::write(dir.path().join(name), &whole[*name]).unwrap();
        }
        // The temporary file of the write that was cut short.
        std::fs::write(dir.path().join(format!("{}.new", order[written])), "half").unwrap();
        let pki = Pki::load_or_create(dir.path(), &[], now()).unwrap();
        let after = files(dir.path());
        assert_eq!(after.len(), order.len(), "after {written} files");
        for name in &order[..written] {
            let renewed = written % 2 == 1 && order[written - 1] == *name && written > 6;
            assert!(
                renewed || after[*name] == whole[*name],
                "{name} after {written} files"
            );
        }
        assert!(is_admin(&pki), "after {written} files");
    }
}

fn is_admin(pki: &Pki) -> bool {
    let dir = tempfile::tempdir().unwrap();
    let authenticator = authenticator(store(dir.path()), pki);
    matches!(
        authenticator.peer(&chain(&pki.admin), now()),
        Peer::Known { user, .. } if user.name == "kubernetes-admin" && user.in_group(GROUP_MASTERS)
    )
}

fn chain(pair: &pki::Pair) -> Vec<CertificateDer<'static>> {
    pair.to_rustls().unwrap().0
}

fn authenticator(store: Store, pki: &Pki) -> Authenticator {
    Authenticator::new(store, pki, Arc::new(Tokens::new(pki).unwrap())).unwrap()
}

#[test]
fn certificates_are_renewed_near_their_end_and_for_new_names() {
    let dir = tempfile::tempdir().unwrap();
    let first = Pki::load_or_create(dir.path(), &[], now()).unwrap();
    let named = Pki::load_or_create(dir.path(), &["login1.example".to_owned()], now()).unwrap();
    assert_ne!(first.server.cert_pem, named.server.cert_pem);
    assert_eq!(first.admin.cert_pem, named.admin.cert_pem);
    // A name less is no reason for another certificate.
    let again = Pki::load_or_create(dir.path(), &[], now()).unwrap();
    assert_eq!(again.server.cert_pem, named.server.cert_pem);
    let old = Pki::load_or_create(dir.path(), &[], later(300 * 86_400)).unwrap();
    assert_ne!(old.admin.cert_pem, first.admin.cert_pem);
    assert_eq!(old.ca_pem, first.ca_pem);
}

#[test]
fn a_damaged_authority_is_named_and_not_replaced() {
    let dir = tempfile::tempdir().unwrap();
    Pki::load_or_create(dir.path(), &[], now()).unwrap();
    std::fs::write(dir.path().join("ca.key"), "garbage").unwrap();
    let error = Pki::load_or_create(dir.path(), &[], now())
        .unwrap_err()
        .to_string();
    assert!(error.contains("ca.key is damaged"), "{error}");
    assert!(error.contains("restore it"), "{error}");
    assert_eq!(
        std::fs::read(dir.path().join("ca.key")).unwrap(),
        b"garbage"
    );
}

#[test]
fn a_kubeconfig_is_yaml_with_the_certificates_inline() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    let pki = Pki::load_or_create(&dir.path().join("pki"), &[], now()).unwrap();
    let path = dir.path().join("admin.kubeconfig");
    pki.write_kubeconfig(&path, "https://127.0.0.1:6443", "vk: \"x\"", &pki.admin)
        .unwrap();
    let mode = std::fs::metadata(&path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o600);
    let parsed: Value = serde_norway::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    assert_eq!(parsed["current-context"], "vk: \"x\"");
    assert_eq!(
        parsed["clusters"][0]["cluster"]["server"],
        "https://127.0.0.1:6443"
    );
    assert!(parsed["users"][0]["user"]["client-key-data"].is_string());
}

#[test]
fn a_certificate_is_good_only_from_our_authority_and_in_its_time() {
    let dir = tempfile::tempdir().unwrap();
    let pki = Pki::load_or_create(&dir.path().join("pki"), &[], now()).unwrap();
    let other = Pki::load_or_create(&dir.path().join("other"), &[], now()).unwrap();
    let authenticator = authenticator(store(dir.path()), &pki);
    let node = pki
        .issue_client("system:node:n1", Some(GROUP_NODES), now())
        .unwrap();
    let peer = authenticator.peer(&chain(&node), now());
    let user = authenticator.authenticate(&peer, None, now()).unwrap();
    assert_eq!(user.node_name(), Some("n1"));
    assert_eq!(user.groups, [GROUP_NODES, GROUP_AUTHENTICATED]);
    let year = 366 * 86_400;
    assert!(
        authenticator
            .authenticate(&peer, None, later(year))
            .is_err(),
        "ended meanwhile"
    );
    for bad in [
        authenticator.peer(&chain(&other.admin), now()),
        authenticator.peer(&chain(&node), later(year)),
        authenticator.peer(&chain(&pki.server), now()),
    ] {
        assert!(matches!(&bad, Peer::Refused { .. }), "{bad:?}");
        assert!(authenticator.authenticate(&bad, None, now()).is_err());
    }
    let nobody = authenticator.peer(&[], now());
    let user = authenticator.authenticate(&nobody, None, now()).unwrap();
    assert_eq!(user.name, USER_ANONYMOUS);
    assert!(
        authenticator
            .authenticate(&nobody, Some("Bearer a.b.c"), now())
            .is_err()
    );
    let basic = authenticator
        .authenticate(&nobody, Some("Basic eDp5"), now())
        .unwrap();
    assert_eq!(
        basic.name, USER_ANONYMOUS,
        "a scheme that we do not know says nothing"
    );
}

struct World {
    _dir: tempfile::TempDir,
    store: Store,
    authenticator: Authenticator,
}

async fn world() -> World {
    let dir = tempfile::tempdir().unwrap();
    let pki = Pki::load_or_create(&dir.path().join("pki"), &[], now()).unwrap();
    let store = store(dir.path());
    let object = |uid: &str| json!({"metadata": {"uid": uid}});
    put(&store, "serviceaccounts/default/s", object("u-s")).await;
    put(&store, "nodes//n1", object("u-n1")).await;
    let pod =
        json!({"metadata": {"uid": "u-p"}, "spec": {"nodeName": "n1", "serviceAccountName": "s"}});
    put(&store, "pods/default/p", pod).await;
    World {
        _dir: dir,
        authenticator: authenticator(store.clone(), &pki),
        store,
    }
}

impl World {
    fn issue(&self, spec: Value) -> Result<Value, String> {
        let request = json!({"spec": spec});
        request::token_request(&self.authenticator, "default", "s", &request, now())
            .map_err(|error| error.message)
    }

    fn token(&self, spec: Value) -> String {
        self.issue(spec).unwrap()["status"]["token"]
            .as_str()
            .unwrap()
            .to_owned()
    }

    fn verify(&self, token: &str, at: Timestamp) -> Result<User, TokenError> {
        self.authenticator
            .authenticate_token(token, &[ISSUER.to_owned()], at)
            .map(|(user, _)| user)
    }
}

#[tokio::test]
async fn a_token_is_good_for_its_time_and_while_its_account_and_pod_are_there() {
    let world = world().await;
    let token =
        world.token(json!({"boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": "p"}}));
    let user = world.verify(&token, now()).unwrap();
    assert_eq!(user.name, "system:serviceaccount:default:s");
    assert_eq!(user.uid, "u-s");
    assert_eq!(
        user.groups,
        [
            "system:serviceaccounts",
            "system:serviceaccounts:default",
            GROUP_AUTHENTICATED
        ]
    );
    assert_eq!(user.extra["authentication.kubernetes.io/pod-uid"], ["u-p"]);
    assert_eq!(user.extra["authentication.kubernetes.io/node-name"], ["n1"]);
    assert_eq!(
        world.verify(&token, later(3600 + 61)),
        Err(TokenError::Time)
    );
    assert_eq!(world.verify(&token, later(-61)), Err(TokenError::Time));
    let review = review::token(
        &world.authenticator,
        json!({"spec": {"token": token, "audiences": ["other"]}}),
        now(),
    )
    .unwrap();
    assert_eq!(
        review["status"]["error"],
        "[invalid bearer token, token audiences [\"https://kubernetes.default.svc\"] is invalid \
         for the target audiences [\"other\"]]"
    );
    put(
        &world.store,
        "pods/default/p",
        json!({"metadata": {"uid": "another"}}),
    )
    .await;
    assert_eq!(world.verify(&token, now()), Err(TokenError::Gone));
    let unbound = world.token(json!({}));
    world.verify(&unbound, now()).unwrap();
    delete(&world.store, "serviceaccounts/default/s").await;
    assert_eq!(world.verify(&unbound, now()), Err(TokenError::Gone));
}

#[tokio::test]
async fn a_token_that_was_touched_is_refused() {
    use base64::Engine as _;
    let world = world().await;
    let token = world.token(json!({}));
    world.verify(&token, now()).unwrap();
    let parts: Vec<&str> = token.split('.').collect();
    let encode = |text: String| base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(text);
    let body = base64::engine::general_purpose::URL_SAFE_NO_PAD
        .decode(parts[1])
        .unwrap();
    let forged = String::from_utf8(body)
        .unwrap()
        .replace("default", "kube-system");
    for bad in [
        format!("{}.{}.{}", parts[0], encode(forged), parts[2]),
        format!(
            "{}.{}.",
            encode("{\"alg\":\"none\",\"kid\":\"\"}".to_owned()),
            parts[1]
        ),
        format!("{}.{}", parts[0], parts[1]),
        format!("{token}x"),
        String::new(),
        "...".to_owned(),
    ] {
        assert_eq!(world.verify(&bad, now()), Err(TokenError::Invalid), "{bad}");
    }
}

#[tokio::test]
async fn token_requests_that_are_wrong_are_refused_as_the_real_server_refuses_them() {
    let world = world().await;
    let bound = |kind: &str, name: &str, uid: &str| json!({"boundObjectRef": {"kind": kind, "apiVersion": "v1", "name": name, "uid": uid}});
    let cases = [
        (
            json!({"expirationSeconds": 60}),
            "TokenRequest.authentication.k8s.io \"\" is invalid: spec.expirationSeconds: Invalid \
             value: 60: may not specify a duration less than 10 minutes",
        ),
        (bound("Pod", "nope", ""), "pods \"nope\" not found"),
        (
            bound("Pod", "p", "xx"),
            "Operation cannot be fulfilled on Pod \"p\": the UID in the bound object reference \
             (xx) does not match the UID in record. The object might have been deleted and then \
             recreated",
        ),
        (
            bound("Foo", "x", ""),
            "cannot bind token to object of type /v1, Kind=Foo",
        ),
    ];
    for (spec, expected) in cases {
        assert_eq!(world.issue(spec).unwrap_err(), expected);
    }
    let missing =
        request::token_request(&world.authenticator, "default", "nope", &json!({}), now());
    assert_eq!(
        missing.unwrap_err().message,
        "serviceaccounts \"nope\" not found"
    );
}

#[tokio::test]
async fn a_bootstrap_token_is_good_until_it_expires_or_its_secret_goes() {
    use base64::Engine as _;
    let world = world().await;
    let encode = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
    let secret = |groups: &str| {
        json!({"type": "bootstrap.kubernetes.io/token", "data": {
            "token-id": encode("abcdef"), "token-secret": encode("0123456789abcdef"),
            "usage-bootstrap-authentication": encode("true"),
            "expiration": encode("2026-01-02T04:00:00Z"), "auth-extra-groups": encode(groups),
        }})
    };
    let key = "secrets/kube-system/bootstrap-token-abcdef";
    put(&world.store, key, secret("system:bootstrappers:nodes")).await;
    let token = "abcdef.0123456789abcdef";
    let user = world.verify(token, now()).unwrap();
    assert_eq!(user.name, "system:bootstrap:abcdef");
    assert_eq!(
        user.groups,
        [
            "system:bootstrappers",
            "system:bootstrappers:nodes",
            GROUP_AUTHENTICATED
        ]
    );
    assert_eq!(world.verify(token, later(3600)), Err(TokenError::Time));
    assert_eq!(
        world.verify("abcdef.0123456789abcdeX", now()),
        Err(TokenError::Invalid)
    );
    assert_eq!(
        world.verify("abcdef.0123456789abcdee", now()),
        Err(TokenError::Invalid)
    );
    put(&world.store, key, secret("system:masters")).await;
    assert_eq!(world.verify(token, now()), Err(TokenError::Invalid));
    delete(&world.store, key).await;
    assert_eq!(world.verify(token, now()), Err(TokenError::Invalid));
}

#[tokio::test]
async fn a_decision_sees_every_write_that_was_acknowledged() {
    let world = world().await;
    let authorizer = Authorizer::new(world.store.clone());
    let bob = User {
        name: "bob".to_owned(),
        ..User::default()
    };
    let may = || {
        authorizer
            .authorize(&Attributes {
                namespace: "default",
                ..Attributes::of_resource(&bob, "get", "", "pods")
            })
            .is_allowed()
    };
    let role = json!({"rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}]});
    let binding = json!({"roleRef": {"kind": "Role", "name": "r"}, "subjects": [{"kind": "User", "name": "bob"}]});
    let (role_key, binding_key) = (
        "roles.rbac.authorization.k8s.io/default/r",
        "rolebindings.rbac.authorization.k8s.io/default/b",
    );
    put(&world.store, role_key, role).await;
    for _ in 0..20 {
        assert!(!may());
        put(&world.store, binding_key, binding.clone()).await;
        assert!(may());
        delete(&world.store, binding_key).await;
    }
}

#[tokio::test]
async fn a_node_reaches_a_secret_from_the_moment_its_pod_is_bound_until_it_is_gone() {
    let world = world().await;
    let authorizer = Authorizer::new(world.store.clone());
    let node = User {
        name: "system:node:n1".to_owned(),
        groups: vec![GROUP_NODES.to_owned()],
        ..User::default()
    };
    let may = |name| {
        authorizer
            .authorize(&Attributes {
                namespace: "default",
                name,
                ..Attributes::of_resource(&node, "get", "", "secrets")
            })
            .is_allowed()
    };
    let pod = |node: &str, ephemeral: &str| {
        json!({"spec": {
            "nodeName": node,
            "volumes": [{"name": "v", "secret": {"secretName": "s1"}}],
            "ephemeralContainers": [{"env": [{"valueFrom": {"secretKeyRef": {"name": ephemeral}}}]}],
        }})
    };
    put(&world.store, "pods/default/q", pod("", "")).await;
    assert!(!may("s1"));
    put(&world.store, "pods/default/q", pod("n1", "")).await;
    assert!(may("s1") && !may("s2"));
    put(&world.store, "pods/default/q", pod("n1", "s2")).await;
    assert!(may("s1") && may("s2"), "a debug container may name more");
    delete(&world.store, "pods/default/q").await;
    assert!(!may("s1") && !may("s2"));
}

#[tokio::test]
async fn reviews_answer_as_the_real_server() {
    let world = world().await;
    let authorizer = Authorizer::new(world.store.clone());
    let master = User::system("x");
    let allowed = review::self_subject_access(
        &authorizer,
        &master,
        json!({"kind": "SelfSubjectAccessReview", "spec": {"resourceAttributes": {"verb": "list", "resource": "pods"}}}),
    )
    .unwrap();
    assert_eq!(allowed["status"], json!({"allowed": true}));
    let empty = review::subject_access(&authorizer, json!({"spec": {}})).unwrap_err();
    assert_eq!(
        empty.message,
        ".authorization.k8s.io \"\" is invalid: [spec.resourceAttributes: Invalid value: null: \
         exactly one of nonResourceAttributes or resourceAttributes must be specified, spec.user: \
         Invalid value: \"\": at least one of user or group must be specified]"
    );
    let rules =
        review::self_subject_rules(&authorizer, &master, &json!({"spec": {"namespace": "a"}}))
            .unwrap();
    assert_eq!(rules["status"]["resourceRules"][0]["verbs"], json!(["*"]));
    assert_eq!(rules["status"]["incomplete"], false);
    let none = review::self_subject_rules(&authorizer, &master, &json!({})).unwrap_err();
    assert_eq!(none.message, "no namespace on request");
}

#[tokio::test]
async fn impersonation_needs_the_right_for_each_part() {
    let world = world().await;
    let authorizer = Authorizer::new(world.store.clone());
    let ask = |user: &User, headers: &[(&str, &str)]| {
        review::impersonate(&authorizer, user, headers).map_err(|error| error.message)
    };
    let master = User::system("admin");
    assert_eq!(ask(&master, &[("accept", "x")]), Ok(None));
    let joe = ask(
        &master,
        &[
            ("impersonate-user", "joe"),
            ("impersonate-group", "bar"),
            ("impersonate-extra-foo%2fx", "y"),
        ],
    )
    .unwrap()
    .unwrap();
    assert_eq!(joe.groups, ["bar", GROUP_AUTHENTICATED]);
    assert_eq!(joe.extra["foo/x"], ["y"]);
    let account = ask(
        &master,
        &[("impersonate-user", "system:serviceaccount:a:b")],
    )
    .unwrap()
    .unwrap();
    assert!(account.in_group("system:serviceaccounts:a"));
    assert!(ask(&master, &[("impersonate-group", "x")]).is_err());
    assert_eq!(
        ask(&joe, &[("impersonate-user", "x")]).unwrap_err(),
        "users \"x\" is forbidden: User \"joe\" cannot impersonate resource \"users\" in API group \
         \"\" at the cluster scope"
    );
}

#[test]
fn a_kept_certificate_file_is_readable_by_other_tools() {
    let dir = tempfile::tempdir().unwrap();
    let pki = Pki::load_or_create(dir.path(), &[], now()).unwrap();
    let text = std::fs::read_to_string(dir.path().join("sa.key")).unwrap();
    assert!(text.starts_with("-----BEGIN PRIVATE KEY-----"), "PKCS#8");
    let public = std::fs::read_to_string(dir.path().join("sa.pub")).unwrap();
    assert!(public.starts_with("-----BEGIN PUBLIC KEY-----"));
    let ca = CertificateDer::from_pem_slice(pki.ca_pem.as_bytes()).unwrap();
    let (_, parsed) = x509_parser::parse_x509_certificate(&ca).unwrap();
    assert!(parsed.is_ca());
}
