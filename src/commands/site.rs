//! `vk-cmd site`: profiles and what this machine can do.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Serialize;

use crate::cli::{
    SiteAction, SiteCheckArgs, SiteInitArgs, SiteListArgs, SiteOutput, SiteShowArgs, SiteVerb,
};
use crate::exit::{Exit, UsageError};
use crate::printer;
use crate::settings::site::{catalog, directory, resolve};
use crate::site::probe::{Facts, Finding, Level, Wish, judge};
use crate::site::settle::expand;
use crate::site::{EngineAccess, LaunchMode, Seat, Site, Surroundings};

/// Runs an action.
///
/// # Errors
/// Profiles that do not fit, files that cannot be written.
pub async fn run(verb: SiteVerb) -> Result<Exit> {
    match verb.action {
        SiteAction::List(args) => list(&args),
        SiteAction::Show(args) => show(&args),
        SiteAction::Init(args) => init(&args),
        SiteAction::Check(args) => check(args).await,
    }
}

/// A line of the list.
#[derive(Serialize)]
struct Row {
    name: String,
    chosen: bool,
    engine: &'static str,
    origin: String,
    description: String,
}

fn list(args: &SiteListArgs) -> Result<Exit> {
    let chosen = resolve(&args.site)?;
    let catalog = catalog(&args.site)?;
    let mut rows = Vec::new();
    for name in catalog.names() {
        let (profile, origin) = catalog.get(name, "site", "catalog")?;
        rows.push(Row {
            name: name.to_owned(),
            chosen: name == chosen.name(),
            engine: profile.engine.kind.name(),
            origin: origin.to_string(),
            description: profile.description,
        });
    }
    match args.output {
        SiteOutput::Json => printer::line(serde_json::to_string_pretty(&rows)?)?,
        SiteOutput::Yaml => printer::out(serde_norway::to_string(&rows)?.as_bytes())?,
        SiteOutput::Text => {
            let width = |of: fn(&Row) -> usize| rows.iter().map(of).max().unwrap_or(0);
            let (names, engines) = (width(|row| row.name.len()), width(|row| row.engine.len()));
            let origins = width(|row| row.origin.len());
            for row in &rows {
                let mark = if row.chosen { '*' } else { ' ' };
                let Row {
                    name,
                    engine,
                    origin,
                    description,
                    ..
                } = row;
                printer::line(format!(
                    "{mark} {name:names$}  {engine:engines$}  {origin:origins$}  {description}"
                ))?;
            }
            printer::note(format!("* {}: {}", chosen.name(), chosen.chosen));
        }
    }
    Ok(Exit::Success)
}

fn show(args: &SiteShowArgs) -> Result<Exit> {
    let mut site = args.site.clone();
    site.site = args.name.clone().or(site.site);
    let site = resolve(&site)?;
    match args.output {
        SiteOutput::Json => printer::line(serde_json::to_string_pretty(&site.profile)?)?,
        SiteOutput::Yaml => printer::out(serde_norway::to_string(&site.profile)?.as_bytes())?,
        SiteOutput::Text => {
            printer::line(format!("site: {} ({})", site.name(), site.chosen))?;
            printer::line(format!("written in: {}", site.origin))?;
            let seat = match site.seat {
                Seat::Host => "on the host".to_owned(),
                Seat::Inside(kind) => format!("in a container of {kind}"),
            };
            printer::line(format!("agent: {seat}"))?;
            let launch = |launch: LaunchMode| match launch {
                LaunchMode::Direct => "directly".to_owned(),
                LaunchMode::Hostpipe => format!("through {}", site.hostpipe.display()),
            };
            printer::line(format!(
                "scripts and host commands: {}",
                launch(site.launch)
            ))?;
            let engine = match &site.engine {
                EngineAccess::Reached {
                    program,
                    launch: by,
                    ..
                } => format!("by {program}, {}", launch(*by)),
                EngineAccess::Unreached { mend } => format!("refused: {mend}"),
            };
            printer::line(format!("images: {engine}"))?;
        }
    }
    Ok(Exit::Success)
}

fn init(args: &SiteInitArgs) -> Result<Exit> {
    let wrong = |value: &str, problem: String, mend: &str| UsageError {
        key: "name".to_owned(),
        value: value.to_owned(),
        problem,
        origin: "command line".to_owned(),
        mend: mend.to_owned(),
    };
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if args.name.is_empty() || args.name.starts_with('.') || !args.name.chars().all(good) {
        return Err(wrong(
            &args.name,
            "cannot be a site's name".to_owned(),
            "use letters, digits, '-', '_' and '.'",
        )
        .into());
    }
    let catalog = catalog(&crate::cli::SiteArgs::default())?;
    let (base, _) = catalog
        .get(&args.base, "--base", "command line")
        .map_err(|error| wrong(&args.base, format!("is no base: {error}"), "name another"))?;
    let text = template(&args.name, &args.base, base.engine.kind.name());
    let path = match &args.file {
        Some(path) if path == Path::new("-") => {
            printer::out(text.as_bytes())?;
            return Ok(Exit::Success);
        }
        Some(path) => path.clone(),
        None => directory()
            .context("HOME is not set: name a file with --file")?
            .join(format!("{}.yaml", args.name)),
    };
    write(&path, &text, args.force)?;
    printer::line(path.display().to_string())?;
    Ok(Exit::Success)
}

