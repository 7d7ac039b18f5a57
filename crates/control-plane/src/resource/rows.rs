//! The rows. Facts of the protocol: discovery of Kubernetes v1.34.

use super::convert::{AUTOSCALERS, EVENTS};
use super::print::{self, Columns};
use super::select::fields;
use super::{Conversion, ResourceDef, STORED_VERBS, SelectableField, SubResource};

const NAMESPACED: bool = true;
const CLUSTER: bool = false;

const READ_WRITE: &[&str] = &["get", "patch", "update"];
const CREATE: &[&str] = &["create"];
const STREAM: &[&str] = &["create", "get"];
const PROXY: &[&str] = &["create", "delete", "get", "patch", "update"];

const fn row(
    group: &'static str,
    version: &'static str,
    kind: &'static str,
    plural: &'static str,
    singular: &'static str,
    namespaced: bool,
) -> ResourceDef {
    ResourceDef {
        group,
        version,
        kind,
        plural,
        singular,
        namespaced,
        short_names: &[],
        categories: &[],
        verbs: STORED_VERBS,
        subresources: &[],
        fields: &[],
        columns: &print::NAME_AND_AGE,
        acted_on: false,
        unconditional_update: true,
        create_on_update: false,
        deprecation: None,
        conversion: None,
    }
}

impl ResourceDef {
    const fn short(mut self, names: &'static [&'static str]) -> Self {
        self.short_names = names;
        self
    }

    const fn category(mut self, names: &'static [&'static str]) -> Self {
        self.categories = names;
        self
    }

    const fn verbs(mut self, verbs: &'static [&'static str]) -> Self {
        self.verbs = verbs;
        self
    }

    const fn subs(mut self, subresources: &'static [SubResource]) -> Self {
        self.subresources = subresources;
        self
    }

    const fn select(mut self, fields: &'static [SelectableField]) -> Self {
        self.fields = fields;
        self
    }

    const fn print(mut self, columns: &'static Columns) -> Self {
        self.columns = columns;
        self
    }

    /// Something here acts on the kind, or nothing anywhere needs to.
    const fn acts(mut self) -> Self {
        self.acted_on = true;
        self
    }

    const fn deprecated(mut self, warning: &'static str) -> Self {
        self.deprecation = Some(warning);
        self
    }

    const fn needs_version(mut self) -> Self {
        self.unconditional_update = false;
        self
    }

    const fn creates_on_update(mut self) -> Self {
        self.create_on_update = true;
        self
    }

    const fn kept_as(mut self, conversion: Conversion) -> Self {
        self.conversion = Some(conversion);
        self
    }
}

const fn sub(
    name: &'static str,
    kind: &'static str,
    verbs: &'static [&'static str],
) -> SubResource {
    SubResource {
        name,
        group_version: None,
        kind,
        verbs,
    }
}

const fn sub_of(
    name: &'static str,
    group: &'static str,
    version: &'static str,
    kind: &'static str,
    verbs: &'static [&'static str],
) -> SubResource {
    SubResource {
        name,
        group_version: Some((group, version)),
        kind,
        verbs,
    }
}

const SCALE: SubResource = sub_of("scale", "autoscaling", "v1", "Scale", READ_WRITE);

const fn status(kind: &'static str) -> SubResource {
    sub("status", kind, READ_WRITE)
}

const POD_SUBS: &[SubResource] = &[
    sub("attach", "PodAttachOptions", STREAM),
    sub("binding", "Binding", CREATE),
    sub("ephemeralcontainers", "Pod", READ_WRITE),
    sub_of("eviction", "policy", "v1", "Eviction", CREATE),
    sub("exec", "PodExecOptions", STREAM),
    sub("log", "Pod", &["get"]),
    sub("portforward", "PodPortForwardOptions", STREAM),
    sub("proxy", "PodProxyOptions", PROXY),
    sub("resize", "Pod", READ_WRITE),
    status("Pod"),
];

const NAMESPACE_VERBS: &[&str] = &[
    "create", "delete", "get", "list", "patch", "update", "watch",
];

const ADMISSION: &str = "admissionregistration.k8s.io";
const AUTHENTICATION: &str = "authentication.k8s.io";
const AUTHORIZATION: &str = "authorization.k8s.io";
const CERTIFICATES: &str = "certificates.k8s.io";
const FLOW: &str = "flowcontrol.apiserver.k8s.io";
const NETWORKING: &str = "networking.k8s.io";
const RBAC: &str = "rbac.authorization.k8s.io";
const RESOURCE: &str = "resource.k8s.io";
const STORAGE: &str = "storage.k8s.io";

