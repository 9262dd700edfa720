//! Brings a list up to date: fetched and read by a child without privileges, held to its bounds, and put in force. What
//! commands and the daemon do alike.

use std::fs::{self, File};
use std::io::Read as _;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use filter_common::abi::LARGEST_MAX;
use serde::Serialize;
use thiserror::Error;

use crate::control::{Author, Control, ListChange, Place};
use crate::exit::{NoSuchList, UsageError};
use crate::host::monotonic_now_s;
use crate::lists::block;
use crate::lists::guards::{Arrived, Refusal, Wide, refusals};
use crate::lists::reading::Refused;
use crate::lists::settings::{Settings, Source, owner_of};
use crate::lists::worker::{self, Answer, Failure, Job, Limits, List, Progress};
use crate::never;
use crate::store::{Found, Generation, Listed, Never, NewGeneration, Trouble, wall_now_s};

/// Time that a child has to fetch and read a list, beside the transfer: of four million lines it takes seconds.
const TIME_LIMIT: Duration = Duration::from_secs(900);

/// Largest file of headers, in bytes: a token of some kilobytes.
const LARGEST_HEADERS: u64 = 16 << 10;

/// Lists at most: who holds an entry is told by a bit of a word for each.
pub const MOST_LISTS: usize = 60;

/// How a list is to be brought up to date.
#[derive(Clone, Debug, Default)]
pub struct Asked {
    /// Only say what would change.
    pub is_dry: bool,
    /// Take it although it is out of bounds.
    pub is_forced: bool,
    /// New settings; otherwise those that the list has.
    pub settings: Option<Settings>,
}

/// What bringing a list up to date came to.
#[derive(Clone, Debug, Serialize)]
pub struct Updated {
    /// The list.
    pub list: String,
    /// What became of it.
    pub outcome: Outcome,
    /// What was found in reading it; nothing where the server says that it is what it was.
    pub found: Option<Found>,
    /// What changed.
    pub change: Option<ListChange>,
    /// The first places that are no entries.
    pub refused: Vec<Refused>,
    /// Bounds that it broke, and was taken all the same.
    pub overridden: Vec<String>,
    /// What the operator should know beside.
    pub warnings: Vec<String>,
    /// Whether it is written down, too.
    #[serde(skip)]
    pub is_durable: bool,
}

/// What became of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// A new generation is in force.
    Taken,
    /// It would be.
    Dry,
    /// It has the same entries as before.
    Unchanged,
    /// The server says that it is what it was.
    NotModified,
}

/// A list was not taken; what was in force still is.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{list} is not taken: {why}{kept}")]
pub struct NotTaken {
    /// The list.
    pub list: String,
    /// A word for metrics.
    pub kind: String,
    /// In words, with what to do.
    pub why: String,
    /// What is in force.
    kept: String,
    /// The first places that are no entries.
    pub refused: Vec<Refused>,
}

impl NotTaken {
    fn new(list: &str, kind: &str, why: String, generation: Option<i64>) -> Self {
        let kept = match generation {
            Some(generation) => format!("; generation {generation} stays in force"),
            None => "; nothing was changed".into(),
        };
        Self { list: list.to_owned(), kind: kind.to_owned(), why, kept, refused: Vec::new() }
    }
}

/// Who brings a list up to date, and where.
#[derive(Clone, Debug)]
pub struct Caller<'c> {
    /// Where the filter lies.
    pub place: &'c Place,
    /// Who.
    pub author: Author,
    /// Other ends of SSH sessions that are known beside those that this process sees.
    pub ssh_peers: &'c [IpAddr],
}

