//! A virtual machine as qemu's process: how it is started, what it says and is told, and that it ends with whoever
//! started it. What runs in it is `guest`'s and `debian`'s matter.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{BufRead, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};

use anyhow::{Context, Result};

use crate::command::{Run, show_tail};
use crate::kernels::Kernel;

/// MiB of memory: the initramfs, the default maps (about 100 MiB on two CPUs) and the tests have room.
const MEMORY: &str = "1024";

/// A running machine. Kernel messages go to its first serial port, which ends in a file; the second is ours.
pub struct Machine {
    qemu: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

/// What to start.
pub struct Start<'a> {
    /// The kernel.
    pub kernel: &'a Kernel,
    /// How many CPUs it has.
    pub cpus: u32,
    /// What is added to its command line.
    pub parameters: &'a str,
    /// Where `initramfs` is, and `console` will be.
    pub work: &'a Scratch,
    /// Options for qemu: devices, and whether a reset ends it.
    pub options: &'a [OsString],
    /// After so many seconds a machine that hangs is killed.
    pub seconds: u32,
}

impl Start<'_> {
    /// Starts qemu.
    pub fn start(&self) -> Result<Machine> {
        let mut console = OsString::from("file:");
        console.push(self.work.console());
        // In the foreground, so that Ctrl-C reaches it. The hardware's virtualisation may be there and not
        // work; one emulating thread, since several race when a kernel patches its code.
        let mut qemu = Run::new("timeout")
            .args(["--foreground", "--kill-after=5", &self.seconds.to_string(), "qemu-system-x86_64"])
            .args(["-accel", "tcg,thread=single", "-m", MEMORY, "-smp", &self.cpus.to_string()])
            .args(["-nodefaults", "-no-user-config", "-display", "none"])
            .args([OsStr::new("-serial"), &console])
            .args(["-serial", "stdio"])
            .args([OsStr::new("-kernel"), self.kernel.image.as_os_str()])
            .args([OsStr::new("-initrd"), self.work.path("initramfs").as_os_str()])
            .args(["-append", &format!("console=ttyS0 panic=-1 quiet no_timer_check {}", self.parameters)])
            .args(self.options);
        // What it says of itself, as that it was told to end, is worth reading only after a failure.
        let complaints = fs::File::create(self.work.complaints())?;
        let pipes = qemu.command().stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(complaints);
        let mut qemu = pipes.spawn().context("qemu does not start")?;
        let input = qemu.stdin.take().context("no pipe to qemu")?;
        let output = BufReader::new(qemu.stdout.take().context("no pipe from qemu")?);
        Ok(Machine { qemu, input, output })
    }
}

impl Machine {
    /// The next line that the machine writes, without its end; none once qemu has ended.
    pub fn line(&mut self) -> Result<Option<String>> {
        let mut bytes = Vec::new();
        if self.output.read_until(b'\n', &mut bytes)? == 0 {
            return Ok(None);
        }
        Ok(Some(String::from_utf8_lossy(&bytes).trim_end_matches(['\r', '\n']).to_owned()))
    }

    /// Writes a line to the machine.
    pub fn tell(&mut self, line: &str) -> Result<()> {
        writeln!(self.input, "{line}").context("qemu takes no input")
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if !matches!(self.qemu.try_wait(), Ok(Some(_))) {
            // `timeout` hands on what can be caught; killed itself, it would leave qemu behind.
            Run::new("sh").args(["-c", "kill \"$0\"", &self.qemu.id().to_string()]).succeeds();
            let _ = self.qemu.wait(); // it has ended, one way or the other
        }
    }
}

/// A directory that goes when its user does.
pub struct Scratch(PathBuf);

impl Scratch {
    /// A new one, empty.
    pub fn new() -> Result<Self> {
        let directory = std::env::temp_dir().join(format!("filter-vm-{}", std::process::id()));
        fs::create_dir_all(&directory)?;
        Ok(Self(directory))
    }

    /// Where `name` lies in it.
    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.0.join(name)
    }

    /// Shows how the console of a machine that was started here ends, and what qemu said.
    pub fn show_console(&self) {
        for file in [self.console(), self.complaints()] {
            // Bytes of a half-written character are no reason to show nothing.
            show_tail(&String::from_utf8_lossy(&fs::read(file).unwrap_or_default()));
        }
    }

    fn console(&self) -> PathBuf {
        self.path("console")
    }

    fn complaints(&self) -> PathBuf {
        self.path("qemu-errors")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Nothing depends on it: what is left lies in the system's temporary directory.
        let _ = fs::remove_dir_all(&self.0);
    }
}
