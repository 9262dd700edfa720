//! `record follow`: frames as they are dropped.

use anyhow::Result;
use serde::Serialize;

use super::view::{self, SampleView};
use super::{Coming, Look, PATIENCE, Session, chosen, lost, unloaded, wanted};
use crate::cli::FollowArgs;
use crate::exit::Exit;
use crate::host::WallClock;
use crate::output;
use crate::record::entries::Entries;

/// What was not shown.
#[derive(Serialize)]
struct Lost {
    /// Samples that were overwritten before they were read.
    lost: u64,
}

/// All that came.
#[derive(Serialize)]
struct End {
    summary: Summary,
}

#[derive(Default, Serialize)]
struct Summary {
    /// Samples that were shown.
    shown: u64,
    /// Samples that did not match.
    others: u64,
    /// Samples that were overwritten before they were read.
    lost: u64,
}

pub fn run(session: &Session, args: &FollowArgs) -> Result<Exit> {
    let wanted = wanted(&args.wanted, None);
    let (mut coming, _) = Coming::begin(session, args.span)?;
    let mut entries = Entries::default();
    let mut summary = Summary::default();
    let mut day = String::new();
    if !session.global.json {
        session.out.line(view::HEADER)?;
    }
    let end = loop {
        let (reading, look) = coming.next()?;
        let clock = WallClock::now();
        let samples = chosen(session, &reading, &wanted, &mut entries, Some(PATIENCE));
        for (sample, headers) in &samples {
            let story = sample.entry.map(|entry| entries.story(entry));
            if session.global.json {
                session.out.json_line(SampleView::new(sample, headers, story, clock))?;
            } else {
                view::print_day(session, sample, clock, &mut day)?;
                view::print(session, sample, headers, story.as_ref(), clock)?;
            }
        }
        if reading.lost > 0 {
            if session.global.json {
                session.out.json_line(Lost { lost: reading.lost })?;
            } else {
                session.out.line(&format!("({})", lost(reading.lost)))?;
            }
        }
        let shown = samples.len() as u64;
        summary.shown += shown;
        summary.others += reading.samples.len() as u64 - shown;
        summary.lost += reading.lost;
        if !matches!(look, Look::On) {
            break look;
        }
    };
    if session.global.json {
        session.out.json_line(End { summary })?;
    } else {
        let others = match summary.others {
            0 => String::new(),
            others => format!("; {} that did not match", output::grouped(others)),
        };
        let lost = match summary.lost {
            0 => String::new(),
            number => format!("; {}", lost(number)),
        };
        session
            .out
            .note(&format!("{} shown{others}{lost}", output::counted_u64(summary.shown, "frame", "frames")));
    }
    if matches!(end, Look::Unloaded) { Err(unloaded()) } else { Ok(Exit::Done) }
}
