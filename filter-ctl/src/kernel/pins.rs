//! Where things are pinned, who may own that place, and the lock on it. Opens no BPF object.
//!
//! ```text
//! /sys/fs/bpf/filter-ctl/          the pin root; commands lock this directory
//!     links/eth0                   the link: while it exists, eth0 is filtered
//!     abi-4/                       everything whose layout depends on ABI_VERSION
//!         counters, switch, ...    the maps that stay when the tables grow
//!         tables-1/                a set of tables: one, but for moments
//!             header, entries, ... its maps
//!             explain              the program that decides without effect
//!             programs/eth0        the program on eth0
//!         new-2/                   a set that is being made; nobody uses it yet
//! ```
//!
//! Link pins lie outside the directory of the ABI, so that a build with another ABI finds them and can replace
//! the programs behind them. A set is complete from the moment it has its name; of two sets the one with the higher
//! number is the one to use.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use filter_common::abi::{ABI_VERSION, Capacity, EXPLAIN_PROGRAM, MapSpec};
use rustix::fs::{CWD, FlockOperation, Mode, OFlags, flock, fstatfs, openat};
use rustix::io::Errno;
use rustix::process::geteuid;
use thiserror::Error;

/// Where the filter is pinned unless the operator says otherwise.
pub const DEFAULT_ROOT: &str = "/sys/fs/bpf/filter-ctl";

/// Start of the name of each ABI's directory.
const ABI_DIRECTORY: &str = "abi-";

/// Start of the name of each set of tables.
const SET_DIRECTORY: &str = "tables-";

/// Start of the name of a set that is being made.
const NEW_DIRECTORY: &str = "new-";

/// Name of the directory of programs, below that of a set.
const PROGRAMS_DIRECTORY: &str = "programs";

/// `BPF_FS_MAGIC` of linux/magic.h.
const BPF_FS_MAGIC: u64 = 0xcafe_4a11;

/// How often the lock is tried again: short beside a command's few milliseconds of work, long beside a system call.
const LOCK_RETRY: Duration = Duration::from_millis(5);

/// There is no filter to work on.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("no loaded filter was found: {0}")]
pub struct NotLoaded(pub String);

/// The paths below a pin root.
#[derive(Clone, Debug)]
pub struct Pins {
    root: PathBuf,
}

impl Pins {
    /// Paths below `root`, which need not exist.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The pin root.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The directory of links.
    pub fn links(&self) -> PathBuf {
        self.root.join("links")
    }

    /// The link of an interface.
    pub fn link(&self, interface: &str) -> PathBuf {
        self.links().join(pin_name(interface))
    }

    /// The directory of everything that depends on the ABI.
    pub fn abi(&self) -> PathBuf {
        self.root.join(format!("{ABI_DIRECTORY}{ABI_VERSION}"))
    }

    /// The pin of a map that no set has to itself.
    pub fn map(&self, spec: &MapSpec) -> PathBuf {
        self.abi().join(spec.name)
    }

