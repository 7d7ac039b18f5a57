//! `vk-cmd apply`.

use anyhow::{Context, Result};

use crate::cli::ApplyArgs;
use crate::client::{Connection, Kind, Kinds, Manifest, read_manifests};
use crate::exit::{Exit, UsageError};
use crate::printer;

/// An object after it was applied.
#[derive(Debug, Clone)]
pub struct AppliedObject {
    /// Its kind.
    pub kind: Kind,
    /// Its namespace, where its kind has one.
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
}

/// Creates or changes objects.
///
/// # Errors
/// Those of the files and of the cluster.
pub async fn run(args: ApplyArgs) -> Result<Exit> {
    // The files first: a typo must not need a cluster to be found.
    let manifests = read_manifests(&args.filename)?;
    let connection = super::connect(&args.cluster).await?;
    apply_all(&connection, manifests, args.dry_run, &mut |line| {
        printer::line(line).map_err(Into::into)
    })
    .await?;
    Ok(Exit::Success)
}

/// Applies every object, in order, and tells `say` of each.
pub(super) async fn apply_all(
    connection: &Connection,
    manifests: Vec<Manifest>,
    dry_run: bool,
    say: &mut (dyn FnMut(&str) -> Result<()> + Send),
) -> Result<Vec<AppliedObject>> {
    let kinds = Kinds::discover(&connection.client).await?;
    let mut applied = Vec::new();
    for manifest in manifests {
        let kind = kinds
            .by_kind(&manifest.api_version, &manifest.kind)
            .ok_or_else(|| UsageError {
                key: "kind".to_owned(),
                value: format!("{} {}", manifest.api_version, manifest.kind),
                problem: "is not a kind that the server knows".to_owned(),
                origin: manifest.origin.clone(),
                mend: "check apiVersion and kind".to_owned(),
            })?;
        let namespace = kind.namespaced.then(|| {
            let own = manifest.namespace.as_deref();
            own.unwrap_or(&connection.namespace).to_owned()
        });
        let (what, _) = connection
            .apply(
                kind,
                namespace.as_deref(),
                &manifest.name,
                &manifest.object,
                dry_run,
            )
            .await
            .with_context(|| manifest.origin.clone())?;
        let tail = if dry_run { " (server dry run)" } else { "" };
        say(&format!(
            "{}/{} {}{tail}",
            kind.display(),
            manifest.name,
            what.word()
        ))?;
        applied.push(AppliedObject {
            kind: kind.clone(),
            namespace,
            name: manifest.name,
        });
    }
    Ok(applied)
}
