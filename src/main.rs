//! The binary: reads what was typed, and runs it.

use std::process::ExitCode;

use clap::Parser;
use vk_cmd::cli::{Cli, legacy};
use vk_cmd::{commands, exit::Exit, logging, printer};

/// After a burst of pods the C library's allocator keeps most of the memory that the burst
/// needed for a moment; this one gives it back.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Few arenas and small caches of threads, because what one thread frees another one needs; what
/// is free for half a second goes back to the system.
#[unsafe(export_name = "_rjem_malloc_conf")]
static ALLOCATOR_OPTIONS: &[u8; 90] =
    b"narenas:2,lg_tcache_max:12,tcache_nslots_small_max:20,dirty_decay_ms:500,muzzy_decay_ms:0\0";

/// The most threads that run tasks. The cores are the pods', however many there are.
const WORKERS: usize = 4;

fn main() -> ExitCode {
    // Before anything else is set up: a shim must stay small, and a thousand of them start at once.
    let mut args = std::env::args_os().skip(1);
    match args.next() {
        Some(verb) if verb == "shim" => return vk_cmd::container::shim::main(args.collect()),
        Some(verb) if verb == vk_cmd::hostpipe::ANSWER_VERB => {
            return vk_cmd::container::launch::hostpipe::answer::main(args.collect());
        }
        Some(verb) if verb == "entrypoint" => {
            let rest: Vec<_> = args.collect();
            match commands::entrypoint::enter::enter(&rest) {
                Ok(None) => {}
                Ok(Some(code)) => return code,
                Err(error) => {
                    printer::note(format!("error: {error}"));
                    return Exit::Usage.into();
                }
            }
        }
        _ => {}
    }
    if let Some(code) = vk_cmd::init::run() {
        return code;
    }
    let cli = if legacy::is_called(std::env::args_os().next().as_ref()) {
        match legacy::translate(std::env::args_os().skip(1).collect()) {
            Ok(line) => Cli::parse_from(line),
            Err(error) => {
                printer::note(format!("error: {error}"));
                return Exit::Usage.into();
            }
        }
    } else {
        Cli::parse()
    };
    if let Err(problem) = logging::init(&cli.log) {
        printer::note(format!(
            "error: --log: {:?} is not a filter: {problem}",
            cli.log
        ));
        return Exit::Usage.into();
    }
    if let Err(error) = tikv_jemalloc_ctl::background_thread::write(true) {
        // Then what is free goes back at the next allocation, not on time.
        tracing::debug!(%error, "the allocator has no thread of its own");
    }
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .worker_threads(cores.min(WORKERS))
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
