//! Sets of tables: making one, and putting another in place of the one in use.
//!
//! A map can't grow. So a larger set is made and filled beside the one in use, programs that use it are loaded for each
//! interface, and only then it is named as complete. What is left is to replace the program behind each link: in one
//! step for each interface, and every packet meets a program and tables that hold all entries. What the old programs
//! counted up to that moment is credited to the entries in the new set, and then the old set goes.
//!
//! Whoever dies on the way leaves either an incomplete set, which the next command removes, or two complete ones, from
//! which it goes on. Where the kernel refuses a link, those that were switched are switched back, and the new set goes.

use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use aya::programs::ProgramInfo;
use filter_common::abi::{Counter, PROGRAM};
use filter_common::prefix::{self, Edit, Family, Geometry, Seeds, Table};

use super::filter::{Filter, PartlyApplied};
use super::interface::{self, Program, State};
use super::mapped::MappedCells;
use super::maps;
use super::pins::{Pins, Set};
use crate::host::{Monotonic, memory_available};

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

/// Makes a set of tables, with seeds of its own, and has `fill` put into it what else it must have; complete once this
/// returns.
///
/// # Errors
///
/// If the kernel refuses a map or program, or filling fails; then nothing is left of it.
pub fn create_set(
    pins: &Pins,
    geometry: Geometry,
    verbose: bool,
    fill: impl Fn(&Set, &mut Table<MappedCells>) -> Result<()>,
) -> Result<Set> {
    let set = pins.new_set()?;
    let made = (|| {
        let seeds = random_seeds()?;
        interface::create_maps(&set, geometry, seeds, verbose)?;
        let cells = MappedCells::open(&set, geometry)?;
        fill(&set, &mut Table::create(cells, geometry, seeds))
    })();
    match made {
        Ok(()) => set.complete(),
        Err(error) => Err(match set.remove() {
            Ok(()) => error,
            Err(undo) => error.context(format!("what was made could not be removed: {undo:#}")),
        }),
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
/// If the entries don't fit, memory is short, or the kernel refuses; then everything is as it was, or
/// [`PartlyApplied`] says that it could not be put back.
pub fn resize(filter: &mut Filter, max_v4: Option<u32>, max_v6: Option<u32>, verbose: bool) -> Result<()> {
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
    let running = running_with(filter.pins(), &filter.set)?;
    let fill = |set: &Set, new: &mut Table<MappedCells>| {
        copy(&filter.table, new)?;
        running.iter().try_for_each(|(interface, program)| {
            let slot = interface::slot_of(&filter.maps, interface)?;
            let slot = slot.with_context(|| format!("{interface} has a program and no counters"))?;
            Program { set, geometry, shape: new.shape(), slot, verbose }.prepare(interface, program)
        })
    };
    let mut tries = 0;
    let set = loop {
        tries += 1;
        match create_set(filter.pins(), geometry, verbose, fill) {
            Err(error) if tries < TRIES && error.downcast_ref() == Some(&prefix::Refused::NoPlace) => {}
            made => break made.context("nothing was changed")?,
        }
    };
    let table = match maps::open_table(&set) {
        Ok(table) => table,
        Err(error) => {
            return Err(match set.remove() {
                Ok(()) => error.context("nothing was changed"),
                Err(undo) => PartlyApplied::after(&error, &undo).into(),
            });
        }
    };
    let older = std::mem::replace(&mut filter.set, set);
    let older_table = std::mem::replace(&mut filter.table, table);
    adopt(filter, older, older_table)
}

/// The interfaces whose link runs the program that `set` has pinned for them, and the names of these programs.
fn running_with(pins: &Pins, set: &Set) -> Result<Vec<(String, String)>> {
    let mut running = Vec::new();
    for interface in pins.loaded_interfaces()? {
        let Ok(info) = ProgramInfo::from_pin(set.program(&interface)) else { continue };
        if interface::program_of(pins, &interface)? == Some(info.id()) {
            running.push((interface, info.name_as_str().unwrap_or(PROGRAM).to_owned()));
        }
    }
    Ok(running)
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
    to.apply(&edits, &Monotonic)?;
    for note in notes.into_values() {
        to.release_note(note);
    }
    credit(from, to);
    to.set_stored(from.stored());
    Ok(())
}

/// Gives each entry what it had counted in the other table.
fn credit(from: &Table<MappedCells>, to: &mut Table<MappedCells>) {
    let ids: Vec<(u32, prefix::Key)> = to.entries().map(|(id, entry)| (id, entry.key)).collect();
    // Both are in the order of keys.
    let mut older = from.entries().peekable();
    for (id, key) in ids {
        while older.next_if(|(_, entry)| entry.key < key).is_some() {}
        if let Some((old, entry)) = older.next_if(|(_, entry)| entry.key == key) {
            to.credit(id, from.counted(old, &entry));
        }
    }
}

/// Puts the programs of the filter's set in place of those that use the set `older`, and removes that set. Does whatever
/// of it is left to do. Where the kernel refuses one, all go back to the older set, which is the filter's again.
///
/// # Errors
///
/// What the kernel refused; [`PartlyApplied`] if it could not be put back either.
pub(super) fn adopt(filter: &mut Filter, older: Set, older_table: Table<MappedCells>) -> Result<()> {
    let switched = (|| {
        older_table.cells().map_all()?;
        filter.table.cells().map_all()?;
        let waiting = running_with(filter.pins(), &older)?;
        waiting.iter().try_for_each(|(interface, _)| interface::switch_to(&filter.set, interface))
    })();
    if let Err(error) = switched {
        return Err(match give_up(filter, older, older_table) {
            Ok(()) => error.context("the tables are as they were"),
            Err(undo) => PartlyApplied::after(&error, &undo).into(),
        });
    }
    thread::sleep(RUN_OUT);
    credit(&older_table, &mut filter.table);
    older.remove().map_err(|error| {
        PartlyApplied(format!(
            "the new tables are in force, and the old ones could not be removed: {error:#}"
        ))
        .into()
    })
}

/// Puts the older set in the place of the filter's, and removes that.
fn give_up(filter: &mut Filter, older: Set, older_table: Table<MappedCells>) -> Result<()> {
    for (interface, _) in running_with(filter.pins(), &filter.set)? {
        interface::switch_to(&older, &interface)?;
    }
    let newer = std::mem::replace(&mut filter.set, older);
    let newer_table = std::mem::replace(&mut filter.table, older_table);
    // From here on nobody takes it up again. What its programs counted meanwhile is added to what the older ones had.
    let newer = newer.retire()?;
    thread::sleep(RUN_OUT);
    let counted: Vec<_> =
        newer_table.entries().map(|(id, entry)| (entry.key, newer_table.counter(id))).collect();
    for (key, newly) in counted {
        if let Some(id) = filter.table.lookup(&key)
            && let Some(entry) = filter.table.entry(id)
        {
            let base = Counter {
                packets: entry.base.packets.wrapping_sub(newly.packets),
                bytes: entry.base.bytes.wrapping_sub(newly.bytes),
            };
            filter.table.set_base(id, base);
        }
    }
    newer.remove()
}
