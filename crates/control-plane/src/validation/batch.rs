//! Group `batch`: jobs, and the schedules that make them.

use serde_json::{Value, json};

use super::report::{Path, Report, flag, member, number, text};
use super::workloads::{immutable, mismatch, spec_of, template_labels};
use super::{meta, names, pod};

const NULL: Value = Value::Null;

pub(super) fn job(report: &mut Report, object: &Value) {
    let path = Path::root("spec");
    let spec = spec_of(object);
    job_spec(report, spec, &path);
    let selector_path = path.child("selector");
    match member(spec, "selector") {
        None => report.required(&selector_path, ""),
        Some(selector) => meta::label_selector(report, selector, &selector_path),
    }
    if !meta::selects(member(spec, "selector"), template_labels(spec)) {
        mismatch(report, spec, &path);
    }
    let completions = number(spec, "completions").unwrap_or(0);
    if text(spec, "completionMode") == "Indexed" && completions > 0 {
        let name = object.get("metadata").map_or("", |meta| text(meta, "name"));
        let longest = format!("{name}-{}", completions - 1);
        if !names::dns1123_label(&longest).is_empty() {
            let metadata = Path::root("metadata");
            report.invalid(
                &metadata.child("name"),
                name,
                format!("will not able to create pod with invalid DNS label: {longest}"),
            );
        }
    }
}

/// A selector that was generated chooses the pods of its own job.
pub(super) fn generated_selector(report: &mut Report, object: &Value) {
    let spec = spec_of(object);
    let Some(selector) = member(spec, "selector").filter(|_| !flag(spec, "manualSelector")) else {
        return;
    };
    let meta_of = |key: &str| object.get("metadata").map_or("", |meta| text(meta, key));
    let (name, uid) = (meta_of("name"), meta_of("uid"));
    let expected = json!({
        "job-name": name,
        "batch.kubernetes.io/job-name": name,
        "controller-uid": uid,
        "batch.kubernetes.io/controller-uid": uid,
    });
    if meta::is_selector(selector) && !meta::selects(Some(selector), Some(&expected)) {
        let path = Path::root("spec");
        report.invalid(
            &path.child("selector"),
            selector.clone(),
            "`selector` not auto-generated",
        );
    }
}

pub(super) fn job_update(report: &mut Report, object: &Value, old: &Value) {
    let mut fields = vec![
        "selector",
        "template",
        "completionMode",
        "podFailurePolicy",
        "backoffLimitPerIndex",
        "managedBy",
        "successPolicy",
    ];
    let (spec, before) = (spec_of(object), spec_of(old));
    let completions = number(spec, "completions");
    if text(spec, "completionMode") != "Indexed" {
        fields.insert(0, "completions");
    } else if completions != number(before, "completions")
        && completions != number(spec, "parallelism")
    {
        report.invalid(
            &Path::root("spec").child("completions"),
            completions,
            "can only be modified in tandem with spec.parallelism",
        );
    }
    // A job that has not started may still be placed elsewhere.
    let suspended =
        flag(before, "suspend") && old.pointer("/status/startTime").is_none_or(Value::is_null);
    if suspended {
        fields.retain(|field| *field != "template");
    }
    immutable(report, object, old, &fields);
}

fn job_spec(report: &mut Report, spec: &Value, path: &Path<'_>) {
    for field in [
        "parallelism",
        "completions",
        "activeDeadlineSeconds",
        "backoffLimit",
        "ttlSecondsAfterFinished",
        "backoffLimitPerIndex",
        "maxFailedIndexes",
    ] {
        report.not_negative(&path.child(field), number(spec, field));
    }
    if let Some(mode) = member(spec, "completionMode").and_then(Value::as_str) {
        let path = path.child("completionMode");
        if !matches!(mode, "NonIndexed" | "Indexed") {
            report.not_supported(&path, mode, &["NonIndexed", "Indexed"]);
        }
        if mode == "Indexed" && number(spec, "completions").is_none() {
            report.required(&path, "when completion mode is Indexed");
        }
    }
    let template_path = path.child("template");
    let template = spec.get("template").unwrap_or(&NULL);
    pod::template(report, template, &template_path);
    let pod_path = template_path.child("spec");
    let policy_path = pod_path.child("restartPolicy");
    match text(spec_of(template), "restartPolicy") {
        "" | "Always" => report.required(&policy_path, "valid values: \"OnFailure\", \"Never\""),
        "OnFailure" if member(spec, "podFailurePolicy").is_some() => report.invalid(
            &policy_path,
            "OnFailure",
            "only \"Never\" is supported when podFailurePolicy is specified",
        ),
        "OnFailure" | "Never" => {}
        other => report.not_supported(&policy_path, other, &["OnFailure", "Never"]),
    }
}

pub(super) fn cron_job(report: &mut Report, object: &Value) {
    let path = Path::root("spec");
    let spec = spec_of(object);
    let schedule = text(spec, "schedule");
    if schedule.is_empty() {
        report.required(&path.child("schedule"), "");
    } else if let Some(problem) = schedule_problem(schedule) {
        report.invalid(&path.child("schedule"), schedule, problem);
    }
    if schedule.contains("TZ") {
        report.invalid(
            &path.child("schedule"),
            schedule,
            "cannot use TZ or CRON_TZ in schedule, use timeZone field instead",
        );
    }
    report.not_negative(
        &path.child("startingDeadlineSeconds"),
        number(spec, "startingDeadlineSeconds"),
    );
    let policy = path.child("concurrencyPolicy");
    match text(spec, "concurrencyPolicy") {
        "Allow" | "Forbid" | "Replace" => {}
        "" => report.required(&policy, ""),
        other => report.not_supported(&policy, other, &["Allow", "Forbid", "Replace"]),
    }
    let template = spec.get("jobTemplate").unwrap_or(&NULL);
    let template_path = path.child("jobTemplate");
    let job_path = template_path.child("spec");
    job_spec(report, spec_of(template), &job_path);
    if let Some(selector) = member(spec_of(template), "selector") {
        report.invalid(
            &job_path.child("selector"),
            selector.clone(),
            "`selector` will be auto-generated",
        );
    }
    if flag(spec_of(template), "manualSelector") {
        report.not_supported(&job_path.child("manualSelector"), true, &["nil", "false"]);
    }
    for field in ["successfulJobsHistoryLimit", "failedJobsHistoryLimit"] {
        report.not_negative(&path.child(field), number(spec, field));
    }
    let name = object.get("metadata").map_or("", |meta| text(meta, "name"));
    if name.len() > 52 {
        let metadata = Path::root("metadata");
        report.invalid(
            &metadata.child("name"),
            name,
            "must be no more than 52 characters",
        );
    }
}

/// What is wrong with a schedule in the notation of cron. The five fields are counted; what
/// stands in them is read by the controller.
fn schedule_problem(schedule: &str) -> Option<String> {
    if schedule.starts_with('@') {
        let known = [
            "@yearly",
            "@annually",
            "@monthly",
            "@weekly",
            "@daily",
            "@midnight",
            "@hourly",
        ];
        let good = known.contains(&schedule) || schedule.starts_with("@every ");
        return (!good).then(|| format!("unrecognized descriptor: {schedule}"));
    }
    let plain = match schedule.split_once(' ') {
        Some((zone, rest)) if zone.starts_with("TZ=") || zone.starts_with("CRON_TZ=") => rest,
        _ => schedule,
    };
    let fields: Vec<&str> = plain.split_whitespace().collect();
    (fields.len() != 5).then(|| {
        format!(
            "expected exactly 5 fields, found {}: [{}]",
            fields.len(),
            fields.join(" ")
        )
    })
}
