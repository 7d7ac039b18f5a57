//! Controllers of pods, and what goes with them.

use jiff::Timestamp;
use serde_json::Value;

use super::format::{
    NONE, UNKNOWN, UNSET, age, condition_is_true, containers, count, human_duration, items,
    label_selector, labels, name, number, number_or_text, optional_truth, since, text, text_or,
    timestamp,
};
use super::{AGE, Column, Columns, NAME, boolean, integer, string, wide};

const CONTAINERS: Column = wide("Containers", "The names of the containers");
const IMAGES: Column = wide("Images", "The images of the containers");
const SELECTOR: Column = wide("Selector", "The labels that select the pods");
const DESIRED: Column = integer("Desired", "How many pods there should be");
const CURRENT: Column = integer("Current", "How many pods there are");
const READY: Column = integer("Ready", "How many pods are ready");

pub(in crate::resource) static DEPLOYMENTS: Columns = Columns {
    definitions: &[
        NAME,
        string("Ready", "How many pods are ready, of how many desired"),
        string("Up-to-date", "How many pods have the newest template"),
        string("Available", "How many pods have been ready for long enough"),
        AGE,
        CONTAINERS,
        IMAGES,
        SELECTOR,
    ],
    cells: |object, now| {
        let status = &object["status"];
        let (names, images) = containers(&object["spec"]["template"]);
        vec![
            name(object),
            ready_of_desired(object),
            number(&status["updatedReplicas"]).into(),
            number(&status["availableReplicas"]).into(),
            age(object, now),
            names,
            images,
            label_selector(&object["spec"]["selector"]).into(),
        ]
    },
};

fn ready_of_desired(object: &Value) -> Value {
    let ready = number(&object["status"]["readyReplicas"]);
    let desired = number(&object["spec"]["replicas"]);
    format!("{ready}/{desired}").into()
}

fn replica_cells(object: &Value, now: Timestamp, selector: String) -> Vec<Value> {
    let status = &object["status"];
    let (names, images) = containers(&object["spec"]["template"]);
    vec![
        name(object),
        number(&object["spec"]["replicas"]).into(),
        number(&status["replicas"]).into(),
        number(&status["readyReplicas"]).into(),
        age(object, now),
        names,
        images,
        selector.into(),
    ]
}

const REPLICA_COLUMNS: &[Column] = &[
    NAME, DESIRED, CURRENT, READY, AGE, CONTAINERS, IMAGES, SELECTOR,
];

pub(in crate::resource) static REPLICA_SETS: Columns = Columns {
    definitions: REPLICA_COLUMNS,
    cells: |object, now| replica_cells(object, now, label_selector(&object["spec"]["selector"])),
};

pub(in crate::resource) static REPLICATION_CONTROLLERS: Columns = Columns {
    definitions: REPLICA_COLUMNS,
    cells: |object, now| replica_cells(object, now, labels(&object["spec"]["selector"])),
};

pub(in crate::resource) static STATEFUL_SETS: Columns = Columns {
    definitions: &[
        NAME,
        string("Ready", "How many pods are ready, of how many desired"),
        AGE,
        CONTAINERS,
        IMAGES,
    ],
    cells: |object, now| {
        let (names, images) = containers(&object["spec"]["template"]);
        vec![
            name(object),
            ready_of_desired(object),
            age(object, now),
            names,
            images,
        ]
    },
};

pub(in crate::resource) static DAEMON_SETS: Columns = Columns {
    definitions: &[
        NAME,
        DESIRED,
        CURRENT,
        READY,
        integer("Up-to-date", "How many pods have the newest template"),
        integer("Available", "How many pods have been ready for long enough"),
        string("Node Selector", "The labels of the nodes that get a pod"),
        AGE,
        CONTAINERS,
        IMAGES,
        SELECTOR,
    ],
    cells: |object, now| {
        let (spec, status) = (&object["spec"], &object["status"]);
        let (names, images) = containers(&spec["template"]);
        vec![
            name(object),
            number(&status["desiredNumberScheduled"]).into(),
            number(&status["currentNumberScheduled"]).into(),
            number(&status["numberReady"]).into(),
            number(&status["updatedNumberScheduled"]).into(),
            number(&status["numberAvailable"]).into(),
            labels(&spec["template"]["spec"]["nodeSelector"]).into(),
            age(object, now),
            names,
            images,
            label_selector(&spec["selector"]).into(),
        ]
    },
};

