//! Containers that the host starts: real readers, real FIFOs, and two views of one directory.

use std::{
    os::unix::{fs::symlink, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill, killpg},
    unistd::Pid,
};
use tempfile::TempDir;
use testkit::eventually;
use vk_cmd::{
    container::{Adopted, ContainerDir, ContainerSpec, Launcher, Root, StartError, Status},
    hostpipe::{Client, Order, PipeDir, State, Task},
};

use crate::support::{exit, in_time, log};

const VK_CMD: &str = env!("CARGO_BIN_EXE_vk-cmd");
/// The documented reader loop.
const LOOP: &str = "while true; do eval \"$(cat $HOME/hostpipe/vk-cmd)\" > $HOME/hostpipe/pipeline.out \
                    2> $HOME/hostpipe/pipeline.err; done";

/// One shared directory: the host sees it at `<temp>/home/hostpipe`, the agent at `<temp>/in`.
struct Pipe {
    temp: TempDir,
    readers: Vec<Child>,
}

#[derive(Clone, Copy, Debug)]
enum Reader {
    Serve,
    Loop,
}

impl Pipe {
    fn new() -> Self {
        let temp = tempfile::tempdir().expect("a directory");
        std::fs::create_dir_all(temp.path().join("home/hostpipe")).expect("mkdir");
        symlink(temp.path().join("home/hostpipe"), temp.path().join("in")).expect("symlink");
        Self {
            temp,
            readers: Vec::new(),
        }
    }

    fn of(reader: Reader) -> Self {
        let mut pipe = Self::new();
        pipe.read(reader);
        pipe
    }

    fn home(&self) -> PathBuf {
        self.temp.path().join("home")
    }

    fn fifo(&self) -> PathBuf {
        self.home().join("hostpipe/vk-cmd")
    }

    fn read(&mut self, reader: Reader) {
        let mut command = match reader {
            Reader::Serve => {
                let mut command = Command::new(VK_CMD);
                command.args(["hostpipe", "serve"]);
                command
            }
            Reader::Loop => {
                let dir = PipeDir::create(&self.home().join("hostpipe")).expect("a directory");
                dir.make_fifo().expect("a FIFO");
                let mut command = Command::new("sh");
                command.args(["-c", LOOP]);
                command
            }
        };
        let child = command
            .env("HOME", self.home())
            .env("ON_THE_HOST", "yes")
            .env_remove("VK_CMD_HOSTPIPE")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .process_group(0)
            .spawn()
            .expect("a reader");
        self.readers.push(child);
        eventually("a FIFO", || self.fifo().exists().then_some(()).ok_or(()));
    }

    fn client(&self) -> Client {
        let dir = PipeDir::open(&self.temp.path().join("in")).expect("usable");
        Client::open(dir, Path::new(VK_CMD)).expect("prepared")
    }

    fn launcher(&self, client: &Client) -> Launcher {
        Launcher::new(PathBuf::from(VK_CMD), self.temp.path().join("direct"))
            .expect("sockets")
            .with_host(Some(client.clone()))
    }

    fn container(&self, client: &Client, name: &str) -> ContainerDir {
        let root = Root::create(&client.dir().base().join("cluster/node")).expect("a root");
        let dir = root.container("uid-1", name).expect("a name");
        dir.create().expect("created");
        dir
    }

    fn stop_readers(&mut self) {
        for mut reader in self.readers.drain(..) {
            let _ = killpg(Pid::from_raw(reader.id().cast_signed()), Signal::SIGKILL);
            reader.wait().expect("our child");
        }
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        self.stop_readers();
        testkit::end_processes_of(self.temp.path());
    }
}

fn spec(dir: &ContainerDir, line: &str) -> ContainerSpec {
    let argv = ["sh", "-c", line].map(str::to_owned).to_vec();
    let env = vec![
        ("PATH".to_owned(), "/usr/bin:/bin".to_owned()),
        ("HERE".to_owned(), dir.path().display().to_string()),
    ];
    let mut spec = ContainerSpec::new(argv, env, dir.path());
    spec.on_host = true;
    spec
}

