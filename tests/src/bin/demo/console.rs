//! What the demo prints, and the commands it runs as an operator would type them. Everything that waits does so
//! here, and ends at once when the user interrupts.

use std::fmt;
use std::io::{self, IsTerminal as _, Write as _};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use filter_tests::lab::Host;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag;

/// Exit code after an interruption: a shell's for SIGINT.
pub const INTERRUPTED: u8 = 130;

/// Longest the demo may take. It needs half of that; what is beyond hangs.
const LIMIT: Duration = Duration::from_secs(120);

/// Time between two looks at what is waited for: not felt, and no load.
const TICK: Duration = Duration::from_millis(10);

/// Columns of the narrowest terminal that things are made for.
const COLUMNS: usize = 80;

/// Bold and cyan (ECMA-48 SGR), which both light and dark terminals show well.
const HEADING: &str = "1";
const COMMAND: &str = "36";

/// The user wants the demo to end.
#[derive(Debug)]
pub struct Interrupted;

impl fmt::Display for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("interrupted")
    }
}

impl std::error::Error for Interrupted {}

/// The terminal, or what stands in for it, and the user in front of it.
pub struct Console {
    coloured: bool,
    interrupted: Arc<AtomicBool>,
    deadline: Instant,
}

impl Console {
    /// Takes Ctrl-C and its likes into its own hands: the first ends the demo in good order, the second at once.
    pub fn new() -> Result<Self> {
        let interrupted = Arc::<AtomicBool>::default();
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            flag::register_conditional_shutdown(signal, INTERRUPTED.into(), Arc::clone(&interrupted))?;
            flag::register(signal, Arc::clone(&interrupted))?;
        }
        let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let coloured = !plain && io::stdout().is_terminal();
        Ok(Self { coloured, interrupted, deadline: Instant::now() + LIMIT })
    }

    /// Prints a line.
    pub fn line(&self, text: &str) -> Result<()> {
        writeln!(io::stdout().lock(), "{text}").context("could not write to standard output")
    }

    /// Prints a heading.
    pub fn heading(&self, text: &str) -> Result<()> {
        self.line("")?;
        self.line(&self.styled(HEADING, text))
    }

    fn styled(&self, style: &str, text: &str) -> String {
        if self.coloured { format!("\x1b[{style}m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// Waits.
    pub fn pause(&self, time: Duration) -> Result<()> {
        let end = Instant::now() + time;
        while Instant::now() < end {
            self.check()?;
            thread::sleep(TICK.min(end.saturating_duration_since(Instant::now())));
        }
        Ok(())
    }

    /// Fails when it is time to end.
    fn check(&self) -> Result<()> {
        if self.interrupted.load(Ordering::Relaxed) {
            bail!(Interrupted);
        }
        ensure!(Instant::now() < self.deadline, "this takes over {LIMIT:?}, so something hangs");
        Ok(())
    }

    /// Shows and runs a filter-ctl command on a host; it must succeed. Its output goes where the demo's goes.
    pub fn filter_ctl(&self, host: &Host, arguments: &[&str]) -> Result<()> {
        self.line(&self.styled(COMMAND, &typed(arguments)))?;
        let mut command = host.filter_ctl(arguments);
        command.stdout(Stdio::inherit()).stderr(Stdio::inherit());
        let status = self.wait(host, command)?;
        ensure!(status.success(), "filter-ctl {} failed: {status}", arguments.join(" "));
        Ok(())
    }

    /// As [`Console::filter_ctl`], with lines for standard input, of which `what` says what they are. Returns how long it
    /// took.
    pub fn filter_ctl_with(
        &self,
        host: &Host,
        arguments: &[&str],
        what: &str,
        lines: String,
    ) -> Result<Duration> {
        self.line(&self.styled(COMMAND, &format!("{} < {what}", typed(arguments))))?;
        let mut command = host.filter_ctl(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::inherit()).stderr(Stdio::inherit());
        let started = Instant::now();
        let mut child = host.spawn(command)?;
        let mut input = child.stdin.take().context("standard input was just asked for")?;
        let writer = thread::spawn(move || input.write_all(lines.as_bytes()));
        let status = self.wait_for(&mut child)?;
        writer.join().expect("writing does not panic")?;
        ensure!(status.success(), "filter-ctl {} failed: {status}", arguments.join(" "));
        Ok(started.elapsed())
    }

    /// Shows and runs a shell's line that looks at a host, and returns what it printed.
    pub fn look(&self, host: &Host, line: &str) -> Result<String> {
        self.check()?;
        self.line(&self.styled(COMMAND, &format!("$ {line}")))?;
        let mut shell = Command::new("sh");
        shell.args(["-c", line]).stdin(Stdio::null());
        let output = host.output(shell)?;
        // With 1 grep says that there was nothing. Standard error is no measure: ip complains, though it works,
        // that the other end of the wire is in a namespace without a name.
        let trouble = || format!("`{line}` failed: {}", String::from_utf8_lossy(&output.stderr));
        ensure!(matches!(output.status.code(), Some(0 | 1)), trouble());
        let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        self.line(if text.is_empty() { "(nothing)" } else { &text })?;
        Ok(text)
    }

    fn wait(&self, host: &Host, command: Command) -> Result<ExitStatus> {
        self.wait_for(&mut host.spawn(command)?)
    }

    fn wait_for(&self, child: &mut Child) -> Result<ExitStatus> {
        loop {
            if let Some(status) = child.try_wait()? {
                self.check()?;
                return Ok(status);
            }
            if let Err(end) = self.check() {
                // It may have got the same Ctrl-C and be gone; then both fail, as they should.
                let _ = child.kill();
                let _ = child.wait();
                return Err(end);
            }
            thread::sleep(TICK);
        }
    }
}

/// A filter-ctl command as it would be typed at a prompt, over several lines where it is long.
fn typed(arguments: &[&str]) -> String {
    let mut text = "$ filter-ctl".to_owned();
    let mut column = text.len();
    let mut words = arguments.iter().peekable();
    while let Some(word) = words.next() {
        let mut unit = format!(" {word}");
        // An option stays with its value.
        if let Some(value) = words.next_if(|value| word.starts_with("--") && !value.starts_with("--")) {
            let quote = if value.contains(' ') { "'" } else { "" };
            unit += &format!(" {quote}{value}{quote}");
        }
        if column + unit.len() + " \\".len() > COLUMNS {
            text += " \\\n   ";
            column = 3;
        }
        column += unit.len();
        text += &unit;
    }
    text
}
