//! The loop: output, children, requests, the end.

use std::{
    fs::File,
    os::fd::AsFd,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{signal::Signal, signalfd::SignalFd},
    unistd::Pid,
};

use super::{
    Context,
    control::{Asked, Connection, Control, ended},
    exec::{self, Execs},
    input::Input,
    output::{Sink, Source},
    start::{Failure, Started},
};
use crate::container::{
    claim::{self, Reserve},
    dir::DirError,
    engine::EngineClient,
    files::Durability,
    held,
    log::line::Stream,
    process::{self, Ended, Stat},
    protocol::{
        Answer, AttachCall, ExecCall, Greeting, PROTOCOL, Refusal, RefusalCode, Request, Told,
    },
    stats::{Pass, memory},
    status::{Exit, Status},
};

const SIGTERM: i32 = Signal::SIGTERM as i32;
/// Time from the start to the moment when the claim goes to the medium.
const SYNC_DELAY: Duration = Duration::from_secs(1);
/// Pause before processes that could not be listed are looked for again.
const KILL_AGAIN: Duration = Duration::from_millis(200);
/// Pause before a status that found no room is written again.
const RETRY: Duration = Duration::from_secs(5);

/// Answers the start, then supervises the command until nothing of it is left.
pub(super) fn supervise(
    context: &Context,
    mut control: Control,
    claim: &File,
    started: Result<Started, Failure>,
) {
    match started {
        Ok(started) => {
            let status = Status::Running {
                process: started.main.clone(),
                pgid: started.main.pid,
                started_at: started.started_at,
                memory_held: (started.surroundings.group.as_ref())
                    .is_some_and(|group| group.holds.memory),
            };
            // Not synchronised: a machine that fails ends the container, which a missing status says as well. Where
            // there is no room for it, the socket tells the state.
            let _ = claim::write_status(
                &context.records,
                &context.status_file(status.clone()),
                Durability::Processes,
            );
            control.answer_start(&status);
            Supervisor::new(context, control, claim, started, status).run();
        }
        Err(Failure {
            reason,
            message,
            no_room,
        }) => {
            let status = Status::StartFailed {
                reason,
                message,
                finished_at: Timestamp::now(),
                no_room,
            };
            let mut ending = Ending {
                context,
                status,
                reserve: None,
            };
            let written = ending.write();
            control.answer_start(&ending.status);
            if written.is_err() {
                // The agent has been told; a later one finds a claim without a status.
                let _ = ending.write();
            }
        }
    }
}

struct Supervisor<'a> {
    context: &'a Context,
    control: Control,
    execs: Execs,
    status: Status,
    started_at: Timestamp,
    main: Pid,
    /// How and when the main process ended.
    ended: Option<(Exit, Timestamp)>,
    /// When the claim goes to the medium, until it has.
    ///
    /// It has to outlive a power failure, since nothing may start twice. Waiting for the disk before the start would
    /// cost each container more than all other steps together, and a moment later others have mostly flushed the
    /// journal already; a container that has ended by then has its status on the medium instead.
    unsynced: Option<(Instant, &'a File)>,
    /// When the grace is over; set by the first `terminate`.
    deadline: Option<Instant>,
    /// The signal that the first `terminate` has sent.
    told: Option<i32>,
    /// Whether the tree is being killed.
    killing: bool,
    /// When that is tried again, where it could not be looked at.
    kill_again: Option<Instant>,
    /// Whether that is for want of memory.
    out_of_memory: bool,
    /// Whether the kernel says that we have no child left.
    childless: bool,
    /// Processes left that we may not kill.
    immune: usize,
    input: Input,
    stdout: Source,
    stderr: Source,
    sink: Sink,
    buffer: Vec<u8>,
    reserve: Option<Reserve>,
    /// Where the command is the client of a container engine.
    engine: Option<Box<EngineClient>>,
}

impl<'a> Supervisor<'a> {
    fn new(
        context: &'a Context,
        control: Control,
        claim: &'a File,
        started: Started,
        status: Status,
    ) -> Self {
        Self {
            context,
            control,
            execs: Execs::new(started.surroundings),
            status,
            started_at: started.started_at,
            main: Pid::from_raw(started.main.pid),
            ended: None,
            unsynced: Some((Instant::now() + SYNC_DELAY, claim)),
            deadline: None,
            told: None,
            killing: false,
            kill_again: None,
            out_of_memory: false,
            childless: false,
            immune: 0,
            input: Input::new(
                started.interactive,
                started.ends.stdin,
                Some(&started.ends.stdout),
            ),
            stdout: Source::new(Stream::Stdout, Some(started.ends.stdout)),
            stderr: Source::new(Stream::Stderr, started.ends.stderr),
            sink: started.sink,
            buffer: Vec::new(),
            reserve: started.reserve,
            engine: started.engine,
        }
    }

