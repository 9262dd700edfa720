//! What the daemon last said of itself, in a file beside its socket: for `status`, which must work while it does not.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

/// Name of the file in the run directory.
const FILE: &str = "state.json";

/// Longest file that is read, in bytes: many times what is ever written.
const LONGEST: u64 = 1 << 20;

/// What the daemon says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DaemonState {
    /// Process id.
    pub pid: u32,
    /// Seconds of CLOCK_MONOTONIC when the programs were last proven to work; absent before the first proof.
    pub proven_s: Option<u32>,
    /// Milliseconds between two proofs.
    pub proof_interval_ms: u64,
    /// Proofs made since it started.
    pub proofs: u64,
    /// Times that something was found to be other than it should, since it started.
    pub drifts: u64,
    /// What is wrong now.
    pub alarms: Vec<String>,
    /// Events of each kind since it started.
    pub events: BTreeMap<String, u64>,
    /// How it goes with CrowdSec, where that is followed.
    pub crowdsec: Option<CrowdsecState>,
    /// How it goes with the files of what was recorded, where they are written.
    pub record: Option<RecordState>,
}

/// How it goes with the files of what was recorded.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordState {
    /// Samples written since the daemon started.
    pub written: u64,
    /// Samples that were left out, since there were many like them.
    pub thinned: u64,
    /// Samples that were overwritten before they were read, or could not be written.
    pub lost: u64,
    /// Why the last ones could not be written.
    pub trouble: Option<String>,
}

/// How it goes with CrowdSec.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CrowdsecState {
    /// Times that it was asked since the daemon started.
    pub asked: u64,
    /// Times that this failed, or that what was answered could not be enforced.
    pub failed: u64,
    /// Seconds since 1970 when an answer was last taken; absent before the first.
    pub answered_at_s: Option<i64>,
    /// Why the last one was not.
    pub trouble: Option<String>,
}

impl DaemonState {
    /// Writes it, in place of what was there.
    ///
    /// # Errors
    ///
    /// If the directory can't be written.
    pub fn write(&self, directory: &Path) -> Result<()> {
        let (path, new) = (directory.join(FILE), directory.join("state.new"));
        let text = serde_json::to_string(self).context("could not write the daemon's state as JSON")?;
        fs::write(&new, text)
            .and_then(|()| fs::rename(&new, &path))
            .with_context(|| format!("could not write {}", path.display()))
    }

    /// Reads what was last written; nothing where no daemon runs.
    ///
    /// # Errors
    ///
    /// If what is there can't be read.
    pub fn read(directory: &Path) -> Result<Option<Self>> {
        let path = directory.join(FILE);
        let context = || format!("could not read {}", path.display());
        let length = match fs::metadata(&path) {
            Ok(metadata) => metadata.len(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(context),
        };
        anyhow::ensure!(length <= LONGEST, "{} is longer than any daemon writes it", path.display());
        let state: Self =
            serde_json::from_str(&fs::read_to_string(&path).with_context(context)?).with_context(context)?;
        Ok(state.is_running().then_some(state))
    }

    /// Says that no daemon runs any more.
    ///
    /// # Errors
    ///
    /// If the file can't be removed.
    pub fn remove(directory: &Path) -> io::Result<()> {
        fs::remove_file(directory.join(FILE))
    }

    /// What is wrong, as it said, and that it says nothing any more, where that is so at second `now_s`.
    pub fn alarms(&self, now_s: u32) -> Vec<String> {
        let mut alarms = self.alarms.clone();
        let patience_s = 30.max(u32::try_from(self.proof_interval_ms / 100).unwrap_or(u32::MAX));
        let age_s = now_s.saturating_sub(self.proven_s.unwrap_or(now_s));
        if age_s > patience_s {
            alarms.push(format!("the daemon has proven nothing for {age_s} seconds: it may hang"));
        }
        alarms
    }

    fn is_running(&self) -> bool {
        let Ok(pid) = i32::try_from(self.pid) else { return false };
        let stat = procfs::process::Process::new(pid).and_then(|process| process.stat());
        stat.is_ok_and(|stat| stat.comm.starts_with("filter-ctl") && !matches!(stat.state, 'Z' | 'X'))
    }
}
