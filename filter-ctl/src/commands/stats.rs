//! `stats`: what was passed and dropped, by interface, reason and entry.

use std::thread;
use std::time::SystemTime;

use anyhow::Result;
use comfy_table::Cell;
use serde::Serialize;

use super::{Session, standing_warnings};
use crate::cli::StatsArgs;
use crate::exit::Exit;
use crate::host::monotonic_now;
use crate::kernel::Filter;
use crate::output::{self, EntryView};
use crate::stats::{
    EntryCounts, EntryFigures, Figures, InterfaceFigures, Snapshot, by_interface, top_entries,
};

/// Clears the terminal and moves to its top (ECMA-48 CUP and ED).
const CLEAR: &str = "\x1b[H\x1b[2J";

#[derive(Serialize)]
struct Report {
    time: String,
    interval_s: Option<f64>,
    interfaces: Vec<InterfaceFigures>,
    entries: Vec<EntryReport>,
    /// Interfaces whose figures stand still because they are not filtered.
    warnings: Vec<String>,
}

#[derive(Serialize)]
struct EntryReport {
    #[serde(flatten)]
    entry: EntryView,
    #[serde(flatten)]
    figures: Figures,
}

pub fn run(session: &Session, args: &StatsArgs) -> Result<Exit> {
    let mut before = None;
    let interval = args.watch.unwrap_or(args.over);
    loop {
        if before.is_some() || args.watch.is_some() || interval.is_zero() {
            let control = session.open()?;
            let now = snapshot(control.filter())?;
            let report = report(&now, before.as_ref(), args.top, standing_warnings(&control));
            drop(control);
            match (session.global.json, args.watch) {
                (true, Some(_)) => session.out.json_line(&report)?,
                (true, None) => session.out.json(&report)?,
                (false, watch) => {
                    if watch.is_some() && session.out.is_terminal() {
                        session.out.raw_line(CLEAR)?;
                    }
                    print(session, &report)?;
                }
            }
            if args.watch.is_none() {
                return Ok(Exit::Done);
            }
            before = Some(now);
        } else {
            before = Some(snapshot(session.open()?.filter())?);
        }
        // The lock is not held meanwhile.
        thread::sleep(interval);
    }
}

/// Reads all counters.
pub(super) fn snapshot(filter: &Filter) -> Result<Snapshot> {
    let at = monotonic_now();
    let interfaces = filter.maps().interface_counts()?;
    let entries = filter.counted()?.into_iter().filter(|(_, entry, _)| !entry.owner.is_canary());
    let entries = entries.map(|(id, entry, counter)| EntryCounts { id, entry, counter }).collect();
    Ok(Snapshot { at, interfaces, entries })
}

fn report(now: &Snapshot, before: Option<&Snapshot>, top: usize, warnings: Vec<String>) -> Report {
    let at = monotonic_now();
    let entries = top_entries(now, before, top)
        .into_iter()
        .map(|EntryFigures { entry, figures }| EntryReport { entry: EntryView::new(&entry, at), figures });
    Report {
        time: humantime::format_rfc3339_millis(SystemTime::now()).to_string(),
        interval_s: before.map(|before| now.at.saturating_sub(before.at).as_secs_f64()),
        interfaces: by_interface(now, before),
        entries: entries.collect(),
        warnings,
    }
}

fn print(session: &Session, report: &Report) -> Result<()> {
    const NUMBERS: [&str; 4] = ["packets", "bytes", "packets/s", "bytes/s"];
    let mut table = session
        .out
        .table(&["interface", "verdict", "reason", "packets", "bytes", "packets/s", "bytes/s"], &NUMBERS);
    for interface in &report.interfaces {
        for (verdict, total) in [("drop", &interface.dropped), ("pass", &interface.passed)] {
            table.add_row(row(
                [Cell::new(&interface.interface), output::coloured(verdict), Cell::new("total")],
                total,
            ));
            let mut reasons: Vec<_> = interface
                .reasons
                .iter()
                .filter(|reason| reason.verdict == verdict && reason.figures.packets > 0)
                .collect();
            reasons.sort_by_key(|reason| std::cmp::Reverse(reason.figures.packets));
            for reason in reasons {
                let name = Cell::new(reason.reason);
                table.add_row(row([Cell::new(""), Cell::new(""), name], &reason.figures));
            }
        }
    }
    session.out.print_table(&table)?;
    session.out.warn(&report.warnings);
    if report.entries.is_empty() {
        return session.out.line("\nno entry that is shown has decided a packet yet");
    }
    session.out.line("")?;
    let header = ["entry", "action", "age", "left", "packets", "bytes", "packets/s", "why"];
    let mut table = session.out.table(&header, &NUMBERS);
    for EntryReport { entry, figures } in &report.entries {
        let cells = [
            Cell::new(entry.prefix),
            output::coloured(entry.action.name()),
            Cell::new(output::span(entry.age_s)),
            Cell::new(entry.left()),
        ];
        // Eighty columns have no room for all figures; JSON has.
        let mut row = row(cells, figures);
        row.pop();
        row.push(Cell::new(entry.reason.as_deref().unwrap_or("-")));
        table.add_row(row);
    }
    session.out.print_table(&table)
}

/// Some cells, and behind them the figures.
fn row<const N: usize>(cells: [Cell; N], figures: &Figures) -> Vec<Cell> {
    let numbers = [
        output::grouped(figures.packets),
        output::short(figures.bytes),
        output::rate(figures.packets_per_second),
        output::rate(figures.bytes_per_second),
    ];
    cells.into_iter().chain(numbers.into_iter().map(Cell::new)).collect()
}
