//! The loaded filter, locked: its entries, and the changes to them.

use std::collections::{HashMap, HashSet, hash_map};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use filter_common::abi::{self, Counter};
use filter_common::prefix::{self, AHEAD, Edit, Family, Finger, Geometry, REST_S, Refused, Table};
use filter_common::{NO_ENTRY, Reason};
use thiserror::Error;

use super::builds;
use super::handover::{self, Older};
use super::interface::{self, Loaded};
use super::lock::Lock;
use super::mapped::MappedCells;
use super::maps::{self, Maps};
use super::pins::{NotLoaded, Pins, TablesGone};
use super::program;
use super::renew;
use super::set::{self, Set};
use crate::host::{Monotonic, monotonic_now_s};
use crate::plan::{self, Current, Plan, Room, Target};
use crate::policy::{Action, Deadline, Entry, Key, Owner, Prefix, ReasonText};

/// Entries of a change from which on all arrays are mapped whole: below, the pieces that it touches cost less.
const MANY: usize = 512;

/// Slots of the policy that an entry made by a command is part of: both, so that it outlives a switch.
const BOTH_SLOTS: u8 = 0b11;

/// A change that could neither be finished nor undone.
#[derive(Debug, Error)]
#[error("the change was only partly applied, and the next command tries to finish it: {0}")]
pub struct PartlyApplied(pub String);

impl PartlyApplied {
    /// Of a change that failed with `error`, and whose undoing failed with `undo`.
    pub fn after(error: &anyhow::Error, undo: &anyhow::Error) -> Self {
        Self(format!("{error:#}; undoing it failed too: {undo:#}"))
    }
}

/// What to report of a change that failed with `error` and was, or was not, undone.
fn failed(error: anyhow::Error, undone: Result<()>) -> anyhow::Error {
    match undone {
        Ok(()) => error.context("nothing was changed"),
        Err(undo) => PartlyApplied::after(&error, &undo).into(),
    }
}

/// Numbers of entries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Those that block and have not ended.
    pub block: usize,
    /// Those that allow and have not ended.
    pub allow: usize,
    /// Those that have ended and are not cleared away yet.
    pub expired: usize,
}

/// The filter below a pin root, while nobody else changes it.
pub struct Filter {
    pins: Pins,
    pub(super) maps: Maps,
    pub(super) set: Set,
    pub(super) table: Table<MappedCells>,
    _lock: Arc<Lock>,
}

impl Filter {
    /// Opens the filter, and finishes a change that another process died in.
    ///
    /// # Errors
    ///
    /// [`NotLoaded`] if there is none.
    pub fn open(pins: Pins, lock_wait: Duration) -> Result<Self> {
        let lock = Arc::new(Lock::acquire(&pins, lock_wait)?);
        Self::open_locked(pins, lock)
    }

    /// As [`Filter::open`], by a caller that has the lock.
    pub(crate) fn open_locked(pins: Pins, lock: Arc<Lock>) -> Result<Self> {
        builds::require_ours(&pins)?;
        Self::open_ours(pins, lock)
    }

    /// As [`Filter::open_locked`], also while another ABI's filter is there, whose place this one is taking.
    pub(super) fn open_ours(pins: Pins, lock: Arc<Lock>) -> Result<Self> {
        let (mut sets, incomplete) = pins.sets()?;
        for directory in &incomplete {
            set::remove_incomplete(directory)?;
        }
        let Some(set) = sets.last().cloned() else {
            let filtered = pins.loaded_interfaces()?;
            if incomplete.is_empty() && !filtered.is_empty() {
                return Err(TablesGone(filtered.join(", ")).into());
            }
            let is_interrupted =
                !incomplete.is_empty() || pins.loaded_interfaces()?.is_empty() && pins.abi().exists();
            return Err(NotLoaded(if is_interrupted {
                "a load was interrupted; `filter-ctl load IFACE` takes it up again".into()
            } else {
                format!(
                    "{} holds no tables of ABI {}; start with `filter-ctl load IFACE`",
                    pins.root().display(),
                    filter_common::abi::ABI_VERSION
                )
            })
            .into());
        };
        let maps = Maps::open(&pins)?;
        let table = maps::open_table(&set)?;
        let mut filter = Self { pins, maps, set, table, _lock: lock };
        filter.recover()?;
        sets.pop();
        let older: Vec<Older> = sets.into_iter().map(Older::open).collect::<Result<_>>()?;
        // Where it can't be finished, it is taken back; then the older tables are in force, and all is well.
        if let Err(error) = handover::adopt(&mut filter, older)
            && error.is::<PartlyApplied>()
        {
            return Err(error);
        }
        Ok(filter)
    }

