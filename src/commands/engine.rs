//! From the site's profile to the engine that pods use, and to what they have of the job's environment.

use std::collections::BTreeMap;
use std::path::Path;

use crate::agent::Hostpipe;
use crate::container::engine::{Bind, Engine, Image, is_for_engines};
use crate::pod::images::{Images, Job as Seen, Means, Parts, Source, Via};
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

/// Decides for a site; `base` is where pod data lies.
pub(super) fn job(site: &Site, base: &Path, hostpipe: Option<&Hostpipe>) -> Job {
    let mut here = Surroundings::look(None);
    let profile = &site.profile;
    let mut all = here.environment.clone();
    for (name, value) in &profile.environment.set {
        all.insert(name.clone(), value.clone());
    }
    let environment: Vec<(String, String)> = all.into_iter().collect();
    let refused = |environment, mend: String| Job {
        environment,
        means: Means::Mend(mend),
        images: None,
    };
    let (kind, program, launch) = match &site.engine {
        EngineAccess::Unreached { mend } => return refused(environment, mend.clone()),
        EngineAccess::Reached {
            kind,
            program,
            launch,
        } => (*kind, program.clone(), *launch),
    };
    let via = match (launch, hostpipe) {
        (LaunchMode::Direct, _) => Via::Here,
        (LaunchMode::Hostpipe, Some(pipe)) => Via::Host(pipe.client.clone()),
        (LaunchMode::Hostpipe, None) => {
            let mend = format!(
                "{kind} is on the host, and this agent was started without its hostpipe ({}): mount it, \
                 and serve it on the host (vk-cmd hostpipe serve)",
                site.hostpipe.display()
            );
            return refused(environment, mend);
        }
    };
    let on_host = matches!(via, Via::Host(_));
    if let Via::Host(client) = &via {
        // Paths of the profile are the host's.
        let facts = client.facts();
        let there = facts
            .iter()
            .flat_map(|facts| facts.environment.iter().cloned());
        here.environment = there.collect();
    }
    let mut own: BTreeMap<String, String> = BTreeMap::new();
    if !on_host {
        let heeded = here
            .environment
            .iter()
            .filter(|(name, _)| is_for_engines(name));
        own.extend(heeded.map(|(name, value)| (name.clone(), value.clone())));
        if let Ok(Some(user)) = nix::unistd::User::from_uid(nix::unistd::geteuid()) {
            // ch-run ends without it.
            own.entry("USER".to_owned()).or_insert(user.name);
        }
    }
    for (name, value) in &profile.engine.environment {
        own.insert(name.clone(), expand(value, &here));
    }
    let image_dir = match (&profile.engine.image_dir, here.environment.get("HOME")) {
        (Some(dir), _) => expand(dir, &here),
        (None, Some(home)) if on_host => format!("{home}/.local/share/vk-cmd/images"),
        (None, _) => base.join("images").to_string_lossy().into_owned(),
    };
    let binds = profile.binds.iter().map(|bind| Bind {
        target: bind.target.clone().unwrap_or_else(|| bind.source.clone()),
        source: bind.source.clone(),
        read_only: bind.read_only,
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
    let images = Images::new(Parts {
        engine: Engine {
            kind,
            program,
            global_args: profile.engine.global_args.clone(),
            run_args: profile.engine.run_args.clone(),
            pull_args: profile.engine.pull_args.clone(),
            gpu_args: profile.engine.gpu_args.clone(),
            environment: own,
            image_dir,
        },
        sources: sources.collect(),
        job: Seen {
            pass: profile.environment.pass.clone(),
            set: profile.environment.set.clone(),
            binds: binds.collect(),
            home: profile.environment.home,
        },
        via,
    });
    Job {
        environment,
        means: images.means(),
        images: Some(images),
    }
}
