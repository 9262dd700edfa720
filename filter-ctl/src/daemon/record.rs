//! What the daemon does with the flight recorder: reads it, and keeps what is worth it in files, for the day after.
//!
//! It is read often, since a ring keeps its latest sixteen samples and takes up to a hundred a second. What is written of it
//! is `record::thinning`'s business, and how much lies on the disk that of `files`.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;

use super::files::{Bounds, Files};
use super::state::RecordState;
use crate::control::Control;
use crate::host::{WallClock, monotonic_now};
use crate::kernel::Pins;
use crate::kernel::builds::OtherBuild;
use crate::kernel::pins::NotLoaded;
use crate::kernel::reader::Reader;
use crate::record::Sample;
use crate::record::entries::Entries;
use crate::record::pcapng::{Positions, Section};
use crate::record::thinning::Thinning;

/// Directory of the files in that of the store.
const DIRECTORY: &str = "record";

/// Bytes that are gathered before they are written: far below the size of any file.
const BATCH: usize = 16 << 10;

/// How long a sample waits for somebody to say whose entry it was. Whoever has the lock longer than this is busy with much.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long writing must have gone well before trouble is over. On a full disk a small batch still fits where a large one did
/// not, and trouble that came and went with the size of batches would be told each time.
const CALM: Duration = Duration::from_secs(3);

/// Reads the recorder and writes files.
pub struct Recording {
    reader: Option<Reader>,
    files: Files,
    section: Option<Section>,
    positions: Positions,
    thinning: Thinning,
    entries: Entries,
    /// Samples to be written, in the order of time.
    pending: Vec<Sample>,
    /// Whether anything was read yet.
    has_begun: bool,
    /// Since when nothing can be read.
    failing_since: Option<Duration>,
    /// Whether what is wrong is that nothing can be read.
    is_unread: bool,
    /// Since when what is tried goes well, if it did not before.
    well_since: Option<Duration>,
    state: RecordState,
}

impl Recording {
    /// Gets ready to write below the store's directory, and touches nothing yet.
    pub fn new(state_directory: &Path, bounds: Bounds) -> Self {
        Self {
            reader: None,
            files: Files::new(state_directory.join(DIRECTORY), bounds),
            section: None,
            positions: Positions::default(),
            thinning: Thinning::default(),
            entries: Entries::default(),
            pending: Vec::new(),
            has_begun: false,
            failing_since: None,
            is_unread: false,
            well_since: None,
            state: RecordState::default(),
        }
    }

    /// How it goes.
    pub fn state(&self) -> &RecordState {
        &self.state
    }

    /// Looks at the recorder once, and writes what is to be written. `open` opens the filter without waiting for its lock.
    pub fn look(&mut self, pins: &Pins, open: impl FnOnce() -> Result<Control>) {
        let read = self.read(pins);
        let now = monotonic_now();
        let failing_since = if read.is_ok() { None } else { Some(self.failing_since.unwrap_or(now)) };
        self.failing_since = failing_since;
        if failing_since.is_some_and(|since| now.saturating_sub(since) < PATIENCE) {
            // Somebody may be loading or unloading, of which each look sees a part.
            return;
        }
        if read.is_ok() && std::mem::take(&mut self.is_unread) {
            self.state.trouble = None;
        }
        self.is_unread = read.is_err();
        let looked = read.and_then(|()| self.write(open));
        match looked {
            Ok(is_tried) => {
                if is_tried {
                    self.well_since.get_or_insert(now);
                }
                if self.well_since.is_some_and(|since| now.saturating_sub(since) >= CALM) {
                    self.state.trouble = None;
                }
            }
            Err(error) if error.is::<NotLoaded>() || error.is::<OtherBuild>() => self.state.trouble = None,
            Err(error) => (self.well_since, self.state.trouble) = (None, Some(format!("{error:#}"))),
        }
    }

    fn read(&mut self, pins: &Pins) -> Result<()> {
        if self.reader.as_ref().is_some_and(|reader| !reader.is_current()) {
            // Whatever came last is still there to be read, and the next one counts from one again.
            self.read_on()?;
            (self.reader, self.thinning) = (None, Thinning::default());
        }
        if self.reader.is_none() {
            if !self.pending.is_empty() {
                return Ok(());
            }
            self.reader = Some(Reader::open(pins)?);
            self.positions = Positions::default();
        }
        self.read_on()
    }

    fn read_on(&mut self) -> Result<()> {
        let Some(reader) = &mut self.reader else { return Ok(()) };
        let reading = reader.read()?;
        // What a daemon before this one has written is in its files.
        let written = if self.has_begun { None } else { self.files.last_written() };
        let clock = WallClock::now();
        let is_new = |sample: &Sample| written.is_none_or(|written| clock.time(sample.time) > written);
        // What was overwritten before there was a daemon was not lost to it.
        if self.has_begun {
            self.state.lost += reading.lost;
        }
        self.has_begun = true;
        for sample in reading.samples {
            if !is_new(&sample) {
                self.positions.pass(&sample);
            } else if self.thinning.keeps(&sample) {
                self.pending.push(sample);
            } else {
                self.state.thinned += 1;
            }
        }
        Ok(())
    }

    /// Writes what waits. Returns whether there was anything that could be written.
    fn write(&mut self, open: impl FnOnce() -> Result<Control>) -> Result<bool> {
        let Some(oldest) = self.pending.first() else { return Ok(false) };
        let is_late = monotonic_now().saturating_sub(oldest.time) > PATIENCE;
        let entries = self.pending.iter().filter_map(|sample| sample.entry);
        if self.entries.learn(entries, open).is_err() && !is_late {
            return Ok(false);
        }
        let clock = WallClock::now();
        let pending = std::mem::take(&mut self.pending);
        let mut rest = pending.as_slice();
        while !rest.is_empty() {
            let positions = self.positions.clone();
            let wrote = self.write_batch(rest, clock);
            match wrote {
                Ok(number) => {
                    self.state.written += number as u64;
                    rest = &rest[number..];
                }
                Err(error) => {
                    (self.section, self.positions) = (None, positions);
                    self.state.lost += rest.len() as u64;
                    return Err(error);
                }
            }
        }
        Ok(true)
    }

    /// Writes as many samples as one write takes. Returns how many.
    fn write_batch(&mut self, samples: &[Sample], clock: WallClock) -> Result<usize> {
        let mut section = match self.section.take() {
            // Beyond what a batch may have, there is the sample with which it is full, and its interface.
            Some(section) if self.files.has_room_for(2 * BATCH) => section,
            _ => {
                self.files.close();
                Section::begin()?
            }
        };
        let mut number = 0;
        for sample in samples {
            let story = sample.entry.map(|entry| self.entries.story(entry));
            section.add(sample, &mut self.positions, clock, story.as_ref())?;
            number += 1;
            if section.pending() >= BATCH {
                break;
            }
        }
        self.files.write(&section.take())?;
        self.section = Some(section);
        Ok(number)
    }
}