    fn run(mut self) {
        self.reap();
        while !self.is_over() {
            let ready = self.wait();
            self.turn(&ready);
        }
        self.finish();
    }

    /// Waits until something can be done; tells it of each of the descriptors, in the order of [`Supervisor::turn`].
    fn wait(&self) -> Vec<PollFlags> {
        let signals: &SignalFd = &self.context.signals;
        let grace = self.deadline.filter(|_| !self.killing);
        let timeout = match grace
            .into_iter()
            .chain(self.unsynced.map(|(at, _)| at))
            .chain(self.execs.next_deadline())
            .chain(self.kill_again)
            .min()
        {
            Some(at) => {
                // Rounded up, so that the moment has passed afterwards.
                let left = at.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
                PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
            }
            None => PollTimeout::NONE,
        };
        let outputs = [&self.stdout, &self.stderr];
        let mut fds = vec![PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
        fds.extend(
            outputs
                .iter()
                .filter_map(|o| o.pipe.as_ref())
                .map(|p| PollFd::new(p.as_fd(), PollFlags::POLLIN)),
        );
        fds.extend(
            self.control
                .descriptors()
                .map(|fd| PollFd::new(fd, PollFlags::POLLIN)),
        );
        fds.extend(
            { self.input.interests().chain(self.execs.interests()) }
                .map(|(fd, events)| PollFd::new(fd, events)),
        );
        // Interrupted, or short of memory: look at everything.
        let unknown = PollFlags::POLLIN;
        match poll(&mut fds, timeout) {
            Ok(_) => fds
                .iter()
                .map(|fd| fd.revents().unwrap_or(unknown))
                .collect(),
            Err(_) => vec![unknown; fds.len()],
        }
    }

    fn turn(&mut self, ready: &[PollFlags]) {
        let outputs = [&self.stdout, &self.stderr];
        let own = 1
            + outputs.iter().filter(|it| it.pipe.is_some()).count()
            + self.control.descriptors().count();
        let (own, others) = ready.split_at(own.min(ready.len()));
        let of_input = self.input.interests().count().min(others.len());
        let (of_input, of_execs) = others.split_at(of_input);
        // Before anything that adds a client or a command, or ends one.
        self.input.ready(of_input);
        self.execs.ready(of_execs);
        let mut ready = own.iter().map(|events| !events.is_empty());
        let mut next = || ready.next().unwrap_or(false);
        let signalled = next();
        // Output first: what a process wrote before it ended stands before its end.
        for source in [&mut self.stdout, &mut self.stderr] {
            if source.pipe.is_some() && next() {
                source.copy(self.context, &mut self.sink, &mut self.buffer);
            }
        }
        let clients: Vec<bool> = ready.collect();
        if signalled {
            while let Ok(Some(signal)) = self.context.signals.read_signal() {
                if signal.ssi_signo == Signal::SIGUSR1 as u32 {
                    self.control.listen_again(&self.context.arguments.socket);
                }
            }
            self.reap();
        }
        for asked in self.control.ready(&clients) {
            self.serve(&asked);
        }
        self.execs.check_deadlines(Instant::now());
        if !self.killing
            && self
                .deadline
                .is_some_and(|deadline| deadline <= Instant::now())
        {
            self.kill_tree();
        }
        if { self.kill_again.take_if(|at| *at <= Instant::now()) }.is_some() {
            self.kill_tree();
        }
        if let Some((_, claim)) = self.unsynced.take_if(|(at, _)| *at <= Instant::now()) {
            // A disk that fails now is told by the next thing that is written.
            let _ = claim.sync_all().map(|()| self.context.records.sync());
        }
    }

    fn is_over(&self) -> bool {
        self.ended.is_some() && self.childless
    }

    /// Reaps everything that has ended, then decides about what is left.
    fn reap(&mut self) {
        loop {
            let (pid, ended) = match process::reap_any() {
                Ok(Some(reaped)) => reaped,
                Ok(None) => break,
                Err(Errno::EINTR) => continue,
                Err(_) => {
                    self.childless = true;
                    break;
                }
            };
            let exit = match ended {
                Ended::Code(code) => Exit { code, signal: None },
                Ended::Signal(signal) => Exit {
                    code: 128 + signal,
                    signal: Some(signal),
                },
            };
            if pid == self.main.as_raw() {
                self.ended = Some((exit, Timestamp::now()));
            } else {
                self.execs.reaped(pid, exit);
            }
        }
        if self.ended.is_some() && !self.childless && (self.killing || !self.has_grace()) {
            self.kill_tree();
        }
    }

    /// Whether the rest of the group still has time.
    ///
    /// A shell without a trap dies of our SIGTERM at once, while the program that it has started writes its checkpoint.
    /// As the first process of a real container the shell would have survived that signal and its child would have
    /// had the whole grace. A main process that chose to exit has had its say, and the rest goes with it.
    fn has_grace(&self) -> bool {
        let told = self
            .ended
            .is_some_and(|(exit, _)| exit.signal.is_some() && exit.signal == self.told);
        let group = self.main.as_raw();
        told && self
            .deadline
            .is_some_and(|deadline| deadline > Instant::now())
            && process::descendants(std::process::id().cast_signed()).is_ok_and(|tree| {
                { tree.seen.iter() }.any(|stat| stat.pgrp == group && !stat.is_dead())
            })
    }

    /// Kills what lives of the tree. What is born meanwhile becomes our child when its parent dies, and that death
    /// brings us here again.
    fn kill_tree(&mut self) {
        self.killing = true;
        if let Some(group) = self.execs.group() {
            group.kill();
        }
        let Ok(tree) = process::descendants(std::process::id().cast_signed()) else {
            // Short of descriptors or memory, which passes.
            self.kill_again = Some(Instant::now() + KILL_AGAIN);
            return;
        };
        let denied = |sent: std::io::Result<bool>| {
            sent.is_err_and(|error| error.kind() == std::io::ErrorKind::PermissionDenied)
        };
        let living: Vec<&Stat> = tree.seen.iter().filter(|stat| !stat.is_dead()).collect();
        let immune = living
            .iter()
            .filter(|stat| denied(held::signal_seen(stat, Signal::SIGKILL)))
            .count()
            + tree
                .hidden
                .iter()
                .filter(|hidden| denied(hidden.signal(Signal::SIGKILL)))
                .count();
        let left = living.len() + tree.hidden.len();
        if immune > 0 && immune == left && self.ended.is_some() {
            // Set-uid programs: they are not ours to kill, and waiting for them would be waiting for ever.
            self.immune = immune;
            self.childless = true;
        }
    }

    fn serve(&mut self, asked: &Asked) {
        let answer = match &asked.request {
            Request::Start(_) => Answer::Refused(Refusal::new(
                RefusalCode::Claimed,
                "the command was started before",
            )),
            Request::Status => Answer::Status(self.status.clone()),
            Request::Subscribe => Answer::Greeting(Greeting {
                protocol: PROTOCOL,
                container: self.context.arguments.container.clone(),
                attempt: self.context.arguments.attempt,
                status: self.status.clone(),
            }),
            Request::Signal(number) => self.signal_group(*number),
            Request::Terminate { grace_ms, signal } => {
                self.terminate(signal.unwrap_or(SIGTERM), Duration::from_millis(*grace_ms))
            }
            Request::KillTree => {
                self.kill_tree();
                Answer::Done
            }
            Request::KillForMemory => {
                // What has ended by itself has another cause.
                self.out_of_memory |= self.ended.is_none();
                self.kill_tree();
                Answer::Done
            }
            Request::Usage { exact_above } => self.usage(*exact_above),
            Request::Exec(call) => return self.exec(asked, call),
            Request::Attach(call) => return self.attach(asked, *call),
        };
        self.control.answer(asked, answer);
    }

    fn usage(&self, exact_above: Option<u64>) -> Answer {
        if self.ended.is_some() {
            return ended();
        }
        let system = |message: String| Answer::Refused(Refusal::new(RefusalCode::System, message));
        let pass = match Pass::take() {
            Ok(pass) => pass,
            Err(error) => return system(format!("processes cannot be looked at: {error}")),
        };
        let main = self.engine.as_ref().and_then(|it| it.main_process());
        let told = pass
            .shim_at(std::process::id().cast_signed())
            .and_then(|shim| {
                let tree = pass.tree_with(shim, main);
                let usage = pass.usage_of(shim, tree.clone())?;
                let exact = exact_above.is_some_and(|bytes| usage.rss > bytes);
                let exact = exact.then(|| memory::exact(&tree, pass.page()));
                Some(Told { usage, exact })
            });
        told.map_or_else(
            || system("its processes are hidden".to_owned()),
            Answer::Usage,
        )
    }

    fn exec(&mut self, asked: &Asked, call: &ExecCall) {
        if let Some(connection) = self.take(asked) {
            self.execs.start(connection, asked.id, call);
        }
    }

    fn attach(&mut self, asked: &Asked, call: AttachCall) {
        if let Some(connection) = self.take(asked) {
            self.input.attach(connection, asked.id, call.stdin);
        }
    }

    /// The connection that carries streams from now on; none where the call was refused.
    fn take(&mut self, asked: &Asked) -> Option<Connection> {
        let Some(connection) = self.control.take(asked) else {
            let message = "streams take a connection of their own";
            let refusal = Refusal::new(RefusalCode::Invalid, message);
            self.control.answer(asked, Answer::Refused(refusal));
            return None;
        };
        if self.ended.is_some() || self.killing {
            exec::refuse(connection.stream, asked.id, ended());
            return None;
        }
        Some(connection)
    }

    /// The main process is not reaped yet, so its number is its own, and so is its group's.
    fn signal_group(&self, signal: i32) -> Answer {
        if self.ended.is_some() {
            return ended();
        }
        // By the number: a container may want a real-time signal, which has no name.
        match process::signal_group(self.main.as_raw(), signal) {
            Ok(()) => Answer::Done,
            Err(Errno::EINVAL) => Answer::Refused(Refusal::new(
                RefusalCode::Invalid,
                format!("{signal} is no signal"),
            )),
            Err(errno) => Answer::Refused(Refusal::new(RefusalCode::System, errno.desc())),
        }
    }

    fn terminate(&mut self, signal: i32, grace: Duration) -> Answer {
        let now = Instant::now();
        // A grace that no clock can hold is none at all.
        let wanted = now.checked_add(grace);
        let first = self.deadline.is_none();
        self.deadline = match (self.deadline, wanted) {
            (Some(before), Some(wanted)) => Some(before.min(wanted)),
            (before, wanted) => before
                .or(wanted)
                .or(now.checked_add(Duration::from_secs(u64::from(u32::MAX)))),
        };
        if first {
            self.told = Some(signal);
            let answer = self.signal_group(signal);
            // A stopped process would keep the signal for later.
            let _ = self.signal_group(Signal::SIGCONT as i32);
            if !matches!(answer, Answer::Done) {
                return answer;
            }
        }
        if grace.is_zero() {
            self.kill_tree();
        }
        Answer::Done
    }

    fn finish(mut self) {
        for source in [&mut self.stdout, &mut self.stderr] {
            source.drain(self.context, &mut self.sink, &mut self.buffer);
        }
        let Some((exit, finished_at)) = self.ended else {
            return;
        };
        if let Some(group) = self.execs.group() {
            self.out_of_memory |= group.ran_out_of_memory();
        }
        let mut message = self.sink.complaint();
        if self.immune > 0 {
            message = format!(
                "{} processes of another user could not be killed; {message}",
                self.immune
            );
        }
        let process = match &self.status {
            Status::Running { process, .. } => Some(process.clone()),
            _ => None,
        };
        let status = Status::Exited {
            exit,
            process,
            started_at: self.started_at,
            finished_at,
            out_of_memory: self.out_of_memory,
            message,
            report: {
                let killed = exit.signal.is_some();
                self.engine.take().and_then(|it| it.settle(killed))
            },
        };
        let mut ending = Ending {
            context: self.context,
            status,
            reserve: self.reserve.take(),
        };
        let mut written = ending.write();
        self.status = ending.status.clone();
        self.control.publish(&self.status);
        // As long as nobody else knows the exit code, this process is where it is kept.
        while written.is_err_and(|error| !is_removed(&error)) {
            self.serve_for(RETRY);
            written = ending.write();
        }
    }

    /// Answers clients for a while.
    fn serve_for(&mut self, pause: Duration) {
        let end = Instant::now() + pause;
        while let Some(left) = end.checked_duration_since(Instant::now()) {
            let ready: Vec<bool> = {
                let mut fds: Vec<PollFd<'_>> = self
                    .control
                    .descriptors()
                    .map(|fd| PollFd::new(fd, PollFlags::POLLIN))
                    .collect();
                let timeout = PollTimeout::try_from(left + Duration::from_millis(1))
                    .unwrap_or(PollTimeout::MAX);
                match poll(&mut fds, timeout) {
                    Ok(_) => fds.iter().map(|fd| fd.any().unwrap_or(true)).collect(),
                    Err(_) => return,
                }
            };
            for asked in self.control.ready(&ready) {
                self.serve(&asked);
            }
        }
    }
}

/// Whether the records have been removed: then nobody wants to know any more.
fn is_removed(error: &DirError) -> bool {
    matches!(error, DirError::Io { source, .. } if matches!(source.raw_os_error().map(Errno::from_raw), Some(Errno::ENOENT | Errno::ESTALE)))
}

/// The last status and the room for it.
struct Ending<'a> {
    context: &'a Context,
    status: Status,
    reserve: Option<Reserve>,
}

impl Ending<'_> {
    fn write(&mut self) -> Result<(), DirError> {
        let file = self.context.status_file(self.status.clone());
        if let Some(reserve) = self.reserve.take()
            && reserve.write_status(&self.context.records, &file).is_ok()
        {
            return Ok(());
        }
        claim::write_status(&self.context.records, &file, Durability::Power)
    }
}
