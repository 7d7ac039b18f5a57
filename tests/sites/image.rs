//! The image of vk-cmd: what is in it, and what people do with it besides running it.

use std::path::Path;
use std::process::Command;

use testkit::{Output, eventually, skip};

use crate::VK_CMD;
use crate::parts::{self, place};
use crate::site::embedded;
use crate::world::{IMAGE, World, binary, free_port};

/// What people do with the image besides running it.
#[test]
fn the_image_is_what_the_documents_say() {
    let mut world = match World::new() {
        Ok(world) => world,
        Err(why) => return skip!("{why}"),
    };
    world.docker();
    let inspect = |what: &str| {
        world
            .docker_does(&["image", "inspect", "-f", what, IMAGE])
            .ok()
    };
    for label in ["title", "version", "revision", "licenses", "source"] {
        let found = inspect(&format!(
            "{{{{index .Config.Labels \"org.opencontainers.image.{label}\"}}}}"
        ));
        assert!(found.trim().len() > 2, "{label}: {found:?}");
    }
    let run = |words: &[&str]| {
        let mut all = vec!["run", "--rm", "--network=host"];
        all.extend(words);
        world.docker_does(&all)
    };
    // Any user, a read-only root: it comes as far as its settings, which name what is missing.
    for how in [
        &["--user=4711:4711"][..],
        &["--read-only"],
        &["--read-only", "--user=4711"],
        &[],
    ] {
        let mut words = how.to_vec();
        words.extend([
            "-e",
            "KUBECONFIG=/no/such",
            "-e",
            "NODENAME=vk",
            "-e",
            "VK_CMD_SITE=local",
            IMAGE,
        ]);
        let said = run(&words).fails_with(2);
        assert!(
            said.contains("KUBECONFIG") && said.contains("/no/such"),
            "{how:?}: {said}"
        );
    }
    // Nothing secret: no key, no certificate, no kubeconfig.
    let list = run(&["--entrypoint=/bin/sh", IMAGE, "-c", "ls -A /vk-cmd /root /root/hostpipe; grep -rl 'PRIVATE KEY-' /vk-cmd/*.* /root /etc || true"]).ok();
    let names: Vec<&str> = list.split_whitespace().collect();
    assert_eq!(
        names,
        [
            "/root:",
            "hostpipe",
            "/root/hostpipe:",
            "/vk-cmd:",
            "sbom.spdx.json",
            "start.sh",
            "virtual-kubelet",
            "vk-cmd"
        ]
    );
    // What it adds to its base; most of it is the program.
    let size = |name: &str| -> u64 {
        let said = world.docker_does(&["image", "inspect", "-f", "{{.Size}}", name]);
        said.ok().trim().parse().expect("a number")
    };
    let own = size(IMAGE) - size("vk-sites/base:1");
    let program = std::fs::metadata(world.path("bin/vk-cmd"))
        .expect("it is there")
        .len();
    assert!(
        own - program < 500_000,
        "{own} bytes beyond the base, {program} of them the program"
    );
    // Out of it, and started with seven arguments.
    let out = world.path("out");
    let id = world.docker_does(&["create", IMAGE]).ok();
    let copied = world.docker_does(&[
        "cp",
        &format!("{}:/vk-cmd", id.trim()),
        out.to_str().expect("text"),
    ]);
    copied.ok();
    let plane = embedded();
    let Some(kubectl) = plane.kubectl() else {
        return skip!("kubectl is missing");
    };
    let port = free_port().to_string();
    let mut start = Command::new("./start.sh");
    start
        .arg(plane.kubeconfig())
        .args(["vk-copied", "127.0.0.1", &port, "0", "cpu", "mylin"])
        .current_dir(&out)
        .env("HOME", world.path("home"));
    let agent = crate::parts::daemon(&mut start, &world.path("start.log"));
    eventually("the node is there", || {
        let path = "jsonpath={.metadata.labels.jiriaf\\.nodetype} {.metadata.labels.jiriaf\\.site}";
        let found = kubectl
            .words(&["get", "node", "vk-copied", "-o", path])
            .stdout;
        if found == "cpu mylin" {
            Ok(())
        } else {
            Err((found, std::fs::read_to_string(out.join("vk-copied.log"))))
        }
    });
    drop(agent);
    let few = Output::of(Command::new("./start.sh").arg("x").current_dir(&out)).fails_with(2);
    assert!(few.contains("7 arguments are needed"), "{few}");
}

