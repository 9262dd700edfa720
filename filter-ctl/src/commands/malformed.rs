//! `malformed`: which faults of a frame the filter tolerates.

use anyhow::Result;
use comfy_table::Cell;
use filter_common::{Reason, Verdict};
use serde::Serialize;

use super::explain::fault;
use super::{not_filtered, reported};
use crate::cli::{Global, MalformedCommand};
use crate::exit::Exit;
use crate::output;

#[derive(Serialize)]
struct Report {
    faults: Vec<FaultView>,
    warnings: Vec<String>,
}

#[derive(Serialize)]
struct FaultView {
    reason: &'static str,
    verdict: &'static str,
    meaning: &'static str,
}

pub fn run(global: &Global, command: &MalformedCommand) -> Result<Exit> {
    let (names, tolerated) = match command {
        MalformedCommand::List => return list(global),
        MalformedCommand::Pass { reasons } => (reasons, true),
        MalformedCommand::Drop { reasons } => (reasons, false),
    };
    // All names are checked before the first is set.
    let faults = names.iter().map(|name| fault(name)).collect::<Result<Vec<_>>>()?;
    let mut filter = global.open()?;
    filter.tolerate(&faults, tolerated)?;
    let views = faults.iter().map(|fault| view(*fault, tolerated));
    let report = Report { faults: views.collect(), warnings: not_filtered(&filter) };
    drop(filter);
    let told = || {
        if global.json {
            return output::json(&report);
        }
        output::warn(&report.warnings);
        report.faults.iter().try_for_each(|view| output::line(&format!("{}: {}", view.reason, view.verdict)))
    };
    reported(told(), Exit::Done)
}

fn list(global: &Global) -> Result<Exit> {
    let filter = global.open()?;
    let faults = Reason::ALL.iter().filter(|reason| reason.is_malformed());
    let faults =
        faults.map(|fault| Ok(view(*fault, filter.maps().tolerates(*fault)?))).collect::<Result<Vec<_>>>()?;
    let report = Report { faults, warnings: not_filtered(&filter) };
    if global.json {
        output::json(report)?;
        return Ok(Exit::Done);
    }
    output::warn(&report.warnings);
    let mut table = output::table(&["fault", "verdict", "meaning"], &[]);
    for fault in report.faults {
        table.add_row([Cell::new(fault.reason), output::coloured(fault.verdict), Cell::new(fault.meaning)]);
    }
    output::print_table(&table)?;
    Ok(Exit::Done)
}

fn view(fault: Reason, tolerated: bool) -> FaultView {
    let verdict = if tolerated { Verdict::Pass } else { Verdict::Drop };
    FaultView { reason: fault.name(), verdict: verdict.name(), meaning: fault.sentence() }
}