async fn runs_a_container(reader: Reader) {
    let pipe = Pipe::of(reader);
    let client = pipe.client();
    let launcher = pipe.launcher(&client);
    let dir = pipe.container(&client, "c");
    let line = "pwd; echo \"$HERE\"; ls \"$HERE\" >/dev/null && exit 7";
    let handle = in_time(launcher.start(&dir, 0, 1, &spec(&dir, line)))
        .await
        .expect("started");
    assert_eq!(exit(&in_time(handle.wait()).await).code, 7);
    let text = String::from_utf8(log(&dir, Default::default()).await).expect("text");
    let there = pipe
        .home()
        .join("hostpipe/.vk/root/cluster/node/pods/uid-1/containers/c");
    let there = there.display().to_string();
    assert_eq!(text.lines().collect::<Vec<_>>(), [there.as_str(), &there]);
    let facts = client.facts().expect("it answered");
    assert_eq!(facts.home.as_deref(), Some(pipe.home().as_path()));
    assert_eq!(facts.served, matches!(reader, Reader::Serve));
    assert!(
        facts
            .environment
            .iter()
            .any(|(name, _)| name == "ON_THE_HOST")
    );
}

#[tokio::test]
async fn a_container_runs_on_the_host_of_a_serving_reader() {
    runs_a_container(Reader::Serve).await;
}

#[tokio::test]
async fn a_container_runs_on_the_host_of_the_documented_loop() {
    runs_a_container(Reader::Loop).await;
}

#[tokio::test]
async fn the_next_agent_adopts_what_the_host_runs_and_ends_it() {
    for reader in [Reader::Serve, Reader::Loop] {
        let pipe = Pipe::of(reader);
        let client = pipe.client();
        let dir = pipe.container(&client, "c");
        let launcher = pipe.launcher(&client);
        let spec = spec(&dir, "trap 'exit 5' TERM; sleep 1000 & wait");
        let handle = in_time(launcher.start(&dir, 0, 1, &spec))
            .await
            .expect("started");
        drop(handle);
        // Another agent, which nobody has answered yet.
        let launcher = pipe.launcher(&pipe.client());
        let adopted = in_time(launcher.adopt(&dir, 0)).await.expect("adopted");
        let Adopted::Running(handle) = adopted else {
            panic!("{adopted:?}");
        };
        let grace = Duration::from_secs(30);
        handle.terminate(grace).await.expect("told");
        assert_eq!(exit(&in_time(handle.wait()).await).code, 5);
    }
}

#[tokio::test]
async fn what_a_dead_shim_left_is_ended_by_the_host() {
    let pipe = Pipe::of(Reader::Serve);
    let client = pipe.client();
    let dir = pipe.container(&client, "c");
    let launcher = pipe.launcher(&client);
    let handle = in_time(launcher.start(&dir, 0, 1, &spec(&dir, "sleep 1000")))
        .await
        .expect("started");
    let Status::Running { process, .. } = handle.status() else {
        panic!("not running");
    };
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", process.pid)).expect("it runs");
    let shim = stat
        .rsplit(") ")
        .next()
        .and_then(|rest| rest.split(' ').nth(1));
    let shim: i32 = shim.expect("a parent").parse().expect("a number");
    kill(Pid::from_raw(shim), Signal::SIGKILL).expect("the shim runs");
    let status = in_time(handle.wait()).await;
    assert!(matches!(status, Status::Lost { .. }), "{status:?}");
    let left = vk_cmd::container::process::Stat::read(process.pid).expect("procfs");
    assert!(left.is_none_or(|stat| stat.is_dead()), "{left:?}");
}

