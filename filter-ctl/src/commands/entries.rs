//! `block` and `allow`: add, del, list, flush.

use std::io::{self, BufRead as _};

use anyhow::{Context as _, Result, bail};
use comfy_table::Cell;
use serde::Serialize;

use crate::cli::{AddArgs, DelArgs, EntryCommand, Global};
use crate::exit::{Exit, UsageError};
use crate::guard;
use crate::host::{self, monotonic_now, monotonic_now_s};
use crate::kernel::Filter;
use crate::kernel::interface::State;
use crate::output::{self, EntryView};
use crate::plan::{Change, Entries};
use crate::policy::{Action, Deadline, Entry, Key, Prefix, ReasonText};

/// The argument that stands for standard input.
const STDIN: &str = "-";

/// Most that is read from standard input, in bytes: a line for each of the most entries there can be.
const MOST_INPUT: u64 = 64 << 20;

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
    let now = monotonic_now();
    let until = Deadline::after(args.ttl, now)?;
    if !args.force {
        refuse_dangers(action, &prefixes)?;
    }

    let mut filter = global.open()?;
    filter.clear_expired()?;
    let current = filter.entries()?;
    let created_s = monotonic_now_s();
    let entry = |prefix: &Prefix| Entry {
        key: Key { action, prefix: *prefix },
        until,
        created_s,
        reason: reason.clone(),
    };
    let effect = filter.change(&current, Change::Add(prefixes.iter().map(entry).collect()))?;
    let warnings = warnings(&filter, action, &prefixes, &current)?;

    let views =
        |entries: &[Entry]| entries.iter().map(|entry| EntryView::new(entry, now)).collect::<Vec<_>>();
    let report = Added {
        added: views(&effect.added),
        changed: views(&effect.changed),
        unchanged: views(&effect.unchanged),
        warnings,
    };
    if global.json {
        output::json(&report)?;
        return Ok(Exit::Done);
    }
    tell(action, "added", &report.added)?;
    tell(action, "changed", &report.changed)?;
    tell(action, "unchanged", &report.unchanged)?;
    for warning in &report.warnings {
        output::note(&format!("warning: {warning}"));
    }
    Ok(Exit::Done)
}

