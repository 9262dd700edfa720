//! `audit`: who changed what, and when.

use anyhow::Result;
use comfy_table::Cell;
use serde::Serialize;

use super::Session;
use crate::cli::AuditArgs;
use crate::exit::Exit;
use crate::output;
use crate::store::{Audited, Store};

#[derive(Serialize)]
struct Report {
    changes: Vec<Line>,
}

#[derive(Serialize)]
struct Line {
    at: String,
    #[serde(flatten)]
    audited: Audited,
}

pub fn run(session: &Session, args: &AuditArgs) -> Result<Exit> {
    let lines = Store::open(&session.global.state_directory())?.audit(args.last)?;
    let changes = lines.into_iter().map(|audited| Line { at: output::wall_time(audited.at_s), audited });
    let report = Report { changes: changes.collect() };
    if session.global.json {
        session.out.json(report)?;
        return Ok(Exit::Done);
    }
    if report.changes.is_empty() {
        session.out.line("no changes yet")?;
        return Ok(Exit::Done);
    }
    let mut table = session.out.table(&["when", "who", "via", "what"], &[]);
    for Line { at, audited } in &report.changes {
        let via = serde_json::to_value(audited.actor.via)?;
        table.add_row([
            Cell::new(at),
            output::foreign(&audited.actor.to_string()),
            Cell::new(via.as_str().unwrap_or_default()),
            output::foreign(&audited.command),
        ]);
    }
    session.out.print_table(&table)?;
    Ok(Exit::Done)
}
