//! `history`: what was passed and dropped over time, as the daemon recorded it.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use anyhow::Result;
use comfy_table::Cell;
use serde::Serialize;

use super::Session;
use crate::cli::HistoryArgs;
use crate::exit::Exit;
use crate::output;
use crate::store::history::{Count, Reader, Resolution, Step};

#[derive(Serialize)]
struct Report {
    resolution_s: u32,
    /// In their true order, even where the clock jumped.
    steps: Vec<StepView>,
}

#[derive(Serialize)]
struct StepView {
    /// RFC 3339, UTC, of its end.
    time: String,
    /// Seconds between the end of the step before and its beginning, if nobody recorded then.
    gap_s: Option<u32>,
    interval_s: f64,
    /// What counted something.
    series: Vec<SeriesView>,
}

#[derive(Serialize)]
struct SeriesView {
    interface: String,
    reason: String,
    verdict: String,
    packets: u64,
    bytes: u64,
    packets_per_second: f64,
    bytes_per_second: f64,
}

pub fn run(session: &Session, args: &HistoryArgs) -> Result<Exit> {
    let resolution = Resolution::for_span(args.since);
    let since = wall_s(SystemTime::now()).saturating_sub_unsigned(args.since.as_secs());
    let steps = match Reader::open(&session.global.state_directory())? {
        Some(reader) => reader.steps(since, resolution)?,
        None => Vec::new(),
    };
    let report = report(&steps, resolution, args.interface.as_deref());
    if session.global.json {
        session.out.json(&report)?;
    } else if steps.is_empty() {
        session.out.note("nothing is recorded of that time");
    } else {
        print(session, &report)?;
    }
    Ok(if steps.is_empty() { Exit::NothingMatched } else { Exit::Done })
}

fn report(steps: &[Step], resolution: Resolution, interface: Option<&str>) -> Report {
    let before = std::iter::once(None).chain(steps.iter().map(Some));
    let view = |(step, before): (&Step, Option<&Step>)| StepView {
        time: rfc3339(step.wall_s),
        gap_s: before.and_then(|before| gap_s(before, step, resolution)),
        interval_s: step.interval.as_secs_f64(),
        series: step
            .counts
            .iter()
            .filter(|count| interface.is_none_or(|interface| count.series.interface == interface))
            .map(|count| series(step, count))
            .collect(),
    };
    Report { resolution_s: resolution.seconds(), steps: steps.iter().zip(before).map(view).collect() }
}

fn series(step: &Step, count: &Count) -> SeriesView {
    SeriesView {
        interface: count.series.interface.clone(),
        reason: count.series.reason.clone(),
        verdict: count.series.verdict.clone(),
        packets: count.packets,
        bytes: count.bytes,
        packets_per_second: step.per_second(count.packets),
        bytes_per_second: step.per_second(count.bytes),
    }
}

/// The time between two steps that neither covers. Less than half a step is no gap: clocks are set by so much, and
/// the times here are whole seconds.
pub(super) fn gap_s(before: &Step, step: &Step, resolution: Resolution) -> Option<u32> {
    let covered = i64::try_from(step.interval.as_secs()).ok()?;
    let gap = step.wall_s.checked_sub(before.wall_s)?.checked_sub(covered)?;
    u32::try_from(gap).ok().filter(|gap| *gap > 1 + resolution.seconds() / 2)
}

fn print(session: &Session, report: &Report) -> Result<()> {
    const NUMBERS: [&str; 3] = ["passed/s", "dropped/s", "dropped bytes/s"];
    let header = ["time", "interface", "passed/s", "dropped/s", "dropped bytes/s", "mostly"];
    let mut table = session.out.table(&header, &NUMBERS);
    for step in &report.steps {
        if let Some(gap) = step.gap_s {
            table.add_row([Cell::new(format!("({} without a record)", output::span(gap)))]);
        }
        let mut interfaces: BTreeMap<&str, Vec<&SeriesView>> = BTreeMap::new();
        for series in &step.series {
            interfaces.entry(&series.interface).or_default().push(series);
        }
        if interfaces.is_empty() {
            table.add_row([&step.time, "-", "0", "0", "0", "-"]);
        }
        for (interface, series) in interfaces {
            let of = |verdict: &str, figure: fn(&SeriesView) -> f64| {
                let figures = series.iter().filter(|series| series.verdict == verdict);
                output::rate(Some(figures.map(|series| figure(series)).sum()))
            };
            let dropped = series.iter().filter(|series| series.verdict == "drop");
            let most = dropped.max_by_key(|series| series.packets);
            table.add_row([
                Cell::new(&step.time),
                output::foreign(interface),
                Cell::new(of("pass", |series| series.packets_per_second)),
                Cell::new(of("drop", |series| series.packets_per_second)),
                Cell::new(of("drop", |series| series.bytes_per_second)),
                most.map_or_else(|| Cell::new("-"), |series| output::foreign(&series.reason)),
            ]);
        }
    }
    session.out.print_table(&table)
}

/// Unix time in seconds; negative before 1970.
fn wall_s(time: SystemTime) -> i64 {
    let seconds = |span: Duration| i64::try_from(span.as_secs()).unwrap_or(i64::MAX);
    match time.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(after) => seconds(after),
        Err(before) => -seconds(before.duration()),
    }
}

/// A Unix time as text; as a number where no calendar has it, since a clock may have stood anywhere.
fn rfc3339(wall_s: i64) -> String {
    /// The last second of the year 9999, the last that the format has.
    const LAST_S: u64 = 253_402_300_799;
    match u64::try_from(wall_s) {
        Ok(seconds @ 0..=LAST_S) => {
            humantime::format_rfc3339_seconds(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))
                .to_string()
        }
        _ => wall_s.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_are_what_no_step_covers() {
        let step =
            |wall_s, interval_s| Step { wall_s, interval: Duration::from_secs(interval_s), counts: vec![] };
        let gap = |before: &Step, step: &Step| gap_s(before, step, Resolution::TenSeconds);
        assert_eq!(gap(&step(100, 10), &step(110, 10)), None);
        assert_eq!(gap(&step(100, 10), &step(111, 9)), None);
        assert_eq!(gap(&step(100, 10), &step(170, 10)), Some(60));
        // A long step is an average and no gap; a clock that went back tells nothing.
        assert_eq!(gap(&step(100, 10), &step(170, 70)), None);
        assert_eq!(gap(&step(100, 10), &step(20, 10)), None);
        assert_eq!(gap(&step(i64::MIN, 10), &step(i64::MAX, 10)), None);
    }

    #[test]
    fn any_time_has_a_text() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00Z");
        assert_eq!([-1, i64::MAX].map(rfc3339), ["-1".to_owned(), i64::MAX.to_string()]);
    }
}
