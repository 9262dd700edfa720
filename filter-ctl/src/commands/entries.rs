//! `block` and `allow`: add, del, list, flush.

use std::collections::{HashMap, HashSet};
use std::io::{self, BufRead as _};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use comfy_table::Cell;
use filter_common::abi::LARGEST_MAX;
use filter_common::prefix::Family;
use serde::Serialize;

use super::{not_filtered, reported, room_warning};
use crate::cli::{AddArgs, DelArgs, EntryCommand, Global};
use crate::exit::{Exit, UsageError};
use crate::guard;
use crate::host::{self, monotonic_now};
use crate::kernel::Filter;
use crate::output::{self, EntryView};
use crate::plan::Change;
use crate::policy::{Action, Deadline, Entry, Key, Owner, Prefix, PrefixSet, ReasonText};

/// The argument that stands for standard input.
const STDIN: &str = "-";

/// Most that is read from standard input, in bytes: a line for each of the most entries there can be.
const MOST_INPUT: u64 = 512 << 20;

/// Most prefixes that are read from standard input: as many as fit in the largest table.
const MOST_PREFIXES: usize = 2 * LARGEST_MAX as usize;

/// Refused lines, or entries, that are told one by one; of more the rest is counted.
const MOST_TOLD: usize = 20;

pub fn run(global: &Global, action: Action, command: &EntryCommand) -> Result<Exit> {
    match command {
        EntryCommand::Add(args) => add(global, action, args),
        EntryCommand::Del(args) => del(global, action, args),
        EntryCommand::List => list(global, action),
        EntryCommand::Flush => flush(global, action),
    }
}

#[derive(Serialize)]
struct Added {
    added: Vec<EntryView>,
    changed: Vec<EntryView>,
    unchanged: Vec<EntryView>,
    warnings: Vec<String>,
}

fn add(global: &Global, action: Action, args: &AddArgs) -> Result<Exit> {
    let prefixes = read_prefixes(&args.prefixes, args.mask)?;
    let reason = ReasonText::parse(&args.reason)?;
    // What is wrong with a time to live is said before anything else; it counts from when the lock is ours.
    Deadline::after(args.ttl, monotonic_now())?;
    if !args.force {
        refuse_dangers(action, &prefixes)?;
    }

    let mut filter = global.open()?;
    filter.clear_expired()?;
    let now = monotonic_now();
    let until = Deadline::after(args.ttl, now)?;
    let created_s = host::whole_seconds(now);
    let owner = Owner::manual();
    let entry = |prefix: &Prefix| Entry {
        key: Key { action, prefix: *prefix },
        until,
        created_s,
        owner: owner.clone(),
        reason: reason.clone(),
    };
    let effect = filter.change(Change::Add(prefixes.iter().map(entry).collect()))?;
    // The change is made: what can't be said beside it is no failure of it.
    let warnings = warnings(&filter, action, &prefixes)
        .unwrap_or_else(|error| vec![format!("what else is to be said of this can't be told: {error:#}")]);
    drop(filter);

    let told = || {
        if global.json {
            return output::json(Added {
                added: views(&effect.added, now),
                changed: views(&effect.changed, now),
                unchanged: views(&effect.unchanged, now),
                warnings,
            });
        }
        tell(action, "added", &effect.added, now)?;
        tell(action, "changed", &effect.changed, now)?;
        tell(action, "unchanged", &effect.unchanged, now)?;
        output::warn(&warnings);
        Ok(())
    };
    reported(told(), Exit::Done)
}

/// Entries one by one if they are few, otherwise their number.
fn tell(action: Action, what: &str, entries: &[Entry], now: Duration) -> Result<()> {
    if entries.len() > MOST_TOLD {
        return output::line(&format!(
            "{what}: {} {} entries",
            output::grouped(entries.len() as u64),
            action.name()
        ));
    }
    for view in views(entries, now) {
        output::line(&format!("{what}: {} {}, {}", action.name(), view.prefix, output::lifetime(&view)))?;
    }
    Ok(())
}

