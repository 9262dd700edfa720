//! `audit`: who changed what, and when.

use std::time::{Duration, UNIX_EPOCH};

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
    let changes = lines.into_iter().map(|audited| Line { at: rfc3339(audited.at_s), audited });
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

/// A second since 1970 as RFC 3339; what no clock showed is cut to the nearest that one could.
fn rfc3339(at_s: i64) -> String {
    const LAST: u64 = 253_402_300_799; // the end of the year 9999
    let at = Duration::from_secs(u64::try_from(at_s).unwrap_or(0).min(LAST));
    humantime::format_rfc3339_seconds(UNIX_EPOCH + at).to_string()
}
