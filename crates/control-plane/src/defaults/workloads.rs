//! Groups `apps`, `batch` and `autoscaling`.

use serde_json::{Value, json};

use super::edit::{
    Object, child, child_or_new, empty, items, missing, set_missing, set_text, text,
};
use super::pod;

pub(super) fn apply(version: &str, kind: &str, object: &mut Object) {
    match kind {
        "Deployment" | "ReplicaSet" | "StatefulSet" | "DaemonSet" => {
            let Some(spec) = child_or_new(object, "spec") else {
                return;
            };
            if let Some(template) = child(spec, "template") {
                pod::template(template);
            }
            match kind {
                "Deployment" => deployment(spec),
                "ReplicaSet" => set_missing(spec, "replicas", 1),
                "StatefulSet" => stateful_set(spec),
                _ => daemon_set(spec),
            }
        }
        "Job" => {
            let labels = object
                .get("spec")
                .and_then(|spec| spec.pointer("/template/metadata/labels"))
                .filter(|labels| labels.is_object())
                .cloned();
            if let Some(spec) = child_or_new(object, "spec") {
                job(spec);
            }
            if let Some(labels) = labels
                && let Some(metadata) = child_or_new(object, "metadata")
                && empty(metadata, "labels")
            {
                metadata.insert("labels".to_owned(), labels);
            }
        }
        "CronJob" => {
            if let Some(spec) = child_or_new(object, "spec") {
                cron_job(spec);
            }
        }
        "HorizontalPodAutoscaler" => {
            if let Some(spec) = child_or_new(object, "spec") {
                autoscaler(version, spec);
            }
        }
        _ => {}
    }
}

fn deployment(spec: &mut Object) {
    set_missing(spec, "replicas", 1);
    set_missing(spec, "revisionHistoryLimit", 10);
    set_missing(spec, "progressDeadlineSeconds", 600);
    if let Some(strategy) = child_or_new(spec, "strategy") {
        set_text(strategy, "type", "RollingUpdate");
        if text(strategy, "type") == "RollingUpdate"
            && let Some(rolling) = child_or_new(strategy, "rollingUpdate")
        {
            set_missing(rolling, "maxUnavailable", "25%");
            set_missing(rolling, "maxSurge", "25%");
        }
    }
}

fn daemon_set(spec: &mut Object) {
    set_missing(spec, "revisionHistoryLimit", 10);
    if let Some(strategy) = child_or_new(spec, "updateStrategy") {
        set_text(strategy, "type", "RollingUpdate");
        if text(strategy, "type") == "RollingUpdate"
            && let Some(rolling) = child_or_new(strategy, "rollingUpdate")
        {
            set_missing(rolling, "maxUnavailable", 1);
            set_missing(rolling, "maxSurge", 0);
        }
    }
}

fn stateful_set(spec: &mut Object) {
    set_missing(spec, "replicas", 1);
    set_missing(spec, "revisionHistoryLimit", 10);
    set_text(spec, "podManagementPolicy", "OrderedReady");
    if let Some(strategy) = child_or_new(spec, "updateStrategy") {
        if empty(strategy, "type") {
            set_text(strategy, "type", "RollingUpdate");
            child_or_new(strategy, "rollingUpdate");
        }
        if text(strategy, "type") == "RollingUpdate"
            && let Some(rolling) = child(strategy, "rollingUpdate")
        {
            set_missing(rolling, "partition", 0);
        }
    }
    if let Some(policy) = child_or_new(spec, "persistentVolumeClaimRetentionPolicy") {
        set_text(policy, "whenDeleted", "Retain");
        set_text(policy, "whenScaled", "Retain");
    }
    for claim in items(spec, "volumeClaimTemplates") {
        set_text(claim, "apiVersion", "v1");
        set_text(claim, "kind", "PersistentVolumeClaim");
        if let Some(spec) = child_or_new(claim, "spec") {
            set_missing(spec, "volumeMode", "Filesystem");
        }
        if let Some(status) = child_or_new(claim, "status") {
            set_text(status, "phase", "Pending");
        }
    }
}

fn job(spec: &mut Object) {
    if let Some(template) = child(spec, "template") {
        pod::template(template);
    }
    if missing(spec, "completions") && missing(spec, "parallelism") {
        spec.insert("completions".to_owned(), 1.into());
    }
    set_missing(spec, "parallelism", 1);
    let limit = if missing(spec, "backoffLimitPerIndex") {
        6
    } else {
        i32::MAX
    };
    set_missing(spec, "backoffLimit", limit);
    set_missing(spec, "completionMode", "NonIndexed");
    set_missing(spec, "suspend", false);
    let replacement = if missing(spec, "podFailurePolicy") {
        "TerminatingOrFailed"
    } else {
        "Failed"
    };
    set_missing(spec, "podReplacementPolicy", replacement);
    set_missing(spec, "manualSelector", false);
    if let Some(policy) = child(spec, "podFailurePolicy") {
        for rule in items(policy, "rules") {
            for pattern in items(rule, "onPodConditions") {
                set_text(pattern, "status", "True");
            }
        }
    }
}

fn cron_job(spec: &mut Object) {
    set_text(spec, "concurrencyPolicy", "Allow");
    set_missing(spec, "suspend", false);
    set_missing(spec, "successfulJobsHistoryLimit", 3);
    set_missing(spec, "failedJobsHistoryLimit", 1);
    // A job template is only given the defaults of its pods: the jobs made of it get their own.
    if let Some(job) = child(spec, "jobTemplate")
        && let Some(spec) = child(job, "spec")
    {
        if let Some(template) = child(spec, "template") {
            pod::template(template);
        }
        if let Some(policy) = child(spec, "podFailurePolicy") {
            for rule in items(policy, "rules") {
                for pattern in items(rule, "onPodConditions") {
                    set_text(pattern, "status", "True");
                }
            }
        }
    }
}

fn autoscaler(version: &str, spec: &mut Object) {
    set_missing(spec, "minReplicas", 1);
    if version == "v1" {
        set_missing(spec, "targetCPUUtilizationPercentage", 80);
        return;
    }
    if empty(spec, "metrics") {
        spec.insert(
            "metrics".to_owned(),
            json!([{"type": "Resource", "resource": {"name": "cpu",
                "target": {"type": "Utilization", "averageUtilization": 80}}}]),
        );
    }
    let Some(behavior) = child(spec, "behavior") else {
        return;
    };
    let policies = |pairs: &[(&str, i64)]| -> Value {
        pairs
            .iter()
            .map(|(kind, value)| json!({"type": kind, "value": value, "periodSeconds": 15}))
            .collect()
    };
    if let Some(up) = child_or_new(behavior, "scaleUp") {
        set_missing(up, "selectPolicy", "Max");
        set_missing(up, "stabilizationWindowSeconds", 0);
        if missing(up, "policies") {
            up.insert(
                "policies".to_owned(),
                policies(&[("Pods", 4), ("Percent", 100)]),
            );
        }
    }
    if let Some(down) = child_or_new(behavior, "scaleDown") {
        set_missing(down, "selectPolicy", "Max");
        if missing(down, "policies") {
            down.insert("policies".to_owned(), policies(&[("Percent", 100)]));
        }
    }
}
