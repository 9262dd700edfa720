//! `never`: what no list may block.

use std::collections::BTreeSet;

use anyhow::Result;
use comfy_table::Cell;
use serde::Serialize;

use super::entries::read_prefixes;
use super::{Session, exit_of, reported};
use crate::cli::NeverCommand;
use crate::exit::Exit;
use crate::feeds::never_now;
use crate::host::{monotonic_now, monotonic_now_s};
use crate::never::{merged, observed};
use crate::output::{self, left};
use crate::policy::{Deadline, Prefix, ReasonText};
use crate::store::{Never, NeverKind};

#[derive(Serialize)]
struct Listed {
    never: Vec<View>,
    warnings: Vec<String>,
}

#[derive(Serialize)]
struct View {
    prefix: Prefix,
    kind: NeverKind,
    reason: Option<String>,
    /// Seconds for which it counts if it is seen no more; absent where it counts always.
    counts_for_s: Option<u32>,
    /// Whether it is applied already, and not only seen now.
    applied: bool,
}

#[derive(Serialize)]
struct Changed {
    added: Vec<Prefix>,
    removed: Vec<Prefix>,
    /// Prefixes that were not in the set, or not by an operator.
    not_found: Vec<Prefix>,
    /// Entries of lists that changed by it.
    entries_changed: u64,
}

pub fn run(session: &Session, command: &NeverCommand) -> Result<Exit> {
    match command {
        NeverCommand::Add { prefixes, reason, mask } => {
            let prefixes = read_prefixes(session, prefixes, *mask)?;
            let reason = ReasonText::parse(reason)?;
            change(session, &prefixes, Some(reason.as_str()))
        }
        NeverCommand::Del { prefixes, mask } => {
            change(session, &read_prefixes(session, prefixes, *mask)?, None)
        }
        NeverCommand::List => list(session),
    }
}

/// Adds prefixes with a reason, or removes them where there is none.
fn change(session: &Session, prefixes: &[Prefix], reason: Option<&str>) -> Result<Exit> {
    let mut control = session.open()?;
    let mut never = control.readable_store()?.never()?;
    let is_operators = |never: &Never| never.kind == NeverKind::Operator;
    let before: BTreeSet<Prefix> =
        never.iter().filter(|never| is_operators(never)).map(|never| never.prefix).collect();
    never.retain(|never| !(prefixes.contains(&never.prefix) && (reason.is_some() || is_operators(never))));
    if let Some(reason) = reason {
        never.extend(prefixes.iter().map(|prefix| Never {
            prefix: *prefix,
            kind: NeverKind::Operator,
            reason: reason.to_owned(),
            until: Deadline::NEVER,
        }));
    }
    // What an operator lets go of may be this host's own all the same.
    let (seen, mut warnings) = observed(&session.ssh_peers);
    let never = merged(&never, &seen, monotonic_now_s());
    let entries_changed = control.set_never(&never)?;
    let is_there = |prefix: &&Prefix| before.contains(*prefix);
    let (found, missing): (Vec<&Prefix>, Vec<&Prefix>) = prefixes.iter().partition(is_there);
    let changed = match reason {
        Some(_) => Changed {
            added: missing.into_iter().copied().collect(),
            removed: Vec::new(),
            not_found: Vec::new(),
            entries_changed,
        },
        None => Changed {
            added: Vec::new(),
            removed: found.into_iter().copied().collect(),
            not_found: missing.into_iter().copied().collect(),
            entries_changed,
        },
    };
    warnings.extend(control.warnings());
    let exit = match (changed.removed.is_empty(), changed.not_found.is_empty()) {
        (_, true) => exit_of(&control, Exit::Done),
        (true, false) => Exit::NothingMatched,
        (false, false) => Exit::Partly,
    };
    drop(control);
    session.out.warn(&warnings);
    let told = || {
        if session.global.json {
            return session.out.json(&changed);
        }
        for prefix in &changed.added {
            session.out.line(&format!("added: no list blocks {prefix}"))?;
        }
        for prefix in &changed.removed {
            session.out.line(&format!("removed: lists may block {prefix}"))?;
        }
        for prefix in &changed.not_found {
            session.out.note(&format!("no operator added {prefix}"));
        }
        let entries =
            output::counted_u64(entries_changed, "entry of lists changed", "entries of lists changed");
        session.out.line(&entries)
    };
    reported(told(), exit)
}

fn list(session: &Session) -> Result<Exit> {
    let control = session.open()?;
    let stored = control.readable_store()?.never()?;
    let (all, mut warnings) = never_now(&control, &session.ssh_peers)?;
    warnings.extend(control.warnings());
    drop(control);
    let now = monotonic_now();
    let view = |never: &Never| View {
        prefix: never.prefix,
        kind: never.kind,
        reason: Some(never.reason.clone()).filter(|reason| !reason.is_empty()),
        counts_for_s: never.until.left_s(now),
        applied: stored.iter().any(|stored| stored.prefix == never.prefix),
    };
    let listed = Listed { never: all.iter().map(view).collect(), warnings };
    if session.global.json {
        session.out.json(&listed)?;
        return Ok(Exit::Done);
    }
    session.out.warn(&listed.warnings);
    let mut table = session.out.table(&["prefix", "what it is", "counts for", "applied", "why"], &[]);
    for never in &listed.never {
        table.add_row([
            Cell::new(never.prefix),
            Cell::new(never.kind.name()),
            Cell::new(never.counts_for_s.map_or("ever".to_owned(), |left_s| left(Some(left_s)))),
            Cell::new(if never.applied { "yes" } else { "with the next list" }),
            output::foreign(never.reason.as_deref().unwrap_or("-")),
        ]);
    }
    session.out.print_table(&table)?;
    Ok(Exit::Done)
}
