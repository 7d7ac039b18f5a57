//! Sends the requests of a scenario to a server.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use serde_json::Value;
use testkit::{Client, Request, Response};

use crate::script::{Scenario, Step};
use crate::{body, compare, normal};

/// How long a watch waits for its lines, and a request for its status.
const PATIENCE: Duration = Duration::from_secs(15);
/// Between two looks at a state that nothing announces.
const LOOK: Duration = Duration::from_millis(20);

/// A server under comparison.
#[derive(Debug, Clone)]
pub(crate) struct Server {
    admin: Client,
    anonymous: Client,
}

impl Server {
    pub(crate) fn new(kubeconfig: &Path) -> Result<Self> {
        Ok(Self {
            admin: Client::new(kubeconfig)?,
            anonymous: Client::anonymous(kubeconfig)?,
        })
    }

    /// Sends one request after the other; gives an answer for each of them.
    ///
    /// # Errors
    /// Where the scenario's own set-up fails; a request that cannot be answered is an answer too.
    pub(crate) async fn play(&self, scenario: &Scenario, namespace: &str) -> Result<Vec<Value>> {
        self.prepare(namespace).await?;
        let mut known = vec![("ns".to_owned(), namespace.to_owned())];
        let mut answers = Vec::new();
        for step in &scenario.steps {
            let mut answer = match self.send(step, scenario, &known).await {
                Ok(response) => {
                    for (name, at) in &step.captures {
                        if let Some(value) = normal::capture(&response, at) {
                            known.retain(|(other, _)| other != name);
                            known.push((name.clone(), value));
                        }
                    }
                    normal::answer(&response, &known)
                }
                Err(error) => serde_json::json!({"status": format!("{error:#}")}),
            };
            compare::select(&mut answer, &step.only, &step.ignore);
            answers.push(answer);
        }
        Ok(answers)
    }

    /// A namespace, with the service account that pods need: no controller makes it.
    async fn prepare(&self, namespace: &str) -> Result<()> {
        for (path, kind, name) in [
            ("/api/v1/namespaces".to_owned(), "Namespace", namespace),
            (
                format!("/api/v1/namespaces/{namespace}/serviceaccounts"),
                "ServiceAccount",
                "default",
            ),
        ] {
            let object =
                serde_json::json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": name}});
            let request = Request {
                method: "POST".to_owned(),
                path,
                headers: vec![("content-type".to_owned(), "application/json".to_owned())],
                body: object.to_string().into(),
            };
            let response = self.admin.send(&request).await?;
            let text = String::from_utf8_lossy(&response.body);
            ensure!(
                matches!(response.status, 201 | 409),
                "{kind} {namespace}: {} {text}",
                response.status
            );
        }
        Ok(())
    }

    async fn send(
        &self,
        step: &Step,
        scenario: &Scenario,
        known: &[(String, String)],
    ) -> Result<Response> {
        let client = if step.anonymous {
            &self.anonymous
        } else {
            &self.admin
        };
        let (bytes, content_type) = body::encode(&fill(&step.body, known), &scenario.lets)?;
        let mut headers: Vec<_> = step
            .headers
            .iter()
            .map(|(name, value)| (name.to_lowercase(), fill(value, known)))
            .collect();
        if let Some(kind) = content_type
            && headers.iter().all(|(name, _)| name != "content-type")
        {
            headers.push(("content-type".to_owned(), kind.to_owned()));
        }
        headers.retain(|(name, value)| !(name == "content-type" && value == "none"));
        let request = Request {
            method: step.method.clone(),
            path: fill(&path(&step.path), known),
            headers,
            body: Bytes::from(bytes),
        };
        let start = Instant::now();
        loop {
            let sent = async {
                match step.lines {
                    Some(lines) => client.lines(&request, lines, PATIENCE).await,
                    None => client.send(&request).await,
                }
            };
            let response = tokio::time::timeout(PATIENCE * 2, sent)
                .await
                .context("no end of the answer")??;
            if step.until.is_none_or(|status| status == response.status)
                || start.elapsed() > PATIENCE
            {
                return Ok(response);
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

/// `v1:pods/x` is a path in the scenario's namespace.
fn path(written: &str) -> String {
    let version = written
        .split_once(':')
        .filter(|_| !written.starts_with('/'));
    match version {
        None => written.to_owned(),
        Some((version, rest)) if version.contains('/') => {
            format!("/apis/{version}/namespaces/$ns/{rest}")
        }
        Some((version, rest)) => format!("/api/{version}/namespaces/$ns/{rest}"),
    }
}

/// Puts values in the places of `$name`.
fn fill(text: &str, known: &[(String, String)]) -> String {
    let mut out = text.to_owned();
    // The longer name first: $uid2 begins with $uid.
    let mut known: Vec<_> = known.iter().collect();
    known.sort_by_key(|(name, _)| std::cmp::Reverse(name.len()));
    for (name, value) in known {
        out = out.replace(&format!("${name}"), value);
    }
    out
}
