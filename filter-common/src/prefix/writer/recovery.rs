//! The end of an interrupted change, and the comparison of everything with the entries.

use std::collections::{BTreeMap, HashSet};

use super::change::{Kind, Touched};
use super::entries::order_of;
use super::records::{Place, Slot, add_to};
use super::{Inconsistent, RECOVERING, Table, entry_word, step_word, used_of};
use crate::packet::Address;
use crate::prefix::cells::Cells;
use crate::prefix::entry::{Key, state, state_of, word};
use crate::prefix::geometry::{Region, header};
use crate::prefix::layout::{BUCKET_SLOTS, Family, Range, Record, STEPS, Step};
use crate::prefix::reader::find_in;

impl<C: Cells> Table<C> {
    /// Finishes a change that was interrupted: makes anew all that only writers read, and brings the tables to what
    /// the entries say.
    pub fn recover(&mut self, now_s: u32) {
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
            let of_family = keys.iter().filter(|(key, _)| key.family() == family);
            let mut used = 0;
            for (key, id) in of_family {
                self.set(Region::Order, self.order_word(family, used), order_of(key, *id));
                used += 1;
            }
            self.set_header(used_of(family), used.into());
        }
        self.count_notes(&keys);
        self.set_header(header::FREE_FIRST, 0);
        self.set_header(header::FREE_LAST, 0);
        for id in free {
            self.set_state(id, state::RESTING);
            self.append_free(id, now_s);
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
        let refreshed = self.refresh_all(&touched);
        debug_assert!(refreshed.is_ok(), "what has a place keeps it, and what found none is being removed");
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
        self.settle(&touched, now_s);
        self.find_next_end();
        self.set_header(header::GENERATION, self.generation() + 1);
        self.set_header(header::DIRTY, 0);
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
            let range = Range { before: Step(key.step.0 + 1), last: key.step };
            if find_in(&self.view(), &self.shape, range, key.high, key.low).is_none()
                || self.reader_misses(&key)
            {
                return wrong(format!("readers don't find {key:?}"));
            }
            open.push((key, record));
        }
        let slots = (0..self.geometry.buckets() as usize * BUCKET_SLOTS)
            .filter(|index| Slot(self.get(Region::Buckets, *index)).id() != 0);
        if slots.count() != prefixes as usize {
            return wrong("the buckets hold prefixes that have no entry".into());
        }
        if digest != self.digest() {
            return wrong("the digest is not that of the entries".into());
        }
        Ok(())
    }

    /// Whether codes or steps keep readers from looking for this prefix.
    pub(super) fn reader_misses(&self, key: &Key) -> bool {
        let (family, length) = key.family_and_length();
        let address = match family {
            Family::V4 => {
                let [a, b, c, d, ..] = key.high.to_be_bytes();
                Address::V4([a, b, c, d])
            }
            Family::V6 => {
                let mut octets = [0; 16];
                octets[..8].copy_from_slice(&key.high.to_be_bytes());
                octets[8..].copy_from_slice(&key.low.to_be_bytes());
                Address::V6(octets)
            }
        };
        let found = self.find(&address);
        found.is_none() || (length == family.bits() && found != self.record_of(key))
    }

    pub(super) fn record_of(&self, key: &Key) -> Option<Record> {
        match self.place(key, self.hash(key)) {
            Place::Taken { id, .. } => Some(self.record(id)),
            _ => None,
        }
    }
}
