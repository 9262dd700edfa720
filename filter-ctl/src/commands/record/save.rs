//! `record save`: what was recorded as a capture file.

use std::fs::{self, File, OpenOptions};
use std::io::{self, IsTerminal as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde::Serialize;

use super::{Coming, Look, PATIENCE, Session, chosen, lost, unloaded, wanted};
use crate::cli::SaveArgs;
use crate::exit::{Exit, UsageError};
use crate::host::WallClock;
use crate::kernel::reader::Reader;
use crate::output;
use crate::record::Reading;
use crate::record::entries::Entries;
use crate::record::pcapng::{Positions, Section};
use crate::record::wanted::Wanted;

#[derive(Serialize)]
struct Report {
    file: PathBuf,
    frames: u64,
    /// Samples that were overwritten before they could be written; absent of what is kept.
    lost: Option<u64>,
}

pub fn run(session: &Session, args: &SaveArgs) -> Result<Exit> {
    let mut sink = Sink::open(session, &args.write)?;
    let wanted = wanted(&args.wanted, args.since);
    let mut saving = Saving {
        session,
        section: Section::begin()?,
        positions: Positions::default(),
        entries: Entries::default(),
    };
    let (mut lost_frames, mut end) = (None, Look::Ended);
    match args.span {
        None => saving.add(&Reader::open(&session.pins())?.read()?, &wanted, None)?,
        Some(span) => {
            let (mut coming, before) = Coming::begin(session, Some(span))?;
            saving.positions = Positions::of(&before.heads);
            lost_frames = Some(0);
            sink.write(&saving.section.take())?;
            loop {
                let (reading, look) = coming.next()?;
                saving.add(&reading, &wanted, Some(PATIENCE))?;
                lost_frames = lost_frames.map(|lost| lost + reading.lost);
                sink.write(&saving.section.take())?;
                if !matches!(look, Look::On) {
                    end = look;
                    break;
                }
            }
        }
    }
    sink.write(&saving.section.take())?;
    sink.finish()?;
    let frames = saving.section.packets();
    if session.global.json {
        session.out.json(Report { file: args.write.clone(), frames, lost: lost_frames })?;
    } else {
        let written = output::counted_u64(frames, "frame", "frames");
        session.out.note(&format!("{written} written to {}", args.write.display()));
        if let Some(number) = lost_frames.filter(|lost| *lost > 0) {
            session.out.note(&lost(number));
        }
    }
    match end {
        Look::Unloaded => Err(unloaded()),
        _ if frames == 0 => Ok(Exit::NothingMatched),
        _ => Ok(Exit::Done),
    }
}

/// A file in the making, and what is known for it.
struct Saving<'s> {
    session: &'s Session<'s>,
    section: Section,
    positions: Positions,
    entries: Entries,
}

impl Saving<'_> {
    fn add(&mut self, reading: &Reading, wanted: &Wanted, patience: Option<Duration>) -> Result<()> {
        let clock = WallClock::now();
        for (sample, _) in chosen(self.session, reading, wanted, &mut self.entries, patience) {
            let story = sample.entry.map(|entry| self.entries.story(entry));
            self.section.add(sample, &mut self.positions, clock, story.as_ref())?;
        }
        Ok(())
    }
}

/// Where the bytes go.
enum Sink<'s> {
    /// Standard output.
    Standard(&'s Session<'s>),
    /// A file, under another name until it is whole.
    File(Partial),
}

impl<'s> Sink<'s> {
    fn open(session: &'s Session<'s>, path: &Path) -> Result<Self> {
        if path != Path::new("-") {
            return Ok(Self::File(Partial::make(path)?));
        }
        if session.global.json {
            bail!(UsageError(
                "with `-w -` the capture goes to standard output, which has no room for JSON".into()
            ));
        }
        if io::stdout().is_terminal() {
            bail!(UsageError(
                "a capture is no text for a terminal: `-w FILE`, or `-w - | tcpdump -nr -`".into()
            ));
        }
        Ok(Self::Standard(session))
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        match self {
            Self::Standard(session) => session.out.bytes(bytes),
            Self::File(partial) => partial.write(bytes),
        }
    }

    fn finish(self) -> Result<()> {
        match self {
            Self::Standard(_) => Ok(()),
            Self::File(partial) => partial.finish(),
        }
    }
}

/// A file that has its name only once it is whole, and is not there if it never is.
struct Partial {
    file: File,
    path: PathBuf,
    partial: PathBuf,
    is_whole: bool,
}

impl Partial {
    fn make(path: &Path) -> Result<Self> {
        if fs::metadata(path).is_ok_and(|metadata| !metadata.is_file()) {
            bail!(
                "{} is no regular file, and would be replaced by one; `-w -` writes to standard output",
                path.display()
            );
        }
        let name = path.file_name().with_context(|| format!("{} names no file", path.display()))?;
        let partial = format!(".{}.{}.partial", name.to_string_lossy(), std::process::id());
        let partial = path.with_file_name(partial);
        // Traffic is nobody else's to read.
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&partial);
        let file = file.with_context(|| format!("could not make {}", partial.display()))?;
        Ok(Self { file, path: path.to_owned(), partial, is_whole: false })
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let written = self.file.write_all(bytes);
        written.with_context(|| format!("could not write {}, and left nothing there", self.path.display()))
    }

    fn finish(mut self) -> Result<()> {
        let renamed = self.file.sync_all().and_then(|()| fs::rename(&self.partial, &self.path));
        renamed.with_context(|| format!("could not write {}", self.path.display()))?;
        self.is_whole = true;
        Ok(())
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if !self.is_whole {
            // Where it can't be removed, its name says what it is.
            let _ = fs::remove_file(&self.partial);
        }
    }
}
