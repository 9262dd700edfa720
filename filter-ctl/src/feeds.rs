//! Brings a list up to date: fetched and read by a child without privileges, held to its bounds, and put in force. What
//! commands and the daemon do alike.

use std::fs::{File, OpenOptions};
use std::io::Read as _;
use std::net::IpAddr;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
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
use crate::plan::Full;
use crate::policy::Prefix;
use crate::store::{Found, Listed, Never, NewGeneration, Trouble, Validators, wall_now_s};

/// Time that a child has to fetch and read a list, beside the transfer: of four million lines it takes seconds.
const TIME_LIMIT: Duration = Duration::from_secs(900);

/// Largest file of headers, or of a URL, in bytes: a token of some kilobytes.
const LARGEST_SECRET: u64 = 16 << 10;

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
    /// What programs may want to know of it.
    pub fn details(&self) -> serde_json::Map<String, serde_json::Value> {
        let details = serde_json::json!({ "list": self.list, "kind": self.kind, "refused": self.refused });
        details.as_object().cloned().unwrap_or_default()
    }

    fn new(list: &str, kind: &str, why: String, generation: Option<i64>) -> Self {
        let kept = match generation {
            Some(generation) => format!("; generation {generation} stays in force"),
            None => "; nothing was changed".into(),
        };
        Self { list: list.to_owned(), kind: kind.to_owned(), why, kept, refused: Vec::new() }
    }
}

