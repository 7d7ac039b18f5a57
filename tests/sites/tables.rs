//! Tables 2 and 3 of the documents, step by step, at each of the three sites: through real tunnels, from the control
//! plane to the output in `kubectl logs`.
//!
//! The images are built on the spot under the documented names. Shifter is a stand-in over ch-run.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use testkit::{RealCluster, eventually, eventually_within, skip};

use crate::parts::place;
use crate::site::{Plane, Reader, Row, Site, embedded};
use crate::world::{PLANE, World, free_port};

fn table(row: Row, reader: Reader, plane: &Plane) {
    let mut site = match Site::new(row, plane) {
        Ok(site) => site,
        Err(why) => return skip!("{why}"),
    };
    site.tunnels_by_hand();
    site.reader(reader);
    site.agent(reader, "");
    site.runs_pods();
    match row {
        Row::Jiriaf2301 => site.runs_images("vk-sites/base:1"),
        Row::Ifarm => site.runs_images("jlabtsai/vk-cmd:tag"),
        // The stand-in makes no mount points.
        Row::Perlmutter => {}
    }
    let serve = reader == Reader::Serve;
    let fifo = site.world.home_dir().join("hostpipe/vk-cmd");
    site.ends();
    // The old loop never removed its own.
    assert!(
        !serve || !fifo.exists(),
        "the FIFO goes with the one that has made it"
    );
}

#[test]
fn jiriaf2301_with_the_serving_reader() {
    table(Row::Jiriaf2301, Reader::Serve, &embedded());
}

/// The directory's owner from the start, who finds nothing to write to but that directory.
#[test]
fn jiriaf2301_as_an_ordinary_user_on_a_root_that_is_read_only() {
    let plane = embedded();
    let mut site = match Site::new(Row::Jiriaf2301, &plane) {
        Ok(site) => site,
        Err(why) => return skip!("{why}"),
    };
    site.options = " --read-only --user $(id -u):$(id -g)";
    site.tunnels_by_hand();
    site.reader(Reader::Serve);
    site.agent(Reader::Serve, "");
    site.runs_pods();
    site.ends();
}

#[test]
fn jiriaf2301_with_the_old_loop() {
    table(Row::Jiriaf2301, Reader::Loop, &embedded());
}

#[test]
fn jiriaf2301_by_its_script() {
    table(Row::Jiriaf2301, Reader::Script, &embedded());
}

#[test]
fn ifarm_with_the_serving_reader() {
    table(Row::Ifarm, Reader::Serve, &embedded());
}

#[test]
fn ifarm_with_the_old_loop() {
    table(Row::Ifarm, Reader::Loop, &embedded());
}

#[test]
fn ifarm_by_its_script() {
    table(Row::Ifarm, Reader::Script, &embedded());
}

#[test]
fn perlmutter_with_the_serving_reader() {
    table(Row::Perlmutter, Reader::Serve, &embedded());
}

#[test]
fn perlmutter_with_the_old_loop() {
    table(Row::Perlmutter, Reader::Loop, &embedded());
}

#[test]
fn perlmutter_by_its_script() {
    table(Row::Perlmutter, Reader::Script, &embedded());
}

#[test]
fn the_three_sites_at_a_real_control_plane() {
    for row in [Row::Jiriaf2301, Row::Ifarm, Row::Perlmutter] {
        let Some(cluster) = RealCluster::builder().controllers().start() else {
            return;
        };
        table(row, Reader::Serve, &Plane::Real(cluster));
    }
}

