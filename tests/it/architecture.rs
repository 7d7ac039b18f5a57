//! The layers of the house, kept by reading the sources.

use std::path::Path;

/// Who may not use whom: `(module, the crate paths it must not name, why)`.
const WALLS: &[(&str, &[&str], &str)] = &[
    (
        "src/container",
        &[
            "k8s_openapi",
            "kube::",
            "crate::pod",
            "crate::node",
            "crate::site",
            "crate::kubelet_api",
            "crate::commands",
            "control_plane::",
        ],
        "containers know no Kubernetes",
    ),
    (
        "src/pod",
        &[
            "crate::kubelet_api",
            "crate::commands",
            "crate::cli",
            "control_plane::",
        ],
        "pods know no HTTP server and no command line",
    ),
    (
        "src/node",
        &[
            "crate::kubelet_api",
            "crate::commands",
            "crate::cli",
            "control_plane::",
        ],
        "the node knows no HTTP server and no command line",
    ),
    (
        "src/site",
        &[
            "k8s_openapi",
            "kube::",
            "crate::pod",
            "crate::node",
            "crate::kubelet_api",
            "crate::commands",
            "crate::cli",
            "control_plane::",
        ],
        "sites know no pods",
    ),
    (
        "src/client",
        &[
            "crate::pod",
            "crate::node",
            "crate::container",
            "crate::commands",
            "crate::cli",
            "control_plane::",
        ],
        "the client works against any cluster",
    ),
    (
        "src/kubelet_api",
        &["crate::commands", "crate::cli", "control_plane::"],
        "the agent has no back door into the control plane",
    ),
    (
        "src/cli",
        &[
            "crate::commands",
            "crate::pod",
            "crate::node",
            "crate::container",
            "control_plane::",
        ],
        "the command line is types alone",
    ),
    (
        "crates/control-plane/src",
        &["vk_cmd::", "crate::kubelet_api"],
        "the control plane knows nothing of vk-cmd",
    ),
];

fn sources(dir: &Path, into: &mut Vec<std::path::PathBuf>) {
    let entries =
        std::fs::read_dir(dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    for entry in entries {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            sources(&path, into);
        } else if path.extension().is_some_and(|end| end == "rs") {
            into.push(path);
        }
    }
}

#[test]
fn dependencies_point_down() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut broken = Vec::new();
    for (module, banned, why) in WALLS {
        let mut files = Vec::new();
        sources(&root.join(module), &mut files);
        assert!(!files.is_empty(), "{module} has no sources");
        for file in files {
            let text = std::fs::read_to_string(&file).expect("a source");
            for (number, line) in text.lines().enumerate() {
                let code = line.trim_start();
                if code.starts_with("//") {
                    continue;
                }
                for name in *banned {
                    if code.contains(name) {
                        let file = file.strip_prefix(root).unwrap_or(&file).display();
                        broken.push(format!("{file}:{}: {name} ({why})", number + 1));
                    }
                }
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}
