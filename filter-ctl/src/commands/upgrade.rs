//! `upgrade`: this build's programs in the place of another's.

use anyhow::Result;
use filter_common::abi::ABI_VERSION;
use serde::Serialize;
use serde_json::json;

use super::{Session, reported};
use crate::exit::Exit;
use crate::kernel::upgrade::{self, Outcome, Upgraded};
use crate::output;

#[derive(Serialize)]
struct Report {
    abi: u32,
    from_abi: u32,
    entries: usize,
    interfaces: Vec<InterfaceReport>,
}

#[derive(Serialize)]
struct InterfaceReport {
    interface: String,
    outcome: &'static str,
}

pub fn run(session: &Session) -> Result<Exit> {
    let Upgraded { from_abi, interfaces, entries } =
        upgrade::upgrade(&session.pins(), session.global.lock_wait, session.global.verbose)?;
    // What can't be written down of it is no failure of it: the next command reconciles both.
    if let Ok(mut control) = session.open() {
        control.note(json!({ "upgrade": ABI_VERSION, "from": from_abi, "entries": entries }));
    }
    let told = || {
        if session.global.json {
            let report = |(interface, outcome)| InterfaceReport { interface, outcome: word(outcome) };
            return session.out.json(Report {
                abi: ABI_VERSION,
                from_abi: from_abi.unwrap_or(ABI_VERSION),
                entries,
                interfaces: interfaces.into_iter().map(report).collect(),
            });
        }
        for (interface, outcome) in &interfaces {
            let sentence = match outcome {
                Outcome::Current => "runs this build's program already",
                Outcome::Upgraded => "runs this build's program now",
                Outcome::Gone => "its device is gone, so there is nothing to upgrade",
            };
            session.out.line(&format!("{interface}: {sentence}"))?;
        }
        if let Some(from) = from_abi {
            let entries = output::counted(entries, "entry", "entries");
            session.out.line(&format!("{entries} taken over from ABI {from} to ABI {ABI_VERSION}"))?;
        }
        Ok(())
    };
    reported(told(), Exit::Done)
}

const fn word(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Current => "current",
        Outcome::Upgraded => "upgraded",
        Outcome::Gone => "gone",
    }
}