fn views(entries: &[Entry], now: Duration) -> Vec<EntryView> {
    entries.iter().map(|entry| EntryView::new(entry, now)).collect()
}

fn refuse_dangers(action: Action, prefixes: &[Prefix]) -> Result<()> {
    let addresses = host::network::addresses()?;
    let ssh_peers = host::ssh::peers()?;
    let dangers = guard::dangers(action, prefixes, &addresses, &ssh_peers);
    if dangers.is_empty() {
        return Ok(());
    }
    let told: Vec<String> = dangers.iter().take(MOST_TOLD).map(ToString::to_string).collect();
    let rest = dangers.len() - told.len();
    let rest = if rest > 0 { format!("; and {rest} more") } else { String::new() };
    bail!("refused, and nothing was added: {}{rest}. Use --force if you mean it", told.join("; "))
}

/// Why an entry may not do what the operator thinks.
fn warnings(filter: &Filter, action: Action, prefixes: &[Prefix]) -> Result<Vec<String>> {
    let mut warnings = Vec::new();
    if action == Action::Block {
        let mut without_effect = Vec::new();
        let allows = Wider::new(filter, Action::Allow, prefixes.len())?;
        for prefix in prefixes {
            if let Some(allow) = allows.of(filter, prefix)? {
                without_effect.push(format!("block {prefix} has no effect while allow {allow} stands"));
            }
        }
        let rest = without_effect.len().saturating_sub(MOST_TOLD);
        warnings.extend(without_effect.into_iter().take(MOST_TOLD));
        if rest > 0 {
            warnings.push(format!("and {rest} more such blocks have no effect"));
        }
    }
    for (family, name, option) in [(Family::V4, "IPv4", "--max-ipv4"), (Family::V6, "IPv6", "--max-ipv6")] {
        let room = filter.room(family);
        if room.is_near_full() && prefixes.iter().any(|prefix| prefix.family() == family) {
            warnings.push(room_warning(name, option, room));
        }
    }
    warnings.extend(not_filtered(filter));
    Ok(warnings)
}

/// The longest entry of an action that covers a prefix. Few prefixes are looked up in the tables; for many it is quicker
/// to go over all entries once.
enum Wider {
    InTables(Action),
    InSet(PrefixSet),
}

impl Wider {
    /// Prefixes that are looked up one by one.
    const FEW: usize = 64;

    fn new(filter: &Filter, action: Action, prefixes: usize) -> Result<Self> {
        if prefixes <= Self::FEW {
            return Ok(Self::InTables(action));
        }
        Ok(Self::InSet(filter.prefixes(action)?.into_iter().collect()))
    }

    fn of(&self, filter: &Filter, prefix: &Prefix) -> Result<Option<Prefix>> {
        match self {
            Self::InSet(set) if set.is_empty() => Ok(None),
            Self::InSet(set) => Ok(set.longest_covering(prefix)),
            Self::InTables(action) => {
                let covering = filter.covering(&Key { action: *action, prefix: *prefix })?;
                let of_action = covering.into_iter().filter(|(_, entry)| entry.key.action == *action);
                Ok(of_action.map(|(_, entry)| entry.key.prefix).next_back())
            }
        }
    }
}

#[derive(Serialize)]
struct Removed {
    removed: Vec<EntryView>,
    not_found: Vec<NotFound>,
    still_covered: Vec<StillCovered>,
}

#[derive(Serialize)]
struct NotFound {
    prefix: Prefix,
    covered_by: Option<Prefix>,
}

#[derive(Serialize)]
struct StillCovered {
    prefix: Prefix,
    by: Prefix,
}

