//! The real kubectl.

use std::process::{Command, Output};

use super::plane::Plane;

struct Kubectl {
    kubeconfig: String,
    dir: tempfile::TempDir,
}

impl Kubectl {
    /// `None`, said loudly, where there is no kubectl.
    async fn for_plane(plane: &Plane) -> Option<Self> {
        let found = tokio::process::Command::new("kubectl")
            .args(["version", "--client"])
            .output()
            .await
            .is_ok_and(|output| output.status.success());
        if !found {
            testkit::note("SKIPPED: no kubectl in PATH");
            return None;
        }
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("kubeconfig");
        let pki = plane.plane.pki();
        pki.write_kubeconfig(&path, &plane.plane.url(), "test", &pki.admin)
            .expect("a kubeconfig");
        Some(Self {
            kubeconfig: path.display().to_string(),
            dir,
        })
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("kubectl");
        command
            .args(arguments)
            .env("KUBECONFIG", &self.kubeconfig)
            .env("HOME", self.dir.path())
            .env("EDITOR", "sed -i s/first/second/");
        command
    }

    async fn run(&self, arguments: &[&str]) -> Output {
        let command = self.command(arguments);
        tokio::process::Command::from(command)
            .output()
            .await
            .expect("kubectl runs")
    }

    /// What a command that succeeds prints on stdout.
    async fn ok(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments).await;
        assert!(
            output.status.success(),
            "kubectl {arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).expect("text")
    }

