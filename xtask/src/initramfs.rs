//! What a virtual machine's kernel finds in memory: a busybox, modules, programs with their shared libraries, and the
//! first process. What that does is the caller's matter.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::command::Run;
use crate::kernels::{Kernel, file_name, find};
use crate::machine::Scratch;

/// A tree of files that becomes an initramfs.
pub struct Initramfs<'a> {
    work: &'a Scratch,
    root: PathBuf,
    kernel: &'a Kernel,
    busybox: &'a Path,
}

impl<'a> Initramfs<'a> {
    /// One with `busybox`, which is static, as /bin/busybox, and empty directories.
    pub fn new(work: &'a Scratch, kernel: &'a Kernel, busybox: &'a Path) -> Result<Self> {
        let root = work.path("root");
        for directory in ["bin", "tools", "modules", "dev", "proc", "sys", "tmp", "run", "var", "etc"] {
            fs::create_dir_all(root.join(directory))?;
        }
        copy(busybox, &root, "bin/busybox")?;
        Ok(Self { work, root, kernel, busybox })
    }

    /// The tree, for what has no method.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Adds `file` as `target`, and if it is a program its shared libraries, to where the loader looks for them.
    pub fn add_program(&self, file: &Path, target: &str) -> Result<()> {
        copy(file, &self.root, target)?;
        let mut ldd = Run::new("ldd").arg(file);
        // It exits with 1 on what needs no loader.
        let output = ldd.command().output().context("ldd does not run")?;
        for library in libraries(&String::from_utf8_lossy(&output.stdout)) {
            copy(Path::new(library), &self.root, library)?;
        }
        Ok(())
    }

    /// Adds the modules and what they depend on to /modules, named so that the shell's wildcard sorts them into the
    /// order in which they are loaded.
    pub fn add_modules(&self, modules: &[&str]) -> Result<()> {
        for (index, module) in in_order(self.kernel, self.busybox, modules)?.iter().enumerate() {
            let file = self.root.join(format!("modules/{index:02}.ko"));
            fs::write(file, decompressed(self.busybox, module)?)?;
        }
        Ok(())
    }

    /// Writes the work's `initramfs`, with `init`, a shell script, as the first process.
    pub fn pack(self, init: &str) -> Result<()> {
        let file = self.root.join("init");
        fs::write(&file, init)?;
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755))?;
        let mut pack = Run::new("sh")
            .args(["-c", "find . | \"$0\" cpio --quiet -o -H newc > \"$1\""])
            .arg(self.busybox)
            .arg(self.work.path("initramfs"));
        pack.command().current_dir(&self.root);
        pack.run()
    }
}

/// The files of those of `modules` that are not built in, and of what they depend on, in loading order.
fn in_order(kernel: &Kernel, busybox: &Path, modules: &[&str]) -> Result<Vec<PathBuf>> {
    let mut order = Vec::new();
    for module in modules {
        add_module(kernel, busybox, module, &mut order)?;
    }
    Ok(order)
}

fn add_module(kernel: &Kernel, busybox: &Path, module: &str, order: &mut Vec<PathBuf>) -> Result<()> {
    // File names have dashes where the kernel has underscores.
    let is_file = |path: &Path| {
        let name = file_name(path);
        name.split_once(".ko").is_some_and(|(stem, _)| stem.replace('-', "_") == module.replace('-', "_"))
    };
    let Some(path) = find(&kernel.modules, &is_file) else {
        return Ok(()); // built in
    };
    if order.contains(&path) {
        return Ok(());
    }
    for dependency in dependencies(&decompressed(busybox, &path)?) {
        add_module(kernel, busybox, &dependency, order)?;
    }
    order.push(path);
    Ok(())
}

fn decompressed(busybox: &Path, module: &Path) -> Result<Vec<u8>> {
    if module.extension() == Some(OsStr::new("ko")) {
        return Ok(fs::read(module)?);
    }
    let mut unxz = Run::new(busybox).args(["unxz", "-c"]).arg(module);
    let output = unxz.command().output()?;
    unxz.check(output.status)?;
    Ok(output.stdout)
}

/// The names after `depends=` in the module's own description.
fn dependencies(module: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\0depends=";
    let Some(start) = module.windows(KEY.len()).position(|window| window == KEY) else { return Vec::new() };
    let value = module[start + KEY.len()..].split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(value).split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

/// Copies `file` to `target` below `root`, in directories that are made.
pub fn copy(file: &Path, root: &Path, target: &str) -> Result<()> {
    let target = root.join(target.trim_start_matches('/'));
    if let Some(directory) = target.parent() {
        fs::create_dir_all(directory)?;
    }
    fs::copy(file, &target).with_context(|| format!("cannot copy {}", file.display()))?;
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
