//! Who we are to a registry.

use base64::Engine as _;
use serde_json::Value;

/// Who we are to a registry: the `.dockerconfigjson` of pull secrets.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Auth {
    entries: Vec<(String, Value)>,
}

/// Leaves the secrets out.
impl std::fmt::Debug for Auth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list()
            .entries(self.entries.iter().map(|it| &it.0))
            .finish()
    }
}

impl Auth {
    /// Adds what a secret holds; what is added first holds.
    ///
    /// # Errors
    /// A sentence where it is no `.dockerconfigjson`.
    pub fn add(&mut self, config: &str) -> Result<(), String> {
        let value: Value =
            serde_json::from_str(config).map_err(|error| format!("is no JSON: {error}"))?;
        // `.dockercfg`, the older form, has the hosts at its top.
        let auths = value.get("auths").unwrap_or(&value);
        let auths = auths.as_object().ok_or("has no \"auths\"")?;
        for (host, entry) in auths {
            self.entries.push((host.clone(), entry.clone()));
        }
        Ok(())
    }

    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// As a `config.json`.
    pub(super) fn config(&self) -> String {
        let mut auths = serde_json::Map::new();
        for (host, entry) in &self.entries {
            auths.entry(host.clone()).or_insert_with(|| entry.clone());
        }
        serde_json::json!({ "auths": auths }).to_string()
    }

    /// User and password for a registry.
    pub fn login(&self, registry: &str) -> Option<(String, String)> {
        let bare = |host: &str| {
            let host = host
                .trim_start_matches("https://")
                .trim_start_matches("http://");
            host.split('/').next().unwrap_or_default().to_owned()
        };
        let hub = |host: &str| {
            matches!(
                host,
                "docker.io" | "index.docker.io" | "registry-1.docker.io"
            )
        };
        let (_, entry) = self.entries.iter().find(|(host, _)| {
            let host = bare(host);
            host == registry || (hub(&host) && hub(registry))
        })?;
        let text = |key: &str| entry.get(key).and_then(Value::as_str).map(str::to_owned);
        if let (Some(user), Some(password)) = (text("username"), text("password")) {
            return Some((user, password));
        }
        let decoded = base64::engine::general_purpose::STANDARD
            .decode(text("auth")?)
            .ok()?;
        let decoded = String::from_utf8(decoded).ok()?;
        let (user, password) = decoded.split_once(':')?;
        Some((user.to_owned(), password.to_owned()))
    }
}

/// The registry of a reference.
pub fn registry(reference: &str) -> &str {
    match reference.split_once('/') {
        Some((host, _)) if host == "localhost" || host.contains(['.', ':']) => host,
        _ => "docker.io",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registries_are_read_as_docker_reads_them() {
        for (reference, wanted) in [
            ("busybox", "docker.io"),
            ("library/busybox:1", "docker.io"),
            ("quay.io/a/b", "quay.io"),
            ("localhost/a", "localhost"),
            ("host:5000/a", "host:5000"),
        ] {
            assert_eq!(registry(reference), wanted);
        }
        let mut hub = Auth::default();
        hub.add(r#"{"auths":{"https://index.docker.io/v1/":{"username":"u","password":"p"}}}"#)
            .expect("good");
        assert_eq!(
            hub.login("docker.io"),
            Some(("u".to_owned(), "p".to_owned()))
        );
    }
}