#[test]
fn a_sif_is_built_from_the_image() {
    let mut world = match World::new() {
        Ok(world) => world,
        Err(why) => return skip!("{why}"),
    };
    world.docker();
    world.hub();
    let definition = Path::new(env!("CARGO_MANIFEST_DIR")).join("images/apptainer/vk-cmd.def");
    let text = std::fs::read_to_string(definition).expect("a definition");
    world.put("vk-cmd.def", &text);
    world.types("apptainer build vk-cmd.sif vk-cmd.def");
    let said = world.types("apptainer run vk-cmd.sif --help");
    assert!(said.contains("--control-plane"), "{said}");
    // What the site then copies out of it.
    world.types("apptainer exec vk-cmd.sif cp -r /vk-cmd . && ./vk-cmd/vk-cmd --version");
    // Without a registry: from the local image.
    world.types(&format!(
        "docker save {IMAGE} -o vk-cmd.tar && apptainer build saved.sif docker-archive://vk-cmd.tar"
    ));
    world.types("apptainer exec saved.sif /vk-cmd/vk-cmd --version");
}

#[test]
fn buildah_builds_it_on_nothing() {
    let Some(buildah) = testkit::find_program("buildah") else {
        return skip!("buildah is missing");
    };
    let dir = tempfile::tempdir().expect("a directory");
    let at = |name: &str| dir.path().join(name).to_str().expect("text").to_owned();
    let own = format!(
        "{} --root {} --runroot {} --storage-driver vfs",
        buildah.display(),
        at("store"),
        at("run")
    );
    let mut make = Command::new("make");
    make.args([
        "-C",
        &format!("{}/images/base", env!("CARGO_MANIFEST_DIR")),
        "quick",
    ])
    .args(["TAG=tag", "BASE=scratch", "TARGET=bare", "SBOM=/dev/null"])
    .arg(format!("BUILDER={own} bud --isolation chroot"))
    .arg(format!("BINARY={VK_CMD}"))
    .arg(format!("CONTEXT={}", at("context")))
    .env_remove("MAKEFLAGS");
    Output::of(&mut make).ok();
    let does = |line: &str| {
        let line = format!("{own} {line}");
        Output::of(Command::new("sh").args(["-c", &line])).ok()
    };
    let container = does(&format!("from --pull-never {IMAGE}"));
    let root = does(&format!("mount {}", container.trim()));
    let root = Path::new(root.trim());
    let mode = |name: &str| {
        let meta = std::fs::symlink_metadata(root.join(name)).expect(name);
        std::os::unix::fs::PermissionsExt::mode(&meta.permissions()) & 0o7777
    };
    assert_eq!(mode("root"), 0o711);
    assert_eq!(mode("vk-cmd/start.sh"), 0o755);
    let link = std::fs::read_link(root.join("vk-cmd/virtual-kubelet")).expect("a link");
    assert_eq!(link, Path::new("vk-cmd"));
    does(&format!("umount {}", container.trim()));
}

