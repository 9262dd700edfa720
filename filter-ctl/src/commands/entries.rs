//! `block` and `allow`: add, del, list, flush.

use std::collections::{HashMap, HashSet};
use std::io::{self, BufRead as _};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use comfy_table::Cell;
use filter_common::abi::LARGEST_MAX;
use filter_common::prefix::Family;
use serde::Serialize;

use super::{Session, exit_of, reported, room_warning, standing_warnings};
use crate::cli::{AddArgs, DelArgs, EntryCommand, FlushArgs};
use crate::control::Control;
use crate::exit::{Exit, UsageError};
use crate::guard;
use crate::holds::{Change, Effect, Hold, Whose};
use crate::host::{self, monotonic_now};
use crate::kernel::Filter;
use crate::kernel::proof::canary_keys;
use crate::output::{self, EntryView};
use crate::policy::{Action, Deadline, Entry, Key, Owner, Prefix, PrefixSet, ReasonText};

/// The argument that stands for standard input.
const STDIN: &str = "-";

/// Most that is read from standard input, in bytes: a line for each of the most entries there can be.
const MOST_INPUT: u64 = 512 << 20;

/// Most prefixes that are read from standard input: as many as fit in the largest table.
const MOST_PREFIXES: usize = 2 * LARGEST_MAX as usize;

/// Refused lines, or entries, that are told one by one; of more the rest is counted.
const MOST_TOLD: usize = 20;

pub fn run(session: &Session, action: Action, command: &EntryCommand) -> Result<Exit> {
    match command {
        EntryCommand::Add(args) => add(session, action, args),
        EntryCommand::Import(args) => super::import::run(session, action, args),
        EntryCommand::Del(args) => del(session, action, args),
        EntryCommand::List => list(session, action),
        EntryCommand::Flush(args) => flush(session, action, args),
    }
}

#[derive(Serialize)]
struct Added {
    added: Vec<EntryView>,
    changed: Vec<EntryView>,
    unchanged: Vec<EntryView>,
    /// What others hold of the same.
    also_held: Vec<EntryView>,
    warnings: Vec<String>,
}

fn add(session: &Session, action: Action, args: &AddArgs) -> Result<Exit> {
    let prefixes = read_prefixes(session, &args.prefixes, args.mask)?;
    let reason = ReasonText::parse(&args.reason)?;
    let owner = owner(&args.owner)?;
    refuse_lists_name(&owner)?;
    // What is wrong with a time to live is said before anything else; it counts from when the lock is ours.
    Deadline::after(args.ttl, monotonic_now())?;
    if !args.force {
        refuse_dangers(session, action, &prefixes, args.cut_ssh)?;
    }

    let mut control = session.open()?;
    let now = monotonic_now();
    let hold = Hold {
        owner,
        reason,
        creator: session.actor.to_string().into(),
        created_s: host::whole_seconds(now).into(),
        until: Deadline::after(args.ttl, now)?,
    };
    let keys = prefixes.iter().map(|prefix| Key { action, prefix: *prefix }).collect();
    let effect = control.change(Change::Hold { keys, hold })?;
    // The change is made: what can't be said beside it is no failure of it.
    let warnings = warnings(&control, action, &prefixes)
        .unwrap_or_else(|error| vec![format!("what else is to be said of this can't be told: {error:#}")]);
    let exit = exit_of(&control, Exit::Done);
    drop(control);

    reported(tell_added(session, action, &effect, warnings, now), exit)
}

/// Says what came of adding.
pub(super) fn tell_added(
    session: &Session,
    action: Action,
    effect: &Effect,
    warnings: Vec<String>,
    now: Duration,
) -> Result<()> {
    if session.global.json {
        return session.out.json(Added {
            added: views(&effect.added, now),
            changed: views(&effect.changed, now),
            unchanged: views(&effect.unchanged, now),
            also_held: views(&effect.others, now),
            warnings,
        });
    }
    tell(session, action, "added", &effect.added, now)?;
    tell(session, action, "changed", &effect.changed, now)?;
    tell(session, action, "unchanged", &effect.unchanged, now)?;
    note_others(session, "also", &effect.others, now);
    session.out.warn(&warnings);
    Ok(())
}

/// An owner that a command may act for.
pub(super) fn owner(text: &str) -> Result<Owner> {
    let owner = Owner::parse(text)?;
    if owner.is_canary() {
        bail!(UsageError("`canary` holds what proves that the filter works, and nobody acts for it".into()));
    }
    Ok(owner)
}