    /// The complete sets of tables, by their numbers; and the directories of those that are not complete.
    ///
    /// # Errors
    ///
    /// If the directory can't be read; if there is none, there are no sets.
    pub fn sets(&self) -> Result<(Vec<Set>, Vec<PathBuf>)> {
        let (mut sets, mut incomplete) = (Vec::new(), Vec::new());
        let context = || format!("could not list {}", self.abi().display());
        let entries = match fs::read_dir(self.abi()) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((sets, incomplete)),
            Err(error) => return Err(error).with_context(context),
        };
        for entry in entries {
            let path = entry.with_context(context)?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if let Some(number) = name.strip_prefix(SET_DIRECTORY).and_then(|number| number.parse().ok()) {
                sets.push(Set { pins: self.clone(), number, directory: path });
            } else if name.starts_with(NEW_DIRECTORY) {
                incomplete.push(path);
            }
        }
        sets.sort_by_key(|set| set.number);
        Ok((sets, incomplete))
    }

    /// The set of tables to use, if there is one.
    ///
    /// # Errors
    ///
    /// As [`Pins::sets`].
    pub fn set(&self) -> Result<Option<Set>> {
        Ok(self.sets()?.0.pop())
    }

    /// A set to be made, in a directory of its own.
    ///
    /// # Errors
    ///
    /// If the directories can't be made.
    pub fn new_set(&self) -> Result<Set> {
        let number = self.set()?.map_or(1, |set| set.number + 1);
        let directory = self.abi().join(format!("{NEW_DIRECTORY}{number}"));
        let set = Set { pins: self.clone(), number, directory };
        create_directory(&set.directory)?;
        create_directory(&set.programs())?;
        Ok(set)
    }

    /// Names of the interfaces that have a link pin, sorted.
    ///
    /// # Errors
    ///
    /// If the directory can't be read; if there is none, there are no links.
    pub fn loaded_interfaces(&self) -> Result<Vec<String>> {
        let links = match fs::read_dir(self.links()) {
            Ok(links) => links,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => {
                return Err(error).with_context(|| format!("could not list {}", self.links().display()));
            }
        };
        let mut names = Vec::new();
        for link in links {
            let link = link.with_context(|| format!("could not list {}", self.links().display()))?;
            names.push(interface_name(&link.file_name().to_string_lossy()));
        }
        names.sort();
        Ok(names)
    }

    /// Makes the pin root, with access for root only; does nothing where there is one.
    fn create_root(&self) -> Result<()> {
        ensure!(geteuid().is_root(), "loading the filter needs root: run it with sudo");
        self.check_file_system()?;
        create_directory(&self.root)
    }

    /// Makes the directories below the pin root. Needs the lock, since `unload` removes them.
    fn create_directories(&self) -> Result<()> {
        [self.links(), self.abi()].iter().try_for_each(|directory| create_directory(directory))
    }

    /// Removes all maps and programs of this ABI, and leaves the links, whose programs keep what they use. Needs the lock.
    ///
    /// # Errors
    ///
    /// If something can't be removed.
    pub fn forget_maps(&self) -> Result<()> {
        remove_tree(&self.abi(), DEPTH)?;
        self.create_directories()
    }

    /// Removes whatever is pinned below the root, links first, other ABIs' included, and then the root. Needs the
    /// lock.
    ///
    /// # Errors
    ///
    /// If something can't be removed, or is not something that this program puts there.
    pub fn remove(&self) -> Result<()> {
        remove_directory(&self.links())?;
        let context = || format!("could not list {}", self.root.display());
        for entry in fs::read_dir(&self.root).with_context(context)? {
            let path = entry.with_context(context)?.path();
            if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(ABI_DIRECTORY)) {
                remove_tree(&path, DEPTH)?;
            }
        }
        fs::remove_dir(&self.root).with_context(|| format!("could not remove {}", self.root.display()))
    }

    /// Refuses a place where nothing can be pinned, or where bpffs would refuse the name with a bare EPERM.
    fn check_file_system(&self) -> Result<()> {
        let root = self.root.display();
        let (Some(parent), Some(name)) = (self.root.parent(), self.root.file_name()) else {
            bail!(
                "the pin root must be a directory on a BPF file system, such as {DEFAULT_ROOT}; it is {root}"
            );
        };
        ensure!(
            !name.to_string_lossy().contains('.'),
            "the pin root {root} has a dot in its name, which the BPF file system does not allow"
        );
        let directory = File::open(parent)
            .with_context(|| format!("the pin root's parent {} can't be opened", parent.display()))?;
        let statistics = fstatfs(&directory)
            .with_context(|| format!("could not query the file system of {}", parent.display()))?;
        // The magic is an unsigned 32-bit number in a field whose type differs between architectures.
        if u64::try_from(statistics.f_type).ok().map(|magic| magic & 0xffff_ffff) != Some(BPF_FS_MAGIC) {
            bail!(
                "{} is not on a BPF file system, so nothing can be pinned there: mount it with \
                 `mount -t bpf bpf /sys/fs/bpf` (inside `ip netns exec` /sys is a fresh mount: use \
                 `nsenter --net=/run/netns/NAME` instead)",
                parent.display()
            );
        }
        Ok(())
    }
}

/// bpffs refuses dots in names, and an interface name can't hold a colon, so `eth0.7` is pinned as `eth0:7`.
fn pin_name(interface: &str) -> String {
    interface.replace('.', ":")
}

fn interface_name(pin: &str) -> String {
    pin.replace(':', ".")
}

fn create_directory(directory: &Path) -> Result<()> {
    match fs::DirBuilder::new().mode(0o700).create(directory) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            Err(error).with_context(|| format!("could not create {}", directory.display()))
        }
        _ => Ok(()),
    }
}

/// Directories below that of an ABI: sets, and their programs.
const DEPTH: u32 = 2;

/// Removes a directory that holds no directories; does nothing where there is none.
fn remove_directory(directory: &Path) -> Result<()> {
    remove_tree(directory, 0)
}

/// Removes a directory with what it holds, at most `depth` directories deep; does nothing where there is none.
fn remove_tree(directory: &Path, depth: u32) -> Result<()> {
    let context = || format!("could not remove {}", directory.display());
    let files = match fs::read_dir(directory) {
        Ok(files) => files,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).with_context(context),
    };
    for file in files {
        let file = file.with_context(context)?;
        let path = file.path();
        if depth > 0 && file.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_tree(&path, depth - 1)?;
        } else {
            fs::remove_file(&path).with_context(|| format!("could not remove {}", path.display()))?;
        }
    }
    fs::remove_dir(directory).with_context(context)
}

