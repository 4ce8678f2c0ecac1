//! nextclipd: reads the command line, runs the command, reports how it ended.

use std::process::ExitCode;

use clap::Parser;
use nextclip_runtime::cli::{Cli, Command};
use nextclip_runtime::config::{Config, ConfigError};
use nextclip_runtime::{future, run, status};

fn main() -> ExitCode {
    let cli = Cli::parse();
    status::start_log();
    match dispatch(&cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            status::report(&error);
            // clap uses 2 for a command line that makes no sense; a configuration is the same.
            ExitCode::from(if error.is::<ConfigError>() { 2 } else { 1 })
        }
    }
}

fn dispatch(command: &Command) -> anyhow::Result<()> {
    match command {
        Command::Run(flags) => run::run(&Config::load(flags)?),
        Command::Validate(flags) => run::validate(&Config::load(flags)?),
        Command::Predict(flags) => future::predict(flags),
    }
}
