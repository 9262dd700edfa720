//! `repair`: mends what `verify` finds.

use anyhow::Result;
use serde::Serialize;

use super::{Session, reported, verify};
use crate::control::{self, Finding, Repaired};
use crate::exit::Exit;

#[derive(Serialize)]
struct Report<'r> {
    done: &'r [String],
    left: &'r [Finding],
}

pub fn run(session: &Session) -> Result<Exit> {
    let Repaired { done, left } =
        control::repair(&session.global.place(), session.author(), session.global.verbose)?;
    let told = || {
        if session.global.json {
            return session.out.json(Report { done: &done, left: &left });
        }
        done.iter().try_for_each(|done| session.out.line(&format!("mended: {done}")))?;
        if done.is_empty() && left.is_empty() {
            session.out.line("there was nothing to mend")?;
        }
        verify::tell(session, &left)
    };
    reported(told(), if left.is_empty() { Exit::Done } else { Exit::Partly })
}
