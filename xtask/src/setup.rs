//! `setup`: makes a machine able to build and test, and does nothing, quickly, where it already is. The only
//! file that installs anything; what is installed is shared by all clones and replaces nothing of the user's.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};

use crate::bridges;
use crate::command::{Run, on_path, step};

/// The release whose output the budgets were measured with; another one may compile to other instructions.
const BPF_LINKER: &str = "0.13.0";
/// Where cargo reads this machine's choice; git ignores it, `.cargo/config.toml` includes it.
const CHOICE: &str = ".cargo/bpf-toolchain.toml";
/// The prefix into which Debian's packages install their compiler.
const SYSTEM: &str = "/usr";
/// Seconds for rustup to add the library source, 4 MB: enough for a slow line, short for an unreachable one.
const RUST_SRC_SECONDS: &str = "60";
/// Seconds to wait for another apt to finish: a package upgrade may hold the lock for a minute.
const APT_LOCK: &str = "DPkg::Lock::Timeout=120";

/// Debian's newest rustc, with `core` already built for BPF, its cargo and its clippy.
const COMPILER_PACKAGES: [&str; 4] = ["rustc-web", "cargo-web", "rust-web-clippy", "libstd-rust-web-dev-bpf"];
/// What builds filter-ctl's tests and runs them: a command that each package provides, and the package.
const TEST_PACKAGES: [(&str, &str); 8] = [
    ("cc", "gcc"),
    ("ip", "iproute2"),
    ("ethtool", "ethtool"),
    ("bpftool", "bpftool"),
    ("strace", "strace"), // injects the failures of system calls that the kernel can't be made to give
    ("/usr/bin/python3", "python3"), // runs fail2ban, which is unpacked
    ("tshark", "tshark"), // these two read what is recorded
    ("tcpdump", "tcpdump"),
];
/// What `vm` and `verify` need besides. The guest's busybox and kernels are not installed, but unpacked.
const VM_PACKAGES: [(&str, &str); 1] = [("qemu-system-x86_64", "qemu-system-x86")];
/// What `reboot` needs besides, to make a disk with a Debian on it.
const DISK_PACKAGES: [(&str, &str); 2] = [("debootstrap", "debootstrap"), ("mkfs.ext4", "e2fsprogs")];

/// The filters that the bench compares with.
const BENCH_PACKAGES: [(&str, &str); 4] =
    [("xdp-filter", "xdp-tools"), ("nft", "nftables"), ("ipset", "ipset"), ("iptables", "iptables")];

/// `cargo xtask setup`
#[derive(clap::Args)]
pub struct Args {
    /// Leave out what only `vm` and `verify` need
    #[arg(long)]
    no_vm: bool,
}

/// What is needed: the tests on this kernel, or what is for more besides.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Building, and testing on the running kernel.
    Tests,
    /// Virtual machines as well.
    Vm,
    /// Virtual machines that have a disk.
    Disk,
    /// The bench's peers as well.
    Bench,
}

/// The compiler for the BPF target.
pub struct Compiler {
    /// What `rustup run` takes: a path to a sysroot.
    pub toolchain: PathBuf,
    /// What `RUSTC_BOOTSTRAP` must be: [`PREBUILT`] or [`FROM_SOURCE`].
    pub bootstrap: &'static str,
}

/// Opens aya-ebpf's one unstable feature; `core` for BPF comes with the compiler.
const PREBUILT: &str = "aya_ebpf";
/// Opens `-Z build-std` too, which aya-build then adds; `core` is built from the library's source.
pub const FROM_SOURCE: &str = "1";

/// `cargo xtask setup`: everything, and says so when there was nothing to do.
pub fn run(args: &Args) -> Result<()> {
    let start = Instant::now();
    let compiler = ensure_ready(if args.no_vm { Scope::Tests } else { Scope::Vm })?;
    bridges::ensure()?;
    let source =
        if compiler.bootstrap == PREBUILT { "with core for BPF" } else { "with the library's source" };
    eprintln!(
        "ready in {:.1} s: compiler for BPF in {} ({source}), bpf-linker {BPF_LINKER}",
        start.elapsed().as_secs_f64(),
        compiler.toolchain.display(),
    );
    Ok(())
}

