//! The lock on the pin root, and who may own that.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::fs::{CWD, FlockOperation, Mode, OFlags, flock, openat};
use rustix::io::Errno;

use super::pins::{NotLoaded, Pins};

/// How often the lock is tried again: short beside a command's few milliseconds of work, long beside a system call.
const LOCK_RETRY: Duration = Duration::from_millis(5);

/// The lock that makes commands take turns: `flock` on the pin root, which ends with the process.
#[derive(Debug)]
pub struct Lock {
    _directory: File,
}

impl Lock {
    /// Waits at most `wait` for the lock on an existing pin root.
    ///
    /// # Errors
    ///
    /// [`NotLoaded`] if there is no pin root; otherwise if it is not root's own or the wait was in vain.
    pub fn acquire(pins: &Pins, wait: Duration) -> Result<Self> {
        let root = pins.root();
        let deadline = Instant::now() + wait;
        loop {
            // Not through a symbolic link: whoever made it could point it elsewhere later.
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let directory = match openat(CWD, root, flags, Mode::empty()) {
                Ok(directory) => File::from(directory),
                Err(Errno::NOENT) => {
                    // Where nothing can be pinned, what is pinned elsewhere can't be seen.
                    pins.check_file_system().map_err(|error| NotLoaded(format!("{error:#}")))?;
                    return Err(NotLoaded(format!(
                        "nothing is pinned at {}; start with `filter-ctl load IFACE`",
                        root.display()
                    ))
                    .into());
                }
                Err(Errno::ACCESS) => {
                    bail!("the pin root {} can't be opened: run it as root", root.display())
                }
                Err(Errno::LOOP | Errno::NOTDIR) => bail!(
                    "the pin root {} is not a directory, or a symbolic link: it is not used, since its owner could \
                     replace what is pinned; remove it or choose another with --pin-root",
                    root.display()
                ),
                Err(error) => {
                    return Err(error)
                        .with_context(|| format!("could not open the pin root {}", root.display()));
                }
            };
            check_owner(root, &directory)?;
            match flock(&directory, FlockOperation::NonBlockingLockExclusive) {
                // Whoever held the lock may have removed the directory, and another may have made a new one.
                Ok(()) if is_still_at(root, &directory)? => return Ok(Self { _directory: directory }),
                Ok(()) => continue,
                Err(Errno::WOULDBLOCK) => {}
                Err(error) => {
                    return Err(error).with_context(|| format!("could not lock {}", root.display()));
                }
            }
            if Instant::now() >= deadline {
                bail!(
                    "{} has held the lock on {} for over {}; wait longer with --lock-wait, or end it: whatever it was \
                     doing, the next command finishes or takes back, and the filter goes on",
                    holder(&directory).unwrap_or_else(|| "another filter-ctl".into()),
                    root.display(),
                    humantime::format_duration(wait),
                );
            }
            thread::sleep(LOCK_RETRY);
        }
    }

    /// As [`Lock::acquire`], but makes the pin root where it is missing.
    ///
    /// # Errors
    ///
    /// As [`Lock::acquire`]; and if the root is not on a BPF file system, or can't be made.
    pub fn create(pins: &Pins, wait: Duration) -> Result<Self> {
        let deadline = Instant::now() + wait;
        loop {
            pins.create_root()?;
            match Self::acquire(pins, deadline.saturating_duration_since(Instant::now())) {
                Ok(lock) => return Ok(lock),
                // An `unload` came between.
                Err(error) if error.is::<NotLoaded>() && Instant::now() < deadline => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// The process that holds the lock on this directory, in words, as far as this one may see it.
fn holder(directory: &File) -> Option<String> {
    let inode = directory.metadata().ok()?.ino();
    let locks = fs::read_to_string("/proc/locks").ok()?;
    // `1: FLOCK  ADVISORY  WRITE 1234 00:2f:456 0 EOF`; the device is that of the file system, as the kernel numbers it.
    let pid = locks.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let is_it =
            fields.get(1) == Some(&"FLOCK") && fields.get(5)?.rsplit(':').next()?.parse() == Ok(inode);
        is_it.then(|| fields.get(4)?.parse::<i32>().ok()).flatten()
    })?;
    let process = procfs::process::Process::new(pid).ok()?;
    let command = process.cmdline().ok()?.join(" ");
    let command: String = command.chars().take(80).collect();
    let is_stopped = process.stat().is_ok_and(|stat| stat.state == 'T');
    let state = if is_stopped { ", which is stopped" } else { "" };
    Some(format!("process {pid} ({command}{state})"))
}

/// Refuses a root that somebody else could have prepared: /sys/fs/bpf itself is often writable by all.
fn check_owner(root: &Path, directory: &File) -> Result<()> {
    let metadata = directory.metadata().with_context(|| format!("could not query {}", root.display()))?;
    ensure!(
        metadata.uid() == 0,
        "the pin root {} belongs to user {}, not to root: it is not used, since that user could replace what is pinned; \
         remove it or choose another with --pin-root",
        root.display(),
        metadata.uid()
    );
    ensure!(
        metadata.mode() & 0o022 == 0,
        "the pin root {} can be written by others than root (mode {:o}): it is not used; run `chmod 700 {}`",
        root.display(),
        metadata.mode() & 0o7777,
        root.display()
    );
    Ok(())
}

fn is_still_at(root: &Path, directory: &File) -> Result<bool> {
    let ours = directory.metadata().with_context(|| format!("could not query {}", root.display()))?;
    match fs::symlink_metadata(root) {
        Ok(there) => Ok((there.dev(), there.ino()) == (ours.dev(), ours.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error).with_context(|| format!("could not query {}", root.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_root_means_not_loaded() {
        let error = Lock::acquire(&Pins::new("/nonexistent/filter-ctl"), Duration::ZERO).unwrap_err();
        assert!(error.is::<NotLoaded>(), "{error}");
    }
}
