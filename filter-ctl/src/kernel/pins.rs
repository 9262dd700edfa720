//! Where things are pinned. Opens no BPF object.
//!
//! ```text
//! /sys/fs/bpf/filter-ctl/          the pin root; commands lock this directory
//!     links/eth0                   the link: while it exists, eth0 is filtered
//!     abi-6/                       everything whose layout depends on ABI_VERSION
//!         counters, switch, ...    the maps that stay when the tables grow
//!         tables-1/                a set of tables: one, but for moments
//!             header, entries, ... its maps
//!             explain              the program that decides without effect
//!             programs/eth0        the program on eth0
//!             next/eth0            while an upgrade puts it in the place of that: a newer build's
//!         new-2/                   a set that is being made; nobody uses it yet
//! ```
//!
//! Link pins lie outside the directory of the ABI, so that a build with another ABI finds them and can replace
//! the programs behind them. An ABI whose directory is renamed to `abi-5-gone` is being removed. A set is complete from the moment it has its name; of two sets the one with the higher
//! number is the one to use.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use filter_common::abi::{ABI_VERSION, MapSpec};
use rustix::fs::fstatfs;
use rustix::process::geteuid;
use thiserror::Error;

use super::bpffs::{
    create_directory, interface_name, interfaces_in, pin_name, remove_directory, remove_tree,
};
use super::set::{NEW_DIRECTORY, SET_DIRECTORY, Set};

/// Where the filter is pinned unless the operator says otherwise.
pub const DEFAULT_ROOT: &str = "/sys/fs/bpf/filter-ctl";

/// Directories below that of an ABI: sets, and their programs.
const DEPTH: u32 = 2;

/// Directory of notes, below the pin root: names that were unloaded while that could not be written down.
const UNLOADED: &str = "unloaded";

/// Start of the name of each ABI's directory.
const ABI_DIRECTORY: &str = "abi-";

/// End of the name of an ABI's directory that is being removed.
const GONE: &str = "-gone";

/// `BPF_FS_MAGIC` of linux/magic.h.
const BPF_FS_MAGIC: u64 = 0xcafe_4a11;

/// There is no filter to work on.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("no loaded filter was found: {0}")]
pub struct NotLoaded(pub String);

/// Interfaces are filtered, with tables that nobody can reach any more.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "{0}: filtered by entries whose tables somebody unpinned, so that nothing can be changed or counted; \
     `filter-ctl repair` makes them anew from the store, and the filter goes on meanwhile"
)]
pub struct TablesGone(pub String);

/// The paths below a pin root.
#[derive(Clone, Debug)]
pub struct Pins {
    root: PathBuf,
    abi: u32,
}

