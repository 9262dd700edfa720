//! `load`: filter the traffic that comes in on interfaces.

use anyhow::Result;
use serde::Serialize;

use crate::cli::{Global, LoadArgs};
use crate::exit::Exit;
use crate::host::devices::Mode;
use crate::kernel::filter::{self, LoadOutcome};
use crate::output;

#[derive(Serialize)]
struct Report<'a> {
    interfaces: Vec<InterfaceReport<'a>>,
}

#[derive(Serialize)]
struct InterfaceReport<'a> {
    interface: &'a str,
    mode: Mode,
    already_loaded: bool,
}

pub fn run(global: &Global, args: &LoadArgs) -> Result<Exit> {
    let mut interfaces = args.interfaces.clone();
    let mut seen = std::collections::HashSet::new();
    interfaces.retain(|name| seen.insert(name.clone()));
    let outcomes = filter::load(
        &global.pins(),
        &interfaces,
        args.mode,
        args.max_entries,
        global.lock_wait,
        global.verbose,
    )?;
    if global.json {
        let interfaces = interfaces.iter().zip(&outcomes);
        let interfaces = interfaces.map(|(interface, outcome)| InterfaceReport {
            interface,
            mode: args.mode,
            already_loaded: *outcome == LoadOutcome::AlreadyLoaded,
        });
        output::json(Report { interfaces: interfaces.collect() })?;
    } else {
        for (interface, outcome) in interfaces.iter().zip(outcomes) {
            let mode = args.mode.name();
            match outcome {
                LoadOutcome::Loaded => output::line(&format!("{interface}: filtering in {mode} mode"))?,
                LoadOutcome::AlreadyLoaded => {
                    output::line(&format!("{interface}: was already filtering in {mode} mode"))?
                }
            }
        }
    }
    Ok(Exit::Done)
}
