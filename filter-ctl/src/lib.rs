//! The controller: from what the operator typed to what the kernel enforces, and back.
//!
//! A change goes through values: what was typed ([`cli`]) becomes validated entries ([`policy`]), is weighed
//! against this host ([`guard`], with facts from [`host`]), compared with what is there ([`plan`]) and only then
//! carried out ([`kernel`]). All but the last are pure and need no root. The module `commands` has a
//! file for each verb.

pub mod capture;
pub mod cli;
mod commands;
pub mod daemon;
pub mod exit;
pub mod guard;
pub mod host;
pub mod kernel;
mod output;
pub mod plan;
pub mod policy;
pub mod stats;
pub mod store;

use std::process::ExitCode;

use clap::FromArgMatches as _;

use crate::cli::Cli;
use crate::exit::Exit;

/// Parses the command line, runs it, and tells what went wrong.
#[must_use]
pub fn main() -> ExitCode {
    let parsed = cli::definition().try_get_matches().and_then(|matches| Cli::from_arg_matches(&matches));
    let cli = match parsed {
        Ok(cli) => cli,
        Err(error) if error.use_stderr() && std::env::args().any(|argument| argument == "--json") => {
            output::json_error(error.to_string().trim_end(), Exit::Usage as u8);
            return Exit::Usage.into();
        }
        Err(error) => error.exit(),
    };
    let json = cli.global.json;
    let exit = match commands::run(cli) {
        Ok(exit) => exit,
        Err(error) => {
            let exit = Exit::of(&error);
            if exit != Exit::Done {
                let message = format!("{error:#}");
                if json {
                    output::json_error(&message, exit as u8)
                } else {
                    output::note(&format!("filter-ctl: {message}"))
                }
            }
            exit
        }
    };
    exit.into()
}
