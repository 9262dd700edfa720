//! `vm`: the kernel tests on other kernels. How a kernel is found is `kernels`' matter, how it runs is
//! `guest`'s.

use std::path::Path;
use std::time::Instant;

use anyhow::{Result, bail};

use crate::command::{Run, build_filter_ctl, cargo_messages, executable};
use crate::guest::Guest;
use crate::kernels::Kernels;
use crate::setup::{self, Scope};

/// The oldest kernel that is supported, and those of the Debians in wide use.
pub const KERNELS: [&str; 3] = ["5.10", "6.1", "6.12"];

/// Random frames that the guest tries: its CPU is emulated, some fifty times slower.
const FRAMES: u32 = 4000;

/// Look-ups while all else changes: on an emulated CPU a change takes seconds, and what is seen in between means nothing.
const SKIPPED: &str = "no_verdict_on_what_stays";

/// `cargo xtask vm`
#[derive(clap::Args)]
pub struct Args {
    /// Series of Debian's kernels, as 6.12
    #[arg(default_values = KERNELS)]
    kernels: Vec<String>,
    /// Go on with the other kernels when one fails
    #[arg(long)]
    keep_going: bool,
    /// Arguments for the test binary
    #[arg(last = true)]
    harness: Vec<String>,
}

impl Args {
    /// The default kernels, all of them even if one fails.
    pub fn all() -> Self {
        Self { kernels: KERNELS.map(str::to_owned).to_vec(), keep_going: true, harness: Vec::new() }
    }
}

/// Runs the tests on each kernel.
pub fn run(args: &Args) -> Result<()> {
    setup::ensure_ready(Scope::Vm)?;
    let filter_ctl = build_filter_ctl(&[])?;
    let arguments = ["test", "--package", "filter-tests", "--test", "kernel", "--no-run"];
    let test = executable(&cargo_messages(&arguments)?, "kernel")?;
    // Debug information is most of a binary, and the guest keeps its files in memory.
    let stripped = [&filter_ctl, &test].map(|file| file.with_extension("stripped"));
    for (file, stripped) in [&filter_ctl, &test].into_iter().zip(&stripped) {
        Run::new("strip").arg("--strip-debug").arg("-o").args([stripped, file]).run()?;
    }
    let files = [(stripped[0].as_path(), "/tools/filter-ctl"), (stripped[1].as_path(), "/tools/kernel")];
    let words: Vec<String> = args.harness.iter().map(|word| quoted(word)).collect();
    let script = format!(
        "cd /tmp\nFILTER_CTL=/tools/filter-ctl FILTER_FRAMES={FRAMES} kernel {} --skip {SKIPPED}\n",
        words.join(" ")
    );

    let kernels = Kernels::open()?;
    let mut failed = Vec::new();
    for series in &args.kernels {
        if !test_on(series, &kernels, &files, &script)? {
            failed.push(series.as_str());
            if !args.keep_going {
                break;
            }
        }
    }
    if failed.is_empty() {
        return Ok(());
    }
    bail!("the kernel tests failed on: {}\n  next: `cargo xtask vm {} -- TEST`", failed.join(", "), failed[0])
}

/// Runs the script on a kernel of `series`, and says in one line how it went and whether that is good.
fn test_on(series: &str, kernels: &Kernels, files: &[(&Path, &str)], script: &str) -> Result<bool> {
    let busybox = kernels.busybox()?;
    let kernel = kernels.kernel(series)?;
    let start = Instant::now();
    let mut counts = Counts::default();
    let script = format!("uname -r\n{script}");
    let guest = Guest { kernel: &kernel, busybox: &busybox, files, script: &script };
    let mut release = None;
    let ending = guest.run(&mut |line| match release {
        None => release = Some(line.to_owned()),
        Some(_) => {
            println!("{series} | {line}");
            counts.add(line);
        }
    });
    let verdict = match &ending {
        Ok(0) if counts.passed == 0 => "FAILED: no test ran".to_owned(),
        Ok(0) => "ok".to_owned(),
        Ok(code) => format!("FAILED with exit code {code}"),
        Err(error) => format!("FAILED: {error:#}"),
    };
    println!(
        "{series}: {}: {} passed, {} failed, {:.1} s: {verdict}",
        release.as_deref().unwrap_or("unknown release"),
        counts.passed,
        counts.failed,
        start.elapsed().as_secs_f64(),
    );
    Ok(verdict == "ok")
}

/// What a test binary's closing lines add up to.
#[derive(Default)]
struct Counts {
    passed: u32,
    failed: u32,
}

impl Counts {
    /// Reads lines as `test result: ok. 3 passed; 0 failed; …`; others count nothing.
    fn add(&mut self, line: &str) {
        let Some(result) = line.strip_prefix("test result: ") else { return };
        let words: Vec<&str> = result.split([' ', ';']).collect();
        for pair in words.windows(2) {
            match (pair[0].parse::<u32>(), pair[1]) {
                (Ok(count), "passed") => self.passed += count,
                (Ok(count), "failed") => self.failed += count,
                _ => {}
            }
        }
    }
}

/// `word` as one word of a shell.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_add_up_over_closing_lines() {
        let mut counts = Counts::default();
        counts.add("test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out");
        counts.add("test result: FAILED. 2 passed; 1 failed; 0 ignored");
        counts.add("test vlan::4 passed ... ok");
        assert_eq!((counts.passed, counts.failed), (5, 1));
    }

    #[test]
    fn quoted_words_survive_the_shell() {
        assert_eq!(quoted("a b"), "'a b'");
        assert_eq!(quoted("it's"), r"'it'\''s'");
    }
}