impl Pins {
    /// Paths below `root`, which need not exist.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into(), abi: ABI_VERSION }
    }

    /// The paths of an ABI, which may be another build's.
    #[must_use]
    pub fn of_abi(&self, abi: u32) -> Self {
        Self { root: self.root.clone(), abi }
    }

    /// The ABI whose paths these are.
    pub fn abi_version(&self) -> u32 {
        self.abi
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
        self.root.join(format!("{ABI_DIRECTORY}{}", self.abi))
    }

    /// Other ABIs that have a complete set of tables, in ascending order.
    ///
    /// # Errors
    ///
    /// If a directory can't be read.
    pub fn others(&self) -> Result<Vec<Self>> {
        let mut others = Vec::new();
        for name in self.abi_names()? {
            let number = name.strip_prefix(ABI_DIRECTORY).and_then(|number| number.parse().ok());
            if let Some(other) = number.filter(|abi| *abi != self.abi).map(|abi| self.of_abi(abi))
                && other.set()?.is_some()
            {
                others.push(other);
            }
        }
        others.sort_by_key(|other| other.abi);
        Ok(others)
    }

    /// Names of the directories of ABIs.
    fn abi_names(&self) -> Result<Vec<String>> {
        let context = || format!("could not list {}", self.root.display());
        let entries = match fs::read_dir(&self.root) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error).with_context(context),
        };
        let names =
            entries.map(|entry| Ok(entry.with_context(context)?.file_name().to_string_lossy().into()));
        let names: Vec<String> = names.collect::<Result<_>>()?;
        Ok(names.into_iter().filter(|name| name.starts_with(ABI_DIRECTORY)).collect())
    }

    /// Removes the directory of the ABI: one step, and nobody takes what is in it for a filter any more. Does nothing
    /// where there is none.
    ///
    /// # Errors
    ///
    /// If something can't be removed.
    pub fn remove_abi(&self) -> Result<()> {
        self.remove_gone()?;
        let (directory, gone) = (self.abi(), self.root.join(format!("{ABI_DIRECTORY}{}{GONE}", self.abi)));
        match fs::rename(&directory, &gone) {
            Ok(()) => remove_tree(&gone, DEPTH),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error).with_context(|| format!("could not rename {}", directory.display())),
        }
    }

    /// Removes what is left of ABIs whose removal was interrupted.
    ///
    /// # Errors
    ///
    /// If something can't be removed.
    pub fn remove_gone(&self) -> Result<()> {
        let names = self.abi_names()?;
        let gone = names.iter().filter(|name| name.ends_with(GONE));
        gone.map(|name| self.root.join(name)).try_for_each(|path| remove_tree(&path, DEPTH))
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
                sets.push(Set::at(self, number, path));
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
        let set = Set::at(self, number, directory);
        set.create_directories()?;
        Ok(set)
    }

    /// Names of the interfaces that have a link pin, sorted.
    ///
    /// # Errors
    ///
    /// If the directory can't be read; if there is none, there are no links.
    pub fn loaded_interfaces(&self) -> Result<Vec<String>> {
        interfaces_in(&self.links())
    }

    /// Makes the pin root, with access for root only; does nothing where there is one.
    pub(super) fn create_root(&self) -> Result<()> {
        ensure!(geteuid().is_root(), "loading the filter needs root: run it with sudo");
        self.check_file_system()?;
        create_directory(&self.root)
    }

    /// Makes the directories below the pin root. Needs the lock, since `unload` removes them.
    pub(super) fn create_directories(&self) -> Result<()> {
        [self.links(), self.abi()].iter().try_for_each(|directory| create_directory(directory))
    }

    /// Names that were unloaded while that could not be written down: they are not to be filtered, whatever the store says.
    ///
    /// # Errors
    ///
    /// If they can't be read.
    pub fn unloaded(&self) -> Result<Vec<String>> {
        let directory = self.root.join(UNLOADED);
        let context = || format!("could not list {}", directory.display());
        let names = match fs::read_dir(&directory) {
            Ok(names) => names,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error).with_context(context),
        };
        names
            .map(|name| Ok(interface_name(&name.with_context(context)?.file_name().to_string_lossy())))
            .collect()
    }

    /// Notes names as unloaded. Needs the lock.
    ///
    /// # Errors
    ///
    /// If they can't be noted.
    pub fn note_unloaded(&self, names: &[String]) -> Result<()> {
        let directory = self.root.join(UNLOADED);
        create_directory(&directory)?;
        names.iter().try_for_each(|name| create_directory(&directory.join(pin_name(name))))
    }

    /// Forgets that names were unloaded: all of those that these match. Needs the lock.
    ///
    /// # Errors
    ///
    /// If a note can't be removed.
    pub fn forget_unloaded(&self, names: &[String]) -> Result<()> {
        let patterns: Vec<_> = names.iter().filter_map(|name| glob::Pattern::new(name).ok()).collect();
        for name in self.unloaded()? {
            if names.contains(&name) || patterns.iter().any(|pattern| pattern.matches(&name)) {
                let note = self.root.join(UNLOADED).join(pin_name(&name));
                fs::remove_dir(&note).with_context(|| format!("could not remove {}", note.display()))?;
            }
        }
        Ok(())
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
        for name in self.abi_names()? {
            remove_tree(&self.root.join(name), DEPTH)?;
        }
        if !self.unloaded()?.is_empty() {
            return Ok(());
        }
        remove_tree(&self.root.join(UNLOADED), 1)?;
        fs::remove_dir(&self.root).with_context(|| format!("could not remove {}", self.root.display()))
    }

    /// Refuses a place where nothing can be pinned, or where bpffs would refuse the name with a bare EPERM.
    pub(super) fn check_file_system(&self) -> Result<()> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ordinary_directory_is_no_place_for_pins() {
        let error = Pins::new("/tmp/filter-ctl-test").check_file_system().unwrap_err().to_string();
        assert!(error.contains("not on a BPF file system") && error.contains("mount -t bpf"), "{error}");
        let error = Pins::new("/tmp/filter.test").check_file_system().unwrap_err().to_string();
        assert!(error.contains("dot"), "{error}");
    }
}
