//! Builds a BPF package with the toolchain that `cargo xtask setup` chose. Shared by the build scripts of
//! filter-ctl and filter-tests.

use std::env;
use std::process::{Command, exit};

/// Name of the rustup toolchain, or path of the sysroot, that can build for BPF. Set in
/// `.cargo/bpf-toolchain.toml`, which `cargo xtask setup` writes.
const TOOLCHAIN: &str = "FILTER_BPF_TOOLCHAIN";
/// What `RUSTC_BOOTSTRAP` must be for that toolchain: aya-ebpf uses one unstable feature.
const BOOTSTRAP: &str = "FILTER_BPF_BOOTSTRAP";

/// Builds the binaries of `package`, found in `directory`, and puts them into `OUT_DIR`.
pub fn build(package: &str, directory: &str) {
    println!("cargo:rerun-if-env-changed={TOOLCHAIN}");
    println!("cargo:rerun-if-env-changed={BOOTSTRAP}");
    let (Ok(toolchain), Ok(bootstrap)) = (env::var(TOOLCHAIN), env::var(BOOTSTRAP)) else {
        fail("no toolchain for the BPF object: run `cargo xtask setup` once");
    };
    // aya-build reads RUSTC_BOOTSTRAP from its own environment, and a process can't safely change its own:
    // so the variable is given to a second run of this script.
    if env::var("RUSTC_BOOTSTRAP").as_deref() != Ok(bootstrap.as_str()) {
        run_again_with(&bootstrap);
    }
    let packages = [aya_build::Package { name: package, root_dir: directory, ..Default::default() }];
    if let Err(error) = aya_build::build_ebpf(packages, aya_build::Toolchain::Custom(&toolchain)) {
        fail(&format!("{error:#}; if the toolchain changed, run `cargo xtask setup` again"));
    }
}

/// Runs this script with `RUSTC_BOOTSTRAP` set, hands on what it says to cargo, and ends with its exit code.
fn run_again_with(bootstrap: &str) -> ! {
    let script = env::current_exe().unwrap_or_else(|error| fail(&format!("no path to itself: {error}")));
    let output = Command::new(script)
        .env("RUSTC_BOOTSTRAP", bootstrap)
        .output()
        .unwrap_or_else(|error| fail(&format!("could not run itself: {error}")));
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        // aya-build turns the inner cargo's progress into warnings; only what went wrong is one.
        let progress =
            ["Compiling ", "Finished ", "Blocking ", "Downloading ", "Downloaded ", "Updating ", "Locking "];
        let is_progress = line
            .strip_prefix("cargo:warning=")
            .is_some_and(|text| progress.iter().any(|word| text.trim_start().starts_with(word)));
        if !is_progress {
            println!("{line}");
        }
    }
    eprint!("{}", String::from_utf8_lossy(&output.stderr));
    exit(output.status.code().unwrap_or(1))
}

/// Ends the build with one line.
fn fail(message: &str) -> ! {
    println!("cargo::error={message}");
    exit(1)
}