/// Installs what is missing for `scope`, writes down the choice for cargo, and returns it.
pub fn ensure_ready(scope: Scope) -> Result<Compiler> {
    let mut packages = Packages::of_this_machine();
    let mut needed = TEST_PACKAGES.to_vec();
    match scope {
        Scope::Tests => {}
        Scope::Vm => needed.extend(VM_PACKAGES),
        Scope::Disk => needed.extend(VM_PACKAGES.into_iter().chain(DISK_PACKAGES)),
        Scope::Bench => needed.extend(BENCH_PACKAGES),
    }
    packages.ensure_commands(&needed)?;
    let compiler = ensure_compiler(&mut packages)?;
    let linker = ensure_linker(&mut packages, &compiler)?;
    write_choice(&compiler, &linker)?;
    Ok(compiler)
}

/// A directory of ours in the user's cache, shared by all clones.
pub fn cache_directory(name: &str) -> Result<PathBuf> {
    let cache = match (env::var_os("XDG_CACHE_HOME"), env::var_os("HOME")) {
        (Some(cache), _) if !cache.is_empty() => PathBuf::from(cache),
        (_, Some(home)) => Path::new(&home).join(".cache"),
        _ => bail!("no cache directory: neither HOME nor XDG_CACHE_HOME is set\n  next: set HOME"),
    };
    Ok(cache.join("filter-ctl").join(name))
}

/// The pinned toolchain or the system's, whichever can build for BPF; else one of them is made to. Debian's
/// packages come before rustup, since they need no server that the machine does not use anyway.
fn ensure_compiler(packages: &mut Packages) -> Result<Compiler> {
    let pinned = PathBuf::from(Run::new("rustc").args(["--print", "sysroot"]).read()?.trim());
    if let Some(compiler) = Compiler::at(&pinned).or_else(|| Compiler::at(Path::new(SYSTEM))) {
        return Ok(compiler);
    }
    let refused = match packages.ensure(&COMPILER_PACKAGES) {
        Ok(()) => return debian_compiler(&pinned),
        Err(error) => error,
    };
    if on_path("rustup") {
        let add = Run::new("timeout").args([RUST_SRC_SECONDS, "rustup", "component", "add", "rust-src"]);
        step("no compiler for BPF in packages: asking rustup for the library's source", || {
            Ok(add.succeeds())
        })?;
    }
    Compiler::at(&pinned).ok_or_else(|| {
        refused.context(
            "no compiler for BPF: neither packages nor rustup could bring one\n  \
             next: `rustup component add rust-src`, then `cargo xtask setup` again",
        )
    })
}

/// Debian's compiler, once its packages are installed.
fn debian_compiler(pinned: &Path) -> Result<Compiler> {
    let compiler = Compiler::at(Path::new(SYSTEM)).with_context(|| {
        format!("the packages {COMPILER_PACKAGES:?} are installed but brought no core for bpfel-unknown-none")
    })?;
    // Without rustup, aya-build runs whichever cargo comes first.
    ensure!(
        on_path("rustup") || pinned == Path::new(SYSTEM),
        "the compiler that can build for BPF is in {SYSTEM}/bin, but `rustc` is the one in {}\n  \
         next: put {SYSTEM}/bin first in PATH, or install rustup",
        pinned.display(),
    );
    Ok(compiler)
}

impl Compiler {
    /// The compiler in `sysroot`, if it has what the BPF target needs.
    fn at(sysroot: &Path) -> Option<Self> {
        let rustlib = sysroot.join("lib/rustlib");
        let bootstrap = if rustlib.join("bpfel-unknown-none/lib").is_dir() {
            PREBUILT
        } else if rustlib.join("src/rust/library/core").is_dir() {
            FROM_SOURCE
        } else {
            return None;
        };
        Some(Self { toolchain: sysroot.to_owned(), bootstrap })
    }

