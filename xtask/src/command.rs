//! Running other programs: what they are started with, and what is said when they fail. Nothing here knows
//! what any of them is for.

use std::env;
use std::ffi::OsStr;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, anyhow, bail};
use serde_json::Value;

/// Lines of a captured log that are shown when its command fails: a screen, in which apt's and rustup's
/// errors, which come last, have room.
const LOG_TAIL_LINES: usize = 40;

/// Set by cargo from `.cargo/bpf-toolchain.toml` for whatever it runs, so also for this process. Handed on,
/// they would win over the file that `setup` may just have rewritten.
pub const FROM_CARGO_CONFIG: [&str; 2] = ["FILTER_BPF_TOOLCHAIN", "FILTER_BPF_BOOTSTRAP"];

/// A program to run, and what the user can do if it fails.
pub struct Run {
    command: Command,
    next: Option<String>,
}

impl Run {
    /// Runs `program` as this user.
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        let mut command = Command::new(program);
        command.stdin(Stdio::null());
        for name in FROM_CARGO_CONFIG {
            command.env_remove(name);
        }
        Self { command, next: None }
    }

    /// The cargo of the pinned toolchain.
    pub fn cargo() -> Self {
        Self::new("cargo")
    }

    /// Runs `program` as root, through sudo where this user is not root.
    pub fn as_root(program: impl AsRef<OsStr>) -> Self {
        if is_root() {
            return Self::new(program);
        }
        Self::new("sudo").arg("-E").arg(program.as_ref()) // it asks for a password on /dev/tty
    }

    /// Adds an argument.
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.command.arg(arg);
        self
    }

    /// Adds arguments.
    pub fn args<A: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.command.args(args);
        self
    }

    /// Sets an environment variable.
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// What the user can do if the command fails, as "TO DO THAT: `command`".
    pub fn next(mut self, next: impl Into<String>) -> Self {
        self.next = Some(next.into());
        self
    }

    /// Runs it with its output shown. An exit code other than 0 is an error.
    pub fn run(mut self) -> Result<()> {
        let status = self.command.status().map_err(|error| self.not_started(&error))?;
        self.check(status)
    }

    /// Runs it with its output hidden and returned; the end of it is shown if it fails.
    pub fn run_quietly(mut self) -> Result<String> {
        self.command.stderr(Stdio::piped()).stdout(Stdio::piped());
        let output = self.command.output().map_err(|error| self.not_started(&error))?;
        let log = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        if !output.status.success() {
            show_tail(&log);
        }
        self.check(output.status)?;
        Ok(log)
    }

    /// Runs it and returns what it wrote to standard output; standard error is shown.
    pub fn read(mut self) -> Result<String> {
        self.command.stdout(Stdio::piped()).stderr(Stdio::inherit());
        let output = self.command.output().map_err(|error| self.not_started(&error))?;
        self.check(output.status)?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Whether it can be run and exits with 0; its output is dropped.
    pub fn succeeds(mut self) -> bool {
        self.command.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
    }

    /// Becomes the program: it gets the terminal, every signal and the exit code. Returns only if it could
    /// not be started.
    pub fn exec(mut self) -> anyhow::Error {
        let error = self.command.stdin(Stdio::inherit()).exec();
        self.not_started(&error)
    }

    /// The plain command, for a caller that reads output while it comes, and `check`s the status itself.
    pub fn command(&mut self) -> &mut Command {
        &mut self.command
    }

    /// An error that names the command, its exit code and the next step, unless `status` is success.
    pub fn check(&self, status: ExitStatus) -> Result<()> {
        if status.success() {
            return Ok(());
        }
        let how = match (status.code(), status.signal()) {
            (Some(code), _) => format!("exit code {code}"),
            (None, signal) => format!("signal {}", signal.unwrap_or_default()),
        };
        Err(self.failure(&how))
    }

    fn not_started(&self, error: &std::io::Error) -> anyhow::Error {
        self.failure(&format!("could not be started: {error}"))
    }

    fn failure(&self, how: &str) -> anyhow::Error {
        let words = std::iter::once(self.command.get_program()).chain(self.command.get_args());
        let line = words.map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ");
        match &self.next {
            Some(next) => anyhow!("`{line}`: {how}\n  next: {next}"),
            None => anyhow!("`{line}`: {how}"),
        }
    }
}

/// Shows the end of the log of something that failed.
pub fn show_tail(log: &str) {
    let lines: Vec<&str> = log.lines().collect();
    for line in &lines[lines.len().saturating_sub(LOG_TAIL_LINES)..] {
        eprintln!("  | {line}");
    }
}

/// Whether this process is root.
pub fn is_root() -> bool {
    // The owner of /proc/self is the effective user; std has no geteuid.
    std::fs::metadata("/proc/self").is_ok_and(|metadata| metadata.uid() == 0)
}

/// Whether `PATH` has `program`. The system directories are searched too: they are not in the `PATH` of
/// every user who may use sudo.
pub fn on_path(program: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .any(|directory| directory.join(program).is_file())
}

/// Says what is done, does it, and says how long it took.
pub fn step<T>(what: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    eprintln!("==> {what}");
    let start = Instant::now();
    let result = work();
    let seconds = start.elapsed().as_secs_f64();
    match &result {
        Ok(_) => eprintln!("    done in {seconds:.1} s"),
        Err(_) => eprintln!("    FAILED after {seconds:.1} s"),
    }
    result
}

/// Runs `cargo` with `args` and returns its messages about what it built; diagnostics are shown.
pub fn cargo_messages(args: &[&str]) -> Result<Vec<Value>> {
    let output = Run::cargo().args(args).arg("--message-format=json-render-diagnostics").read()?;
    output
        .lines()
        .map(|line| serde_json::from_str(line).with_context(|| format!("cargo wrote {line}")))
        .collect()
}

/// The executable that `messages` name for the target `name`.
pub fn executable(messages: &[Value], name: &str) -> Result<PathBuf> {
    let path = messages
        .iter()
        .filter(|message| message["reason"] == "compiler-artifact" && message["target"]["name"] == name)
        .find_map(|message| message["executable"].as_str());
    match path {
        Some(path) => Ok(path.into()),
        None => bail!("cargo named no executable `{name}`"),
    }
}

/// Builds filter-ctl in the profile that `profile_args` name, and returns the path of its binary.
pub fn build_filter_ctl(profile_args: &[&str]) -> Result<PathBuf> {
    executable(
        &cargo_messages(&[&["build", "--package", "filter-ctl"], profile_args].concat())?,
        "filter-ctl",
    )
}