/// Entries one by one if they are few, otherwise their number.
fn tell(action: Action, what: &str, views: &[EntryView]) -> Result<()> {
    if views.len() > MOST_TOLD {
        return output::line(&format!(
            "{what}: {} {} entries",
            output::grouped(views.len() as u64),
            action.name()
        ));
    }
    for view in views {
        output::line(&format!("{what}: {} {}, {}", action.name(), view.prefix, output::lifetime(view)))?;
    }
    Ok(())
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
fn warnings(filter: &Filter, action: Action, prefixes: &[Prefix], current: &Entries) -> Result<Vec<String>> {
    let mut warnings = Vec::new();
    if action == Action::Block {
        let allows: Vec<Prefix> = current
            .wanted()
            .filter(|(_, entry)| entry.key.action == Action::Allow)
            .map(|(_, entry)| entry.key.prefix)
            .collect();
        for prefix in prefixes {
            if let Some(allow) = allows.iter().find(|allow| allow.covers(prefix)) {
                warnings.push(format!("block {prefix} has no effect while allow {allow} stands"));
            }
        }
        if warnings.len() > MOST_TOLD {
            let rest = warnings.len() - MOST_TOLD;
            warnings.truncate(MOST_TOLD);
            warnings.push(format!("and {rest} more such blocks have no effect"));
        }
    }
    let interfaces = filter.interfaces()?;
    if interfaces.is_empty() {
        warnings.push("no interface is filtered: `filter-ctl load IFACE`".into());
    }
    for loaded in interfaces.iter().filter(|loaded| loaded.state == State::Gone) {
        warnings.push(format!("{} is not filtered: its device is gone", loaded.name));
    }
    Ok(warnings)
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
    let current = filter.entries()?;
    let keys: Vec<Key> = prefixes.iter().map(|prefix| Key { action, prefix: *prefix }).collect();
    let effect = filter.change(&current, Change::Remove(keys))?;

    let remaining = filter.entries()?;
    let covering = |prefix: &Prefix| {
        let same_action = remaining.wanted().filter(|(_, entry)| entry.key.action == action);
        let covering = same_action.map(|(_, entry)| entry.key.prefix).filter(|wider| wider.covers(prefix));
        covering.max_by_key(Prefix::prefix_len)
    };
    let removed: Vec<Prefix> = effect.removed.iter().map(|entry| entry.key.prefix).collect();
    let now = monotonic_now();
    let report = Removed {
        removed: effect.removed.iter().map(|entry| EntryView::new(entry, now)).collect(),
        not_found: prefixes
            .iter()
            .filter(|prefix| !removed.contains(prefix))
            .map(|prefix| NotFound { prefix: *prefix, covered_by: covering(prefix) })
            .collect(),
        still_covered: removed
            .iter()
            .filter_map(|prefix| Some(StillCovered { prefix: *prefix, by: covering(prefix)? }))
            .collect(),
    };
    if global.json {
        output::json(&report)?;
    } else {
        tell(action, "removed", &report.removed)?;
        for still in report.still_covered.iter().take(MOST_TOLD) {
            output::note(&format!(
                "note: {} is still covered by {} {}",
                still.prefix,
                action.name(),
                still.by
            ));
        }
        for NotFound { prefix, covered_by } in report.not_found.iter().take(MOST_TOLD) {
            let covered =
                covered_by.map_or(String::new(), |wider| format!("; {} {wider} covers it", action.name()));
            output::note(&format!("no {} entry {prefix}{covered}", action.name()));
        }
        if report.not_found.len() > MOST_TOLD {
            output::note(&format!("and {} more without an entry", report.not_found.len() - MOST_TOLD));
        }
    }
    Ok(match (report.removed.is_empty(), report.not_found.is_empty()) {
        (_, true) => Exit::Done,
        (false, false) => Exit::Partly,
        (true, false) => Exit::NothingMatched,
    })
}

#[derive(Serialize)]
struct Listed {
    entries: Vec<EntryView>,
}

fn list(global: &Global, action: Action) -> Result<Exit> {
    let entries = global.open()?.entries()?;
    let now = monotonic_now();
    let mut entries: Vec<&Entry> =
        entries.wanted().map(|(_, entry)| entry).filter(|entry| entry.key.action == action).collect();
    entries.sort_by_key(|entry| entry.key);
    let entries: Vec<_> = entries.into_iter().map(|entry| EntryView::new(entry, now)).collect();
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
    let current = filter.entries()?;
    let keys = current.wanted().map(|(_, entry)| entry.key).filter(|key| key.action == action).collect();
    let removed = filter.change(&current, Change::Remove(keys))?.removed;
    if global.json {
        let now = monotonic_now();
        let removed = removed.iter().map(|entry| EntryView::new(entry, now)).collect();
        output::json(Removed { removed, not_found: Vec::new(), still_covered: Vec::new() })?;
    } else {
        output::line(&format!(
            "removed: {} {} entries",
            output::grouped(removed.len() as u64),
            action.name()
        ))?;
    }
    Ok(Exit::Done)
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
    prefixes.sort();
    prefixes.dedup();
    Ok(prefixes)
}

/// The prefixes in `input`, one a line, of which at most `most` bytes are read.
fn read_lines(input: impl io::BufRead, mask: bool, most: u64) -> Result<Vec<Prefix>> {
    let mut prefixes = Vec::new();
    let mut refused = Vec::new();
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
            Err(error) => refused.push(format!("line {number}: {error}")),
        }
    }
    if input.limit() == 0 {
        bail!(UsageError(format!("standard input holds over {most} bytes; give fewer prefixes at once")));
    }
    if refused.is_empty() {
        return Ok(prefixes);
    }
    let rest = refused.len().saturating_sub(MOST_TOLD);
    refused.truncate(MOST_TOLD);
    let rest = if rest > 0 { format!("\nand {rest} more lines") } else { String::new() };
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
