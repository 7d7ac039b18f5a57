//! Profile and surroundings into one site that never changes.

use std::path::PathBuf;

use super::catalog::{Chosen, Origin};
use super::profile::{EngineChoice, Launch, Placement, Profile};
use super::surroundings::{Seat, Surroundings};
use crate::container::engine::Kind;

/// A site as agent and launcher use it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Site {
    /// What is written.
    pub profile: Profile,
    /// Where it is written.
    pub origin: Origin,
    /// Why this one.
    pub chosen: Chosen,
    /// Where the agent sits.
    pub seat: Seat,
    /// How script and host containers are started.
    pub launch: LaunchMode,
    /// How image containers are started.
    pub engine: EngineAccess,
    /// The hostpipe's directory as this process sees it.
    pub hostpipe: PathBuf,
}

/// Who starts a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LaunchMode {
    /// The agent itself.
    Direct,
    /// Whoever reads the hostpipe, on the host.
    Hostpipe,
}

/// How the site's engine is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EngineAccess {
    /// Its program is here, or on the host behind the hostpipe.
    Reached {
        /// Which engine.
        kind: Kind,
        /// Its program.
        program: String,
        /// Who starts it.
        launch: LaunchMode,
    },
    /// Image containers are refused.
    Unreached {
        /// Why, and what helps; a sentence without a stop.
        mend: String,
    },
}

impl Site {
    /// Decides what the profile leaves open.
    pub fn settle(profile: Profile, origin: Origin, chosen: Chosen, here: &Surroundings) -> Self {
        let seat = match (profile.agent, here.seat) {
            (Placement::Host, _) => Seat::Host,
            // Written to sit in the image, and it does not show whose container this is: the engine's own.
            (Placement::Image, Seat::Host) => match profile.engine.kind {
                EngineChoice::Use(kind) if here.hostpipe.is_some() => Seat::Inside(kind),
                _ => Seat::Host,
            },
            (_, found) => found,
        };
        let daemon = |kind| matches!(kind, Kind::Docker | Kind::Podman | Kind::PodmanHpc);
        let launch = match (profile.launch, seat) {
            (Launch::Direct, _) | (Launch::Auto, Seat::Host) => LaunchMode::Direct,
            (Launch::Hostpipe, _) => LaunchMode::Hostpipe,
            // A container that was made for the agent has a pipe; any other (a development machine that is a
            // container itself) is as good as a host.
            (Launch::Auto, Seat::Inside(kind))
                if daemon(kind)
                    && (here.hostpipe.is_some() || profile.agent == Placement::Image) =>
            {
                LaunchMode::Hostpipe
            }
            (Launch::Auto, Seat::Inside(_)) => LaunchMode::Direct,
        };
        let hostpipe = match &profile.hostpipe {
            Some(path) => PathBuf::from(expand(path, here)),
            None if here.hostpipe.is_some() => here
                .hostpipe
                .as_deref()
                .and_then(std::path::Path::parent)
                .unwrap_or_else(|| std::path::Path::new("/"))
                .to_owned(),
            None => {
                let home = here.environment.get("HOME").map_or("/", String::as_str);
                PathBuf::from(home).join("hostpipe")
            }
        };
        let engine = engine(&profile, seat, launch, here);
        Self {
            profile,
            origin,
            chosen,
            seat,
            launch,
            engine,
            hostpipe,
        }
    }

    /// The name that `--site` takes.
    pub fn name(&self) -> &str {
        &self.profile.name
    }
}

fn engine(profile: &Profile, seat: Seat, launch: LaunchMode, here: &Surroundings) -> EngineAccess {
    let unreached = |mend: String| EngineAccess::Unreached { mend };
    let written = |kind: Kind| {
        let own = || kind.program().to_owned();
        profile.engine.program.clone().unwrap_or_else(own)
    };
    let path = here.environment.get("PATH").map_or("", String::as_str);
    let find = |kind: Kind| super::surroundings::find_program(&written(kind), path);
    let here_too = match profile.engine.kind {
        // Nested Shifter does not exist: it is set-uid, and its containers get no new privileges.
        EngineChoice::Use(Kind::Shifter) if seat == Seat::Inside(Kind::Shifter) => false,
        EngineChoice::Use(kind) => find(kind).is_some(),
        EngineChoice::Auto | EngineChoice::None => !here.engines.is_empty(),
    };
    // In a container the engine is on the host, behind the pipe.
    if launch == LaunchMode::Hostpipe || (seat != Seat::Host && !here_too) {
        let piped = launch == LaunchMode::Hostpipe || here.hostpipe.is_some();
        let kind = match (profile.engine.kind, seat) {
            (EngineChoice::Use(kind), _) | (EngineChoice::Auto, Seat::Inside(kind)) => kind,
            (EngineChoice::None, _) => return unreached(NONE.to_owned()),
            (EngineChoice::Auto, Seat::Host) => {
                return unreached(
                    "the profile has to name the engine that the host end of the hostpipe has: \
                     set engine.kind"
                        .to_owned(),
                );
            }
        };
        if piped {
            return EngineAccess::Reached {
                kind,
                program: written(kind),
                launch: LaunchMode::Hostpipe,
            };
        }
        return unreached(format!(
            "this agent sits in a container, where {kind} cannot be started: serve a hostpipe on the \
             host (vk-cmd hostpipe serve, in the run scripts), or copy the agent out of its image and \
             start it on the host (cp -r /vk-cmd .)"
        ));
    }
    let chosen = match profile.engine.kind {
        EngineChoice::None => return unreached(NONE.to_owned()),
        EngineChoice::Use(kind) => kind,
        EngineChoice::Auto => {
            let mut all = Kind::ALL.into_iter();
            match all.find(|kind| here.engines.contains_key(kind)) {
                Some(kind) => kind,
                None => {
                    return unreached(
                        "no container engine is installed on this node: install apptainer, podman, \
                         docker or charliecloud"
                            .to_owned(),
                    );
                }
            }
        }
    };
    match find(chosen) {
        Some(program) => EngineAccess::Reached {
            kind: chosen,
            program: program.to_string_lossy().into_owned(),
            launch: LaunchMode::Direct,
        },
        None => unreached(format!(
            "the program {:?} of site {:?} is not in PATH: load its module, or set engine.program in \
             a profile (vk-cmd site init)",
            written(chosen),
            profile.name
        )),
    }
}

const NONE: &str = "the site's profile says engine.kind: none";

/// `~` and `$NAME` at the start of a path; as it stands where there is no such variable.
pub fn expand(path: &str, here: &Surroundings) -> String {
    let lookup = |name: &str| here.environment.get(name).map(String::as_str);
    crate::container::engine::expand(path, lookup)
}