/// A set of tables: the maps that are made anew together when they grow, and the programs that use them.
#[derive(Clone, Debug)]
pub struct Set {
    pins: Pins,
    number: u64,
    directory: PathBuf,
}

impl Set {
    /// The pins that it is part of.
    pub fn pins(&self) -> &Pins {
        &self.pins
    }

    /// The pin of a map: of this set, or one that all share.
    pub fn map(&self, spec: &MapSpec) -> PathBuf {
        match spec.capacity {
            Capacity::Table(_) => self.directory.join(spec.name),
            Capacity::Fixed(_) => self.pins.map(spec),
        }
    }

    /// The program that explains.
    pub fn explain(&self) -> PathBuf {
        self.directory.join(EXPLAIN_PROGRAM)
    }

    /// The directory of programs.
    fn programs(&self) -> PathBuf {
        self.directory.join(PROGRAMS_DIRECTORY)
    }

    /// The program of an interface.
    pub fn program(&self, interface: &str) -> PathBuf {
        self.programs().join(pin_name(interface))
    }

    /// Gives the set the name under which it is used: one step, and it is complete.
    ///
    /// # Errors
    ///
    /// If it can't be renamed.
    pub fn complete(self) -> Result<Self> {
        let directory = self.pins.abi().join(format!("{SET_DIRECTORY}{}", self.number));
        fs::rename(&self.directory, &directory)
            .with_context(|| format!("could not rename {}", self.directory.display()))?;
        Ok(Self { directory, ..self })
    }

    /// Takes its name away, so that nobody takes it for a complete set any more.
    ///
    /// # Errors
    ///
    /// If it can't be renamed.
    pub fn retire(self) -> Result<Self> {
        let directory = self.pins.abi().join(format!("{NEW_DIRECTORY}{}", self.number));
        fs::rename(&self.directory, &directory)
            .with_context(|| format!("could not rename {}", self.directory.display()))?;
        Ok(Self { directory, ..self })
    }

    /// Removes its pins. What the kernel still uses lives on until it no longer does.
    ///
    /// # Errors
    ///
    /// If something can't be removed.
    pub fn remove(self) -> Result<()> {
        let is_complete =
            self.directory.file_name().is_some_and(|name| name.to_string_lossy().starts_with(SET_DIRECTORY));
        let set = if is_complete { self.retire()? } else { self };
        remove_tree(&set.directory, 1)
    }
}

/// Removes a set that was never completed.
///
/// # Errors
///
/// If something can't be removed.
pub fn remove_incomplete(directory: &Path) -> Result<()> {
    remove_tree(directory, 1)
}

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
                    "another filter-ctl has held the lock on {} for over {}; find it with `fuser {}`, or wait longer with --lock-wait",
                    root.display(),
                    humantime::format_duration(wait),
                    root.display(),
                );
            }
            thread::sleep(LOCK_RETRY);
        }
    }

    /// As [`Lock::acquire`], but makes the directories where they are missing.
    ///
    /// # Errors
    ///
    /// As [`Lock::acquire`]; and if the root is not on a BPF file system, or a directory can't be made.
    pub fn create(pins: &Pins, wait: Duration) -> Result<Self> {
        let deadline = Instant::now() + wait;
        loop {
            pins.create_root()?;
            match Self::acquire(pins, deadline.saturating_duration_since(Instant::now())) {
                Ok(lock) => {
                    pins.create_directories()?;
                    return Ok(lock);
                }
                // An `unload` came between.
                Err(error) if error.is::<NotLoaded>() && Instant::now() < deadline => {}
                Err(error) => return Err(error),
            }
        }
    }
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
    fn pin_names_have_no_dots_and_are_reversible() {
        for interface in ["eth0", "eth0.100", "bond0.4.7", "a-b_c"] {
            let pin = pin_name(interface);
            assert!(!pin.contains('.'));
            assert_eq!(interface_name(&pin), interface);
        }
    }

    #[test]
    fn an_ordinary_directory_is_no_place_for_pins() {
        let error = Pins::new("/tmp/filter-ctl-test").check_file_system().unwrap_err().to_string();
        assert!(error.contains("not on a BPF file system") && error.contains("mount -t bpf"), "{error}");
        let error = Pins::new("/tmp/filter.test").check_file_system().unwrap_err().to_string();
        assert!(error.contains("dot"), "{error}");
    }

    #[test]
    fn a_missing_root_means_not_loaded() {
        let error = Lock::acquire(&Pins::new("/nonexistent/filter-ctl"), Duration::ZERO).unwrap_err();
        assert!(error.is::<NotLoaded>(), "{error}");
    }
}
