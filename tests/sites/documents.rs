//! The documents' examples: each line that people type is run here, or by a test that is named here.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use testkit::{Output, Up, eventually, find_program, skip};

use crate::VK_CMD;
use crate::parts::{Daemon, daemon};
use crate::site::{OLD_LOOP, Row};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(name: &str) -> String {
    fs::read_to_string(root().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Lines of the fenced blocks of a kind.
fn typed(text: &str, kind: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let mut inside: Option<&str> = None;
    for line in text.lines() {
        match (line.strip_prefix("```"), inside) {
            (Some(_), Some(_)) => inside = None,
            (Some(kind), None) => inside = Some(kind),
            (None, Some(of)) if of == kind => lines.push(line.to_owned()),
            (None, _) => {}
        }
    }
    lines
}

/// Who runs a line.
enum By {
    /// [`lines_are_run`], as it stands.
    Here,
    /// These tests; where there is a text, it stands in their source.
    Tests(&'static [&'static str], Option<&'static str>),
}

/// Every line of the sites' documents.
fn known(line: &str) -> Option<By> {
    let tables = &[
        "jiriaf2301_with_the_serving_reader",
        "perlmutter_with_the_serving_reader",
    ];
    let cut = &["a_cut_tunnel_heals_and_no_status_is_lost"];
    Some(match line {
        "vk-cmd hostpipe send -- hostname" | "vk-cmd hostpipe send -- 'ls ~ | wc -l'" => By::Here,
        "vk-cmd hostpipe serve" => By::Tests(tables, Some("exec vk-cmd hostpipe serve")),
        line if line.starts_with("docker run -d -v $HOME/hostpipe") => {
            assert_eq!(
                line.replace("vk-cmd:tag", "vk-cmd"),
                Row::Jiriaf2301.step_3().replace("vk-cmd:tag", "vk-cmd")
            );
            By::Tests(tables, None)
        }
        line if line.starts_with("while true; do eval") => {
            assert!(OLD_LOOP.ends_with(line), "{line}");
            By::Tests(&["jiriaf2301_with_the_old_loop"], None)
        }
        line if line.starts_with("export CONTROL_PLANE_IP=") => {
            By::Tests(cut, Some("CONTROL_PLANE_IP=control-plane"))
        }
        // What the image's entry point runs.
        "vk-cmd entrypoint" => By::Tests(cut, None),
        line if line.starts_with("export NODENAME=vk-xxx") => {
            By::Tests(tables, Some("export NODENAME=vk-xxx"))
        }
        "run/shifter.sh $NODENAME docker:jlabtsai/vk-cmd:tag" => {
            By::Tests(&["perlmutter_by_its_script"], None)
        }
        _ => return None,
    })
}

#[test]
fn every_line_of_the_documents_has_a_test() {
    let sources: String = ["site", "tables", "verbs", "documents"]
        .map(|name| read(&format!("tests/sites/{name}.rs")))
        .concat();
    let readme = read("README.md");
    let section = readme
        .split("\n## ")
        .find(|part| part.starts_with("At a site"));
    let section = section.expect("the README has a part on sites").to_owned();
    let documents = ["docs/sites.md", "docs/tunnels.md", "docs/hostpipe.md"].map(read);
    let mut seen = 0;
    for text in documents.iter().chain([&section]) {
        for line in typed(text, "sh").iter().filter(|line| !line.is_empty()) {
            seen += 1;
            let by = known(line).unwrap_or_else(|| panic!("no test runs {line:?}"));
            if let By::Tests(names, text) = by {
                for name in names {
                    assert!(
                        sources.contains(&format!("fn {name}()")),
                        "{name}, for {line:?}"
                    );
                }
                assert!(text.is_none_or(|text| sources.contains(text)), "{line:?}");
            }
        }
    }
    assert!(seen >= 8, "{seen} lines");
    // What stands in the table of one-liners is what Table 3 has.
    for row in [Row::Jiriaf2301, Row::Ifarm, Row::Perlmutter] {
        assert!(
            documents[2].contains(&format!("`{}`", row.command())),
            "{row:?}"
        );
    }
}

/// Somebody's home, with the program in the `PATH`.
struct Home {
    dir: tempfile::TempDir,
    up: Option<Up>,
}

impl Home {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a home");
        fs::create_dir(dir.path().join("bin")).expect("a directory");
        std::os::unix::fs::symlink(VK_CMD, dir.path().join("bin/vk-cmd")).expect("a link");
        Self { dir, up: None }
    }

    fn command(&self, line: &str) -> Command {
        let mut command = Command::new("sh");
        let path = std::env::var("PATH").unwrap_or_default();
        command
            .args(["-c", line])
            .env_clear()
            .env("PATH", format!("{}/bin:{path}", self.dir.path().display()))
            .env("HOME", self.dir.path())
            .current_dir(root())
            .stdin(Stdio::null());
        if let Some(up) = &self.up {
            command.env("KUBECONFIG", &up.kubeconfig);
        }
        command
    }

    fn types(&self, line: &str) -> Output {
        Output::of(&mut self.command(line))
    }
}

#[test]
fn lines_are_run() {
    let home = Home::new();
    let _serving: Daemon = daemon(
        &mut home.command("exec vk-cmd hostpipe serve"),
        &home.dir.path().join("log"),
    );
    eventually("the pipe is there", || {
        home.dir
            .path()
            .join("hostpipe/vk-cmd")
            .exists()
            .then_some(())
            .ok_or(())
    });
    let mut ran = 0;
    for line in typed(&read("docs/hostpipe.md"), "sh") {
        if matches!(known(&line), Some(By::Here)) {
            let said = home.types(&line).ok();
            assert!(!said.trim().is_empty(), "{line}");
            ran += 1;
        }
    }
    assert_eq!(ran, 2);
    let host = nix::unistd::gethostname().expect("a name");
    let said = home.types("vk-cmd hostpipe send -- hostname").ok();
    assert_eq!(said.trim(), host.to_string_lossy());
    assert_eq!(home.types("vk-cmd hostpipe send -- 'exit 7'").code, 7);
}

/// What a line of a check begins with: level and id, `mend:`, or the whole meaning.
fn head(line: &str) -> String {
    let words: Vec<&str> = line.split_whitespace().collect();
    let kept = match words.first() {
        Some(&"means:") => words.len(),
        Some(&"mend:") => 1,
        _ => 2,
    };
    words[..kept.min(words.len())].join(" ")
}

/// Blocks with a prompt: what is typed, and what is printed.
#[test]
fn what_site_prints_is_what_the_document_shows() {
    let home = Home::new();
    let text = read("docs/sites.md");
    let lines = typed(&text, "console");
    let mut ran = Vec::new();
    let mut rest = lines.as_slice();
    while let Some((first, after)) = rest.split_first() {
        let line = first
            .strip_prefix("$ ")
            .unwrap_or_else(|| panic!("{first:?} is no command"));
        let end = after
            .iter()
            .position(|line| line.starts_with("$ "))
            .unwrap_or(after.len());
        let (shown, next) = after.split_at(end);
        let said = home.types(line);
        for shown in shown.iter().filter(|line| !line.is_empty()) {
            let wanted = shown.replace("/home/me", &home.dir.path().to_string_lossy());
            // What is found, and so what mends it, is this machine's: the words that say which finding it is hold.
            let of_a_check = line.contains(" check ");
            let same = |it: &str| match of_a_check {
                true => head(it) == head(&wanted),
                false => it.trim_end() == wanted.trim_end(),
            };
            let found = said.stdout.lines().any(same);
            assert!(found, "{line} does not print {wanted:?}: {said:#?}");
        }
        ran.push(line.to_owned());
        rest = next;
    }
    assert!(
        ran.contains(&"vk-cmd site list".to_owned()) && ran.len() >= 5,
        "{ran:?}"
    );
    // The error in the document, from the same file with the same slip.
    let file = home.dir.path().join(".config/vk-cmd/sites/mine.yaml");
    let profile = fs::read_to_string(&file).expect("site init wrote it");
    fs::write(&file, format!("{profile}enviroment: {{home: false}}\n")).expect("written");
    let said = home.types("vk-cmd site show mine").fails_with(2);
    let shown = typed(&text, "")
        .join("\n")
        .replace("/home/me", &home.dir.path().to_string_lossy());
    assert!(
        shown.contains("enviroment") && said.contains(shown.trim()),
        "{shown:?} in {said:?}"
    );
}

#[test]
fn the_api_is_read_with_curl() {
    for program in ["curl", "base64", "jq"] {
        if find_program(program).is_none() {
            return skip!("{program} is missing");
        }
    }
    let mut home = Home::new();
    let up = Up::of(VK_CMD).start();
    let Some(kubectl) = up.kubectl() else {
        return skip!("kubectl is missing");
    };
    let node = kubectl
        .run("get nodes -o name")
        .ok()
        .trim()
        .replace("node/", "");
    home.up = Some(up);
    let readme = read("tools/kubernetes-api/readme.md");
    let lines = typed(&readme, "sh");
    assert_eq!(lines.len(), 5, "{lines:?}");
    for line in &lines {
        // Metrics come once they have been measured.
        let said = eventually(line, || {
            let said = home.types(line);
            if said.code == 0 && !said.stdout.trim().is_empty() {
                Ok(said.stdout)
            } else {
                Err(said)
            }
        });
        match line {
            line if line.contains("jq") => assert_eq!(said.trim(), node, "{line}"),
            line => {
                let list: serde_json::Value =
                    serde_json::from_str(&said).unwrap_or_else(|error| panic!("{line}: {error}"));
                assert!(
                    list["kind"]
                        .as_str()
                        .is_some_and(|kind| kind.ends_with("List")),
                    "{line}: {said}"
                );
            }
        }
    }
    let refused = home.types("tools/kubernetes-api/api.sh /api/v1/no-such-thing");
    assert_ne!(refused.code, 0);
    let nothing = home.types("tools/kubernetes-api/api.sh");
    assert!(nothing.stderr.contains("usage: "), "{nothing:#?}");
}

#[test]
fn scripts_are_clean() {
    let Some(shellcheck) = find_program("shellcheck") else {
        return skip!("shellcheck is missing");
    };
    let mut scripts: Vec<PathBuf> = ["run", "tools/kubernetes-api", "images/base", "tests/sites"]
        .iter()
        .flat_map(|dir| {
            fs::read_dir(root().join(dir))
                .expect("a directory")
                .flatten()
        })
        .map(|entry| entry.path())
        .filter(|path| {
            let text = fs::read(path).unwrap_or_default();
            text.starts_with(b"#!/bin/sh") || text.starts_with(b"#!/bin/bash")
        })
        .collect();
    scripts.sort();
    assert!(scripts.len() >= 9, "{scripts:?}");
    Output::of(Command::new(shellcheck).args(&scripts)).ok();
}
