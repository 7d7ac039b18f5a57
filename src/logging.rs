//! Logs go to stderr, one line an event; `VK_CMD_LOG` (or `--log`) filters them.

use tracing_subscriber::EnvFilter;

/// Sets up logging once for the process.
///
/// # Errors
/// The filter's own complaint, with its text, where it does not parse.
pub fn init(filter: &str) -> Result<(), String> {
    // Whoever watches tells of trouble in its own words, once.
    let filter = format!("kube_runtime::watcher=error,{filter}");
    let filter = EnvFilter::try_new(filter).map_err(|e| e.to_string())?;
    let done = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(true)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .try_init();
    done.map_err(|e| e.to_string())
}
