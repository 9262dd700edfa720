//! `resize`: room for more entries, or for fewer.

use anyhow::Result;
use serde::Serialize;

use super::{Session, exit_of, reported, standing_warnings};
use crate::cli::ResizeArgs;
use crate::exit::Exit;
use crate::output::MemoryView;

#[derive(Serialize)]
struct Report {
    max_ipv4: u32,
    max_ipv6: u32,
    memory: MemoryView,
    warnings: Vec<String>,
}

pub fn run(session: &Session, args: &ResizeArgs) -> Result<Exit> {
    let mut control = session.open()?;
    control.resize(args.max_ipv4, args.max_ipv6, session.global.verbose)?;
    let geometry = control.filter().geometry();
    let warnings = standing_warnings(&control);
    let exit = exit_of(&control, Exit::Done);
    drop(control);
    let told = || {
        let report = Report {
            max_ipv4: geometry.capacity_v4,
            max_ipv6: geometry.capacity_v6,
            memory: MemoryView::new(geometry)?,
            warnings,
        };
        if session.global.json {
            return session.out.json(&report);
        }
        session.out.warn(&report.warnings);
        session.out.line(&report.memory.sentence(geometry))
    };
    reported(told(), exit)
}