#[tokio::test]
async fn many_starts_at_once_start_once_each() {
    let pipe = Pipe::of(Reader::Serve);
    let client = pipe.client();
    let launcher = pipe.launcher(&client);
    let starts = (0..40).map(|number| {
        let (launcher, client, pipe) = (&launcher, &client, &pipe);
        async move {
            let dir = pipe.container(client, &format!("c{number}"));
            let handle = launcher
                .start(&dir, 0, 1, &spec(&dir, "echo x >> ran"))
                .await
                .expect("started");
            handle.wait().await;
            std::fs::read_to_string(dir.path().join("ran")).expect("it ran")
        }
    });
    let ran = in_time(futures::future::join_all(starts)).await;
    assert!(ran.iter().all(|ran| ran == "x\n"), "{ran:?}");
}

#[tokio::test]
async fn without_a_reader_it_is_said_at_once_and_a_later_reader_is_found() {
    let mut pipe = Pipe::new();
    let client = pipe.client();
    client.dir().make_fifo().expect("a FIFO");
    let launcher = pipe.launcher(&client);
    let dir = pipe.container(&client, "c");
    let started = in_time(launcher.start(&dir, 0, 1, &spec(&dir, "true"))).await;
    let Err(StartError::Host(error)) = started else {
        panic!("{started:?}");
    };
    assert!(
        error.to_string().contains("vk-cmd hostpipe serve"),
        "{error}"
    );
    assert!(matches!(&*client.state().borrow(), State::NoReader(_)));
    pipe.read(Reader::Serve);
    let handle = in_time(launcher.start(&dir, 0, 1, &spec(&dir, "exit 3")))
        .await
        .expect("started");
    assert_eq!(exit(&in_time(handle.wait()).await).code, 3);
}

#[tokio::test]
async fn a_line_that_is_read_late_starts_nothing() {
    let pipe = Pipe::of(Reader::Serve);
    let client = pipe.client();
    let line = vk_cmd::hostpipe::line::call("0123456789abcdef", "nothing", ".vk");
    // Nobody waits for this one, and its program is gone.
    std::fs::write(pipe.fifo(), line).expect("written");
    // The reader goes on.
    let task = Task::of(vec!["true".into()]);
    let code = in_time(client.order(|_| Order::Run { task })).await;
    assert_eq!(code.expect("ran"), 0);
}

#[tokio::test]
async fn a_task_has_its_variables_and_its_input_and_neither_is_in_its_arguments() {
    let pipe = Pipe::of(Reader::Serve);
    let client = pipe.client();
    let script = "cat; echo \"$TOKEN\"; tr '\\0' ' ' </proc/$$/cmdline";
    let task = Task {
        argv: ["sh", "-c", script].map(str::to_owned).to_vec(),
        env: vec![("TOKEN".into(), "of-the-pod".into())],
        stdin: Some("from memory\n".into()),
    };
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let code = in_time(client.run(task, &mut out, &mut err)).await;
    assert_eq!(code.expect("ran"), 0);
    let out = String::from_utf8(out).expect("text");
    let rest = out.strip_prefix("from memory\nof-the-pod\n");
    let arguments = rest.unwrap_or_else(|| panic!("{out:?}"));
    assert!(
        !arguments.contains("of-the-pod") && !arguments.contains("from memory"),
        "{arguments}"
    );
}

/// Runs the built program's `hostpipe send`.
fn send(pipe: &Pipe, words: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::new(VK_CMD)
        .args(["hostpipe", "send", "--dir"])
        .arg(pipe.temp.path().join("in"))
        .arg("--")
        .args(words)
        .stdin(Stdio::null())
        .output()
        .expect("it runs");
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    (
        output.status.code(),
        text(output.stdout),
        text(output.stderr),
    )
}

#[test]
fn send_brings_output_and_exit_code() {
    for reader in [Reader::Serve, Reader::Loop] {
        let pipe = Pipe::of(reader);
        let (code, out, err) = send(&pipe, &["echo out; echo err >&2; exit 7"]);
        assert_eq!(
            (code, out.as_str(), err.as_str()),
            (Some(7), "out\n", "err\n")
        );
        assert_eq!(
            send(&pipe, &["printf", "%s|", "a b", "$HOME"]).1,
            "a b|$HOME|"
        );
        let (code, _, err) = send(&pipe, &["/no/such/program"]);
        assert_eq!(code, Some(127), "{err}");
        assert_eq!(send(&pipe, &["kill -9 $$"]).0, Some(137));
        let (_, out, _) = send(&pipe, &["head -c 300000 /dev/zero | tr '\\0' x"]);
        assert_eq!(out.len(), 300_000);
        // Nothing stays behind.
        let left = pipe.home().join("hostpipe/.vk/s");
        eventually("no socket is left", || {
            let left: Vec<_> = std::fs::read_dir(&left)
                .expect("listed")
                .flatten()
                .collect();
            if left.is_empty() { Ok(()) } else { Err(left) }
        });
    }
}

