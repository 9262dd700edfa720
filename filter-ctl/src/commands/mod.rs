//! One file a verb: from arguments to output. Only these print.

mod audit;
mod debug;
mod entries;
mod explain;
mod export;
mod history;
mod import;
mod list;
mod load;
mod malformed;
mod metrics;
mod never;
mod record;
mod repair;
mod resize;
mod restore;
mod run;
mod show;
mod stats;
mod status;
mod top;
mod unload;
mod upgrade;
mod verify;

use std::io::{self, BufRead};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::cli::{Command, Global, definition};
use crate::control::{Author, Control, Place};
use crate::exit::{Exit, Unreported, is_closed_pipe};
use crate::kernel::interface::{Loaded, State};
use crate::kernel::{Filter, Pins};
use crate::output::{self, Output};
use crate::plan::Room;
use crate::policy::Action;
use crate::store::{Actor, STATE_ROOT};

/// Where the daemon's socket lies, for the pin root of this name.
const RUN_ROOT: &str = "/run";

/// All that a command needs beside its own arguments.
pub struct Session<'s> {
    /// Options that every command takes.
    pub global: &'s Global,
    /// Where it prints.
    pub out: Output,
    /// Who runs it.
    pub actor: Actor,
    /// The command line, for the audit log.
    pub command: String,
    /// Other ends of SSH sessions that are known beside those that this process finds.
    pub ssh_peers: Vec<IpAddr>,
    /// What was read on standard input, where another process did.
    pub input: Option<Vec<u8>>,
}

/// Runs a command.
///
/// # Errors
///
/// What went wrong; [`Exit::of`] knows the exit code.
pub fn run(session: &Session<'_>, command: &Command) -> Result<Exit> {
    match command {
        Command::Load(args) => load::run(session, args),
        Command::Unload(args) => unload::run(session, args),
        Command::Restore(args) => restore::run(session, args),
        Command::Resize(args) => resize::run(session, args),
        Command::Upgrade => upgrade::run(session),
        Command::Status => status::run(session),
        Command::Block(command) => entries::run(session, Action::Block, command),
        Command::Allow(command) => entries::run(session, Action::Allow, command),
        Command::List(command) => list::run(session, command),
        Command::Never(command) => never::run(session, command),
        Command::Export(args) => export::run(session, args),
        Command::Stats(args) => stats::run(session, args),
        Command::History(args) => history::run(session, args),
        Command::Record(command) => record::run(session, command),
        Command::Debug(args) => debug::run(session, args),
        Command::Top(args) => top::run(session, args),
        Command::Show(args) => show::run(session, args),
        Command::Explain(args) => explain::run(session, args),
        Command::Malformed(command) => malformed::run(session, command),
        Command::Verify => verify::run(session),
        Command::Repair => repair::run(session),
        Command::Metrics(args) => metrics::run(session, args),
        Command::Audit(args) => audit::run(session, args),
        Command::Run(args) => run::run(session, args),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut definition(), "filter-ctl", &mut script);
            let script = String::from_utf8_lossy(&script);
            // clap_complete 4.6 takes the hyphen of a name for the border of two in half of its bash script.
            let script = script.replace("filter__subcmd__ctl", "filter__ctl");
            session.out.raw_line(script.trim_end())?;
            Ok(Exit::Done)
        }
    }
}

impl Global {
    /// Where the kernel's side is pinned.
    pub fn pins(&self) -> Pins {
        Pins::new(&self.pin_root)
    }

    /// The directory of the store.
    pub fn state_directory(&self) -> PathBuf {
        self.state_dir.clone().unwrap_or_else(|| Path::new(STATE_ROOT).join(self.name()))
    }

    /// The daemon's socket.
    pub fn socket_path(&self) -> PathBuf {
        self.socket.clone().unwrap_or_else(|| Path::new(RUN_ROOT).join(self.name()).join("control.sock"))
    }

    /// What tells this filter from others on the host: the last part of its pin root.
    fn name(&self) -> &Path {
        self.pin_root.file_name().map_or(Path::new("filter-ctl"), Path::new)
    }

    /// Where all parts lie.
    pub fn place(&self) -> Place {
        Place { pins: self.pins(), state: self.state_directory(), lock_wait: self.lock_wait }
    }
}

impl Session<'_> {
    fn pins(&self) -> Pins {
        self.global.pins()
    }

    fn author(&self) -> Author {
        Author { actor: self.actor.clone(), command: self.command.clone() }
    }

    /// The filter and its store, locked.
    fn open(&self) -> Result<Control> {
        Control::open(&self.global.place(), self.author())
    }

    /// Standard input.
    fn input(&self) -> Box<dyn BufRead + '_> {
        match &self.input {
            Some(bytes) => Box::new(bytes.as_slice()),
            None => Box::new(io::stdin().lock()),
        }
    }
}

/// The exit of a change, which is enforced in any case.
fn exit_of(control: &Control, exit: Exit) -> Exit {
    if control.is_durable() || exit != Exit::Done { exit } else { Exit::Partly }
}

/// The end of a command that has made its change: a closed pipe changes nothing about it, and any other trouble
/// with the report must not be taken for a failure of the change.
fn reported(told: Result<()>, exit: Exit) -> Result<Exit> {
    match told {
        Err(error) if !is_closed_pipe(&error) => Err(Unreported(error).into()),
        _ => Ok(exit),
    }
}

/// What to say of tables that are nearly full.
fn room_warning(family: &str, option: &str, room: Room) -> String {
    format!(
        "{} of {} {family} entries are in use; `filter-ctl resize {option} N` makes room for more",
        output::grouped(room.used.into()),
        output::grouped(room.limit.into())
    )
}

/// What the operator must know beside what was asked: of the store, of drift, and of each interface that does not enforce
/// the entries as they are.
fn standing_warnings(control: &Control) -> Vec<String> {
    let mut warnings = control.warnings();
    warnings.extend(not_filtered(control.filter()));
    match control.unfiltered() {
        Ok(unfiltered) => warnings.extend(unfiltered.into_iter().map(|(device, mode)| {
            format!(
                "{} is to be filtered in {} mode and is not: `filter-ctl repair`",
                device.name,
                mode.name()
            )
        })),
        Err(error) => {
            warnings.push(format!("whether all is filtered that is to be can't be told: {error:#}"))
        }
    }
    warnings
}

fn not_filtered(filter: &Filter) -> Vec<String> {
    let interfaces = match filter.interfaces() {
        Ok(interfaces) if interfaces.is_empty() => {
            return vec!["no interface is filtered: `filter-ctl load IFACE`".into()];
        }
        Ok(interfaces) => interfaces,
        Err(error) => return vec![format!("whether the interfaces are filtered can't be told: {error:#}")],
    };
    let sentence = |Loaded { name, state, .. }: &Loaded| match state {
        State::Attached { .. } => None,
        State::Gone => Some(format!(
            "{name} is not filtered: its device is gone; `filter-ctl load {name}` once it is back"
        )),
        State::Elsewhere { .. } => Some(format!("{name} is filtered in another network namespace")),
        State::Stale { .. } => Some(format!(
            "{name} runs another program than the one that is pinned for it, which may not know these entries: \
             `filter-ctl repair`"
        )),
    };
    interfaces.iter().filter_map(sentence).collect()
}
