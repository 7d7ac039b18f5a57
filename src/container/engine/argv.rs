//! Command lines of the engines, pure.
//!
//! Sources: `docker run --help`, podman-run(1), apptainer's and SingularityCE's user guides (bind paths and mounts,
//! environment and metadata), NERSC's shifter manual, ch-run(1).
//! Values of variables never stand in argv, which everybody may read: they go through the client's environment or
//! through files in memory.

use std::collections::BTreeMap;

use super::{
    ExecPrefix, Kind,
    request::{Bind, Engine, Gpus, Image, Invocation, Request, Unsupported},
};

/// Where programs are in most images; what container runtimes take.
const IMAGE_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Microseconds in which a container may use its quota, and the least quota that kernels take.
const CPU_PERIOD: u64 = 100_000;
const LEAST_QUOTA: u64 = 1000;
/// The first of the files that a command finds open.
const FIRST_FILE: &str = "/proc/self/fd/3";

impl Engine {
    /// The command line that runs a container in the foreground.
    ///
    /// # Errors
    /// What this engine cannot do.
    pub fn run(&self, request: &Request) -> Result<Invocation, Unsupported> {
        if let Image::Command(words) = &request.image {
            return Ok(command(words, request));
        }
        match self.kind {
            Kind::Docker | Kind::Podman | Kind::PodmanHpc => self.docker(request),
            Kind::Apptainer | Kind::Singularity => self.apptainer(request),
            Kind::Shifter => self.shifter(request),
            Kind::Charliecloud => self.charliecloud(request),
        }
    }

    /// Program and arguments before the subcommand.
    pub(super) fn client(&self) -> Vec<String> {
        let program = std::iter::once(&self.program);
        program.chain(&self.global_args).cloned().collect()
    }

    fn own_environment(&self) -> Vec<(String, String)> {
        let own = self.environment.iter();
        own.map(|(name, value)| (name.clone(), value.clone()))
            .collect()
    }

    fn gpus(&self, request: &Request, own: impl FnOnce(&Gpus) -> Vec<String>) -> Vec<String> {
        match (&request.gpus, &self.gpu_args) {
            (Gpus::None, _) => Vec::new(),
            (_, Some(args)) => args.clone(),
            (gpus, None) => own(gpus),
        }
    }

    fn no_user(&self, request: &Request) -> Result<(), Unsupported> {
        match request.user {
            Some(_) => Err(Unsupported::User { engine: self.kind }),
            None => Ok(()),
        }
    }

    fn docker(&self, request: &Request) -> Result<Invocation, Unsupported> {
        let Image::Reference(image) = &request.image else {
            return Err(self.form(&request.image));
        };
        let mut argv = self.client();
        argv.extend(words(&["run", "--name", &request.name]));
        // The pod's address is the node's, so its ports are the node's too; what it prints is kept by us.
        argv.extend(words(&[
            "--network=host",
            "--log-driver=none",
            "--pull=never",
        ]));
        let (mut env, mut file) = (self.own_environment(), String::new());
        for (name, value) in &request.environment {
            self.variable(name, value, &mut argv, &mut env, &mut file)?;
        }
        let mut memory_files = Vec::new();
        if !file.is_empty() {
            argv.push(format!("--env-file={FIRST_FILE}"));
            memory_files.push(file);
        }
        for bind in &request.binds {
            argv.extend([String::from("--mount"), mount(bind, "target", "readonly")]);
        }
        if let Some(home) = &request.home {
            let bind = same(home);
            argv.extend([String::from("--mount"), mount(&bind, "target", "readonly")]);
        }
        if let Some(workdir) = &request.workdir {
            argv.push(format!("--workdir={workdir}"));
        }
        if let Some((uid, gid)) = request.user {
            let gid = gid.map_or(String::new(), |gid| format!(":{gid}"));
            argv.push(format!("--user={uid}{gid}"));
        }
        argv.extend(
            request
                .groups
                .iter()
                .map(|gid| format!("--group-add={gid}")),
        );
        if request.read_only {
            argv.push("--read-only".to_owned());
        }
        argv.extend(request.memory.map(|bytes| format!("--memory={bytes}")));
        if let Some(millis) = request.cpu_millis {
            // As a kubelet computes it. `--cpus` would refuse more than the host has, which a limit may well be.
            let quota = (millis.saturating_mul(CPU_PERIOD) / 1000).max(LEAST_QUOTA);
            argv.push(format!("--cpu-period={CPU_PERIOD}"));
            argv.push(format!("--cpu-quota={quota}"));
        }
        if request.stdin {
            argv.push("--interactive".to_owned());
        }
        if request.tty {
            argv.push("--tty".to_owned());
        }
        argv.extend(self.gpus(request, |gpus| docker_gpus(self.kind, gpus)));
        argv.extend(self.run_args.iter().cloned());
        let mut command = request.command.clone().unwrap_or_default();
        if !command.is_empty() {
            argv.push(format!("--entrypoint={}", command.remove(0)));
        }
        argv.push(image.clone());
        argv.extend(command);
        argv.extend(request.args.iter().cloned());
        let with = |last: &[&str]| {
            let mut argv = self.client();
            argv.extend(words(last));
            argv
        };
        let name = request.name.as_str();
        let exec = ExecPrefix {
            before: with(&["exec"]),
            interactive: Some("--interactive".to_owned()),
            terminal: Some("--tty".to_owned()),
            after: words(&[name]),
        };
        Ok(Invocation {
            argv,
            env,
            memory_files,
            exec,
            autopsy: with(&[
                "inspect",
                "--type=container",
                "--format={{json .State}}",
                name,
            ]),
            teardown: vec![with(&["rm", "--force", "--volumes", name])],
            whereabouts: with(&[
                "inspect",
                "--type=container",
                "--format={{.State.Pid}} {{.Id}}",
                name,
            ]),
        })
    }

