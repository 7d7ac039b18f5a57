//! The hostpipe: a FIFO through which a process inside of a container has commands run on the host.
//!
//! One directory is all that both sides share (`docker run -v $HOME/hostpipe:/root/hostpipe`).
//! Whoever is inside writes a line to the FIFO `vk-cmd` in it; a reader on the host, `vk-cmd hostpipe serve` or a plain
//! shell loop, runs the line. A line of ours is short and always the same but for a random name: it starts this
//! program in the background on the host, which connects back to a socket of that name in the directory and says
//! where it is ([`Facts`]); then it is told what to do ([`Order`]). So nothing secret and nothing long goes through
//! the pipe, the reader is free at once, and a line that is read late finds nobody and ends.
//!
//! | module | idea |
//! |---|---|
//! | [`place`] | the directory, its checks, and what lies in it |
//! | [`mod@line`] | lines as the shell reads them; the documented one-liner |
//! | [`protocol`] | what the two sides say to each other |
//! | [`client`] | the inner side: call the host, and know who answers |
//! | [`serve`] | the reader on the host |
//! | [`run`] | one command on the host, for the inner side |

pub mod client;
pub mod line;
pub mod place;
pub mod protocol;
pub mod run;
pub mod serve;

pub use client::{CallError, Client, State};
pub use line::one_liner;
pub use place::{PipeDir, PlaceError};
pub use protocol::{Facts, Order, Task};

/// Where the host sees the directory; the reader's environment may say so where it is not `$HOME/hostpipe`.
pub const DIR_VARIABLE: &str = "VK_CMD_HOSTPIPE";
/// Set in the environment of what `vk-cmd hostpipe serve` runs: such a reader can be looked for without disturbing it.
pub const SERVED_VARIABLE: &str = "VK_CMD_HOSTPIPE_SERVED";
/// The hidden verb that a line starts.
pub const ANSWER_VERB: &str = "hostpipe-answer";
