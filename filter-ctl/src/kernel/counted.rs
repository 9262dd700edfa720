//! What the filter has counted: all of it, to be written down before the maps go, and given back to maps that were made anew.

use std::cell::OnceCell;
use std::cmp::Reverse;
use std::collections::HashSet;

use anyhow::{Context as _, Result};
use filter_common::abi::{self, Counter};
use filter_common::prefix::{self, Finger};
use filter_common::{Reason, Verdict};

use super::builds;
use super::filter::{Filter, Notes};
use super::interface::{self, padded, slot_name};
use super::maps::{self, Maps};
use super::pins::Pins;
use crate::host::monotonic_now_s;
use crate::policy::{Action, Entry, Key, Prefix};
use crate::stats::{EntryCount, EntryCounts, InterfaceCounts};

/// All that was counted.
#[derive(Debug)]
pub struct Counted {
    /// Each interface that has a slot.
    pub interfaces: Vec<InterfaceCounts>,
    /// Number of the store that the tables hold the entries of; zero if they were never brought to one.
    pub store: u64,
    /// Each entry that counted something, in the order of keys.
    pub entries: Vec<(Key, Counter)>,
}

/// Reads all that was counted, also by the filter of an older build. The caller has the lock.
///
/// # Errors
///
/// If maps are missing, or not what is expected.
pub fn counted(pins: &Pins) -> Result<Counted> {
    let pins = &builds::in_force(pins)?;
    let interfaces = Maps::open(pins)?.interface_counts()?;
    let Some(set) = pins.set()? else { return Ok(Counted { interfaces, store: 0, entries: Vec::new() }) };
    let is_ours = pins.abi_version() == abi::ABI_VERSION;
    let table = if is_ours { maps::open_table(&set)? } else { maps::open_readable(&set)? };
    table.cells().map_all()?;
    let mut entries: Vec<_> = table
        .entries_by_id()
        .filter_map(|(id, entry)| Some((Key::from_table(&entry.key)?, table.counted(id, &entry))))
        .filter(|(_, counter)| *counter != Counter::default())
        .collect();
    entries.sort_unstable_by_key(|(key, _)| *key);
    Ok(Counted { interfaces, store: table.stored().store, entries })
}

/// Frees the slots of these interfaces, with what they count. The caller has the lock.
///
/// # Errors
///
/// If the map can't be read or written.
pub fn release_slots<'n>(pins: &Pins, names: impl IntoIterator<Item = &'n String>) -> Result<()> {
    let mut maps = Maps::open(&builds::in_force(pins)?)?;
    for name in names {
        if let Some(slot) = interface::slot_of(&maps, name)? {
            maps.set_interface(slot, &abi::Interface::default())?;
        }
    }
    Ok(())
}

/// What those entries have counted that have counted anything since they were made, but for those for proofs.
pub struct Counting<'f> {
    filter: &'f Filter,
    /// Found out with the first that has counted anything: most changes meet none.
    canaries: OnceCell<HashSet<u16>>,
    finger: Finger,
}

impl<'f> Counting<'f> {
    /// All, in the order of keys.
    ///
    /// # Errors
    ///
    /// If there is no memory to look at them.
    pub fn all(self) -> Result<impl Iterator<Item = (Key, Counter)> + use<'f>> {
        self.filter.map_for(self.filter.len())?;
        Ok(self.filter.table.entries().filter_map(move |(id, entry)| self.of(id, &entry)))
    }

    /// Those within a prefix, in the order of keys. Sought from where it was asked last: quickest where prefixes come in order.
    pub fn within(&mut self, prefix: &Prefix) -> impl Iterator<Item = (Key, Counter)> {
        let key = Key { prefix: *prefix, action: Action::Allow }.to_table();
        let entries = self.filter.table.entries_in_from(&mut self.finger, &key);
        entries.filter_map(|(id, entry)| self.of(id, &entry))
    }

    /// The one with this key.
    pub fn with(&mut self, key: &Key) -> Option<(Key, Counter)> {
        let id = self.filter.table.lookup_from(&mut self.finger, &key.to_table())?;
        self.of(id, &self.filter.table.entry(id)?)
    }

    fn of(&self, id: u32, entry: &prefix::Entry) -> Option<(Key, Counter)> {
        let counter = self.filter.table.counted(id, entry);
        if counter.packets == 0
            || self.canaries.get_or_init(|| self.filter.canary_notes()).contains(&entry.note)
        {
            return None;
        }
        Some((Key::from_table(&entry.key)?, counter))
    }
}

/// Entries and what they have counted, read at once and told one by one: so the lock is held only for the reading, and a
/// million entries are never all in memory as they are told.
#[derive(Debug)]
pub struct CountedEntries {
    tables: u64,
    entries: Vec<(prefix::Entry, EntryCount)>,
    notes: Notes,
}

