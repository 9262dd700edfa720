//! `record summary`: what was dropped, by reason and entry, and from when to when: where a responder begins.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use anyhow::Result;
use filter_common::{Reason, Verdict};
use serde::Serialize;

use super::view::{described, protocol};
use super::{Session, chosen, wanted};
use crate::cli::SummaryArgs;
use crate::exit::Exit;
use crate::host::WallClock;
use crate::kernel::reader::Reader;
use crate::output;
use crate::record::entries::{Entries, Fate, Story};
use crate::record::headers::Headers;
use crate::record::pcapng::interface_name;
use crate::record::{Sample, SampledEntry};

const HEADER: &str = "first                last      interface   verdict  reason                  frames";

#[derive(Serialize)]
struct Report {
    vectors: Vec<Vector>,
}

/// What was dropped for one reason by one entry.
#[derive(Serialize)]
struct Vector {
    verdict: &'static str,
    reason: &'static str,
    entry: Option<Story>,
    interfaces: BTreeSet<String>,
    /// RFC 3339, UTC: the earliest and the latest frame that is recorded.
    first: String,
    last: String,
    /// Frames that were counted; nothing where their counter is gone with the entry.
    packets: Option<u64>,
    /// Samples that are kept.
    samples: usize,
    /// What most samples are.
    mostly: String,
}

/// The samples of one reason and entry.
#[derive(Default)]
struct Group {
    interfaces: BTreeSet<String>,
    first: Option<Duration>,
    last: Duration,
    samples: usize,
    kinds: HashMap<String, usize>,
}

impl Group {
    fn add(&mut self, sample: &Sample, headers: &Headers) {
        self.interfaces.insert(interface_name(sample));
        self.first.get_or_insert(sample.time);
        self.last = sample.time;
        self.samples += 1;
        *self.kinds.entry(kind(headers)).or_default() += 1;
    }
}

pub fn run(session: &Session, args: &SummaryArgs) -> Result<Exit> {
    let wanted = wanted(&args.wanted, args.since);
    let reading = Reader::open(&session.pins())?.read()?;
    let mut entries = Entries::default();
    let mut groups: BTreeMap<(Verdict, Reason, Option<SampledEntry>), Group> = BTreeMap::new();
    // They are in the order of time.
    for (sample, headers) in chosen(session, &reading, &wanted, &mut entries, None) {
        groups.entry((sample.verdict, sample.reason, sample.entry)).or_default().add(sample, &headers);
    }
    let clock = WallClock::now();
    let mut vectors = Vec::new();
    let control = session.open()?;
    let counts = control.filter().maps().interface_counts()?;
    for ((verdict, reason, entry), group) in groups {
        let story = entry.map(|entry| entries.story(entry));
        let packets = match &story {
            Some(Story { fate: Fate::Present, .. }) => {
                entry.map(|entry| control.filter().counted_with(&entry.key).packets)
            }
            Some(_) => None,
            None => Some(counts.iter().map(|interface| interface.of(reason, verdict).packets).sum()),
        };
        let time = |at| humantime::format_rfc3339_millis(clock.time(at)).to_string();
        let mostly = group.kinds.into_iter().max_by(|a, b| (a.1, &b.0).cmp(&(b.1, &a.0)));
        vectors.push(Vector {
            verdict: verdict.name(),
            reason: reason.name(),
            entry: story,
            interfaces: group.interfaces,
            first: time(group.first.unwrap_or_default()),
            last: time(group.last),
            packets,
            samples: group.samples,
            mostly: mostly.map(|(kind, _)| kind).unwrap_or_default(),
        });
    }
    drop(control);
    vectors.sort_by(|a, b| a.first.cmp(&b.first));
    let is_empty = vectors.is_empty();
    if session.global.json {
        session.out.json(Report { vectors })?;
    } else if is_empty {
        session.out.note("nothing that matches is recorded; `filter-ctl stats` shows what was counted");
    } else {
        print(session, &vectors)?;
    }
    Ok(if is_empty { Exit::NothingMatched } else { Exit::Done })
}

fn print(session: &Session, vectors: &[Vector]) -> Result<()> {
    session.out.line(HEADER)?;
    for vector in vectors {
        let packets = vector.packets.map_or("-".into(), output::grouped);
        let (first, last) = (vector.first[..19].replace('T', " "), &vector.last[11..19]);
        let interfaces = vector.interfaces.iter().map(String::as_str).collect::<Vec<_>>().join(",");
        session.out.line(&format!(
            "{first}  {last}  {interfaces:<10}  {:<7}  {:<18}  {packets:>10}",
            vector.verdict, vector.reason
        ))?;
        let by = vector.entry.as_ref().map_or_else(String::new, |story| format!("; {}", described(story)));
        session.out.line(&format!("    mostly {}{by}", vector.mostly))?;
    }
    Ok(())
}

/// Protocol, and the port that is the same in the frames of a flood: the lower one, which is the service's.
fn kind(headers: &Headers) -> String {
    let protocol = protocol(headers);
    match (headers.source_port, headers.destination_port) {
        (Some(source), Some(destination)) if source < destination => format!("{protocol} from port {source}"),
        (_, Some(destination)) => format!("{protocol} to port {destination}"),
        _ => protocol,
    }
}
