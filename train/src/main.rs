//! `nextclip-train`: trains a checkpoint that `nextclip-export` turns into a bundle.

mod cli;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("info")).init();
    match cli::Cli::parse().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("nextclip-train: {error:#}");
            ExitCode::FAILURE
        }
    }
}