/// The list was changed by somebody else while it was fetched.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{0} was changed by somebody else while it was fetched; what was fetched is dropped")]
pub struct Superseded(String);

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
    pub fn update(
        &self,
        name: &str,
        asked: &Asked,
        on_progress: &mut dyn FnMut(Progress),
    ) -> Result<Updated> {
        owner_of(name)?;
        let begun = known(&self.open()?, name)?;
        let settings = match (&asked.settings, &begun) {
            (Some(settings), _) => settings.clone(),
            (None, Some(listed)) => listed.settings.clone(),
            (None, None) => return Err(NoSuchList(name.to_owned()).into()),
        };
        if let Some(listed) = &begun {
            require_action(listed, &settings)?;
        }
        let in_force = begun.as_ref().and_then(|listed| listed.generation);
        // What is read otherwise is another list, whatever the server says.
        let is_same = |listed: &&Listed| {
            listed.settings.source == settings.source && listed.settings.options() == settings.options()
        };
        let validators = begun.as_ref().filter(is_same).map(|listed| listed.validators.clone());
        let fetched = self.fetch(name, &settings, validators.unwrap_or_default(), on_progress);
        let taken = fetched
            .map_err(|failure| NotTaken::new(name, failure.kind.name(), failure.message, in_force).into())
            .and_then(|answer| match answer {
                Answer::NotModified => self.keep(name, begun.as_ref(), &settings, asked),
                Answer::Read(list) => self.take(name, begun.as_ref(), &settings, *list, asked),
            });
        if let Err(error) = &taken
            && !asked.is_dry
        {
            self.note(name, error);
        }
        taken
    }

    /// Writes down with a list why it could not be brought up to date. What can't be written down is told all the same.
    fn note(&self, name: &str, error: &anyhow::Error) {
        let (kind, why) = match error.downcast_ref() {
            Some(NotTaken { kind, why, .. }) => (kind.clone(), why.clone()),
            None if error.is::<Superseded>() || error.is::<UsageError>() => return,
            None if error.is::<Full>() => ("full".to_owned(), format!("{error:#}")),
            None => ("failed".to_owned(), format!("{error:#}")),
        };
        if let Ok(control) = self.open()
            && let Ok(store) = control.store()
        {
            let _ = store.note_trouble(name, &Trouble { at_s: wall_now_s(), kind, why });
        }
    }

    fn fetch(
        &self,
        name: &str,
        settings: &Settings,
        validators: Validators,
        on_progress: &mut dyn FnMut(Progress),
    ) -> Result<Answer, Failure> {
        let failed = |error: &anyhow::Error| Failure {
            kind: worker::FailureKind::Input,
            message: format!("{name}: {error:#}"),
        };
        let (source, input) = match &settings.source {
            Source::File(path) => {
                (worker::Source::Stdin, Some(open_list(path).map_err(|error| failed(&error))?))
            }
            Source::Url { url, headers } => {
                let headers =
                    headers.as_deref().map(read_headers).transpose().map_err(|error| failed(&error))?;
                let source = worker::Source::Url {
                    url: url.clone(),
                    headers: headers.unwrap_or_default(),
                    etag: validators.etag,
                    last_modified: validators.last_modified,
                    insecure_http: false,
                };
                (source, None)
            }
        };
        let job =
            Job { source, options: settings.options(), limits: Limits::default(), time_limit: TIME_LIMIT };
        worker::run(&job, input, on_progress)
    }

    /// The filter again, after a list was fetched; and the list as it is now. What was done to it meanwhile counts more than
    /// what was fetched, unless an operator adds it.
    fn open_again(
        &self,
        name: &str,
        begun: Option<&Listed>,
        asked: &Asked,
    ) -> Result<(Control, Option<Listed>)> {
        let control = self.open()?;
        let listed = known(&control, name)?;
        let state = |listed: &Listed| {
            (listed.id, listed.last, listed.generation, listed.is_held, listed.settings.clone())
        };
        if asked.settings.is_none() && listed.as_ref().map(state) != begun.map(state) {
            return Err(Superseded(name.to_owned()).into());
        }
        Ok((control, listed))
    }

    /// The server says that the newest generation is what it has. Where an older one is in force, it is put in its place.
    fn keep(
        &self,
        name: &str,
        begun: Option<&Listed>,
        settings: &Settings,
        asked: &Asked,
    ) -> Result<Updated> {
        let (mut control, listed) = self.open_again(name, begun, asked)?;
        let listed = listed.ok_or_else(|| NoSuchList(name.to_owned()))?;
        require_action(&listed, settings)?;
        let mut updated = Updated::of(name, Outcome::NotModified);
        if !asked.is_dry {
            updated.warnings.extend(apply_never(&mut control, self.ssh_peers)?);
            if listed.generation != Some(listed.last) || listed.is_held {
                updated.change = Some(control.force_generation(name, listed.last, false)?);
                updated.outcome = Outcome::Taken;
            }
            updated.note_success(&control, settings, &listed.validators);
        }
        updated.finish(&control);
        Ok(updated)
    }

    fn take(
        &self,
        name: &str,
        begun: Option<&Listed>,
        settings: &Settings,
        list: List,
        asked: &Asked,
    ) -> Result<Updated> {
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
        };
        let validators = Validators { etag: summary.etag, last_modified: summary.last_modified };
        let new = NewGeneration { blocks, entries: summary.prefixes, found, validators };
        let wide = wide_in(&new, settings)?;

        let (mut control, listed) = self.open_again(name, begun, asked)?;
        match &listed {
            Some(listed) => require_action(listed, settings)?,
            None => {
                let there = control.readable_store()?.lists()?.len();
                ensure!(
                    there < MOST_LISTS,
                    UsageError(format!("there are {there} lists already, and no more fit"))
                );
            }
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
        let is_taken = asked.is_forced && new.entries > 0;
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
        let change = if asked.is_dry {
            let (never, warnings) = never_now(&control, self.ssh_peers)?;
            updated.warnings.extend(warnings);
            control.take_list(name, settings, &new, Some(&never))?
        } else {
            updated.warnings.extend(apply_never(&mut control, self.ssh_peers)?);
            control.take_list(name, settings, &new, None)?
        };
        updated.outcome = match (asked.is_dry, change.is_same) {
            (true, _) => Outcome::Dry,
            (false, true) => Outcome::Unchanged,
            (false, false) => Outcome::Taken,
        };
        if change.is_same && !asked.is_dry {
            // Who asks for an update wants the list to follow its source again.
            if let Some(number) = in_force.filter(|_| listed.is_some_and(|listed| listed.is_held)) {
                control.force_generation(name, number, false)?;
            }
            updated.note_success(&control, settings, &new.validators);
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

    /// Writes down that the list is up to date. That it can't be is no failure of what was done.
    fn note_success(&mut self, control: &Control, settings: &Settings, validators: &Validators) {
        if let Ok(store) = control.store()
            && let Err(error) = store.note_success(&self.list, settings, validators)
        {
            self.warnings.push(format!("{error:#}"));
        }
    }

    fn finish(&mut self, control: &Control) {
        self.warnings.extend(control.warnings());
        self.is_durable = control.is_durable();
    }
}

/// The list of this name, where there is one.
fn known(control: &Control, name: &str) -> Result<Option<Listed>> {
    control.readable_store()?.list(name)
}

/// Refuses to turn a list that blocks into one that allows, or the other way round.
fn require_action(listed: &Listed, settings: &Settings) -> Result<()> {
    ensure!(
        listed.settings.action == settings.action,
        UsageError(format!(
            "{} is there to {}; remove it first, or choose another name",
            listed.name,
            listed.settings.action.name()
        ))
    );
    Ok(())
}

fn entries_in_force(control: &Control, listed: &Listed) -> Result<Option<u64>> {
    let Ok(store) = control.store() else { return Ok(None) };
    let generations = store.generations(listed)?;
    let in_force = generations.into_iter().find(|kept| Some(kept.number) == listed.generation);
    Ok(in_force.map(|generation| generation.entries))
}

/// Brings the never-block set to what this host has and needs now. Where the tables have no room for a new hole, what lists
/// hold around it is left out as a whole: it must not stay blocked. Returns what the operator should know.
///
/// # Errors
///
/// As [`Control::set_never`].
pub fn apply_never(control: &mut Control, ssh_peers: &[IpAddr]) -> Result<Vec<String>> {
    let (mut never, mut warnings) = never_now(control, ssh_peers)?;
    let full = match control.set_never(&never) {
        Err(error) if error.is::<Full>() => error,
        set => return set.map(|_| warnings),
    };
    let stored = control.readable_store()?.never()?;
    let is_known = |prefix: Prefix| stored.iter().any(|stored| stored.prefix == prefix);
    for new in never.iter_mut().filter(|new| !is_known(new.prefix)) {
        let around = control.lists_touching(&new.prefix)?;
        if let Some(outer) = around.first().filter(|outer| outer.covers(&new.prefix)) {
            warnings.push(format!(
                "the tables have no room for a hole in {outer} for {}: no list blocks any of {outer}",
                new.prefix
            ));
            new.prefix = *outer;
        }
    }
    never.dedup_by_key(|never| never.prefix);
    match control.set_never(&never) {
        // Lists that make room must not wait for this.
        Err(error) if error.is::<Full>() => {
            warnings.push(format!("what no list may block is as before: {full:#}"))
        }
        set => {
            set?;
        }
    }
    Ok(warnings)
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

/// Opens the file of a list, which must be a file: a pipe that nobody writes to would never be opened.
fn open_list(path: &Path) -> Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(libc::O_NONBLOCK);
    let file = options.open(path).with_context(|| format!("could not open {}", path.display()))?;
    ensure!(file.metadata()?.is_file(), "{} is no file", path.display());
    Ok(file)
}

/// A file that holds secrets: small, and for its owner alone.
fn read_secret(path: &Path) -> Result<String> {
    let context = || format!("could not read {}", path.display());
    let file = File::open(path).with_context(context)?;
    let metadata = file.metadata().with_context(context)?;
    ensure!(metadata.is_file() && metadata.len() <= LARGEST_SECRET, "{} is no small file", path.display());
    ensure!(
        metadata.mode() & 0o077 == 0,
        "others may read {}, which holds secrets: `chmod 600 {0}`",
        path.display()
    );
    let mut text = String::new();
    file.take(LARGEST_SECRET).read_to_string(&mut text).with_context(context)?;
    Ok(text)
}

/// The headers in a file, one a line.
fn read_headers(path: &Path) -> Result<Vec<(String, String)>> {
    let text = read_secret(path)?;
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
    let text = read_secret(path)?;
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let url = lines.next().with_context(|| format!("{} is empty", path.display()))?;
    ensure!(lines.next().is_none(), "{} holds more than one line", path.display());
    Ok(url.to_owned())
}