/// Refuses to hold something in a list's name.
pub(super) fn refuse_lists_name(owner: &Owner) -> Result<()> {
    if owner.is_list() {
        bail!(UsageError(format!("`{}` is a list: `filter-ctl list` changes what it holds", owner.as_str())));
    }
    Ok(())
}

/// Refuses to act for a list that there is: what it holds is for its generations to say.
fn refuse_list(control: &Control, owner: &Owner) -> Result<()> {
    let is_there = control.store().is_ok_and(|store| store.view().list(owner).is_some());
    if is_there {
        bail!(UsageError(format!(
            "`{}` is a list: `filter-ctl list` changes what it holds, and `filter-ctl never add` keeps it from blocking",
            owner.as_str()
        )));
    }
    Ok(())
}

/// What others hold of the prefixes that a change was about.
fn note_others(session: &Session, how: &str, others: &[Entry], now: Duration) {
    for view in views(&others[..others.len().min(MOST_TOLD)], now) {
        let (prefix, owner) = (view.prefix, &view.owner);
        session.out.note(&format!("note: {prefix} is {how} held by {owner}, {}", output::lifetime(&view)));
    }
    if others.len() > MOST_TOLD {
        session.out.note(&format!("and {} more are {how} held by others", others.len() - MOST_TOLD));
    }
}

/// Entries one by one if they are few, otherwise their number.
fn tell(session: &Session, action: Action, what: &str, entries: &[Entry], now: Duration) -> Result<()> {
    if entries.len() > MOST_TOLD {
        return session.out.line(&format!(
            "{what}: {} {} entries",
            output::grouped(entries.len() as u64),
            action.name()
        ));
    }
    for view in views(entries, now) {
        session.out.line(&format!(
            "{what}: {} {}, {}",
            action.name(),
            view.prefix,
            output::lifetime(&view)
        ))?;
    }
    Ok(())
}

fn views(entries: &[Entry], now: Duration) -> Vec<EntryView> {
    entries.iter().map(|entry| EntryView::new(entry, now)).collect()
}

