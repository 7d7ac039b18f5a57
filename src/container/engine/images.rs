//! Images of an engine: whether one is there, how it is pulled, where it then is. Pure but for [`Call::run`].

use std::{io, process::Stdio, time::Duration};

use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::Command,
};

use super::{
    Engine, Image, Kind,
    auth::{Auth, registry},
};

/// Bytes kept of what a command prints.
const KEPT: usize = 64 * 1024;

/// A short command of an engine.
#[derive(Clone, PartialEq, Eq)]
pub struct Call {
    /// Program and arguments; nothing of it is secret.
    pub argv: Vec<String>,
    /// The whole environment; may hold secrets.
    pub env: Vec<(String, String)>,
    /// Standard input, as a file in memory; may hold secrets.
    pub stdin: Option<String>,
}

/// What a call gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// The exit code; none for a signal.
    pub code: Option<i32>,
    /// Standard output, cut at 64 KiB.
    pub stdout: String,
    /// The last lines of standard error.
    pub stderr: String,
}

/// An image that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// In the form that the engine runs.
    pub image: Image,
    /// What tells its content; empty where the engine keeps nothing like that.
    pub id: String,
    /// The user that the image runs as, `name` or `uid` with an optional group; empty for root, and where the engine
    /// takes no heed of it.
    pub user: String,
}

/// Leaves environment and input out.
impl std::fmt::Debug for Call {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Call")
            .field("argv", &self.argv)
            .finish_non_exhaustive()
    }
}

/// The digest by which the registry of a reference knows the image; any other where that has none.
fn digest_of<'a>(reference: &str, digests: &[&'a str]) -> Option<&'a str> {
    let of_it = |digest: &&&str| {
        let repository = digest.split('@').next().unwrap_or_default();
        let rest = reference.strip_prefix(repository);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with([':', '@']))
    };
    digests.iter().find(of_it).or(digests.first()).copied()
}

/// A reference as a file's name: `/` is `%`, `:` is `+`, as Charliecloud does it.
fn file_name(reference: &str) -> String {
    reference.replace('/', "%").replace(':', "+")
}

/// Pulls beside the place and then takes it, so that a pull that ended half-way is no image.
/// `$1` directory, `$2` name; the rest pulls, with the temporary path in place of `@`.
const INTO_PLACE: &str = r#"set -e
dir=$1 name=$2; shift 2
mkdir -p -- "$dir"
new="$dir/.$name.$$"
trap 'rm -rf -- "$new"' EXIT
for word do shift; case $word in @) word=$new;; esac; set -- "$@" "$word"; done
"$@"
rm -rf -- "$dir/$name"
mv -- "$new" "$dir/$name""#;

/// Lets a client read its credentials from our standard input, which is a file in memory.
const DOCKER_LOGIN: &str = r#"d=$(mktemp -d) || exit 1
trap 'rm -rf -- "$d"' EXIT
ln -s "/proc/$$/fd/0" "$d/config.json"
DOCKER_CONFIG=$d "$@""#;
const PODMAN_LOGIN: &str = r#"REGISTRY_AUTH_FILE=/proc/$$/fd/0 "$@""#;

/// What an engine with a store is asked of an image: its id, the user that it runs as, the names that registries
/// know its content by.
const INSPECT: &str = "--format={{.Id}} user={{.Config.User}}{{range .RepoDigests}} {{.}}{{end}}";

/// A file and the identifier in its header: 16 bytes after the launch line (32), the magic word (10), version (3) and
/// architecture (3), as the specification of SIF has them.
const LOOK_AT_SIF: &str = r#"test -f "$1" && od -An -tx1 -j48 -N16 -- "$1""#;

/// Tells a directory from nothing, and whether it says which variables the image sets.
const LOOK: &str = r#"test -d "$1" || exit 1; test ! -f "$1/ch/environment" || echo environment"#;

