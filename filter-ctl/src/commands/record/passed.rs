//! `record passed`: records frames that pass, for a time.

use std::time::Duration;

use anyhow::Result;
use serde::Serialize;

use super::Session;
use crate::cli::PassedArgs;
use crate::commands::{exit_of, reported, standing_warnings};
use crate::exit::Exit;
use crate::output;

#[derive(Serialize)]
struct Report {
    /// Seconds for which frames that pass are recorded from now on; absent if they are not.
    recorded_for_s: Option<u64>,
    warnings: Vec<String>,
}

pub fn run(session: &Session, args: &PassedArgs) -> Result<Exit> {
    let mut control = session.open()?;
    control.record_passed(args.span)?;
    let left = control.recording_passed()?;
    let report =
        Report { recorded_for_s: left.map(|left| left.as_secs()), warnings: standing_warnings(&control) };
    let exit = exit_of(&control, Exit::Done);
    drop(control);
    let told = || {
        if session.global.json {
            return session.out.json(&report);
        }
        session.out.warn(&report.warnings);
        session.out.line(&sentence(left))
    };
    reported(told(), exit)
}

/// Whether frames that pass are recorded, in words.
pub fn sentence(left: Option<Duration>) -> String {
    match left {
        None => "frames that pass are not recorded".into(),
        Some(left) => {
            let seconds = u32::try_from(left.as_secs()).unwrap_or(u32::MAX);
            format!("frames that pass are recorded for {}", output::span(seconds))
        }
    }
}