/// What goes into an image of a release: beside the program half a megabyte at most, so that all stays below 20 MB.
#[test]
fn what_goes_into_the_image_is_listed_and_small() {
    for program in ["cargo", "jq", "make"] {
        if testkit::find_program(program).is_none() {
            return skip!("{program} is missing");
        }
    }
    let dir = tempfile::tempdir().expect("a directory");
    let context = dir.path().join("context");
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut make = Command::new("make");
    make.arg("-C").arg(root.join("images/base")).arg("context");
    make.arg(format!("CONTEXT={}", context.display()));
    let release = root.join("target/x86_64-unknown-linux-musl/release/vk-cmd");
    let given = std::env::var_os("VK_CMD_IMAGE_BINARY").map(std::path::PathBuf::from);
    let release = given.or_else(|| release.exists().then_some(release));
    let program = release.clone().unwrap_or_else(|| VK_CMD.into());
    make.arg(format!("BINARY={}", program.display()))
        .env_remove("MAKEFLAGS");
    Output::of(&mut make).ok();
    let payload = context.join("root/vk-cmd");
    let sbom = std::fs::read_to_string(payload.join("sbom.spdx.json")).expect("a list");
    let sbom: serde_json::Value = serde_json::from_str(&sbom).expect("JSON");
    assert_eq!(sbom["spdxVersion"], "SPDX-2.3");
    let packages = sbom["packages"].as_array().expect("packages");
    for (name, at_least) in [("vk-cmd", "0."), ("tokio", "1."), ("rustls", "0.")] {
        let of_it = packages.iter().find(|it| it["name"] == name);
        let found = of_it.unwrap_or_else(|| panic!("{name} is not listed"));
        let version = found["versionInfo"].as_str().unwrap_or_default();
        assert!(version.starts_with(at_least), "{found}");
        assert_ne!(found["licenseDeclared"], "NOASSERTION", "{found}");
    }
    assert!(
        !packages.iter().any(|it| it["name"] == "proptest"),
        "what only tests use is not in it"
    );
    let size = |name: &str| std::fs::metadata(payload.join(name)).expect(name).len();
    let beside = size("sbom.spdx.json") + size("start.sh");
    assert!(beside < 500_000, "{beside} bytes beside the program");
    match release {
        Some(_) => assert!(
            size("vk-cmd") + beside < 20_000_000,
            "{} bytes",
            size("vk-cmd") + beside
        ),
        None => skip!("the static binary is not built (make release): its size is not looked at"),
    }
}

/// The way of the default base, which has no ssh.
#[test]
fn ssh_is_fetched_for_a_base_that_has_none() {
    let debian = place().join("debian");
    if !debian.join("etc/debian_version").exists() {
        return skip!("no base of Debian: run tests/sites/setup.sh first");
    }
    let site = match parts::docker() {
        Ok(site) => site,
        Err(why) => return skip!("{why}"),
    };
    let at = |name: &str| {
        site.dir
            .path()
            .join(name)
            .to_str()
            .expect("text")
            .to_owned()
    };
    let host = format!("unix://{}", at("s"));
    let docker = |line: &str| {
        let mut command = Command::new("sh");
        command.args(["-c", line]).env("DOCKER_HOST", &host);
        Output::of(&mut command)
    };
    docker(&format!(
        "tar -C {} -c . | docker import - vk-sites/debian:1",
        debian.display()
    ))
    .ok();
    let mut make = Command::new("make");
    make.args([
        "-C",
        &format!("{}/images/base", env!("CARGO_MANIFEST_DIR")),
        "quick",
    ])
    .args(["TAG=full", "BASE=vk-sites/debian:1", "SBOM=/dev/null"])
    .arg("BUILD_FLAGS=--network host")
    .arg(format!("BINARY={}", binary().display()))
    .arg(format!("CONTEXT={}", at("context")))
    .env("DOCKER_HOST", &host)
    .env_remove("MAKEFLAGS");
    let built = Output::of(&mut make);
    if built.code != 0
        && built.stdout.contains("apt-get update")
        && !built.stdout.contains("Setting up openssh-client")
    {
        return skip!(
            "no way to a mirror of Debian from a build: {}",
            built.stderr.trim()
        );
    }
    built.ok();
    let run = "docker run --rm --network host --entrypoint ssh jlabtsai/vk-cmd:full -V";
    let said = docker(run);
    assert!(
        said.code == 0 && said.stderr.starts_with("OpenSSH"),
        "{said:#?}"
    );
    // The package manager's caches are six times as large.
    let layer =
        docker("docker history --human=false --format {{.Size}} jlabtsai/vk-cmd:full | head -n 1")
            .ok();
    let layer: u64 = layer.trim().parse().expect("a number");
    assert!((1..25_000_000).contains(&layer), "{layer} bytes for ssh");
}
