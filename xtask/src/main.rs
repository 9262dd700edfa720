//! `cargo xtask VERB`: everything that a contributor or CI does. Here the verbs are listed; each has a file.

mod bench;
mod bridges;
mod ci;
mod command;
mod debian;
mod demo;
mod fuzz;
mod guest;
mod initramfs;
mod kernels;
mod lint;
mod machine;
mod reboot;
mod setup;
mod test;
mod verify;
mod vm;

use std::env;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Everything that a contributor or CI does, one verb each")]
enum Verb {
    /// Make this machine able to build and test; the other verbs do it first
    Setup(setup::Args),
    /// Run the tests: host, kernel, wire
    Test(test::Args),
    /// Check formatting, clippy (host and BPF) and documentation
    Lint,
    /// Measure what the BPF object costs each kernel's verifier, against the budget
    Verify(verify::Args),
    /// Run the kernel tests on other kernels, in virtual machines
    Vm(vm::Args),
    /// Restart a machine that filters, and see that it goes on, in a virtual machine
    Reboot(reboot::Args),
    /// Build and run the demonstration
    Demo(demo::Args),
    /// Measure the filter against its peers
    Bench(bench::Args),
    /// Fuzz the parser against the naive model
    Fuzz(fuzz::Args),
    /// Run every check, as CI does
    Ci(ci::Args),
}

fn main() -> ExitCode {
    match run(Verb::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(verb: Verb) -> Result<()> {
    // cargo sets it to the directory of this crate in the clone that it was called in.
    let crate_directory = env::var_os("CARGO_MANIFEST_DIR").context("start this as `cargo xtask`")?;
    let root = Path::new(&crate_directory).parent().context("the crate is not in a workspace")?;
    env::set_current_dir(root).with_context(|| format!("cannot enter {}", root.display()))?;
    match verb {
        Verb::Setup(args) => setup::run(&args),
        Verb::Test(args) => test::run(&args),
        Verb::Lint => lint::run(),
        Verb::Verify(args) => verify::run(&args),
        Verb::Vm(args) => vm::run(&args),
        Verb::Reboot(args) => reboot::run(&args),
        Verb::Demo(args) => demo::run(&args),
        Verb::Bench(args) => bench::run(&args),
        Verb::Fuzz(args) => fuzz::run(&args),
        Verb::Ci(args) => ci::run(&args),
    }
}
