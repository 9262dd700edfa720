//! `test`: the levels of testing on this machine, lowest first. What the tests are is filter-tests' matter.

use anyhow::{Context, Result, bail};

use crate::bridges;
use crate::command::{Run, build_filter_ctl, is_root};
use crate::setup::{self, Scope};

/// `cargo xtask test`
#[derive(clap::Args)]
pub struct Args {
    /// The levels to run; all, in this order, if none is named
    #[arg(value_enum)]
    levels: Vec<Level>,
    /// Arguments for the test binaries
    #[arg(last = true)]
    harness: Vec<String>,
}

impl Args {
    /// All levels.
    pub fn all() -> Self {
        Self { levels: Vec::new(), harness: Vec::new() }
    }
}

/// A level: what it needs, and so what it can prove.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Level {
    /// Needs nothing: the filter as host code
    Host,
    /// Needs root: the loaded BPF object against the host code
    Kernel,
    /// Needs root: network namespaces, real interfaces, the binary
    Wire,
}

impl Level {
    const ALL: [Self; 3] = [Self::Host, Self::Kernel, Self::Wire];

    /// The arguments of each `cargo test` of this level.
    fn runs(self) -> &'static [&'static [&'static str]] {
        match self {
            Self::Host => &[
                // The workspace's default members: all but what only compiles for BPF.
                &["--lib", "--bins"],
                &["--doc"],
                &["--package", "filter-tests", "--test", "host", "--test", "tables"],
            ],
            Self::Kernel => &[&["--package", "filter-tests", "--test", "kernel"]],
            Self::Wire => &[
                &[
                    "--package",
                    "filter-tests",
                    "--test",
                    "wire",
                    "--test",
                    "recorder",
                    "--test",
                    "cli",
                    "--test",
                    "lists_worker",
                    "--test",
                    "lists",
                    "--test",
                    "top",
                ],
                &["--package", "filter-tests", "--test", "lifecycle", "--test", "stats"],
                &["--package", "filter-tests", "--test", "always_on", "--test", "upgrade"],
                &["--package", "filter-tests", "--test", "record"],
                &[
                    "--package",
                    "filter-tests",
                    "--test",
                    "fail2ban",
                    "--test",
                    "crowdsec",
                    "--test",
                    "metrics",
                ],
            ],
        }
    }
}

/// Runs the levels in order and stops behind the first that fails: all of that one is run, since a run is slow and each failure
/// is worth knowing.
pub fn run(args: &Args) -> Result<()> {
    setup::ensure_ready(Scope::Tests)?;
    let filter_ctl = build_filter_ctl(&[])?;
    let bridges = bridges::ensure()?;
    for level in Level::ALL {
        if !args.levels.is_empty() && !args.levels.contains(&level) {
            continue;
        }
        let mut failed = Vec::new();
        for arguments in level.runs() {
            let mut cargo = Run::cargo().args(["test", "--no-fail-fast"]).args(*arguments);
            cargo = cargo.env("FILTER_CTL", &filter_ctl).env(bridges::VARIABLE, &bridges);
            if level != Level::Host && !is_root() {
                cargo = cargo.env(runner_variable()?, "sudo -E");
            }
            if !args.harness.is_empty() {
                cargo = cargo.arg("--").args(&args.harness);
            }
            if let Err(error) = cargo.run() {
                failed.push(format!("{error:#}"));
            }
        }
        if !failed.is_empty() {
            bail!("{}", failed.join("\n  and "));
        }
    }
    Ok(())
}

/// The variable that tells cargo what to start test binaries with.
fn runner_variable() -> Result<String> {
    let version = Run::new("rustc").arg("-vV").read()?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: ")).context("rustc names no host")?;
    Ok(format!("CARGO_TARGET_{}_RUNNER", host.to_uppercase().replace('-', "_")))
}