pub(in crate::resource) static JOBS: Columns = Columns {
    definitions: &[
        NAME,
        string("Status", "What the job does, or how it ended"),
        string("Completions", "How many pods succeeded, of how many wanted"),
        string("Duration", "How long the job runs, or ran"),
        AGE,
        CONTAINERS,
        IMAGES,
        SELECTOR,
    ],
    cells: |object, now| {
        let (names, images) = containers(&object["spec"]["template"]);
        vec![
            name(object),
            job_status(object).into(),
            completions(object).into(),
            job_duration(&object["status"], now).into(),
            age(object, now),
            names,
            images,
            label_selector(&object["spec"]["selector"]).into(),
        ]
    },
};

fn job_status(job: &Value) -> &'static str {
    let has = |kind| condition_is_true(&job["status"]["conditions"], kind);
    if has("Complete") {
        "Complete"
    } else if has("Failed") {
        "Failed"
    } else if job["metadata"]["deletionTimestamp"].is_string() {
        "Terminating"
    } else if has("Suspended") {
        "Suspended"
    } else if has("FailureTarget") {
        "FailureTarget"
    } else if has("SuccessCriteriaMet") {
        "SuccessCriteriaMet"
    } else {
        "Running"
    }
}

fn completions(job: &Value) -> String {
    let succeeded = number(&job["status"]["succeeded"]);
    let parallelism = number(&job["spec"]["parallelism"]);
    match job["spec"]["completions"].as_i64() {
        Some(wanted) => format!("{succeeded}/{wanted}"),
        None if parallelism > 1 => format!("{succeeded}/1 of {parallelism}"),
        None => format!("{succeeded}/1"),
    }
}

fn job_duration(status: &Value, now: Timestamp) -> String {
    let Some(start) = timestamp(&status["startTime"]) else {
        return String::new();
    };
    let end = timestamp(&status["completionTime"]).unwrap_or(now);
    human_duration((end - start).get_seconds())
}

pub(in crate::resource) static CRON_JOBS: Columns = Columns {
    definitions: &[
        NAME,
        string("Schedule", "When jobs are made, in cron's format"),
        string("Timezone", "The time zone of the schedule"),
        boolean("Suspend", "Whether no jobs are made"),
        integer("Active", "How many jobs run"),
        string("Last Schedule", "The time since the last job was made"),
        AGE,
        CONTAINERS,
        IMAGES,
        SELECTOR,
    ],
    cells: |object, now| {
        let (spec, status) = (&object["spec"], &object["status"]);
        let (names, images) = containers(&spec["jobTemplate"]["spec"]["template"]);
        let last = match since(&status["lastScheduleTime"], now) {
            unknown if unknown == UNKNOWN => NONE.to_owned(),
            last => last,
        };
        vec![
            name(object),
            text(&spec["schedule"]).into(),
            text_or(&spec["timeZone"], NONE).into(),
            optional_truth(&spec["suspend"]).into(),
            count(&status["active"]).into(),
            last.into(),
            age(object, now),
            names,
            images,
            label_selector(&spec["jobTemplate"]["spec"]["selector"]).into(),
        ]
    },
};

pub(in crate::resource) static POD_TEMPLATES: Columns = Columns {
    definitions: &[
        NAME,
        string("Containers", "The names of the containers"),
        string("Images", "The images of the containers"),
        string("Pod Labels", "The labels of the pods"),
    ],
    cells: |object, _now| {
        let (names, images) = containers(&object["template"]);
        vec![
            name(object),
            names,
            images,
            labels(&object["template"]["metadata"]["labels"]).into(),
        ]
    },
};

pub(in crate::resource) static REVISIONS: Columns = Columns {
    definitions: &[
        NAME,
        string("Controller", "The object whose history this is"),
        string("Revision", "The number of the revision"),
        AGE,
    ],
    cells: |object, now| {
        vec![
            name(object),
            controller(object).into(),
            number(&object["revision"]).into(),
            age(object, now),
        ]
    },
};

