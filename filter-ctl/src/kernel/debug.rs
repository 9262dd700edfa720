//! The program that logs each frame, in the place of an interface's own for a while, and what it logs.

use anyhow::{Context as _, Result, ensure};
use aya_log::EbpfLogger;
use filter_common::abi::{DEBUG_PROGRAM, FRAGS_PROGRAM, decision_of};
use filter_common::{Decision, NO_ENTRY};
use log::{Log, Metadata, Record};

use super::filter::Filter;
use super::handover::{Running, running_with};
use super::interface;
use super::renew::{ordinary, put_in_place};

/// What was logged of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line {
    /// What was decided.
    pub decision: Decision,
    /// Length of the frame, in bytes.
    pub length: u32,
    /// The receive queue.
    pub queue: u32,
    /// Index of the interface; that of test-runs is the loopback device's.
    pub ifindex: u32,
}

/// Puts the program that logs in the place of an interface's, and returns the reader of what it logs; `tell` gets each
/// line. Whoever dies before [`end`] leaves a filter that filters, and logs into a buffer that nobody reads: `upgrade`,
/// the daemon's start and the next [`end`] put the ordinary program back.
///
/// # Errors
///
/// If the interface is not filtered, or with frames beyond a page, or the kernel refuses.
pub fn begin<T: Fn(Line) + Send + Sync>(
    filter: &Filter,
    interface: &str,
    verbose: bool,
    tell: T,
) -> Result<EbpfLogger<impl Log + use<T>>> {
    let running = running_with(filter.pins(), filter.set())?;
    let running = running.iter().find(|running| running.interface == interface);
    let running = running.with_context(|| format!("{interface} runs no program of this filter"))?;
    ensure!(
        running.program != FRAGS_PROGRAM,
        "{interface}: its frames may be longer than a page, for which there is no program that logs; lower its MTU, unload it \
         and load it again, or use `filter-ctl record follow`"
    );
    put(filter, interface, verbose, |_| DEBUG_PROGRAM)?;
    let id = interface::program_of(filter.pins(), interface)?;
    let id = id.with_context(|| format!("{interface} has no program any more"))?;
    let reader = EbpfLogger::init_from_id_with_logger(id, Told(tell));
    reader.with_context(|| format!("{interface}: what its program logs can't be read"))
}

/// Puts an interface's ordinary program back.
///
/// # Errors
///
/// What the kernel refused; then the program that logs goes on.
pub fn end(filter: &Filter, interface: &str, verbose: bool) -> Result<()> {
    put(filter, interface, verbose, |running| ordinary(&running.program))
}

/// Puts a program in the place of an interface's, and leaves those of others, who may be debugged as well.
fn put(filter: &Filter, interface: &str, verbose: bool, wanted: impl Fn(&Running) -> &str) -> Result<()> {
    let wanted = |running: &Running| {
        if running.interface == interface { wanted(running).to_owned() } else { running.program.clone() }
    };
    put_in_place(filter, verbose, wanted).map(drop)
}

/// Hands on what is logged.
struct Told<T>(T);

impl<T: Fn(Line) + Send + Sync> Log for Told<T> {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        if let Some(line) = parse(&record.args().to_string()) {
            (self.0)(line);
        }
    }

    fn flush(&self) {}
}

/// The line of these numbers.
fn parse(text: &str) -> Option<Line> {
    let numbers: Vec<u32> = text.split(' ').map(str::parse).collect::<Result<_, _>>().ok()?;
    let [decided, length, queue, ifindex] = numbers[..] else { return None };
    Some(Line { decision: decision_of(decided)?, length, queue, ifindex })
}

impl Line {
    /// The entry that decided.
    pub fn entry(&self) -> Option<u32> {
        Some(self.decision.entry).filter(|entry| *entry != NO_ENTRY)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use filter_common::abi::explained;
    use filter_common::{Reason, Verdict};

    #[test]
    fn a_line_is_what_the_program_wrote_or_none() {
        let decision = Decision { reason: Reason::Blocked, entry: 7, verdict: Verdict::Drop };
        let text = format!("{} 60 1 3", explained(decision));
        assert_eq!(parse(&text), Some(Line { decision, length: 60, queue: 1, ifindex: 3 }));
        for text in ["", "1 2 3", "1 2 3 4 5", "127 60 1 3", "a b c d", "-1 60 1 3"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
