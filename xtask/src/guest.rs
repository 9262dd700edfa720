//! A virtual machine that runs one script and ends: what is in its initramfs, how it is booted, and how its
//! verdict is read. Which kernel and which script is the caller's matter.

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, bail};

use crate::command::{Run, show_tail};
use crate::kernels::{Kernel, file_name, find};

/// Modules that the tests need, where they are not built in: interfaces, and VLANs on them.
const MODULES: [&str; 2] = ["veth", "8021q"];
/// Programs of this machine that the tests call, besides what busybox has.
const TOOLS: [&str; 3] = ["ip", "ethtool", "bpftool"];
/// MiB of memory: the initramfs, the default maps (about 100 MiB on two CPUs) and the tests have room.
const MEMORY: &str = "1024";
/// Two, so that per-CPU counters have something to sum.
const CPUS: &str = "2";
/// Seconds until a guest that hangs is killed. Boot takes 3, the kernel tests some minutes, twice that on a loaded machine.
const SECONDS: &str = "1500";

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
        self.build_initramfs(&work.0)?;
        let mut ending = self.boot(&work.0, on_line)?;
        if let Ending::NeverStarted = ending {
            // Emulated kernels were seen to die while they patch their own code, once in 150 boots; what
            // ran a test is never run again.
            eprintln!("    the guest ended before its first process; booting once more");
            ending = self.boot(&work.0, on_line)?;
        }
        if let Ending::Exit(code) = ending {
            return Ok(code);
        }
        show_tail(&fs::read_to_string(work.0.join("console")).unwrap_or_default());
        let when =
            if let Ending::Died = ending { "while the script ran" } else { "before its first process" };
        bail!(
            "kernel {}: the guest ended {when}, or {SECONDS} s were over\n  \
             next: the end of its console is above",
            self.kernel.series,
        )
    }

    fn boot(&self, work: &Path, on_line: &mut dyn FnMut(&str)) -> Result<Ending> {
        let mut console = std::ffi::OsString::from("file:");
        console.push(work.join("console"));
        // In the foreground, so that Ctrl-C reaches it. The hardware's virtualisation may be there and not
        // work; one emulating thread, since several race when a kernel patches its code.
        let mut qemu = Run::new("timeout")
            .args(["--foreground", "--kill-after=5", SECONDS, "qemu-system-x86_64"])
            .args(["-accel", "tcg,thread=single", "-m", MEMORY, "-smp", CPUS])
            .args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"])
            .args([OsStr::new("-serial"), &console])
            .args(["-serial", "stdio"])
            .args([OsStr::new("-kernel"), self.kernel.image.as_os_str()])
            .args([OsStr::new("-initrd"), work.join("initramfs").as_os_str()])
            .args(["-append", "console=ttyS0 panic=-1 quiet no_timer_check"]);
        let mut child = qemu.command().stdout(Stdio::piped()).spawn().context("qemu does not start")?;
        let mut output = BufReader::new(child.stdout.take().context("no pipe to qemu")?);
        let mut ending = Ending::NeverStarted;
        let mut bytes = Vec::new();
        while output.read_until(b'\n', &mut bytes)? > 0 {
            let text = String::from_utf8_lossy(&bytes);
            let line = text.trim_end_matches(['\r', '\n']);
            if line == STARTED {
                ending = Ending::Died;
            } else if let Some(code) = line.strip_prefix(ENDED) {
                ending = code.parse().map_or(Ending::Died, Ending::Exit);
            } else {
                on_line(line);
            }
            bytes.clear();
        }
        child.wait()?;
        Ok(ending)
    }

    fn build_initramfs(&self, work: &Path) -> Result<()> {
        let root = work.join("root");
        for directory in ["bin", "tools", "modules", "dev", "proc", "sys", "tmp", "run", "var", "etc"] {
            fs::create_dir_all(root.join(directory))?;
        }
        std::os::unix::fs::symlink("/run", root.join("var/run"))?; // where iproute2 has its namespaces
        copy(self.busybox, &root, "bin/busybox")?;
        fs::write(root.join("init"), INIT)?;
        fs::set_permissions(root.join("init"), fs::Permissions::from_mode(0o755))?;
        fs::write(root.join("script"), self.script)?;
        for (index, module) in self.modules()?.iter().enumerate() {
            // The shell's wildcard sorts, so the number is the order.
            fs::write(root.join(format!("modules/{index:02}.ko")), self.decompressed(module)?)?;
        }
        let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
        for tool in TOOLS {
            let file =
                std::env::split_paths(&path).map(|directory| directory.join(tool)).find(|f| f.is_file());
            let file = file.with_context(|| format!("no {tool}\n  next: `cargo xtask setup`"))?;
            copy_program(&file, &root, &format!("tools/{tool}"))?;
        }
        for (file, target) in self.files {
            copy_program(file, &root, target.trim_start_matches('/'))?;
        }
        let mut pack = Run::new("sh")
            .args(["-c", "find . | \"$0\" cpio --quiet -o -H newc > ../initramfs"])
            .arg(self.busybox);
        pack.command().current_dir(&root);
        pack.run()
    }

    /// The modules and what they depend on, in loading order.
    fn modules(&self) -> Result<Vec<PathBuf>> {
        let mut order = Vec::new();
        for module in MODULES {
            self.add_module(module, &mut order)?;
        }
        Ok(order)
    }

    fn add_module(&self, module: &str, order: &mut Vec<PathBuf>) -> Result<()> {
        // File names have dashes where the kernel has underscores.
        let is_file = |path: &Path| {
            let name = file_name(path);
            name.split_once(".ko").is_some_and(|(stem, _)| stem.replace('-', "_") == module.replace('-', "_"))
        };
        let Some(path) = find(&self.kernel.modules, &is_file) else {
            return Ok(()); // built in
        };
        if order.contains(&path) {
            return Ok(());
        }
        for dependency in dependencies(&self.decompressed(&path)?) {
            self.add_module(&dependency, order)?;
        }
        order.push(path);
        Ok(())
    }

    fn decompressed(&self, module: &Path) -> Result<Vec<u8>> {
        if module.extension() == Some(OsStr::new("ko")) {
            return Ok(fs::read(module)?);
        }
        let mut unxz = Run::new(self.busybox).args(["unxz", "-c"]).arg(module);
        let output = unxz.command().output()?;
        unxz.check(output.status)?;
        Ok(output.stdout)
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

/// A directory that goes when its user does.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Result<Self> {
        let directory = std::env::temp_dir().join(format!("filter-vm-{}", std::process::id()));
        fs::create_dir_all(&directory)?;
        Ok(Self(directory))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Nothing depends on it: what is left lies in the system's temporary directory.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The names after `depends=` in the module's own description.
fn dependencies(module: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\0depends=";
    let Some(start) = module.windows(KEY.len()).position(|window| window == KEY) else { return Vec::new() };
    let value = module[start + KEY.len()..].split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(value).split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

fn copy(file: &Path, root: &Path, target: &str) -> Result<()> {
    let target = root.join(target);
    if let Some(directory) = target.parent() {
        fs::create_dir_all(directory)?;
    }
    fs::copy(file, &target).with_context(|| format!("cannot copy {}", file.display()))?;
    Ok(())
}

/// Copies `file` and, if it is a program, its shared libraries, to where the loader looks for them.
fn copy_program(file: &Path, root: &Path, target: &str) -> Result<()> {
    copy(file, root, target)?;
    let mut ldd = Run::new("ldd").arg(file);
    // It exits with 1 on what needs no loader.
    let output = ldd.command().output().context("ldd does not run")?;
    for library in libraries(&String::from_utf8_lossy(&output.stdout)) {
        copy(Path::new(library), root, library.trim_start_matches('/'))?;
    }
    Ok(())
}

/// The absolute paths in what ldd prints: `NAME => PATH (ADDRESS)` or, for the loader, `PATH (ADDRESS)`.
fn libraries(ldd: &str) -> impl Iterator<Item = &str> {
    ldd.lines().filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_the_paths_that_ldd_prints() {
        let ldd = "\tlinux-vdso.so.1 (0x7)\n\tlibc.so.6 => /lib/libc.so.6 (0x7)\n\t/lib64/ld.so.2 (0x7)\n";
        assert_eq!(libraries(ldd).collect::<Vec<_>>(), ["/lib/libc.so.6", "/lib64/ld.so.2"]);
        assert_eq!(libraries("\tstatically linked\n").count(), 0);
    }

    #[test]
    fn dependencies_are_read_from_the_module() {
        assert_eq!(dependencies(b"x\0license=GPL\0depends=garp,mrp\0name=8021q\0"), ["garp", "mrp"]);
        assert!(dependencies(b"x\0depends=\0name=veth\0").is_empty());
        assert!(dependencies(b"").is_empty());
    }
}
