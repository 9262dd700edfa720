//! `record`: what the flight recorder has of frames that were dropped.

mod follow;
mod passed;
mod save;
mod show;
mod summary;
mod view;

pub use self::passed::sentence as passed_sentence;

use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::runtime::Runtime;

use super::Session;
use crate::cli::{RecordCommand, WantedArgs};
use crate::control::{Control, Place};
use crate::exit::Exit;
use crate::host::monotonic_now;
use crate::host::signals::Ending;
use crate::kernel::pins::NotLoaded;
use crate::kernel::reader::{LOOK, Reader};
use crate::output;
use crate::record::entries::Entries;
use crate::record::headers::{Headers, headers};
use crate::record::wanted::Wanted;
use crate::record::{Reading, Sample};

/// How long who goes on reading waits for the lock, so that looks are no further apart than a ring can bear.
const PATIENCE: Duration = Duration::from_millis(50);

pub fn run(session: &Session, command: &RecordCommand) -> Result<Exit> {
    match command {
        RecordCommand::Summary(args) => summary::run(session, args),
        RecordCommand::Show(args) => show::run(session, args),
        RecordCommand::Follow(args) => follow::run(session, args),
        RecordCommand::Save(args) => save::run(session, args),
        RecordCommand::Passed(args) => passed::run(session, args),
    }
}

/// The samples that are asked for.
fn wanted(args: &WantedArgs, since: Option<Duration>) -> Wanted {
    Wanted {
        reasons: args.reason.clone(),
        verdict: args.verdict,
        entry: args.entry,
        source: args.src,
        destination: args.dst,
        interface: args.interface.clone(),
        since: since.map(|since| monotonic_now().saturating_sub(since)),
    }
}

/// Those of the samples that are asked for, with their headers. What is known of their entries is learnt; where the filter
/// can't be asked, they are told without. Who goes on reading waits for the lock no longer than `patience`: meanwhile samples
/// are overwritten, and signals not heard.
fn chosen<'r>(
    session: &Session,
    reading: &'r Reading,
    wanted: &Wanted,
    entries: &mut Entries,
    patience: Option<Duration>,
) -> Vec<(&'r Sample, Headers)> {
    let samples = reading.samples.iter().map(|sample| (sample, headers(&sample.frame)));
    let samples: Vec<_> = samples.filter(|(sample, headers)| wanted.has(sample, headers)).collect();
    let asked = samples.iter().filter_map(|(sample, _)| sample.entry);
    let place = session.global.place();
    let place = Place { lock_wait: patience.unwrap_or(place.lock_wait), ..place };
    let learnt = entries.learn(asked, || Control::open(&place, session.author()));
    if let Err(error) = learnt
        && patience.is_none()
    {
        session.out.note(&format!("whose entries these are can't be told: {error:#}"));
    }
    samples
}

/// What comes while a command waits for it.
struct Coming {
    reader: Reader,
    until: Option<Duration>,
    signals: Signals,
}

/// Where a look at what comes left off.
enum Look {
    /// There may be more.
    On,
    /// The time is over, or a signal came.
    Ended,
    /// The filter that was looked at is not loaded any more.
    Unloaded,
}

impl Coming {
    /// From now on, for so long or until a signal comes. Returns what the rings had counted before.
    fn begin(session: &Session, span: Option<Duration>) -> Result<(Self, Reading)> {
        // Before anything is read: whoever sends a signal by then means this.
        let signals = Signals::catch()?;
        let mut reader = Reader::open(&session.pins())?;
        let before = reader.read()?;
        let until = span.map(|span| monotonic_now() + span);
        Ok((Self { reader, until, signals }, before))
    }

    /// Waits a little, and reads what came.
    fn next(&mut self) -> Result<(Reading, Look)> {
        let left = self.until.map(|until| until.saturating_sub(monotonic_now()));
        let has_signal = self.signals.wait(left.map_or(LOOK, |left| left.min(LOOK)));
        // Asked before reading: what came by then is read below.
        let is_current = self.reader.is_current();
        let is_over = has_signal || self.until.is_some_and(|until| until <= monotonic_now());
        let reading = self.reader.read()?;
        Ok((
            reading,
            if is_over {
                Look::Ended
            } else if is_current {
                Look::On
            } else {
                Look::Unloaded
            },
        ))
    }
}

/// Waiting that a signal ends.
pub(super) struct Signals {
    runtime: Runtime,
    ending: Ending,
}

impl Signals {
    pub(super) fn catch() -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.context("could not wait for signals")?;
        let ending = runtime.block_on(async { Ending::catch() })?;
        Ok(Self { runtime, ending })
    }

    /// Waits for so long; says whether a signal came.
    pub(super) fn wait(&mut self, time: Duration) -> bool {
        self.runtime.block_on(async {
            tokio::select! {
                () = self.ending.wait() => true,
                () = tokio::time::sleep(time) => false,
            }
        })
    }
}

/// The end of the filter that was looked at, as an error.
fn unloaded() -> anyhow::Error {
    NotLoaded("the filter was unloaded meanwhile, and its recorder is gone with it".into()).into()
}

/// Samples that were overwritten before they were read, in words.
fn lost(lost: u64) -> String {
    format!(
        "{} overwritten before they could be read",
        output::counted_u64(lost, "recorded frame was", "recorded frames were")
    )
}