    /// `--env NAME` takes the value from the client's environment, where only those go that the client does not look
    /// at itself; lines of a file take the others.
    fn variable(
        &self,
        name: &str,
        value: &str,
        argv: &mut Vec<String>,
        env: &mut Vec<(String, String)>,
        file: &mut String,
    ) -> Result<(), Unsupported> {
        let refuse = |why| {
            Err(Unsupported::Variable {
                engine: self.kind,
                name: name.to_owned(),
                why,
            })
        };
        if name.contains(char::is_whitespace) || name.starts_with('#') {
            return refuse("its name has white space or begins with '#'");
        }
        if !self.is_clients(name) {
            argv.extend(words(&["--env", name]));
            env.push((name.to_owned(), value.to_owned()));
            return Ok(());
        }
        // The client reads lines of at most 64 KiB.
        if value.contains(['\n', '\r']) || name.len() + value.len() > 60_000 {
            return refuse(
                "its name is one that the client obeys itself, and its value is no short line",
            );
        }
        file.push_str(&format!("{name}={value}\n"));
        Ok(())
    }

    /// Whether the engine's own client would heed a variable.
    fn is_clients(&self, name: &str) -> bool {
        const NAMES: [&str; 14] = [
            "PATH",
            "HOME",
            "USER",
            "LOGNAME",
            "TMPDIR",
            "TERM",
            "LANG",
            "PWD",
            "HTTP_PROXY",
            "HTTPS_PROXY",
            "NO_PROXY",
            "http_proxy",
            "https_proxy",
            "no_proxy",
        ];
        const PREFIXES: [&str; 14] = [
            "DOCKER_",
            "CONTAINER",
            "PODMAN_",
            "BUILDAH_",
            "STORAGE_",
            "REGISTRY_",
            "REGISTRIES_",
            "XDG_",
            "LD_",
            "GO",
            "SSL_",
            "LC_",
            "SSH_",
            "OTEL_",
        ];
        NAMES.contains(&name)
            || PREFIXES.iter().any(|prefix| name.starts_with(prefix))
            || self.environment.contains_key(name)
            || name.ends_with('*')
    }

