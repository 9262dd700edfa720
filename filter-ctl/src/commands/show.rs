//! `show`: who holds a prefix, and what covers it or is covered by it.

use std::time::Duration;

use anyhow::Result;
use comfy_table::Cell;
use filter_common::abi::Counter;
use serde::Serialize;

use super::{Session, standing_warnings};
use crate::cli::ShowArgs;
use crate::control::Control;
use crate::exit::Exit;
use crate::host::monotonic_now;
use crate::output::{self, EntryView, HoldView};
use crate::policy::{Action, Entry, Key, Prefix};

/// Covered entries that are told one by one; of more the rest is counted.
const MOST_TOLD: usize = 100;

#[derive(Serialize)]
struct Report {
    prefix: Prefix,
    /// What is enforced for its addresses: `allow`, `block`, or nothing.
    decides: Option<Shown>,
    /// What would be without that entry.
    otherwise: Option<Action>,
    covering: Vec<Shown>,
    covered: Vec<Shown>,
    covered_number: usize,
    warnings: Vec<String>,
}

#[derive(Clone, Serialize)]
struct Shown {
    #[serde(flatten)]
    entry: EntryView,
    packets: u64,
    bytes: u64,
    holders: Vec<HoldView>,
}

pub fn run(session: &Session, args: &ShowArgs) -> Result<Exit> {
    let prefix = Prefix::parse(&args.prefix, args.mask)?;
    let control = session.open()?;
    let now = monotonic_now();
    let filter = control.filter();
    // Of the keys of a prefix that of a block is the last, so that covers all.
    let key = Key { action: Action::Block, prefix };
    let covering = filter.covering(&key)?;
    let is_in_force = |entry: &Entry| entry.until.left_s(now) != Some(0);
    let named: Vec<&(u32, Entry)> = covering.iter().filter(|(_, entry)| is_in_force(entry)).collect();
    let deciding = deciding(&named);
    let others: Vec<_> =
        named.iter().copied().filter(|(id, _)| deciding.is_none_or(|deciding| deciding.0 != *id)).collect();
    let within = filter.covered(&key)?;
    let covered_number = within.len();
    let shown = |(id, entry): &(u32, Entry)| shown(&control, *id, entry, now);
    let report = Report {
        prefix,
        decides: deciding.map(shown).transpose()?,
        otherwise: self::deciding(&others).map(|(_, entry)| entry.key.action),
        covering: covering.iter().map(shown).collect::<Result<_>>()?,
        covered: within.iter().take(MOST_TOLD).map(shown).collect::<Result<_>>()?,
        covered_number,
        warnings: standing_warnings(&control),
    };
    drop(control);
    if session.global.json {
        session.out.json(&report)?;
    } else {
        print(session, &report)?;
    }
    let is_known = !report.covering.is_empty() || report.covered_number > 0;
    Ok(if is_known { Exit::Done } else { Exit::NothingMatched })
}

/// The entry that decides about an address that exactly these cover: the longest allow, or else the longest block.
fn deciding<'e>(covering: &[&'e (u32, Entry)]) -> Option<&'e (u32, Entry)> {
    let longest = |action| covering.iter().copied().rev().find(|(_, entry)| entry.key.action == action);
    longest(Action::Allow).or_else(|| longest(Action::Block))
}

fn shown(control: &Control, id: u32, entry: &Entry, now: Duration) -> Result<Shown> {
    let Counter { packets, bytes } = control.filter().counted_of(id);
    let holders = control.holders(&entry.key)?.into_iter();
    let holders = holders.map(|(hold, reason)| HoldView { reason, ..HoldView::new(&hold, now) }).collect();
    Ok(Shown { entry: EntryView::new(entry, now), packets, bytes, holders })
}

fn print(session: &Session, report: &Report) -> Result<()> {
    session.out.warn(&report.warnings);
    let word = |action: Option<Action>| match action {
        Some(Action::Allow) => "passed",
        Some(Action::Block) => "dropped",
        None => "passed, since no entry covers it",
    };
    session.out.line(&format!(
        "{}: {}",
        report.prefix,
        word(report.decides.as_ref().map(|shown| shown.entry.action))
    ))?;
    if let Some(decides) = &report.decides {
        session.out.line(&format!(
            "  decided by {} {}; without it: {}",
            decides.entry.action.name(),
            decides.entry.prefix,
            word(report.otherwise)
        ))?;
    }
    let rows = [("covered by", &report.covering), ("covers", &report.covered)];
    for (what, entries) in rows.into_iter().filter(|(_, entries)| !entries.is_empty()) {
        session.out.line(&format!("\n{what}:"))?;
        let header = ["entry", "action", "held by", "age", "left", "packets", "why"];
        let mut table = session.out.table(&header, &["packets"]);
        for shown in entries {
            let only = [HoldView::of_entry(&shown.entry)];
            let holders = if shown.holders.is_empty() { &only[..] } else { &shown.holders[..] };
            for (position, holder) in holders.iter().enumerate() {
                let first = |text: String| if position == 0 { text } else { String::new() };
                table.add_row([
                    Cell::new(first(shown.entry.prefix.to_string())),
                    Cell::new(first(shown.entry.action.name().to_owned())),
                    output::foreign(&holder.owner),
                    Cell::new(output::span(holder.age_s)),
                    Cell::new(holder.left()),
                    Cell::new(first(output::grouped(shown.packets))),
                    output::foreign(holder.reason.as_deref().unwrap_or("-")),
                ]);
            }
        }
        session.out.print_table(&table)?;
    }
    let more = report.covered_number.saturating_sub(MOST_TOLD);
    if more > 0 {
        session.out.line(&format!("and {} more", output::grouped(more as u64)))?;
    }
    Ok(())
}