/// The controlling owner as `statefulset.apps/web`.
fn controller(object: &Value) -> String {
    let owners = items(&object["metadata"]["ownerReferences"]);
    let Some(owner) = owners.iter().find(|owner| owner["controller"] == true) else {
        return NONE.to_owned();
    };
    let kind = text(&owner["kind"]).to_lowercase();
    let (group, _) = crate::resource::split_api_version(text(&owner["apiVersion"]));
    let resource = crate::status::group_resource(group, &kind);
    format!("{resource}/{}", text(&owner["name"]))
}

pub(in crate::resource) static DISRUPTION_BUDGETS: Columns = Columns {
    definitions: &[
        NAME,
        string("Min Available", "How many pods must stay"),
        string("Max Unavailable", "How many pods may be missing"),
        integer("Allowed Disruptions", "How many pods may be evicted now"),
        AGE,
    ],
    cells: |object, now| {
        vec![
            name(object),
            number_or_text(&object["spec"]["minAvailable"], "N/A").into(),
            number_or_text(&object["spec"]["maxUnavailable"], "N/A").into(),
            number(&object["status"]["disruptionsAllowed"]).into(),
            age(object, now),
        ]
    },
};

pub(in crate::resource) static AUTOSCALERS: Columns = Columns {
    definitions: &[
        NAME,
        string("Reference", "What is scaled"),
        string("Targets", "The metrics, now and as wanted"),
        string("MinPods", "The fewest pods"),
        string("MaxPods", "The most pods"),
        string("Replicas", "How many pods there are"),
        AGE,
    ],
    cells: |object, now| {
        let (spec, status) = (&object["spec"], &object["status"]);
        let target = &spec["scaleTargetRef"];
        vec![
            name(object),
            format!("{}/{}", text(&target["kind"]), text(&target["name"])).into(),
            metrics(&spec["metrics"], &status["currentMetrics"]).into(),
            number_or_text(&spec["minReplicas"], UNSET).into(),
            number(&spec["maxReplicas"]).to_string().into(),
            number(&status["currentReplicas"]).to_string().into(),
            age(object, now),
        ]
    },
};

/// The field of a metric source that holds its data, for example `resource`.
fn source(metric: &Value) -> (&str, &Value) {
    match text(&metric["type"]) {
        "Resource" => ("resource", &metric["resource"]),
        "ContainerResource" => ("containerResource", &metric["containerResource"]),
        "Pods" => ("pods", &metric["pods"]),
        "Object" => ("object", &metric["object"]),
        "External" => ("external", &metric["external"]),
        _ => ("", &Value::Null),
    }
}

fn metrics(wanted: &Value, current: &Value) -> String {
    const SHOWN: usize = 2;
    let mut list = Vec::new();
    for (index, metric) in items(wanted).iter().enumerate() {
        let (kind, data) = source(metric);
        if kind.is_empty() {
            list.push("<unknown type>".to_owned());
            continue;
        }
        let now = items(current)
            .get(index)
            .map_or(&Value::Null, |metric| &source(metric).1["current"]);
        let target = &data["target"];
        let named = match kind {
            "resource" | "containerResource" => format!("{}: ", text(&data["name"])),
            _ => String::new(),
        };
        list.push(
            if let Some(percent) = target["averageUtilization"].as_i64() {
                let now = match now["averageUtilization"].as_i64() {
                    Some(now) => format!("{now}%"),
                    None => UNKNOWN.to_owned(),
                };
                format!("{named}{now}/{percent}%")
            } else if let Some(average) = target["averageValue"].as_str() {
                let now = text_or(&now["averageValue"], UNKNOWN);
                let suffix = if kind == "external" || kind == "object" {
                    " (avg)"
                } else {
                    ""
                };
                format!("{named}{now}/{average}{suffix}")
            } else {
                let now = text_or(&now["value"], UNKNOWN);
                format!("{named}{now}/{}", text(&target["value"]))
            },
        );
    }
    match list.len() {
        0 => NONE.to_owned(),
        1..=SHOWN => list.join(", "),
        many => format!("{} + {} more...", list[..SHOWN].join(", "), many - SHOWN),
    }
}