    fn apptainer(&self, request: &Request) -> Result<Invocation, Unsupported> {
        self.no_user(request)?;
        let image = match &request.image {
            Image::Reference(reference) => format!("docker://{reference}"),
            Image::Sif(path) | Image::Directory { path, .. } => path.clone(),
            Image::Command(_) => return Err(self.form(&request.image)),
        };
        let prefix = match self.kind {
            Kind::Singularity => "SINGULARITYENV_",
            _ => "APPTAINERENV_",
        };
        let mut env = self.own_environment();
        for (name, value) in &request.environment {
            let own_way = matches!(name.as_str(), "HOME");
            if own_way && request.home.as_ref() != Some(value) {
                return Err(Unsupported::Variable {
                    engine: self.kind,
                    name: name.clone(),
                    why: "it sets that one itself",
                });
            }
            if !own_way {
                env.push((format!("{prefix}{name}"), value.clone()));
            }
        }
        // Values are taken as they are: without this the engine has a shell evaluate them.
        let mut options = words(&["--no-eval"]);
        match &request.home {
            Some(home) => options.push(format!("--home={home}")),
            None => options.push("--no-home".to_owned()),
        }
        // The directory that we are in would be mounted too.
        options.push("--no-mount=cwd".to_owned());
        let workdir = request.workdir.as_deref().unwrap_or("/");
        options.push(format!("--pwd={workdir}"));
        for bind in &request.binds {
            options.extend([String::from("--mount"), mount(bind, "destination", "ro")]);
        }
        options.extend(self.gpus(request, |_| words(&["--nv"])));
        options.extend(self.run_args.iter().cloned());
        let call = |verb: &str| {
            let mut argv = self.client();
            // What it has to say would stand in the container's output.
            argv.extend(words(&["--silent", verb]));
            argv.extend(options.iter().cloned());
            argv.push(image.clone());
            argv
        };
        let mut argv = call(if request.command.is_some() {
            "exec"
        } else {
            "run"
        });
        argv.extend(request.command.iter().flatten().cloned());
        argv.extend(request.args.iter().cloned());
        Ok(Invocation {
            argv,
            env,
            memory_files: Vec::new(),
            exec: again(call("exec")),
            autopsy: Vec::new(),
            teardown: Vec::new(),
            whereabouts: Vec::new(),
        })
    }

    fn shifter(&self, request: &Request) -> Result<Invocation, Unsupported> {
        self.no_user(request)?;
        let Image::Reference(image) = &request.image else {
            return Err(self.form(&request.image));
        };
        let mut options = vec![format!("--image=docker:{image}")];
        for bind in &request.binds {
            if let Some(path) = [&bind.source, &bind.target]
                .into_iter()
                .find(|path| path.contains([':', ';']))
            {
                return Err(Unsupported::Path {
                    engine: self.kind,
                    path: path.clone(),
                });
            }
            let end = if bind.read_only { ":ro" } else { "" };
            options.push(format!("--volume={}:{}{end}", bind.source, bind.target));
        }
        options.extend(request.workdir.iter().map(|dir| format!("--workdir={dir}")));
        options.extend(self.gpus(request, |_| words(&["--module=gpu"])));
        options.extend(self.run_args.iter().cloned());
        let call = |entrypoint: bool| {
            let mut argv = self.client();
            argv.extend(options.iter().cloned());
            if entrypoint {
                argv.push("--entrypoint".to_owned());
            }
            argv.push("--".to_owned());
            argv
        };
        let mut argv = call(request.command.is_none());
        argv.extend(request.command.iter().flatten().cloned());
        argv.extend(request.args.iter().cloned());
        // The whole environment of the caller passes into the container; what the image sets itself comes over it.
        let mut env: BTreeMap<String, String> = self.environment.clone();
        env.extend(request.environment.clone());
        Ok(Invocation {
            argv,
            env: env.into_iter().collect(),
            memory_files: Vec::new(),
            exec: again(call(false)),
            autopsy: Vec::new(),
            teardown: Vec::new(),
            whereabouts: Vec::new(),
        })
    }

