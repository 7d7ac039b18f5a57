//! Requests and limits.

use serde_json::Value;

use super::Context;
use crate::quantity::Quantity;
use crate::status::{FieldError, FieldErrorKind};
use crate::validation::names;
use crate::validation::report::{NOT_NEGATIVE, Path, Report, list, map, member, text};

/// The resources that a container may name without a domain.
fn is_standard(name: &str) -> bool {
    matches!(name, "cpu" | "memory" | "ephemeral-storage") || name.starts_with("hugepages-")
}

/// All names without a domain that mean something somewhere.
fn is_known(name: &str) -> bool {
    is_standard(name)
        || matches!(
            name,
            "storage"
                | "requests.cpu"
                | "requests.memory"
                | "requests.storage"
                | "requests.ephemeral-storage"
                | "limits.cpu"
                | "limits.memory"
                | "limits.ephemeral-storage"
                | "pods"
                | "resourcequotas"
                | "services"
                | "replicationcontrollers"
                | "secrets"
                | "persistentvolumeclaims"
                | "configmaps"
                | "services.nodeports"
                | "services.loadbalancers"
        )
        || name.starts_with("requests.hugepages-")
}

/// A resource with a domain of its own, counted in whole numbers and never shared.
pub(in crate::validation) fn is_extended(name: &str) -> bool {
    name.contains('/')
        && !name.contains("kubernetes.io/")
        && !name.starts_with("requests.")
        && names::qualified_name(&format!("requests.{name}")).is_empty()
}

/// Requests may be less than limits, and there may be a request without a limit.
fn may_overcommit(name: &str) -> bool {
    (!name.contains('/') || name.contains("kubernetes.io/")) && !name.starts_with("hugepages-")
}

/// The name of a resource, as nodes have it.
pub(in crate::validation) fn resource_name(report: &mut Report, name: &str, path: &Path<'_>) {
    let problems = names::qualified_name(name);
    let wrong = !problems.is_empty();
    report.problems(path, name, problems);
    if !wrong && !name.contains('/') && !is_known(name) {
        report.invalid(
            path,
            name,
            "must be a standard resource type or fully qualified",
        );
    }
}

fn container_resource_name(report: &mut Report, name: &str, path: &Path<'_>) {
    resource_name(report, name, path);
    if !name.contains('/') {
        if !is_standard(name) {
            report.invalid(path, name, "must be a standard resource for containers");
        }
    } else if !name.contains("kubernetes.io/") && !is_extended(name) {
        report.invalid(path, name, "doesn't follow extended resource name standard");
    }
}

fn pod_resource_name(report: &mut Report, name: &str, path: &Path<'_>) {
    let before = report.len();
    resource_name(report, name, path);
    if report.len() == before
        && !matches!(name, "cpu" | "memory")
        && !name.starts_with("hugepages-")
    {
        report.not_supported(path, name, &["cpu", "hugepages-", "memory"]);
    }
}

/// An amount: not negative, and whole where the resource is counted in pieces.
pub(in crate::validation) fn amount(report: &mut Report, name: &str, text: &str, path: &Path<'_>) {
    let Some(quantity) = Quantity::parse(text) else {
        return;
    };
    if quantity < Quantity::ZERO {
        report.invalid(path, text, NOT_NEGATIVE);
    }
    if (is_extended(name) || is_counted(name)) && !quantity.is_whole() {
        report.invalid(path, text, "must be an integer");
    }
}

fn is_counted(name: &str) -> bool {
    matches!(
        name,
        "pods"
            | "resourcequotas"
            | "services"
            | "replicationcontrollers"
            | "secrets"
            | "configmaps"
            | "persistentvolumeclaims"
            | "services.nodeports"
            | "services.loadbalancers"
    )
}

