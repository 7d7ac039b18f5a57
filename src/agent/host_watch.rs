//! Tells the node's status and events how the hostpipe does.

use jiff::Timestamp;

use crate::{
    events::{Event, Recorder, Subject},
    hostpipe::{Client, State},
    node::{Board, Condition},
};

/// The type of the node condition.
const CONDITION: &str = "HostpipeReady";

/// Follows the state of the pipe; ends when a reader has answered that differs from the one that `client` knew when
/// this was called. Without a pipe it never ends.
pub(super) async fn follow(client: Option<Client>, board: Board, node: String, recorder: Recorder) {
    let Some(client) = client else {
        return std::future::pending().await;
    };
    let known = client.facts();
    let mut states = client.state();
    loop {
        let state = states.borrow_and_update().clone();
        if let State::Answered(facts) = &state
            && known.as_ref() != Some(facts)
        {
            return;
        }
        if let Some((condition, event)) = told(&state) {
            let warning = !condition.status;
            let message = condition.message.clone();
            board.set(CONDITION, condition);
            if warning {
                let subject = Subject {
                    kind: "Node",
                    namespace: String::new(),
                    name: node.clone(),
                    // As a kubelet does.
                    uid: node.clone(),
                    field: None,
                };
                let event = Event {
                    subject,
                    warning,
                    reason: event.into(),
                    message,
                };
                recorder.publish(event, Timestamp::now());
            }
        }
        if states.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
}

/// The condition and the event's reason of a state; `None` while nothing is known.
fn told(state: &State) -> Option<(Condition, &'static str)> {
    let (status, reason, message) = match state {
        State::Unknown => return None,
        State::Answered(facts) => {
            let message = format!(
                "user {} on {} reads the hostpipe, {} there",
                facts.uid,
                facts.host,
                facts.dir.display()
            );
            (true, "HostAnswers", message)
        }
        State::NoReader(message) => (false, "HostpipeNoReader", message.clone()),
        State::Silent(message) => (false, "HostpipeBusy", message.clone()),
    };
    let condition = Condition {
        status,
        reason: reason.to_owned(),
        message,
    };
    Some((condition, reason))
}
