//! A computing centre and its control plane on one machine.
//!
//! The control plane is here, behind an sshd that an ordinary user runs. The worker is a network namespace whose only
//! neighbour is that sshd: no other way leads to the API server, which listens on loopback. What a user types is run as
//! such a user, with nothing of this process's environment.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, User};
use tempfile::TempDir;
use testkit::{Output, eventually, find_program};

use crate::VK_CMD;
use crate::parts::{self, Daemon, daemon, place};

/// The user whom `setup.sh` makes.
const USER: &str = "vk-sites";
/// The worker's network namespace.
const WORKER: &str = "vk-worker";
/// The sshd's address, and the control plane's as nodes tell it.
pub(crate) const PLANE: &str = "10.71.0.1";
/// Where the worker's own registry stands in for Docker Hub.
const HUB: &str = "127.0.0.71";
/// The image's documented name.
pub(crate) const IMAGE: &str = "jlabtsai/vk-cmd:tag";

pub(crate) struct World {
    pub(crate) dir: TempDir,
    user: User,
    ssh_port: u16,
    sshd: Option<Daemon>,
    dockerd: Option<Daemon>,
    registry: Option<Daemon>,
    _alone: Flock<File>,
}

pub(crate) fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    listener.local_addr().expect("an address").port()
}

fn tool(line: &str) -> Output {
    let mut words = line.split_whitespace();
    let program = words.next().expect("a word");
    Output::of(Command::new(program).args(words).stdin(Stdio::null()))
}

impl World {
    /// Sets all up; the error is what is missing.
    pub(crate) fn new() -> Result<Self, String> {
        if !nix::unistd::geteuid().is_root() {
            return Err("network namespaces and dockerd need root".to_owned());
        }
        let user = User::from_name(USER).ok().flatten();
        let user = user.ok_or("no user vk-sites: run tests/sites/setup.sh first")?;
        parts::rootfs().ok_or("run tests/sites/setup.sh first")?;
        for program in [
            "ip",
            "nsenter",
            "setpriv",
            "dockerd",
            "jq",
            "docker-registry",
            "ssh",
        ] {
            find_program(program).ok_or_else(|| format!("{program} is missing"))?;
        }
        let lock = File::create("/run/vk-sites.lock").map_err(|error| error.to_string())?;
        let alone = Flock::lock(lock, FlockArg::LockExclusive).map_err(|it| it.1.to_string())?;
        let dir = tempfile::Builder::new()
            .prefix("vk-sites")
            .tempdir()
            .expect("a directory");
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("chmod");
        let mut world = Self {
            dir,
            user,
            ssh_port: free_port(),
            sshd: None,
            dockerd: None,
            registry: None,
            _alone: alone,
        };
        world.clean();
        world.network()?;
        world.home();
        world.start_sshd();
        Ok(world)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_str().expect("text").to_owned()
    }

    pub(crate) fn home_dir(&self) -> &Path {
        &self.user.dir
    }

    /// Takes down what an earlier run may have left.
    fn clean(&self) {
        for pid in self.processes() {
            let _ = kill(Pid::from_raw(pid.0), Signal::SIGKILL);
        }
        let _ = tool(&format!("ip netns del {WORKER}"));
        let _ = tool("ip link del vk-plane0");
        let _ = fs::remove_dir_all(format!("/etc/netns/{WORKER}"));
    }

    fn network(&self) -> Result<(), String> {
        for line in [
            format!("ip netns add {WORKER}"),
            format!("ip link add vk-plane0 type veth peer name vk-worker0 netns {WORKER}"),
            format!("ip addr add {PLANE}/24 dev vk-plane0"),
            "ip link set vk-plane0 up".to_owned(),
            format!("ip -n {WORKER} addr add 10.71.0.2/24 dev vk-worker0"),
            format!("ip -n {WORKER} link set vk-worker0 up"),
            format!("ip -n {WORKER} link set lo up"),
        ] {
            let done = tool(&line);
            if done.code != 0 {
                return Err(format!("{line}: {}", done.stderr.trim()));
            }
        }
        let hosts = format!(
            "127.0.0.1 localhost\n{PLANE} control-plane\n{HUB} index.docker.io registry-1.docker.io\n"
        );
        fs::create_dir_all(format!("/etc/netns/{WORKER}")).expect("a directory");
        fs::write(format!("/etc/netns/{WORKER}/hosts"), hosts).expect("written");
        Ok(())
    }

    /// The link between the worker and the rest.
    pub(crate) fn link(&self, state: &str) {
        tool(&format!("ip link set vk-plane0 {state}")).ok();
    }

