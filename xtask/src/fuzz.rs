//! `fuzz`: the parser against the naive model on whatever bytes the fuzzer finds. Needs nightly; not part of CI.

use anyhow::Result;

use crate::command::{Run, on_path, step};
use crate::setup::{self, Scope};

const DIRECTORY: &str = "tests/fuzz";
const TARGET: &str = "frames";

/// `cargo xtask fuzz`
#[derive(clap::Args)]
pub struct Args {
    /// How long to fuzz
    #[arg(default_value_t = 60)]
    seconds: u32,
}

/// Fuzzes from the scenarios' frames on. A crash is an error, and leaves its input in `tests/fuzz/artifacts`.
pub fn run(args: &Args) -> Result<()> {
    setup::ensure_ready(Scope::Tests)?;
    if !on_path("cargo-fuzz") {
        step("building cargo-fuzz", || Run::cargo().args(["install", "cargo-fuzz", "--locked"]).run())?;
    }
    let corpus = format!("{DIRECTORY}/corpus/{TARGET}");
    Run::cargo().args(["run", "--quiet", "--package", "filter-tests", "--bin", "seeds", &corpus]).run()?;
    Run::new("rustup")
        .args(["run", "nightly", "cargo", "fuzz", "run", "--fuzz-dir", DIRECTORY, TARGET, "--"])
        .arg(format!("-max_total_time={}", args.seconds))
        .next("needs a nightly toolchain; make of an input in tests/fuzz/artifacts a scenario with a name, and mend what it shows")
        .run()
}
