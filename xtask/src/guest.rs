//! A virtual machine that runs one script and ends: what it has, and how its verdict is read. Which kernel and which
//! script is the caller's matter.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::initramfs::Initramfs;
use crate::kernels::Kernel;
use crate::machine::{Scratch, Start};

/// Modules that the tests need, where they are not built in: interfaces, and VLANs on them.
const MODULES: [&str; 2] = ["veth", "8021q"];
/// Programs of this machine that the tests call, besides what busybox has.
const TOOLS: [&str; 3] = ["ip", "ethtool", "bpftool"];
/// Two, so that per-CPU counters have something to sum.
const CPUS: u32 = 2;
/// Seconds until a guest that hangs is killed. Boot takes 3, the kernel tests some minutes, twice that on a loaded machine.
const SECONDS: u32 = 1500;

/// Lines of the guest that are for us alone. No test prints such.
const STARTED: &str = "@guest started";
const ENDED: &str = "@guest ended ";

/// The first process: mounts what the tests use, loads the modules, and runs the script, whose exit code is
/// the verdict. Kernel messages go to the first serial port, what the script writes to the second.
const INIT: &str = "#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/tools:/bin HOME=/tmp RUST_BACKTRACE=1
mount -t devtmpfs dev /dev
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t tmpfs tmp /tmp
mount -t tmpfs run /run
mount -t bpf bpf /sys/fs/bpf
for module in /modules/*; do insmod $module; done
/tools/ip link set lo up
exec </dev/null >/dev/ttyS1 2>&1
echo @guest started
sh /script
echo @guest ended $?
poweroff -f
";

/// What to boot.
pub struct Guest<'a> {
    /// The kernel.
    pub kernel: &'a Kernel,
    /// A static busybox.
    pub busybox: &'a Path,
    /// Files of this machine and where the guest finds them. Programs bring their shared libraries.
    pub files: &'a [(&'a Path, &'a str)],
    /// A busybox shell script, run as root.
    pub script: &'a str,
}

impl Guest<'_> {
    /// Boots, hands each line that the script writes to `on_line`, and returns the script's exit code.
    /// A guest that ends without one is an error.
    pub fn run(&self, on_line: &mut dyn FnMut(&str)) -> Result<i32> {
        let work = Scratch::new()?;
        self.build_initramfs(&work)?;
        let mut ending = self.boot(&work, on_line)?;
        if let Ending::NeverStarted = ending {
            // Emulated kernels were seen to die while they patch their own code, once in 150 boots; what
            // ran a test is never run again.
            eprintln!("    the guest ended before its first process; booting once more");
            ending = self.boot(&work, on_line)?;
        }
        if let Ending::Exit(code) = ending {
            return Ok(code);
        }
        work.show_console();
        let when =
            if let Ending::Died = ending { "while the script ran" } else { "before its first process" };
        bail!(
            "kernel {}: the guest ended {when}, or {SECONDS} s were over\n  \
             next: the end of its console is above",
            self.kernel.series,
        )
    }

    fn boot(&self, work: &Scratch, on_line: &mut dyn FnMut(&str)) -> Result<Ending> {
        let options = ["-no-reboot".into()];
        let start = Start {
            kernel: self.kernel,
            cpus: CPUS,
            parameters: "",
            work,
            options: &options,
            seconds: SECONDS,
        };
        let mut machine = start.start()?;
        let mut ending = Ending::NeverStarted;
        while let Some(line) = machine.line()? {
            if line == STARTED {
                ending = Ending::Died;
            } else if let Some(code) = line.strip_prefix(ENDED) {
                ending = code.parse().map_or(Ending::Died, Ending::Exit);
            } else {
                on_line(&line);
            }
        }
        Ok(ending)
    }

    fn build_initramfs(&self, work: &Scratch) -> Result<()> {
        let initramfs = Initramfs::new(work, self.kernel, self.busybox)?;
        symlink("/run", initramfs.root().join("var/run"))?; // where iproute2 has its namespaces
        fs::write(initramfs.root().join("script"), self.script)?;
        initramfs.add_modules(&MODULES)?;
        let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
        for tool in TOOLS {
            let file =
                std::env::split_paths(&path).map(|directory| directory.join(tool)).find(|f| f.is_file());
            let file = file.with_context(|| format!("no {tool}\n  next: `cargo xtask setup`"))?;
            initramfs.add_program(&file, &format!("tools/{tool}"))?;
        }
        for (file, target) in self.files {
            initramfs.add_program(file, target)?;
        }
        initramfs.pack(INIT)
    }
}

/// How a boot ended.
enum Ending {
    /// Before the first process spoke.
    NeverStarted,
    /// Without the script's exit code.
    Died,
    /// The script ended by itself.
    Exit(i32),
}