impl Engine {
    /// Where an image is, or will be once it was pulled.
    pub fn located(&self, reference: &str) -> Image {
        let path = |end: &str| format!("{}/{}{end}", self.image_dir, file_name(reference));
        match self.kind {
            Kind::Docker | Kind::Podman | Kind::PodmanHpc | Kind::Shifter => {
                Image::Reference(reference.to_owned())
            }
            Kind::Apptainer | Kind::Singularity => Image::Sif(path(".sif")),
            Kind::Charliecloud => Image::Directory {
                path: path(""),
                environment: false,
            },
        }
    }

    /// Asks whether an image is there: exit code 0, and what is known of it on standard output.
    /// None for what is no image.
    pub fn look(&self, image: &Image) -> Option<Call> {
        let argv = match image {
            Image::Command(_) => return None,
            Image::Sif(path) => words(&["sh", "-c", LOOK_AT_SIF, "look", path]),
            Image::Directory { path, .. } => words(&["sh", "-c", LOOK, "look", path]),
            Image::Reference(reference) => match self.kind {
                Kind::Shifter => vec![
                    self.shifterimg(),
                    "lookup".to_owned(),
                    format!("docker:{reference}"),
                ],
                _ => self.with(&["image", "inspect", INSPECT, reference]),
            },
        };
        Some(self.call(argv))
    }

    /// Reads the answer of [`Engine::look`].
    pub fn seen(&self, image: Image, output: &Output) -> Option<Found> {
        if output.code != Some(0) {
            return None;
        }
        let line = output.stdout.lines().next().unwrap_or_default().trim();
        let found = |image, id: &str| Found {
            image,
            id: id.to_owned(),
            user: String::new(),
        };
        Some(match image {
            Image::Directory { path, .. } => {
                let environment = line == "environment";
                found(Image::Directory { path, environment }, "")
            }
            Image::Sif(path) => {
                let id: String = line.split_whitespace().collect();
                let id = Some(id).filter(|id| !id.is_empty());
                let id = id.map_or(String::new(), |id| format!("sif:{id}"));
                found(Image::Sif(path), &id)
            }
            Image::Reference(reference) => {
                let mut words = line.split(' ').filter(|word| !word.is_empty());
                let own = words.next().unwrap_or_default();
                let (mut user, mut digests) = ("", Vec::new());
                for word in words {
                    match word.strip_prefix("user=") {
                        Some(name) => user = name,
                        None => digests.push(word),
                    }
                }
                let id = digest_of(&reference, &digests).unwrap_or(own);
                let user = user.to_owned();
                let known = found(Image::Reference(reference), id);
                Found { user, ..known }
            }
            image @ Image::Command(_) => found(image, ""),
        })
    }

    /// Pulls an image to where [`Engine::located`] says.
    pub fn pull(&self, reference: &str, auth: &Auth) -> Call {
        let login = auth.login(registry(reference));
        let mut stdin = None;
        let mut env = self.own();
        let argv = match self.kind {
            Kind::Docker | Kind::Podman | Kind::PodmanHpc => {
                let mut pull = self.with(&["pull"]);
                pull.extend(self.pull_args.iter().cloned());
                pull.push(reference.to_owned());
                if auth.is_empty() {
                    pull
                } else {
                    stdin = Some(auth.config());
                    let script = match self.kind {
                        Kind::Docker => DOCKER_LOGIN,
                        _ => PODMAN_LOGIN,
                    };
                    let mut argv = words(&["sh", "-c", script, "pull"]);
                    argv.extend(pull);
                    argv
                }
            }
            Kind::Apptainer | Kind::Singularity => {
                if let Some((user, password)) = login {
                    let prefix = if self.kind == Kind::Apptainer {
                        "APPTAINER"
                    } else {
                        "SINGULARITY"
                    };
                    env.push((format!("{prefix}_DOCKER_USERNAME"), user));
                    env.push((format!("{prefix}_DOCKER_PASSWORD"), password));
                }
                let mut pull = self.with(&["pull"]);
                pull.extend(self.pull_args.iter().cloned());
                pull.extend(["@".to_owned(), format!("docker://{reference}")]);
                self.put_in_place(&format!("{}.sif", file_name(reference)), pull)
            }
            Kind::Shifter => vec![
                self.shifterimg(),
                "pull".to_owned(),
                format!("docker:{reference}"),
            ],
            Kind::Charliecloud => {
                let mut pull = vec![self.ch_image()];
                if let Some((user, password)) = login {
                    pull.push("--auth".to_owned());
                    env.push(("CH_IMAGE_USERNAME".to_owned(), user));
                    env.push(("CH_IMAGE_PASSWORD".to_owned(), password));
                }
                pull.extend(self.pull_args.iter().cloned());
                pull.extend(words(&["pull", reference, "@"]));
                self.put_in_place(&file_name(reference), pull)
            }
        };
        Call { argv, env, stdin }
    }

