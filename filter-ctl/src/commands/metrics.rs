//! `metrics`: figures for Prometheus, printed once for a textfile collector, or offered over HTTP.

use std::path::PathBuf;

use anyhow::Result;

use super::Session;
use crate::cli::MetricsArgs;
use crate::control::{Author, Place};
use crate::daemon::state::DaemonState;
use crate::exit::Exit;
use crate::metrics::{Figures, Walked, collect, serve, text};

pub fn run(session: &Session, args: &MetricsArgs) -> Result<Exit> {
    let sources = Sources {
        place: session.global.place(),
        author: session.author(),
        run_directory: session.global.socket_path().parent().map(PathBuf::from),
        walked: Walked::default(),
    };
    let Some(address) = &args.listen else {
        let figures = text::openmetrics(sources.collect()?)?;
        session.out.raw_line(text::classic(&figures).trim_end())?;
        return Ok(Exit::Done);
    };
    let place = Place { lock_wait: sources.place.lock_wait.min(serve::LOCK_WAIT), ..sources.place };
    let sources = Sources { place, ..sources };
    let is_ready = || session.out.note(&format!("figures are at {address}, until this ends"));
    serve::run(address, move || sources.collect(), is_ready)?;
    Ok(Exit::Done)
}

/// Where figures come from.
struct Sources {
    place: Place,
    author: Author,
    run_directory: Option<PathBuf>,
    walked: Walked,
}

impl Sources {
    fn collect(&self) -> Result<Figures> {
        let daemon = self.run_directory.as_deref().map_or(Ok(None), DaemonState::read)?;
        collect(&self.place, self.author.clone(), daemon.as_ref(), &self.walked)
    }
}
