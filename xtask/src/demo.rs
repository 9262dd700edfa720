//! `demo`: builds what the demonstration needs and becomes it. What it shows is filter-tests' matter.

use anyhow::Result;

use crate::command::{Run, build_filter_ctl, cargo_messages, executable};
use crate::setup::{self, Scope};

/// `cargo xtask demo`
#[derive(clap::Args)]
pub struct Args {
    /// Arguments for the demonstration
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

/// Returns only if the demonstration could not be started: otherwise Ctrl-C and the exit code are its own.
pub fn run(args: &Args) -> Result<()> {
    setup::ensure_ready(Scope::Tests)?;
    let filter_ctl = build_filter_ctl(&["--release"])?;
    let arguments = ["build", "--release", "--package", "filter-tests", "--bin", "demo"];
    let demo = executable(&cargo_messages(&arguments)?, "demo")?;
    Err(Run::as_root(demo).args(&args.arguments).env("FILTER_CTL", filter_ctl).exec())
}
