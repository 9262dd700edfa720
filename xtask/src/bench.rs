//! `bench`: installs the peers, builds what the bench needs and becomes it. What it measures is filter-tests' matter.

use anyhow::Result;

use crate::command::{Run, build_filter_ctl, cargo_messages, executable};
use crate::setup::{self, Scope};

/// `cargo xtask bench`
#[derive(clap::Args)]
pub struct Args {
    /// Arguments for the bench: --quick, --only A,B; --help tells more
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

/// Returns only if the bench could not be started: otherwise Ctrl-C and the exit code are its own.
pub fn run(args: &Args) -> Result<()> {
    setup::ensure_ready(Scope::Bench)?;
    let filter_ctl = build_filter_ctl(&["--release"])?;
    let arguments = ["build", "--release", "--package", "filter-tests", "--bin", "bench"];
    let bench = executable(&cargo_messages(&arguments)?, "bench")?;
    // Before all others on its CPU: what disturbs a run makes it measure again, or wrong.
    let first = Run::as_root("nice").args(["-n", "-20"]).arg(bench);
    Err(first.args(&args.arguments).env("FILTER_CTL", filter_ctl).exec())
}