impl Caller<'_> {
    fn open(&self) -> Result<Control> {
        Control::open(self.place, self.author.clone())
    }

    /// Brings a list up to date. The lock is not held while it is fetched.
    ///
    /// # Errors
    ///
    /// [`NotTaken`] where it could not be fetched or read, or is out of bounds: that is written down with the list. Else as
    /// [`Control::take_list`].
    pub fn update(&self, name: &str, asked: &Asked, on_progress: &mut dyn FnMut(Progress)) -> Result<Updated> {
        owner_of(name)?;
        let control = self.open()?;
        let (listed, last) = known(&control, name)?;
        drop(control);
        let settings = match (&asked.settings, &listed) {
            (Some(settings), _) => settings.clone(),
            (None, Some(listed)) => listed.settings.clone(),
            (None, None) => return Err(NoSuchList(name.to_owned()).into()),
        };
        let in_force = listed.as_ref().and_then(|listed| listed.generation);
        let is_same_source = listed.as_ref().is_some_and(|listed| listed.settings.source == settings.source);
        let fetched = self.fetch(name, &settings, last.as_ref().filter(|_| is_same_source), on_progress);
        let taken = fetched
            .map_err(|failure| NotTaken::new(name, failure.kind.name(), failure.message, in_force).into())
            .and_then(|answer| match answer {
                Answer::NotModified => self.keep(name, last.as_ref(), asked),
                Answer::Read(list) => self.take(name, &settings, *list, asked),
            });
        if let Err(error) = &taken
            && let Some(NotTaken { kind, why, .. }) = error.downcast_ref()
            && let Ok(control) = self.open()
            && let Ok(store) = control.store()
            && !asked.is_dry
        {
            // What can't be written down here is told all the same.
            let trouble = Trouble { at_s: wall_now_s(), kind: kind.clone(), why: why.clone() };
            let _ = store.note_check(name, Some(&trouble));
        }
        taken
    }

    fn fetch(
        &self,
        name: &str,
        settings: &Settings,
        last: Option<&Generation>,
        on_progress: &mut dyn FnMut(Progress),
    ) -> Result<Answer, Failure> {
        let failed = |error: &anyhow::Error| Failure {
            kind: worker::FailureKind::Input,
            message: format!("{name}: {error:#}"),
        };
        let (source, input) = match &settings.source {
            Source::File(path) => {
                let file = File::open(path).with_context(|| format!("could not open {}", path.display()));
                (worker::Source::Stdin, Some(file.map_err(|error| failed(&error))?))
            }
            Source::Url { url, headers } => {
                let headers = headers.as_deref().map(read_headers).transpose().map_err(|error| failed(&error))?;
                let source = worker::Source::Url {
                    url: url.clone(),
                    headers: headers.unwrap_or_default(),
                    etag: last.and_then(|last| last.found.etag.clone()),
                    last_modified: last.and_then(|last| last.found.last_modified.clone()),
                    insecure_http: false,
                };
                (source, None)
            }
        };
        let job = Job {
            source,
            options: settings.options(),
            limits: Limits::default(),
            time_limit: TIME_LIMIT,
        };
        worker::run(&job, input, on_progress)
    }

    /// The server says that the newest generation is what it has. Where an older one is in force, it is put in its place.
    fn keep(&self, name: &str, last: Option<&Generation>, asked: &Asked) -> Result<Updated> {
        let mut control = self.open()?;
        let mut updated = Updated::of(name, Outcome::NotModified);
        let (listed, _) = known(&control, name)?;
        let Some((listed, last)) = listed.zip(last) else { bail!(NoSuchList(name.to_owned())) };
        if listed.generation != Some(last.number) && !asked.is_dry {
            updated.change = Some(control.force_generation(name, last.number, false)?);
            updated.outcome = Outcome::Taken;
        }
        if !asked.is_dry {
            note_success(&control, name, asked.settings.as_ref())?;
        }
        updated.finish(&control);
        Ok(updated)
    }

    fn take(&self, name: &str, settings: &Settings, list: List, asked: &Asked) -> Result<Updated> {
        let mut updated = Updated::of(name, Outcome::Taken);
        let List { summary, blocks } = list;
        updated.refused = summary.refused;
        let found = Found {
            format: summary.format,
            listed: summary.entries,
            duplicates: summary.duplicates,
            covered: summary.covered,
            refused: summary.refusals,
            ignored: summary.ignored,
            about: summary.about,
            etag: summary.etag,
            last_modified: summary.last_modified,
        };
        let new = NewGeneration { blocks, entries: summary.prefixes, found };
        let wide = wide_in(&new, settings)?;

        let mut control = self.open()?;
        let (listed, _) = known(&control, name)?;
        if listed.is_none() {
            let there = control.store().map_or(0, |store| store.lists().map_or(0, |lists| lists.len()));
            ensure!(there < MOST_LISTS, UsageError(format!("there are {there} lists already, and no more fit")));
        }
        if let Some(listed) = &listed {
            ensure!(
                listed.settings.action == settings.action,
                UsageError(format!(
                    "{name} is there and its entries {}; remove it first, or choose another name",
                    listed.settings.action.name()
                ))
            );
        }
        let in_force = listed.as_ref().and_then(|listed| listed.generation);
        let before = listed.as_ref().map_or(Ok(None), |listed| entries_in_force(&control, listed))?;
        let first = updated.refused.first().map(ToString::to_string);
        let arrived = Arrived {
            listed: new.found.listed,
            refused: (new.found.refused, first.as_deref()),
            about: &new.found.about,
            entries: new.entries,
            before,
        };
        let broken = refusals(&arrived, &wide, &settings.bounds);
        let is_taken = asked.is_forced && !broken.iter().any(|refusal| matches!(refusal, Refusal::Empty));
        if let Some(first) = broken.first().filter(|_| !is_taken) {
            let words: Vec<String> = broken.iter().map(ToString::to_string).collect();
            let next = match first {
                Refusal::Empty => "an empty list is never taken: `list remove` it if that is meant",
                _ => "look at it, then `--force` it once, or set other bounds with `list add`",
            };
            let why = format!("{}; {next}", words.join("; "));
            let refused = updated.refused;
            return Err(NotTaken { refused, ..NotTaken::new(name, first.name(), why, in_force) }.into());
        }
        updated.overridden = broken.iter().map(ToString::to_string).collect();
        let (never, warnings) = never_now(&control, self.ssh_peers)?;
        updated.warnings.extend(warnings);
        let dry = asked.is_dry.then_some(never.as_slice());
        if dry.is_none() {
            control.set_never(&never)?;
        }
        let change = control.take_list(name, settings, &new, dry)?;
        let is_same = in_force.is_some() && change.is_empty();
        updated.outcome = match (asked.is_dry, is_same) {
            (true, _) => Outcome::Dry,
            (false, true) => Outcome::Unchanged,
            (false, false) => Outcome::Taken,
        };
        if is_same && !asked.is_dry {
            // Who asks for an update wants the list to follow its source again.
            if let Some(number) = in_force.filter(|_| listed.is_some_and(|listed| listed.is_held)) {
                control.force_generation(name, number, false)?;
            }
            note_success(&control, name, Some(settings))?;
        }
        updated.found = Some(new.found);
        updated.change = Some(change);
        updated.finish(&control);
        Ok(updated)
    }
}

