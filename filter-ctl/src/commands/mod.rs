//! One file a verb: from arguments to output. Only these print.

mod entries;
mod explain;
mod load;
mod malformed;
mod resize;
mod stats;
mod status;
mod unload;
mod upgrade;

use anyhow::Result;

use crate::cli::{Cli, Command, Global, definition};
use crate::exit::{Exit, Unreported, is_closed_pipe};
use crate::kernel::interface::{Loaded, State};
use crate::kernel::{Filter, Pins};
use crate::output;
use crate::plan::Room;
use crate::policy::Action;

/// Runs a command.
///
/// # Errors
///
/// What went wrong; [`Exit::of`] knows the exit code.
pub fn run(cli: Cli) -> Result<Exit> {
    let global = &cli.global;
    match cli.command {
        Command::Load(args) => load::run(global, &args),
        Command::Unload(args) => unload::run(global, &args),
        Command::Resize(args) => resize::run(global, &args),
        Command::Upgrade => upgrade::run(global),
        Command::Status => status::run(global),
        Command::Block(command) => entries::run(global, Action::Block, &command),
        Command::Allow(command) => entries::run(global, Action::Allow, &command),
        Command::Stats(args) => stats::run(global, &args),
        Command::Explain(args) => explain::run(global, &args),
        Command::Malformed(command) => malformed::run(global, &command),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut definition(), "filter-ctl", &mut script);
            let script = String::from_utf8_lossy(&script);
            // clap_complete 4.6 takes the hyphen of a name for the border of two in half of its bash script.
            let script = script.replace("filter__subcmd__ctl", "filter__ctl");
            output::raw_line(script.trim_end())?;
            Ok(Exit::Done)
        }
    }
}

impl Global {
    fn pins(&self) -> Pins {
        Pins::new(&self.pin_root)
    }

    fn open(&self) -> Result<Filter> {
        Filter::open(self.pins(), self.lock_wait)
    }
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

/// A sentence for each interface that was loaded and does not enforce the entries as they are.
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
            "{name} runs the program of another build, which does not know these entries: \
             `filter-ctl unload {name}` and load it again"
        )),
    };
    interfaces.iter().filter_map(sentence).collect()
}