    /// Where it is pinned.
    pub fn pins(&self) -> &Pins {
        &self.pins
    }

    /// The tables in use.
    pub fn set(&self) -> &Set {
        &self.set
    }

    /// The maps that all sets of tables share.
    pub fn maps(&self) -> &Maps {
        &self.maps
    }

    /// Sizes of the tables.
    pub fn geometry(&self) -> Geometry {
        self.table.geometry()
    }

    /// The tables.
    pub fn table(&self) -> &Table<MappedCells> {
        &self.table
    }

    /// How full the tables are for a family.
    pub fn room(&self, family: Family) -> Room {
        room(&self.table, family)
    }

    /// All entries with their ids, in the order of their keys.
    ///
    /// # Errors
    ///
    /// If an entry was not written by this program, or there is no memory.
    pub fn entries(&self) -> Result<Vec<(u32, Entry)>> {
        self.map_for(self.len())?;
        let mut notes = Notes::default();
        let entries = self.table.entries().map(|(id, entry)| Ok((id, notes.entry(&self.table, id, &entry)?)));
        let entries: Vec<_> = entries.collect::<Result<_>>()?;
        self.require_all(entries.len())?;
        Ok(entries)
    }

    /// The prefixes of all entries with this action.
    ///
    /// # Errors
    ///
    /// As [`Filter::entries`].
    pub fn prefixes(&self, action: Action) -> Result<Vec<Prefix>> {
        self.map_for(self.len())?;
        let mut readable = 0;
        let entries = self.table.entries().inspect(|_| readable += 1);
        // Of a million entries most often few or none are of the other action, whose values would be made for nothing.
        let of_action = entries.filter(|(_, entry)| entry.key.action == action.number());
        let prefixes =
            of_action.map(|(id, entry)| Prefix::from_table(&entry.key).with_context(|| foreign(id)));
        let prefixes = prefixes.collect::<Result<_>>()?;
        self.require_all(readable)?;
        Ok(prefixes)
    }

    /// Refuses what was read of the entries unless it is all of them.
    fn require_all(&self, readable: usize) -> Result<()> {
        ensure!(
            readable == self.len(),
            "{} of {} entries can't be read: the tables hold what filter-ctl never writes; `filter-ctl unload --all` and load \
             again",
            self.len() - readable,
            self.len()
        );
        Ok(())
    }

    /// How many entries there are of each kind at second `now_s`, without the canaries.
    ///
    /// # Errors
    ///
    /// If there is no memory to look at them.
    pub fn count(&self, now_s: u32) -> Result<Counts> {
        self.map_for(self.len())?;
        let mut counts = Counts::default();
        let canaries: HashSet<u16> =
            (0..=self.table.highest_note()).filter(|note| self.is_canary_note(*note)).collect();
        for (_, entry) in self.table.entries().filter(|(_, entry)| !canaries.contains(&entry.note)) {
            match entry.key.action {
                _ if Deadline(entry.until_s).has_passed(now_s) => counts.expired += 1,
                abi::action::ALLOW => counts.allow += 1,
                _ => counts.block += 1,
            }
        }
        Ok(counts)
    }

