//! `list`: lists that others publish.

use std::io::{IsTerminal as _, stderr};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use comfy_table::Cell;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use super::{Session, exit_of, reported, standing_warnings};
use crate::cli::{ListAddArgs, ListCommand, ListUpdateArgs};
use crate::control::{Control, EntryHits, HoledPrefix, ListChange, ListHits};
use crate::exit::{Exit, NoSuchList, UsageError};
use crate::feeds::{Asked, Caller, NotTaken, Outcome, Updated, apply_never, read_url};
use crate::lists::guards::Bounds;
use crate::lists::reading::Refused;
use crate::lists::settings::{Settings, Source, owner_of};
use crate::lists::worker::{Progress, shown};
use crate::output;
use crate::policy::Prefix;
use crate::store::{Generation, Listed, Trouble, wall_now_s};

/// Refused places, changed prefixes and holes that are told one by one; of more the rest is counted.
const MOST_TOLD: usize = 20;

/// How often a progress bar is drawn anew: what an eye follows.
const DRAWN: Duration = Duration::from_millis(100);

pub fn run(session: &Session, command: &ListCommand) -> Result<Exit> {
    match command {
        ListCommand::Add(args) => add(session, args),
        ListCommand::Update(args) => update(session, args),
        ListCommand::Ls => ls(session),
        ListCommand::Show { name, top } => show(session, name, *top),
        ListCommand::Remove { name } => remove(session, name),
        ListCommand::Rollback { name, to } => rollback(session, name, *to),
    }
}

fn add(session: &Session, args: &ListAddArgs) -> Result<Exit> {
    owner_of(&args.name)?;
    let settings = Settings {
        action: args.action,
        source: source(args)?,
        format: args.reading.format,
        column: args.reading.column.clone(),
        mask: args.reading.mask,
        refresh_s: args.refresh.map(|refresh| refresh.as_secs()),
        bounds: Bounds {
            grow_percent: args.max_growth,
            shrink_percent: args.max_shrink,
            refused_percent: args.max_refused,
            shortest_v4: args.shortest_ipv4,
            shortest_v6: args.shortest_ipv6,
        },
    };
    let asked = Asked { is_dry: args.dry_run, is_forced: args.force, settings: Some(settings) };
    let updated = bring(session, &args.name, &asked).inspect_err(|error| tell_refused(session, error))?;
    let exit = if updated.is_durable { Exit::Done } else { Exit::Partly };
    reported(tell(session, std::slice::from_ref(&updated), &[]), exit)
}

/// Where the list comes from, as the daemon must find it, too: not from this process' directory.
fn source(args: &ListAddArgs) -> Result<Source> {
    let absolute = |path: &PathBuf| {
        std::path::absolute(path).with_context(|| format!("{} can't be found", path.display()))
    };
    let headers = args.headers_file.as_ref().map(absolute).transpose()?;
    match (&args.file, &args.url, &args.url_file) {
        (Some(file), None, None) => Ok(Source::File(absolute(file)?)),
        (None, Some(url), None) => Ok(Source::Url { url: url.clone(), headers }),
        (None, None, Some(file)) => Ok(Source::Url { url: read_url(file)?, headers }),
        _ => bail!(UsageError("give one of --file, --url and --url-file".into())),
    }
}

fn caller<'s>(session: &'s Session, place: &'s crate::control::Place) -> Caller<'s> {
    Caller { place, author: session.author(), ssh_peers: &session.ssh_peers }
}

/// Brings a list up to date, and shows how far it is on a terminal.
fn bring(session: &Session, name: &str, asked: &Asked) -> Result<Updated> {
    let place = session.global.place();
    let bar = (stderr().is_terminal() && !session.global.json).then(|| progress_bar(name));
    let updated = caller(session, &place).update(name, asked, &mut |Progress { bytes, total }| {
        let Some(bar) = &bar else { return };
        if let Some(total) = total {
            bar.set_length(total);
        }
        bar.set_position(bytes);
    });
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    updated
}

fn progress_bar(name: &str) -> ProgressBar {
    let bar = ProgressBar::no_length().with_message(name.to_owned());
    let style =
        ProgressStyle::with_template("{msg}: {bytes} of {total_bytes} {wide_bar} {bytes_per_sec} {eta}");
    if let Ok(style) = style {
        bar.set_style(style);
    }
    bar.enable_steady_tick(DRAWN);
    bar
}

