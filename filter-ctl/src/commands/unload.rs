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
    let exit = if warning.is_some() { Exit::Partly } else { Exit::Done };
    let report = Report {
        interfaces: unloaded.interfaces,
        forgotten: unloading.forgotten,
        everything_removed: unloaded.everything,
        entries_removed: if warning.is_some() { unloaded.entries } else { 0 },
        entries_kept: unloading.kept,
        warnings: warning.into_iter().collect(),
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
            let kept = match (report.entries_kept, report.entries_removed) {
                (0, 0) => "all counters were removed".into(),
                (0, removed) => {
                    format!("{} and all counters were removed", output::counted(removed, "entry", "entries"))
                }
                (kept, _) => format!(
                    "all counters were removed; the store keeps {}, and `filter-ctl load IFACE` enforces them again",
                    output::counted(kept, "entry", "entries")
                ),
            };
            session.out.line(&format!("nothing is filtered any more; {kept}"))?;
        }
        Ok(())
    };
    reported(told(), exit)
}
