//! `lint`: formatting, clippy for the host and for BPF, and the documentation. Nothing is run or loaded.

use anyhow::Result;

use crate::command::{Run, step};
use crate::setup::{self, Scope};

/// The crates that only compile for BPF. All others are the workspace's default members.
const BPF_CRATES: [&str; 6] =
    ["--package", "filter-ebpf", "--package", "flood-ebpf", "--package", "bench-ebpf"];
/// Apart from the host's: two compilers in one directory would undo each other's work.
const BPF_TARGET_DIRECTORY: &str = "target/bpf-clippy";
const DENY_WARNINGS: [&str; 3] = ["--", "--deny", "warnings"];

/// Stops at the first check that fails.
pub fn run() -> Result<()> {
    let compiler = setup::ensure_ready(Scope::Tests)?;
    step("formatting", || {
        Run::cargo()
            .args(["fmt", "--all", "--check"])
            .next("`cargo fmt --all`; if cargo has no fmt: `rustup component add rustfmt`")
            .run()
    })?;
    step("clippy, host", || {
        Run::cargo()
            .args(["clippy", "--all-targets"])
            .args(DENY_WARNINGS)
            .next("mend what clippy says; if cargo has no clippy: `rustup component add clippy`")
            .run()
    })?;
    step("clippy, BPF", || {
        compiler
            .cargo(&["clippy", "--target-dir", BPF_TARGET_DIRECTORY])
            .args(BPF_CRATES)
            .args(DENY_WARNINGS)
            .next("mend what clippy says; if this cargo has no clippy, install rust-web-clippy")
            .run()
    })?;
    step("documentation", || {
        Run::cargo()
            .args(["doc", "--no-deps", "--document-private-items"])
            .env("RUSTDOCFLAGS", "--deny warnings")
            .next("mend what rustdoc says")
            .run()
    })
}
