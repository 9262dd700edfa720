//! `load`: filter the traffic that comes in on interfaces.

use anyhow::Result;
use serde::Serialize;

use super::reported;
use crate::cli::{Global, LoadArgs};
use crate::exit::Exit;
use crate::host::devices::Mode;
use crate::kernel::loading::{self, LoadOptions, LoadOutcome};
use crate::output::{self, MemoryView};

#[derive(Serialize)]
struct Report {
    interfaces: Vec<InterfaceReport>,
    memory: MemoryView,
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
        max_v4: args.max_ipv4,
        max_v6: args.max_ipv6,
        lock_wait: global.lock_wait,
        verbose: global.verbose,
    };
    let (outcomes, geometry) = loading::load(&global.pins(), &args.interfaces, options)?;
    let told = || {
        let memory = MemoryView::new(geometry)?;
        if global.json {
            let report = |LoadOutcome { interface, already_loaded }| InterfaceReport {
                interface,
                mode: args.mode,
                already_loaded,
            };
            let interfaces = outcomes.into_iter().map(report).collect();
            return output::json(Report { interfaces, memory });
        }
        outcomes.iter().try_for_each(|LoadOutcome { interface, already_loaded }| {
            let was = if *already_loaded { "was already filtering" } else { "filtering" };
            output::line(&format!("{interface}: {was} in {} mode", args.mode.name()))
        })?;
        output::line(&memory.sentence(geometry))
    };
    reported(told(), Exit::Done)
}
