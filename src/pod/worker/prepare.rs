//! From a container's spec to what its shim runs: look-ups, environment, mounts, command.

use std::{path::PathBuf, sync::Arc};

use k8s_openapi::api::core::v1::{Container, Pod, VolumeMount};

use super::{
    Context,
    ending::{DEFAULT_PATH, FILE},
    start::{NotBuilt, create_error, start_obstacle},
    volumes::look_up,
};
use crate::{
    container::{ContainerDir, ContainerSpec, Mount, StartFailure, dir::DirError, engine},
    pod::{
        admission::{self, Image},
        api::chain,
        command::{self, SCRIPT_ANNOTATION, Script},
        compat::Obstacle,
        containers,
        env::{self, expand},
        images,
        machine::Waiting,
        mounts::{self, Layout},
        volumes::{self, MountOf, PlaceError},
    },
};

/// What the worker tells besides: whether it is a warning, a reason, a message.
pub(super) type Notices = Vec<(bool, &'static str, String)>;

/// What there is to start.
pub(super) struct Prepared {
    pub(super) spec: ContainerSpec,
    pub(super) notices: Notices,
    /// What the engine knows the image's content by; empty for what is no image.
    pub(super) image_id: String,
}

pub(super) async fn prepare(
    context: &Arc<Context>,
    pod: &Arc<Pod>,
    (uid, name, attempt): (&str, &str, u32),
    tell: &(impl Fn((bool, &'static str, String)) + Send + Sync),
) -> Result<Prepared, NotBuilt> {
    let Some((_, container)) = containers::find(pod, name) else {
        return Err(create_error(format!("the pod has no container {name}")).into());
    };
    let mut needs = env::needs(&container);
    let in_image = matches!(admission::image(&container), Image::Reference);
    if in_image {
        needs.extend(images::secrets(pod));
    }
    let objects = look_up(context, pod, needs).await;
    let objects = objects.map_err(|problem| config_error(problem.to_string()))?;
    let services = if env::links(pod) {
        context.follow.services().await
    } else {
        Arc::default()
    };
    let resolved = env::resolve(pod, &container, &context.host, &services, &objects)?;
    let mut notices = Notices::new();
    if !resolved.skipped.is_empty() {
        let names = resolved.skipped.join(", ");
        let message = format!(
            "Keys [{names}] from the EnvFrom sources were skipped since they are considered invalid environment variable names."
        );
        notices.push((true, "InvalidEnvironmentVariableNames", message));
    }
    if let Some(images) = context.images.as_ref().filter(|_| in_image) {
        let tell = |warning, reason, message| tell((warning, reason, message));
        let auth = images::auth(pod, &objects, &tell);
        let image = container.image.as_deref().unwrap_or_default();
        let policy = images::Policy::of(&container);
        let found = images.ensure(uid, image, policy, &auth, &tell).await?;
        images.non_root(pod, &container, &found)?;
        let engine::Found { image, id, .. } = found;
        let place = (uid.to_owned(), attempt);
        let (context, pod) = (context.clone(), pod.clone());
        let inner = context.clone();
        let built =
            context.on_disk(move || in_engine(&inner, &pod, &container, place, &resolved, image));
        let spec = built
            .await
            .unwrap_or_else(|error| Err(create_error(error)))?;
        return Ok(Prepared {
            spec,
            notices,
            image_id: id,
        });
    }
    let layout = mounts::wanted(pod.metadata.annotations.as_ref(), name, context.host.layout);
    let layout = layout.map_err(config_error)?;
    if layout == Layout::Private {
        let possible = context.private_mounts().await;
        possible.map_err(|why| config_error(mounts::no_namespace(&why)))?;
    }
    let (context, pod, uid) = (context.clone(), pod.clone(), uid.to_owned());
    let inner = context.clone();
    let built = context.on_disk(move || {
        let (spec, notice) = build(&inner, &pod, &container, &uid, layout, resolved)?;
        notices.extend(notice.map(|message| (false, "ScriptChosen", message)));
        Ok(Prepared {
            spec,
            notices,
            image_id: String::new(),
        })
    });
    built
        .await
        .unwrap_or_else(|error| Err(create_error(error).into()))
}

fn config_error(message: String) -> Waiting {
    Waiting {
        reason: "CreateContainerConfigError",
        message,
    }
}

/// A container in an image: its volumes are real binds at their own paths.
fn in_engine(
    context: &Context,
    pod: &Pod,
    container: &Container,
    (uid, attempt): (String, u32),
    resolved: &env::Resolved,
    image: engine::Image,
) -> Result<ContainerSpec, Waiting> {
    const TOKEN: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
    let Some(images) = &context.images else {
        return Err(create_error("this node has no container engine".to_owned()));
    };
    let root = &context.root;
    let dir = root
        .container(&uid, &container.name)
        .and_then(|dir| dir.create().map(|()| dir));
    let dir = dir.map_err(|error| create_error(chain(&error)))?;
    let (host, _) = context.host.for_container(images.is_on_host());
    let mut binds = Vec::new();
    for it in mounted(container, &dir, Layout::Engine, resolved)? {
        // Nobody asked for it, and most images have no place for it.
        if it.mount.mount_path == TOKEN && !images.makes_mount_point(TOKEN) {
            continue;
        }
        let source = volumes::behind(root, &uid, &it.mount.name, &it.source);
        let source = source.map_err(|error| create_error(chain(&error)))?;
        binds.push(engine::Bind {
            source: source.to_string_lossy().into_owned(),
            target: it.target.to_string_lossy().into_owned(),
            read_only: it.mount.read_only == Some(true),
        });
    }
    let words = container
        .termination_message_path
        .as_deref()
        .filter(|path| !path.is_empty())
        .unwrap_or(DEFAULT_PATH);
    if images.makes_mount_point(words) {
        let file = dir.attempt(attempt).path().join(FILE);
        binds.push(engine::Bind {
            source: file.to_string_lossy().into_owned(),
            target: words.to_owned(),
            read_only: false,
        });
    }
    let asked = images::Asked {
        pod,
        container,
        image,
        own: &resolved.own,
        binds,
        name: images::engine_name(&uid, &container.name, attempt),
        cwd: &dir.path(),
        inherited: &host.environment,
    };
    images.spec(asked)
}

/// A mount, and where what it shows lies on this node.
struct Mounted<'a> {
    mount: &'a VolumeMount,
    source: PathBuf,
    /// Where the container finds it.
    target: PathBuf,
}

/// The part that touches the disk: mounts, and which script there is.
fn build(
    context: &Context,
    pod: &Pod,
    container: &Container,
    uid: &str,
    layout: Layout,
    resolved: env::Resolved,
) -> Result<(ContainerSpec, Option<String>), NotBuilt> {
    let root = &context.root;
    let dir = root
        .container(uid, &container.name)
        .and_then(|dir| dir.create().map(|()| dir));
    let dir = dir.map_err(|error| create_error(chain(&error)))?;
    let mounted = mounted(container, &dir, layout, &resolved)?;
    let mut namespace = None;
    match layout {
        // Of a container in an image, which is built elsewhere.
        Layout::Engine => {}
        Layout::Relative => {
            for it in &mounted {
                let linked = volumes::link(&dir, &it.mount.mount_path, &it.source);
                linked.map_err(|error| NotBuilt {
                    obstacle: Some(Obstacle::Copy {
                        from: it.mount.name.clone(),
                        to: it.target.display().to_string(),
                        error: chain(&error),
                    }),
                    waiting: create_error(chain(&error)),
                })?;
            }
        }
        Layout::Private => namespace = Some(mounted.iter().map(bind).collect()),
    }
    let cwd = dir.path();
    let mount = match admission::image(container) {
        Image::Script(mount) => mounted.iter().find(|it| it.mount.name == mount.name),
        Image::Host | Image::Reference | Image::Invalid => None,
    };
    // One file that is mounted is the script; of a directory, one of its files.
    let (directory, files) = match mount {
        Some(it) if may_be_file(pod, it.mount) && it.source.is_file() => {
            let name = it.target.file_name().unwrap_or_default();
            let directory = it.target.parent().unwrap_or(&cwd).to_owned();
            (directory, vec![name.to_string_lossy().into_owned()])
        }
        Some(it) => {
            let files = if it.mount.sub_path.is_none() && it.mount.sub_path_expr.is_none() {
                volumes::files(root, uid, &it.mount.name)
            } else {
                plain_files(&it.source)
            };
            let files = files.map_err(|error| NotBuilt {
                obstacle: Some(Obstacle::ReadVolume {
                    directory: it.mount.name.clone(),
                    error: chain(&error),
                }),
                waiting: create_error(chain(&error)),
            })?;
            (it.target.clone(), files)
        }
        None => (cwd.clone(), Vec::new()),
    };
    let annotations = pod.metadata.annotations.as_ref();
    let wanted = annotations
        .and_then(|all| all.get(&format!("{SCRIPT_ANNOTATION}{}", container.name)))
        .map(String::as_str);
    let source = mount.map(|it| it.source.as_path());
    let first_line = |file: &str| {
        let source = source?;
        let path = if source.is_file() {
            source.to_owned()
        } else {
            source.join(file)
        };
        volumes::first_line(&path)
    };
    let script = mount.map(|_| Script {
        directory: &directory,
        files: &files,
        wanted,
        first_line: &first_line,
    });
    let command = command::command(
        container,
        script,
        &context.host.for_container(false).0,
        &resolved.own,
        std::path::Path::is_file,
    )
    .map_err(|waiting| NotBuilt {
        obstacle: Some(start_obstacle(
            &dir,
            StartFailure::NotFound,
            waiting.message.clone(),
        )),
        waiting,
    })?;
    let (host, on_host) = context.host.for_container(command.for_host);
    let environment = env::merged(&host, resolved.own);
    let paths = container.volume_mounts.iter().flatten();
    let paths = paths.map(|it| it.mount_path.as_str());
    let wanted = container.working_dir.as_deref();
    let begin = mounts::working_directory(wanted, paths, &cwd, layout);
    if begin.starts_with(&cwd) && begin != cwd {
        // As container runtimes do; what cannot be made is said when it is used.
        let _ = std::fs::create_dir_all(&begin);
    }
    let mut spec = ContainerSpec::new(command.argv, environment, begin);
    spec.mounts = namespace;
    spec.on_host = on_host;
    spec.interactive = containers::interactive(container);
    Ok((spec, command.notice))
}

/// What each mount shows, with its `subPath` found or made.
fn mounted<'a>(
    container: &'a Container,
    dir: &ContainerDir,
    layout: Layout,
    resolved: &env::Resolved,
) -> Result<Vec<Mounted<'a>>, Waiting> {
    let mounts = container.volume_mounts.iter().flatten().enumerate();
    let found = mounts.map(|(index, mount)| {
        let expression = mount.sub_path_expr.as_deref().unwrap_or_default();
        let expanded = if expression.is_empty() {
            mount.sub_path.clone().unwrap_or_default()
        } else {
            let lookup = |name: &str| resolved.own.get(name).map(String::as_str);
            expand::all_references(expression, lookup).map_err(config_error)?
        };
        let of = MountOf {
            uid: dir.uid(),
            container: &container.name,
            volume: &mount.name,
            index,
        };
        let source = volumes::source(dir.root(), of, Some(&expanded));
        let source = source.map_err(|error| match error {
            PlaceError::SubPath(message) => config_error(message),
            error => create_error(chain(&error)),
        })?;
        let target = mounts::target(&mount.mount_path, &dir.path(), layout);
        let target = target.map_err(|error| create_error(format!("mountPath {error}")))?;
        Ok(Mounted {
            mount,
            source,
            target,
        })
    });
    found.collect()
}

/// In a mount namespace the file for a container's last words is where the pod says. At the
/// usual place it is not: room for it there would take a mount for each entry of `/dev`.
pub(super) fn mount_last_words(spec: &mut ContainerSpec, pod: &Pod, name: &str, log: &str) {
    let path = containers::find(pod, name).and_then(|(_, it)| it.termination_message_path);
    let path = path.filter(|it| it.starts_with('/') && it != DEFAULT_PATH);
    if let (Some(mounts), Some(path)) = (&mut spec.mounts, path) {
        mounts.push(Mount {
            source: log.into(),
            target: path.into(),
            read_only: false,
            recursive: false,
            required: false,
            follows_host: false,
        });
    }
}

fn bind(it: &Mounted<'_>) -> Mount {
    let recursive = it.mount.recursive_read_only.as_deref();
    Mount {
        source: it.source.clone(),
        target: it.target.clone(),
        read_only: it.mount.read_only == Some(true),
        recursive: matches!(recursive, Some("Enabled" | "IfPossible")),
        required: recursive == Some("Enabled"),
        follows_host: it.mount.mount_propagation.as_deref() == Some("HostToContainer"),
    }
}

/// Whether what a mount shows can be a file: a volume that was filled here is a directory, and
/// where something else stands in its place nothing of it is run.
fn may_be_file(pod: &Pod, mount: &VolumeMount) -> bool {
    let part = mount.sub_path.is_some() || mount.sub_path_expr.is_some();
    let volumes = pod.spec.iter().flat_map(|it| it.volumes.iter().flatten());
    let mut named = volumes.filter(|it| it.name == mount.name);
    part || named.any(|it| it.host_path.is_some() || it.persistent_volume_claim.is_some())
}

/// Names of the files at the top of a directory, sorted.
fn plain_files(directory: &std::path::Path) -> Result<Vec<String>, PlaceError> {
    let read = || -> std::io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(directory)? {
            let entry = entry?;
            if entry.path().is_file() {
                names.extend(entry.file_name().into_string());
            }
        }
        names.sort();
        Ok(names)
    };
    read().map_err(|source| {
        PlaceError::Dir(DirError::Io {
            op: "list",
            path: directory.to_owned(),
            source,
        })
    })
}
