//! The executable: parses the command line, runs the command, and maps its result to an exit code.

use std::process::ExitCode;

use clap::Parser as _;
use pagesync::cli::Cli;
use pagesync::doctor::check::ChecksFailed;
use pagesync::{output, run};

/// The allocator of the executable. With mimalloc, the memory use of a worker does not grow with
/// the number of polled Pages, as it does with the arenas of glibc.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            output::print_error(&format!("cannot start: {error}"));
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(run(cli)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            output::print_error(&format!("{error:#}"));
            if error.is::<ChecksFailed>() {
                return ExitCode::from(3);
            }
            ExitCode::FAILURE
        }
    }
}