    /// Entries.
    pub fn len(&self) -> usize {
        (self.table.used(Family::V4) + self.table.used(Family::V6)) as usize
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether the entry with this id is there only to prove that the filter works.
    pub fn is_canary(&self, id: u32) -> bool {
        self.table.entry(id).is_some_and(|entry| self.is_canary_note(entry.note))
    }

    pub(super) fn is_canary_note(&self, note: u16) -> bool {
        self.table.note(note).0 == Owner::CANARY
    }

    /// Loads and pins the program that explains, where its pin is gone.
    ///
    /// # Errors
    ///
    /// If the kernel refuses.
    pub fn pin_explain(&self, verbose: bool) -> Result<()> {
        program::create_maps(&self.set, self.table.geometry(), self.table.shape().seeds, verbose)
    }

    /// Prepares for work on this many entries.
    pub(super) fn map_for(&self, entries: usize) -> Result<()> {
        if entries > MANY { self.table.cells().map_all() } else { Ok(()) }
    }

    /// The entries whose prefix covers `key`'s, its own included, the widest first.
    ///
    /// # Errors
    ///
    /// As [`Filter::entries`].
    pub fn covering(&self, key: &Key) -> Result<Vec<(u32, Entry)>> {
        let mut notes = Notes::default();
        let found = self.table.covering(&key.to_table()).into_iter();
        found.map(|(id, entry)| Ok((id, notes.entry(&self.table, id, &entry)?))).collect()
    }

    /// The entries whose prefix `key`'s covers, its own not included, in the order of their keys.
    ///
    /// # Errors
    ///
    /// As [`Filter::entries`].
    pub fn covered(&self, key: &Key) -> Result<Vec<(u32, Entry)>> {
        self.map_for(self.len())?;
        let mut notes = Notes::default();
        let key = key.to_table();
        let within = self.table.entries_in(&key).filter(|(_, entry)| !entry.key.is_same_prefix(&key));
        within.map(|(id, entry)| Ok((id, notes.entry(&self.table, id, &entry)?))).collect()
    }

    /// What the entry with this id has counted since it was made, over all CPUs.
    pub fn counted_of(&self, id: u32) -> Counter {
        self.table.entry(id).map_or_else(Counter::default, |entry| self.table.counted(id, &entry))
    }

    /// What the entry with this key has counted since it was made, over all CPUs; nothing where there is none.
    pub fn counted_with(&self, key: &Key) -> Counter {
        self.table.lookup(&key.to_table()).map_or_else(Counter::default, |id| self.counted_of(id))
    }

    /// The loaded interfaces, as the kernel has them.
    ///
    /// # Errors
    ///
    /// If a link can't be opened or netlink fails.
    pub fn interfaces(&self) -> Result<Vec<Loaded>> {
        interface::inspect_all(&self.pins)
    }

    /// Sets whether frames with these faults pass all the same, and reads it back. All or nothing.
    ///
    /// # Errors
    ///
    /// If the kernel refuses; [`PartlyApplied`] if it could not be undone.
    pub fn tolerate(&mut self, faults: &[Reason], tolerated: bool) -> Result<()> {
        let before = faults
            .iter()
            .map(|fault| Ok((*fault, self.maps.tolerates(*fault)?)))
            .collect::<Result<Vec<_>>>()?;
        let set = faults.iter().try_for_each(|fault| {
            self.maps.set_tolerated(*fault, tolerated)?;
            let is_set = self.maps.tolerates(*fault)? == tolerated;
            ensure!(is_set, "`{}` reads back differently than it was set", fault.name());
            Ok(())
        });
        let Err(error) = set else { return Ok(()) };
        let undone = before.iter().try_for_each(|(fault, was)| self.maps.set_tolerated(*fault, *was));
        Err(failed(error, undone))
    }

    /// The entries whose deadline has passed by second `now_s`. The program does not wait until they are cleared away: it
    /// compares deadlines with its own clock.
    pub fn ended(&mut self, now_s: u32) -> Vec<Key> {
        let ended = self.table.ended(now_s).into_iter();
        let mut keys: Vec<Key> = ended.filter_map(|(_, entry)| Key::from_table(&entry.key)).collect();
        keys.sort_unstable();
        keys
    }

    /// Plans how to bring the entries to these targets, which are in the order of their keys, each once.
    ///
    /// # Errors
    ///
    /// [`plan::Full`] if it does not fit.
    pub fn plan(&self, targets: Vec<Target>) -> Result<Plan> {
        self.map_for(targets.len())?;
        Ok(plan::plan(&mut Held::new(&self.table), targets)?)
    }

    /// Carries out a plan that was just made, and reads it back. All or nothing.
    ///
    /// # Errors
    ///
    /// If there is no place for a prefix or its reason: then nothing is changed. [`PartlyApplied`] if something reads back
    /// differently.
    pub fn carry_out(&mut self, plan: &Plan) -> Result<()> {
        let mut held: HashMap<(Owner, ReasonText), u16> = HashMap::new();
        let changed = self.edits(plan, &mut held).and_then(|edits| self.apply(&edits));
        for note in held.into_values() {
            self.table.release_note(note);
        }
        changed?;
        Ok(self.read_back(plan).map_err(|error| PartlyApplied(format!("{error:#}")))?)
    }

    /// [`Filter::plan`] and [`Filter::carry_out`].
    ///
    /// # Errors
    ///
    /// As these.
    pub fn bring(&mut self, targets: Vec<Target>) -> Result<Plan> {
        let plan = self.plan(targets)?;
        self.carry_out(&plan)?;
        Ok(plan)
    }

    /// The entry with this key.
    ///
    /// # Errors
    ///
    /// If it was not written by this program.
    pub fn entry(&self, key: &Key) -> Result<Option<Entry>> {
        let Some(id) = self.table.lookup(&key.to_table()) else { return Ok(None) };
        let Some(entry) = self.table.entry(id) else { return Ok(None) };
        Notes::default().entry(&self.table, id, &entry).map(Some)
    }

    /// The plan as the tables' writer takes it. Holds the notes that it needs.
    fn edits<'p>(
        &mut self,
        plan: &'p Plan,
        held: &mut HashMap<(Owner, ReasonText), u16>,
    ) -> Result<Vec<Edit>> {
        let Plan { added, changed, removed } = plan;
        let mut edits = Vec::with_capacity(plan.len());
        let mut last: Option<(&'p Entry, u16)> = None;
        let mut note = |entry: &'p Entry| -> Result<u16> {
            if let Some((last, note)) = last
                && (&last.owner, &last.reason) == (&entry.owner, &entry.reason)
            {
                return Ok(note);
            }
            let said = (entry.owner.clone(), entry.reason.clone());
            let note = match held.get(&said) {
                Some(note) => *note,
                None => {
                    let note = self.table.hold_note(said.0.as_str(), said.1.as_str())?;
                    held.insert(said, note);
                    note
                }
            };
            last = Some((entry, note));
            Ok(note)
        };
        for entry in added {
            edits.push(Edit::Insert(prefix::Entry { note: note(entry)?, ..table_entry(entry) }));
        }
        for (id, entry) in changed {
            let (until_s, note) = (entry.until.0, note(entry)?);
            edits.push(Edit::Update { id: *id, slots: BOTH_SLOTS, until_s, note });
        }
        edits.extend(removed.iter().map(|(id, _)| Edit::Remove(*id)));
        Ok(edits)
    }