fn del(global: &Global, action: Action, args: &DelArgs) -> Result<Exit> {
    let prefixes = read_prefixes(&args.prefixes, args.mask)?;
    let mut filter = global.open()?;
    filter.clear_expired()?;
    let keys: Vec<Key> = prefixes.iter().map(|prefix| Key { action, prefix: *prefix }).collect();
    let effect = filter.change(Change::Remove(keys))?;

    let wider = still_covering(&filter, action, &prefixes);
    drop(filter);
    let wider = match wider {
        Ok(wider) => wider,
        // The change is made: what can't be said beside it is no failure of it.
        Err(error) => {
            output::warn(&[format!("what still covers these prefixes can't be told: {error:#}")]);
            HashMap::new()
        }
    };
    let removed: HashSet<Prefix> = effect.removed.iter().map(|entry| entry.key.prefix).collect();
    let now = monotonic_now();
    let report = Removed {
        removed: if global.json { views(&effect.removed, now) } else { Vec::new() },
        not_found: prefixes
            .iter()
            .filter(|prefix| !removed.contains(prefix))
            .map(|prefix| NotFound { prefix: *prefix, covered_by: wider.get(prefix).copied() })
            .collect(),
        still_covered: prefixes
            .iter()
            .filter(|prefix| removed.contains(prefix))
            .filter_map(|prefix| Some(StillCovered { prefix: *prefix, by: *wider.get(prefix)? }))
            .collect(),
    };
    let exit = match (effect.removed.is_empty(), report.not_found.is_empty()) {
        (_, true) => Exit::Done,
        (false, false) => Exit::Partly,
        (true, false) => Exit::NothingMatched,
    };
    reported(tell_removed(global, action, &report, &effect.removed, now), exit)
}

/// For each prefix the longest entry of the action that covers it, where there is one.
fn still_covering(filter: &Filter, action: Action, prefixes: &[Prefix]) -> Result<HashMap<Prefix, Prefix>> {
    let remaining = Wider::new(filter, action, prefixes.len())?;
    let mut wider = HashMap::new();
    for prefix in prefixes {
        if let Some(covering) = remaining.of(filter, prefix)? {
            wider.insert(*prefix, covering);
        }
    }
    Ok(wider)
}

fn tell_removed(
    global: &Global,
    action: Action,
    report: &Removed,
    removed: &[Entry],
    now: Duration,
) -> Result<()> {
    if global.json {
        return output::json(report);
    }
    tell(action, "removed", removed, now)?;
    for still in report.still_covered.iter().take(MOST_TOLD) {
        output::note(&format!("note: {} is still covered by {} {}", still.prefix, action.name(), still.by));
    }
    for NotFound { prefix, covered_by } in report.not_found.iter().take(MOST_TOLD) {
        let covered =
            covered_by.map_or(String::new(), |wider| format!("; {} {wider} covers it", action.name()));
        output::note(&format!("no {} entry {prefix}{covered}", action.name()));
    }
    if report.not_found.len() > MOST_TOLD {
        output::note(&format!("and {} more without an entry", report.not_found.len() - MOST_TOLD));
    }
    Ok(())
}

#[derive(Serialize)]
struct Listed {
    entries: Vec<EntryView>,
}

fn list(global: &Global, action: Action) -> Result<Exit> {
    let entries = global.open()?.entries()?;
    let now = monotonic_now();
    let of_action = entries.iter().map(|(_, entry)| entry).filter(|entry| entry.key.action == action);
    let entries: Vec<_> = of_action.map(|entry| EntryView::new(entry, now)).collect();
    if global.json {
        output::json(Listed { entries })?;
    } else if entries.is_empty() {
        output::line(&format!("no {} entries", action.name()))?;
    } else {
        let mut table = output::table(&["prefix", "age", "left", "why"], &[]);
        for entry in &entries {
            table.add_row([
                Cell::new(entry.prefix),
                Cell::new(output::span(entry.age_s)),
                Cell::new(entry.left()),
                Cell::new(entry.reason.as_deref().unwrap_or("-")),
            ]);
        }
        output::print_table(&table)?;
    }
    Ok(Exit::Done)
}

fn flush(global: &Global, action: Action) -> Result<Exit> {
    let mut filter = global.open()?;
    let keys = filter.prefixes(action)?.into_iter().map(|prefix| Key { action, prefix }).collect();
    let removed = filter.change(Change::Remove(keys))?.removed;
    drop(filter);
    let told = || {
        if global.json {
            let now = monotonic_now();
            let removed = removed.iter().map(|entry| EntryView::new(entry, now)).collect();
            return output::json(Removed { removed, not_found: Vec::new(), still_covered: Vec::new() });
        }
        let many = output::counted(removed.len(), "entry", "entries");
        output::line(&format!("removed all {} entries: {many}", action.name()))
    };
    reported(told(), Exit::Done)
}

