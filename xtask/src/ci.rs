//! `ci`: every check, timed, with a summary. What each checks is its own file's matter.

use std::time::Instant;

use anyhow::{Result, bail};

use crate::{lint, reboot, test, verify, vm};

/// `cargo xtask ci`
#[derive(clap::Args)]
pub struct Args {
    /// Leave out the tests on this kernel: `.ci/run` has run them by the README's command
    #[arg(long)]
    skip_test: bool,
}

/// Runs every check even if one fails, since a run is slow and each failure is worth knowing.
pub fn run(args: &Args) -> Result<()> {
    type Check = (&'static str, fn() -> Result<()>);
    let checks: [Check; 5] = [
        ("lint", lint::run),
        ("test", || test::run(&test::Args::all())),
        ("verify", || verify::run(&verify::Args::all())),
        ("vm", || vm::run(&vm::Args::all())),
        ("reboot", || reboot::run(&reboot::Args::all())),
    ];
    let mut summary = Vec::new();
    let mut failed = Vec::new();
    for (name, check) in checks {
        if name == "test" && args.skip_test {
            continue;
        }
        eprintln!("\n### {name}");
        let start = Instant::now();
        let word = match check() {
            Ok(()) => "ok",
            Err(error) => {
                eprintln!("error: {error:#}");
                failed.push(name);
                "FAILED"
            }
        };
        summary.push(format!("{name:8} {word:6} {:6.1} s", start.elapsed().as_secs_f64()));
    }
    eprintln!("\n### summary\n{}", summary.join("\n"));
    if failed.is_empty() {
        return Ok(());
    }
    bail!("failed: {}\n  next: `cargo xtask {}`", failed.join(", "), failed[0])
}