async fn check(args: SiteCheckArgs) -> Result<Exit> {
    let site = resolve(&args.site)?;
    let here = Surroundings::look(None);
    let wish = wish(&site, &here, &args);
    // Programs and connections are waited for.
    let look = tokio::task::spawn_blocking(move || Facts::gather(&here, &wish));
    let findings = judge(&site, &look.await?);
    match args.output {
        SiteOutput::Json => printer::line(serde_json::to_string_pretty(&findings)?)?,
        SiteOutput::Yaml => printer::out(serde_norway::to_string(&findings)?.as_bytes())?,
        SiteOutput::Text => printer::out(report(&findings).as_bytes())?,
    }
    let failed = findings.iter().any(|it| it.level == Level::Fail);
    Ok(if failed { Exit::Failure } else { Exit::Success })
}

/// What is looked at for a site.
fn wish(site: &Site, here: &Surroundings, args: &SiteCheckArgs) -> Wish {
    let profile = &site.profile;
    let home = here.environment.get("HOME").map(PathBuf::from);
    let root = args.root.clone().or_else(|| {
        let state = crate::settings::default_state_dir().ok()?;
        // The nearest directory that is there already: a check makes nothing.
        { state.ancestors() }
            .find(|it| it.is_dir())
            .map(Path::to_owned)
    });
    let sockets = crate::container::launch::default_socket_dir();
    let sockets = { sockets.ancestors() }
        .find(|it| it.is_dir())
        .map(Path::to_owned);
    let directories = [("home", home), ("root", root), ("sockets", sockets)];
    let mut reach = args.reach.clone();
    if let Some(host) = &profile.tunnels.control_plane {
        let host = host.rsplit('@').next().unwrap_or(host);
        reach.push(format!("{host}:22"));
    }
    Wish {
        directories: directories
            .into_iter()
            .filter_map(|(name, path)| Some((name.to_owned(), path?)))
            .collect(),
        reach,
        engine_program: match &site.engine {
            EngineAccess::Reached { kind, program, .. } => Some((*kind, program.clone())),
            EngineAccess::Unreached { .. } => None,
        },
        engine_environment: { profile.engine.environment.iter() }
            .map(|(name, value)| (name.clone(), expand(value, here)))
            .collect(),
        identity_file: { profile.tunnels.identity_file.as_ref() }
            .map(|path| PathBuf::from(expand(path, here))),
        hostpipe: Some(site.hostpipe.clone()),
    }
}

/// Findings for people: what works in a line, what does not with its meaning and its mend.
fn report(findings: &[Finding]) -> String {
    let width = findings.iter().map(|it| it.id.len()).max().unwrap_or(0);
    let mut text = String::new();
    for finding in findings {
        let Finding {
            id,
            level,
            found,
            means,
            mend,
            ..
        } = finding;
        let mark = match level {
            Level::Ok => "ok  ",
            Level::Info => "info",
            Level::Warn => "WARN",
            Level::Fail => "FAIL",
        };
        text.push_str(&format!("{mark}  {id:width$}  {found}\n"));
        for (word, line) in [("means", means), ("mend", mend)] {
            if *level != Level::Ok && !line.is_empty() {
                text.push_str(&format!("      {:width$}  {word}: {line}\n", ""));
            }
        }
    }
    text
}

fn write(path: &PathBuf, text: &str, force: bool) -> Result<()> {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).with_context(|| parent.display().to_string())?;
    }
    let mut options = std::fs::OpenOptions::new();
    options.write(true).mode(0o644);
    if force {
        options.create(true).truncate(true);
    } else {
        options.create_new(true);
    }
    let mut file = options.open(path).map_err(|error| UsageError {
        key: "--file".to_owned(),
        value: path.display().to_string(),
        problem: format!("cannot be written: {error}"),
        origin: "command line or default".to_owned(),
        mend: "name another file, or say --force to replace it".to_owned(),
    })?;
    file.write_all(text.as_bytes())
        .with_context(|| path.display().to_string())
}

/// A profile with every key of use in it, all but two as comments.
fn template(name: &str, base: &str, engine: &str) -> String {
    format!(
        "# A site profile of vk-cmd. What is not written here comes from the base.
# The schema is in docs/sites.md; `vk-cmd site show {name}` prints the whole,
# `vk-cmd site check --site {name}` tells what of it works on this machine.
name: {name}
base: {base}
# match:                       # how the site is known when nobody names it
#   environment: {{CENTRE: mine}}
#   hostname: ['login*']
# engine:
#   kind: {engine}
#   runArgs: []
# environment:
#   pass: ['SLURM_*']          # of the job's, into image containers
#   deny: [MY_TOKEN]           # for no container
#   home: true                 # image containers see the home
# binds: ['$SCRATCH', '/cvmfs:/cvmfs:ro']
# images:
#   example.org/tool:1: {{sif: /software/tool.sif}}
# tunnels:
#   controlPlane: user@control-plane
#   apiServerPort: 6443
#   kubeletPort: same
# batch:
#   system: slurm
#   account: my-project
#   walltime: '01:00:00'
"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::site::Catalog;

    #[test]
    fn the_template_is_a_profile_with_and_without_its_comments() {
        let dir = tempfile::tempdir().expect("a directory");
        let text = template("mine", "ifarm", "apptainer");
        let open: String = text
            .lines()
            .skip_while(|line| !line.starts_with("name:"))
            .map(|line| format!("{}\n", line.strip_prefix("# ").unwrap_or(line)))
            .collect();
        for text in [text, open] {
            let path = dir.path().join("mine.yaml");
            write(&path, &text, true).expect("written");
            let catalog = Catalog::load(None, Some(&path)).expect(&text);
            let (profile, _) = catalog.get("mine", "site", "test").expect(&text);
            assert!(profile.environment.home, "{text}");
        }
        let path = dir.path().join("mine.yaml");
        write(&path, "", false).expect_err("a file is not replaced by mistake");
    }
}
