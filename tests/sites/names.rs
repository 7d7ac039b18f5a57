//! Two agents with one node name.

use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use testkit::{Up, eventually, skip};

use crate::VK_CMD;

struct Agent {
    child: Child,
    log: std::path::PathBuf,
}

impl Agent {
    fn start(up: &Up, home: &Path, log: &Path) -> Self {
        std::fs::create_dir_all(home).expect("a home");
        let child = Command::new(VK_CMD)
            .arg("agent")
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("HOME", home)
            .env("NODENAME", "vk-one")
            .env("KUBECONFIG", &up.kubeconfig)
            .env("KUBELET_PORT", "0")
            .env("VK_CMD_SITE", "local")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(log).expect("a log"))
            .spawn();
        Self {
            child: child.expect("it starts"),
            log: log.to_owned(),
        }
    }

    fn said(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    #[track_caller]
    fn ends_with(&mut self, code: i32, words: &[&str]) {
        let status = eventually("the agent ends", || match self.child.try_wait() {
            Ok(Some(status)) => Ok(status),
            _ => Err(std::fs::read_to_string(&self.log)),
        });
        let said = self.said();
        assert_eq!(status.code(), Some(code), "{said}");
        for word in words {
            assert!(said.contains(word), "no {word:?} in {said}");
        }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_name_that_a_live_agent_has_is_refused_here_and_taken_aloud_elsewhere() {
    let up = Up::of(VK_CMD).args(&["--no-node"]).start();
    let Some(kubectl) = up.kubectl() else {
        return skip!("kubectl is missing");
    };
    let dir = tempfile::tempdir().expect("a directory");
    let at = |name: &str| dir.path().join(name);
    let ready = "wait --for=condition=Ready node/vk-one --timeout=60s";
    let mut first = Agent::start(&up, &at("home"), &at("first"));
    eventually("the node is Ready", || match kubectl.run(ready) {
        done if done.code == 0 => Ok(()),
        _ => Err(first.said()),
    });
    // With the same data: the second one is refused, and the first does not notice.
    let mut second = Agent::start(&up, &at("home"), &at("second"));
    let holder = format!("pid {} on ", first.child.id());
    second.ends_with(
        1,
        &[
            "is held by another agent",
            &holder,
            "another node name or root",
        ],
    );
    assert!(
        matches!(first.child.try_wait(), Ok(None)),
        "{}",
        first.said()
    );
    // Elsewhere: nobody can tell a job that was put back into the queue from a mistake. The newer one has the name,
    // and both say so.
    let third = Agent::start(&up, &at("elsewhere"), &at("third"));
    first.ends_with(
        1,
        &[
            "another agent took this node's name",
            "a NODENAME (--nodename) of its own",
        ],
    );
    let said = third.said();
    assert!(said.contains("was in use elsewhere, by vk-one_"), "{said}");
    eventually("an event tells it", || {
        let path = "jsonpath={.items[*].message}";
        let found = kubectl.words(&[
            "get",
            "events",
            "-A",
            "--field-selector=reason=NodeNameTaken",
            "-o",
            path,
        ]);
        if found.stdout.contains("give each agent a NODENAME") {
            Ok(())
        } else {
            Err((found, third.said()))
        }
    });
    kubectl.run(ready).ok();
}
