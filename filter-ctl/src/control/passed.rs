//! Recording frames that pass, for a time.

use std::time::Duration;

use anyhow::Result;
use serde_json::json;

use super::Control;
use crate::host::monotonic_now;
use crate::kernel::recorder::Passed;

impl Control {
    /// Records frames that pass for a time from now on, or no more; written into the audit log first. Returns until when, in
    /// seconds of CLOCK_MONOTONIC; zero for not at all.
    ///
    /// # Errors
    ///
    /// If the recorder's map can't be opened.
    pub fn record_passed(&mut self, span: Option<Duration>) -> Result<u64> {
        let passed = Passed::open(self.filter.pins())?;
        self.note(json!({ "record_passed_s": span.map_or(0, |span| span.as_secs()) }));
        // Up to the end of the second: never shorter than asked for.
        let until_s = span.map_or(0, |span| (monotonic_now() + span).as_secs() + 1);
        passed.set_until_s(until_s);
        Ok(passed.until_s())
    }

    /// For how long frames that pass are still recorded; nothing if they are not.
    ///
    /// # Errors
    ///
    /// As [`Control::record_passed`].
    pub fn recording_passed(&self) -> Result<Option<Duration>> {
        let until = Duration::from_secs(Passed::open(self.filter.pins())?.until_s());
        Ok(until.checked_sub(monotonic_now()).filter(|left| !left.is_zero()))
    }
}
