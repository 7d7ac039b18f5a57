//! `run/slurm.sbatch` under a real Slurm, whose daemons run here.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;
use testkit::{Output, Up, eventually, eventually_within, find_program, skip};

use crate::VK_CMD;
use crate::parts::{Daemon, daemon};
use crate::world::free_port;

/// Two nodes of one cluster on this machine.
struct Slurm {
    dir: TempDir,
    _daemons: Vec<Daemon>,
}

impl Slurm {
    fn new() -> Result<Self, String> {
        if !nix::unistd::geteuid().is_root() {
            return Err("slurmd needs root".to_owned());
        }
        let find = |name: &str| {
            let sbin = Path::new("/usr/sbin").join(name);
            let found = find_program(name).or_else(|| sbin.is_file().then_some(sbin));
            found.ok_or_else(|| {
                format!("{name} is missing (Debian: apt-get install slurm-wlm munge)")
            })
        };
        let (munged, slurmctld, slurmd) = (find("munged")?, find("slurmctld")?, find("slurmd")?);
        find("sbatch")?;
        let dir = tempfile::tempdir().expect("a directory");
        let at = |name: &str| dir.path().join(name).to_str().expect("text").to_owned();
        fs::create_dir(at("state")).expect("a directory");
        fs::write(at("key"), [7; 64]).expect("a key");
        fs::set_permissions(at("key"), fs::Permissions::from_mode(0o600)).expect("chmod");
        let host = nix::unistd::gethostname().expect("a name");
        let host = host.to_str().expect("text");
        let (first, second) = (free_port(), free_port());
        let conf = format!(
            "ClusterName=vk\nSlurmctldHost={host}(127.0.0.1)\nSlurmctldPort={}\nSlurmUser=root\nSlurmdUser=root\n\
             AuthType=auth/munge\nAuthInfo=socket={}\nStateSaveLocation={}\nSlurmdSpoolDir={}\n\
             SlurmctldPidFile={}\nSlurmdPidFile={}\nProctrackType=proctrack/linuxproc\nTaskPlugin=task/none\n\
             JobAcctGatherType=jobacct_gather/none\nAccountingStorageType=accounting_storage/none\n\
             SelectType=select/cons_tres\nSelectTypeParameters=CR_Core\nMpiDefault=none\nReturnToService=2\nKillWait=20\n\
             SchedulerParameters=sched_min_interval=0,batch_sched_delay=0,bf_interval=1\n\
             NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={first} CPUs=1 State=UNKNOWN\n\
             NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={second} CPUs=1 State=UNKNOWN\n\
             PartitionName=debug Nodes=ALL Default=YES MaxTime=INFINITE State=UP OverSubscribe=FORCE\n",
            free_port(),
            at("munge.socket"),
            at("state"),
            at("spool-%n"),
            at("ctld.pid"),
            at("slurmd-%n.pid"),
        );
        fs::write(at("slurm.conf"), conf).expect("written");
        let mut daemons = Vec::new();
        let mut munge = Command::new(munged);
        munge
            .args(["--foreground", "--force", "--num-threads=2"])
            .args(["--socket", &at("munge.socket"), "--key-file", &at("key")])
            .args([
                "--pid-file",
                &at("munge.pid"),
                "--log-file",
                &at("munge.log"),
                "--seed-file",
                &at("seed"),
            ]);
        daemons.push(daemon(&mut munge, &dir.path().join("munged.out")));
        eventually("munged listens", || {
            Path::new(&at("munge.socket"))
                .exists()
                .then_some(())
                .ok_or(())
        });
        for (program, words, log) in [
            (&slurmctld, vec!["-D"], "ctld.log"),
            (&slurmd, vec!["-D", "-N", "n1"], "n1.log"),
            (&slurmd, vec!["-D", "-N", "n2"], "n2.log"),
        ] {
            let mut command = Command::new(program);
            command.args(words).args(["-f", &at("slurm.conf")]);
            daemons.push(daemon(&mut command, &dir.path().join(log)));
        }
        let slurm = Self {
            dir,
            _daemons: daemons,
        };
        eventually("both nodes are idle", || {
            let found = slurm.does("sinfo", &["-h", "-N", "-o", "%N %t"]);
            if found.stdout.matches("idle").count() == 2 {
                Ok(())
            } else {
                Err((found, slurm.log("ctld.log"), slurm.log("n1.log")))
            }
        });
        Ok(slurm)
    }

