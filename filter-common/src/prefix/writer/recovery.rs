//! The end of an interrupted change, and the comparison of everything with the entries.

use std::collections::{BTreeMap, HashSet};

use super::change::{Kind, Touched};
use super::entries::order_of;
use super::records::{Place, Slot, add_to};
use super::{Inconsistent, RECOVERING, Table, entry_word, halves, step_word, used_of};
use crate::decide::Clock;
use crate::prefix::cells::Cells;
use crate::prefix::entry::{Key, state, state_of, word};
use crate::prefix::geometry::{Region, header};
use crate::prefix::layout::{BUCKET_SLOTS, Family, Record, STEPS, Step};

impl<C: Cells> Table<C> {
    /// Finishes a change that was interrupted: makes anew all that only writers read, and brings the tables to what
    /// the entries say.
    ///
    /// # Errors
    ///
    /// [`Inconsistent`] if there are more entries than there is room for, which no writer makes.
    pub fn recover(&mut self, clock: &impl Clock) -> Result<(), Inconsistent> {
        while !self.try_to_recover(clock)? {}
        Ok(())
    }

    /// One try: in vain where a key found no place. Its entry is then unwanted, and the next try has one less.
    fn try_to_recover(&mut self, clock: &impl Clock) -> Result<bool, Inconsistent> {
        self.set_header(header::DIRTY, RECOVERING);
        let mut keys = Vec::new();
        let mut touched = Vec::new();
        let mut free = Vec::new();
        let mut highest = 0;
        for id in 1..self.geometry.ids() {
            let meta = self.get(Region::Entries, entry_word(id, word::META));
            let state = state_of(meta);
            if state != state::FREE {
                highest = id;
            }
            let kind = match (state, self.read_entry(id)) {
                (state::ADDING | state::ACTIVE, Some(entry)) => {
                    keys.push((entry.key, id));
                    (state == state::ADDING).then_some((entry.key, Kind::Insert))
                }
                (state::REMOVING, Some(entry)) => Some((entry.key, Kind::Remove)),
                (state::FREE, _) => None,
                // What is no entry names nothing, and rests like one that was removed.
                _ => {
                    free.push(id);
                    None
                }
            };
            touched.extend(kind.map(|(key, kind)| Touched { key, id, kind }));
        }
        keys.sort_unstable();
        touched.sort_unstable_by_key(|touched| (touched.key, touched.id));
        self.set_header(header::HIGHEST, highest.into());
        for family in [Family::V4, Family::V6] {
            let of_family = || keys.iter().filter(|(key, _)| key.family() == family);
            if of_family().count() > self.geometry.capacity(family) as usize {
                return Err(Inconsistent("there are more entries than there is room for".into()));
            }
            let mut used = 0;
            for (key, id) in of_family() {
                self.set(Region::Order, self.order_word(family, used), order_of(key, *id));
                used += 1;
            }
            self.set_header(used_of(family), used.into());
        }
        self.count_notes();
        self.set_header(header::FREE_FIRST, 0);
        self.set_header(header::FREE_LAST, 0);
        for id in free {
            self.set_state(id, state::RESTING);
            self.append_free(id, clock.now_s());
        }
        // Counts of lengths may be of any moment of the change, and a length that is in use must not leave the chain. So
        // all stay in use until the counts, made anew from the keys, say otherwise.
        const MANY: u64 = 1 << 40;
        let mut counts = BTreeMap::new();
        let mut last = None;
        for (key, _) in &keys {
            if last.is_none_or(|last: Key| !last.is_same_prefix(key)) {
                *counts.entry(key.step.0).or_insert(0u64) += 1;
            }
            last = Some(*key);
        }
        for index in 0..STEPS {
            self.set(Region::Steps, step_word(index, 3), MANY);
            if counts.contains_key(&index) {
                self.link(Step(index));
            }
        }
        if self.refresh_all(&touched).is_err() {
            let mut homeless: Vec<u32> = Vec::new();
            for touched in touched.iter().filter(|touched| touched.kind == Kind::Insert) {
                if matches!(self.place(&touched.key, self.hash(&touched.key)), Place::None) {
                    homeless.push(touched.id);
                }
            }
            if homeless.is_empty() {
                return Err(Inconsistent("the buckets have no room for what they hold".into()));
            }
            homeless.iter().for_each(|id| self.set_state(*id, state::REMOVING));
            return Ok(false);
        }
        for index in 0..STEPS {
            let count = counts.get(&index).copied().unwrap_or(0);
            self.set(Region::Steps, step_word(index, 3), count);
            if count == 0 {
                self.unlink(Step(index));
            }
        }
        let digest = keys.iter().filter_map(|(_, id)| self.read_entry(*id));
        let digest = digest.fold(0u64, |sum, entry| sum.wrapping_add(entry.digest()));
        self.set_header(header::DIGEST, digest);
        self.tidy();
        self.settle(&touched, clock.now_s());
        self.find_next_end();
        self.set_header(header::GENERATION, self.generation() + 1);
        self.set_header(header::DIRTY, 0);
        Ok(true)
    }

