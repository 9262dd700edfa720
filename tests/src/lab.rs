//! Hosts that exist only as long as the test: a network and a mount namespace each, with a BPF file system of
//! its own, joined by veth pairs. Nothing outlives the process, whichever way it ends, since the namespaces have
//! no names and the links and maps pinned in them go with the last mount.

use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::panic::resume_unwind;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};

use crate::flood::pin;

/// The variable with the path of the filter-ctl under test. It is set by `cargo xtask test`, which builds the
/// binary first: a test must never run a stale one.
const BINARY_VARIABLE: &str = "FILTER_CTL";

/// The variable with the directory of the programs that filter-ctl works with, which `cargo xtask test` fetches.
const BRIDGES_VARIABLE: &str = "FILTER_BRIDGES";

/// How long [`eventually`] waits: far beyond what anything in the lab takes, even on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// A host of the lab: namespaces that tasks enter for as long as they run.
#[derive(Debug)]
pub struct Host {
    name: String,
    network: File,
    mounts: File,
    cpu: Option<usize>,
}

impl Host {
    /// Makes a host, with its loopback device up and IPv6 autoconfiguration off, so that nothing is sent that
    /// no test asked for.
    ///
    /// # Errors
    ///
    /// Without root, or where the kernel has no namespaces.
    pub fn new(name: &str) -> Result<Self> {
        let (network, mounts) = thread::scope(|scope| {
            scope.spawn(make_namespaces).join().unwrap_or_else(|panic| resume_unwind(panic))
        })
        .with_context(|| format!("could not make the host {name} (is this root?)"))?;
        let host = Self { name: name.to_owned(), network, mounts, cpu: None };
        host.ip("link set lo up")?;
        // Hosts without IPv6 have no such files, and send nothing by themselves.
        host.run(|| {
            for scope in ["default", "all"] {
                let _ = std::fs::write(format!("/proc/sys/net/ipv6/conf/{scope}/accept_dad"), "0");
                let _ = std::fs::write(format!("/proc/sys/net/ipv6/conf/{scope}/addr_gen_mode"), "1");
                let _ = std::fs::write(format!("/proc/sys/net/ipv6/conf/{scope}/router_solicitations"), "0");
            }
        });
        Ok(host)
    }

    /// This host, with one CPU for what it runs from now on.
    pub fn on_cpu(mut self, cpu: usize) -> Self {
        self.cpu = Some(cpu);
        self
    }

    /// Runs `task` on this host and waits for it: sockets it opens belong to the host's network, programs it
    /// starts run there. Each task has a thread of its own, started by the caller: so what it prints, and why it
    /// panics, is shown with the caller's test, also when tests share a host.
    pub fn run<T: Send>(&self, task: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let task = || {
                self.enter().expect("the host's namespaces can be entered, and its CPU used");
                task()
            };
            let thread = thread::Builder::new().name(self.name.clone()).spawn_scoped(scope, task);
            thread.expect("a thread can be started").join().unwrap_or_else(|panic| resume_unwind(panic))
        })
    }

    fn enter(&self) -> Result<()> {
        // Threads share a root and a working directory until told otherwise, and a mount namespace needs its own.
        unshare(CloneFlags::CLONE_FS)?;
        setns(&self.network, CloneFlags::CLONE_NEWNET)?;
        setns(&self.mounts, CloneFlags::CLONE_NEWNS)?;
        self.cpu.map_or(Ok(()), |cpu| pin(&[cpu]))
    }

    /// Starts a program on this host.
    ///
    /// # Errors
    ///
    /// If it can't be started.
    pub fn spawn(&self, mut command: Command) -> Result<Child> {
        self.run(move || command.spawn().with_context(|| format!("could not start {command:?}")))
    }

    /// Runs a program on this host to its end.
    ///
    /// # Errors
    ///
    /// If it can't be started.
    pub fn output(&self, mut command: Command) -> Result<Output> {
        self.run(move || command.output().with_context(|| format!("could not start {command:?}")))
    }

    /// Runs `ip` with these arguments.
    ///
    /// # Errors
    ///
    /// If it fails, with what it printed.
    pub fn ip(&self, arguments: &str) -> Result<String> {
        self.sh("ip", arguments.split_whitespace())
    }

    /// Runs a program that must succeed, and returns what it printed.
    ///
    /// # Errors
    ///
    /// If it fails, with what it printed.
    pub fn sh(
        &self,
        program: &str,
        arguments: impl IntoIterator<Item = impl AsRef<OsStr>>,
    ) -> Result<String> {
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::null());
        let shown = format!("{command:?}");
        let output = self.output(command)?;
        ensure!(
            output.status.success(),
            "{shown} on host {} failed: {}",
            self.name,
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Reads a file as this host sees it, such as one of its `/sys`, without the newline at its end.
    ///
    /// # Errors
    ///
    /// If it can't be read.
    pub fn read(&self, path: &str) -> Result<String> {
        let owned = path.to_owned();
        let text =
            self.run(|| std::fs::read_to_string(owned)).with_context(|| format!("could not read {path}"))?;
        Ok(text.trim_end().to_owned())
    }

    /// A `filter-ctl` command line, to be run on this host.
    ///
    /// # Panics
    ///
    /// Without the variable that names the binary: there is no sensible default, only stale ones.
    pub fn filter_ctl(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(filter_ctl_path());
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // It may be on a BPF file system that is not the lab's, and outlive it.
        command.env_remove("FILTER_CTL_PIN_ROOT");
        command
    }

    /// Runs filter-ctl to its end.
    pub fn ctl(&self, arguments: &[&str]) -> Finished {
        self.output(self.filter_ctl(arguments)).expect("filter-ctl starts").into()
    }

    /// Path of this host's network namespace, as `ip` takes it.
    pub fn netns_path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.network.as_raw_fd())
    }
}