    /// Makes the edits, after waiting for ids that rest.
    fn apply(&mut self, edits: &[Edit]) -> Result<()> {
        /// How often the clock is looked at while ids rest, which takes a second or two.
        const LOOK: Duration = Duration::from_millis(50);
        let deadline_s = monotonic_now_s() + 2 * REST_S;
        loop {
            match self.table.apply(edits, &Monotonic) {
                Ok(()) => return Ok(()),
                Err(Refused::Resting(_)) if monotonic_now_s() < deadline_s => thread::sleep(LOOK),
                Err(refused) => return Err(anyhow!(refused).context("nothing was changed")),
            }
        }
    }

    /// Looks in the kernel's tables, as the program does, for what was just written: a command never reports what it
    /// only meant to do.
    fn read_back(&self, plan: &Plan) -> Result<()> {
        self.read_all_back(plan.added.iter(), true)?;
        self.read_all_back(plan.changed.iter().map(|(_, entry)| entry), true)?;
        self.read_all_back(plan.removed.iter().map(|(_, entry)| entry), false)
    }

    fn read_all_back<'e>(&self, mut entries: impl Iterator<Item = &'e Entry>, is_there: bool) -> Result<()> {
        let mut finger = Finger::default();
        loop {
            let chunk: Vec<_> = entries.by_ref().take(AHEAD).collect();
            if chunk.is_empty() {
                return Ok(());
            }
            self.table.prefetch(chunk.iter().map(|entry| entry.key.to_table()));
            for entry in chunk {
                ensure!(
                    self.is_as_said(&mut finger, entry, is_there),
                    "{} {} reads back differently than it was written",
                    entry.key.action.name(),
                    entry.key.prefix
                );
            }
        }
    }

    /// Whether the tables hold this entry and the program finds it, or they don't hold it if it `is_there` no more.
    fn is_as_said(&self, finger: &mut Finger, entry: &Entry, is_there: bool) -> bool {
        let key = entry.key.to_table();
        let held = self.table.lookup_from(finger, &key).and_then(|id| self.table.entry(id));
        if !is_there {
            return held.is_none();
        }
        let seen = self.table.seen(&key).map(|record| match entry.key.action {
            Action::Allow => record.allow(0),
            Action::Block => record.block(0),
        });
        held.is_some_and(|held| held.until_s == entry.until.0)
            && seen.is_some_and(|seen| seen.entry != NO_ENTRY && seen.until_s >= entry.until.0)
    }

    /// Finishes a change that was interrupted, an upgrade to another build's programs included.
    fn recover(&mut self) -> Result<()> {
        self.pins.remove_gone()?;
        renew::settle(&self.set)?;
        if self.table.is_dirty() {
            self.table.cells().map_all()?;
            self.table.recover(&Monotonic)?;
        }
        Ok(())
    }
}