    /// Whether pull secrets reach the registry.
    pub fn takes_secrets(&self) -> bool {
        self.kind != Kind::Shifter
    }

    fn put_in_place(&self, name: &str, pull: Vec<String>) -> Vec<String> {
        let mut argv = words(&["sh", "-c", INTO_PLACE, "pull", &self.image_dir, name]);
        argv.extend(pull);
        argv
    }

    fn with(&self, last: &[&str]) -> Vec<String> {
        let mut argv = self.client();
        argv.extend(words(last));
        argv
    }

    /// The program beside the engine's own.
    fn beside(&self, name: &str) -> String {
        match self.program.rsplit_once('/') {
            Some((dir, _)) => format!("{dir}/{name}"),
            None => name.to_owned(),
        }
    }

    fn shifterimg(&self) -> String {
        self.beside("shifterimg")
    }

    fn ch_image(&self) -> String {
        self.beside("ch-image")
    }

    fn own(&self) -> Vec<(String, String)> {
        let own = self.environment.iter();
        own.map(|(name, value)| (name.clone(), value.clone()))
            .collect()
    }

    fn call(&self, argv: Vec<String>) -> Call {
        Call {
            argv,
            env: self.own(),
            stdin: None,
        }
    }
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|&word| word.to_owned()).collect()
}

impl Call {
    /// Runs it here; dropping the future kills it. `line` hears all lines that it prints.
    ///
    /// # Errors
    /// Where the program cannot be started, or takes too long.
    pub async fn run(
        &self,
        patience: Duration,
        line: impl Fn(&str) + Send + Sync,
    ) -> io::Result<Output> {
        let (program, arguments) = self
            .argv
            .split_first()
            .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        let mut command = Command::new(program);
        command
            .args(arguments)
            .env_clear()
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .current_dir("/")
            .stdin(match &self.stdin {
                Some(text) => memory_file(text)?,
                None => Stdio::null(),
            })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .process_group(0);
        let mut child = command
            .spawn()
            .map_err(|error| io::Error::new(error.kind(), format!("{program}: {error}")))?;
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let out = async {
            let mut text = Vec::new();
            if let Some(stdout) = stdout {
                let mut lines = BufReader::new(stdout);
                let mut from = 0;
                while lines.read_until(b'\n', &mut text).await? > 0 {
                    line(String::from_utf8_lossy(&text[from..]).trim());
                    text.truncate(KEPT);
                    from = text.len();
                }
            }
            Ok::<_, io::Error>(String::from_utf8_lossy(&text).into_owned())
        };
        let err = async {
            let mut last: Vec<String> = Vec::new();
            if let Some(stderr) = stderr {
                let mut lines = BufReader::new(stderr).split(b'\n');
                while let Some(bytes) = lines.next_segment().await? {
                    let text = String::from_utf8_lossy(&bytes).trim().to_owned();
                    line(&text);
                    if !text.is_empty() {
                        last.push(text);
                    }
                    if last.len() > 5 {
                        last.remove(0);
                    }
                }
            }
            Ok::<_, io::Error>(last.join("; "))
        };
        let all = async { tokio::try_join!(out, err, child.wait()) };
        match tokio::time::timeout(patience, all).await {
            Ok(done) => done.map(|(stdout, stderr, status)| Output {
                code: status.code(),
                stdout,
                stderr,
            }),
            Err(_) => Err(io::Error::new(
                io::ErrorKind::TimedOut,
                format!("{program} did not end within {} s", patience.as_secs()),
            )),
        }
    }
}

