//! `malformed`: which faults of a frame the filter tolerates.

use anyhow::Result;
use comfy_table::Cell;
use filter_common::{Reason, Verdict};
use serde::Serialize;

use super::explain::fault;
use super::{Session, exit_of, reported, standing_warnings};
use crate::cli::MalformedCommand;
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

pub fn run(session: &Session, command: &MalformedCommand) -> Result<Exit> {
    let (names, tolerated) = match command {
        MalformedCommand::List => return list(session),
        MalformedCommand::Pass { reasons } => (reasons, true),
        MalformedCommand::Drop { reasons } => (reasons, false),
    };
    // All names are checked before the first is set.
    let faults = names.iter().map(|name| fault(name)).collect::<Result<Vec<_>>>()?;
    let mut control = session.open()?;
    control.tolerate(&faults, tolerated)?;
    let views = faults.iter().map(|fault| view(*fault, tolerated));
    let report = Report { faults: views.collect(), warnings: standing_warnings(&control) };
    let exit = exit_of(&control, Exit::Done);
    drop(control);
    let told = || {
        if session.global.json {
            return session.out.json(&report);
        }
        session.out.warn(&report.warnings);
        report
            .faults
            .iter()
            .try_for_each(|view| session.out.line(&format!("{}: {}", view.reason, view.verdict)))
    };
    reported(told(), exit)
}

fn list(session: &Session) -> Result<Exit> {
    let control = session.open()?;
    let filter = control.filter();
    let faults = Reason::ALL.iter().filter(|reason| reason.is_malformed());
    let faults =
        faults.map(|fault| Ok(view(*fault, filter.maps().tolerates(*fault)?))).collect::<Result<Vec<_>>>()?;
    let report = Report { faults, warnings: standing_warnings(&control) };
    if session.global.json {
        session.out.json(report)?;
        return Ok(Exit::Done);
    }
    session.out.warn(&report.warnings);
    let mut table = session.out.table(&["fault", "verdict", "meaning"], &[]);
    for fault in report.faults {
        table.add_row([Cell::new(fault.reason), output::coloured(fault.verdict), Cell::new(fault.meaning)]);
    }
    session.out.print_table(&table)?;
    Ok(Exit::Done)
}

fn view(fault: Reason, tolerated: bool) -> FaultView {
    let verdict = if tolerated { Verdict::Pass } else { Verdict::Drop };
    FaultView { reason: fault.name(), verdict: verdict.name(), meaning: fault.sentence() }
}