    /// Compares everything with what the entries say.
    ///
    /// # Errors
    ///
    /// [`Inconsistent`] with the first difference.
    pub fn check(&self) -> Result<(), Inconsistent> {
        let wrong = |what: String| Err(Inconsistent(what));
        if self.is_dirty() {
            return wrong("a change was interrupted".into());
        }
        let mut digest = 0u64;
        let mut ids = HashSet::new();
        let mut open: Vec<(Key, Record)> = Vec::new();
        let mut last: Option<Key> = None;
        let mut prefixes = 0u32;
        let entries: Vec<_> = self.entries().collect();
        if entries.len() != (self.used(Family::V4) + self.used(Family::V6)) as usize {
            return wrong("the order names entries that are none".into());
        }
        for group in entries.chunk_by(|(_, a), (_, b)| a.key.is_same_prefix(&b.key)) {
            prefixes += 1;
            let key = group[0].1.key;
            while open.pop_if(|(outer, _)| !outer.covers(&key)).is_some() {}
            let mut record = open.last().map_or_else(Record::default, |(_, record)| *record);
            for (id, entry) in group {
                if last.is_some_and(|last| last >= entry.key) {
                    return wrong(format!("{:?} is out of order", entry.key));
                }
                last = Some(entry.key);
                digest = digest.wrapping_add(entry.digest());
                if !ids.insert(*id) {
                    return wrong(format!("entry {id} is there twice"));
                }
                add_to(&mut record, *id, entry);
            }
            match self.place(&key, self.hash(&key)) {
                Place::Taken { id, .. } if group.iter().any(|(own, _)| *own == id) => {
                    if self.record(id) != record {
                        return wrong(format!("{key:?}: {:?} in place of {record:?}", self.record(id)));
                    }
                }
                Place::Taken { id, .. } => return wrong(format!("{key:?} has the record of {id}")),
                _ => return wrong(format!("{key:?} is not in the buckets")),
            }
            if self.seen(&key) != Some(record) {
                return wrong(format!("readers don't find {key:?}"));
            }
            open.push((key, record));
        }
        let slots = (0..self.geometry.buckets() as usize * BUCKET_SLOTS)
            .filter(|index| Slot(self.get(Region::Buckets, *index)).id() != 0);
        if slots.count() != prefixes as usize {
            return wrong("the buckets hold prefixes that have no entry".into());
        }
        let codes = self.needed_codes();
        if let Some((index, needed)) =
            (0..).zip(codes).find(|(index, needed)| self.get(Region::Codes, *index) != *needed)
        {
            let found = self.get(Region::Codes, index);
            return wrong(format!("word {index} of the codes is {found:#x} in place of {needed:#x}"));
        }
        if digest != self.digest() {
            return wrong("the digest is not that of the entries".into());
        }
        if let Some((_, entry)) = entries.iter().find(|(_, entry)| entry.until_s < self.next_end()) {
            return wrong(format!("{:?} ends before any entry is said to", entry.key));
        }
        for note in 1..=self.header_u32(header::HIGHEST_NOTE) {
            let used = entries.iter().filter(|(_, entry)| u32::from(entry.note) == note).count() as u64;
            if self.uses_of(note) < used {
                return wrong(format!("note {note} is used by {used} entries and counts fewer"));
            }
        }
        let mut free = 0;
        let mut next = self.header_u32(header::FREE_FIRST);
        while next != 0 && free <= self.geometry.entries() {
            if !ids.insert(next) {
                return wrong(format!("id {next} is free, and in use or free twice"));
            }
            free += 1;
            (next, _) = halves(self.get(Region::Entries, entry_word(next, word::FREE)));
        }
        if free + self.used(Family::V4) + self.used(Family::V6) != self.header_u32(header::HIGHEST) {
            return wrong("there are ids that are neither free nor in use".into());
        }
        Ok(())
    }
}