/// The entry as the tables have it, without note and base.
fn table_entry(entry: &Entry) -> prefix::Entry {
    prefix::Entry {
        key: entry.key.to_table(),
        slots: BOTH_SLOTS,
        until_s: entry.until.0,
        // What is older than this boot shows as made at its start: the tables' clock knows no earlier moment.
        created_s: u32::try_from(entry.created_s.max(0)).unwrap_or(u32::MAX),
        note: 0,
        base: Counter::default(),
    }
}

/// A number for what an entry says to the program, of which the tables keep the sum.
pub fn digest(entry: &Entry) -> u64 {
    digest_of(entry.key, entry.until)
}

/// The same, of what alone makes a difference to it.
pub fn digest_of(key: Key, until: Deadline) -> u64 {
    let said = prefix::Entry {
        key: key.to_table(),
        slots: BOTH_SLOTS,
        until_s: until.0,
        created_s: 0,
        note: 0,
        base: Counter::default(),
    };
    said.digest()
}

/// How full a table is for a family.
fn room(table: &Table<MappedCells>, family: Family) -> Room {
    Room { used: table.used(family), limit: table.geometry().capacity(family) }
}

/// What to say of an entry that this program did not write.
fn foreign(id: u32) -> String {
    format!(
        "entry {id} holds something that filter-ctl never writes; `filter-ctl unload --all` and load again"
    )
}

/// Texts of notes that were read.
#[derive(Clone, Debug, Default)]
pub(super) struct Notes(HashMap<u16, (Owner, ReasonText)>);

impl Notes {
    /// Reads the texts of a note, unless they were read before.
    pub(super) fn read(&mut self, table: &Table<MappedCells>, id: u32, note: u16) -> Result<()> {
        if let hash_map::Entry::Vacant(place) = self.0.entry(note) {
            let (owner, reason) = table.note(note);
            let owner = Owner::parse(&owner).ok().with_context(|| foreign(id))?;
            let reason = ReasonText::parse(&reason).ok().with_context(|| foreign(id))?;
            place.insert((owner, reason));
        }
        Ok(())
    }

    /// An entry of which the texts were read.
    pub(super) fn told(&self, id: u32, entry: &prefix::Entry) -> Result<Entry> {
        let (owner, reason) = self.0.get(&entry.note).cloned().with_context(|| foreign(id))?;
        let key = Key::from_table(&entry.key).with_context(|| foreign(id))?;
        Ok(Entry { key, until: Deadline(entry.until_s), created_s: entry.created_s.into(), owner, reason })
    }

    /// An entry of the table, with its texts.
    fn entry(&mut self, table: &Table<MappedCells>, id: u32, entry: &prefix::Entry) -> Result<Entry> {
        self.read(table, id, entry.note)?;
        self.told(id, entry)
    }
}

/// The entries of a table as plans see them.
struct Held<'t> {
    table: &'t Table<MappedCells>,
    notes: Notes,
    finger: Finger,
}

impl<'t> Held<'t> {
    fn new(table: &'t Table<MappedCells>) -> Self {
        Self { table, notes: Notes::default(), finger: Finger::default() }
    }
}

impl Current for Held<'_> {
    fn find(&mut self, key: &Key) -> Option<(u32, Entry)> {
        let id = self.table.lookup_from(&mut self.finger, &key.to_table())?;
        let entry = self.table.entry(id)?;
        // An entry whose texts nobody wrote is still an entry, to be removed or extended.
        let said = self.notes.entry(self.table, id, &entry).unwrap_or_else(|_| Entry {
            key: *key,
            until: Deadline(entry.until_s),
            created_s: entry.created_s.into(),
            owner: Owner::manual(),
            reason: ReasonText::default(),
        });
        Some((id, said))
    }

    fn room(&self, family: Family) -> Room {
        room(self.table, family)
    }
}
