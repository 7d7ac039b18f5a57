//! The parts that `setup.sh` installs, started and ended by the tests.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;
use testkit::{Kubectl, Output, Up, eventually, find_program};

use crate::VK_CMD;

/// The name of the image that every engine gets.
pub(crate) const IMAGE: &str = "example.test/busybox:1";
/// Its entry point, and its default argument.
const ENTRY: &str = r#"ENTRYPOINT ["/bin/sh","-c","echo entry $0 $*"]"#;

/// Where `setup.sh` has put things.
pub(crate) fn place() -> PathBuf {
    std::env::var_os("VK_SITES").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("target/sites"),
        PathBuf::from,
    )
}

/// The unpacked image; none before `setup.sh` has run.
pub(crate) fn rootfs() -> Option<PathBuf> {
    let root = place().join("busybox");
    root.join("bin/busybox").exists().then_some(root)
}

/// A daemon that ends with the test.
pub(crate) struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(self.0.id().cast_signed()),
            nix::sys::signal::Signal::SIGTERM,
        );
        let _ = self.0.wait();
    }
}

/// Starts a program whose output goes to a log.
pub(crate) fn daemon(command: &mut Command, log: &Path) -> Daemon {
    let log = std::fs::File::create(log).expect("a log");
    let second = log.try_clone().expect("a log");
    let child = command
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(second)
        .spawn();
    Daemon(child.expect("it starts"))
}

/// An engine with the image in it, and the profile of a site that uses it.
pub(crate) struct Site {
    /// Lines of YAML below `engine:`, each with its two spaces, then further keys.
    pub(crate) profile: String,
    /// Whether the image has an entry point.
    pub(crate) entry_point: bool,
    /// The engine's own list of containers, which must be empty at the end; none where it has no list.
    pub(crate) list: Option<Vec<String>>,
    /// Environment of that list.
    pub(crate) env: Vec<(String, String)>,
    /// The profile's file, and what else the engine needs.
    pub(crate) dir: TempDir,
    _daemon: Option<Daemon>,
}

impl Site {
    fn new(profile: String) -> Self {
        Self {
            profile,
            entry_point: true,
            list: None,
            env: Vec::new(),
            dir: tempfile::tempdir().expect("a directory"),
            _daemon: None,
        }
    }

    /// Starts `up` with this site.
    pub(crate) fn up(&self) -> (Up, Option<Kubectl>) {
        let file = self.dir.path().join("here.yaml");
        let text = format!("name: here\nbase: local\nengine:\n{}", self.profile);
        std::fs::write(&file, text).expect("a profile");
        let up = Up::of(VK_CMD)
            .args(&["--site-file", file.to_str().expect("text")])
            .start();
        let kubectl = up.kubectl();
        (up, kubectl)
    }

    /// Names of containers that the engine still knows.
    pub(crate) fn left(&self) -> Vec<String> {
        let Some(list) = &self.list else {
            return Vec::new();
        };
        let mut command = Command::new(&list[0]);
        command.args(&list[1..]).envs(self.env.iter().cloned());
        let names = Output::of(&mut command).ok();
        names
            .lines()
            .filter(|name| name.starts_with("vk-cmd-"))
            .map(str::to_owned)
            .collect()
    }
}

/// Docker, with a daemon of its own that needs neither iptables nor overlayfs.
pub(crate) fn docker() -> Result<Site, String> {
    let root = rootfs().ok_or("run tests/sites/setup.sh first")?;
    let dockerd = find_program("dockerd").ok_or("dockerd is missing")?;
    if !nix::unistd::geteuid().is_root() {
        return Err("dockerd needs root".to_owned());
    }
    let mut site = Site::new(String::new());
    let dir = site.dir.path().to_owned();
    let path = |name: &str| dir.join(name).to_str().expect("text").to_owned();
    let socket = format!("unix://{}", path("s"));
    let daemon = daemon(
        Command::new(dockerd)
            .args([
                "--iptables=false",
                "--ip6tables=false",
                "--bridge=none",
                "--storage-driver=vfs",
            ])
            .args(["--data-root", &path("data"), "--exec-root", &path("exec")])
            .args(["-p", &path("pid"), "-H", &socket]),
        &dir.join("dockerd.log"),
    );
    site._daemon = Some(daemon);
    eventually("dockerd answers", || {
        let version = Command::new("docker")
            .args(["-H", &socket, "version"])
            .output();
        version.ok().filter(|it| it.status.success()).ok_or(())
    });
    import(&["docker", "-H", &socket, "import"], &root);
    site.profile = format!("  kind: docker\n  environment: {{DOCKER_HOST: '{socket}'}}\n");
    site.list = Some(words(&[
        "docker",
        "-H",
        &socket,
        "ps",
        "-a",
        "--format={{.Names}}",
    ]));
    Ok(site)
}

