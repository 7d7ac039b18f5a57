//! The binary: reads what was typed, and runs it.

use std::process::ExitCode;

use clap::Parser;
use vk_cmd::cli::Cli;
use vk_cmd::{commands, exit::Exit, logging, printer};

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    // Before anything else is set up: a shim must stay small, and a thousand of them start at once.
    let mut args = std::env::args_os().skip(1);
    if args.next().is_some_and(|verb| verb == "shim") {
        return vk_cmd::container::shim::main(args.collect());
    }
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
