//! `restore`: filters again what was filtered before a reboot.

use anyhow::Result;
use serde::Serialize;

use super::{Session, reported};
use crate::cli::RestoreArgs;
use crate::control::{self, Restored};
use crate::exit::Exit;
use crate::output;

#[derive(Serialize)]
struct Report<'r> {
    interfaces: Vec<&'r str>,
    entries: usize,
    warnings: Vec<&'r String>,
}

pub fn run(session: &Session, args: &RestoreArgs) -> Result<Exit> {
    let Restored { interfaces, failures, damaged, entries, is_any, is_lost } =
        control::restore(&session.global.place(), session.author(), args.wait, session.global.verbose)?;
    let warnings: Vec<&String> = damaged.iter().chain(&failures).collect();
    let told = || {
        if session.global.json {
            let interfaces = interfaces.iter().map(|outcome| outcome.interface.as_str()).collect();
            return session.out.json(Report { interfaces, entries, warnings: warnings.clone() });
        }
        warnings.iter().for_each(|warning| session.out.note(&format!("warning: {warning}")));
        for outcome in &interfaces {
            session.out.line(&format!("{}: filtering again", outcome.interface))?;
        }
        if interfaces.is_empty() {
            let what =
                if is_any { "all is filtered already that can be" } else { "there is nothing to restore" };
            return session.out.line(what);
        }
        session.out.line(&format!("{} enforced", output::counted(entries, "entry is", "entries are")))
    };
    reported(told(), if failures.is_empty() && !is_lost { Exit::Done } else { Exit::Partly })
}
