//! One file a verb: from arguments to output. Only these print.

mod entries;
mod explain;
mod load;
mod malformed;
mod stats;
mod status;
mod unload;

use anyhow::Result;

use crate::cli::{Cli, Command, Global, definition};
use crate::exit::Exit;
use crate::kernel::{Filter, Pins};
use crate::output;
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
        Command::Status => status::run(global),
        Command::Block(command) => entries::run(global, Action::Block, &command),
        Command::Allow(command) => entries::run(global, Action::Allow, &command),
        Command::Stats(args) => stats::run(global, &args),
        Command::Explain(args) => explain::run(global, &args),
        Command::Malformed(command) => malformed::run(global, &command),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut definition(), "filter-ctl", &mut script);
            output::raw_line(String::from_utf8_lossy(&script).trim_end())?;
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
