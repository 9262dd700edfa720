//! `run`: the daemon.

use anyhow::Result;

use super::Session;
use crate::cli::RunArgs;
use crate::exit::Exit;

pub fn run(_session: &Session, _args: &RunArgs) -> Result<Exit> {
    anyhow::bail!("not yet")
}
