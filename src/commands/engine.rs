//! From the site's profile to the engine that pods use, and to what they have of the job's environment.

use std::collections::BTreeMap;
use std::path::Path;

use crate::container::engine::{Bind, Engine, Image};
use crate::pod::env;
use crate::pod::images::{Images, Means, Parts, Source};
use crate::site::catalog::glob;
use crate::site::profile::ImageSource;
use crate::site::settle::expand;
use crate::site::{EngineAccess, LaunchMode, Site, Surroundings};

/// What a site makes of the batch job's environment and of images.
pub(super) struct Job {
    /// What pods start from, before the deny list.
    pub(super) environment: Vec<(String, String)>,
    /// What becomes of image references.
    pub(super) means: Means,
    /// The engine.
    pub(super) images: Option<Images>,
}

/// Variables that an engine's own programs heed; `*` stands for any rest.
const OF_ENGINES: [&str; 22] = [
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "LANG",
    "XDG_RUNTIME_DIR",
    "XDG_CONFIG_HOME",
    "XDG_DATA_HOME",
    "DBUS_SESSION_BUS_ADDRESS",
    "DOCKER_*",
    "CONTAINER_HOST",
    "CONTAINERS_*",
    "PODMANHPC_*",
    "APPTAINER_*",
    "SINGULARITY_*",
    "CH_*",
    "SSL_CERT_*",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "HTTPS_PROXY",
    "NO_PROXY",
];

/// Variables of the host that mean nothing in an image, or break it.
const OF_THE_HOST: [&str; 13] = [
    "PATH", "HOME", "PWD", "OLDPWD", "SHELL", "SHLVL", "HOSTNAME", "TMPDIR", "LD_*", "XDG_*", "_",
    "MANPATH", "TERM",
];

fn in_list<S: AsRef<str>>(list: &[S], name: &str) -> bool {
    list.iter().any(|pattern| glob(pattern.as_ref(), name))
}

/// Decides for a site; `base` is where pod data lies.
pub(super) fn job(site: &Site, base: &Path) -> Job {
    let here = Surroundings::look(None);
    let profile = &site.profile;
    let mut all = here.environment.clone();
    for (name, value) in &profile.environment.set {
        all.insert(name.clone(), value.clone());
    }
    let environment: Vec<(String, String)> = all.into_iter().collect();
    let (kind, program, launch) = match &site.engine {
        EngineAccess::Unreached { mend } => {
            return Job {
                environment,
                means: Means::Mend(mend.clone()),
                images: None,
            };
        }
        EngineAccess::Reached {
            kind,
            program,
            launch,
        } => (*kind, program.clone(), *launch),
    };
    if launch == LaunchMode::Hostpipe {
        let mend = format!(
            "{kind} on the far side of the hostpipe is not asked for images yet: run the agent on the \
             host, or write the engine's own command line as the command of a container with image \
             \"host\""
        );
        return Job {
            environment,
            means: Means::Mend(mend),
            images: None,
        };
    }
    let own = { here.environment.iter() }
        .filter(|(name, _)| in_list(&OF_ENGINES, name))
        .map(|(name, value)| (name.clone(), value.clone()));
    let mut engine_environment: BTreeMap<String, String> = own.collect();
    if let Ok(Some(user)) = nix::unistd::User::from_uid(nix::unistd::geteuid()) {
        // ch-run ends without it.
        engine_environment
            .entry("USER".to_owned())
            .or_insert(user.name);
    }
    for (name, value) in &profile.engine.environment {
        engine_environment.insert(name.clone(), expand(value, &here));
    }
    let passed = env::inherited(&environment, &profile.environment.deny)
        .into_iter()
        .filter(|(name, _)| {
            let set = profile.environment.set.contains_key(name);
            set || (in_list(&profile.environment.pass, name) && !in_list(&OF_THE_HOST, name))
        })
        .collect();
    let image_dir = match &profile.engine.image_dir {
        Some(dir) => expand(dir, &here),
        None => base.join("images").to_string_lossy().into_owned(),
    };
    let binds = profile.binds.iter().filter_map(|bind| {
        let source = expand(&bind.source, &here);
        if !source.starts_with('/') {
            tracing::warn!(
                path = bind.source,
                "a bind of the site's profile is left out: its variable is not set"
            );
            return None;
        }
        Some(Bind {
            target: bind.target.clone().unwrap_or_else(|| source.clone()),
            source,
            read_only: bind.read_only,
        })
    });
    let sources = profile.images.iter().map(|(name, source)| {
        let source = match source {
            ImageSource::Reference(other) => Source::Reference(other.clone()),
            ImageSource::Sif(path) => Source::Ready(Image::Sif(expand(path, &here))),
            ImageSource::Directory(path) => Source::Ready(Image::Directory {
                path: expand(path, &here),
                environment: false,
            }),
            ImageSource::Command(words) => Source::Ready(Image::Command(words.clone())),
        };
        (name.clone(), source)
    });
    let home = here
        .environment
        .get("HOME")
        .filter(|_| profile.environment.home);
    let images = Images::new(Parts {
        engine: Engine {
            kind,
            program,
            global_args: profile.engine.global_args.clone(),
            run_args: profile.engine.run_args.clone(),
            pull_args: profile.engine.pull_args.clone(),
            gpu_args: profile.engine.gpu_args.clone(),
            environment: engine_environment,
            image_dir,
        },
        sources: sources.collect(),
        environment: passed,
        binds: binds.collect(),
        home: home.cloned(),
    });
    Job {
        environment,
        means: images.means(),
        images: Some(images),
    }
}
