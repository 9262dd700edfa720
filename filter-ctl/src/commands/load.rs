//! `load`: filter the traffic that comes in on interfaces.

use anyhow::Result;
use serde::Serialize;

use super::reported;
use crate::cli::{Global, LoadArgs};
use crate::exit::Exit;
use crate::host::devices::Mode;
use crate::kernel::loading::{self, LoadOptions, LoadOutcome};
use crate::output;

#[derive(Serialize)]
struct Report {
    interfaces: Vec<InterfaceReport>,
}

#[derive(Serialize)]
struct InterfaceReport {
    interface: String,
    mode: Mode,
    already_loaded: bool,
}

pub fn run(global: &Global, args: &LoadArgs) -> Result<Exit> {
    let options = LoadOptions {
        mode: args.mode,
        max_entries: args.max_entries,
        lock_wait: global.lock_wait,
        verbose: global.verbose,
    };
    let outcomes = loading::load(&global.pins(), &args.interfaces, options)?;
    let told = || {
        if global.json {
            let report = |LoadOutcome { interface, already_loaded }| InterfaceReport {
                interface,
                mode: args.mode,
                already_loaded,
            };
            return output::json(Report { interfaces: outcomes.into_iter().map(report).collect() });
        }
        outcomes.iter().try_for_each(|LoadOutcome { interface, already_loaded }| {
            let was = if *already_loaded { "was already filtering" } else { "filtering" };
            output::line(&format!("{interface}: {was} in {} mode", args.mode.name()))
        })
    };
    reported(told(), Exit::Done)
}
