//! Putting a set of tables, with its programs, in the place of another: a larger one, or that of another build.
//!
//! The newer set is complete and holds all entries. What is left is to replace the program behind each link: in one
//! step for each interface, and every packet meets a program and tables that hold all entries. What the old programs
//! counted up to that moment is credited to the entries in the new set, and then the old set goes.
//!
//! Whoever dies on the way leaves two complete sets, from which the next command goes on. Where the kernel refuses a
//! link, those that were switched are switched back, and the new set goes.

use std::collections::HashMap;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};
use aya::programs::ProgramInfo;
use filter_common::abi::{Counter, PROGRAM};
use filter_common::prefix::{self, Edit, Key, Table};

use super::filter::{Filter, PartlyApplied};
use super::interface;
use super::mapped::MappedCells;
use super::maps::{self, Maps};
use super::pins::Pins;
use super::program::Program;
use super::set::Set;
use crate::host::Monotonic;

/// How long a program may still be running after another took its place behind the link. It takes microseconds; this
/// also covers a virtual CPU that is not scheduled meanwhile.
pub(super) const RUN_OUT: Duration = Duration::from_millis(200);

/// Tables, and what their entries are to be read from.
#[derive(Clone, Copy)]
pub(super) enum Source<'t> {
    /// Those of this ABI, with all their arrays.
    Ours(&'t Table<MappedCells>),
    /// Those of another, of which only entries, notes and counters are known.
    Other(&'t Table<MappedCells>),
}

impl<'t> Source<'t> {
    fn table(self) -> &'t Table<MappedCells> {
        match self {
            Self::Ours(table) | Self::Other(table) => table,
        }
    }

    /// All entries, in the order of their keys.
    fn entries(self) -> Box<dyn Iterator<Item = (u32, prefix::Entry)> + 't> {
        match self {
            Self::Ours(table) => Box::new(table.entries()),
            Self::Other(table) => {
                let mut entries: Vec<_> = table.entries_by_id().collect();
                entries.sort_unstable_by_key(|(_, entry)| entry.key);
                Box::new(entries.into_iter())
            }
        }
    }
}

/// A set of tables whose place another takes.
pub(super) struct Older {
    pub set: Set,
    pub table: Table<MappedCells>,
    is_ours: bool,
}

impl Older {
    /// A set of this ABI.
    pub fn open(set: Set) -> Result<Self> {
        Ok(Self { table: maps::open_table(&set)?, set, is_ours: true })
    }

    /// A set of another ABI.
    pub fn of_other_abi(set: Set) -> Result<Self> {
        Ok(Self { table: maps::open_readable(&set)?, set, is_ours: false })
    }

    /// A set that this process has in use.
    pub fn in_use(set: Set, table: Table<MappedCells>) -> Self {
        Self { set, table, is_ours: true }
    }

    /// What others are filled from.
    pub fn source(&self) -> Source<'_> {
        if self.is_ours { Source::Ours(&self.table) } else { Source::Other(&self.table) }
    }

    fn keys(&self) -> Vec<(u32, Key)> {
        self.source().entries().map(|(id, entry)| (id, entry.key)).collect()
    }
}

/// An interface that a set's program runs for.
pub(super) struct Running {
    pub interface: String,
    /// The program's name.
    pub program: String,
    /// Where it is pinned.
    pub pin: PathBuf,
}

/// The interfaces whose link runs a program that `set` has pinned for them.
pub(super) fn running_with(pins: &Pins, set: &Set) -> Result<Vec<Running>> {
    let mut running = Vec::new();
    for interface in pins.loaded_interfaces()? {
        let Some(behind) = interface::program_of(pins, &interface)? else { continue };
        for pin in [set.program(&interface), set.next(&interface)] {
            let Ok(info) = ProgramInfo::from_pin(&pin) else { continue };
            if info.id() == behind {
                let program = info.name_as_str().unwrap_or(PROGRAM).to_owned();
                running.push(Running { interface, program, pin });
                break;
            }
        }
    }
    Ok(running)
}

/// Loads the programs of `set` for these interfaces, and pins them in it. Nothing runs them yet.
pub(super) fn prepare(
    set: &Set,
    table: &Table<MappedCells>,
    maps: &Maps,
    running: &[Running],
    verbose: bool,
) -> Result<()> {
    running.iter().try_for_each(|Running { interface, program, .. }| {
        let slot = interface::counted_slot(maps, interface)?;
        let loaded = Program { set, geometry: table.geometry(), shape: table.shape(), slot, verbose };
        loaded.prepare(program, &set.program(interface))
    })
}