    /// What a command that fails prints on stderr.
    async fn refused(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments).await;
        assert!(!output.status.success(), "kubectl {arguments:?} succeeded");
        String::from_utf8(output.stderr).expect("text")
    }

    fn file(&self, name: &str, text: &str) -> String {
        let path = self.dir.path().join(name);
        std::fs::write(&path, text).expect("a file");
        path.display().to_string()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn everyday_commands_work() {
    let plane = Plane::start_with(true).await;
    let Some(kubectl) = Kubectl::for_plane(&plane).await else {
        return;
    };
    let pod = |label: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: p, labels: {{app: {label}}}}}\nspec:\n  nodeSelector: {{no: where}}\n  containers:\n  - {{name: c, image: host, command: [sleep, '1']}}\n"
        )
    };
    let file = kubectl.file("pod.yaml", &pod("one"));
    assert_eq!(kubectl.ok(&["apply", "-f", &file]).await, "pod/p created\n");
    assert_eq!(
        kubectl.ok(&["apply", "-f", &file]).await,
        "pod/p unchanged\n"
    );
    kubectl.file("pod.yaml", &pod("two"));
    let diff = kubectl.run(&["diff", "-f", &file]).await;
    assert_eq!(diff.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&diff.stdout).contains("+    app: two"));
    assert_eq!(
        kubectl.ok(&["apply", "-f", &file]).await,
        "pod/p configured\n"
    );
    assert_eq!(
        kubectl
            .ok(&["apply", "--server-side", "--force-conflicts", "-f", &file])
            .await,
        "pod/p serverside-applied\n"
    );
    for (arguments, printed) in [
        (
            &["create", "configmap", "m", "--from-literal=k=first"][..],
            "configmap/m created\n",
        ),
        (
            &["create", "secret", "generic", "s", "--from-literal=k=v"],
            "secret/s created\n",
        ),
        (&["create", "namespace", "n"], "namespace/n created\n"),
        (
            &["create", "serviceaccount", "a"],
            "serviceaccount/a created\n",
        ),
        (
            &["create", "configmap", "dry", "--dry-run=server"],
            "configmap/dry created (server dry run)\n",
        ),
        (&["get", "pods", "-o", "name"], "pod/p\n"),
        (
            &[
                "get",
                "pods",
                "-l",
                "app=two",
                "-o",
                "jsonpath={.items[*].metadata.name}",
            ],
            "p",
        ),
        (
            &[
                "get",
                "pods",
                "--field-selector",
                "status.phase=Pending",
                "-o",
                "custom-columns=N:.metadata.name",
                "--no-headers",
            ],
            "p\n",
        ),
        (
            &[
                "get",
                "pod",
                "p",
                "--no-headers",
                "-o",
                "custom-columns=A:.spec.restartPolicy,B:.status.qosClass",
            ],
            "Always   BestEffort\n",
        ),
        (&["label", "pod", "p", "l=1"], "pod/p labeled\n"),
        (&["annotate", "pod", "p", "n=1"], "pod/p annotated\n"),
        (
            &[
                "patch",
                "pod",
                "p",
                "-p",
                r#"{"metadata":{"labels":{"s":"1"}}}"#,
            ],
            "pod/p patched\n",
        ),
        (
            &[
                "patch",
                "pod",
                "p",
                "--type=merge",
                "-p",
                r#"{"metadata":{"labels":{"m":"1"}}}"#,
            ],
            "pod/p patched\n",
        ),
        (
            &[
                "patch",
                "pod",
                "p",
                "--type=json",
                "-p",
                r#"[{"op":"remove","path":"/metadata/labels/l"}]"#,
            ],
            "pod/p patched\n",
        ),
        (
            &["get", "pod", "p", "-o", "jsonpath={.metadata.labels}"],
            r#"{"app":"two","m":"1","s":"1"}"#,
        ),
        (&["edit", "configmap", "m"], "configmap/m edited\n"),
        (
            &["get", "configmap", "m", "-o", "jsonpath={.data.k}"],
            "second",
        ),
        (
            &[
                "wait",
                "--for=jsonpath={.status.phase}=Pending",
                "pod/p",
                "--timeout=5s",
            ],
            "pod/p condition met\n",
        ),
        (&["auth", "can-i", "create", "pods"], "yes\n"),
        (&["delete", "configmap", "m"], "configmap \"m\" deleted\n"),
        (
            &["delete", "pod", "p", "--force", "--grace-period=0"],
            "pod \"p\" force deleted\n",
        ),
        (&["delete", "secret", "--all"], "secret \"s\" deleted\n"),
        (&["delete", "namespace", "n"], "namespace \"n\" deleted\n"),
    ] {
        assert_eq!(kubectl.ok(arguments).await, printed, "{arguments:?}");
    }
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn everyday_commands_show_what_is_there() {
    let plane = Plane::start_with(true).await;
    let Some(kubectl) = Kubectl::for_plane(&plane).await else {
        return;
    };
    let node =
        "apiVersion: v1\nkind: Node\nmetadata: {name: n1, labels: {kubernetes.io/role: agent}}\n";
    let file = kubectl.file("node.yaml", node);
    kubectl.ok(&["create", "-f", &file]).await;
    for (arguments, parts) in [
        (&["get", "nodes"][..], &["NAME", "n1", "agent"][..]),
        (&["cordon", "n1"], &["node/n1 cordoned"]),
        (&["get", "nodes"], &["SchedulingDisabled"]),
        (&["uncordon", "n1"], &["node/n1 uncordoned"]),
        (
            &["taint", "node", "n1", "a=b:NoSchedule"],
            &["node/n1 tainted"],
        ),
        (
            &["describe", "node", "n1"],
            &["a=b:NoSchedule", "Unschedulable:"],
        ),
        (&["get", "all", "-A"], &["service/kubernetes"]),
        (
            &["get", "namespaces", "-o", "wide"],
            &["default", "kube-node-lease", "Active"],
        ),
        (&["get", "configmaps", "-A"], &["kube-root-ca.crt"]),
        (
            &["get", "serviceaccount", "default", "-o", "yaml"],
            &["kind: ServiceAccount"],
        ),
        (
            &["get", "service", "kubernetes", "-o", "json"],
            &["\"clusterIP\": \"10.96.0.1\""],
        ),
        (&["explain", "pod.spec.containers"], &["image", "<string>"]),
        (
            &["api-resources"],
            &["deployments", "leases", "coordination.k8s.io/v1"],
        ),
        (&["api-versions"], &["apps/v1", "batch/v1"]),
        (&["auth", "whoami"], &["system:masters"]),
        (&["auth", "can-i", "--list"], &["*.*"]),
        (&["create", "token", "default"], &["."]),
        (&["events"], &["No events found"]),
        (&["version"], &["Server Version: v1.34"]),
        (&["cluster-info"], &["control plane"]),
    ] {
        let output = kubectl.run(arguments).await;
        let shown = format!(
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        assert!(output.status.success(), "{arguments:?}: {shown}");
        for part in parts {
            assert!(
                shown.contains(part),
                "{arguments:?} lacks {part:?}: {shown}"
            );
        }
    }
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mistakes_are_named() {
    let plane = Plane::start().await;
    let Some(kubectl) = Kubectl::for_plane(&plane).await else {
        return;
    };
    let unknown = kubectl.file(
        "unknown.yaml",
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: u}\nfoo: bar\n",
    );
    let malformed = kubectl.file("malformed.yaml", "apiVersion: v1\nkind: [\n");
    for (arguments, part) in [
        (
            &["create", "-f", unknown.as_str()][..],
            "unknown field \"foo\"",
        ),
        (&["create", "-f", malformed.as_str()], "error parsing"),
        (
            &["get", "pods", "--field-selector", "foo=bar"],
            "field label not supported: foo",
        ),
        (
            &["get", "nonsense"],
            "the server doesn't have a resource type \"nonsense\"",
        ),
        (
            &["get", "pod", "nope"],
            "Error from server (NotFound): pods \"nope\" not found",
        ),
        (&["auth", "can-i", "create", "pods", "--as", "nobody"], ""),
        (
            &["get", "pods", "--as", "nobody"],
            "User \"nobody\" cannot list resource \"pods\" in API group \"\" in the namespace \"default\"",
        ),
        (&["exec", "nope", "--", "ls"], "pods \"nope\" not found"),
    ] {
        let shown = kubectl.refused(arguments).await;
        assert!(
            shown.contains(part),
            "{arguments:?} lacks {part:?}: {shown}"
        );
    }
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_is_created_and_what_is_wrong_in_it_is_named() {
    let plane = Plane::start_with(true).await;
    let Some(kubectl) = Kubectl::for_plane(&plane).await else {
        return;
    };
    let list = |data: &str| {
        format!(
            "apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: ConfigMap\n  metadata: {{name: a}}\n  {data}: {{k: v}}\n- apiVersion: v1\n  kind: ConfigMap\n  metadata: {{name: b}}\n"
        )
    };
    let file = kubectl.file("list.yaml", &list("data"));
    assert_eq!(
        kubectl
            .ok(&["apply", "--validate=strict", "-f", &file])
            .await,
        "configmap/a created\nconfigmap/b created\n"
    );
    let file = kubectl.file("wrong.yaml", &list("date"));
    let refused = kubectl
        .refused(&["create", "--validate=strict", "-f", &file])
        .await;
    assert!(refused.contains("unknown field \"date\""), "{refused}");
}
