//! `difflow-world`: makes data/tiny, tells single stories, checks texts.

mod commands;

use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    // SAFETY: the default action needs no handler. `check | head` then ends quietly, as other commands do.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
    match commands::run(commands::Cli::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