/// Gives `to` the entries of `from` and no others, with their notes and what they have counted so far.
pub(super) fn copy(from: Source<'_>, to: &mut Table<MappedCells>) -> Result<()> {
    to.cells().map_all()?;
    let mut notes = HashMap::new();
    let mut edits = Vec::new();
    let there: Vec<_> = to.entries().collect();
    let mut there = there.into_iter().peekable();
    for (_, entry) in from.entries() {
        let note = match notes.get(&entry.note) {
            Some(note) => *note,
            None => {
                let (owner, reason) = from.table().note(entry.note);
                let note = to.hold_note(&owner, &reason)?;
                notes.insert(entry.note, note);
                note
            }
        };
        while let Some((id, _)) = there.next_if(|(_, other)| other.key < entry.key) {
            edits.push(Edit::Remove(id));
        }
        let prefix::Entry { slots, until_s, .. } = entry;
        match there.next_if(|(_, other)| other.key == entry.key) {
            Some((_, other)) if (other.slots, other.until_s, other.note) == (slots, until_s, note) => {}
            Some((id, _)) => edits.push(Edit::Update { id, slots, until_s, note }),
            None => edits.push(Edit::Insert(prefix::Entry { note, ..entry })),
        }
    }
    edits.extend(there.map(|(id, _)| Edit::Remove(id)));
    to.apply(&edits, &Monotonic)?;
    for note in notes.into_values() {
        to.release_note(note);
    }
    let keys = Source::Ours(to).entries().map(|(id, entry)| (id, entry.key)).collect();
    credit(from, to, keys);
    to.set_stored(from.table().stored());
    Ok(())
}

/// Gives each of these entries of `to`, which are in the order of their keys, what it had counted in the other table.
fn credit(from: Source<'_>, to: &mut Table<MappedCells>, keys: Vec<(u32, Key)>) {
    let mut older = from.entries().peekable();
    for (id, key) in keys {
        while older.next_if(|(_, entry)| entry.key < key).is_some() {}
        if let Some((old, entry)) = older.next_if(|(_, entry)| entry.key == key) {
            to.credit(id, from.table().counted(old, &entry));
        }
    }
}

/// Gives each set, from the oldest on, what its entries had counted in the one before. May be done again at any time.
pub(super) fn credit_along(older: &mut [Older]) {
    for position in 1..older.len() {
        if let [.., from, to] = &mut older[..=position] {
            let keys = to.keys();
            credit(from.source(), &mut to.table, keys);
        }
    }
}

/// Puts the programs of the filter's set in place of those that use the sets `older`, of which the last is the newest,
/// and removes these. Does whatever of it is left to do. Where the kernel refuses one, all go back to the newest of the
/// older sets, which is the filter's again.
///
/// # Errors
///
/// What the kernel refused; [`PartlyApplied`] if it could not be put back either.
pub(super) fn adopt(filter: &mut Filter, mut older: Vec<Older>) -> Result<()> {
    if older.is_empty() {
        return Ok(());
    }
    let switched = (|| {
        older.iter().try_for_each(|older| older.table.cells().map_all())?;
        filter.table.cells().map_all()?;
        for older in &older {
            for Running { interface, .. } in running_with(filter.pins(), &older.set)? {
                interface::switch_to(filter.pins(), &interface, &filter.set.program(&interface))?;
            }
        }
        Ok(())
    })();
    if let Err(error) = switched {
        return Err(go_back(filter, older, error));
    }
    thread::sleep(RUN_OUT);
    credit_along(&mut older);
    if let Some(newest) = older.last() {
        let keys = filter.table.entries().map(|(id, entry)| (id, entry.key)).collect();
        credit(newest.source(), &mut filter.table, keys);
    }
    let removed = older.into_iter().try_for_each(|older| remove(older.set, filter.pins()));
    removed.map_err(|error| {
        PartlyApplied(format!(
            "the new tables are in force, and the old ones could not be removed: {error:#}"
        ))
        .into()
    })
}

/// Removes a set that the one of `other` has taken the place of: with everything, if that is another ABI's.
fn remove(set: Set, other: &Pins) -> Result<()> {
    if set.pins().abi_version() == other.abi_version() { set.remove() } else { set.pins().remove_abi() }
}

/// Goes back to the newest of the older sets after `error`, and returns what to report.
pub(super) fn go_back(filter: &mut Filter, mut older: Vec<Older>, error: anyhow::Error) -> anyhow::Error {
    let gone_back = match older.pop() {
        Some(newest) => give_up(filter, newest),
        None => Ok(()),
    };
    match gone_back {
        Ok(()) => error.context("the tables are as they were"),
        Err(undo) => PartlyApplied::after(&error, &undo).into(),
    }
}

/// Puts the older set in the place of the filter's, and removes that.
fn give_up(filter: &mut Filter, older: Older) -> Result<()> {
    for Running { interface, .. } in running_with(filter.pins(), &filter.set)? {
        let program = older.set.program(&interface);
        interface::switch_to(filter.pins(), &interface, &program)?;
    }
    let newer = std::mem::replace(&mut filter.set, older.set);
    let newer_table = std::mem::replace(&mut filter.table, older.table);
    // From here on nobody takes it up again. What its programs counted meanwhile is added to what the older ones had.
    let newer = newer.retire()?;
    thread::sleep(RUN_OUT);
    let counted: HashMap<Key, Counter> =
        newer_table.entries().map(|(id, entry)| (entry.key, newer_table.counter(id))).collect();
    let ids: Vec<_> = filter.table.entries_by_id().collect();
    for (id, entry) in ids {
        if let Some(newly) = counted.get(&entry.key) {
            let base = Counter {
                packets: entry.base.packets.wrapping_sub(newly.packets),
                bytes: entry.base.bytes.wrapping_sub(newly.bytes),
            };
            filter.table.set_base(id, base);
        }
    }
    remove(newer, &filter.set.pins().clone()).context("the new tables could not be removed")
}
