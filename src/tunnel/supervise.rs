//! The task that owns the ssh child.
//!
//! The child runs in the foreground, in a group of its own, deaf to what a batch system sends to all processes of a
//! job, and the kernel kills it when we die; so it ends when we end it, and never later than we do.

use std::{
    collections::VecDeque,
    io,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use nix::{
    sys::{
        prctl,
        signal::{SigHandler, Signal, killpg, signal},
    },
    unistd::Pid,
};
use tokio::{
    io::{AsyncBufReadExt, BufReader, Lines},
    process::{Child, ChildStderr, Command},
    sync::watch,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::{
    machine::{Effect, Event, Machine, Phase},
    mux,
    report::{self, Line, Problem},
    spec::{Forward, Place, TunnelSpec},
};

/// How often a child that is up is asked whether it still answers.
const CHECK: Duration = Duration::from_secs(15);
/// How long it may take to answer.
const ANSWER: Duration = Duration::from_secs(10);
/// Lines that are kept to explain an end.
const KEPT: usize = 8;
/// What a connection may take beyond ssh's own time-out: jump hosts, keys, forwards.
const SLACK: Duration = Duration::from_secs(20);

/// How a tunnel does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// It is being built.
    Connecting,
    /// Everything is forwarded.
    Up {
        /// Ports that the far side chose: our end, and its port.
        allocated: Vec<(String, u16)>,
        /// How many times it came up.
        times: u32,
    },
    /// It is down, and will be tried again.
    Down(Problem),
}

/// A tunnel as others see it.
#[derive(Clone, Debug)]
pub struct Tunnel {
    /// How it does.
    pub state: watch::Receiver<State>,
    /// Where its child takes questions.
    pub control: PathBuf,
}

/// Describes a tunnel and the task that keeps it up until `stop`. `dir` is a private directory with a short path.
pub fn tunnel(
    spec: TunnelSpec,
    dir: &Path,
    stop: CancellationToken,
) -> (Tunnel, impl Future<Output = ()> + Send + use<>) {
    let control = dir.join(format!(
        "t{}",
        &uuid::Uuid::new_v4().simple().to_string()[..8]
    ));
    let (publish, state) = watch::channel(State::Connecting);
    let tunnel = Tunnel {
        state,
        control: control.clone(),
    };
    let patience = spec.connect_timeout * u32::try_from(spec.jump.len() + 1).unwrap_or(8) + SLACK;
    let keeper = Keeper {
        chosen: vec![None; spec.forwards.len()],
        spec,
        control,
        publish,
        start: Instant::now(),
        times: 0,
        patience,
    };
    (tunnel, keeper.run(stop))
}

struct Keeper {
    spec: TunnelSpec,
    /// Ports that the far side chose once; they are asked for again.
    chosen: Vec<Option<u16>>,
    control: PathBuf,
    publish: watch::Sender<State>,
    start: Instant,
    times: u32,
    patience: Duration,
}

/// A child that runs.
struct Running {
    child: Child,
    lines: Lines<BufReader<ChildStderr>>,
    said: VecDeque<String>,
    entered: bool,
    confirmed: usize,
    allocated: Vec<(String, u16)>,
}

impl Running {
    /// Ends it, its jump hosts included.
    async fn end(mut self) {
        if let Some(pid) = self.child.id() {
            // Not reaped yet, so the number is its own; gone already: all the better.
            let _ = killpg(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL);
        }
        // It is our child and has been killed.
        let _ = self.child.wait().await;
    }
}

impl Keeper {
    async fn run(mut self, stop: CancellationToken) {
        let mut machine = Machine::new(self.start.elapsed(), self.patience);
        let mut running: Option<Running> = None;
        let mut event = Event::Tick;
        let mut check_at = Instant::now();
        loop {
            if let Event::Ended(problem) = &event {
                self.down(problem);
            }
            match machine.step(&event, self.start.elapsed(), rand()) {
                Some(Effect::Start) => match self.spawn() {
                    Ok(child) => running = Some(child),
                    Err(error) => {
                        event = Event::Ended(Problem {
                            reason: "NoSsh",
                            message: format!(
                                "{} cannot be started ({error}): install the OpenSSH client",
                                self.spec.ssh.display()
                            ),
                            passing: false,
                        });
                        continue;
                    }
                },
                Some(Effect::GiveUp) => {
                    let said = match running.take() {
                        Some(child) => {
                            let said = child.said.iter().cloned().collect();
                            child.end().await;
                            said
                        }
                        None => Vec::new(),
                    };
                    event = Event::Ended(self.timed_out(said));
                    continue;
                }
                None => {}
            }
            if event == Event::Confirmed {
                check_at = Instant::now() + CHECK;
            }
            let up = matches!(machine.phase(), Phase::Up { .. });
            let wake = machine.wake_at().map(|at| self.start + at);
            event = tokio::select! {
                // Cancel-safe per docs on `next_line`.
                line = next_line(&mut running), if running.is_some() => match line {
                    Some(line) => match self.heard(&line, running.as_mut()) {
                        Some(event) => event,
                        None => Event::Tick,
                    },
                    None => match running.take() {
                        Some(child) => {
                            let said: Vec<String> = child.said.iter().cloned().collect();
                            child.end().await;
                            Event::Ended(report::explain(&self.spec.destination, &said))
                        }
                        None => Event::Tick,
                    },
                },
                // Cancel-safe: made anew each time.
                () = async { sleep_until(wake.unwrap_or_else(Instant::now)).await }, if wake.is_some() => Event::Tick,
                // Cancel-safe: a question without an answer is asked again.
                () = sleep_until(check_at), if up => {
                    check_at = Instant::now() + CHECK;
                    match mux::alive(&self.control, ANSWER).await {
                        Ok(_) => Event::Tick,
                        Err(error) => {
                            if let Some(child) = running.take() {
                                child.end().await;
                            }
                            Event::Ended(Problem {
                                reason: "TunnelStuck",
                                message: format!("ssh does not answer any more ({error}) and was ended"),
                                passing: true,
                            })
                        }
                    }
                }
                () = stop.cancelled() => break,
            };
        }
        if let Some(child) = running {
            child.end().await;
        }
        self.forget_control();
    }

    /// The socket of a killed child stays.
    fn forget_control(&self) {
        let _ = std::fs::remove_file(&self.control);
    }

    fn timed_out(&self, said: Vec<String>) -> Problem {
        let mut problem = report::explain(&self.spec.destination, &said);
        if problem.reason == "TunnelEnded" {
            problem.reason = "Unreachable";
            problem.message = format!(
                "{} did not let us in within {} s",
                self.spec.destination,
                self.patience.as_secs()
            );
        }
        problem
    }

    fn down(&mut self, problem: &Problem) {
        self.forget_control();
        if problem.reason == "RemotePortTaken" {
            // Somebody else has it now; any other will do.
            for (forward, chosen) in self.spec.forwards.iter_mut().zip(&mut self.chosen) {
                if chosen.take().is_some()
                    && let Forward::Remote {
                        listen: Place::Tcp { port, .. },
                        ..
                    } = forward
                {
                    *port = 0;
                }
            }
        }
        tracing::warn!(
            destination = self.spec.destination,
            reason = problem.reason,
            "the tunnel is down: {}",
            problem.message
        );
        self.publish.send_replace(State::Down(problem.clone()));
    }

    /// Reads one line of the child's.
    fn heard(&mut self, line: &str, running: Option<&mut Running>) -> Option<Event> {
        let running = running?;
        match report::read(line) {
            Line::Entered => running.entered = true,
            Line::Forwarded => running.confirmed += 1,
            Line::Allocated { port, to } => {
                self.keep(port, &to);
                running.allocated.push((to, port));
            }
            Line::Said(text) => {
                tracing::debug!(text, "ssh");
                running.said.push_back(text);
                if running.said.len() > KEPT {
                    running.said.pop_front();
                }
            }
            Line::Authenticated | Line::Nothing => return None,
        }
        if !running.entered || running.confirmed < self.spec.remote_forwards() {
            return None;
        }
        // ssh tells the chosen port right after its confirmation.
        let zeros = self.spec.forwards.iter().filter(|forward| {
            matches!(
                forward,
                Forward::Remote {
                    listen: Place::Tcp { port: 0, .. },
                    ..
                }
            )
        });
        if zeros.count() > 0 {
            return None;
        }
        let first = !matches!(&*self.publish.borrow(), State::Up { .. });
        if first {
            self.times += 1;
            running.said.clear();
            let mut allocated = running.allocated.clone();
            for (forward, chosen) in self.spec.forwards.iter().zip(&self.chosen) {
                if let (Forward::Remote { to, .. }, Some(port)) = (forward, chosen)
                    && !allocated.iter().any(|(have, _)| *have == to.to_string())
                {
                    allocated.push((to.to_string(), *port));
                }
            }
            tracing::info!(destination = self.spec.destination, "the tunnel is up");
            self.publish.send_replace(State::Up {
                allocated,
                times: self.times,
            });
            return Some(Event::Confirmed);
        }
        None
    }

    /// Remembers a port that the far side chose.
    fn keep(&mut self, allocated: u16, to: &str) {
        for (forward, chosen) in self.spec.forwards.iter_mut().zip(&mut self.chosen) {
            if let Forward::Remote {
                listen: Place::Tcp { port, .. },
                to: ours,
            } = forward
                && *port == 0
                && ours.to_string() == to
            {
                *port = allocated;
                *chosen = Some(allocated);
                return;
            }
        }
    }

    fn spawn(&self) -> io::Result<Running> {
        self.publish.send_if_modified(|state| {
            let was_up = matches!(state, State::Up { .. });
            if was_up {
                *state = State::Connecting;
            }
            was_up
        });
        self.forget_control();
        let mut command = Command::new(&self.spec.ssh);
        command
            .args(self.spec.command_line(&self.control))
            .env("LC_ALL", "C")
            // No window pops up to ask for a password either.
            .env_remove("SSH_ASKPASS")
            .env_remove("DISPLAY")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true);
        let parent = Pid::this();
        // SAFETY: between fork and exec only system calls are made, which touch no memory that is shared.
        unsafe {
            command.pre_exec(move || die_with(parent));
        }
        // From a thread of the runtime, which lives as long as we do: the kernel watches the thread, not the process.
        let mut child = command.spawn()?;
        let stderr = child.stderr.take().ok_or(io::ErrorKind::BrokenPipe)?;
        Ok(Running {
            child,
            lines: BufReader::new(stderr).lines(),
            said: VecDeque::new(),
            entered: false,
            confirmed: 0,
            allocated: Vec::new(),
        })
    }
}

/// Makes the calling process end with its parent, and deaf to what a batch system sends to all.
fn die_with(parent: Pid) -> io::Result<()> {
    prctl::set_pdeathsig(Signal::SIGKILL)?;
    if nix::unistd::getppid() != parent {
        return Err(io::ErrorKind::BrokenPipe.into());
    }
    for deaf in [
        Signal::SIGTERM,
        Signal::SIGINT,
        Signal::SIGHUP,
        Signal::SIGUSR1,
        Signal::SIGUSR2,
    ] {
        // SAFETY: SIG_IGN runs no code of ours in a handler; ssh leaves ignored signals ignored.
        unsafe { signal(deaf, SigHandler::SigIgn)? };
    }
    Ok(())
}

async fn next_line(running: &mut Option<Running>) -> Option<String> {
    match running {
        // Bytes that are no text end the line's use, not the child's.
        Some(running) => match running.lines.next_line().await {
            Ok(line) => line,
            Err(_) => Some(String::new()),
        },
        None => std::future::pending().await,
    }
}

/// A random number; of no use to an adversary.
fn rand() -> u32 {
    let (_, low) = uuid::Uuid::new_v4().as_u64_pair();
    u32::try_from(low & u64::from(u32::MAX)).unwrap_or_default()
}
