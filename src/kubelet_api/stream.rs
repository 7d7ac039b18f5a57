//! `/exec` and `/attach`: a container's streams for a client ([`super::channel`]).
//!
//! A client that goes away ends what it runs.

use serde_json::{Value, json};

use super::channel::{FromClient, STDERR, STDOUT, Said, ToClient, Upgrade};
use crate::container::{
    AttemptDir, Exit, Handle,
    launch::{ExecError, ExecEvent, ExecInput, ExecOutput, ExecStream},
    log::{ReadOptions, Reader, Stream},
    protocol::{AttachCall, ExecCall, TerminalSize},
};

/// What the query asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Options {
    pub(super) command: Vec<String>,
    pub(super) input: bool,
    pub(super) output: bool,
    pub(super) error: bool,
    pub(super) tty: bool,
}

impl Options {
    /// Whether the client has something to say: input, or sizes of its terminal.
    pub(super) fn speaks(&self) -> bool {
        self.input || self.tty
    }

    /// What a shim is asked for.
    pub(super) fn attach_call(&self) -> AttachCall {
        AttachCall { stdin: self.input }
    }

    /// Reads the query; none where it asks for no stream at all.
    pub(super) fn parse(query: &str) -> Option<Self> {
        let mut options = Self::default();
        for (key, value) in form_urlencoded::parse(query.as_bytes()) {
            let set = matches!(value.as_ref(), "1" | "true");
            match key.as_ref() {
                "command" => options.command.push(value.into_owned()),
                "input" => options.input = set,
                "output" => options.output = set,
                "error" => options.error = set,
                "tty" => options.tty = set,
                _ => {}
            }
        }
        (options.input || options.output || options.error).then_some(options)
    }
}

/// Runs a command for a client.
pub(super) async fn exec(upgrade: Upgrade, handle: Handle, options: Options) {
    let Some((mut to_client, mut from_client)) = upgrade.client(&options).await else {
        return;
    };
    let terminal = options.tty.then_some(TerminalSize {
        columns: 80,
        rows: 24,
    });
    let call = ExecCall {
        argv: options.command.clone(),
        stdin: options.input,
        terminal,
        timeout_ms: None,
    };
    let stream = match handle.exec_stream(call).await {
        Ok(stream) => stream,
        Err(error) => return to_client.end(from_client, &not_run(&error)).await,
    };
    let mut output = stream.output;
    // What is lost where one of the two ends first is nobody's any more.
    let status = tokio::select! {
        status = forward(&mut output, &mut to_client, &options) => status,
        () = feed(&mut from_client, stream.input) => None,
    };
    if let Some(status) = status {
        to_client.end(from_client, &status).await;
    }
}

/// What a container writes from now on.
pub(super) struct Output {
    stdout: Reader,
    stderr: Reader,
}

impl Output {
    /// Begins at the end of what there is.
    pub(super) async fn open(attempt: &AttemptDir) -> std::io::Result<Self> {
        let read = |stream| ReadOptions {
            follow: true,
            tail: Some(0),
            stream: Some(stream),
            ..ReadOptions::default()
        };
        Ok(Self {
            stdout: Reader::open(attempt, read(Stream::Stdout)).await?,
            stderr: Reader::open(attempt, read(Stream::Stderr)).await?,
        })
    }

    /// Sends it until the container ends; none where the client went before.
    async fn forward(mut self, to_client: &mut ToClient, options: &Options) -> Option<Value> {
        let (mut out, mut err) = (options.output, options.error);
        while out || err {
            let (channel, piece) = tokio::select! {
                // Cancel-safe per docs on `next`.
                piece = self.stdout.next(), if out => (STDOUT, piece),
                piece = self.stderr.next(), if err => (STDERR, piece),
            };
            match piece {
                Ok(Some(piece)) => to_client.send(channel, &piece).await.ok()?,
                Ok(None) | Err(_) if channel == STDOUT => out = false,
                Ok(None) | Err(_) => err = false,
            }
        }
        Some(json!({"metadata": {}, "status": "Success"}))
    }
}

/// Shows a client what a container writes, and gives the container what the client sends.
pub(super) async fn attach(
    upgrade: Upgrade,
    output: Output,
    input: Option<ExecStream>,
    options: Options,
) {
    let Some((mut to_client, mut from_client)) = upgrade.client(&options).await else {
        return;
    };
    // The other half is held as long as the client is there: with it goes the connection.
    let (input, _held) = input.map(|it| (it.input, it.output)).unzip();
    let client = async {
        match input {
            Some(input) => feed(&mut from_client, input).await,
            None => while from_client.next().await.is_some() {},
        }
    };
    let status = tokio::select! {
        status = output.forward(&mut to_client, &options) => status,
        () = client => None,
    };
    if let Some(status) = status {
        to_client.end(from_client, &status).await;
    }
}

/// Output to the client; the last word where there is one.
async fn forward(
    output: &mut ExecOutput,
    to_client: &mut ToClient,
    options: &Options,
) -> Option<Value> {
    loop {
        let (channel, piece) = match output.next().await {
            Ok(ExecEvent::Stdout(piece)) if options.output => (STDOUT, piece),
            Ok(ExecEvent::Stderr(piece)) if options.error => (STDERR, piece),
            Ok(ExecEvent::Stdout(_) | ExecEvent::Stderr(_)) => continue,
            Ok(ExecEvent::Ended { exit, .. }) => return Some(ended(exit)),
            Err(error) => return Some(not_run(&error)),
        };
        to_client.send(channel, &piece).await.ok()?;
    }
}

/// What a client says to the command; returns when the client is gone.
async fn feed(from_client: &mut FromClient, mut input: ExecInput) {
    while let Some(said) = from_client.next().await {
        let taken = match said {
            Said::Input(data) => input.write(&data).await,
            Said::InputEnd => input.finish().await,
            Said::Size(size) => input.resize(size).await,
        };
        if taken.is_err() {
            // The command has ended, and its last word is on the way.
            return std::future::pending().await;
        }
    }
}

fn ended(exit: Exit) -> Value {
    let code = exit.code;
    if code == 0 {
        return json!({"metadata": {}, "status": "Success"});
    }
    json!({
        "metadata": {},
        "status": "Failure",
        "reason": "NonZeroExitCode",
        "message": format!("command terminated with non-zero exit code: exit status {code}"),
        "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
    })
}

fn not_run(error: &ExecError) -> Value {
    let why = crate::pod::api::chain(error);
    json!({
        "metadata": {},
        "status": "Failure",
        "reason": "InternalError",
        "message": format!("Internal error occurred: error executing command in container: {why}"),
        "details": {"causes": [{"message": format!("error executing command in container: {why}")}]},
        "code": 500,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_query_names_streams_and_words() {
        let query = "command=sh&command=-c&command=echo+a%26b&input=1&output=1&tty=1";
        let options = Options::parse(query).expect("streams");
        assert_eq!(options.command, ["sh", "-c", "echo a&b"]);
        assert!(options.input && options.output && options.tty && !options.error);
        assert_eq!(Options::parse("command=sh&output=0"), None);
    }

    #[test]
    fn the_last_word_is_a_status_that_kubectl_reads() {
        let exit = |code| Exit { code, signal: None };
        assert_eq!(ended(exit(0))["status"], "Success");
        let failed = ended(exit(7));
        assert_eq!(failed["details"]["causes"][0]["message"], "7");
        assert_eq!(failed["reason"], "NonZeroExitCode");
        assert_eq!(not_run(&ExecError::Ended)["reason"], "InternalError");
    }
}
