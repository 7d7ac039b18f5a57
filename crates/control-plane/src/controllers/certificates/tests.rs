use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};
use rustls::pki_types::pem::PemObject as _;

use super::super::testing::{eventually, registry};
use super::*;
use crate::auth::GROUP_AUTHENTICATED;

fn csr(signer: &str, name: &str, group: &str, sans: &[&str], usages: &[&str]) -> Value {
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let sans: Vec<String> = sans.iter().map(|san| (*san).to_owned()).collect();
    let mut params = CertificateParams::new(sans).unwrap();
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::OrganizationName, group);
    params.distinguished_name.push(DnType::CommonName, name);
    let pem = params.serialize_request(&key).unwrap().pem().unwrap();
    json!({
        "apiVersion": "certificates.k8s.io/v1",
        "kind": "CertificateSigningRequest",
        "metadata": {"generateName": "csr-"},
        "spec": {"request": BASE64.encode(pem), "signerName": signer, "usages": usages},
    })
}

struct World {
    _dirs: [tempfile::TempDir; 2],
    registry: Registry,
    pki: Arc<Pki>,
}

async fn world() -> World {
    let (dir, registry) = registry();
    let pki_dir = tempfile::tempdir().unwrap();
    let pki = Arc::new(Pki::load_or_create(pki_dir.path(), &[], Timestamp::now()).unwrap());
    let context = Context::system("test");
    let node = json!({
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"},
        "status": {"addresses": [
            {"type": "InternalIP", "address": "10.0.0.1"}, {"type": "Hostname", "address": "n1"},
        ]},
    });
    registry
        .create(&context, stored("", "nodes"), "", node)
        .await
        .unwrap();
    for role in crate::bootstrap::roles::defaults() {
        if role.name.contains("nodeclient") {
            let def = stored(crate::auth::rbac::GROUP, role.kind.plural());
            registry
                .create(&context, def, "", role.object.clone())
                .await
                .unwrap();
        }
    }
    let binding = |name: &str, role: &str, group: &str| {
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
            "metadata": {"name": name},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole",
                "name": format!("system:certificates.k8s.io:certificatesigningrequests:{role}")},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": group}],
        })
    };
    for object in [
        binding("a", "nodeclient", "system:bootstrappers"),
        binding("b", "selfnodeclient", GROUP_NODES),
    ] {
        let def = stored(crate::auth::rbac::GROUP, "clusterrolebindings");
        registry.create(&context, def, "", object).await.unwrap();
    }
    let authorizer = Authorizer::new(registry.store().clone());
    tokio::spawn(run(registry.clone(), authorizer, Arc::clone(&pki)));
    World {
        _dirs: [dir, pki_dir],
        registry,
        pki,
    }
}

impl World {
    async fn ask(&self, user: &str, group: &str, csr: Value) -> String {
        let user = User {
            name: user.to_owned(),
            groups: vec![group.to_owned(), GROUP_AUTHENTICATED.to_owned()],
            ..User::default()
        };
        let created = self
            .registry
            .create(
                &Context::new(Arc::new(user)),
                stored(GROUP, "certificatesigningrequests"),
                "",
                csr,
            )
            .await
            .unwrap();
        created.name().to_owned()
    }

    fn status(&self, name: &str) -> Value {
        let csr = self
            .registry
            .get(stored(GROUP, "certificatesigningrequests"), "", name)
            .unwrap()
            .value();
        csr["status"].clone()
    }

    async fn signed(&self, name: &str) {
        eventually(&self.registry, || {
            self.status(name)["certificate"].is_string().then_some(())
        })
        .await;
    }
}

const CLIENT_USAGES: &[&str] = &["digital signature", "client auth"];
const SERVER_USAGES: &[&str] = &["digital signature", "server auth"];

