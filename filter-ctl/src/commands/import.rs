//! `import`: entries from a file in any format of lists, once.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use serde::Serialize;

use super::entries::{owner, refuse_dangers, refuse_lists_name, tell_added, warnings};
use super::list::tell_places;
use super::{Session, exit_of, reported};
use crate::cli::{ImportArgs, ReadingArgs};
use crate::exit::{Exit, UsageError};
use crate::holds::{Change, Hold, Wishes};
use crate::host::{self, monotonic_now};
use crate::lists::block;
use crate::lists::format::Options;
use crate::lists::worker::{self, Answer, Job, Limits, List, Summary};
use crate::output;
use crate::policy::{Action, Deadline, Key, Prefix, ReasonText};

/// The argument that stands for standard input.
const STDIN: &str = "-";

/// How long reading may take: whoever types into it may be slow.
const TIME_LIMIT: Duration = Duration::from_secs(3600);

/// What a dry run says.
#[derive(Serialize)]
struct Read<'r> {
    format: &'static str,
    prefixes: u64,
    listed: u64,
    duplicates: u64,
    covered: u64,
    first: &'r [Prefix],
}

/// Prefixes that a dry run names.
const MOST_NAMED: usize = 20;

pub fn run(session: &Session, action: Action, args: &ImportArgs) -> Result<Exit> {
    let owner = owner(&args.owner)?;
    refuse_lists_name(&owner)?;
    let reason = ReasonText::parse(&args.reason)?;
    Deadline::after(args.ttl, monotonic_now())?;
    let list = read(&args.file, &args.reading)?;
    let name = args.file.display().to_string();
    require_whole(session, &name, &list.summary)?;
    let entries = entries(&list)?;
    let prefixes: Vec<Prefix> = entries.iter().map(|(prefix, _)| *prefix).collect();
    if args.dry_run {
        tell_dry(session, &list.summary, &prefixes)?;
        return Ok(Exit::Done);
    }
    if !args.force {
        refuse_dangers(session, action, &prefixes, false)?;
    }
    let mut control = session.open()?;
    let now = monotonic_now();
    let hold = Hold {
        owner: owner.clone(),
        reason,
        creator: session.actor.to_string().into(),
        created_s: host::whole_seconds(now).into(),
        until: Deadline::after(args.ttl, now)?,
    };
    let keys = entries.iter().map(|(prefix, _)| Key { action, prefix: *prefix });
    let change = if args.ttl.is_some() || entries.iter().all(|(_, ttl_s)| ttl_s.is_none()) {
        Change::Hold { keys: keys.collect(), hold }
    } else {
        let until = |ttl_s: Option<u32>| {
            Deadline::after(ttl_s.map(|ttl_s| Duration::from_secs(ttl_s.max(1).into())), now)
        };
        let holds = keys
            .zip(&entries)
            .map(|(key, (_, ttl_s))| Ok((key, Hold { until: until(*ttl_s)?, ..hold.clone() })));
        Change::Set(Wishes::extending(&owner, holds.collect::<Result<BTreeMap<_, _>>>()?))
    };
    let effect = control.change(change)?;
    let warnings = warnings(&control, action, &prefixes)
        .unwrap_or_else(|error| vec![format!("what else is to be said of this can't be told: {error:#}")]);
    let exit = exit_of(&control, Exit::Done);
    drop(control);
    reported(tell_added(session, action, &effect, warnings, now), exit)
}

fn read(file: &Path, reading: &ReadingArgs) -> Result<List> {
    let path = if file.as_os_str() == STDIN { Path::new("/dev/stdin") } else { file };
    let input = File::open(path).with_context(|| format!("could not open {}", file.display()))?;
    let options = Options { format: reading.format, mask: reading.mask, column: reading.column.clone() };
    let job =
        Job { source: worker::Source::Stdin, options, limits: Limits::default(), time_limit: TIME_LIMIT };
    match worker::run(&job, Some(input), &mut |_| {})? {
        Answer::Read(list) => Ok(*list),
        Answer::NotModified => bail!("a file can't say that it is what it was"),
    }
}

/// Refuses what is not wholly entries: what is typed once is looked at once.
fn require_whole(session: &Session, name: &str, summary: &Summary) -> Result<()> {
    if summary.refusals > 0 {
        if !session.global.json {
            tell_places(session, name, &summary.refused, summary.refusals);
        }
        let first = summary.refused.first().map_or(String::new(), |place| format!(", the first at {place}"));
        let places =
            output::counted_u64(summary.refusals, "place in it is no entry", "places in it are no entries");
        bail!(anyhow!("{name} was not imported: {places}{first}; nothing was changed"));
    }
    if let Some(cut) = &summary.about.cut {
        bail!("{name} was not imported: it is cut short: {cut}; nothing was changed");
    }
    if let Some(declared) = summary.about.declared.filter(|declared| summary.entries < *declared) {
        bail!(
            "{name} was not imported: it says that it has {declared} entries, and has {}; nothing was changed",
            summary.entries
        );
    }
    if summary.prefixes == 0 {
        bail!(UsageError(format!("{name} holds no entry: did what feeds it fail?")));
    }
    Ok(())
}

fn entries(list: &List) -> Result<Vec<(Prefix, Option<u32>)>> {
    let mut entries = Vec::new();
    for bytes in &list.blocks {
        entries.extend(block::decode(bytes)?.items.iter().map(|item| (item.prefix, item.ttl_s)));
    }
    Ok(entries)
}

fn tell_dry(session: &Session, summary: &Summary, prefixes: &[Prefix]) -> Result<()> {
    let first = &prefixes[..prefixes.len().min(MOST_NAMED)];
    if session.global.json {
        return session.out.json(Read {
            format: summary.format.name(),
            prefixes: summary.prefixes,
            listed: summary.entries,
            duplicates: summary.duplicates,
            covered: summary.covered,
            first,
        });
    }
    for prefix in first {
        session.out.line(&format!("would add {prefix}"))?;
    }
    session.out.line(&format!(
        "{}: {} prefixes, {} duplicate, {} covered by others of it",
        summary.format.name(),
        output::grouped(summary.prefixes),
        output::grouped(summary.duplicates),
        output::grouped(summary.covered)
    ))
}
