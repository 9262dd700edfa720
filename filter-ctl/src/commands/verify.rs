//! `verify`: compares everything with everything.

use anyhow::Result;
use serde::Serialize;

use super::Session;
use crate::control::Finding;
use crate::exit::Exit;
use crate::output;

#[derive(Serialize)]
struct Report<'r> {
    findings: &'r [Finding],
    entries: usize,
    interfaces: usize,
}

pub fn run(session: &Session) -> Result<Exit> {
    let mut control = session.open()?;
    let findings = control.verify()?;
    let (entries, interfaces) = (control.filter().len(), control.filter().interfaces()?.len());
    drop(control);
    if session.global.json {
        session.out.json(Report { findings: &findings, entries, interfaces })?;
    } else {
        tell(session, &findings)?;
        if findings.is_empty() {
            session.out.line(&format!(
                "all is as it should be: {} on {}, enforced as the store says",
                output::counted(entries, "entry", "entries"),
                output::counted(interfaces, "interface", "interfaces")
            ))?;
        }
    }
    Ok(if findings.is_empty() { Exit::Done } else { Exit::Partly })
}

/// Prints findings, a line each.
pub fn tell(session: &Session, findings: &[Finding]) -> Result<()> {
    findings.iter().try_for_each(|finding| session.out.line(&format!("{}: {}", finding.part, finding.what)))
}
