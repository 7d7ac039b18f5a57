//! The binary: reads what was typed, and runs it.

use std::process::ExitCode;

use clap::Parser;
use vk_cmd::cli::Cli;
use vk_cmd::{commands, exit::Exit, logging, printer};

fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Err(problem) = logging::init(&cli.log) {
        printer::note(format!(
            "error: --log: {:?} is not a filter: {problem}",
            cli.log
        ));
        return Exit::Usage.into();
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            printer::note(format!("error: no runtime: {error}"));
            return Exit::Failure.into();
        }
    };
    runtime.block_on(commands::run(cli)).into()
}
