//! `load`: filter the traffic that comes in on interfaces.

use anyhow::Result;
use serde::Serialize;

use super::{Session, exit_of, reported};
use crate::cli::LoadArgs;
use crate::control::{Control, Loading};
use crate::exit::Exit;
use crate::host::devices::Mode;
use crate::kernel::loading::{LoadOutcome, Sizes};
use crate::output::{self, MemoryView};

#[derive(Serialize)]
struct Report {
    interfaces: Vec<InterfaceReport>,
    memory: MemoryView,
    /// Entries that are enforced.
    entries: usize,
    warnings: Vec<String>,
}

#[derive(Serialize)]
struct InterfaceReport {
    interface: String,
    mode: Mode,
    already_loaded: bool,
}

pub fn run(session: &Session, args: &LoadArgs) -> Result<Exit> {
    let loading = Loading {
        names: &args.interfaces,
        mode: args.mode,
        sizes: Sizes { max_v4: args.max_ipv4, max_v6: args.max_ipv6 },
        verbose: session.global.verbose,
    };
    let (control, outcomes) = Control::load(&session.global.place(), session.author(), loading)?;
    let (geometry, entries, warnings) =
        (control.filter().geometry(), control.filter().len(), control.warnings());
    let exit = exit_of(&control, Exit::Done);
    drop(control);
    let told = || {
        let memory = MemoryView::new(geometry)?;
        if session.global.json {
            let report = |LoadOutcome { interface, already_loaded }| InterfaceReport {
                interface,
                mode: args.mode,
                already_loaded,
            };
            let interfaces = outcomes.iter().cloned().map(report).collect();
            return session.out.json(Report { interfaces, memory, entries, warnings: warnings.clone() });
        }
        session.out.warn(&warnings);
        outcomes.iter().try_for_each(|LoadOutcome { interface, already_loaded }| {
            let was = if *already_loaded { "was already filtering" } else { "filtering" };
            session.out.line(&format!("{interface}: {was} in {} mode", args.mode.name()))
        })?;
        if outcomes.is_empty() {
            session.out.line("no interface matches yet; the daemon filters those that appear")?;
        }
        if entries > 0 {
            let entries = output::counted(entries, "entry of the store is", "entries of the store are");
            session.out.line(&format!("{entries} enforced"))?;
        }
        session.out.line(&memory.sentence(geometry))
    };
    reported(told(), exit)
}