/// Every served resource. Versions of a group stand in the order of preference.
#[rustfmt::skip]
pub(super) static ROWS: &[ResourceDef] = &[
    row("", "v1", "Binding", "bindings", "binding", NAMESPACED).verbs(CREATE).acts(),
    row("", "v1", "ConfigMap", "configmaps", "configmap", NAMESPACED).short(&["cm"]).print(&print::config::CONFIG_MAPS).acts(),
    row("", "v1", "Endpoints", "endpoints", "endpoints", NAMESPACED).deprecated("v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice").creates_on_update().short(&["ep"]).print(&print::network::ENDPOINTS),
    row("", "v1", "Event", "events", "event", NAMESPACED).short(&["ev"]).select(fields::EVENTS).print(&print::event::EVENTS).creates_on_update().acts(),
    row("", "v1", "LimitRange", "limitranges", "limitrange", NAMESPACED).creates_on_update().short(&["limits"]).print(&print::NAME_AND_CREATED),
    row("", "v1", "Namespace", "namespaces", "namespace", CLUSTER).short(&["ns"]).verbs(NAMESPACE_VERBS)
        .subs(&[sub("finalize", "Namespace", &["update"]), status("Namespace")]).select(fields::NAMESPACES).print(&print::config::NAMESPACES).acts(),
    row("", "v1", "Node", "nodes", "node", CLUSTER).short(&["no"])
        .subs(&[sub("proxy", "NodeProxyOptions", PROXY), status("Node")]).select(fields::NODES).print(&print::node::NODES).acts(),
    row("", "v1", "PersistentVolumeClaim", "persistentvolumeclaims", "persistentvolumeclaim", NAMESPACED).short(&["pvc"])
        .subs(&[status("PersistentVolumeClaim")]).print(&print::storage::CLAIMS),
    row("", "v1", "PersistentVolume", "persistentvolumes", "persistentvolume", CLUSTER).short(&["pv"])
        .subs(&[status("PersistentVolume")]).print(&print::storage::VOLUMES),
    row("", "v1", "Pod", "pods", "pod", NAMESPACED).short(&["po"]).category(&["all"]).subs(POD_SUBS).select(fields::PODS)
        .print(&print::pod::PODS).acts(),
    row("", "v1", "PodTemplate", "podtemplates", "podtemplate", NAMESPACED).print(&print::workload::POD_TEMPLATES).acts(),
    row("", "v1", "ReplicationController", "replicationcontrollers", "replicationcontroller", NAMESPACED).short(&["rc"]).category(&["all"])
        .subs(&[SCALE, status("ReplicationController")]).select(fields::REPLICAS).print(&print::workload::REPLICATION_CONTROLLERS),
    row("", "v1", "ResourceQuota", "resourcequotas", "resourcequota", NAMESPACED).short(&["quota"])
        .subs(&[status("ResourceQuota")]).print(&print::config::QUOTAS),
    row("", "v1", "Secret", "secrets", "secret", NAMESPACED).select(fields::SECRETS).print(&print::config::SECRETS).acts(),
    row("", "v1", "ServiceAccount", "serviceaccounts", "serviceaccount", NAMESPACED).short(&["sa"])
        .subs(&[sub_of("token", AUTHENTICATION, "v1", "TokenRequest", CREATE)]).print(&print::config::SERVICE_ACCOUNTS).acts(),
    row("", "v1", "Service", "services", "service", NAMESPACED).creates_on_update().short(&["svc"]).category(&["all"])
        .subs(&[sub("proxy", "ServiceProxyOptions", PROXY), status("Service")]).select(fields::SERVICES).print(&print::network::SERVICES),

    row("apps", "v1", "ControllerRevision", "controllerrevisions", "controllerrevision", NAMESPACED).print(&print::workload::REVISIONS).acts(),
    row("apps", "v1", "DaemonSet", "daemonsets", "daemonset", NAMESPACED).short(&["ds"]).category(&["all"])
        .subs(&[status("DaemonSet")]).print(&print::workload::DAEMON_SETS),
    row("apps", "v1", "Deployment", "deployments", "deployment", NAMESPACED).short(&["deploy"]).category(&["all"])
        .subs(&[SCALE, status("Deployment")]).print(&print::workload::DEPLOYMENTS),
    row("apps", "v1", "ReplicaSet", "replicasets", "replicaset", NAMESPACED).short(&["rs"]).category(&["all"])
        .subs(&[SCALE, status("ReplicaSet")]).print(&print::workload::REPLICA_SETS),
    row("apps", "v1", "StatefulSet", "statefulsets", "statefulset", NAMESPACED).short(&["sts"]).category(&["all"])
        .subs(&[SCALE, status("StatefulSet")]).print(&print::workload::STATEFUL_SETS),

    row("events.k8s.io", "v1", "Event", "events", "event", NAMESPACED).short(&["ev"]).select(fields::NEW_EVENTS).print(&print::event::EVENTS)
        .creates_on_update().kept_as(EVENTS).acts(),

    row(AUTHENTICATION, "v1", "SelfSubjectReview", "selfsubjectreviews", "selfsubjectreview", CLUSTER).verbs(CREATE).acts(),
    row(AUTHENTICATION, "v1", "TokenReview", "tokenreviews", "tokenreview", CLUSTER).verbs(CREATE).acts(),
    row(AUTHORIZATION, "v1", "LocalSubjectAccessReview", "localsubjectaccessreviews", "localsubjectaccessreview", NAMESPACED).verbs(CREATE).acts(),
    row(AUTHORIZATION, "v1", "SelfSubjectAccessReview", "selfsubjectaccessreviews", "selfsubjectaccessreview", CLUSTER).verbs(CREATE).acts(),
    row(AUTHORIZATION, "v1", "SelfSubjectRulesReview", "selfsubjectrulesreviews", "selfsubjectrulesreview", CLUSTER).verbs(CREATE).acts(),
    row(AUTHORIZATION, "v1", "SubjectAccessReview", "subjectaccessreviews", "subjectaccessreview", CLUSTER).verbs(CREATE).acts(),

    row("autoscaling", "v2", "HorizontalPodAutoscaler", "horizontalpodautoscalers", "horizontalpodautoscaler", NAMESPACED).short(&["hpa"])
        .category(&["all"]).subs(&[status("HorizontalPodAutoscaler")]).print(&print::workload::AUTOSCALERS),
    row("autoscaling", "v1", "HorizontalPodAutoscaler", "horizontalpodautoscalers", "horizontalpodautoscaler", NAMESPACED).short(&["hpa"])
        .category(&["all"]).subs(&[status("HorizontalPodAutoscaler")]).print(&print::workload::AUTOSCALERS).kept_as(AUTOSCALERS),

    row("batch", "v1", "CronJob", "cronjobs", "cronjob", NAMESPACED).short(&["cj"]).category(&["all"])
        .subs(&[status("CronJob")]).print(&print::workload::CRON_JOBS),
    row("batch", "v1", "Job", "jobs", "job", NAMESPACED).category(&["all"])
        .subs(&[status("Job")]).select(fields::JOBS).print(&print::workload::JOBS),

    row(CERTIFICATES, "v1", "CertificateSigningRequest", "certificatesigningrequests", "certificatesigningrequest", CLUSTER).acts().short(&["csr"])
        .subs(&[sub("approval", "CertificateSigningRequest", READ_WRITE), status("CertificateSigningRequest")])
        .select(fields::SIGNING_REQUESTS).print(&print::config::SIGNING_REQUESTS),

    row(NETWORKING, "v1", "IngressClass", "ingressclasses", "ingressclass", CLUSTER).print(&print::network::INGRESS_CLASSES),
    row(NETWORKING, "v1", "Ingress", "ingresses", "ingress", NAMESPACED).short(&["ing"])
        .subs(&[status("Ingress")]).print(&print::network::INGRESSES),
    row(NETWORKING, "v1", "IPAddress", "ipaddresses", "ipaddress", CLUSTER).short(&["ip"]).select(fields::ADDRESSES).print(&print::network::ADDRESSES),
    row(NETWORKING, "v1", "NetworkPolicy", "networkpolicies", "networkpolicy", NAMESPACED).short(&["netpol"]).print(&print::network::POLICIES),
    row(NETWORKING, "v1", "ServiceCIDR", "servicecidrs", "servicecidr", CLUSTER).subs(&[status("ServiceCIDR")]).print(&print::network::SERVICE_RANGES),

    row("policy", "v1", "PodDisruptionBudget", "poddisruptionbudgets", "poddisruptionbudget", NAMESPACED).acts().needs_version().short(&["pdb"])
        .subs(&[status("PodDisruptionBudget")]).print(&print::workload::DISRUPTION_BUDGETS),

    row(RBAC, "v1", "ClusterRoleBinding", "clusterrolebindings", "clusterrolebinding", CLUSTER).creates_on_update().print(&print::config::ROLE_BINDINGS).acts(),
    row(RBAC, "v1", "ClusterRole", "clusterroles", "clusterrole", CLUSTER).creates_on_update().print(&print::NAME_AND_CREATED).acts(),
    row(RBAC, "v1", "RoleBinding", "rolebindings", "rolebinding", NAMESPACED).creates_on_update().print(&print::config::ROLE_BINDINGS).acts(),
    row(RBAC, "v1", "Role", "roles", "role", NAMESPACED).creates_on_update().print(&print::NAME_AND_CREATED).acts(),

    row(STORAGE, "v1", "CSIDriver", "csidrivers", "csidriver", CLUSTER).needs_version().print(&print::storage::DRIVERS),
    row(STORAGE, "v1", "CSINode", "csinodes", "csinode", CLUSTER).needs_version().print(&print::storage::CSI_NODES),
    row(STORAGE, "v1", "CSIStorageCapacity", "csistoragecapacities", "csistoragecapacity", NAMESPACED).needs_version().print(&print::NAME_AND_CREATED),
    row(STORAGE, "v1", "StorageClass", "storageclasses", "storageclass", CLUSTER).short(&["sc"]).print(&print::storage::CLASSES),
    row(STORAGE, "v1", "VolumeAttachment", "volumeattachments", "volumeattachment", CLUSTER).needs_version()
        .subs(&[status("VolumeAttachment")]).print(&print::storage::ATTACHMENTS),
    row(STORAGE, "v1", "VolumeAttributesClass", "volumeattributesclasses", "volumeattributesclass", CLUSTER).short(&["vac"])
        .print(&print::storage::ATTRIBUTES_CLASSES),

    row(ADMISSION, "v1", "MutatingWebhookConfiguration", "mutatingwebhookconfigurations", "mutatingwebhookconfiguration", CLUSTER).needs_version()
        .category(&["api-extensions"]).print(&print::config::WEBHOOKS),
    row(ADMISSION, "v1", "ValidatingAdmissionPolicy", "validatingadmissionpolicies", "validatingadmissionpolicy", CLUSTER).needs_version()
        .category(&["api-extensions"]).subs(&[status("ValidatingAdmissionPolicy")]).print(&print::config::ADMISSION_POLICIES),
    row(ADMISSION, "v1", "ValidatingAdmissionPolicyBinding", "validatingadmissionpolicybindings", "validatingadmissionpolicybinding", CLUSTER).needs_version()
        .category(&["api-extensions"]).print(&print::config::ADMISSION_POLICY_BINDINGS),
    row(ADMISSION, "v1", "ValidatingWebhookConfiguration", "validatingwebhookconfigurations", "validatingwebhookconfiguration", CLUSTER).needs_version()
        .category(&["api-extensions"]).print(&print::config::WEBHOOKS),

    row("scheduling.k8s.io", "v1", "PriorityClass", "priorityclasses", "priorityclass", CLUSTER).short(&["pc"]).print(&print::config::PRIORITY_CLASSES).acts(),
    row("coordination.k8s.io", "v1", "Lease", "leases", "lease", NAMESPACED).needs_version().print(&print::config::LEASES).creates_on_update().acts(),
    row("node.k8s.io", "v1", "RuntimeClass", "runtimeclasses", "runtimeclass", CLUSTER).creates_on_update().needs_version().print(&print::config::RUNTIME_CLASSES),
    row("discovery.k8s.io", "v1", "EndpointSlice", "endpointslices", "endpointslice", NAMESPACED).print(&print::network::ENDPOINT_SLICES),

    row(RESOURCE, "v1", "DeviceClass", "deviceclasses", "deviceclass", CLUSTER),
    row(RESOURCE, "v1", "ResourceClaim", "resourceclaims", "resourceclaim", NAMESPACED)
        .subs(&[status("ResourceClaim")]).print(&print::config::RESOURCE_CLAIMS),
    row(RESOURCE, "v1", "ResourceClaimTemplate", "resourceclaimtemplates", "resourceclaimtemplate", NAMESPACED),
    row(RESOURCE, "v1", "ResourceSlice", "resourceslices", "resourceslice", CLUSTER).select(fields::RESOURCE_SLICES).print(&print::config::RESOURCE_SLICES),

    row(FLOW, "v1", "FlowSchema", "flowschemas", "flowschema", CLUSTER).subs(&[status("FlowSchema")]).print(&print::config::FLOW_SCHEMAS),
    row(FLOW, "v1", "PriorityLevelConfiguration", "prioritylevelconfigurations", "prioritylevelconfiguration", CLUSTER)
        .subs(&[status("PriorityLevelConfiguration")]).print(&print::config::PRIORITY_LEVELS),
];