    fn log(&self, name: &str) -> String {
        fs::read_to_string(self.dir.path().join(name)).unwrap_or_default()
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command
            .env("SLURM_CONF", self.dir.path().join("slurm.conf"))
            .current_dir(self.dir.path());
        command
    }

    fn does(&self, program: &str, words: &[&str]) -> Output {
        Output::of(self.command(program).args(words))
    }
}

fn script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("run/slurm.sbatch")
}

#[test]
fn a_job_of_two_nodes_is_two_nodes_of_the_cluster() {
    let slurm = match Slurm::new() {
        Ok(slurm) => slurm,
        Err(why) => return skip!("{why}"),
    };
    let up = Up::of(VK_CMD).args(&["--no-node"]).start();
    let Some(kubectl) = up.kubectl() else {
        return skip!("kubectl is missing");
    };
    let home = slurm.dir.path().join("home");
    fs::create_dir(&home).expect("a home");
    let mut submit = slurm.command("sbatch");
    submit
        .args(["--parsable", "--nodes=2", "--export=ALL"])
        .arg(script())
        .arg(VK_CMD)
        .env("HOME", &home)
        .env("NODENAME", "vk")
        .env("KUBECONFIG", &up.kubeconfig)
        .env("KUBELET_PORT", "0")
        .env("VK_CMD_SITE", "local");
    let id = Output::of(&mut submit).ok();
    let id = id.trim();
    let output = slurm.dir.path().join(format!("vk-cmd-{id}.out"));
    let said = || fs::read_to_string(&output).unwrap_or_default();
    for number in 0..2 {
        let node = format!("vk-{id}-{number}");
        eventually("the node is Ready, and knows how long", || {
            let path = "jsonpath={.status.conditions[?(@.type==\"Ready\")].status} {.metadata.labels.jiriaf\\.alivetime}";
            let found = kubectl.words(&["get", "node", &node, "-o", path]).stdout;
            let left = found
                .strip_prefix("True ")
                .and_then(|left| left.parse::<u32>().ok());
            match left {
                Some(left) if (3000..=3600).contains(&left) => Ok(()),
                _ => Err((found, said())),
            }
        });
    }
    let pod = format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: p}}\nspec:\n  restartPolicy: Never\n  nodeName: vk-{id}-1\n  \
         containers: [{{name: c, image: host, command: [sh, -c, 'echo in $SLURM_JOB_ID; exec sleep 1000']}}]\n"
    );
    kubectl.pipe("apply -f -", &pod).ok();
    eventually("it runs in the job", || {
        let found = kubectl.run("logs p");
        if found.stdout == format!("in {id}\n") {
            Ok(())
        } else {
            Err((found, said()))
        }
    });
    slurm.does("scancel", &[id]).ok();
    // All goes in order within Slurm's KillWait: the pod has its end, the nodes are gone.
    eventually_within(Duration::from_secs(60), "the nodes go with the job", || {
        let nodes = kubectl.run("get nodes -o name").ok();
        if nodes.is_empty() {
            Ok(())
        } else {
            Err((nodes, said()))
        }
    });
    eventually_within(Duration::from_secs(60), "the job is gone", || {
        let jobs = slurm.does("squeue", &["-h"]);
        if jobs.stdout.is_empty() {
            Ok(())
        } else {
            Err(jobs)
        }
    });
}
