//! `stats`: what was passed and dropped, by interface, reason, list and entry.

mod table;

use std::thread;
use std::time::{Duration, Instant, SystemTime};

use anyhow::Result;
use serde::{Serialize, Serializer};

use super::{Session, history, standing_warnings};
use crate::cli::{MetricsArgs, StatsArgs};
use crate::control::Control;
use crate::exit::Exit;
use crate::host::monotonic_now;
use crate::kernel::counted::CountedEntries;
use crate::output::EntryView;
use crate::policy::Entry;
use crate::stats::{
    Earlier, Figures, InterfaceFigures, ListCounts, ListFigures, Over, Past, Recorded, Snapshot, Span,
    by_interface, by_list, of_entry,
};
use crate::store::history::{Reader, Resolution, Step};
use crate::store::wall_now_s;
use filter_common::abi::Counter;

/// Seconds within which the daemon's last record must have ended to be of now: it makes one a second, and says when in whole
/// seconds.
const FRESH_S: i64 = 3;

/// Seconds of the record that are read: a minute, and what a step may be longer.
const READ_S: i64 = 130;

#[derive(Serialize)]
struct Report<'r> {
    /// When the snapshot was complete.
    time: String,
    snapshot: Taken,
    interval_s: Option<f64>,
    rates_over_s: RatesOver,
    interfaces: Vec<InterfaceFigures>,
    /// Nothing where the store can't be read.
    lists: Option<Vec<ListFigures>>,
    entries: Entries<'r>,
    /// Interfaces whose figures stand still because they are not filtered.
    warnings: Vec<String>,
}

/// Within which time the figures were read.
#[derive(Serialize)]
struct Taken {
    began_at: String,
    ended_at: String,
    took_s: f64,
}

/// Over how many seconds rates were taken; nothing where they are not known.
#[derive(Serialize)]
struct RatesOver {
    interfaces: Over,
    /// And lists.
    entries: Over,
}

#[derive(Serialize)]
struct EntryReport {
    #[serde(flatten)]
    entry: EntryView,
    #[serde(flatten)]
    figures: Figures,
}

/// Entries, made one by one as they are written.
struct Entries<'r> {
    counted: &'r CountedEntries,
    now: &'r Snapshot,
    earlier: &'r Earlier<'r>,
}

impl Entries<'_> {
    /// Hands over one after the other. What many have in common, as those of a list do, is put into words once.
    fn each<E: From<anyhow::Error>>(
        &self,
        mut on_entry: impl FnMut(&EntryReport) -> Result<(), E>,
    ) -> Result<(), E> {
        let at = monotonic_now();
        let mut last: Option<(Entry, EntryReport)> = None;
        for counted in self.counted.iter() {
            let (entry, count) = counted?;
            let figures = of_entry(self.now, self.earlier, count);
            let (_, report) = match last.take() {
                Some((alike, mut report)) if is_alike(&alike, &entry) => {
                    (report.entry.prefix, report.entry.action) = (entry.key.prefix, entry.key.action);
                    report.figures = figures;
                    last.insert((alike, report))
                }
                _ => {
                    let view = EntryView::new(&entry, at);
                    last.insert((entry, EntryReport { entry: view, figures }))
                }
            };
            on_entry(report)?;
        }
        Ok(())
    }
}

/// Whether two entries differ in nothing but what they are about.
fn is_alike(one: &Entry, other: &Entry) -> bool {
    let rest = |entry: &Entry| (entry.until, entry.created_s);
    rest(one) == rest(other) && one.owner == other.owner && one.reason == other.reason
}

/// What ends the telling of entries: what they are, or where they go.
enum Ended<S> {
    Unreadable(anyhow::Error),
    Unwritable(S),
}

impl<S> From<anyhow::Error> for Ended<S> {
    fn from(error: anyhow::Error) -> Self {
        Self::Unreadable(error)
    }
}

impl Serialize for Entries<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::{Error as _, SerializeSeq as _};
        let mut sequence = serializer.serialize_seq(Some(self.counted.len()))?;
        let told = self.each(|entry| sequence.serialize_element(entry).map_err(Ended::Unwritable));
        match told {
            Ok(()) => sequence.end(),
            Err(Ended::Unreadable(error)) => Err(S::Error::custom(format!("{error:#}"))),
            Err(Ended::Unwritable(error)) => Err(error),
        }
    }
}

