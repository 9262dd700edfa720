//! Where the pins of a set of tables are, and its names through life. Opens no BPF object.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use filter_common::abi::{Capacity, EXPLAIN_PROGRAM, MapSpec};

use super::bpffs::{create_directory, interfaces_in, pin_name, remove_directory, remove_pin, remove_tree};
use super::pins::Pins;

/// Start of the name of each set of tables.
pub(super) const SET_DIRECTORY: &str = "tables-";

/// Start of the name of a set that is being made.
pub(super) const NEW_DIRECTORY: &str = "new-";

/// Name of the directory of programs, below that of a set.
const PROGRAMS_DIRECTORY: &str = "programs";

/// Name of the directory of programs that are about to take the place of those.
const NEXT_DIRECTORY: &str = "next";

/// A set of tables: the maps that are made anew together when they grow, and the programs that use them.
#[derive(Clone, Debug)]
pub struct Set {
    pins: Pins,
    pub(super) number: u64,
    directory: PathBuf,
}

impl Set {
    /// The set with this number, in this directory.
    pub(super) fn at(pins: &Pins, number: u64, directory: PathBuf) -> Self {
        Self { pins: pins.clone(), number, directory }
    }

    /// Makes its directories.
    pub(super) fn create_directories(&self) -> Result<()> {
        create_directory(&self.directory)?;
        create_directory(&self.programs())
    }

    /// The pins that it is part of.
    pub fn pins(&self) -> &Pins {
        &self.pins
    }

    /// The pin of a map: of this set, or one that all share.
    pub fn map(&self, spec: &MapSpec) -> PathBuf {
        match spec.capacity {
            Capacity::Table(_) => self.directory.join(spec.name),
            Capacity::Fixed(_) | Capacity::EachCpu(_) => self.pins.map(spec),
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

    /// The program that is about to take the place of an interface's: from before it is behind the link until it has the
    /// other's name, so that whoever comes in between knows it.
    pub fn next(&self, interface: &str) -> PathBuf {
        self.directory.join(NEXT_DIRECTORY).join(pin_name(interface))
    }

    /// The program that is about to take the place of [`Set::explain`].
    pub fn next_explain(&self) -> PathBuf {
        self.directory.join(format!("{EXPLAIN_PROGRAM}-{NEXT_DIRECTORY}"))
    }

    /// Makes the directory of [`Set::next`].
    ///
    /// # Errors
    ///
    /// If it can't be made.
    pub fn create_next(&self) -> Result<()> {
        create_directory(&self.directory.join(NEXT_DIRECTORY))
    }

    /// Names of the interfaces that have a [`Set::next`].
    ///
    /// # Errors
    ///
    /// If the directory can't be read; if there is none, there are no such programs.
    pub fn next_interfaces(&self) -> Result<Vec<String>> {
        interfaces_in(&self.directory.join(NEXT_DIRECTORY))
    }

    /// Removes the directory of [`Set::next`] with what is in it, and [`Set::next_explain`].
    ///
    /// # Errors
    ///
    /// If something can't be removed.
    pub fn remove_next(&self) -> Result<()> {
        remove_pin(&self.next_explain())?;
        remove_directory(&self.directory.join(NEXT_DIRECTORY))
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