/// The prefixes of a command line, `-` standing for those on standard input. All are checked, so that one run
/// tells all that is wrong.
fn read_prefixes(arguments: &[String], mask: bool) -> Result<Vec<Prefix>> {
    let mut prefixes = Vec::new();
    for argument in arguments {
        if argument == STDIN {
            prefixes.extend(read_lines(io::stdin().lock(), mask, MOST_INPUT)?);
        } else {
            prefixes.push(Prefix::parse(argument, mask)?);
        }
    }
    prefixes.sort_unstable();
    prefixes.dedup();
    Ok(prefixes)
}

/// The prefixes in `input`, one a line, of which at most `most` bytes are read.
fn read_lines(input: impl io::BufRead, mask: bool, most: u64) -> Result<Vec<Prefix>> {
    let mut prefixes = Vec::new();
    let mut refused = Vec::new();
    let mut more_refused = 0u64;
    let mut input = input.take(most);
    let mut bytes = Vec::new();
    for number in 1u64.. {
        bytes.clear();
        if input.read_until(b'\n', &mut bytes).context("could not read standard input")? == 0 {
            break;
        }
        let line = String::from_utf8_lossy(&bytes);
        let text = line.split('#').next().unwrap_or_default().trim();
        if text.is_empty() {
            continue;
        }
        match Prefix::parse(text, mask) {
            Ok(prefix) => prefixes.push(prefix),
            Err(_) if refused.len() == MOST_TOLD => more_refused += 1,
            Err(error) => refused.push(format!("line {number}: {error}")),
        }
        if prefixes.len() > MOST_PREFIXES {
            bail!(UsageError(format!(
                "standard input holds over {MOST_PREFIXES} prefixes, more than fit in any table"
            )));
        }
    }
    if input.limit() == 0 {
        bail!(UsageError(format!("standard input holds over {most} bytes; give fewer prefixes at once")));
    }
    if prefixes.is_empty() && refused.is_empty() {
        bail!(UsageError("standard input holds no prefix: did what feeds it fail?".into()));
    }
    if refused.is_empty() {
        return Ok(prefixes);
    }
    let rest = if more_refused > 0 { format!("\nand {more_refused} more lines") } else { String::new() };
    bail!(UsageError(format!("standard input, nothing was changed:\n{}{rest}", refused.join("\n"))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_may_be_blank_or_have_comments() {
        let input = "# blocklist\r\n\r\n192.0.2.7 # scanner\r\n 2001:db8::/32\n198.51.100.0/24";
        let prefixes = read_lines(input.as_bytes(), false, 1000).unwrap();
        let texts: Vec<_> = prefixes.iter().map(ToString::to_string).collect();
        assert_eq!(texts, ["192.0.2.7/32", "2001:db8::/32", "198.51.100.0/24"]);
    }

    #[test]
    fn all_refused_lines_are_told_by_number() {
        let error = read_lines(&b"192.0.2.7\nx\n192.0.2.7/24\n\xff"[..], false, 100).unwrap_err();
        assert_eq!(Exit::of(&error), Exit::Usage);
        let text = error.to_string();
        assert!(
            text.contains("line 2: `x`") && text.contains("line 3: ") && text.contains("line 4: "),
            "{text}"
        );
        let many = "x\n".repeat(1000);
        assert!(
            read_lines(many.as_bytes(), false, 10_000)
                .unwrap_err()
                .to_string()
                .ends_with("and 980 more lines")
        );
    }

    #[test]
    fn endless_input_is_refused() {
        let endless = io::BufReader::new(io::repeat(b'\n'));
        assert!(read_lines(endless, false, 1000).unwrap_err().to_string().contains("over 1000 bytes"));
        let one_long_line = io::BufReader::new(io::repeat(b'1'));
        assert!(read_lines(one_long_line, false, 1000).unwrap_err().to_string().contains("over 1000 bytes"));
    }
}
