//! `top`: who and what the frames are that were dropped or passed, from counters and from what was recorded.

use std::thread;
use std::time::{Duration, Instant, SystemTime};

use anyhow::Result;
use comfy_table::Cell;
use filter_common::{Reason, Verdict};
use serde::Serialize;

use super::{Session, standing_warnings};
use crate::cli::TopArgs;
use crate::exit::Exit;
use crate::host::monotonic_now;
use crate::kernel::pins::NotLoaded;
use crate::kernel::reader::Reader;
use crate::kernel::recorder::Passed;
use crate::output;
use crate::record::Head;
use crate::record::top::{By, Counted, Counters, Counting, Question, Row, Top};

/// Time between two readings. A ring takes a hundred samples a second and keeps the last sixteen.
const BETWEEN: Duration = Duration::from_millis(20);

/// How many of 100 intervals hold the true number.
const CONFIDENCE_PERCENT: u32 = 95;

#[derive(Serialize)]
struct Report<'r> {
    /// RFC 3339, UTC.
    time: String,
    by: By,
    verdict: &'static str,
    interface: Option<&'r str>,
    since_s: Option<f64>,
    interval_s: Option<f64>,
    confidence_percent: u32,
    totals: crate::record::estimate::Totals,
    whole: RowView,
    groups: usize,
    rows: Vec<RowView>,
    /// Why there are no rows.
    empty: Option<String>,
    warnings: Vec<String>,
}

#[derive(Serialize)]
struct RowView {
    #[serde(flatten)]
    row: Row,
    packets_per_second: Option<f64>,
    bytes_per_second: Option<f64>,
}

/// What was asked, read.
struct Answer {
    top: Top,
    interval: Option<Duration>,
    warnings: Vec<String>,
}

pub fn run(session: &Session, args: &TopArgs) -> Result<Exit> {
    let mut reader = Reader::open(&session.pins())?;
    let question = Question {
        by: args.by,
        verdict: if args.passed { Verdict::Pass } else { Verdict::Drop },
        interface: args.interface.clone(),
    };
    let answer = match args.for_time {
        Some(time) => over(session, args, &question, &mut reader, time)?,
        None => so_far(session, args, &question, &mut reader)?,
    };
    let empty = answer.top.rows.is_empty().then(|| why_empty(args));
    let view = |row: Row| {
        let per_second = |number: u64| {
            #[expect(clippy::cast_precision_loss, reason = "a rate")]
            answer.interval.map(|interval| number as f64 / interval.as_secs_f64())
        };
        let Row { estimate, .. } = row;
        let (packets_per_second, bytes_per_second) =
            (per_second(estimate.packets), per_second(estimate.bytes));
        RowView { row, packets_per_second, bytes_per_second }
    };
    let Top { totals, whole, groups, rows } = answer.top;
    let report = Report {
        time: humantime::format_rfc3339_millis(SystemTime::now()).to_string(),
        by: args.by,
        verdict: question.verdict.name(),
        interface: args.interface.as_deref(),
        since_s: args.since.map(|since| since.as_secs_f64()),
        interval_s: answer.interval.map(|interval| interval.as_secs_f64()),
        confidence_percent: CONFIDENCE_PERCENT,
        totals,
        whole: view(whole),
        groups,
        rows: rows.into_iter().map(view).collect(),
        empty,
        warnings: answer.warnings,
    };
    if session.global.json {
        session.out.json(&report)?;
    } else {
        print(session, &report)?;
        session.out.warn(&report.warnings);
    }
    Ok(if report.empty.is_some() { Exit::NothingMatched } else { Exit::Done })
}