    /// `cargo` of this toolchain for the BPF target, as aya-build runs it.
    pub fn cargo(&self, arguments: &[&str]) -> Run {
        let run = if on_path("rustup") {
            Run::new("rustup").arg("run").arg(&self.toolchain).arg("cargo")
        } else {
            Run::new("cargo")
        };
        let arch = if env::consts::ARCH.starts_with("riscv64") { "riscv64" } else { env::consts::ARCH };
        let run = run
            .args(arguments)
            .args(["--target", "bpfel-unknown-none", "--release"])
            .env("RUSTC_BOOTSTRAP", self.bootstrap)
            .env("CARGO_ENCODED_RUSTFLAGS", format!("--cfg=bpf_target_arch=\"{arch}\"\x1f-Cdebuginfo=2"));
        if self.bootstrap == FROM_SOURCE { run.args(["-Z", "build-std=core"]) } else { run }
    }

    /// The major version of its LLVM, which the linker must share to read its bitcode.
    fn llvm(&self) -> Result<u32> {
        let version = Run::new(self.toolchain.join("bin/rustc")).arg("-vV").read()?;
        llvm_major(&version).with_context(|| format!("no LLVM version in what rustc -vV says:\n{version}"))
    }
}

/// The major version in the line `LLVM version: 22.1.8` of `rustc -vV`.
fn llvm_major(version: &str) -> Option<u32> {
    version.lines().find_map(|line| line.strip_prefix("LLVM version: "))?.split('.').next()?.parse().ok()
}

/// bpf-linker for the LLVM of `compiler`, in a directory of its own.
fn ensure_linker(packages: &mut Packages, compiler: &Compiler) -> Result<PathBuf> {
    let llvm = compiler.llvm()?;
    let root = cache_directory(&format!("bpf-linker-{BPF_LINKER}-llvm{llvm}"))?;
    let linker = root.join("bin/bpf-linker");
    let is_ready =
        || linker.exists() && Run::new(&linker).arg("--version").read().is_ok_and(|v| v.contains(BPF_LINKER));
    if is_ready() {
        return Ok(linker);
    }
    let (llvm_dev, polly_dev) = (format!("llvm-{llvm}-dev"), format!("libpolly-{llvm}-dev"));
    if packages.has_apt {
        packages
            .ensure(&[&llvm_dev, &polly_dev, "g++", "zlib1g-dev", "libzstd-dev", "libxml2-dev"])
            .with_context(|| format!("bpf-linker needs the development files of LLVM {llvm}"))?;
    }
    step(&format!("building bpf-linker {BPF_LINKER} for LLVM {llvm}, once for all clones"), || {
        let mut install = Run::cargo()
            .args(["install", "bpf-linker", "--version", BPF_LINKER, "--locked", "--force"])
            .args(["--no-default-features", "--features", &format!("llvm-{llvm}"), "--root"])
            .arg(&root);
        let debian_llvm = format!("/usr/lib/llvm-{llvm}");
        if Path::new(&debian_llvm).is_dir() {
            // Without it the build finds another LLVM's directory.
            install = install.env("LLVM_PREFIX", debian_llvm);
        }
        install
            .next(format!(
                "read the first error above; it needs a C++ compiler and the development files of LLVM {llvm} (of \
                 21 to 23), zlib, zstd and libxml2, and the variable LLVM_PREFIX where LLVM is not in /usr"
            ))
            .run()
    })?;
    ensure!(is_ready(), "{} was built but does not run: `{} --version`", linker.display(), linker.display());
    Ok(linker)
}

/// Writes the choice down where cargo reads it, unless it is there: a change makes cargo build again.
fn write_choice(compiler: &Compiler, linker: &Path) -> Result<()> {
    // Debug formatting quotes and escapes as TOML does.
    let text = format!(
        "# Written by `cargo xtask setup` for this machine.\n\
         [env]\n\
         FILTER_BPF_TOOLCHAIN = {:?}\n\
         FILTER_BPF_BOOTSTRAP = {:?}\n\
         [target.bpfel-unknown-none]\n\
         linker = {:?}\n",
        compiler.toolchain, compiler.bootstrap, linker,
    );
    if fs::read_to_string(CHOICE).is_ok_and(|old| old == text) {
        return Ok(());
    }
    fs::write(CHOICE, text).with_context(|| format!("cannot write {CHOICE}"))
}

/// The packages of this machine's distribution.
struct Packages {
    has_apt: bool,
    /// Package lists are fetched once, and only when something is to be installed.
    is_updated: bool,
}

impl Packages {
    fn of_this_machine() -> Self {
        let os_release = fs::read_to_string("/etc/os-release").unwrap_or_default();
        Self { has_apt: is_debian_like(&os_release), is_updated: false }
    }

