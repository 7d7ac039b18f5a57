//! Probes and lifecycle hooks.

use serde_json::Value;

use super::Context;
use crate::validation::names;
use crate::validation::report::{Path, Report, list, member, number, text};

pub(super) fn probe(
    report: &mut Report,
    field: &str,
    probe: &Value,
    context: &Context<'_>,
    path: &Path<'_>,
) {
    handler(
        report,
        probe,
        &["exec", "httpGet", "tcpSocket", "grpc"],
        context,
        path,
    );
    for number_field in [
        "initialDelaySeconds",
        "timeoutSeconds",
        "periodSeconds",
        "successThreshold",
        "failureThreshold",
    ] {
        report.not_negative(&path.child(number_field), number(probe, number_field));
    }
    let grace = number(probe, "terminationGracePeriodSeconds");
    if let Some(grace) = grace.filter(|grace| *grace <= 0) {
        report.invalid(
            &path.child("terminationGracePeriodSeconds"),
            grace,
            "must be greater than 0",
        );
    }
    if field == "readinessProbe" {
        if let Some(grace) = grace {
            report.invalid(
                &path.child("terminationGracePeriodSeconds"),
                grace,
                "must not be set for readinessProbes",
            );
        }
    } else {
        let threshold = number(probe, "successThreshold").unwrap_or(0);
        if threshold != 1 {
            report.invalid(&path.child("successThreshold"), threshold, "must be 1");
        }
    }
}

pub(super) fn lifecycle(
    report: &mut Report,
    lifecycle: &Value,
    context: &Context<'_>,
    path: &Path<'_>,
) {
    for hook in ["postStart", "preStop"] {
        if let Some(action) = member(lifecycle, hook) {
            handler(
                report,
                action,
                &["exec", "httpGet", "tcpSocket", "sleep"],
                context,
                &path.child(hook),
            );
        }
    }
    if member(lifecycle, "stopSignal").is_some() && context.os.is_empty() {
        report.forbidden(
            &path.child("stopSignal"),
            "may not be set for containers with empty `spec.os.name`",
        );
    }
}

fn handler(
    report: &mut Report,
    handler: &Value,
    kinds: &[&str],
    context: &Context<'_>,
    path: &Path<'_>,
) {
    let mut found = false;
    for kind in kinds {
        let Some(action) = member(handler, kind) else {
            continue;
        };
        let path = path.child(kind);
        if found {
            report.forbidden(&path, "may not specify more than 1 handler type");
            continue;
        }
        found = true;
        match *kind {
            "exec" => {
                if list(action, "command").is_empty() {
                    report.required(&path.child("command"), "");
                }
            }
            "httpGet" => http_get(report, action, &path),
            "tcpSocket" | "grpc" => port(report, action, &path.child("port")),
            _ => sleep(report, action, context, &path),
        }
    }
    if !found {
        report.required(path, "must specify a handler type");
    }
}

fn http_get(report: &mut Report, action: &Value, path: &Path<'_>) {
    if text(action, "path").is_empty() {
        report.required(&path.child("path"), "");
    }
    port(report, action, &path.child("port"));
    report.one_of(
        &path.child("scheme"),
        text(action, "scheme"),
        &["HTTP", "HTTPS"],
    );
    for header in list(action, "httpHeaders") {
        let name = text(header, "name");
        report.problems(&path.child("httpHeaders"), name, names::http_header(name));
    }
}

/// A port given by its number or name.
fn port(report: &mut Report, action: &Value, path: &Path<'_>) {
    match action.get("port") {
        Some(Value::String(name)) => report.problems(path, name, names::port_name(name)),
        other => {
            let number = other.and_then(Value::as_i64).unwrap_or(0);
            for problem in names::port_number(number) {
                report.invalid(path, number, problem);
            }
        }
    }
}

fn sleep(report: &mut Report, action: &Value, context: &Context<'_>, path: &Path<'_>) {
    let seconds = number(action, "seconds").unwrap_or(0);
    if let Some(grace) = context.grace
        && (seconds < 0 || seconds > grace)
    {
        report.invalid(
            path,
            seconds,
            format!("must be non-negative and less than terminationGracePeriodSeconds ({grace})"),
        );
    }
}