    fn charliecloud(&self, request: &Request) -> Result<Invocation, Unsupported> {
        self.no_user(request)?;
        let Image::Directory { path, environment } = &request.image else {
            return Err(self.form(&request.image));
        };
        let Some(command) = request.command.as_ref().filter(|it| !it.is_empty()) else {
            return Err(Unsupported::NoCommand { engine: self.kind });
        };
        let mut options = Vec::new();
        let home = request.home.as_ref().map(|home| same(home));
        for bind in request.binds.iter().chain(&home) {
            if let Some(path) = [&bind.source, &bind.target]
                .into_iter()
                .find(|path| path.contains(':'))
            {
                return Err(Unsupported::Path {
                    engine: self.kind,
                    path: path.clone(),
                });
            }
            options.push(format!("--bind={}:{}", bind.source, bind.target));
        }
        let workdir = request.workdir.as_deref().unwrap_or("/");
        options.push(format!("--cd={workdir}"));
        // The host's programs are not in the image; what the image and the pod say comes over it.
        options.push(format!("--set-env=PATH={IMAGE_PATH}"));
        if *environment {
            options.push("--set-env".to_owned());
        }
        let mut file = String::new();
        for (name, value) in &request.environment {
            if value.contains('\n') {
                return Err(Unsupported::Variable {
                    engine: self.kind,
                    name: name.clone(),
                    why: "its value has more than one line",
                });
            }
            // One pair of quotes is taken off; what they hold stays as it is.
            file.push_str(&format!("{name}='{value}'\n"));
        }
        let mut memory_files = Vec::new();
        let mut given = Vec::new();
        if !file.is_empty() {
            given = vec![
                "--env-no-expand".to_owned(),
                format!("--set-env={FIRST_FILE}"),
            ];
            memory_files.push(file);
        }
        let call = |given: &[String]| {
            let mut argv = self.client();
            argv.extend(options.iter().cloned());
            argv.extend(given.iter().cloned());
            argv.extend(self.run_args.iter().cloned());
            argv.extend([path.clone(), "--".to_owned()]);
            argv
        };
        let mut argv = call(&given);
        argv.extend(command.iter().cloned());
        argv.extend(request.args.iter().cloned());
        Ok(Invocation {
            argv,
            env: self.own_environment(),
            memory_files,
            exec: again(call(&given)),
            autopsy: Vec::new(),
            teardown: Vec::new(),
            whereabouts: Vec::new(),
        })
    }

    fn form(&self, image: &Image) -> Unsupported {
        Unsupported::Form {
            engine: self.kind,
            form: match image {
                Image::Reference(_) => "an image by reference: it was not pulled into a directory",
                Image::Sif(_) => "a SIF file",
                Image::Directory { .. } => "an image in a directory",
                Image::Command(_) => "a command in place of an image",
            },
        }
    }
}

/// A program of the host in place of an image.
fn command(words: &[String], request: &Request) -> Invocation {
    let own = request.command.iter().flatten().chain(&request.args);
    Invocation {
        argv: words.iter().chain(own).cloned().collect(),
        env: request.environment.clone().into_iter().collect(),
        memory_files: Vec::new(),
        exec: ExecPrefix::default(),
        autopsy: Vec::new(),
        teardown: Vec::new(),
        whereabouts: Vec::new(),
    }
}

/// Where an engine has no other way in, a further command gets a container like the first: same image, mounts,
/// network and processes.
fn again(before: Vec<String>) -> ExecPrefix {
    ExecPrefix {
        before,
        ..ExecPrefix::default()
    }
}

fn docker_gpus(kind: Kind, gpus: &Gpus) -> Vec<String> {
    match (kind, gpus) {
        (_, Gpus::None) => Vec::new(),
        (Kind::PodmanHpc, _) => words(&["--gpu"]),
        (Kind::Podman, Gpus::Visible) => words(&["--device=nvidia.com/gpu=all"]),
        (Kind::Podman, Gpus::Devices(devices)) => {
            let each = devices.iter();
            each.map(|device| format!("--device=nvidia.com/gpu={device}"))
                .collect()
        }
        (_, Gpus::Visible) => words(&["--gpus=all"]),
        // The value is read as CSV, in which a comma wants quotes.
        (_, Gpus::Devices(devices)) => vec![format!("--gpus=\"device={}\"", devices.join(","))],
    }
}

/// `type=bind,source=…,target=…`, which docker, podman and apptainer read as CSV.
fn mount(bind: &Bind, target: &str, read_only: &str) -> String {
    let mut fields = vec![
        "type=bind".to_owned(),
        format!("source={}", bind.source),
        format!("{target}={}", bind.target),
    ];
    if bind.read_only {
        fields.push(read_only.to_owned());
    }
    let field = |field: String| {
        if field.contains([',', '"', '\n']) {
            format!("\"{}\"", field.replace('"', "\"\""))
        } else {
            field
        }
    };
    fields.into_iter().map(field).collect::<Vec<_>>().join(",")
}

fn same(path: &str) -> Bind {
    Bind {
        source: path.to_owned(),
        target: path.to_owned(),
        read_only: false,
    }
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|&word| word.to_owned()).collect()
}

#[cfg(test)]
#[path = "argv_tests.rs"]
mod tests;
