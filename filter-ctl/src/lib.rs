//! The controller: from what the operator typed to what the kernel enforces, and back.
//!
//! A change goes through values: what was typed ([`cli`]) becomes validated entries ([`policy`]), is weighed
//! against this host ([`guard`], with facts from [`host`]), becomes who holds what ([`holds`]), is written down ([`store`]),
//! compared with what is there ([`plan`]) and only then carried out ([`kernel`]); [`control`] keeps the order. The module
//! `commands` has a file for each verb.

pub mod capture;
pub mod cli;
mod commands;
pub mod control;
pub mod daemon;
pub mod exit;
pub mod feeds;
pub mod guard;
pub mod holds;
pub mod host;
pub mod kernel;
pub mod lists;
pub mod metrics;
pub mod never;
mod output;
pub mod plan;
pub mod policy;
pub mod record;
pub mod stats;
pub mod store;

use std::process::ExitCode;

use clap::FromArgMatches as _;

use crate::cli::Cli;
use crate::commands::Session;
use crate::daemon::client::{self, Handed};
use crate::exit::Exit;
use crate::host::users;
use crate::output::Output;
use crate::store::{Actor, Via};

/// Parses the command line, runs it, and tells what went wrong. Is this process the child that reads lists, it does that.
#[must_use]
pub fn main() -> ExitCode {
    // A child that gives up its privileges, before anything else is done with them.
    if let Some(exit) = lists::worker::entry(std::env::args_os()) {
        return exit;
    }
    let parsed = cli::definition().try_get_matches().and_then(|matches| Cli::from_arg_matches(&matches));
    let cli = match parsed {
        Ok(cli) => cli,
        Err(error) if error.use_stderr() && std::env::args_os().any(|argument| argument == "--json") => {
            Output::stdio().json_error(error.to_string().trim_end(), Exit::Usage as u8);
            return Exit::Usage.into();
        }
        Err(error) => error.exit(),
    };
    let arguments = std::env::args_os().skip(1).map(|argument| argument.to_string_lossy().into_owned());
    let arguments: Vec<String> = arguments.collect();
    let mut session = Session {
        global: &cli.global,
        out: Output::stdio(),
        actor: myself(),
        command: command_line(arguments.iter().cloned()),
        ssh_peers: Vec::new(),
        input: None,
    };
    let exit = match client::hand_over(&cli, &arguments) {
        Ok(Handed::Done(exit)) => exit,
        Ok(Handed::Own(input)) => {
            session.input = input;
            carry_out(&session, &cli.command)
        }
        Err(error) => told(&session, &error),
    };
    exit.into()
}

/// Runs a command and tells what went wrong.
fn carry_out(session: &Session<'_>, command: &cli::Command) -> Exit {
    commands::run(session, command).unwrap_or_else(|error| told(session, &error))
}

/// Tells what went wrong.
fn told(session: &Session<'_>, error: &anyhow::Error) -> Exit {
    let exit = Exit::of(error);
    if exit != Exit::Done {
        let message = format!("{error:#}");
        if session.global.json {
            let more = error.downcast_ref().map(feeds::NotTaken::details).unwrap_or_default();
            session.out.json_failure(&message, exit as u8, &more)
        } else {
            session.out.note(&format!("filter-ctl: {message}"))
        }
    }
    exit
}

/// The user who runs this process.
fn myself() -> Actor {
    let (uid, pid) = (rustix::process::geteuid().as_raw(), std::process::id());
    Actor { uid, user: users::user_name(uid), login: users::login_of(pid), pid, via: Via::Command }
}

/// An argument without what may be a secret in a URL.
fn without_secrets(argument: String) -> String {
    let (option, value) = match argument.split_once('=').filter(|(option, _)| option.starts_with("--")) {
        Some((option, value)) => (format!("{option}="), value),
        None => (String::new(), argument.as_str()),
    };
    if value.contains("://") { option + &lists::worker::shown(value) } else { argument }
}

/// A command line for people to read, of bounded length.
fn command_line(arguments: impl Iterator<Item = String>) -> String {
    /// Characters that are kept: some twenty prefixes.
    const LONGEST: usize = 1000;
    let line = arguments.map(without_secrets).collect::<Vec<_>>().join(" ");
    let mut shown: String = line.chars().take(LONGEST).collect();
    if shown.len() < line.len() {
        shown.push('…');
    }
    shown
}