impl CountedEntries {
    /// What those have counted that have counted anything.
    pub fn counts(&self) -> EntryCounts {
        let counted = self.entries.iter().map(|(_, count)| *count);
        let mut by_id: Vec<_> = counted.filter(|count| count.counter.packets > 0).collect();
        by_id.sort_unstable_by_key(|count| count.id);
        EntryCounts { tables: self.tables, by_id }
    }

    /// Leaves the `most` that decided most packets, most first.
    pub fn keep_top(&mut self, most: usize) {
        self.entries.retain(|(_, count)| count.counter.packets > 0);
        self.entries.sort_unstable_by_key(|(entry, count)| (Reverse(count.counter.packets), entry.key));
        self.entries.truncate(most);
    }

    /// The count of each by its key and when it was made.
    pub fn by_key(&self) -> impl Iterator<Item = ((Key, u32), Counter)> {
        let counted = |(entry, count): &(prefix::Entry, EntryCount)| {
            Some(((Key::from_table(&entry.key)?, count.created_s), count.counter))
        };
        self.entries.iter().filter_map(counted)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Each entry with its count.
    ///
    /// # Errors
    ///
    /// If an entry was not written by this program.
    pub fn iter(&self) -> impl Iterator<Item = Result<(Entry, EntryCount)>> {
        self.entries.iter().map(|(entry, count)| Ok((self.notes.told(count.id, entry)?, *count)))
    }
}

impl Filter {
    /// Entries, but for those for proofs, and what each has counted since it was made, over all CPUs; only those that have
    /// counted something, unless `all` are asked for.
    ///
    /// # Errors
    ///
    /// If an entry was not written by this program, or there is no memory.
    pub fn counted_entries(&self, all: bool) -> Result<CountedEntries> {
        self.map_for(self.len())?;
        let canaries = self.canary_notes();
        let mut notes = Notes::default();
        let mut entries = Vec::with_capacity(if all { self.len() } else { 0 });
        for (id, entry) in self.table.entries() {
            let counter = self.table.counted(id, &entry);
            if (all || counter.packets > 0) && !canaries.contains(&entry.note) {
                notes.read(&self.table, id, entry.note)?;
                entries.push((entry, EntryCount { id, created_s: entry.created_s, counter }));
            }
        }
        let tables = self.table.shape().seeds.0[0];
        Ok(CountedEntries { tables, entries, notes })
    }

    fn canary_notes(&self) -> HashSet<u16> {
        (0..=self.table.highest_note()).filter(|note| self.is_canary_note(*note)).collect()
    }

    /// What entries have counted.
    pub fn counting(&self) -> Counting<'_> {
        Counting { filter: self, canaries: OnceCell::new(), finger: Finger::default() }
    }

    /// Names of interfaces that have a slot and no link: they were unloaded, or a load died.
    ///
    /// # Errors
    ///
    /// If the pins or the map can't be read.
    pub fn unpinned_interfaces(&self) -> Result<Vec<String>> {
        let loaded = self.pins().loaded_interfaces()?;
        let named = self.maps.interfaces()?.into_iter().filter_map(|slot| slot_name(&slot));
        Ok(named.filter(|name| !loaded.contains(name)).collect())
    }

    /// Gives an interface that has no slot one in which this is counted already. It gets its name last: a slot with a name
    /// never counts less than what was carried.
    ///
    /// # Errors
    ///
    /// If no slot is free, or the kernel refuses.
    pub fn credit_interface(&mut self, name: &str, counts: &[(Reason, Verdict, Counter)]) -> Result<()> {
        let free = interface::free_slot(&self.maps.interfaces()?);
        let slot = free.context("all slots of interfaces are taken")?;
        self.maps.zero_interface(slot)?;
        for (reason, verdict, counter) in counts {
            self.maps
                .set_counter(slot, *reason, *verdict, *counter)
                .with_context(|| format!("could not give {name} what it had counted"))?;
        }
        let named = abi::Interface { name: padded(name)?, ifindex: 0, loaded_s: monotonic_now_s() };
        self.maps.set_interface(slot, &named)
    }

    /// Makes an entry's count this one, if it is there.
    pub fn credit_entry(&mut self, key: &Key, counted: Counter) {
        if let Some(id) = self.table.lookup(&key.to_table()) {
            let now = self.table.counter(id);
            let base = Counter {
                packets: now.packets.wrapping_sub(counted.packets),
                bytes: now.bytes.wrapping_sub(counted.bytes),
            };
            self.table.set_base(id, base);
        }
    }
}