    /// Installs the packages of those commands that are missing.
    fn ensure_commands(&mut self, commands: &[(&str, &str)]) -> Result<()> {
        let missing: Vec<&str> =
            commands.iter().filter(|(command, _)| !on_path(command)).map(|(_, package)| *package).collect();
        if missing.is_empty() { Ok(()) } else { self.ensure(&missing) }
    }

    /// Installs what is missing of `wanted`.
    fn ensure(&mut self, wanted: &[&str]) -> Result<()> {
        ensure!(
            self.has_apt,
            "this is not a Debian-like system, so nothing was installed; missing, by their Debian names: {}\n  \
             next: install what your distribution calls them, then `cargo xtask setup` again",
            wanted.join(" "),
        );
        // It exits with 1 when a name is unknown, which is an answer as well.
        let mut query =
            Run::new("dpkg-query").args(["-W", "-f", "${Package} ${db:Status-Status}\n"]).args(wanted);
        let output = query.command().output().context("dpkg-query does not run")?;
        let installed = String::from_utf8_lossy(&output.stdout);
        let missing = missing(wanted, &installed);
        if missing.is_empty() {
            return Ok(());
        }
        let names = missing.join(" ");
        step(&format!("installing Debian packages: {names}"), || {
            if !self.is_updated {
                // A third party's source may be out of reach; if one of Debian's is, installing says so.
                if apt_get(&["update"]).run_quietly().is_err() {
                    eprintln!("    `apt-get update` failed in part; going on with what it has");
                }
                self.is_updated = true;
            }
            let log = apt_get(&["install", "--yes", "--no-install-recommends"])
                .args(&missing)
                .next(format!(
                    "read apt's words above, then `apt-get install --no-install-recommends {names}`"
                ))
                .run_quietly()?;
            // apt may have to: two versions of one source package can exclude each other.
            for removed in log.lines().filter(|line| line.starts_with("Removing ")) {
                eprintln!("    {removed}");
            }
            Ok(())
        })
    }
}

/// The system's apt-get, as root, asking nothing.
pub fn apt_get(arguments: &[&str]) -> Run {
    Run::as_root("env").args(["DEBIAN_FRONTEND=noninteractive", "apt-get", "-o", APT_LOCK]).args(arguments)
}

/// Whether `os_release` (the text of /etc/os-release) is of Debian or of something made from it.
fn is_debian_like(os_release: &str) -> bool {
    os_release
        .lines()
        .filter_map(|line| line.strip_prefix("ID=").or_else(|| line.strip_prefix("ID_LIKE=")))
        .flat_map(|value| value.trim_matches('"').split(' '))
        .any(|id| id == "debian")
}

/// Those of `wanted` that dpkg-query's lines `PACKAGE STATUS` don't call installed.
fn missing<'a>(wanted: &[&'a str], installed: &str) -> Vec<&'a str> {
    let is_installed = |package: &str| {
        installed
            .lines()
            .any(|line| line.split_once(' ').is_some_and(|(p, s)| p == package && s == "installed"))
    };
    wanted.iter().copied().filter(|package| !is_installed(package)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debian_and_its_descendants_have_apt() {
        assert!(is_debian_like("NAME=\"Debian GNU/Linux\"\nID=debian\n"));
        assert!(is_debian_like("ID=ubuntu\nID_LIKE=debian\n"));
        assert!(is_debian_like("ID=pop\nID_LIKE=\"ubuntu debian\"\n"));
        assert!(!is_debian_like("ID=fedora\nPRETTY_NAME=\"not debian\"\n"));
        assert!(!is_debian_like(""));
    }

    #[test]
    fn a_removed_or_unknown_package_is_missing() {
        let installed = "gcc installed\nxz-utils config-files\n";
        assert_eq!(missing(&["gcc", "xz-utils", "cpio"], installed), ["xz-utils", "cpio"]);
    }

    #[test]
    fn llvm_major_is_read_from_rustc() {
        assert_eq!(llvm_major("rustc 1.96.0\nrelease: 1.96.0\nLLVM version: 22.1.8\n"), Some(22));
        assert_eq!(llvm_major("rustc 1.96.0\n"), None);
    }
}
