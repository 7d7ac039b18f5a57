//! Which site this is.

use std::path::PathBuf;

use super::env;
use crate::cli::SiteArgs;
use crate::exit::UsageError;
use crate::site::{Catalog, Site, SiteError, Surroundings};

/// The directory of the user's profiles: `$XDG_CONFIG_HOME/vk-cmd/sites`, else `~/.config/vk-cmd/sites`.
pub fn directory() -> Option<PathBuf> {
    let absolute = |key: &str| {
        std::env::var_os(key)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    let config = absolute("XDG_CONFIG_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".config")))?;
    Some(config.join("vk-cmd/sites"))
}

/// All profiles that the flags let see.
///
/// # Errors
/// A file that cannot be read or does not fit.
pub fn catalog(args: &SiteArgs) -> Result<Catalog, UsageError> {
    let file = args.site_file.as_deref();
    Catalog::load(directory().as_deref(), file).map_err(usage)
}

/// The site that holds here.
///
/// # Errors
/// A name that no profile has, or a profile that does not fit; each names file, key, value and mend.
pub fn resolve(args: &SiteArgs) -> Result<Site, UsageError> {
    let here = Surroundings::look(None);
    let site = args.site.as_deref().filter(|name| !name.is_empty());
    let from = |name: &str| {
        let set = std::env::var(env::VK_CMD_SITE).is_ok_and(|set| set == name);
        if set { "environment" } else { "command line" }
    };
    let (profile, origin, chosen) = catalog(args)?
        .choose(site.map(|name| (name, from(name))), &here)
        .map_err(usage)?;
    Ok(Site::settle(profile, origin, chosen, &here))
}

/// Profiles are input: what is wrong with them ends the program as a wrong flag does.
fn usage(error: SiteError) -> UsageError {
    let (key, value, problem, origin, mend) = match error {
        SiteError::Unreadable { path, source } => (
            "site profile".to_owned(),
            path.display().to_string(),
            format!("cannot be read: {source}"),
            "command line, environment or configuration".to_owned(),
            "name a file that this user may read".to_owned(),
        ),
        SiteError::Syntax { path, problem } => (
            "site profile".to_owned(),
            path.display().to_string(),
            format!("is no YAML: {problem}"),
            path.display().to_string(),
            "see docs/sites.md for the schema".to_owned(),
        ),
        SiteError::Schema { origin, problem } => (
            problem.key,
            problem.value,
            problem.problem,
            origin.to_string(),
            problem.mend,
        ),
        SiteError::Unknown {
            key,
            name,
            mend,
            source_of_name,
        } => (
            key,
            name,
            "is no known site".to_owned(),
            source_of_name,
            mend,
        ),
        SiteError::Circle { name, chain } => (
            "base".to_owned(),
            name,
            "is its own base".to_owned(),
            chain,
            "take one base out".to_owned(),
        ),
    };
    UsageError {
        key,
        value,
        problem,
        origin,
        mend,
    }
}