#[tokio::test]
async fn a_node_gets_its_certificates_and_nobody_elses() {
    let world = world().await;
    let node = "system:node:n1";
    let refused = [
        world
            .ask(
                "bob",
                "dev",
                csr(KUBELET_CLIENT, node, GROUP_NODES, &[], CLIENT_USAGES),
            )
            .await,
        world
            .ask(
                "bob",
                "dev",
                csr(KUBELET_SERVING, node, GROUP_NODES, &["n1"], SERVER_USAGES),
            )
            .await,
        world
            .ask(
                node,
                GROUP_NODES,
                csr(
                    KUBELET_SERVING,
                    node,
                    GROUP_NODES,
                    &["10.0.0.2"],
                    SERVER_USAGES,
                ),
            )
            .await,
        world
            .ask(
                node,
                GROUP_NODES,
                csr(
                    KUBELET_SERVING,
                    "system:node:n2",
                    GROUP_NODES,
                    &["n1"],
                    SERVER_USAGES,
                ),
            )
            .await,
        world
            .ask(
                "system:bootstrap:x",
                "system:bootstrappers",
                csr(KUBELET_CLIENT, node, "system:masters", &[], CLIENT_USAGES),
            )
            .await,
        world
            .ask(
                "system:bootstrap:x",
                "system:bootstrappers",
                csr(CLIENT, "joe", "dev", &[], CLIENT_USAGES),
            )
            .await,
    ];
    let granted = [
        world
            .ask(
                "system:bootstrap:x",
                "system:bootstrappers",
                csr(KUBELET_CLIENT, node, GROUP_NODES, &[], CLIENT_USAGES),
            )
            .await,
        world
            .ask(
                node,
                GROUP_NODES,
                csr(KUBELET_CLIENT, node, GROUP_NODES, &[], CLIENT_USAGES),
            )
            .await,
        world
            .ask(
                node,
                GROUP_NODES,
                csr(
                    KUBELET_SERVING,
                    node,
                    GROUP_NODES,
                    &["10.0.0.1", "n1"],
                    SERVER_USAGES,
                ),
            )
            .await,
    ];
    for name in &granted {
        world.signed(name).await;
    }
    // Clients of the API server do not take a kubelet for it, whatever it calls itself.
    let serving = BASE64
        .decode(text(&world.status(&granted[2]), "/certificate"))
        .unwrap();
    let serving = rustls::pki_types::CertificateDer::from_pem_slice(&serving).unwrap();
    for (authority, verifies) in [
        (&world.pki.kubelet_ca_der, true),
        (&world.pki.ca_der, false),
    ] {
        let (_, authority) = x509_parser::parse_x509_certificate(authority).unwrap();
        let (_, serving) = x509_parser::parse_x509_certificate(&serving).unwrap();
        let key = authority.public_key();
        assert_eq!(serving.verify_signature(Some(key)).is_ok(), verifies);
    }
    // They came before those that were granted, so they were looked at.
    for name in &refused {
        assert_eq!(world.status(name)["conditions"], Value::Null, "{name}");
    }
    // What a person approves is signed too.
    world
        .registry
        .modify(
            &Context::system("test"),
            stored(GROUP, "certificatesigningrequests"),
            "",
            &refused[5],
            "approval",
            |csr| {
                add_condition(
                    csr,
                    json!({"type": "Approved", "status": "True", "reason": "ByHand"}),
                );
                Ok(())
            },
        )
        .await
        .unwrap();
    world.signed(&refused[5]).await;
    world.registry.store().close().await;
}

#[test]
fn forms_are_checked_for_each_signer() {
    let asked = |names: &[&str]| Csr {
        der: rustls::pki_types::CertificateSigningRequestDer::from(Vec::new()),
        name: "system:node:n".to_owned(),
        groups: vec![GROUP_NODES.to_owned()],
        dns: names.iter().map(|name| (*name).to_owned()).collect(),
        ips: BTreeSet::new(),
        other_names: false,
    };
    let set = |usages: &[&'static str]| usages.iter().copied().collect::<BTreeSet<&str>>();
    let rsa = set(&["digital signature", "key encipherment", "client auth"]);
    assert!(check_form(KUBELET_CLIENT, &rsa, &asked(&[])).is_ok());
    assert!(check_form(KUBELET_CLIENT, &rsa, &asked(&["n"])).is_err());
    assert!(check_form(KUBELET_CLIENT, &set(&["client auth"]), &asked(&[])).is_err());
    assert!(check_form(KUBELET_SERVING, &set(SERVER_USAGES), &asked(&["n"])).is_ok());
    assert!(check_form(KUBELET_SERVING, &set(SERVER_USAGES), &asked(&[])).is_err());
    for ours in KUBERNETES_SERVICE_NAMES {
        let ours = asked(&[&ours.to_uppercase()]);
        assert!(check_form(KUBELET_SERVING, &set(SERVER_USAGES), &ours).is_err());
    }
    let mut service = asked(&[]);
    service.ips.insert(KUBERNETES_SERVICE_IP.to_owned());
    assert!(check_form(KUBELET_SERVING, &set(SERVER_USAGES), &service).is_err());
    assert!(check_form(CLIENT, &set(CLIENT_USAGES), &asked(&[])).is_ok());
    let mut master = asked(&[]);
    master.groups.push(GROUP_MASTERS.to_owned());
    assert!(check_form(CLIENT, &set(CLIENT_USAGES), &master).is_err());
    assert!(check_form("example.com/other", &set(CLIENT_USAGES), &asked(&[])).is_err());
}