/// Podman, with a store of its own.
pub(crate) fn podman() -> Result<Site, String> {
    let root = rootfs().ok_or("run tests/sites/setup.sh first")?;
    find_program("podman").ok_or("podman is missing")?;
    let mut site = Site::new(String::new());
    let path = |name: &str| {
        site.dir
            .path()
            .join(name)
            .to_str()
            .expect("text")
            .to_owned()
    };
    let own = [
        "--root".to_owned(),
        path("store"),
        "--runroot".to_owned(),
        path("run"),
        "--storage-driver=vfs".to_owned(),
        "--cgroup-manager=cgroupfs".to_owned(),
    ];
    let with = |last: &[&str]| {
        let mut all = vec!["podman".to_owned()];
        all.extend(own.clone());
        all.extend(words(last));
        all
    };
    let line = with(&["import"]);
    import(&line.iter().map(String::as_str).collect::<Vec<_>>(), &root);
    // Its runtime raises limits to fixed ones, which is not everybody's right.
    let limit = |resource| nix::sys::resource::getrlimit(resource).expect("a limit").0;
    let files = limit(nix::sys::resource::Resource::RLIMIT_NOFILE).min(1024);
    let processes = limit(nix::sys::resource::Resource::RLIMIT_NPROC);
    let limits = [
        format!("--ulimit=nofile={files}:{files}"),
        format!("--ulimit=nproc={processes}:{processes}"),
    ];
    let trial = with(&[
        "run",
        "--rm",
        "--network=host",
        "--log-driver=none",
        &limits[0],
        &limits[1],
        "--entrypoint=true",
        IMAGE,
    ]);
    let trial = Output::of(Command::new(&trial[0]).args(&trial[1..]));
    if trial.code != 0 {
        return Err(format!("podman runs nothing here: {}", trial.stderr.trim()));
    }
    let list = |words: &[String]| {
        words
            .iter()
            .map(|word| format!("'{word}'"))
            .collect::<Vec<_>>()
            .join(", ")
    };
    site.profile = format!(
        "  kind: podman\n  globalArgs: [{}]\n  runArgs: [{}]\n",
        list(&own),
        list(&limits)
    );
    site.list = Some(with(&["ps", "-a", "--format={{.Names}}"]));
    Ok(site)
}

/// Apptainer, with the image as a SIF file.
pub(crate) fn apptainer() -> Result<Site, String> {
    let root = rootfs().ok_or("run tests/sites/setup.sh first")?;
    let own = place().join("apptainer/bin/apptainer");
    let program = if own.exists() {
        own
    } else {
        find_program("apptainer").ok_or("apptainer is missing")?
    };
    let mut site = Site::new(String::new());
    // The way from a directory to a SIF with an entry point is a definition file.
    let definition = site.dir.path().join("image.def");
    let text = format!(
        "Bootstrap: localimage\nFrom: {}\n%environment\n    export FROM_IMAGE=yes\n%runscript\n    exec /bin/sh -c 'echo entry $0 $*' \"${{@:-cmd}}\"\n",
        root.display()
    );
    std::fs::write(&definition, text).expect("a definition");
    let sif = site.dir.path().join("image.sif");
    let mut build = Command::new(&program);
    build
        .args(["--silent", "build"])
        .args([&sif, &definition])
        .env("APPTAINER_CACHEDIR", site.dir.path().join("cache"));
    let built = Output::of(&mut build);
    if built.code != 0 {
        return Err(format!(
            "apptainer builds nothing here: {}",
            built.stderr.trim()
        ));
    }
    // Root without all capabilities cannot be given all of them.
    let privileges = if nix::unistd::geteuid().is_root() {
        "  runArgs: [--no-privs]\n"
    } else {
        ""
    };
    let trial = Output::of(
        Command::new(&program)
            .args(["--silent", "exec", "--no-privs"])
            .arg(&sif)
            .arg("true"),
    );
    if trial.code != 0 {
        return Err(format!(
            "apptainer runs nothing here: {}",
            trial.stderr.trim()
        ));
    }
    site.profile = format!(
        "  kind: apptainer\n  program: {}\n{privileges}images:\n  {IMAGE}: {{sif: {}}}\n",
        program.display(),
        sif.display()
    );
    Ok(site)
}

/// Charliecloud, with the image as a directory.
pub(crate) fn charliecloud() -> Result<Site, String> {
    let root = rootfs().ok_or("run tests/sites/setup.sh first")?;
    find_program("ch-run").ok_or("ch-run is missing")?;
    let mut site = Site::new(format!(
        "  kind: charliecloud\nimages:\n  {IMAGE}: {{directory: {}}}\n",
        root.display()
    ));
    site.entry_point = false;
    Ok(site)
}

/// Shifter's stand-in over ch-run, with the image in its gateway.
pub(crate) fn shifter() -> Result<Site, String> {
    let root = rootfs().ok_or("run tests/sites/setup.sh first")?;
    find_program("ch-run").ok_or("ch-run, which Shifter's stand-in needs, is missing")?;
    let mut site = Site::new(String::new());
    let images = site.dir.path().join("images");
    let image = images.join(IMAGE.replace('/', "%").replace(':', "+"));
    std::fs::create_dir_all(&images).expect("a directory");
    Output::of(Command::new("cp").arg("-a").args([&root, &image])).ok();
    std::fs::create_dir_all(image.join("ch")).expect("a directory");
    std::fs::write(image.join("ch/environment"), "FROM_IMAGE=yes\n").expect("a file");
    std::fs::write(image.join("ch/entrypoint"), "/bin/echo entry").expect("a file");
    site.profile = format!(
        "  kind: shifter\n  program: {}/tests/sites/shifter\n  environment: {{STAND_IN_IMAGES: {}}}\n",
        env!("CARGO_MANIFEST_DIR"),
        images.display()
    );
    Ok(site)
}

fn import(command: &[&str], root: &Path) {
    let mut tar = Command::new("tar")
        .arg("-C")
        .arg(root)
        .args(["-c", "."])
        .stdout(Stdio::piped())
        .spawn()
        .expect("tar runs");
    let changes = [
        "-c",
        ENTRY,
        "-c",
        r#"CMD ["cmd"]"#,
        "-c",
        "ENV FROM_IMAGE=yes",
        "-",
        IMAGE,
    ];
    let mut import = Command::new(command[0]);
    import
        .args(&command[1..])
        .args(changes)
        .stdin(tar.stdout.take().expect("it is piped"));
    Output::of(&mut import).ok();
    assert!(tar.wait().expect("tar ends").success());
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|&word| word.to_owned()).collect()
}