fn update(session: &Session, args: &ListUpdateArgs) -> Result<Exit> {
    let names = match &args.name {
        Some(name) => vec![name.clone()],
        None => {
            let control = session.open()?;
            let lists = control.readable_store()?.lists()?;
            lists.into_iter().map(|list| list.name).collect()
        }
    };
    if names.is_empty() {
        session.out.note("there is no list; `filter-ctl list add` makes one");
        return Ok(Exit::NothingMatched);
    }
    let asked = Asked { is_dry: args.dry_run, is_forced: args.force, settings: None };
    let (mut updated, mut failures) = (Vec::new(), Vec::new());
    for name in &names {
        match bring(session, name, &asked) {
            Ok(done) => updated.push(done),
            Err(error) if args.name.is_some() => {
                tell_refused(session, &error);
                return Err(error);
            }
            Err(error) => {
                tell_refused(session, &error);
                failures.push((name.clone(), format!("{error:#}")));
            }
        }
    }
    let exit = match (updated.is_empty(), failures.is_empty()) {
        (_, true) if updated.iter().all(|updated| updated.is_durable) => Exit::Done,
        (true, false) => Exit::Failed,
        _ => Exit::Partly,
    };
    reported(tell(session, &updated, &failures), exit)
}

#[derive(Serialize)]
struct UpdateReport<'u> {
    lists: &'u [Updated],
    failed: Vec<FailedList<'u>>,
}

#[derive(Serialize)]
struct FailedList<'u> {
    list: &'u str,
    why: &'u str,
}

fn tell(session: &Session, updated: &[Updated], failures: &[(String, String)]) -> Result<()> {
    if session.global.json {
        let failed = failures.iter().map(|(list, why)| FailedList { list, why }).collect();
        return session.out.json(UpdateReport { lists: updated, failed });
    }
    for updated in updated {
        tell_one(session, updated)?;
    }
    for (_, why) in failures {
        session.out.note(&format!("filter-ctl: {why}"));
    }
    Ok(())
}

fn tell_one(session: &Session, updated: &Updated) -> Result<()> {
    let name = &updated.list;
    for overridden in &updated.overridden {
        session.out.warn(&[format!("{name} was taken by --force although {overridden}")]);
    }
    session.out.warn(&updated.warnings);
    tell_places(session, name, &updated.refused, updated.found.as_ref().map_or(0, |found| found.refused));
    let change = updated.change.as_ref();
    let generation = change.and_then(|change| change.generation);
    let in_force = generation.map_or(String::new(), |number| format!("generation {number} "));
    let what = match updated.outcome {
        Outcome::Taken => format!("{in_force}is in force"),
        Outcome::Dry => format!("{in_force}would be in force"),
        Outcome::Unchanged => "is as before".to_owned(),
        Outcome::NotModified => "is as before, says the server".to_owned(),
    };
    let mut numbers = Vec::new();
    let mut number = |number: u64, what: &str| numbers.push(format!("{} {what}", output::grouped(number)));
    if let Some(change) = change {
        number(change.added, "added");
        if change.changed > 0 {
            number(change.changed, "with another end");
        }
        number(change.unchanged, "unchanged");
        number(change.removed, "removed");
    }
    if let Some(found) = &updated.found {
        number(found.duplicates, "duplicate");
        number(found.covered, "covered by others of it");
        number(found.refused, "refused");
        if found.ignored > 0 {
            number(found.ignored, "of other kinds");
        }
    }
    let format = updated.found.as_ref().map_or(String::new(), |found| format!(" ({})", found.format.name()));
    let numbers = if numbers.is_empty() { String::new() } else { format!(": {}", numbers.join(", ")) };
    session.out.line(&format!("{name}{format}: {what}{numbers}"))?;
    if let Some(change) = change {
        if updated.outcome == Outcome::Dry {
            tell_prefixes(session, "would add", &change.first_added, change.added)?;
            tell_prefixes(session, "would remove", &change.first_removed, change.removed)?;
        }
        tell_holes(session, name, change);
    }
    Ok(())
}

fn tell_prefixes(session: &Session, what: &str, first: &[Prefix], number: u64) -> Result<()> {
    for prefix in first {
        session.out.line(&format!("{what} {prefix}"))?;
    }
    let more = number.saturating_sub(first.len() as u64);
    if more > 0 {
        session.out.line(&format!("{what} {} more", output::grouped(more)))?;
    }
    Ok(())
}

