//! Configuration, identities, policies and everything small.

use serde_json::Value;

use super::format::{
    NONE, UNSET, age, count, human_duration, items, name, number, text, text_or, truth,
};
use super::network::subjects;
use super::storage::optional_number;
use super::{AGE, Columns, NAME, boolean, integer, string, wide};

pub(in crate::resource) static CONFIG_MAPS: Columns = Columns {
    definitions: &[NAME, string("Data", "How many keys there are"), AGE],
    cells: |object, now| {
        let keys = count(&object["data"]) + count(&object["binaryData"]);
        vec![name(object), keys.into(), age(object, now)]
    },
};

pub(in crate::resource) static SECRETS: Columns = Columns {
    definitions: &[
        NAME,
        string("Type", "What the secret is for"),
        string("Data", "How many keys there are"),
        AGE,
    ],
    cells: |object, now| {
        vec![
            name(object),
            text(&object["type"]).into(),
            count(&object["data"]).into(),
            age(object, now),
        ]
    },
};

pub(in crate::resource) static SERVICE_ACCOUNTS: Columns = Columns {
    definitions: &[NAME, string("Secrets", "How many secrets are listed"), AGE],
    cells: |object, now| {
        vec![
            name(object),
            count(&object["secrets"]).into(),
            age(object, now),
        ]
    },
};

pub(in crate::resource) static NAMESPACES: Columns = Columns {
    definitions: &[NAME, string("Status", "Active, or on its way out"), AGE],
    cells: |object, now| {
        vec![
            name(object),
            text(&object["status"]["phase"]).into(),
            age(object, now),
        ]
    },
};

pub(in crate::resource) static LEASES: Columns = Columns {
    definitions: &[NAME, string("Holder", "Who holds the lease"), AGE],
    cells: |object, now| {
        vec![
            name(object),
            text(&object["spec"]["holderIdentity"]).into(),
            age(object, now),
        ]
    },
};

pub(in crate::resource) static QUOTAS: Columns = Columns {
    definitions: &[
        NAME,
        string("Request", "What is requested, of how much"),
        string("Limit", "What is limited, of how much"),
        AGE,
    ],
    cells: |object, now| {
        let (mut requests, mut limits) = (Vec::new(), Vec::new());
        let status = &object["status"];
        for (resource, hard) in status["hard"].as_object().into_iter().flatten() {
            let used = text_or(&status["used"][resource.as_str()], "0");
            let entry = format!("{resource}: {used}/{}", text(hard));
            if resource.starts_with("limits") {
                limits.push(entry);
            } else {
                requests.push(entry);
            }
        }
        vec![
            name(object),
            requests.join(", ").into(),
            limits.join(", ").into(),
            age(object, now),
        ]
    },
};

pub(in crate::resource) static ROLE_BINDINGS: Columns = Columns {
    definitions: &[
        NAME,
        string("Role", "The role that is bound"),
        AGE,
        wide("Users", "The users that get it"),
        wide("Groups", "The groups that get it"),
        wide("ServiceAccounts", "The service accounts that get it"),
    ],
    cells: |object, now| {
        let role = &object["roleRef"];
        vec![
            name(object),
            format!("{}/{}", text(&role["kind"]), text(&role["name"])).into(),
            age(object, now),
            subjects(object, "User").into(),
            subjects(object, "Group").into(),
            subjects(object, "ServiceAccount").into(),
        ]
    },
};

pub(in crate::resource) static SIGNING_REQUESTS: Columns = Columns {
    definitions: &[
        NAME,
        AGE,
        string("SignerName", "Who is asked to sign"),
        string("Requestor", "Who asks"),
        string("RequestedDuration", "For how long"),
        string("Condition", "What was decided, and whether it was signed"),
    ],
    cells: |object, now| {
        let (spec, status) = (&object["spec"], &object["status"]);
        let decided = |kind: &str| {
            items(&status["conditions"])
                .iter()
                .any(|condition| condition["type"] == kind)
        };
        let mut state = Vec::new();
        if decided("Denied") {
            state.push("Denied");
        } else if decided("Approved") {
            state.push("Approved");
        } else {
            state.push("Pending");
        }
        if decided("Failed") {
            state.push("Failed");
        }
        if !text(&status["certificate"]).is_empty() {
            state.push("Issued");
        }
        let duration = match spec["expirationSeconds"].as_i64() {
            Some(seconds) => human_duration(seconds),
            None => NONE.to_owned(),
        };
        vec![
            name(object),
            age(object, now),
            text_or(&spec["signerName"], NONE).into(),
            text(&spec["username"]).into(),
            duration.into(),
            state.join(",").into(),
        ]
    },
};

pub(in crate::resource) static PRIORITY_CLASSES: Columns = Columns {
    definitions: &[
        NAME,
        integer("Value", "The priority of pods of the class"),
        boolean(
            "Global-Default",
            "Whether pods without a class get this one",
        ),
        AGE,
        string("PreemptionPolicy", "Whether its pods push others out"),
    ],
    cells: |object, now| {
        vec![
            name(object),
            number(&object["value"]).into(),
            truth(&object["globalDefault"]).into(),
            age(object, now),
            text(&object["preemptionPolicy"]).into(),
        ]
    },
};