    fn give(&self, path: &Path) {
        nix::unistd::chown(path, Some(self.user.uid), Some(self.user.gid)).expect("chown");
    }

    /// A file of the user's own, `0600`.
    pub(crate) fn put(&self, name: &str, text: &str) {
        let path = self.user.dir.join(name);
        let mut dir = path.parent().expect("a directory").to_owned();
        fs::create_dir_all(&dir).expect("a directory");
        while dir.starts_with(&self.user.dir) {
            self.give(&dir);
            dir.pop();
        }
        fs::write(&path, text).expect("written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("chmod");
        self.give(&path);
    }

    /// A home with keys, and programs beside it.
    fn home(&self) {
        for entry in fs::read_dir(&self.user.dir).expect("the home").flatten() {
            let path = entry.path();
            let _ = fs::remove_dir_all(&path).or_else(|_| fs::remove_file(&path));
        }
        for name in ["host", "id"] {
            let file = self.text(name);
            Output::of(
                Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f", &file]),
            )
            .ok();
            self.give(&self.path(name));
        }
        let read = |name: &str| fs::read_to_string(self.path(name)).expect("a key");
        self.put(".ssh/id_ed25519", &read("id"));
        self.put(".ssh/authorized_keys", &read("id.pub"));
        let known = format!("[control-plane]:{} {}", self.ssh_port, read("host.pub"));
        self.put(".ssh/known_hosts", &known);
        let config = format!("Host control-plane\n  Port {}\n", self.ssh_port);
        self.put(".ssh/config", &config);
        let sshd = format!(
            "Port {}\nListenAddress {PLANE}\nHostKey {}\nPidFile none\nStrictModes no\nUsePAM no\n\
             PasswordAuthentication no\nGatewayPorts clientspecified\n",
            self.ssh_port,
            self.text("host")
        );
        fs::write(self.path("sshd_config"), sshd).expect("written");
        fs::create_dir_all("/run/sshd").expect("a directory");
        fs::create_dir_all(self.path("bin")).expect("a directory");
        let stripped = Output::of(
            Command::new("strip")
                .arg("-o")
                .arg(self.path("bin/vk-cmd"))
                .arg(binary()),
        );
        if stripped.code != 0 {
            fs::copy(binary(), self.path("bin/vk-cmd")).expect("copied");
        }
        for name in ["shifter", "shifterimg"] {
            let from = Path::new(env!("CARGO_MANIFEST_DIR"))
                .join("tests/sites")
                .join(name);
            fs::copy(from, self.path("bin").join(name)).expect("copied");
        }
        for name in ["docker.sh", "farm.sh", "shifter.sh"] {
            let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("run").join(name);
            fs::copy(from, self.path("bin").join(name)).expect("copied");
        }
    }

    pub(crate) fn start_sshd(&mut self) {
        let config = self.text("sshd_config");
        let mut command = Command::new("setpriv");
        command
            .args([
                "--reuid",
                USER,
                "--regid",
                USER,
                "--init-groups",
                "--reset-env",
            ])
            .args(["/usr/sbin/sshd", "-D", "-e", "-f", &config]);
        self.sshd = Some(daemon(&mut command, &self.path("sshd.log")));
        let port = self.ssh_port;
        eventually("sshd listens", || {
            std::net::TcpStream::connect((PLANE, port))
        });
    }

    /// Ends sshd with all its sessions.
    pub(crate) fn stop_sshd(&mut self) {
        self.sshd = None;
        for (pid, line) in self.processes() {
            if line.starts_with("sshd") {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
        }
    }

    /// A command as the user on the worker, with `sh -c`.
    pub(crate) fn command(&self, line: &str) -> Command {
        let own = place().join("apptainer/bin");
        let path = format!(
            "{}:{}:/usr/local/bin:/usr/bin:/bin:/usr/sbin",
            self.text("bin"),
            own.display()
        );
        let mut command = Command::new("ip");
        command
            .args([
                "netns", "exec", WORKER, "setpriv", "--reuid", USER, "--regid", USER,
            ])
            .args(["--init-groups", "--reset-env", "env"])
            .arg(format!("PATH={path}"))
            .arg(format!("DOCKER_HOST=unix://{}", self.text("docker.sock")))
            .arg(format!("STAND_IN_IMAGES={}", self.text("images")))
            .arg(format!("SSL_CERT_FILE={}", self.text("hub.pem")))
            .args(["sh", "-c", &format!("cd && {line}")])
            .stdin(Stdio::null());
        command
    }

    /// Runs a line to its end.
    #[track_caller]
    pub(crate) fn types(&self, line: &str) -> String {
        Output::of(&mut self.command(line)).ok()
    }

    /// Runs a line in the background; its output is in `log`.
    pub(crate) fn leaves(&self, line: &str, log: &str) -> Daemon {
        daemon(&mut self.command(line), &self.path(log))
    }

    pub(crate) fn log(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    /// The user's processes.
    pub(crate) fn processes(&self) -> Vec<(i32, String)> {
        let uid = self.user.uid.as_raw();
        let all = fs::read_dir("/proc").expect("proc").flatten();
        all.filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            let owner = std::os::unix::fs::MetadataExt::uid(&entry.metadata().ok()?);
            let line = fs::read(entry.path().join("cmdline")).ok()?;
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            (owner == uid && !line.is_empty()).then_some((pid, line))
        })
        .collect()
    }

    /// Docker's daemon on the worker, with the image of vk-cmd and those of the documents' pods.
    pub(crate) fn docker(&mut self) {
        let (data, exec, pid) = (
            self.text("docker/data"),
            self.text("docker/exec"),
            self.text("docker/pid"),
        );
        let squash = format!("squash={}/tests/sites/squash", env!("CARGO_MANIFEST_DIR"));
        let socket = format!("unix://{}", self.text("docker.sock"));
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net=/run/netns/{WORKER}"))
            .args([
                "dockerd",
                "--iptables=false",
                "--ip6tables=false",
                "--bridge=none",
                "--storage-driver=vfs",
            ])
            .args([
                "--data-root",
                &data,
                "--exec-root",
                &exec,
                "-p",
                &pid,
                "-H",
                &socket,
                "--group",
                USER,
            ])
            .args(["--add-runtime", &squash, "--default-runtime=squash"]);
        self.dockerd = Some(daemon(&mut command, &self.path("dockerd.log")));
        eventually("dockerd answers", || {
            let version = self.docker_does(&["version"]);
            if version.code == 0 {
                Ok(())
            } else {
                Err(self.log("dockerd.log"))
            }
        });
        let import = format!(
            "tar -C {} -c . | docker -H {socket} import - vk-sites/base:1",
            place().join("base").display()
        );
        Output::of(Command::new("sh").args(["-c", &import])).ok();
        let mut make = Command::new("make");
        make.args([
            "-C",
            &format!("{}/images/base", env!("CARGO_MANIFEST_DIR")),
            "quick",
        ])
        .args(["TAG=tag", "BASE=vk-sites/base:1", "SBOM=/dev/null"])
        .arg(format!("BINARY={}", self.text("bin/vk-cmd")))
        .arg(format!("CONTEXT={}", self.text("context")))
        .env("DOCKER_HOST", &socket)
        .env_remove("MAKEFLAGS");
        Output::of(&mut make).ok();
        let cow = self.path("cow");
        fs::create_dir_all(&cow).expect("a directory");
        let text = "FROM vk-sites/base:1\nENTRYPOINT [\"/bin/sh\", \"-c\", \"echo moo; exit 7\"]\n";
        fs::write(cow.join("Dockerfile"), text).expect("written");
        let cow = cow.to_str().expect("text");
        self.docker_does(&["build", "-q", "-t", "godlovedc/lolcow:latest", cow])
            .ok();
    }

    pub(crate) fn docker_does(&self, words: &[&str]) -> Output {
        let mut command = Command::new("docker");
        command.args(words).env(
            "DOCKER_HOST",
            format!("unix://{}", self.text("docker.sock")),
        );
        Output::of(&mut command)
    }

    /// What the worker takes for Docker Hub, with the documented images.
    pub(crate) fn hub(&mut self) {
        let (key, certificate) = (self.text("hub.key"), self.text("hub.pem"));
        let names = format!("subjectAltName=DNS:index.docker.io,DNS:registry-1.docker.io,IP:{HUB}");
        let mut openssl = Command::new("openssl");
        openssl
            .args([
                "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=hub",
            ])
            .args(["-keyout", &key, "-out", &certificate, "-addext", &names]);
        Output::of(&mut openssl).ok();
        let config = format!(
            "version: 0.1\nstorage: {{filesystem: {{rootdirectory: {}}}}}\n\
             http: {{addr: '{HUB}:443', tls: {{certificate: {certificate}, key: {key}}}}}\n",
            self.text("hub")
        );
        fs::write(self.path("hub.yml"), config).expect("written");
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{WORKER}")).args([
            "docker-registry",
            "serve",
            &self.text("hub.yml"),
        ]);
        self.registry = Some(daemon(&mut command, &self.path("hub.log")));
        for (from, to) in [
            (IMAGE, IMAGE),
            (IMAGE, "jlabtsai/vk-cmd:latest"),
            ("godlovedc/lolcow:latest", "sylabsio/lolcow:latest"),
        ] {
            let there = format!("{HUB}:443/{to}");
            self.docker_does(&["tag", from, &there]).ok();
            eventually("the image is pushed", || {
                let pushed = self.docker_does(&["push", "-q", &there]);
                if pushed.code == 0 {
                    Ok(())
                } else {
                    Err(pushed)
                }
            });
        }
    }

    /// A registry of the worker's that wants a password, with an image that the worker has no more; its name.
    pub(crate) fn private_registry(&mut self, user: &str, password: &str) -> String {
        let made = Output::of(Command::new("htpasswd").args(["-Bbn", user, password])).ok();
        fs::write(self.path("htpasswd"), made).expect("written");
        let address = "127.0.0.72:5000";
        let config = format!(
            "version: 0.1\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: '{address}'}}\n\
             auth: {{htpasswd: {{realm: r, path: {}}}}}\n",
            self.text("private"),
            self.text("htpasswd")
        );
        fs::write(self.path("private.yml"), config).expect("written");
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{WORKER}")).args([
            "docker-registry",
            "serve",
            &self.text("private.yml"),
        ]);
        self.registry = Some(daemon(&mut command, &self.path("private.log")));
        let config = self.text("login");
        let docker = |words: &[&str]| {
            let mut all = vec!["--config", config.as_str()];
            all.extend(words);
            self.docker_does(&all)
        };
        eventually("the registry takes the password", || {
            let said = docker(&["login", "-u", user, "-p", password, address]);
            if said.code == 0 { Ok(()) } else { Err(said) }
        });
        let image = format!("{address}/team/tool:1");
        docker(&["tag", "vk-sites/base:1", &image]).ok();
        docker(&["push", "-q", &image]).ok();
        docker(&["rmi", &image]).ok();
        image
    }

    /// Has the user's `docker` write down what it is called with.
    pub(crate) fn record_docker(&self) -> PathBuf {
        let (file, log) = (self.path("bin/docker"), self.path("docker.argv"));
        let program = find_program("docker").expect("dockerd is here");
        let text = format!(
            "#!/bin/sh\nprintf '%s\\n' \"$*\" >>{0}\ntr '\\0' ' ' </proc/$PPID/cmdline >>{0}\nexec {1} \"$@\"\n",
            log.display(),
            program.display()
        );
        fs::write(&log, "").expect("written");
        self.give(&log);
        fs::write(&file, text).expect("written");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).expect("chmod");
        log
    }

    /// What Shifter's gateway has made of the images, for the stand-in.
    pub(crate) fn gateway(&self) {
        for (image, entry) in [
            (IMAGE, "/vk-cmd/vk-cmd entrypoint"),
            ("godlovedc/lolcow:latest", "/cow"),
        ] {
            let dir = self
                .path("images")
                .join(image.replace('/', "%").replace(':', "+"));
            fs::create_dir_all(&dir).expect("a directory");
            let id = self.docker_does(&["create", image]).ok();
            let line = format!(
                "docker export {} | tar -x -C '{}'",
                id.trim(),
                dir.display()
            );
            let mut export = Command::new("sh");
            export.args(["-c", &line]).env(
                "DOCKER_HOST",
                format!("unix://{}", self.text("docker.sock")),
            );
            Output::of(&mut export).ok();
            self.docker_does(&["rm", id.trim()]).ok();
            // A site's own directories are in every image that its gateway has prepared.
            let home = self.user.dir.strip_prefix("/").expect("absolute");
            for name in [Path::new("ch"), home] {
                fs::create_dir_all(dir.join(name)).expect("a directory");
            }
            let path = "PATH=/usr/local/bin:/usr/bin:/bin\n";
            fs::write(dir.join("ch/environment"), path).expect("written");
            fs::write(dir.join("ch/entrypoint"), entry).expect("written");
            fs::write(dir.join("cow"), "#!/bin/sh\necho moo\nexit 7\n").expect("written");
            fs::set_permissions(dir.join("cow"), fs::Permissions::from_mode(0o755)).expect("chmod");
        }
    }
}

/// What images carry and the host end runs.
pub(crate) fn binary() -> PathBuf {
    std::env::var_os("VK_CMD_IMAGE_BINARY").map_or_else(|| VK_CMD.into(), PathBuf::from)
}

impl Drop for World {
    fn drop(&mut self) {
        for id in self.docker_does(&["ps", "-q"]).stdout.split_whitespace() {
            let _ = self.docker_does(&["kill", id]);
        }
        self.registry = None;
        self.dockerd = None;
        let _ = tool(&format!(
            "umount {}",
            self.text("docker/exec/netns/default")
        ));
        self.sshd = None;
        self.clean();
    }
}
