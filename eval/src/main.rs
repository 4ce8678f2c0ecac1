//! `nextclip-eval`: measures a bundle.

mod cli;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    env_logger::init();
    match cli::Cli::parse().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("nextclip-eval: {error:#}");
            ExitCode::FAILURE
        }
    }
}
