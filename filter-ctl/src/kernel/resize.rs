//! Sets of tables: making one, and putting another in place of the one in use.
//!
//! A map can't grow. So a larger set is made and filled beside the one in use, named as complete, and then the program
//! behind each link is replaced by one that uses it: in one step for each interface, and every packet meets a program
//! and tables that hold all entries. What the old programs counted up to that moment is credited to the entries in the
//! new set, and then the old set goes. Whoever dies on the way leaves either an incomplete set, which the next command
//! removes, or two complete ones, from which it goes on.

use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use aya::programs::ProgramInfo;
use filter_common::abi::PROGRAM;
use filter_common::prefix::{self, Edit, Family, Geometry, Seeds, Table};

use super::filter::Filter;
use super::interface::{self, Program, State};
use super::mapped::MappedCells;
use super::maps;
use super::pins::{Pins, Set};
use crate::host::{memory_available, monotonic_now_s};

/// How long a program may still be running after another took its place behind the link. It takes microseconds; this
/// also covers a virtual CPU that is not scheduled meanwhile.
const RUN_OUT: Duration = Duration::from_millis(200);

/// How a table may be made anew before it is given up: each try has other seeds, and fails once in 10^9 at full load.
const TRIES: u32 = 3;

/// The sizes of tables for these capacities on this host.
///
/// # Errors
///
/// If it is more than maps can hold, or than memory is free.
pub fn geometry(capacity_v4: u32, capacity_v6: u32) -> Result<Geometry> {
    let cpus = aya::util::nr_cpus().map_err(|(what, error)| anyhow::Error::new(error).context(what))?;
    let geometry = Geometry { capacity_v4, capacity_v6, cpus: u32::try_from(cpus)? };
    ensure!(
        geometry.is_possible(),
        "tables of {capacity_v4} IPv4 and {capacity_v6} IPv6 entries with counters for {cpus} CPUs are more than the kernel's \
         maps can hold; ask for fewer"
    );
    let (needed, available) = (geometry.bytes(), memory_available()?);
    ensure!(
        needed <= available,
        "tables of {capacity_v4} IPv4 and {capacity_v6} IPv6 entries need {} MiB, and {} MiB of memory are available; ask \
         for fewer with --max-ipv4 and --max-ipv6",
        needed >> 20,
        available >> 20
    );
    Ok(geometry)
}

/// Makes a set of tables, with seeds of its own, and fills it; complete once this returns.
///
/// # Errors
///
/// If the kernel refuses a map or program, or filling fails; then nothing is left of it.
pub fn create_set(
    pins: &Pins,
    geometry: Geometry,
    verbose: bool,
    fill: impl Fn(&mut Table<MappedCells>) -> Result<()>,
) -> Result<Set> {
    let set = pins.new_set()?;
    let made = (|| {
        let seeds = random_seeds()?;
        interface::create_maps(&set, geometry, seeds, verbose)?;
        let cells = MappedCells::open(&set, geometry)?;
        fill(&mut Table::create(cells, geometry, seeds))
    })();
    match made {
        Ok(()) => set.complete(),
        Err(error) => {
            set.remove()?;
            Err(error)
        }
    }
}

fn random_seeds() -> Result<Seeds> {
    let mut bytes = [0; 24];
    let mut filled = 0;
    while filled < bytes.len() {
        filled += rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty())
            .context("the kernel gave no random numbers for the tables' seeds")?;
    }
    let word = |position: usize| u64::from_ne_bytes(std::array::from_fn(|byte| bytes[8 * position + byte]));
    // The third multiplies small numbers: odd, so that no bit of them is lost.
    Ok(Seeds([word(0), word(1), word(2) | 1]))
}

