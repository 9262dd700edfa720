//! `debug`: a line for each frame that an interface's program decides, by a program that logs and takes its place meanwhile.

use std::collections::HashMap;
use std::sync::mpsc;
use std::time::Duration;

use anyhow::Result;
use filter_common::Verdict;
use serde::Serialize;

use super::Session;
use super::record::Signals;
use crate::cli::DebugArgs;
use crate::control::Control;
use crate::exit::Exit;
use crate::host::monotonic_now;
use crate::kernel::debug::{self, Line};
use crate::output;
use crate::policy::Key;

/// Time between two looks at what was logged. The buffer takes some thousand lines.
const LOOK: Duration = Duration::from_millis(50);

#[derive(Serialize)]
struct LineView<'l> {
    verdict: &'static str,
    reason: &'static str,
    entry: Option<&'l str>,
    length: u32,
    queue: u32,
    ifindex: u32,
}

#[derive(Serialize)]
struct End {
    logged: u64,
    /// Frames that the interface counted beside these: the buffer was full.
    missed: u64,
}

pub fn run(session: &Session, args: &DebugArgs) -> Result<Exit> {
    let (interface, verbose) = (args.interface.as_str(), session.global.verbose);
    // Before the program is replaced: a signal is to put the ordinary one back.
    let mut signals = Signals::catch()?;
    let (sender, lines) = mpsc::channel();
    let tell = move |line| {
        // Where nobody listens any more, the lines are not wanted.
        let _ = sender.send(line);
    };
    let (mut reader, before) = {
        let control = session.open()?;
        (debug::begin(control.filter(), interface, verbose, tell)?, counted(&control, interface)?)
    };
    let until = monotonic_now() + args.for_time;
    let mut prefixes = HashMap::new();
    let mut logged = 0;
    let told = (|| {
        loop {
            let is_over =
                signals.wait(LOOK.min(until.saturating_sub(monotonic_now()))) || until <= monotonic_now();
            reader.flush();
            for line in lines.try_iter() {
                logged += 1;
                print(session, &line, &mut prefixes)?;
            }
            if is_over {
                return Ok(());
            }
        }
    })();
    let control = session.open()?;
    let ended = debug::end(control.filter(), interface, verbose);
    let counted = counted(&control, interface)?;
    drop(control);
    told.and(ended)?;
    // What was logged between the last look and the end is of no interest, and not missed.
    reader.flush();
    let late = lines.try_iter().count() as u64;
    let missed = counted.saturating_sub(before).saturating_sub(logged + late);
    if session.global.json {
        session.out.json_line(End { logged, missed })?;
    } else {
        let missed = match missed {
            0 => String::new(),
            missed => format!("; {} more came than could be logged", output::grouped(missed)),
        };
        let logged = output::counted_u64(logged, "frame", "frames");
        session.out.note(&format!("{logged} logged{missed}; {interface} runs its ordinary program again"));
    }
    Ok(Exit::Done)
}

/// Frames that the interface has counted.
fn counted(control: &Control, interface: &str) -> Result<u64> {
    let counts = control.filter().maps().interface_counts()?;
    let counts = counts.iter().filter(|counts| counts.name == interface);
    Ok(counts.flat_map(|counts| &counts.by_reason).map(|(.., counter)| counter.packets).sum())
}

fn print(session: &Session, line: &Line, prefixes: &mut HashMap<u32, Option<String>>) -> Result<()> {
    let prefix = line.entry().and_then(|id| {
        let find = || {
            let control = session.open().ok()?;
            let entry = control.filter().table().entry(id)?;
            Some(Key::from_table(&entry.key)?.prefix.to_string())
        };
        prefixes.entry(id).or_insert_with(find).as_deref()
    });
    let (verdict, reason) = (line.decision.verdict.name(), line.decision.reason.name());
    if session.global.json {
        let Line { length, queue, ifindex, .. } = *line;
        return session.out.json_line(LineView { verdict, reason, entry: prefix, length, queue, ifindex });
    }
    let by = match (prefix, line.decision.verdict) {
        (Some(prefix), Verdict::Drop) => format!(", block {prefix}"),
        (Some(prefix), Verdict::Pass) => format!(", allow {prefix}"),
        (None, _) => String::new(),
    };
    session.out.line(&format!("{verdict} {reason}, {} bytes, queue {}{by}", line.length, line.queue))
}
