//! Follows the recorder: what is new since it was last asked, and whether it is still the one that programs write to.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::time::Duration;

use anyhow::Result;
use filter_common::abi::RINGS;

use super::builds::require_ours;
use super::pins::Pins;
use super::recorder::Recorder;
use crate::record::{Cursor, Reading};

/// Time between two looks at the recorder: at the full rate a ring has ten new samples by then, and keeps sixteen.
pub const LOOK: Duration = Duration::from_millis(100);

/// The recorder of the loaded filter, and how far it was read.
pub struct Reader {
    pins: Pins,
    recorder: Recorder,
    cursor: Cursor,
    /// The pin by which it was opened: file system and number.
    pin: Option<(u64, u64)>,
}

impl Reader {
    /// Opens the recorder below `pins`, at its beginning.
    ///
    /// # Errors
    ///
    /// As [`Recorder::open`]; [`OtherBuild`](super::builds::OtherBuild) if the filter is another build's.
    pub fn open(pins: &Pins) -> Result<Self> {
        require_ours(pins).map_err(|error| {
            let is_refused = |cause: &io::Error| cause.kind() == io::ErrorKind::PermissionDenied;
            if error.root_cause().downcast_ref::<io::Error>().is_some_and(is_refused) {
                error.context("the flight recorder can't be read but by root")
            } else {
                error
            }
        })?;
        // Before it: what is pinned anew in between is noticed then.
        let pin = pin_of(pins);
        Ok(Self { pins: pins.clone(), recorder: Recorder::open(pins)?, cursor: Cursor::default(), pin })
    }

    /// Reads what is new.
    ///
    /// # Errors
    ///
    /// As [`Recorder::read`].
    pub fn read(&mut self) -> Result<Reading> {
        self.recorder.read(&mut self.cursor)
    }

    /// The recorder.
    pub fn recorder(&self) -> &Recorder {
        &self.recorder
    }

    /// Whether programs that are loaded now write to it: after `unload` they don't, and after another `load` there is
    /// another one.
    pub fn is_current(&self) -> bool {
        self.pin.is_some() && pin_of(&self.pins) == self.pin
    }
}

/// What tells a pin from one that takes its place.
fn pin_of(pins: &Pins) -> Option<(u64, u64)> {
    let metadata = fs::symlink_metadata(pins.map(&RINGS)).ok()?;
    Some((metadata.dev(), metadata.ino()))
}