fn memory_file(text: &str) -> io::Result<Stdio> {
    use std::io::{Seek, Write};
    let fd = nix::sys::memfd::memfd_create(c"vk-cmd", nix::sys::memfd::MFdFlags::MFD_CLOEXEC)?;
    let mut file = std::fs::File::from(fd);
    file.write_all(text.as_bytes())?;
    file.rewind()?;
    Ok(file.into())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn engine(kind: Kind, program: &str) -> Engine {
        Engine {
            kind,
            program: program.to_owned(),
            global_args: Vec::new(),
            run_args: Vec::new(),
            pull_args: words(&["--plain"]),
            gpu_args: None,
            environment: BTreeMap::from([("PATH".to_owned(), "/usr/bin:/bin".to_owned())]),
            image_dir: "/images".to_owned(),
        }
    }

    fn auth() -> Auth {
        let mut auth = Auth::default();
        // u:hunter2
        auth.add(r#"{"auths":{"https://r.example:5000/v1/":{"auth":"dTpodW50ZXIy"}}}"#)
            .expect("good");
        auth
    }

    #[test]
    fn pulls_of_each_engine() {
        let reference = "r.example:5000/a/b:1";
        let line = |kind: Kind, program: &str| {
            let argv = engine(kind, program).pull(reference, &Auth::default()).argv;
            argv.join(" ").replace(INTO_PLACE, "INTO_PLACE")
        };
        assert_eq!(
            line(Kind::Docker, "docker"),
            "docker pull --plain r.example:5000/a/b:1"
        );
        assert_eq!(
            line(Kind::PodmanHpc, "podman-hpc"),
            "podman-hpc pull --plain r.example:5000/a/b:1"
        );
        assert_eq!(
            line(Kind::Apptainer, "/opt/bin/apptainer"),
            "sh -c INTO_PLACE pull /images r.example+5000%a%b+1.sif /opt/bin/apptainer pull --plain @ docker://r.example:5000/a/b:1"
        );
        assert_eq!(
            line(Kind::Shifter, "/usr/bin/shifter"),
            "/usr/bin/shifterimg pull docker:r.example:5000/a/b:1"
        );
        assert_eq!(
            line(Kind::Charliecloud, "ch-run"),
            "sh -c INTO_PLACE pull /images r.example+5000%a%b+1 ch-image --plain pull r.example:5000/a/b:1 @"
        );
    }

    #[test]
    fn secrets_go_by_environment_or_memory_and_never_by_argv() {
        for kind in Kind::ALL {
            let call = engine(kind, kind.program()).pull("r.example:5000/a:1", &auth());
            assert!(!call.argv.join(" ").contains("hunter2"), "{kind}");
            assert!(!call.argv.join(" ").contains("dTpodW50ZXIy"), "{kind}");
            let by_environment = call.env.iter().any(|(_, value)| value == "hunter2");
            let by_memory = call.stdin.is_some_and(|text| text.contains("dTpodW50ZXIy"));
            assert_eq!(
                by_environment || by_memory,
                engine(kind, "x").takes_secrets(),
                "{kind}"
            );
        }
        assert_eq!(auth().login("elsewhere.example"), None);
        assert!(Auth::default().add("x").is_err());
    }

    #[test]
    fn what_is_known_of_an_image_is_read() {
        let output = |stdout: &str| Output {
            code: Some(0),
            stdout: stdout.to_owned(),
            stderr: String::new(),
        };
        let reference = |name: &str| Image::Reference(name.to_owned());
        let docker = engine(Kind::Docker, "docker");
        let name = "r.example:5000/a/b:1";
        let said = "sha256:11 user=1000:7 other.example/x@sha256:22 r.example:5000/a/b@sha256:33\n";
        let found = docker.seen(reference(name), &output(said)).expect("there");
        assert_eq!(
            (found.id.as_str(), found.user.as_str()),
            ("r.example:5000/a/b@sha256:33", "1000:7")
        );
        let found = docker
            .seen(reference(name), &output("sha256:11 user=\n"))
            .expect("there");
        assert_eq!((found.id.as_str(), found.user.as_str()), ("sha256:11", ""));
        let sif = Image::Sif("/a.sif".to_owned());
        let found = docker.seen(sif, &output(" 0a 1b\n")).expect("there");
        assert_eq!(found.id, "sif:0a1b");
        let gone = Output {
            code: Some(1),
            ..output("")
        };
        assert_eq!(docker.seen(reference(name), &gone), None);
        let look = docker.look(&reference(name)).expect("a question").argv;
        assert_eq!(
            look.join(" "),
            "docker image inspect --format={{.Id}} user={{.Config.User}}{{range .RepoDigests}} {{.}}{{end}} r.example:5000/a/b:1"
        );
    }

    #[tokio::test]
    async fn what_a_command_prints_is_heard_as_it_comes_and_kept_in_part() {
        let heard = std::sync::Mutex::new(0_usize);
        let call = Call {
            argv: words(&["sh", "-c", "echo out; echo err >&2; yes | head -n 100000"]),
            env: vec![("PATH".to_owned(), "/usr/bin:/bin".to_owned())],
            stdin: None,
        };
        let count = |_: &str| *heard.lock().expect("whole") += 1;
        let output = call
            .run(Duration::from_secs(30), count)
            .await
            .expect("it runs");
        assert_eq!(
            (output.code, output.stdout.len(), output.stderr.as_str()),
            (Some(0), KEPT, "err")
        );
        assert_eq!(*heard.lock().expect("whole"), 100_002);
    }

    #[tokio::test]
    async fn a_pull_is_whole_or_nothing() {
        let temp = tempfile::tempdir().expect("tempdir");
        let mut engine = engine(Kind::Apptainer, "x");
        engine.image_dir = temp.path().join("im ages").to_string_lossy().into_owned();
        let run = async |script: &str| {
            let argv = engine.put_in_place("n", words(&["sh", "-c", script, "sh", "@"]));
            engine
                .call(argv)
                .run(Duration::from_secs(30), |_| ())
                .await
                .expect("it runs")
        };
        let output = run("echo half > \"$1\"; echo broken >&2; exit 3").await;
        assert_eq!((output.code, output.stderr.as_str()), (Some(3), "broken"));
        let left = std::fs::read_dir(&engine.image_dir).expect("made").count();
        assert_eq!(left, 0);
        for text in ["one", "two"] {
            assert_eq!(run(&format!("echo {text} > \"$1\"")).await.code, Some(0));
            let found = std::fs::read_to_string(temp.path().join("im ages/n")).expect("pulled");
            assert_eq!(found.trim(), text);
        }
    }

    #[tokio::test]
    async fn a_client_reads_its_credentials_from_memory() {
        let path = vec![("PATH".to_owned(), "/usr/bin:/bin".to_owned())];
        for (script, command) in [
            (
                DOCKER_LOGIN,
                "cat \"$DOCKER_CONFIG/config.json\"; cat \"$DOCKER_CONFIG/config.json\"",
            ),
            (
                PODMAN_LOGIN,
                "cat \"$REGISTRY_AUTH_FILE\"; cat \"$REGISTRY_AUTH_FILE\"",
            ),
        ] {
            let call = Call {
                argv: words(&["sh", "-c", script, "pull", "sh", "-c", command]),
                env: path.clone(),
                stdin: Some("s3cret;".to_owned()),
            };
            let output = call
                .run(Duration::from_secs(30), |_| ())
                .await
                .expect("it runs");
            assert_eq!(output.stdout, "s3cret;s3cret;", "{script}");
        }
    }
}