impl Updated {
    fn of(name: &str, outcome: Outcome) -> Self {
        Self {
            list: name.to_owned(),
            outcome,
            found: None,
            change: None,
            refused: Vec::new(),
            overridden: Vec::new(),
            warnings: Vec::new(),
            is_durable: true,
        }
    }

    fn finish(&mut self, control: &Control) {
        self.warnings.extend(control.warnings());
        self.is_durable = control.is_durable();
    }
}

/// The list of this name and its newest generation, where there is one.
fn known(control: &Control, name: &str) -> Result<(Option<Listed>, Option<Generation>)> {
    let Ok(store) = control.store() else { return Ok((None, None)) };
    let Some(listed) = store.list(name)? else { return Ok((None, None)) };
    let last = store.generations(&listed)?.pop();
    Ok((Some(listed), last))
}

fn entries_in_force(control: &Control, listed: &Listed) -> Result<Option<u64>> {
    let Ok(store) = control.store() else { return Ok(None) };
    let generations = store.generations(listed)?;
    let in_force = generations.into_iter().find(|kept| Some(kept.number) == listed.generation);
    Ok(in_force.map(|generation| generation.entries))
}

/// Writes down that a list is up to date, and its settings, where they are new.
fn note_success(control: &Control, name: &str, settings: Option<&Settings>) -> Result<()> {
    let Ok(store) = control.store() else { return Ok(()) };
    if let Some(settings) = settings {
        store.write_settings(name, settings)?;
    }
    store.note_check(name, None)
}

/// The never-block set as it is to be now, and what could not be seen.
///
/// # Errors
///
/// If the store can't be read.
pub fn never_now(control: &Control, ssh_peers: &[IpAddr]) -> Result<(Vec<Never>, Vec<String>)> {
    let (seen, warnings) = never::observed(ssh_peers);
    let stored = control.readable_store()?.never()?;
    Ok((never::merged(&stored, &seen, monotonic_now_s()), warnings))
}

/// The prefixes of a generation that are too short; refused where there are more than fit in any table.
fn wide_in(new: &NewGeneration, settings: &Settings) -> Result<Wide> {
    ensure!(
        new.entries <= 2 * u64::from(LARGEST_MAX),
        "it holds {} prefixes, more than fit in any table",
        new.entries
    );
    let mut wide = Wide::default();
    for bytes in &new.blocks {
        let block = block::decode(bytes)?;
        block.items.iter().for_each(|item| wide.look_at(&item.prefix, &settings.bounds));
    }
    Ok(wide)
}

/// The headers in a file, one a line. It must be for its owner alone, since it holds secrets.
fn read_headers(path: &Path) -> Result<Vec<(String, String)>> {
    let context = || format!("could not read {}", path.display());
    let file = File::open(path).with_context(context)?;
    let metadata = file.metadata().with_context(context)?;
    ensure!(metadata.is_file() && metadata.len() <= LARGEST_HEADERS, "{} is no small file", path.display());
    ensure!(
        metadata.mode() & 0o077 == 0,
        "others may read {}, which holds secrets: `chmod 600 {0}`",
        path.display()
    );
    let mut text = String::new();
    file.take(LARGEST_HEADERS).read_to_string(&mut text).with_context(context)?;
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|line| {
            // The line itself is never shown.
            let (name, value) = line.split_once(':').with_context(|| {
                format!("a line of {} is no header, such as `Authorization: Bearer …`", path.display())
            })?;
            Ok((name.trim().to_owned(), value.trim().to_owned()))
        })
        .collect()
}

/// The address in a file, on one line: for addresses that hold a secret, which no process list must show.
///
/// # Errors
///
/// If it can't be read, others may read it, or it holds more or less than a line.
pub fn read_url(path: &Path) -> Result<String> {
    let context = || format!("could not read {}", path.display());
    let metadata = fs::metadata(path).with_context(context)?;
    ensure!(metadata.is_file() && metadata.len() <= LARGEST_HEADERS, "{} is no small file", path.display());
    ensure!(
        metadata.mode() & 0o077 == 0,
        "others may read {}, which holds a secret: `chmod 600 {0}`",
        path.display()
    );
    let text = fs::read_to_string(path).with_context(context)?;
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let url = lines.next().with_context(|| format!("{} is empty", path.display()))?;
    ensure!(lines.next().is_none(), "{} holds more than one line", path.display());
    Ok(url.to_owned())
}