/// Says what was taken out of a list.
fn tell_holes(session: &Session, name: &str, change: &ListChange) {
    for HoledPrefix { prefix, holes } in change.first_holed.iter().take(MOST_TOLD) {
        let how = match holes.as_slice() {
            [hole] if hole == prefix => "is left out: no list may block it".to_owned(),
            [hole] if hole.covers(prefix) => format!("is left out: no list may block {hole}"),
            holes => format!("has holes, since no list may block {}", joined(holes)),
        };
        session.out.note(&format!("note: {prefix} of {name} {how}"));
    }
    let more = change.holed.saturating_sub(change.first_holed.len().min(MOST_TOLD) as u64);
    if more > 0 {
        session.out.note(&format!("and {} more prefixes of {name} have holes", output::grouped(more)));
    }
}

fn joined(prefixes: &[Prefix]) -> String {
    prefixes.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// Says which places of a list that was not taken are no entries.
fn tell_refused(session: &Session, error: &anyhow::Error) {
    if let Some(NotTaken { list, refused, .. }) = error.downcast_ref()
        && !session.global.json
    {
        tell_places(session, list, refused, refused.len() as u64);
    }
}

pub(super) fn tell_places(session: &Session, name: &str, refused: &[Refused], number: u64) {
    for place in refused.iter().take(MOST_TOLD) {
        session.out.note(&format!("{name}:{place}"));
    }
    let more = number.saturating_sub(refused.len().min(MOST_TOLD) as u64);
    if more > 0 {
        session.out.note(&format!("and {} more places of {name} are no entries", output::grouped(more)));
    }
}

#[derive(Serialize)]
struct Overview {
    lists: Vec<Row>,
    warnings: Vec<String>,
}

#[derive(Serialize)]
struct Row {
    name: String,
    action: crate::policy::Action,
    /// Without what may be a secret.
    source: String,
    format: Option<&'static str>,
    generation: Option<i64>,
    /// Whether a rollback holds it there.
    held: bool,
    entries: Option<u64>,
    /// RFC 3339, UTC.
    checked_at: Option<String>,
    /// Seconds since it was last found up to date.
    age_s: Option<i64>,
    refresh_s: Option<u64>,
    packets: u64,
    bytes: u64,
    /// Of the packets, those from addresses that nobody else holds.
    packets_alone: u64,
    /// What went wrong since it was last up to date.
    trouble: Option<Trouble>,
    /// What went wrong since it was added.
    troubles: u64,
}

fn row(control: &Control, listed: &Listed, hits: &[(crate::policy::Owner, ListHits)]) -> Result<Row> {
    let store = control.readable_store()?;
    let generations = store.generations(listed)?;
    let in_force = generations.iter().find(|kept| Some(kept.number) == listed.generation);
    let owner = owner_of(&listed.name)?;
    let hits = hits.iter().find(|(of, _)| *of == owner).map(|(_, hits)| hits);
    Ok(Row {
        name: listed.name.clone(),
        action: listed.settings.action,
        source: source_shown(&listed.settings.source),
        format: in_force.map(|kept| kept.found.format.name()),
        generation: listed.generation,
        held: listed.is_held,
        entries: in_force.map(|kept| kept.entries),
        checked_at: listed.checked_s.map(output::wall_time),
        age_s: listed.checked_s.map(|checked_s| (wall_now_s() - checked_s).max(0)),
        refresh_s: listed.settings.refresh_s,
        packets: hits.map_or(0, |hits| hits.packets),
        bytes: hits.map_or(0, |hits| hits.bytes),
        packets_alone: hits.map_or(0, |hits| hits.packets_alone),
        trouble: listed.trouble.clone(),
        troubles: listed.troubles,
    })
}

fn source_shown(source: &Source) -> String {
    match source {
        Source::File(path) => path.display().to_string(),
        Source::Url { url, .. } => shown(url),
    }
}

fn ls(session: &Session) -> Result<Exit> {
    let control = session.open()?;
    let listed = control.readable_store()?.lists()?;
    let hits = control.list_hits(0)?;
    let lists = listed.iter().map(|listed| row(&control, listed, &hits)).collect::<Result<Vec<_>>>()?;
    let overview = Overview { lists, warnings: standing_warnings(&control) };
    drop(control);
    if session.global.json {
        session.out.json(&overview)?;
        return Ok(Exit::Done);
    }
    session.out.warn(&overview.warnings);
    if overview.lists.is_empty() {
        session.out.line("no lists")?;
        return Ok(Exit::Done);
    }
    let header = ["list", "action", "entries", "generation", "up to date", "packets", "alone", "source"];
    let mut table = session.out.table(&header, &["entries", "generation", "packets", "alone"]);
    for row in &overview.lists {
        let held = if row.held { " held" } else { "" };
        let age = row.age_s.map_or("never".to_owned(), |age_s| format!("{} ago", ago(age_s)));
        table.add_row([
            Cell::new(&row.name),
            output::coloured(row.action.name()),
            Cell::new(row.entries.map_or("-".to_owned(), output::grouped)),
            Cell::new(row.generation.map_or("none".to_owned(), |number| format!("{number}{held}"))),
            Cell::new(age),
            Cell::new(output::grouped(row.packets)),
            Cell::new(output::grouped(row.packets_alone)),
            output::foreign(&row.source),
        ]);
    }
    session.out.print_table(&table)?;
    for row in &overview.lists {
        if let Some(trouble) = &row.trouble {
            let ago = ago((wall_now_s() - trouble.at_s).max(0));
            session.out.note(&format!("{}: not taken {ago} ago: {}", row.name, trouble.why));
        }
    }
    Ok(Exit::Done)
}

fn ago(seconds: i64) -> String {
    output::span(u32::try_from(seconds).unwrap_or(u32::MAX))
}

#[derive(Serialize)]
struct Details {
    #[serde(flatten)]
    row: Row,
    bounds: Bounds,
    generations: Vec<Generation>,
    top: Vec<TopEntry>,
    /// The first prefixes of the list from which something is left out.
    holed: Vec<HoledPrefix>,
    holed_number: u64,
    warnings: Vec<String>,
}

#[derive(Serialize)]
struct TopEntry {
    #[serde(flatten)]
    hits: EntryHits,
    /// What the list says of it.
    comment: Option<String>,
}

fn show(session: &Session, name: &str, top: usize) -> Result<Exit> {
    let control = session.open()?;
    let store = control.readable_store()?;
    let listed = store.list(name)?.ok_or_else(|| NoSuchList(name.to_owned()))?;
    let owner = owner_of(name)?;
    let hits = control.list_hits(top)?;
    let in_force = store.view().list(&owner);
    let busiest = hits.iter().find(|(of, _)| *of == owner).map_or(&[][..], |(_, hits)| &hits.top);
    let entry = |hits: &EntryHits| -> Result<TopEntry> {
        let said = in_force.map_or(Ok(None), |list| store.said(list, &hits.prefix))?;
        let comment = said.map(|(_, comment)| comment).filter(|comment| !comment.is_empty());
        Ok(TopEntry { hits: hits.clone(), comment })
    };
    let holed = in_force.map_or_else(|| Ok(Default::default()), |list| store.holed(list))?;
    let details = Details {
        row: row(&control, &listed, &hits)?,
        bounds: listed.settings.bounds,
        generations: store.generations(&listed)?,
        top: busiest.iter().map(entry).collect::<Result<_>>()?,
        holed_number: holed.number as u64,
        holed: HoledPrefix::of(holed).into_iter().take(MOST_TOLD).collect(),
        warnings: standing_warnings(&control),
    };
    drop(control);
    if session.global.json {
        session.out.json(&details)?;
    } else {
        print(session, &details)?;
    }
    Ok(Exit::Done)
}

fn print(session: &Session, details: &Details) -> Result<()> {
    let Details { row, bounds, .. } = details;
    session.out.warn(&details.warnings);
    let out = &session.out;
    out.line(&format!("{}: {} what {} holds", row.name, row.action.name(), row.source))?;
    let refresh = row.refresh_s.map_or("by `list update` alone".to_owned(), |refresh_s| {
        format!("every {}", ago(i64::try_from(refresh_s).unwrap_or(i64::MAX)))
    });
    let checked = row.age_s.map_or("never".to_owned(), |age_s| format!("{} ago", ago(age_s)));
    out.line(&format!("fetched {refresh}; up to date {checked}"))?;
    out.line(&format!(
        "an update may have {} % more entries, or lack {} %; {} % of it may be no entries; prefixes from /{} (IPv4) and /{} (IPv6) on",
        bounds.grow_percent, bounds.shrink_percent, bounds.refused_percent, bounds.shortest_v4, bounds.shortest_v6
    ))?;
    out.line(&format!(
        "{} packets, {} bytes; {} packets from addresses that nobody else holds",
        output::grouped(row.packets),
        output::grouped(row.bytes),
        output::grouped(row.packets_alone)
    ))?;
    if let Some(trouble) = &row.trouble {
        out.line(&format!("not taken {} ago: {}", ago((wall_now_s() - trouble.at_s).max(0)), trouble.why))?;
    }
    out.line("")?;
    let mut table = out.table(
        &["generation", "taken", "entries", "format", "refused"],
        &["generation", "entries", "refused"],
    );
    for kept in &details.generations {
        let is_in_force = Some(kept.number) == row.generation;
        let mark = match (is_in_force, row.held) {
            (true, true) => " held",
            (true, false) => " in force",
            _ => "",
        };
        table.add_row([
            Cell::new(format!("{}{mark}", kept.number)),
            Cell::new(output::wall_time(kept.at_s)),
            Cell::new(output::grouped(kept.entries)),
            Cell::new(kept.found.format.name()),
            Cell::new(output::grouped(kept.found.refused)),
        ]);
    }
    out.print_table(&table)?;
    if !details.top.is_empty() {
        out.line("\nbusiest entries:")?;
        let mut table =
            out.table(&["entry", "packets", "bytes", "what the list says"], &["packets", "bytes"]);
        for TopEntry { hits, comment } in &details.top {
            table.add_row([
                Cell::new(hits.prefix),
                Cell::new(output::grouped(hits.packets)),
                Cell::new(output::grouped(hits.bytes)),
                output::foreign(comment.as_deref().unwrap_or("-")),
            ]);
        }
        out.print_table(&table)?;
    }
    if !details.holed.is_empty() {
        out.line("\nleft out, since no list may block it:")?;
        let mut table = out.table(&["of", "left out"], &[]);
        for HoledPrefix { prefix, holes } in &details.holed {
            table.add_row([prefix.to_string(), joined(holes)]);
        }
        out.print_table(&table)?;
        let more = details.holed_number.saturating_sub(details.holed.len() as u64);
        if more > 0 {
            out.line(&format!("and {} more", output::grouped(more)))?;
        }
    }
    Ok(())
}

fn remove(session: &Session, name: &str) -> Result<Exit> {
    let mut control = session.open()?;
    let change = control.remove_list(name)?;
    finish(session, &control, name, "removed", &change)
}

fn rollback(session: &Session, name: &str, to: Option<i64>) -> Result<Exit> {
    let mut control = session.open()?;
    session.out.warn(&apply_never(&mut control, &session.ssh_peers)?);
    let store = control.readable_store()?;
    let listed = store.list(name)?.ok_or_else(|| NoSuchList(name.to_owned()))?;
    let numbers: Vec<i64> = store.generations(&listed)?.iter().map(|kept| kept.number).collect();
    let target = match to {
        Some(number) => Some(number).filter(|number| numbers.contains(number)),
        None => numbers.iter().rev().copied().find(|number| Some(*number) < listed.generation),
    };
    let kept = || numbers.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let Some(target) = target else {
        bail!("{name} has no such generation: {} kept, and nothing was changed", kept());
    };
    ensure!(
        listed.generation != Some(target) || !listed.is_held,
        "generation {target} of {name} is held already"
    );
    let change = control.force_generation(name, target, true)?;
    finish(session, &control, name, "rolled back", &change)
}

fn finish(session: &Session, control: &Control, name: &str, what: &str, change: &ListChange) -> Result<Exit> {
    #[derive(Serialize)]
    struct Report<'r> {
        list: &'r str,
        change: &'r ListChange,
        warnings: Vec<String>,
    }
    let exit = exit_of(control, Exit::Done);
    let report = Report { list: name, change, warnings: control.warnings() };
    let told = || {
        if session.global.json {
            return session.out.json(&report);
        }
        session.out.warn(&report.warnings);
        let to = change
            .generation
            .map_or(String::new(), |number| format!(" to generation {number}, which is held"));
        session.out.line(&format!(
            "{name}: {what}{to}: {} added, {} unchanged, {} removed, of which others hold {}",
            output::grouped(change.added),
            output::grouped(change.unchanged),
            output::grouped(change.removed),
            output::grouped(change.still_held)
        ))?;
        tell_holes(session, name, change);
        Ok(())
    };
    reported(told(), exit)
}