pub(in crate::resource) static RUNTIME_CLASSES: Columns = Columns {
    definitions: &[NAME, string("Handler", "What runs pods of the class"), AGE],
    cells: |object, now| {
        vec![
            name(object),
            text(&object["handler"]).into(),
            age(object, now),
        ]
    },
};

pub(in crate::resource) static WEBHOOKS: Columns = Columns {
    definitions: &[
        NAME,
        integer("Webhooks", "How many webhooks there are"),
        AGE,
    ],
    cells: |object, now| {
        vec![
            name(object),
            count(&object["webhooks"]).into(),
            age(object, now),
        ]
    },
};

pub(in crate::resource) static ADMISSION_POLICIES: Columns = Columns {
    definitions: &[
        NAME,
        integer("Validations", "How many expressions there are"),
        string("ParamKind", "The kind of the parameters"),
        AGE,
    ],
    cells: |object, now| {
        let kind = &object["spec"]["paramKind"];
        let kind = if kind.is_object() {
            format!("{}/{}", text(&kind["apiVersion"]), text(&kind["kind"]))
        } else {
            UNSET.to_owned()
        };
        vec![
            name(object),
            count(&object["spec"]["validations"]).into(),
            kind.into(),
            age(object, now),
        ]
    },
};

pub(in crate::resource) static ADMISSION_POLICY_BINDINGS: Columns = Columns {
    definitions: &[
        NAME,
        string("PolicyName", "The policy"),
        string("ParamRef", "The parameters"),
        AGE,
    ],
    cells: |object, now| {
        let reference = &object["spec"]["paramRef"];
        let shown = match (text(&reference["namespace"]), text(&reference["name"])) {
            (_, "") if !reference.is_object() => UNSET.to_owned(),
            ("", name) => name.to_owned(),
            (namespace, name) => format!("{namespace}/{name}"),
        };
        vec![
            name(object),
            text(&object["spec"]["policyName"]).into(),
            shown.into(),
            age(object, now),
        ]
    },
};

pub(in crate::resource) static RESOURCE_CLAIMS: Columns = Columns {
    definitions: &[
        NAME,
        string("State", "Whether devices are allocated and in use"),
        AGE,
    ],
    cells: |object, now| {
        let status = &object["status"];
        let mut states = Vec::new();
        if object["metadata"]["deletionTimestamp"].is_string() {
            states.push("deleted");
        }
        if status["allocation"].is_object() {
            states.push("allocated");
        } else if states.is_empty() {
            states.push("pending");
        }
        if count(&status["reservedFor"]) > 0 {
            states.push("reserved");
        }
        vec![name(object), states.join(",").into(), age(object, now)]
    },
};

pub(in crate::resource) static RESOURCE_SLICES: Columns = Columns {
    definitions: &[
        NAME,
        string("Node", "The node that has the devices"),
        string("Driver", "The driver of the devices"),
        string("Pool", "The pool of the devices"),
        AGE,
    ],
    cells: |object, now| {
        let spec = &object["spec"];
        vec![
            name(object),
            text_or(&spec["nodeName"], UNSET).into(),
            text(&spec["driver"]).into(),
            text(&spec["pool"]["name"]).into(),
            age(object, now),
        ]
    },
};

pub(in crate::resource) static FLOW_SCHEMAS: Columns = Columns {
    definitions: &[
        NAME,
        string("PriorityLevel", "The level that requests get"),
        string("MatchingPrecedence", "Which schema is asked first"),
        string("DistinguisherMethod", "What makes a flow"),
        AGE,
        string("MissingPL", "Whether the level is missing"),
    ],
    cells: |object, now| {
        let spec = &object["spec"];
        let dangling: &Value = items(&object["status"]["conditions"])
            .iter()
            .find(|condition| condition["type"] == "Dangling")
            .map_or(&Value::Null, |condition| &condition["status"]);
        vec![
            name(object),
            text_or(&spec["priorityLevelConfiguration"]["name"], NONE).into(),
            number(&spec["matchingPrecedence"]).into(),
            text_or(&spec["distinguisherMethod"]["type"], NONE).into(),
            age(object, now),
            text_or(dangling, "?").into(),
        ]
    },
};

pub(in crate::resource) static PRIORITY_LEVELS: Columns = Columns {
    definitions: &[
        NAME,
        string("Type", "Whether requests are limited"),
        string(
            "NominalConcurrencyShares",
            "The level's share of the server",
        ),
        string("Queues", "How many queues there are"),
        string("HandSize", "How many queues a flow has"),
        string("QueueLengthLimit", "How many requests wait in a queue"),
        AGE,
    ],
    cells: |object, now| {
        let spec = &object["spec"];
        let limited = &spec["limited"];
        let queuing = &limited["limitResponse"]["queuing"];
        vec![
            name(object),
            text(&spec["type"]).into(),
            optional_number(&limited["nominalConcurrencyShares"]).into(),
            optional_number(&queuing["queues"]).into(),
            optional_number(&queuing["handSize"]).into(),
            optional_number(&queuing["queueLengthLimit"]).into(),
            age(object, now),
        ]
    },
};
