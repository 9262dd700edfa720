//! `malformed`: which faults of a frame the filter tolerates.

use anyhow::Result;
use comfy_table::Cell;
use filter_common::{Reason, Verdict};
use serde::Serialize;

use super::explain::fault;
use crate::cli::{Global, MalformedCommand};
use crate::exit::Exit;
use crate::kernel::Filter;
use crate::output;

#[derive(Serialize)]
struct Report {
    faults: Vec<FaultView>,
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
    faults.iter().try_for_each(|fault| filter.tolerate(*fault, tolerated))?;
    let views = faults.iter().map(|fault| view(&filter, *fault)).collect::<Result<Vec<_>>>()?;
    if global.json {
        output::json(Report { faults: views })?;
    } else {
        for view in views {
            output::line(&format!("{}: {}", view.reason, view.verdict))?;
        }
    }
    Ok(Exit::Done)
}

fn list(global: &Global) -> Result<Exit> {
    let filter = global.open()?;
    let faults = Reason::ALL.iter().filter(|reason| reason.is_malformed());
    let faults = faults.map(|fault| view(&filter, *fault)).collect::<Result<Vec<_>>>()?;
    if global.json {
        output::json(Report { faults })?;
        return Ok(Exit::Done);
    }
    let mut table = output::table(&["fault", "verdict", "meaning"], &[]);
    for fault in faults {
        table.add_row([Cell::new(fault.reason), output::coloured(fault.verdict), Cell::new(fault.meaning)]);
    }
    output::print_table(&table)?;
    Ok(Exit::Done)
}

fn view(filter: &Filter, fault: Reason) -> Result<FaultView> {
    let verdict = if filter.maps().tolerates(fault)? { Verdict::Pass } else { Verdict::Drop };
    Ok(FaultView { reason: fault.name(), verdict: verdict.name(), meaning: fault.sentence() })
}