pub(super) fn refuse_dangers(
    session: &Session,
    action: Action,
    prefixes: &[Prefix],
    may_cut_ssh: bool,
) -> Result<()> {
    let addresses = host::network::addresses()?;
    let mut ssh_peers = Vec::new();
    if !may_cut_ssh {
        ssh_peers.extend(host::ssh::peers()?);
        ssh_peers.extend(&session.ssh_peers);
    }
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
pub(super) fn warnings(control: &Control, action: Action, prefixes: &[Prefix]) -> Result<Vec<String>> {
    let filter = control.filter();
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
    warnings.extend(standing_warnings(control));
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
    /// What other owners hold of the same.
    still_held: Vec<EntryView>,
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

fn del(session: &Session, action: Action, args: &DelArgs) -> Result<Exit> {
    let prefixes = read_prefixes(session, &args.prefixes, args.mask)?;
    let whose = if args.any_owner { Whose::All } else { Whose::Of(owner(&args.owner)?) };
    let mut control = session.open()?;
    if let Whose::Of(owner) = &whose {
        refuse_list(&control, owner)?;
    }
    let keys: Vec<Key> = prefixes.iter().map(|prefix| Key { action, prefix: *prefix }).collect();
    let effect = control.change(Change::Release { keys, whose })?;

    let wider = still_covering(control.filter(), action, &prefixes);
    let is_durable = control.is_durable();
    session.out.warn(&control.warnings());
    drop(control);
    let wider = match wider {
        Ok(wider) => wider,
        // The change is made: what can't be said beside it is no failure of it.
        Err(error) => {
            session.out.warn(&[format!("what still covers these prefixes can't be told: {error:#}")]);
            HashMap::new()
        }
    };
    let removed: HashSet<Prefix> = effect.removed.iter().map(|entry| entry.key.prefix).collect();
    let now = monotonic_now();
    let report = Removed {
        removed: if session.global.json { views(&effect.removed, now) } else { Vec::new() },
        not_found: prefixes
            .iter()
            .filter(|prefix| !removed.contains(prefix))
            .map(|prefix| NotFound {
                prefix: *prefix,
                covered_by: wider.get(prefix).copied().filter(|wider| wider != prefix),
            })
            .collect(),
        still_covered: prefixes
            .iter()
            .filter(|prefix| removed.contains(prefix))
            .filter_map(|prefix| Some(StillCovered { prefix: *prefix, by: *wider.get(prefix)? }))
            .filter(|still| still.prefix != still.by)
            .collect(),
        still_held: views(&effect.others, now),
    };
    let exit = match (effect.removed.is_empty(), report.not_found.is_empty()) {
        (_, true) if is_durable => Exit::Done,
        (_, true) => Exit::Partly,
        (false, false) => Exit::Partly,
        (true, false) => Exit::NothingMatched,
    };
    reported(tell_removed(session, action, &report, &effect, now), exit)
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
    session: &Session,
    action: Action,
    report: &Removed,
    effect: &Effect,
    now: Duration,
) -> Result<()> {
    if session.global.json {
        return session.out.json(report);
    }
    tell(session, action, "removed", &effect.removed, now)?;
    note_others(session, "still", &effect.others, now);
    for still in report.still_covered.iter().take(MOST_TOLD) {
        session.out.note(&format!(
            "note: {} is still covered by {} {}",
            still.prefix,
            action.name(),
            still.by
        ));
    }
    for NotFound { prefix, covered_by } in report.not_found.iter().take(MOST_TOLD) {
        let covered =
            covered_by.map_or(String::new(), |wider| format!("; {} {wider} covers it", action.name()));
        let held = effect.others.iter().any(|other| other.key.prefix == *prefix);
        let whose = if held { " of this owner" } else { "" };
        session.out.note(&format!("no {} entry {prefix}{whose}{covered}", action.name()));
    }
    if report.not_found.len() > MOST_TOLD {
        session.out.note(&format!("and {} more without an entry", report.not_found.len() - MOST_TOLD));
    }
    Ok(())
}

#[derive(Serialize)]
struct Listed {
    entries: Vec<EntryView>,
}

fn list(session: &Session, action: Action) -> Result<Exit> {
    let control = session.open()?;
    let entries = control.filter().entries()?;
    session.out.warn(&control.warnings());
    drop(control);
    let now = monotonic_now();
    let of_action = entries
        .iter()
        .map(|(_, entry)| entry)
        .filter(|entry| entry.key.action == action && !entry.owner.is_canary());
    let entries: Vec<_> = of_action.map(|entry| EntryView::new(entry, now)).collect();
    if session.global.json {
        session.out.json(Listed { entries })?;
    } else if entries.is_empty() {
        session.out.line(&format!("no {} entries", action.name()))?;
    } else {
        let mut table = session.out.table(&["prefix", "held by", "age", "left", "why"], &[]);
        for entry in &entries {
            table.add_row([
                Cell::new(entry.prefix),
                Cell::new(&entry.owner),
                Cell::new(output::span(entry.age_s)),
                Cell::new(entry.left()),
                Cell::new(entry.reason.as_deref().unwrap_or("-")),
            ]);
        }
        session.out.print_table(&table)?;
    }
    Ok(Exit::Done)
}

fn flush(session: &Session, action: Action, args: &FlushArgs) -> Result<Exit> {
    let whose = args.owner.as_deref().map(owner).transpose()?;
    let mut control = session.open()?;
    if let Some(owner) = &whose {
        refuse_list(&control, owner)?;
    }
    let canaries = canary_keys();
    let keys = control.filter().prefixes(action)?.into_iter().map(|prefix| Key { action, prefix });
    let keys = keys.filter(|key| !canaries.contains(key)).collect();
    let whose = whose.map_or(Whose::All, Whose::Of);
    let removed = control.change(Change::Release { keys, whose })?.removed;
    let exit = exit_of(&control, Exit::Done);
    session.out.warn(&control.warnings());
    drop(control);
    let told = || {
        if session.global.json {
            let now = monotonic_now();
            let removed = removed.iter().map(|entry| EntryView::new(entry, now)).collect();
            return session.out.json(Removed {
                removed,
                not_found: Vec::new(),
                still_covered: Vec::new(),
                still_held: Vec::new(),
            });
        }
        let many = output::counted(removed.len(), "entry", "entries");
        let whose = args.owner.as_ref().map_or(String::new(), |owner| format!(" of {owner}"));
        session.out.line(&format!("removed all {} entries{whose}: {many}", action.name()))
    };
    reported(told(), exit)
}

/// The prefixes of a command line, `-` standing for those on standard input. All are checked, so that one run
/// tells all that is wrong.
pub(super) fn read_prefixes(session: &Session, arguments: &[String], mask: bool) -> Result<Vec<Prefix>> {
    let mut prefixes = Vec::new();
    for argument in arguments {
        if argument == STDIN {
            prefixes.extend(read_lines(session.input(), mask, MOST_INPUT)?);
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