/// Makes a veth pair, both ends up: `ours` on host `a`, `theirs` on host `b`.
///
/// # Errors
///
/// If `ip` fails.
pub fn join(a: &Host, ours: &str, b: &Host, theirs: &str) -> Result<()> {
    a.ip(&format!("link add {ours} type veth peer name {theirs} netns {}", b.netns_path()))?;
    a.ip(&format!("link set {ours} up"))?;
    b.ip(&format!("link set {theirs} up"))?;
    Ok(())
}

/// Leaves this thread's namespaces for new ones, and returns these: the network and the mounts.
fn make_namespaces() -> Result<(File, File)> {
    unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).context("could not leave the namespaces")?;
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
        .context("could not make the mounts private")?;
    // sysfs shows the devices of the network namespace in which it was mounted.
    mount(Some("sysfs"), "/sys", Some("sysfs"), MsFlags::empty(), None::<&str>)
        .context("could not mount /sys")?;
    mount(Some("bpf"), "/sys/fs/bpf", Some("bpf"), MsFlags::empty(), Some("mode=0700"))
        .context("could not mount a BPF file system")?;
    // The store and the daemon's socket of this host, and of no other.
    for directory in ["/var/lib", "/run"] {
        std::fs::create_dir_all(directory).with_context(|| format!("could not make {directory}"))?;
        mount(Some("tmpfs"), directory, Some("tmpfs"), MsFlags::empty(), Some("mode=0755"))
            .with_context(|| format!("could not mount {directory}"))?;
    }
    Ok((File::open("/proc/thread-self/ns/net")?, File::open("/proc/thread-self/ns/mnt")?))
}

/// The binary under test.
///
/// # Panics
///
/// If the variable that names it is not set or names nothing.
pub fn filter_ctl_path() -> PathBuf {
    let path = std::env::var_os(BINARY_VARIABLE).map(PathBuf::from);
    let path = path
        .unwrap_or_else(|| panic!("{BINARY_VARIABLE} is not set: run these tests with `cargo xtask test`"));
    assert!(path.is_file(), "{BINARY_VARIABLE} names {}, which is no file", path.display());
    path
}

/// The root of another program's unpacked package.
///
/// # Panics
///
/// If the variable that names it is not set or the package is not there.
pub fn bridge(package: &str) -> PathBuf {
    let root = std::env::var_os(BRIDGES_VARIABLE).map(|root| PathBuf::from(root).join(package));
    let root = root
        .unwrap_or_else(|| panic!("{BRIDGES_VARIABLE} is not set: run these tests with `cargo xtask test`"));
    assert!(root.is_dir(), "{} is not there: `cargo xtask setup`", root.display());
    root
}

/// A process that ends with the test.
#[derive(Debug)]
pub struct Running(pub Child);

impl Running {
    /// Sends it a signal, by its name.
    ///
    /// # Panics
    ///
    /// If it can't be sent.
    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill").args(["-s", name, &self.0.id().to_string()]).status();
        assert!(sent.is_ok_and(|status| status.success()), "SIG{name} can't be sent");
    }

    /// Sends it a signal that ends it, and waits until it has.
    ///
    /// # Panics
    ///
    /// If that can't be.
    pub fn end(mut self, signal: &str) {
        self.signal(signal);
        self.0.wait().expect("a child can be waited for");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What a program printed and how it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finished {
    /// Exit code; `None` if a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl From<Output> for Finished {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

impl Finished {
    /// This, if it ended with exit code 0.
    ///
    /// # Panics
    ///
    /// With what it printed, if not.
    #[track_caller]
    pub fn done(self) -> Self {
        assert_eq!(self.code, Some(0), "{}{}", self.stdout, self.stderr);
        self
    }

    /// Standard output as JSON.
    ///
    /// # Panics
    ///
    /// If it is not JSON of schema 1.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        let value: serde_json::Value =
            serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"));
        assert_eq!(value["schema"], 1);
        value
    }
}

/// Checks how a program failed, and that it said these words on standard error.
///
/// # Panics
///
/// If it ended otherwise, or did not.
#[track_caller]
pub fn fails(finished: &Finished, code: i32, words: &[&str]) {
    assert_eq!(finished.code, Some(code), "{finished:?}");
    for word in words {
        assert!(finished.stderr.contains(word), "no `{word}` in: {}", finished.stderr);
    }
}

/// Waits until `condition` holds.
///
/// # Errors
///
/// If it still does not after 20 seconds, naming `what`.
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        if Instant::now() > deadline {
            bail!("waited {PATIENCE:?} in vain until {what}");
        }
        thread::yield_now();
    }
    Ok(())
}