/// What was counted and recorded up to now.
fn so_far(session: &Session, args: &TopArgs, question: &Question, reader: &mut Reader) -> Result<Answer> {
    let now = monotonic_now();
    let since = args.since.map(|since| now.saturating_sub(since));
    let (counters, mut warnings) = counters(session, args)?;
    let reading = reader.read()?;
    let is_recorded = !args.passed || reader.recorder().passed().until_s() > now.as_secs();
    if !is_recorded && (args.by != By::Reasons || args.since.is_some()) {
        let warning = "frames that pass are not being recorded: `filter-ctl record passed --for 10m` does, and so does \
                       `top --passed --for 10s`";
        warnings.insert(0, warning.into());
    }
    let mut counting = Counting::new(question, since);
    counting.add(&reading);
    let counted = if since.is_none() { Counted::new(question, &counters, None) } else { Counted::default() };
    let top = counting.finish(&reading.heads, &counted, &mixed(&counters), args.limit);
    Ok(Answer { top, interval: None, warnings })
}

/// What is counted and recorded in a time from now on.
fn over(
    session: &Session,
    args: &TopArgs,
    question: &Question,
    reader: &mut Reader,
    time: Duration,
) -> Result<Answer> {
    let recording = if args.passed { Some(Recording::of_passed(session, time)?) } else { None };
    let (before, _) = counters(session, args)?;
    let first = reader.read()?;
    let mut counting = Counting::after(question, &first);
    let end = Instant::now() + time;
    let last: Vec<Head> = loop {
        let left = end.saturating_duration_since(Instant::now());
        thread::sleep(left.min(BETWEEN));
        let reading = reader.read()?;
        counting.add(&reading);
        if left.is_zero() {
            break reading.heads;
        }
    };
    let (after, mut warnings) = counters(session, args)?;
    drop(recording);
    if !reader.is_current() {
        warnings.push("the filter was loaded anew meanwhile: estimates are of the time before".into());
    }
    let counted = Counted::new(question, &after, Some(&before));
    let top = counting.finish(&last, &counted, &mixed(&after), args.limit);
    Ok(Answer { top, interval: Some(after.at.saturating_sub(before.at)), warnings })
}

/// Frames that pass are recorded as long as this lives, and by the kernel's own deadline not much longer.
struct Recording {
    passed: Passed,
    until_s: Option<u64>,
}

impl Recording {
    /// Records them for this time, unless somebody has them recorded for longer.
    fn of_passed(session: &Session, time: Duration) -> Result<Self> {
        /// For what is done beside waiting.
        const MARGIN: Duration = Duration::from_secs(2);
        let passed = Passed::open(&session.pins())?;
        let is_longer = passed.until_s() > (monotonic_now() + time + MARGIN).as_secs();
        let until_s =
            if is_longer { None } else { Some(session.open()?.record_passed(Some(time + MARGIN))?) };
        Ok(Self { passed, until_s })
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        // Unless somebody wants it on since then.
        if self.until_s == Some(self.passed.until_s()) {
            self.passed.set_until_s(0);
        }
    }
}

/// All counters, and what the operator should know.
fn counters(session: &Session, args: &TopArgs) -> Result<(Counters, Vec<String>)> {
    let control = session.open()?;
    let counters = Counters {
        at: monotonic_now(),
        interfaces: control.filter().maps().interface_counts()?,
        entries: control.filter().counted_entries(false)?.by_key().collect(),
    };
    if let Some(name) = &args.interface
        && !counters.interfaces.iter().any(|interface| interface.name == *name)
    {
        return Err(NotLoaded(format!("{name} is not filtered; `filter-ctl status` shows what is")).into());
    }
    Ok((counters, standing_warnings(&control)))
}

/// The faults of which some frames were dropped, and some passed since they were tolerated.
fn mixed(counters: &Counters) -> Vec<Reason> {
    let has = |reason: Reason, verdict: Verdict| {
        counters.interfaces.iter().any(|interface| interface.of(reason, verdict).packets > 0)
    };
    let faults = Reason::ALL.iter().copied().filter(|reason| reason.is_malformed());
    faults.filter(|fault| fault.verdicts().all(|verdict| has(*fault, verdict))).collect()
}