pub fn run(session: &Session, args: &StatsArgs) -> Result<Exit> {
    if args.prometheus {
        return super::metrics::run(session, &MetricsArgs { listen: None });
    }
    let interval = args.watch.unwrap_or(args.over);
    let mut past = Past::default();
    let mut last: Option<Snapshot> = None;
    let mut is_due = args.watch.is_some() || interval.is_zero();
    loop {
        if !is_due {
            if last.is_none() {
                let first = take(session, false)?.0;
                past.push(first.clone());
                last = Some(first);
            }
            wait(session, interval, &mut past)?;
        }
        is_due = false;
        let (now, mut counted, mut warnings) = take(session, args.all)?;
        if !args.all {
            counted.keep_top(args.top);
        }
        let recorded = recorded(session).unwrap_or_else(|error| {
            warnings.push(format!("what the daemon recorded can't be told: {error:#}"));
            [None, None, None]
        });
        let earlier = Earlier::new(&now, last.as_ref(), &past, &recorded);
        tell(session, args, &report(&now, &earlier, &counted, warnings))?;
        if args.watch.is_none() {
            return Ok(Exit::Done);
        }
        past.push(now.clone());
        last = Some(now);
    }
}

/// Waits for the next report, and takes the snapshots meanwhile from which its rates are taken. The lock is not held between
/// them.
fn wait(session: &Session, interval: Duration, past: &mut Past) -> Result<()> {
    let end = Instant::now() + interval;
    let until = |left: Duration| thread::sleep((end - left).saturating_duration_since(Instant::now()));
    for span in Span::ALL.iter().rev().filter(|span| span.length() < interval) {
        until(span.length());
        past.push(take(session, false)?.0);
    }
    until(Duration::ZERO);
    Ok(())
}

/// Reads all counters, and `all` entries or those that have counted something; and what the operator must know beside. The lock
/// is held only for that, and never while something is written.
fn take(session: &Session, all: bool) -> Result<(Snapshot, CountedEntries, Vec<String>)> {
    let control = session.open()?;
    let (at, began) = (monotonic_now(), SystemTime::now());
    let interfaces = control.filter().maps().interface_counts()?;
    let counted = control.filter().counted_entries(all)?;
    let lists = lists(&control)?;
    let took = monotonic_now().saturating_sub(at);
    let warnings = standing_warnings(&control);
    drop(control);
    Ok((Snapshot { at, began, took, interfaces, lists, entries: counted.counts() }, counted, warnings))
}

/// What each list did; nothing where the store can't be read.
fn lists(control: &Control) -> Result<Option<Vec<ListCounts>>> {
    match control.store() {
        Err(_) => return Ok(None),
        Ok(store) if store.view().lists.is_empty() => return Ok(Some(Vec::new())),
        Ok(_) => {}
    }
    let counts = control.list_hits(0)?.into_iter().map(|(owner, hits)| ListCounts {
        owner,
        counter: Counter { packets: hits.packets, bytes: hits.bytes },
        alone: Counter { packets: hits.packets_alone, bytes: hits.bytes_alone },
    });
    Ok(Some(counts.collect()))
}

/// What the daemon recorded of the last minute, as far back as it did so without a gap.
fn recorded(session: &Session) -> Result<[Option<Recorded>; 3]> {
    let now_s = wall_now_s();
    let steps = match Reader::open(&session.global.state_directory())? {
        Some(reader) => reader.steps(now_s - READ_S, Resolution::Second)?,
        None => Vec::new(),
    };
    let is_fresh = |step: &Step| (now_s - FRESH_S..=now_s + 1).contains(&step.wall_s);
    if !steps.last().is_some_and(is_fresh) {
        return Ok([None, None, None]);
    }
    let is_gap = |pair: &[Step]| history::gap_s(&pair[0], &pair[1], Resolution::Second).is_some();
    let first = steps.windows(2).rposition(is_gap).map_or(0, |gap| gap + 1);
    Ok(Recorded::of(&steps[first..]))
}

fn report<'r>(
    now: &'r Snapshot,
    earlier: &'r Earlier<'r>,
    counted: &'r CountedEntries,
    warnings: Vec<String>,
) -> Report<'r> {
    let ended = now.began + now.took;
    let moment = |time: SystemTime| humantime::format_rfc3339_micros(time).to_string();
    Report {
        time: humantime::format_rfc3339_millis(ended).to_string(),
        snapshot: Taken {
            began_at: moment(now.began),
            ended_at: moment(ended),
            took_s: now.took.as_secs_f64(),
        },
        interval_s: earlier.interval_s(now),
        rates_over_s: RatesOver { interfaces: earlier.over(now, true), entries: earlier.over(now, false) },
        interfaces: by_interface(now, earlier),
        lists: by_list(now, earlier),
        entries: Entries { counted, now, earlier },
        warnings,
    }
}

fn tell(session: &Session, args: &StatsArgs, report: &Report<'_>) -> Result<()> {
    match (session.global.json, args.all, args.watch) {
        (true, false, None) => session.out.json(report),
        (true, ..) => session.out.json_line(report),
        (false, ..) => table::print(session, report, args.watch.is_some()),
    }
}