pub(super) fn of_container(
    report: &mut Report,
    requirements: &Value,
    context: &Context<'_>,
    path: &Path<'_>,
) {
    requirements_of(report, requirements, container_resource_name, path);
    let claims_path = path.child("claims");
    let mut seen: Vec<(&str, &str)> = Vec::new();
    for (index, claim) in list(requirements, "claims").iter().enumerate() {
        let path = claims_path.index(index);
        let (name, request) = (text(claim, "name"), text(claim, "request"));
        if name.is_empty() {
            report.required(&path, "");
            continue;
        }
        if seen.contains(&(name, request)) {
            report.duplicate(&path, name);
        }
        seen.push((name, request));
        if !context.claims.contains(&name) {
            let why = if context.claims.is_empty() {
                " which is empty".to_owned()
            } else {
                format!(": {}", context.claims.join(", "))
            };
            report.push(FieldError::new(
                FieldErrorKind::NotFound,
                path.to_string(),
                Some(name.into()),
                format!("must be one of the names in pod.spec.resourceClaims{why}"),
            ));
        }
    }
}

fn requirements_of(
    report: &mut Report,
    requirements: &Value,
    name_rule: fn(&mut Report, &str, &Path<'_>),
    path: &Path<'_>,
) {
    let limits = path.child("limits");
    let requests = path.child("requests");
    let mut compute = false;
    let mut huge_pages = false;
    for (name, limit) in map(requirements, "limits") {
        let path = limits.key(name);
        name_rule(report, name, &path);
        amount(report, name, limit.as_str().unwrap_or_default(), &path);
        compute |= matches!(name.as_str(), "cpu" | "memory");
        huge_pages |= name.starts_with("hugepages-");
    }
    for (name, request) in map(requirements, "requests") {
        let path = requests.key(name);
        let request = request.as_str().unwrap_or_default();
        name_rule(report, name, &path);
        amount(report, name, request, &path);
        compute |= matches!(name.as_str(), "cpu" | "memory");
        huge_pages |= name.starts_with("hugepages-");
        let limit = requirements
            .get("limits")
            .and_then(|limits| limits.get(name))
            .and_then(Value::as_str);
        match limit {
            None if may_overcommit(name) => {}
            None => report.required(
                &limits,
                "Limit must be set for non overcommitable resources",
            ),
            Some(limit) => {
                let (asked, most) = (Quantity::parse(request), Quantity::parse(limit));
                if asked != most && !may_overcommit(name) {
                    report.invalid(
                        &requests,
                        request,
                        format!("must be equal to {name} limit of {limit}"),
                    );
                } else if asked > most {
                    report.invalid(
                        &requests,
                        request,
                        format!("must be less than or equal to {name} limit of {limit}"),
                    );
                }
            }
        }
    }
    if huge_pages && !compute {
        report.forbidden(path, "HugePages require cpu or memory");
    }
}

/// What a pod asks for as a whole must cover what its containers ask for.
pub(super) fn whole_pod(report: &mut Report, spec: &Value, context: &Context<'_>, path: &Path<'_>) {
    let Some(resources) = member(spec, "resources") else {
        return;
    };
    let path = path.child("resources");
    if context.os == "windows" {
        report.forbidden(&path, "may not be set for a windows pod");
        return;
    }
    if member(resources, "claims").is_some() {
        report.forbidden(
            &path.child("claims"),
            "claims may not be set for Resources at pod-level",
        );
    }
    requirements_of(report, resources, pod_resource_name, &path);
    let containers_path = path.child("containers");
    for (index, container) in list(spec, "containers").iter().enumerate() {
        let Some(own) = container.get("resources") else {
            continue;
        };
        for (name, limit) in map(own, "limits") {
            let limit = limit.as_str().unwrap_or_default();
            let whole = resources
                .get("limits")
                .and_then(|limits| limits.get(name))
                .and_then(Value::as_str);
            if let Some(whole) = whole
                && Quantity::parse(limit) > Quantity::parse(whole)
            {
                report.invalid(
                    &containers_path.index(index).key(name).child("limits"),
                    limit,
                    format!("must be less than or equal to pod limits of {whole}"),
                );
            }
        }
    }
}
