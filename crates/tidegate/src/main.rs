//! The Tidegate binary: the command line over [`tidegate_server`].
//!
//! `run` and `dev` are servers; everything else is a tool beside them. Errors go to standard error, and the exit code says
//! of which kind they are.

mod bench;
mod cli;
mod dev;
mod duration;
mod failure;
mod healthcheck;
mod output;
mod run;
mod token;

use std::process::ExitCode;

use clap::Parser;
use tidegate_server::exit;

fn main() -> ExitCode {
    let cli = match cli::Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Nowhere to say so if this fails.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { exit::CONFIG } else { exit::OK });
        }
    };
    let result = match cli.command {
        cli::Command::Run(args) => run::run(&args),
        cli::Command::Check(args) => run::check(&args),
        cli::Command::ConfigSchema => run::config_schema(),
        cli::Command::Dev(args) => dev::run(&args),
        cli::Command::Token(args) => token::run(&args),
        cli::Command::Healthcheck(args) => healthcheck::run(&args),
        cli::Command::Bench(args) => bench::run(args).map(|()| 0).map_err(Into::into),
    };
    match result {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            eprintln!("tidegate: {failure}");
            ExitCode::from(failure.exit_code())
        }
    }
}