fn why_empty(args: &TopArgs) -> String {
    let what = if args.passed { "passed" } else { "was dropped" };
    let place = args.interface.as_ref().map_or_else(String::new, |name| format!(" on {name}"));
    match (args.for_time, args.since) {
        (Some(time), _) => format!("no frame {what}{place} in these {}", humantime::format_duration(time)),
        (None, Some(time)) => {
            format!(
                "of the last {} no frame that {what}{place} is recorded",
                humantime::format_duration(time)
            )
        }
        (None, None) => format!("no frame that {what}{place} is counted or recorded yet"),
    }
}

fn print(session: &Session, report: &Report) -> Result<()> {
    if let Some(why) = &report.empty {
        session.out.note(why);
        return Ok(());
    }
    session.out.line(&summary(report))?;
    let has_rates = report.interval_s.is_some();
    // Eighty columns have no room for all figures beside an IPv6 address; JSON has.
    let last = if has_rates { "per s" } else { "bytes" };
    let title = title(report.by);
    let header = [title, "packets", "±", "share", last, "count"];
    let mut table = session.out.table(&header, &["packets", "±", "share", last]);
    for RowView { row, packets_per_second, .. } in &report.rows {
        let Row { key, is_exact, estimate, share_percent } = row;
        table.add_row([
            Cell::new(key.map_or_else(String::new, |key| key.to_string())),
            Cell::new(output::short(estimate.packets)),
            Cell::new(if *is_exact { "-".into() } else { output::short(estimate.error()) }),
            Cell::new(percent(*share_percent)),
            Cell::new(if has_rates {
                output::rate(*packets_per_second)
            } else {
                output::short(estimate.bytes)
            }),
            Cell::new(if *is_exact { "exact" } else { "estimate" }),
        ]);
    }
    session.out.print_table(&table)?;
    if report.groups > report.rows.len() {
        let more = report.groups - report.rows.len();
        session.out.line(&format!("and {}; --limit shows more", output::counted(more, "more", "more")))?;
    }
    Ok(())
}

/// What all rests on, in one line, or in two where samples were overwritten.
fn summary(report: &Report) -> String {
    /// The share of frames from which on it is said that the samples of these were overwritten.
    const MUCH: f64 = 0.05;
    let whole = &report.whole.row.estimate;
    let mut summary = format!(
        "{} {}: {}",
        output::counted_u64(whole.packets, "frame", "frames"),
        if report.verdict == Verdict::Drop.name() { "dropped" } else { "passed" },
        output::counted_u64(report.totals.kept, "sample", "samples"),
    );
    if report.rows.iter().any(|row| !row.row.is_exact) {
        summary += &format!("; ± holds in {CONFIDENCE_PERCENT} of 100 cases");
        if report.totals.overwritten_share >= MUCH {
            summary += &format!(
                "\nthe samples of {} of the frames were overwritten{}",
                percent(report.totals.overwritten_share * 100.0),
                if report.interval_s.is_some() { " unread" } else { "; --for looks closer" }
            );
        }
    }
    summary
}

fn title(by: By) -> &'static str {
    match by {
        By::Sources => "source",
        By::Prefixes => "prefix",
        By::Destinations => "destination",
        By::Ports => "destination port",
        By::SourcePorts => "source port",
        By::Protocols => "protocol",
        By::Reasons => "reason",
        By::Lengths => "length",
    }
}

/// A share in three digits, and never as all or nothing where it is not quite.
fn percent(percent: f64) -> String {
    match percent {
        100.0 => "100%".into(),
        ..0.05 if percent > 0.0 => "<0.1%".into(),
        99.9.. => "99.9%".into(),
        _ => format!("{percent:.1}%"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_not_rounded_to_all_or_nothing() {
        let shown = [0.0, 0.01, 0.05, 12.34, 99.99, 100.0].map(percent);
        assert_eq!(shown, ["0.0%", "<0.1%", "0.1%", "12.3%", "99.9%", "100%"]);
    }
}
