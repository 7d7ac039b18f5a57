//! What the two sides of the hostpipe say to each other.
//!
//! Over a stream socket in the shared directory: the host's side connects, sends [`Facts`], and gets one [`Order`].
//! A frame is a length (`u32`, big-endian, of all that follows it), a kind (`u8`) and a payload.

use std::{
    io::{self, Read, Write},
    path::PathBuf,
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// Version of the protocol; a side that meets another one says so and stops.
pub const PROTOCOL: u32 = 1;
/// Kind of a frame that holds JSON.
pub const JSON: u8 = 0;
/// Kind of a frame that holds standard output.
pub const STDOUT: u8 = 1;
/// Kind of a frame that holds standard error.
pub const STDERR: u8 = 2;
/// Largest frame: an environment is the largest thing in one.
pub const MAX_FRAME: usize = 8 * 1024 * 1024;

/// Who reads the pipe.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// [`PROTOCOL`] of the host's side.
    pub protocol: u32,
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// `HOME`.
    pub home: Option<PathBuf>,
    /// Host name.
    pub host: String,
    /// `/proc/sys/kernel/random/boot_id`.
    pub boot_id: String,
    /// Inode of the PID namespace.
    pub pid_namespace: u64,
    /// The shared directory as the host sees it, absolute.
    pub dir: PathBuf,
    /// Whether the reader is `vk-cmd hostpipe serve`.
    pub served: bool,
    /// The environment of the reader: what commands on the host start from.
    pub environment: Vec<(String, String)>,
}

/// Leaves the environment out: it may hold secrets.
impl std::fmt::Debug for Facts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Facts")
            .field("uid", &self.uid)
            .field("home", &self.home)
            .field("host", &self.host)
            .field("dir", &self.dir)
            .field("served", &self.served)
            .finish_non_exhaustive()
    }
}

impl Facts {
    /// What this process, which the reader has started, can tell. `dir` is what the line said.
    ///
    /// # Errors
    /// Where the kernel does not tell.
    pub fn gather(dir: &std::path::Path) -> io::Result<Self> {
        use std::os::unix::fs::MetadataExt;
        let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
        let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
            // What a shell changes by itself says nothing of the reader.
            let fleeting = ["_", "PWD", "OLDPWD", "SHLVL"].iter().any(|it| name == *it);
            (!fleeting).then_some(())?;
            Some((name.into_string().ok()?, value.into_string().ok()?))
        };
        Ok(Self {
            protocol: PROTOCOL,
            uid: nix::unistd::geteuid().as_raw(),
            gid: nix::unistd::getegid().as_raw(),
            home: std::env::var_os("HOME")
                .map(PathBuf::from)
                .filter(|home| home.is_absolute()),
            host: nix::unistd::gethostname()?.to_string_lossy().into_owned(),
            boot_id: boot_id.trim().to_owned(),
            pid_namespace: std::fs::metadata("/proc/self/ns/pid")?.ino(),
            dir: std::path::absolute(dir)?,
            served: std::env::var_os(super::SERVED_VARIABLE).is_some(),
            environment: std::env::vars_os().filter_map(text).collect(),
        })
    }
}

/// What the host's side is to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Order {
    /// Nothing: the facts were all that was asked for.
    Nothing,
    /// Run a command; its output follows in frames, then [`Done`]. The end of the connection ends the command.
    Run {
        /// Which.
        task: Task,
    },
    /// Become the supervisor of a container; the connection is the agent's from now on.
    Shim {
        /// The supervisor's command line.
        arguments: Vec<String>,
    },
    /// Find out what became of an attempt, end what a dead supervisor left behind, and answer with [`Done`].
    Settle {
        /// Root of the node, as the host sees it.
        root: PathBuf,
        /// UID of the pod.
        uid: String,
        /// Name of the container.
        name: String,
        /// The attempt.
        attempt: u32,
    },
}

/// A command on the host.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Task {
    /// Program and arguments; a single word with white space is a line for the shell. Nothing of it is secret.
    pub argv: Vec<String>,
    /// Variables over those of the reader; may hold secrets.
    #[serde(default)]
    pub env: Vec<(String, String)>,
    /// Standard input, as a file in memory; may hold secrets.
    #[serde(default)]
    pub stdin: Option<String>,
}

/// Leaves environment and input out.
impl std::fmt::Debug for Task {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Task")
            .field("argv", &self.argv)
            .finish_non_exhaustive()
    }
}

impl Task {
    /// A command with the reader's environment and no input.
    pub fn of(argv: Vec<String>) -> Self {
        Self {
            argv,
            ..Self::default()
        }
    }
}

/// How an order ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Done {
    /// With this code; 128 and the number of the signal where one ended it.
    Exit(i32),
    /// It was not done.
    Failed(String),
}

/// A frame's bytes.
pub fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len() + 1).unwrap_or(u32::MAX);
    let mut frame = Vec::with_capacity(payload.len() + 5);
    frame.extend_from_slice(&length.to_be_bytes());
    frame.push(kind);
    frame.extend_from_slice(payload);
    frame
}

/// The frame of a message.
pub fn message<T: Serialize>(message: &T) -> io::Result<Vec<u8>> {
    Ok(frame(JSON, &serde_json::to_vec(message)?))
}

/// The length that a frame's head tells.
///
/// # Errors
/// A frame that is empty or longer than [`MAX_FRAME`].
pub fn length(head: [u8; 4]) -> io::Result<usize> {
    let length = u32::from_be_bytes(head) as usize;
    if length == 0 || length > MAX_FRAME {
        let text = format!("a frame of {length} bytes");
        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
    }
    Ok(length)
}

/// Reads one frame, waiting for it.
pub fn read_frame(from: &mut impl Read) -> io::Result<(u8, Vec<u8>)> {
    let mut head = [0; 4];
    from.read_exact(&mut head)?;
    let mut frame = vec![0; length(head)?];
    from.read_exact(&mut frame)?;
    let kind = frame.remove(0);
    Ok((kind, frame))
}

/// Reads one message, waiting for it.
pub fn read_message<T: DeserializeOwned>(from: &mut impl Read) -> io::Result<T> {
    match read_frame(from)? {
        (JSON, payload) => Ok(serde_json::from_slice(&payload)?),
        (kind, _) => Err(unexpected(kind)),
    }
}

/// Writes one message.
pub fn write_message<T: Serialize>(to: &mut impl Write, text: &T) -> io::Result<()> {
    to.write_all(&message(text)?)
}

/// A frame that does not belong here.
pub fn unexpected(kind: u8) -> io::Error {
    let text = format!("a frame of kind {kind} where a message belongs");
    io::Error::new(io::ErrorKind::InvalidData, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_come_out_as_they_went_in_and_strange_bytes_are_errors() {
        let order = Order::Run {
            task: Task {
                argv: vec!["a b".into(), "\n".into()],
                env: vec![("A".into(), "b=c".into())],
                stdin: Some("{}".into()),
            },
        };
        let mut wire = Vec::new();
        write_message(&mut wire, &order).expect("written");
        assert_eq!(
            read_message::<Order>(&mut wire.as_slice()).expect("read"),
            order
        );
        assert!(read_message::<Order>(&mut &wire[..wire.len() - 1]).is_err());
        assert!(read_frame(&mut [0_u8; 4].as_slice()).is_err());
        assert!(read_frame(&mut [255_u8; 8].as_slice()).is_err());
        assert!(read_message::<Order>(&mut frame(STDOUT, b"{}").as_slice()).is_err());
    }
}
