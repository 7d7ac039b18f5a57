//! `vk-cmd site` as people and scripts use it; the examples of docs/sites.md.

use std::path::Path;
use std::process::Command;

use serde_json::Value;
use testkit::{Output, Up, skip};

use crate::VK_CMD;
use crate::parts;

fn site(home: &Path, line: &str) -> Output {
    let mut command = Command::new(VK_CMD);
    command
        .arg("site")
        .args(line.split_whitespace())
        .env("HOME", home)
        .env_remove("XDG_CONFIG_HOME")
        .env_remove("VK_CMD_SITE");
    Output::of(&mut command)
}

#[test]
fn a_profile_is_written_changed_shown_and_chosen() {
    let home = tempfile::tempdir().expect("a home");
    let path = site(home.path(), "init mine --base ifarm").ok();
    let path = Path::new(path.trim());
    assert_eq!(path, home.path().join(".config/vk-cmd/sites/mine.yaml"));
    site(home.path(), "init mine").fails_with(2);
    let listed = site(home.path(), "list --site mine -o json").ok();
    let listed: Value = serde_json::from_str(&listed).expect("JSON");
    let names: Vec<&str> = listed
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|it| it["name"].as_str())
        .collect();
    assert_eq!(
        names,
        ["ifarm", "jiriaf2301", "local", "mine", "perlmutter"]
    );
    assert_eq!(listed[3]["chosen"], true);
    assert_eq!(listed[3]["engine"], "apptainer");

    // A wrong key is answered with the nearest one, where it stands.
    let text = std::fs::read_to_string(path).expect("the profile");
    std::fs::write(path, format!("{text}enviroment: {{home: false}}\n")).expect("written");
    let said = site(home.path(), "show mine").fails_with(2);
    assert!(
        said.contains("enviroment")
            && said.contains("did you mean \"environment\"?")
            && said.contains("mine.yaml"),
        "{said}"
    );
    std::fs::write(path, format!("{text}environment: {{home: false}}\n")).expect("written");
    let shown = site(home.path(), "show mine -o json").ok();
    let shown: Value = serde_json::from_str(&shown).expect("JSON");
    assert_eq!(shown["environment"]["home"], false);
    assert_eq!(shown["environment"]["pass"][0], "*");
    let said = site(home.path(), "show perlmuter").fails_with(2);
    assert!(said.contains("did you mean \"perlmutter\"?"), "{said}");
}

#[test]
fn a_check_tells_what_was_found_what_it_means_and_how_to_mend_it() {
    let home = tempfile::tempdir().expect("a home");
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let there = listener.local_addr().expect("an address");
    let checked = site(
        home.path(),
        &format!("check --site local -o json --reach {there} --reach 127.0.0.1:1"),
    );
    assert_eq!(checked.code, 0, "{checked:#?}");
    let findings: Vec<Value> = serde_json::from_str(&checked.stdout).expect("JSON");
    let find = |id: &str| {
        let found = findings.iter().find(|it| it["id"] == id);
        found
            .unwrap_or_else(|| panic!("{id} in {findings:#?}"))
            .clone()
    };
    assert_eq!(find(&format!("reach.{there}"))["level"], "ok");
    let unreached = find("reach.127.0.0.1:1");
    assert_eq!(unreached["level"], "warn");
    assert!(
        unreached["mend"]
            .as_str()
            .is_some_and(|it| it.contains("tunnels")),
        "{unreached}"
    );
    for id in [
        "site", "engine", "userns", "cgroup", "ssh", "fs.home", "fs.root", "clock", "limits",
    ] {
        let finding = find(id);
        assert!(
            finding["found"].as_str().is_some_and(|it| !it.is_empty()),
            "{finding}"
        );
    }
    assert_eq!(
        std::fs::read_dir(home.path()).expect("the home").count(),
        0,
        "a check leaves nothing behind"
    );
    // A site whose engine is not there fails, and says which. (Nobody has Shifter in the directory of this PATH.)
    let checked = site(home.path(), "check --site perlmutter");
    assert_eq!(checked.code, 1, "{checked:#?}");
    assert!(
        checked.stdout.contains("FAIL  engine") && checked.stdout.contains("mend: "),
        "{}",
        checked.stdout
    );
}

#[test]
fn a_node_says_which_site_it_is_at() {
    let site = match parts::charliecloud() {
        Ok(site) => site,
        Err(why) => return skip!("{why}"),
    };
    let (_up, kubectl) = site.up();
    let Some(kubectl) = kubectl else {
        return skip!("kubectl is missing");
    };
    let nodes = kubectl
        .run("get nodes -l vk-cmd.io/site=here,vk-cmd.io/engine=charliecloud -o name")
        .ok();
    assert_eq!(nodes.lines().count(), 1, "{nodes}");
}

#[test]
fn an_unknown_site_ends_the_program_before_it_begins() {
    let mut up = Up::of(VK_CMD).args(&["--site", "perlmuter"]);
    let said = Output::of(&mut up.command()).fails_with(2);
    assert!(
        said.contains("--site: \"perlmuter\" is no known site"),
        "{said}"
    );
}