/// Tunnels that the agent builds itself, cut in every way.
#[test]
fn a_cut_tunnel_heals_and_no_status_is_lost() {
    let plane = embedded();
    let mut site = match Site::new(Row::Perlmutter, &plane) {
        Ok(site) => site,
        Err(why) => return skip!("{why}"),
    };
    site.reader(Reader::Serve);
    let profile = "name: quick\nbase: local\ntunnels: {keepAliveSeconds: 1, keepAliveCount: 3}\n";
    site.world.put("quick.yaml", profile);
    let own = format!(
        "CONTROL_PLANE_IP=control-plane\nAPISERVER_PORT={}\nVK_CMD_SITE_FILE=$HOME/quick.yaml\n",
        site.api_port
    );
    site.agent(Reader::Serve, &own);
    let tunnel = "{.status.conditions[?(@.type==\"TunnelReady\")].reason}";
    site.is("node/vk-xxx", tunnel, "TunnelUp");
    let ssh = |site: &World| {
        let all = site.processes();
        let found = all.iter().find(|(_, line)| line.starts_with("ssh -v"));
        Pid::from_raw(found.expect("our ssh").0)
    };
    for cut in ["SIGKILL", "SIGSTOP", "sshd", "link"] {
        let go = site.world.home_dir().join(format!("go-{cut}"));
        let line = format!(
            "while test ! -e {}; do sleep 0.1; done; echo went; exit 7",
            go.display()
        );
        site.apply(
            &cut.to_lowercase(),
            "host",
            &format!("[bash, -c, '{line}']"),
            "",
        );
        site.is(
            &format!("pod/{}", cut.to_lowercase()),
            "{.status.phase}",
            "Running",
        );
        let before = ssh(&site.world);
        match cut {
            "SIGKILL" => kill(before, Signal::SIGKILL).expect("it runs"),
            "SIGSTOP" => kill(before, Signal::SIGSTOP).expect("it runs"),
            "sshd" => site.world.stop_sshd(),
            _ => site.world.link("down"),
        }
        // It ends while nobody hears of it.
        std::fs::write(&go, "").expect("written");
        eventually_within(Duration::from_secs(120), "the old tunnel is gone", || {
            let alive = Path::new("/proc")
                .join(before.to_string())
                .join("exe")
                .read_link();
            if alive.is_err() {
                Ok(())
            } else {
                Err(site.log())
            }
        });
        match cut {
            "sshd" => site.world.start_sshd(),
            "link" => site.world.link("up"),
            _ => {}
        }
        site.ends_with(&cut.to_lowercase(), "7", "went");
        site.is("node/vk-xxx", tunnel, "TunnelUp");
    }
    site.ends();
}

/// A jump host, a port that the far side chooses, and one of an application.
#[test]
fn a_tunnel_goes_by_a_jump_host_and_carries_ports_of_applications() {
    let plane = embedded();
    let mut site = match Site::new(Row::Perlmutter, &plane) {
        Ok(site) => site,
        Err(why) => return skip!("{why}"),
    };
    let (here, there) = (free_port(), free_port());
    site.reader(Reader::Serve);
    let profile = format!(
        "name: far\nbase: local\ntunnels: {{jump: [control-plane], kubeletPort: any, ports: ['{here}:{there}']}}\n"
    );
    site.world.put("far.yaml", &profile);
    // ssh gives the one that it starts for a jump host its configuration, and none of its other options. The jump host
    // itself knows the next one by its address.
    let ssh = site.world.home_dir().join(".ssh");
    let read = |name: &str| std::fs::read_to_string(ssh.join(name)).expect("a file of the user's");
    let own = format!(
        "{}  HostName {PLANE}\n  UserKnownHostsFile {1}/known_hosts\n  IdentityFile {1}/id_ed25519\n",
        read("config"),
        ssh.display()
    );
    let known = read("known_hosts");
    let known = format!("{known}{}", known.replace("control-plane", PLANE));
    site.world.put(".ssh/known_hosts", &known);
    site.world.put(".ssh/config", &own);
    let own = format!(
        "CONTROL_PLANE_IP=control-plane\nAPISERVER_PORT={}\nVK_CMD_SITE_FILE=$HOME/far.yaml\n",
        site.api_port
    );
    site.agent(Reader::Serve, &own);
    let tunnel = "{.status.conditions[?(@.type==\"TunnelReady\")].reason}";
    site.is("node/vk-xxx", tunnel, "TunnelUp");
    let all = site.world.processes();
    let jumps = |line: &str| line.starts_with("ssh ") && line.contains("-W ");
    assert!(all.iter().any(|(_, line)| jumps(line)), "{all:?}");
    // The far side's choice is what the node tells, and what logs go by.
    let path = "jsonpath={.status.daemonEndpoints.kubeletEndpoint.Port}";
    let port = site
        .kubectl
        .words(&["get", "node", "vk-xxx", "-o", path])
        .ok();
    let port: u16 = port.parse().expect("a port");
    assert!(port != 0 && port != site.kubelet_port, "{port}");
    site.apply("said", "host", "[echo, by the port that was chosen]", "");
    site.ends_with("said", "0", "by the port that was chosen");
    // What a pod serves is reached at the control plane.
    let busybox = place().join("busybox/bin/busybox");
    let command = format!(
        "['{}', httpd, -f, -p, '127.0.0.1:{here}', -h, /etc]",
        busybox.display()
    );
    site.apply("app", "host", &command, "");
    eventually("the application answers", || {
        let mut stream = TcpStream::connect((PLANE, there)).map_err(|error| error.to_string())?;
        let mut answer = String::new();
        let asked = stream.write_all(b"GET /hostname HTTP/1.0\r\n\r\n");
        asked
            .and_then(|()| stream.read_to_string(&mut answer))
            .map_err(|error| error.to_string())?;
        answer.contains(" 200 OK").then_some(()).ok_or(answer)
    });
    site.kubectl.run("delete pod app --timeout=60s").ok();
    site.ends();
    let refused = TcpStream::connect((PLANE, there));
    assert!(refused.is_err(), "nobody listens at the far side any more");
}
