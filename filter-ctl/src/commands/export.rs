//! `export`: entries in the formats of other programs.

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::{Result, bail};
use filter_common::prefix::Family;
use serde::Serialize;

use super::Session;
use crate::cli::{ExportArgs, ExportFormat};
use crate::control::Control;
use crate::exit::{Exit, NoSuchList, UsageError};
use crate::holds::enforced;
use crate::host::monotonic_now;
use crate::lists::settings::owner_of;
use crate::output::EntryView;
use crate::policy::{Deadline, Entry, Prefix};
use crate::store::Bounds;

/// Bytes that are gathered before they are printed: some thousand lines.
const PIECE: usize = 64 << 10;

pub fn run(session: &Session, args: &ExportArgs) -> Result<Exit> {
    let format = match (args.format, session.global.json) {
        (None, false) => ExportFormat::Plain,
        (None, true) => ExportFormat::Json,
        (Some(format), true) if format != ExportFormat::Json => {
            bail!(UsageError("--json prints JSON: leave it out, or --format".into()));
        }
        (Some(format), _) => format,
    };
    let control = session.open()?;
    let entries = entries(&control, args)?;
    session.out.warn(&control.warnings());
    drop(control);
    let now = monotonic_now();
    match format {
        ExportFormat::Json => json(session, &entries, now)?,
        ExportFormat::Plain => {
            each(session, &entries, |text, entry| writeln!(text, "{}", bare(&entry.key.prefix)))?
        }
        ExportFormat::Ipset => ipset(session, &entries, args, now)?,
        ExportFormat::Nft => nft(session, &entries, args, now)?,
    }
    Ok(Exit::Done)
}

/// What is enforced, or what one list has a part in, without what has ended and the canaries.
fn entries(control: &Control, args: &ExportArgs) -> Result<Vec<Entry>> {
    let now_s = crate::host::monotonic_now_s();
    let is_wanted = |entry: &Entry| {
        entry.key.action == args.action && !entry.owner.is_canary() && !entry.until.has_passed(now_s)
    };
    let Some(name) = &args.list else {
        let entries = control.filter().entries()?.into_iter().map(|(_, entry)| entry);
        return Ok(entries.filter(is_wanted).collect());
    };
    let store = control.readable_store()?;
    store.list(name)?.ok_or_else(|| NoSuchList(name.clone()))?;
    let owner = owner_of(name)?;
    let mut entries = Vec::new();
    store.each_key(Bounds::All, |key, mut holds| {
        holds.retain(|hold| hold.owner == owner);
        entries.extend(enforced(key, &holds).filter(is_wanted));
        Ok(())
    })?;
    Ok(entries)
}

#[derive(Serialize)]
struct Listed {
    entries: Vec<EntryView>,
}

fn json(session: &Session, entries: &[Entry], now: Duration) -> Result<()> {
    session.out.json(Listed { entries: entries.iter().map(|entry| EntryView::new(entry, now)).collect() })
}

/// Prints a text for each entry, many at once.
fn each(
    session: &Session,
    entries: &[Entry],
    mut on_entry: impl FnMut(&mut String, &Entry) -> std::fmt::Result,
) -> Result<()> {
    let mut text = String::new();
    for entry in entries {
        on_entry(&mut text, entry)?;
        if text.len() >= PIECE {
            session.out.raw_line(text.trim_end())?;
            text.clear();
        }
    }
    if text.is_empty() { Ok(()) } else { session.out.raw_line(text.trim_end()) }
}

/// A prefix as people write it: a single address without its length.
fn bare(prefix: &Prefix) -> String {
    let bits = if prefix.family() == Family::V4 { 32 } else { 128 };
    if prefix.prefix_len() == bits { prefix.address().to_string() } else { prefix.to_string() }
}

/// What a set is named for: the list, or the action.
fn name(args: &ExportArgs) -> String {
    let of = args.list.clone().unwrap_or_else(|| args.action.name().to_owned());
    of.replace(['.', '-'], "_")
}

/// Each family's entries, with the words that both programs have for it.
fn of_families(entries: &[Entry]) -> [(&'static str, &'static str, Vec<&Entry>); 2] {
    let of = |family| entries.iter().filter(|entry| entry.key.prefix.family() == family).collect();
    [("4", "inet", of(Family::V4)), ("6", "inet6", of(Family::V6))]
}

/// Most seconds that ipset and nft take as a time to live: what an `add` of ipset 7 refuses beyond (2^32 / 1000).
const LONGEST_TIMEOUT_S: u32 = 4_294_967;

/// A set of type hash:net for each family. It refuses /0, which is two halves then.
fn ipset(session: &Session, entries: &[Entry], args: &ExportArgs, now: Duration) -> Result<()> {
    for (number, family, entries) in
        of_families(entries).into_iter().filter(|(.., entries)| !entries.is_empty())
    {
        let set = format!("{}{number}", name(args));
        let most = entries.len().next_power_of_two().max(65_536);
        session.out.raw_line(&format!(
            "create {set} hash:net family {family} hashsize 1024 maxelem {most} timeout 0"
        ))?;
        let entries: Vec<Entry> = entries.into_iter().cloned().collect();
        each(session, &entries, |text, entry| {
            let parts: Vec<Prefix> = match entry.key.prefix.is_everything() {
                true => entry.key.prefix.halves().collect(),
                false => vec![entry.key.prefix],
            };
            let left = timeout(entry.until, now).map_or(String::new(), |left_s| format!(" timeout {left_s}"));
            parts.iter().try_for_each(|part| writeln!(text, "add {set} {}{left}", bare(part)))
        })?;
    }
    Ok(())
}

/// A table with a set for each family. Sets of nft hold no entry within another: of such only the outermost is there, as
/// long as the longest.
fn nft(session: &Session, entries: &[Entry], args: &ExportArgs, now: Duration) -> Result<()> {
    session.out.raw_line("table inet filter_ctl {")?;
    for (number, _, entries) in of_families(entries) {
        let kind = format!("ipv{number}_addr");
        session.out.raw_line(&format!("  set {}{number} {{", name(args)))?;
        session.out.raw_line(&format!("    type {kind}; flags interval, timeout"))?;
        let outermost = outermost(&entries);
        if !outermost.is_empty() {
            session.out.raw_line("    elements = {")?;
            each(session, &outermost, |text, entry| {
                let left =
                    timeout(entry.until, now).map_or(String::new(), |left_s| format!(" timeout {left_s}s"));
                writeln!(text, "      {}{left},", bare(&entry.key.prefix))
            })?;
            session.out.raw_line("    }")?;
        }
        session.out.raw_line("  }")?;
    }
    session.out.raw_line("}")
}

/// The entries that no other covers, each until the last that it covers ends.
fn outermost(entries: &[&Entry]) -> Vec<Entry> {
    let mut outermost: Vec<Entry> = Vec::new();
    for entry in entries {
        match outermost.last_mut().filter(|outer| outer.key.prefix.covers(&entry.key.prefix)) {
            Some(outer) => outer.until = Deadline::max(outer.until, entry.until),
            None => outermost.push((*entry).clone()),
        }
    }
    outermost
}

/// Seconds that are left, as many as the other program takes.
fn timeout(until: Deadline, now: Duration) -> Option<u32> {
    until.left_s(now).map(|left_s| left_s.clamp(1, LONGEST_TIMEOUT_S))
}
