//! `unload`: stop filtering interfaces.

use anyhow::Result;
use serde::Serialize;

use super::{Session, reported};
use crate::cli::UnloadArgs;
use crate::control;
use crate::exit::Exit;
use crate::output;

#[derive(Serialize)]
struct Report {
    interfaces: Vec<String>,
    /// Names and patterns that were only to be filtered.
    forgotten: Vec<String>,
    everything_removed: bool,
    /// Entries that are nowhere any more.
    entries_removed: usize,
    /// Entries that the store keeps.
    entries_kept: usize,
    warnings: Vec<String>,
}

pub fn run(session: &Session, args: &UnloadArgs) -> Result<Exit> {
    let named = (!args.all).then_some(args.interfaces.as_slice());
    let unloading = control::unload(&session.global.place(), &session.author(), named)?;
    let unloaded = unloading.unloaded;
    let warning = unloading.undurable.map(|unusable| {
        format!("{unusable}; it still says that these are to be filtered, and so they are after a reboot")
    });
    let uncounted = unloading.uncounted.map(|why| {
        format!("what was counted could not be kept, and begins at zero when it is loaded again: {why}")
    });
    let are_counts_kept = uncounted.is_none();
    let exit = if warning.is_some() { Exit::Partly } else { Exit::Done };
    let report = Report {
        interfaces: unloaded.interfaces,
        forgotten: unloading.forgotten,
        everything_removed: unloaded.everything,
        entries_removed: if warning.is_some() { unloaded.entries } else { 0 },
        entries_kept: unloading.kept,
        warnings: warning.into_iter().chain(uncounted).collect(),
    };
    let told = || {
        if session.global.json {
            return session.out.json(&report);
        }
        session.out.warn(&report.warnings);
        for interface in &report.interfaces {
            session.out.line(&format!("{interface}: no longer filtered"))?;
        }
        for name in &report.forgotten {
            session.out.line(&format!("{name}: no longer to be filtered"))?;
        }
        if report.everything_removed {
            let counts = if are_counts_kept { "what was counted" } else { "no counts" };
            let kept = output::counted(report.entries_kept, "entry", "entries");
            session.out.line(&match (report.entries_kept, report.entries_removed) {
                (0, 0) => format!("nothing is filtered any more; the store keeps {counts}"),
                (0, removed) => {
                    let removed = output::counted(removed, "entry", "entries");
                    format!("nothing is filtered any more; {removed} and all counters were removed")
                }
                _ => format!(
                    "nothing is filtered any more; the store keeps {kept} and {counts}, and `filter-ctl load IFACE` enforces \
                     them again"
                ),
            })?;
        }
        Ok(())
    };
    reported(told(), exit)
}
