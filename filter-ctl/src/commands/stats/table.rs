//! The report for people: no line is longer than 80 columns.

use anyhow::Result;
use comfy_table::Cell;

use super::{EntryReport, Report};
use crate::commands::Session;
use crate::output::{self, Output};
use crate::stats::{Figures, Rate, Rates};

/// Clears the terminal and moves to its top (ECMA-48 CUP and ED).
const CLEAR: &str = "\x1b[H\x1b[2J";

/// Columns of a terminal, of which no line has more.
const WIDTH: usize = 80;

/// The widest prefix that stands in a line with its figures: any of IPv4. Others have a line of their own above.
const PREFIX_WIDTH: usize = 18;

/// Columns of packets, up to which they are told whole: 10^12 of an interface, 10^10 where more stands beside them.
const PACKETS: usize = 15;
const FEWER_PACKETS: usize = 13;

/// Bytes of lines that are printed at once.
const AT_ONCE: usize = 1 << 16;

/// Headers of rates, of packets but for the last.
const RATES: [&str; 4] = ["pkt/s", "10s", "1min", "B/s"];

pub(super) fn print(session: &Session, report: &Report<'_>, is_watched: bool) -> Result<()> {
    let out = &session.out;
    if is_watched && out.is_terminal() {
        out.raw_line(CLEAR)?;
    }
    interfaces(out, report)?;
    out.warn(&report.warnings);
    lists(out, report)?;
    entries(out, report)?;
    let taken = &report.snapshot;
    out.line(&format!(
        "\ncounted at {} within {:.1} ms; pkt/s, B/s: over 1 s",
        &taken.began_at,
        taken.took_s * 1000.0
    ))
}

fn interfaces(out: &Output, report: &Report<'_>) -> Result<()> {
    let header = [&["interface", "packets", "bytes"][..], &RATES].concat();
    let mut table = out.table(&header, &header[1..]);
    for interface in &report.interfaces {
        for (verdict, total) in [("drop", &interface.dropped), ("pass", &interface.passed)] {
            let name = output::coloured_as(verdict, &format!("{} {verdict}", interface.interface));
            table.add_row(row(name, total, PACKETS));
            let mut reasons: Vec<_> = interface
                .reasons
                .iter()
                .filter(|reason| reason.verdict == verdict && reason.figures.packets > 0)
                .collect();
            reasons.sort_by_key(|reason| std::cmp::Reverse(reason.figures.packets));
            for reason in reasons {
                table.add_row(row(Cell::new(format!("  {}", reason.reason)), &reason.figures, PACKETS));
            }
        }
    }
    out.print_table(&table)
}

fn lists(out: &Output, report: &Report<'_>) -> Result<()> {
    let lists = report.lists.as_deref().unwrap_or_default();
    if lists.is_empty() {
        return Ok(());
    }
    out.line("")?;
    let header = ["list", "packets", "alone", "bytes", "pkt/s", "10s", "1min"];
    let mut table = out.table(&header, &header[1..]);
    for list in lists {
        let mut cells = row(Cell::new(&list.list), &list.figures, FEWER_PACKETS);
        cells.insert(2, Cell::new(output::fitting(list.alone.packets, FEWER_PACKETS)));
        cells.pop();
        table.add_row(cells);
    }
    out.print_table(&table)
}

/// Cells of a name and figures.
fn row(name: Cell, figures: &Figures, columns: usize) -> Vec<Cell> {
    let numbers = [output::fitting(figures.packets, columns), output::short(figures.bytes)];
    let bytes = output::rate(figures.rates.second.map(|rate| rate.bytes_per_second));
    let numbers = numbers.into_iter().chain(rates(&figures.rates)).chain([bytes]);
    std::iter::once(name).chain(numbers.map(Cell::new)).collect()
}

/// Packets a second over each time.
fn rates(rates: &Rates) -> [String; 3] {
    let packets = |rate: Option<Rate>| output::rate(rate.map(|rate| rate.packets_per_second));
    [rates.second, rates.ten_seconds, rates.minute].map(packets)
}

/// A line an entry, told as they are made: there may be a million.
fn entries(out: &Output, report: &Report<'_>) -> Result<()> {
    if report.entries.counted.is_empty() {
        return out.line("\nno entry that is shown has decided a packet yet");
    }
    let [second, ten_seconds, minute, _] = RATES;
    let header = ["entry", "action", "packets", second, ten_seconds, minute].map(str::to_owned);
    // Lines are printed by the thousand: each call may wait for a terminal or a pipe.
    let mut text = format!("\n{}", line(&header, "why"));
    report.entries.each(|EntryReport { entry, figures }| {
        if text.len() > AT_ONCE {
            out.line(&std::mem::take(&mut text))?;
        }
        let prefix = entry.prefix.to_string();
        let is_long = prefix.len() > PREFIX_WIDTH;
        let [second, ten_seconds, minute] = rates(&figures.rates);
        let (above, name) = if is_long { (prefix, String::new()) } else { (String::new(), prefix) };
        let packets = output::fitting(figures.packets, FEWER_PACKETS);
        let cells = [name, entry.action.name().to_owned(), packets, second, ten_seconds, minute];
        for line in [above, line(&cells, entry.reason.as_deref().unwrap_or("-"))] {
            if !line.is_empty() {
                text.extend((!text.is_empty()).then_some('\n'));
                text.push_str(&line);
            }
        }
        anyhow::Ok(())
    })?;
    out.line(&text)
}

fn line([name, action, packets, second, ten_seconds, minute]: &[String; 6], why: &str) -> String {
    let figures = format!(
        "{name:PREFIX_WIDTH$}  {action:6}  {packets:>FEWER_PACKETS$}  {second:>5}  {ten_seconds:>5}  {minute:>5}  "
    );
    let left = WIDTH - figures.len();
    let is_cut = why.chars().count() > left;
    let shown: String = why.chars().take(if is_cut { left - 1 } else { left }).collect();
    figures + &shown + if is_cut { "…" } else { "" }
}