#[test]
fn a_reader_survives_what_lines_do_to_their_shells() {
    let pipe = Pipe::of(Reader::Serve);
    let write = |bytes: &[u8]| std::fs::write(pipe.fifo(), bytes).expect("written");
    write(b"exit 3\n");
    write(b"if then ( \"\n");
    write(b"echo a\0b\n");
    let mut long = b"echo ".to_vec();
    long.resize(1 << 20, b'x');
    long.push(b'\n');
    write(&long);
    write(b"kill -9 $PPID\n");
    write(b"printf whole");
    write(b"\n");
    write(b"echo plain; echo bad >&2; exit 9\n");
    assert_eq!(send(&pipe, &["true"]).0, Some(0));
    let lines = pipe.home().join("hostpipe/lines");
    let outputs = eventually("the last line has ended", || {
        let mut found = Vec::new();
        for entry in std::fs::read_dir(&lines).expect("listed").flatten() {
            let path = entry.path();
            if path.extension().is_some_and(|end| end == "code") {
                let read = |end| std::fs::read_to_string(path.with_extension(end)).expect("kept");
                found.push((read("code"), read("out"), read("err")));
            }
        }
        let done = |code: &str, out: &str| {
            found
                .iter()
                .any(|(have, text, _)| have == code && text == out)
        };
        let long = found.iter().any(|(_, out, _)| out.len() == (1 << 20) - 4);
        if done("9\n", "plain\n") && done("3\n", "") && done("0\n", "whole") && long {
            Ok(found)
        } else {
            Err(found.len())
        }
    });
    let last = outputs
        .iter()
        .find(|(code, ..)| code == "9\n")
        .expect("seen");
    assert_eq!(last.2, "bad\n");
}

#[test]
fn a_reader_says_what_it_cannot_read() {
    let pipe = Pipe::new();
    let serve = |dir: &Path| {
        let output = Command::new(VK_CMD)
            .args(["hostpipe", "serve", "--dir"])
            .arg(dir)
            .stdin(Stdio::null())
            .output()
            .expect("it runs");
        assert!(!output.status.success());
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    std::fs::write(pipe.fifo(), "docker run x\n").expect("written");
    let error = serve(&pipe.home().join("hostpipe"));
    assert!(error.contains("is a plain file and no FIFO"), "{error}");
    if nix::unistd::geteuid().is_root() {
        let theirs = pipe.home().join("theirs");
        std::fs::create_dir(&theirs).expect("mkdir");
        std::os::unix::fs::chown(&theirs, Some(4711), None).expect("chown");
        let error = serve(&theirs);
        assert!(error.contains("belongs to user 4711"), "{error}");
    }
    let error = serve(Path::new("/proc/no"));
    assert!(error.contains("/proc/no"), "{error}");
}

#[test]
fn one_reader_at_a_time_and_nothing_is_left_of_it() {
    let mut pipe = Pipe::of(Reader::Serve);
    let second = Command::new(VK_CMD)
        .args(["hostpipe", "serve"])
        .env("HOME", pipe.home())
        .stdin(Stdio::null())
        .output()
        .expect("it runs");
    let error = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(
        error.contains("by another `vk-cmd hostpipe serve`"),
        "{error}"
    );
    let mut reader = pipe.readers.remove(0);
    kill(Pid::from_raw(reader.id().cast_signed()), Signal::SIGTERM).expect("it runs");
    assert!(reader.wait().expect("our child").success());
    assert!(!pipe.fifo().exists());
}
