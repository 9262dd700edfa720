//! `record show`: what is kept of frames that were dropped.

use anyhow::Result;
use serde::Serialize;

use super::view::{self, SampleView};
use super::{Session, chosen, wanted};
use crate::cli::ShowRecordArgs;
use crate::exit::Exit;
use crate::host::WallClock;
use crate::kernel::reader::Reader;
use crate::output;
use crate::record::Reading;
use crate::record::entries::Entries;

#[derive(Serialize)]
struct Report {
    summary: Summary,
    /// Those that are kept and match, of which the newest are shown.
    matched: usize,
    samples: Vec<SampleView>,
}

/// What the recorder counted, whatever is asked for.
#[derive(Serialize)]
struct Summary {
    /// Frames that were dropped, or would have been, and that passed while these were recorded.
    seen: u64,
    /// Those of which a sample was taken.
    sampled: u64,
    /// Those whose sample is still there.
    kept: u64,
    /// Those whose sample was overwritten by later ones.
    overwritten: u64,
}

impl Summary {
    fn of(reading: &Reading) -> Self {
        Self {
            seen: reading.heads.iter().map(|head| head.seen).sum(),
            sampled: reading.heads.iter().map(|head| head.taken).sum(),
            kept: reading.samples.len() as u64,
            overwritten: reading.lost,
        }
    }

    fn sentence(&self) -> String {
        format!(
            "{} recorded, {} sampled, of which {} kept and {} overwritten",
            output::counted_u64(self.seen, "frame", "frames"),
            output::grouped(self.sampled),
            output::grouped(self.kept),
            output::grouped(self.overwritten)
        )
    }
}

pub fn run(session: &Session, args: &ShowRecordArgs) -> Result<Exit> {
    let wanted = wanted(&args.wanted, args.since);
    let reading = Reader::open(&session.pins())?.read()?;
    let summary = Summary::of(&reading);
    let mut entries = Entries::default();
    let samples = chosen(session, &reading, &wanted, &mut entries, None);
    let (clock, matched) = (WallClock::now(), samples.len());
    let shown = &samples[matched.saturating_sub(args.limit)..];
    let stories = shown.iter().map(|(sample, _)| sample.entry.map(|entry| entries.story(entry)));
    let shown = shown.iter().zip(stories);
    if session.global.json {
        let views = shown.map(|((sample, headers), story)| SampleView::new(sample, headers, story, clock));
        session.out.json(Report { summary, matched, samples: views.collect() })?;
    } else if matched == 0 {
        session.out.note(&match summary.seen {
            0 => "no frame was dropped since the filter was loaded".into(),
            _ => format!("no recorded frame matches; there are {}", summary.sentence()),
        });
    } else {
        session.out.line(view::HEADER)?;
        let mut day = String::new();
        for ((sample, headers), story) in shown {
            view::print_day(session, sample, clock, &mut day)?;
            view::print(session, sample, headers, story.as_ref(), clock)?;
        }
        let of = if matched > args.limit { format!("; {matched} match") } else { String::new() };
        session.out.line(&format!("\n{}{of}", summary.sentence()))?;
    }
    Ok(if matched == 0 { Exit::NothingMatched } else { Exit::Done })
}
