//! `unload`: stop filtering interfaces.

use anyhow::Result;
use serde::Serialize;

use super::reported;
use crate::cli::{Global, UnloadArgs};
use crate::exit::Exit;
use crate::kernel::loading::{self, Unloaded};
use crate::output;

#[derive(Serialize)]
struct Report {
    interfaces: Vec<String>,
    everything_removed: bool,
    entries_removed: usize,
}

pub fn run(global: &Global, args: &UnloadArgs) -> Result<Exit> {
    let named = (!args.all).then_some(args.interfaces.as_slice());
    let Unloaded { interfaces, everything, entries } =
        loading::unload(&global.pins(), named, global.lock_wait)?;
    let told = || {
        if global.json {
            return output::json(Report {
                interfaces,
                everything_removed: everything,
                entries_removed: entries,
            });
        }
        for interface in &interfaces {
            output::line(&format!("{interface}: no longer filtered"))?;
        }
        if everything {
            let entries = output::counted(entries, "entry", "entries");
            output::line(&format!("nothing is filtered any more; {entries} and all counters were removed"))?;
        }
        Ok(())
    };
    reported(told(), Exit::Done)
}
