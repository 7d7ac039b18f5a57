//! Volumes, claims and drivers.

use serde_json::Value;

use super::format::{UNSET, age, count, items, name, number_or_text, text, text_or, truth};
use super::{AGE, Column, Columns, NAME, boolean, integer, string, wide};

const VOLUME_MODE: Column = wide("VolumeMode", "Filesystem or Block");

/// `RWO,ROX` for access modes.
fn access_modes(modes: &Value) -> String {
    const SHORT: [(&str, &str); 4] = [
        ("ReadWriteOnce", "RWO"),
        ("ReadOnlyMany", "ROX"),
        ("ReadWriteMany", "RWX"),
        ("ReadWriteOncePod", "RWOP"),
    ];
    SHORT
        .iter()
        .filter(|(long, _)| items(modes).iter().any(|mode| mode == long))
        .map(|(_, short)| *short)
        .collect::<Vec<_>>()
        .join(",")
}

fn phase(object: &Value) -> &str {
    if object["metadata"]["deletionTimestamp"].is_string() {
        "Terminating"
    } else {
        text(&object["status"]["phase"])
    }
}

pub(in crate::resource) static CLAIMS: Columns = Columns {
    definitions: &[
        NAME,
        string("Status", "Whether a volume is bound"),
        string("Volume", "The volume"),
        string("Capacity", "The size of the volume"),
        string("Access Modes", "How the volume may be mounted"),
        string("StorageClass", "The class of the storage"),
        string(
            "VolumeAttributesClass",
            "The class of the volume's attributes",
        ),
        AGE,
        VOLUME_MODE,
    ],
    cells: |object, now| {
        let (spec, status) = (&object["spec"], &object["status"]);
        let volume = text(&spec["volumeName"]);
        let (capacity, modes) = if volume.is_empty() {
            (String::new(), String::new())
        } else {
            (
                text(&status["capacity"]["storage"]).to_owned(),
                access_modes(&status["accessModes"]),
            )
        };
        vec![
            name(object),
            phase(object).into(),
            volume.into(),
            capacity.into(),
            modes.into(),
            text(&spec["storageClassName"]).into(),
            text_or(&spec["volumeAttributesClassName"], UNSET).into(),
            age(object, now),
            text_or(&spec["volumeMode"], UNSET).into(),
        ]
    },
};

pub(in crate::resource) static VOLUMES: Columns = Columns {
    definitions: &[
        NAME,
        string("Capacity", "The size of the volume"),
        string("Access Modes", "How the volume may be mounted"),
        string("Reclaim Policy", "What becomes of a released volume"),
        string("Status", "Whether a claim has the volume"),
        string("Claim", "The claim"),
        string("StorageClass", "The class of the storage"),
        string(
            "VolumeAttributesClass",
            "The class of the volume's attributes",
        ),
        string("Reason", "Why the volume failed"),
        AGE,
        VOLUME_MODE,
    ],
    cells: |object, now| {
        let (spec, status) = (&object["spec"], &object["status"]);
        let claim = &spec["claimRef"];
        let claim = if claim.is_object() {
            format!("{}/{}", text(&claim["namespace"]), text(&claim["name"]))
        } else {
            String::new()
        };
        vec![
            name(object),
            text(&spec["capacity"]["storage"]).into(),
            access_modes(&spec["accessModes"]).into(),
            text(&spec["persistentVolumeReclaimPolicy"]).into(),
            phase(object).into(),
            claim.into(),
            text(&spec["storageClassName"]).into(),
            text_or(&spec["volumeAttributesClassName"], UNSET).into(),
            text(&status["reason"]).into(),
            age(object, now),
            text_or(&spec["volumeMode"], UNSET).into(),
        ]
    },
};

pub(in crate::resource) static CLASSES: Columns = Columns {
    definitions: &[
        NAME,
        string("Provisioner", "What makes the volumes"),
        string("ReclaimPolicy", "What becomes of released volumes"),
        string("VolumeBindingMode", "When claims are bound"),
        string("AllowVolumeExpansion", "Whether volumes can grow"),
        AGE,
    ],
    cells: |object, now| {
        const DEFAULT: &str = "storageclass.kubernetes.io/is-default-class";
        let shown = if object["metadata"]["annotations"][DEFAULT] == "true" {
            format!("{} (default)", text(&object["metadata"]["name"])).into()
        } else {
            name(object)
        };
        vec![
            shown,
            text(&object["provisioner"]).into(),
            text_or(&object["reclaimPolicy"], "Delete").into(),
            text_or(&object["volumeBindingMode"], "Immediate").into(),
            truth(&object["allowVolumeExpansion"]).into(),
            age(object, now),
        ]
    },
};

pub(in crate::resource) static ATTRIBUTES_CLASSES: Columns = Columns {
    definitions: &[NAME, string("DriverName", "The driver of the class"), AGE],
    cells: |object, now| {
        vec![
            name(object),
            text(&object["driverName"]).into(),
            age(object, now),
        ]
    },
};

pub(in crate::resource) static ATTACHMENTS: Columns = Columns {
    definitions: &[
        NAME,
        Column {
            format: "name",
            ..string("Attacher", "What attaches the volume")
        },
        string("PV", "The volume"),
        string("Node", "The node"),
        boolean("Attached", "Whether the volume is attached"),
        AGE,
    ],
    cells: |object, now| {
        let spec = &object["spec"];
        vec![
            name(object),
            text(&spec["attacher"]).into(),
            text(&spec["source"]["persistentVolumeName"]).into(),
            text(&spec["nodeName"]).into(),
            truth(&object["status"]["attached"]).into(),
            age(object, now),
        ]
    },
};

pub(in crate::resource) static DRIVERS: Columns = Columns {
    definitions: &[
        NAME,
        boolean("AttachRequired", "Whether volumes are attached first"),
        boolean("PodInfoOnMount", "Whether the driver is told of the pod"),
        boolean("StorageCapacity", "Whether capacity is considered"),
        string("TokenRequests", "The audiences of tokens the driver gets"),
        boolean("RequiresRepublish", "Whether mounts are renewed"),
        string("Modes", "The modes of volumes"),
        AGE,
    ],
    cells: |object, now| {
        let spec = &object["spec"];
        let audiences = items(&spec["tokenRequests"])
            .iter()
            .map(|request| text(&request["audience"]))
            .collect::<Vec<_>>()
            .join(",");
        let modes = items(&spec["volumeLifecycleModes"])
            .iter()
            .map(text)
            .collect::<Vec<_>>()
            .join(",");
        vec![
            name(object),
            spec["attachRequired"].as_bool().unwrap_or(true).into(),
            truth(&spec["podInfoOnMount"]).into(),
            truth(&spec["storageCapacity"]).into(),
            if audiences.is_empty() {
                UNSET.into()
            } else {
                audiences.into()
            },
            truth(&spec["requiresRepublish"]).into(),
            if modes.is_empty() {
                "<none>".into()
            } else {
                modes.into()
            },
            age(object, now),
        ]
    },
};

pub(in crate::resource) static CSI_NODES: Columns = Columns {
    definitions: &[
        NAME,
        integer("Drivers", "How many drivers the node has"),
        AGE,
    ],
    cells: |object, now| {
        vec![
            name(object),
            count(&object["spec"]["drivers"]).into(),
            age(object, now),
        ]
    },
};

/// `7` or `<none>`, for numbers that may be absent.
pub(super) fn optional_number(value: &Value) -> String {
    number_or_text(value, "<none>")
}
