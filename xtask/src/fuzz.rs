//! `fuzz`: the parsers on whatever bytes the fuzzer finds, that of frames against the naive model. Needs nightly; not part of
//! CI.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};

use crate::command::{Run, on_path, step};
use crate::setup::{self, Scope};

const DIRECTORY: &str = "tests/fuzz";

/// Right lists, one of each format.
const LISTS: &str = "filter-ctl/src/lists/fixtures";

/// What is fuzzed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Target {
    /// Frames, as packets come
    Frames,
    /// Blocklists of all formats
    Lists,
    /// Blocks of lists, as the store keeps them
    Blocks,
}

/// `cargo xtask fuzz`
#[derive(clap::Args)]
pub struct Args {
    /// How long to fuzz
    #[arg(default_value_t = 60)]
    seconds: u32,
    /// What to fuzz
    #[arg(long, value_enum, default_value_t = Target::Frames)]
    target: Target,
}

/// Fuzzes, from what is right on. A crash is an error, and leaves its input in `tests/fuzz/artifacts`.
pub fn run(args: &Args) -> Result<()> {
    setup::ensure_ready(Scope::Tests)?;
    if !on_path("cargo-fuzz") {
        step("building cargo-fuzz", || Run::cargo().args(["install", "cargo-fuzz", "--locked"]).run())?;
    }
    let target = match args.target {
        Target::Frames => "frames",
        Target::Lists => "lists",
        Target::Blocks => "blocks",
    };
    let corpus = format!("{DIRECTORY}/corpus/{target}");
    match args.target {
        Target::Frames => {
            Run::cargo()
                .args(["run", "--quiet", "--package", "filter-tests", "--bin", "seeds", &corpus])
                .run()?;
        }
        Target::Lists => seed_lists(Path::new(&corpus))?,
        Target::Blocks => {}
    }
    Run::new("rustup")
        .args(["run", "nightly", "cargo", "fuzz", "run", "--fuzz-dir", DIRECTORY, target, "--"])
        .arg(format!("-max_total_time={}", args.seconds))
        .next("needs a nightly toolchain; make of an input in tests/fuzz/artifacts a test with a name, and mend what it shows")
        .run()
}

/// Puts the fixtures into the corpus, each behind the byte that has its format detected.
fn seed_lists(corpus: &Path) -> Result<()> {
    fs::create_dir_all(corpus).with_context(|| format!("making {}", corpus.display()))?;
    for file in fs::read_dir(LISTS).with_context(|| format!("listing {LISTS}"))? {
        let file = file?;
        let seed = [&[0], &*fs::read(file.path())?].concat();
        fs::write(corpus.join(file.file_name()), seed)?;
    }
    Ok(())
}
