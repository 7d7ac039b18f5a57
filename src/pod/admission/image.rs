//! What a container's image means: a script, a command of the host, an engine's image.

use k8s_openapi::api::core::v1::{Container, VolumeMount};

use crate::pod::{images::Means, machine::Refusal};

/// How an image is run.
#[derive(Clone, Copy, Debug)]
pub enum Image<'a> {
    /// The image names a volume mount: the script in there is run.
    Script(&'a VolumeMount),
    /// `host` or `native`: the command is run as it is.
    Host,
    /// An ordinary image reference: it takes a container engine.
    Reference,
    /// No image reference at all.
    Invalid,
}

/// Decides what the image of a container means.
pub fn image(container: &Container) -> Image<'_> {
    let image = container.image.as_deref().unwrap_or_default();
    let mounts = container.volume_mounts.iter().flatten();
    if let Some(mount) = { mounts }.find(|mount| mount.name == image) {
        return Image::Script(mount);
    }
    match image {
        "host" | "native" => Image::Host,
        // Run on the host, managed, whatever the image is said to be: the documents' pods name any.
        _ if crate::pod::command::is_line_for_the_pipe(container) => Image::Host,
        _ if is_reference(image) => Image::Reference,
        _ => Image::Invalid,
    }
}

/// `[host[:port]/]path[:tag][@digest]`, as image references are written.
fn is_reference(image: &str) -> bool {
    let (rest, digest) = match image.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest)),
        None => (image, None),
    };
    let digest_ok = digest.is_none_or(|digest| {
        digest.split_once(':').is_some_and(|(algorithm, hex)| {
            !algorithm.is_empty() && hex.len() >= 32 && hex.bytes().all(|it| it.is_ascii_hexdigit())
        })
    });
    let (path, tag) = match rest.rsplit_once(':') {
        Some((path, tag)) if !tag.contains('/') => (path, Some(tag)),
        _ => (rest, None),
    };
    let tag_ok = tag.is_none_or(|tag| {
        let word = |it: u8| it.is_ascii_alphanumeric() || it == b'_';
        tag.len() <= 128
            && tag.bytes().next().is_some_and(word)
            && tag.bytes().all(|it| word(it) || it == b'.' || it == b'-')
    });
    let component = |part: &str| {
        let edge =
            |it: Option<u8>| it.is_some_and(|it| it.is_ascii_lowercase() || it.is_ascii_digit());
        let inner = |it: u8| it.is_ascii_lowercase() || it.is_ascii_digit() || b"._-".contains(&it);
        edge(part.bytes().next()) && edge(part.bytes().last()) && part.bytes().all(inner)
    };
    let is_host = |part: &str| {
        part == "localhost" || part.contains(['.', ':']) || part.chars().any(char::is_uppercase)
    };
    let host_part = |part: &str| {
        let inner = |it: u8| it.is_ascii_alphanumeric() || b".-:[]".contains(&it);
        !part.is_empty() && part.bytes().all(inner)
    };
    let path_ok = match path.split_once('/') {
        Some((host, path)) if is_host(host) => host_part(host) && path.split('/').all(component),
        _ => path.split('/').all(component),
    };
    digest_ok && tag_ok && path_ok
}

pub(super) fn image_refusal(container: &Container, images: &Means) -> Option<Refusal> {
    let name = container.image.as_deref().unwrap_or_default();
    match image(container) {
        Image::Script(_) | Image::Host => None,
        Image::Reference => {
            let why = match images {
                Means::Engine { .. } => return None,
                Means::Nothing => String::new(),
                Means::Mend(why) => format!(" ({why})"),
            };
            Some(Refusal {
                reason: "ErrImageNeverPull",
                event: "ErrImageNeverPull",
                message: format!(
                    "Container image {name:?} needs a container engine, and this node uses none{why}: set \
                     image to \"host\" to run the command as a process of the node, or to the name of \
                     one of the container's volumeMounts to run the script in it"
                ),
            })
        }
        Image::Invalid => Some(Refusal {
            reason: "InvalidImageName",
            event: "InspectFailed",
            message: format!(
                "Failed to apply default image tag {name:?}: couldn't parse image name {name:?}: \
                 invalid reference format"
            ),
        }),
    }
}
