//! The child's side: closes the jail, reads the job, and answers. Nothing here is trusted by the parent.

use std::cell::{Cell, RefCell};
use std::ffi::OsString;
use std::io::{self, BufRead, Read as _, Write};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use filter_common::abi::LARGEST_MAX;
use filter_common::prefix::Family;

use super::fetch::{self, Fetched};
use super::frame::{self, End, Kind};
use super::jail::{self, Place};
use super::source::{Fault, Watched};
use super::{Failure, FailureKind, Job, Progress, Source, Summary, WORD, unpack};
use crate::kernel::descriptors;
use crate::lists::format::{self, Options};
use crate::lists::items::Sorted;
use crate::lists::{block, reading::Reading};

/// Most bytes of a job: a URL and some headers.
pub const LARGEST_JOB: u64 = 1 << 20;

/// Between two frames of progress.
const PROGRESS_EVERY: Duration = Duration::from_millis(100);

/// Does the child's work, if this process was started as one; to be asked before anything else is done.
pub fn entry(mut arguments: impl Iterator<Item = OsString>) -> Option<ExitCode> {
    if arguments.nth(1)? != WORD {
        return None;
    }
    let word = arguments.next()?;
    let place = [Place::File, Place::Url].into_iter().find(|place| word == place.word())?;
    let mut out = io::stdout().lock();
    let end = work(place, &mut out).unwrap_or_else(End::Failed);
    // Without a parent, nobody is left to be told.
    Some(if send_end(&mut out, end).is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn work(place: Place, out: &mut dyn Write) -> Result<End, Failure> {
    let closed =
        descriptors::close_inherited().map_err(anyhow::Error::from).and_then(|()| jail::close(place));
    closed.map_err(|error| {
        let message =
            format!("lists are read in a process without privileges, which can't be had here: {error:#}");
        Failure::new(FailureKind::Jail, message)
    })?;
    let mut input = io::stdin().lock();
    let job = read_job(&mut input)?;
    carry_out(&job, input, out)
}

/// Does the job. `input` is the file, if it is one.
pub fn carry_out(job: &Job, input: impl io::Read, out: &mut dyn Write) -> Result<End, Failure> {
    let progress = Sender { out: RefCell::new(out), last: Cell::new(Instant::now()), bytes: Cell::new(0) };
    let count = |bytes, total| progress.send(Progress { bytes, total });
    let fault = Fault::default();
    let (mut summary, list) = match &job.source {
        Source::Stdin => {
            let input = Watched::file(input, &job.limits, fault.clone(), &count);
            read(input, job, &fault)?
        }
        Source::Url { .. } => {
            let new = match fetch::open(&job.source, &job.limits)? {
                Fetched::NotModified => return Ok(End::NotModified),
                Fetched::New(new) => new,
            };
            let body = Watched::body(new.body, new.length, &job.limits, fault.clone(), &count);
            let (mut summary, list) = read(body, job, &fault)?;
            (summary.etag, summary.last_modified) = (new.etag, new.last_modified);
            (summary, list)
        }
    };
    summary.bytes = progress.bytes.get();
    let out = progress.out.into_inner();
    for block in block::blocks(&list) {
        frame::write(out, Kind::Block, &block).map_err(|error| Failure::new(FailureKind::Died, error))?;
    }
    Ok(End::Read(summary))
}

fn read_job(input: &mut dyn BufRead) -> Result<Job, Failure> {
    let mut line = Vec::new();
    let read = input.take(LARGEST_JOB).read_until(b'\n', &mut line);
    let job = read.ok().and_then(|_| serde_json::from_slice(&line).ok());
    // The error is not shown: it may quote credentials.
    job.ok_or_else(|| Failure::new(FailureKind::Refused, "there is no job for the process that reads lists"))
}

/// Reads a list to its end.
fn read(input: impl io::Read, job: &Job, fault: &Fault) -> Result<(Summary, Sorted), Failure> {
    let mut text = unpack::text(input, &job.limits, fault)?;
    let read = format::read(&mut text, &job.options);
    // Whatever a parser made of it.
    fault.check()?;
    let (format, reading) = read.map_err(|error| unreadable(&job.options, &error))?;
    // What follows a list may still be damaged or too long.
    let rest = io::copy(&mut text, &mut io::sink());
    fault.check()?;
    rest.map_err(|error| Failure::new(FailureKind::Input, format!("the list can't be read: {error}")))?;
    let Reading { items, refused, refusals, entries, ignored, about } = reading;
    let list = items.finish();
    check_size(&list)?;
    let summary = Summary {
        format,
        etag: None,
        last_modified: None,
        bytes: 0,
        prefixes: list.len() as u64,
        entries,
        duplicates: list.duplicates as u64,
        covered: list.covered as u64,
        ignored,
        refusals,
        refused,
        about,
    };
    Ok((summary, list))
}

fn unreadable(options: &Options, error: &dyn std::error::Error) -> Failure {
    let next = if options.format.is_some() {
        "leave the format to be told from the text, or name another one"
    } else {
        "look at what is there, and name the format if it is a list"
    };
    Failure::new(FailureKind::Unreadable, format!("the list can't be read: {error}; {next}"))
}

/// Refuses what no table can hold, before it is sent.
fn check_size(list: &Sorted) -> Result<(), Failure> {
    let v4 = list.iter().filter(|(prefix, _)| prefix.family() == Family::V4).count();
    let most = usize::try_from(LARGEST_MAX).unwrap_or(usize::MAX);
    if v4.max(list.len() - v4) <= most {
        return Ok(());
    }
    let message = format!(
        "the list has {} entries, and a table holds {LARGEST_MAX} of a family; use a smaller list",
        list.len()
    );
    Err(Failure::new(FailureKind::TooLarge, message))
}

/// Sends the end, with as many refused places as fit.
pub fn send_end(out: &mut dyn Write, mut end: End) -> io::Result<()> {
    let mut payload = serde_json::to_vec(&end)?;
    while payload.len() > frame::LARGEST_END
        && let End::Read(summary) = &mut end
        && !summary.refused.is_empty()
    {
        summary.refused.truncate(summary.refused.len() / 2);
        payload = serde_json::to_vec(&end)?;
    }
    frame::write(out, Kind::End, &payload)?;
    out.flush()
}

/// Sends progress, now and then.
struct Sender<'w> {
    out: RefCell<&'w mut dyn Write>,
    last: Cell<Instant>,
    bytes: Cell<u64>,
}

impl Sender<'_> {
    fn send(&self, progress: Progress) {
        self.bytes.set(progress.bytes);
        if self.last.get().elapsed() < PROGRESS_EVERY {
            return;
        }
        self.last.set(Instant::now());
        let Ok(payload) = serde_json::to_vec(&progress) else { return };
        let mut out = self.out.borrow_mut();
        // A parent that is gone is noticed when the list is sent.
        let _ = frame::write(&mut **out, Kind::Progress, &payload).and_then(|()| out.flush());
    }
}