/// Makes the tables anew, with these capacities.
///
/// # Errors
///
/// If the entries don't fit, memory is short, or the kernel refuses; then everything is as it was.
/// [`PartlyApplied`](super::filter::PartlyApplied) is no outcome: from a certain point on, the next command goes on.
pub fn resize(filter: &mut Filter, max_v4: Option<u32>, max_v6: Option<u32>, verbose: bool) -> Result<()> {
    filter.clear_expired()?;
    let before = filter.geometry();
    for (asked, family, option) in [(max_v4, Family::V4, "--max-ipv4"), (max_v6, Family::V6, "--max-ipv6")] {
        let used = filter.room(family).used;
        if let Some(asked) = asked.filter(|asked| *asked < used) {
            bail!("{used} entries are in use, so {option} {asked} is too few; nothing was changed");
        }
    }
    for loaded in filter.interfaces()? {
        if let State::Stale { device, .. } = loaded.state {
            bail!(
                "{device} runs the program of another build, which would keep the tables that it has; `filter-ctl unload \
                 {device}` first. Nothing was changed"
            );
        }
    }
    let geometry = geometry(max_v4.unwrap_or(before.capacity_v4), max_v6.unwrap_or(before.capacity_v6))?;
    filter.table.cells().map_all()?;
    let mut tries = 0;
    let set = loop {
        tries += 1;
        match create_set(filter.pins(), geometry, verbose, |new| copy(&filter.table, new)) {
            Err(error) if tries < TRIES && error.is::<prefix::Refused>() => {}
            made => break made?,
        }
    };
    let older = std::mem::replace(&mut filter.set, set);
    filter.table = maps::open_table(&filter.set)?;
    adopt(filter, &older, verbose)
}

/// Copies all entries, with their notes and what they have counted so far.
fn copy(from: &Table<MappedCells>, to: &mut Table<MappedCells>) -> Result<()> {
    to.cells().map_all()?;
    let mut notes = std::collections::HashMap::new();
    let mut edits = Vec::new();
    for (_, entry) in from.entries() {
        let note = match notes.get(&entry.note) {
            Some(note) => *note,
            None => {
                let (owner, reason) = from.note(entry.note);
                let note = to.hold_note(&owner, &reason)?;
                notes.insert(entry.note, note);
                note
            }
        };
        edits.push(Edit::Insert(prefix::Entry { note, ..entry }));
    }
    to.apply(&edits, monotonic_now_s())?;
    for note in notes.into_values() {
        to.release_note(note);
    }
    credit(from, to);
    Ok(())
}

/// Gives each entry what it had counted in the other table.
fn credit(from: &Table<MappedCells>, to: &mut Table<MappedCells>) {
    // Both are in the order of the same keys.
    let ids: Vec<u32> = to.entries().map(|(id, _)| id).collect();
    for (id, (old, entry)) in ids.into_iter().zip(from.entries()) {
        to.credit(id, from.counted(old, &entry));
    }
}

/// Puts programs with the filter's tables in place of those that use the set `older`, and removes that set. Does
/// whatever of it is left to do.
///
/// # Errors
///
/// If the kernel refuses a program; then that interface runs on with the older tables, until a later command goes on.
pub(super) fn adopt(filter: &mut Filter, older: &Set, verbose: bool) -> Result<()> {
    let pins = filter.pins().clone();
    let older_table = maps::open_table(older)?;
    older_table.cells().map_all()?;
    filter.table.cells().map_all()?;
    for name in pins.loaded_interfaces()? {
        let running = interface::program_of(&pins, &name)?;
        let Ok(info) = ProgramInfo::from_pin(older.program(&name)) else { continue };
        if running != Some(info.id()) {
            continue;
        }
        let slot = interface::slot_of(&filter.maps, &name)?
            .with_context(|| format!("{name} has a program and no counters; unload it and load it again"))?;
        let program = Program {
            set: &filter.set,
            geometry: filter.table.geometry(),
            shape: filter.table.shape(),
            slot,
            verbose,
        };
        program.replace(&pins, &name, info.name_as_str().unwrap_or(PROGRAM))?;
    }
    thread::sleep(RUN_OUT);
    credit(&older_table, &mut filter.table);
    older.remove()
}
