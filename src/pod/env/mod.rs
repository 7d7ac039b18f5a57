//! The environment of a container.
//!
//! Later ones win: the batch job's environment (less what no pod may have), services and the
//! API server's address, `envFrom`, `env`.

pub mod expand;
mod inherit;
mod services;

pub use inherit::inherited;
pub use services::{Port, Service, Services};

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{Container, EnvVarSource, Pod};

use super::{
    Host, fields,
    machine::Waiting,
    objects::{Kind, Objects, Reference},
};

/// A container's own variables, and names that could not be variables.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resolved {
    /// Name to value, without what is inherited.
    pub own: BTreeMap<String, String>,
    /// Keys of an `envFrom` that are no variable names.
    pub skipped: Vec<String>,
}

/// The objects that the environment refers to.
pub fn needs(container: &Container) -> BTreeSet<Reference> {
    let mut needs = BTreeSet::new();
    for from in container.env_from.iter().flatten() {
        if let Some(source) = &from.config_map_ref {
            needs.insert(Reference {
                kind: Kind::ConfigMap,
                name: source.name.clone(),
            });
        }
        if let Some(source) = &from.secret_ref {
            needs.insert(Reference {
                kind: Kind::Secret,
                name: source.name.clone(),
            });
        }
    }
    for source in container
        .env
        .iter()
        .flatten()
        .filter_map(|it| it.value_from.as_ref())
    {
        if let Some(key) = &source.config_map_key_ref {
            needs.insert(Reference {
                kind: Kind::ConfigMap,
                name: key.name.clone(),
            });
        }
        if let Some(key) = &source.secret_key_ref {
            needs.insert(Reference {
                kind: Kind::Secret,
                name: key.name.clone(),
            });
        }
    }
    needs
}

/// Whether the container's environment tells of the services in its namespace.
pub fn links(pod: &Pod) -> bool {
    let spec = pod.spec.as_ref();
    spec.and_then(|spec| spec.enable_service_links) != Some(false)
}

/// The variables of a container, with everything they refer to looked up in `objects`.
/// The message of a failure is the kubelet's.
pub fn resolve(
    pod: &Pod,
    container: &Container,
    host: &Host,
    services: &Services,
    objects: &Objects,
) -> Result<Resolved, Waiting> {
    let mut resolved = Resolved::default();
    let own = &mut resolved.own;
    host.service_environment(|name, value| {
        own.insert(name, value);
    });
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    if links(pod) {
        services.links(namespace, |name, value| {
            own.insert(name, value);
        });
    }
    for from in container.env_from.iter().flatten() {
        let (kind, name, optional) = match (&from.config_map_ref, &from.secret_ref) {
            (Some(source), _) => (Kind::ConfigMap, &source.name, source.optional),
            (None, Some(source)) => (Kind::Secret, &source.name, source.optional),
            (None, None) => continue,
        };
        let Some(data) = objects.get(kind, name) else {
            if optional == Some(true) {
                continue;
            }
            return Err(config_error(kind.not_found(name)));
        };
        let prefix = from.prefix.as_deref().unwrap_or_default();
        for (key, value) in data.variables() {
            let variable = format!("{prefix}{key}");
            if is_variable(&variable) {
                let value = text(value, &variable, key, kind, namespace, name)?;
                resolved.own.insert(variable, value);
            } else {
                resolved.skipped.push(variable);
            }
        }
    }
    let home = host.home_for(None);
    for variable in container.env.iter().flatten() {
        let literal = variable.value.as_deref().unwrap_or_default();
        let value = match &variable.value_from {
            Some(source) if literal.is_empty() => {
                referred(pod, container, &variable.name, source, host, objects)?
            }
            _ => {
                let own = &resolved.own;
                let text = expand::references(literal, |name| own.get(name).map(String::as_str));
                Some(expand::home(text, home))
            }
        };
        if let Some(value) = value {
            resolved.own.insert(variable.name.clone(), value);
        }
    }
    Ok(resolved)
}

fn referred(
    pod: &Pod,
    container: &Container,
    variable: &str,
    source: &EnvVarSource,
    host: &Host,
    objects: &Objects,
) -> Result<Option<String>, Waiting> {
    if let Some(field) = &source.field_ref {
        return match fields::value(pod, host, &field.field_path) {
            Some(value) => Ok(Some(value)),
            None => Err(config_error(format!(
                "unsupported fieldPath: {}",
                field.field_path
            ))),
        };
    }
    if let Some(selector) = &source.resource_field_ref {
        let value = fields::resource::value(pod, Some(container), host, selector);
        return value.map(Some).map_err(config_error);
    }
    let (kind, name, key, optional) = match (&source.config_map_key_ref, &source.secret_key_ref) {
        (Some(it), _) => (
            Kind::ConfigMap,
            &it.name,
            &it.key,
            it.optional == Some(true),
        ),
        (None, Some(it)) => (Kind::Secret, &it.name, &it.key, it.optional == Some(true)),
        (None, None) => return Err(config_error("valueFrom has no source this node knows")),
    };
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    match objects.get(kind, name) {
        None if optional => Ok(None),
        None => Err(config_error(kind.not_found(name))),
        Some(data) => match data.variable(key) {
            Some(value) => text(value, variable, key, kind, namespace, name).map(Some),
            None if optional => Ok(None),
            None => Err(config_error(format!(
                "couldn't find key {key} in {} {namespace}/{name}",
                kind.title()
            ))),
        },
    }
}

/// A secret's values are bytes by type; those that are no text have no place in an
/// environment, and are never changed to fit.
fn text(
    value: &[u8],
    variable: &str,
    key: &str,
    kind: Kind,
    namespace: &str,
    name: &str,
) -> Result<String, Waiting> {
    let what = match std::str::from_utf8(value) {
        Ok(text) if !text.contains('\0') => return Ok(text.to_owned()),
        Ok(_) => "has a NUL byte",
        Err(_) => "is not valid UTF-8",
    };
    Err(Waiting {
        reason: "CreateContainerError",
        message: format!(
            "environment variable {variable}: the value of key {key} in {} {namespace}/{name} \
             {what}; mount it as a file instead",
            kind.title()
        ),
    })
}

/// Everything together, for the process.
pub fn merged(host: &Host, own: BTreeMap<String, String>) -> Vec<(String, String)> {
    let inherited = host
        .environment
        .iter()
        .filter(|(name, _)| !own.contains_key(name))
        .cloned();
    let mut all: Vec<_> = inherited.collect();
    all.extend(own);
    all
}

/// Whether a key may be a variable: printable ASCII without `=`, as the API allows since 1.34.
fn is_variable(name: &str) -> bool {
    !name.is_empty()
        && name
            .bytes()
            .all(|it| (b' '..=b'~').contains(&it) && it != b'=')
}

fn config_error(message: impl Into<String>) -> Waiting {
    Waiting {
        reason: "CreateContainerConfigError",
        message: message.into(),
    }
}

#[cfg(test)]
mod tests;
