//! The writer: changes entries, and keeps records, slots, codes, steps and Bloom filter as the entries say.
//!
//! # Bounds
//!
//! A change of one entry takes time and memory in proportion to the entries inside its prefix, whose records may
//! inherit from it, and at most 2^18 words of codes for an IPv4 prefix of up to 24 bits (/0: 4 MiB, a millisecond);
//! moving the order of keys takes one word for each entry behind it. Once in a quarter of the capacity, a removal makes
//! filter and overflow marks anew, in one pass over all entries.
//!
//! # Dying
//!
//! The header is marked before the first word is written and cleared after the last; states of entries say what was
//! under way. Whoever finds the mark calls [`Table::recover`], which makes anew what only writers read, and finishes the
//! change.

use std::collections::BTreeMap;

use thiserror::Error;

use super::cells::{Cells, View};
use super::entry::{Entry, Key, state, state_of, word};
use super::geometry::{Geometry, NOTE_WORDS, NOTES, Region, header};
use super::layout::{
    BUCKET_SLOTS, CHOICES, CODES_A_WORD, Family, Hash, ID_MASK, Memory as _, NARROW, OVERFLOW, REST_S,
    Record, SLOTS, STEPS, Seeds, Shape, Step, WIDE, WIDE_LENGTH, mask, record_word,
};
use super::reader::{find, find_below, record_in};
use crate::abi::{Counter, action};
use crate::decide::{FOREVER, Match};
use crate::packet::Address;

/// Longest owner of an entry in bytes: what fits in a note beside the reason.
pub const OWNER_LENGTH: usize = 24;

/// Longest reason in bytes.
pub const REASON_LENGTH: usize = 96;

/// Edits from which on the order of keys is merged in one pass, in place of one move for each.
const MERGE_FROM: usize = 32;

/// A change to one entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Edit {
    /// A new entry. Its base is set here.
    Insert(Entry),
    /// The entry with this id gets these slots, end and note.
    Update {
        /// Its id.
        id: u32,
        /// Slots of the policy.
        slots: u8,
        /// End.
        until_s: u32,
        /// Note.
        note: u16,
    },
    /// The entry with this id goes.
    Remove(u32),
}

/// Why a change was not made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Refused {
    /// More entries than there is room for.
    #[error("there is no room for so many entries")]
    Full,
    /// Enough ids are free, but some were used until just now.
    #[error("ids of removed entries rest until second {0}")]
    Resting(u32),
    /// A key found none of its places free, which a table with other seeds or more room has.
    #[error("a prefix found no place in the table, though it is not full; `filter-ctl resize` makes it anew")]
    NoPlace,
    /// All notes are in use.
    #[error(
        "there are {NOTES} different reasons, which is all that can be kept; remove entries, or use reasons again"
    )]
    Notes,
}

/// What is wrong with a table, in words.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct Inconsistent(pub String);

/// The tables, to be changed. Whoever has one holds the lock.
pub struct Table<C> {
    cells: C,
    geometry: Geometry,
    shape: Shape,
    work: Work,
}

/// Room for a change's intermediate values, kept between changes.
#[derive(Default)]
struct Work {
    planned: Vec<Planned>,
    open: Vec<(Key, Record)>,
}

/// A record as it is to be.
#[derive(Clone, Copy)]
struct Planned {
    prefix: Key,
    record: Record,
    /// An entry of the prefix, which lends the record its place.
    entry: u32,
    /// The entry that lends it now.
    host: Option<u32>,
}

/// Where a key lies in the buckets.
enum Place {
    /// There, with this record.
    Taken { index: usize, id: u32 },
    /// Nowhere; the first choice with room.
    Free { index: usize, choice: u32 },
    /// Nowhere, and no choice has room.
    None,
}

impl<C: Cells> Table<C> {
    /// Makes an empty table of words that are all zero.
    pub fn create(cells: C, geometry: Geometry, seeds: Seeds) -> Self {
        let table = Self { shape: geometry.shape(seeds), cells, geometry, work: Work::default() };
        for index in 0..STEPS {
            if let Some((_, length)) = Step(index).family_and_length() {
                let (high, low) = mask(length);
                table.set(Region::Steps, step_word(index, 1), high);
                table.set(Region::Steps, step_word(index, 2), low);
            }
        }
        let Seeds(seeds) = seeds;
        for (index, seed) in seeds.into_iter().enumerate() {
            table.set_header(header::SEEDS + index, seed);
        }
        table.set_header(header::NEXT_END, FOREVER.into());
        table.set_header(header::CAPACITY_V4, geometry.capacity_v4.into());
        table.set_header(header::CAPACITY_V6, geometry.capacity_v6.into());
        table.set_header(header::CPUS, geometry.cpus.into());
        table
    }

    /// Opens a table that was made with this geometry and these seeds.
    pub fn open(cells: C, geometry: Geometry, seeds: Seeds) -> Self {
        Self { shape: geometry.shape(seeds), cells, geometry, work: Work::default() }
    }

    /// The words.
    pub fn cells(&self) -> &C {
        &self.cells
    }

    /// The words, for whoever goes on with them.
    pub fn into_cells(self) -> C {
        self.cells
    }

    /// Its sizes.
    pub fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// What readers must know of it.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// The record that decides about an address: what readers see.
    pub fn find(&self, address: &Address) -> Option<Record> {
        find(&self.view(), &self.shape, address)
    }

    /// Changes made since the table was created.
    pub fn generation(&self) -> u64 {
        self.header(header::GENERATION)
    }

    /// Sum of what all entries say.
    pub fn digest(&self) -> u64 {
        self.header(header::DIGEST)
    }

    /// Whether a change was begun and not finished.
    pub fn is_dirty(&self) -> bool {
        self.header(header::DIRTY) != 0
    }

    /// Entries of a family.
    pub fn used(&self, family: Family) -> u32 {
        self.header_u32(used_of(family))
    }

    /// The second before which no entry ends; [`FOREVER`] if none does.
    pub fn next_end(&self) -> u32 {
        self.header_u32(header::NEXT_END)
    }

    /// The id of the entry with this key.
    pub fn lookup(&self, key: &Key) -> Option<u32> {
        let family = key.family();
        let position = self.position(family, key, 0);
        if position == self.used(family) {
            return None;
        }
        let id = self.id_at(family, position);
        (self.key_of(id) == *key).then_some(id)
    }

    /// The entry with this id, if it is wanted.
    pub fn entry(&self, id: u32) -> Option<Entry> {
        let meta = self.get(Region::Entries, entry_word(id, word::META));
        if !matches!(state_of(meta), state::ACTIVE | state::ADDING) {
            return None;
        }
        self.read_entry(id)
    }

    /// Whether readers find the record of this key's prefix.
    pub fn is_published(&self, key: &Key) -> bool {
        matches!(self.place(key, self.hash(key)), Place::Taken { .. })
    }

    /// All entries, in the order of their keys.
    pub fn entries(&self) -> impl Iterator<Item = (u32, Entry)> {
        self.entries_of(Family::V4, 0..self.used(Family::V4))
            .chain(self.entries_of(Family::V6, 0..self.used(Family::V6)))
    }

    /// The entries whose prefix lies in that of `key`, its own included.
    pub fn entries_in(&self, key: &Key) -> impl Iterator<Item = (u32, Entry)> {
        let family = key.family();
        let first = self.position(family, &key.first(), 0);
        let last = self.position(family, &key.last(), first);
        self.entries_of(family, first..last)
    }

    /// The entries whose prefix covers that of `key`, its own included, the widest first.
    pub fn covering(&self, key: &Key) -> Vec<(u32, Entry)> {
        let (family, length) = key.family_and_length();
        let mut found = Vec::new();
        for length in 0..=length {
            let (high, low) = mask(length);
            let wider = Key {
                high: key.high & high,
                low: key.low & low,
                step: Step::of(family, length),
                action: key.action,
            };
            if self.get(Region::Steps, step_word(wider.step.0, 3)) == 0 {
                continue;
            }
            for action in [action::ALLOW, action::BLOCK] {
                let wider = Key { action, ..wider };
                found.extend(self.lookup(&wider).and_then(|id| Some((id, self.entry(id)?))));
            }
        }
        found
    }

    /// What the entry has counted since it was made.
    pub fn counted(&self, id: u32, entry: &Entry) -> Counter {
        let sum = self.counter(id);
        Counter {
            packets: sum.packets.wrapping_sub(entry.base.packets),
            bytes: sum.bytes.wrapping_sub(entry.base.bytes),
        }
    }

    /// Adds to what the entry has counted: what it counted in another table.
    pub fn credit(&mut self, id: u32, counted: Counter) {
        for (position, credit) in [(word::BASE_PACKETS, counted.packets), (word::BASE_BYTES, counted.bytes)] {
            self.set(Region::Entries, entry_word(id, position), credit.wrapping_neg());
        }
    }

    /// Owner and reason.
    pub fn note(&self, note: u16) -> (String, String) {
        let first = note_word(note.into(), 0);
        let lengths = self.get(Region::Notes, first);
        let bytes: Vec<u8> = (1..NOTE_WORDS as usize)
            .flat_map(|position| self.get(Region::Notes, first + position).to_le_bytes())
            .collect();
        let text = |start: usize, length: u64| {
            let length = usize::try_from(length & 0xff).unwrap_or(0);
            let bytes = bytes.get(start..start + length).unwrap_or_default();
            String::from_utf8_lossy(bytes).into_owned()
        };
        (text(0, lengths >> 32), text(OWNER_LENGTH, lengths >> 40))
    }

    /// The note that says this, made if there is none, and held until it is released.
    ///
    /// # Errors
    ///
    /// [`Refused::Notes`] if there is no room for another.
    ///
    /// # Panics
    ///
    /// If a text is longer than a note holds.
    pub fn hold_note(&mut self, owner: &str, reason: &str) -> Result<u16, Refused> {
        let (owner, reason) = (owner.as_bytes(), reason.as_bytes());
        let mut words = [0; NOTE_WORDS as usize];
        let mut bytes = [0; 8 * (NOTE_WORDS as usize - 1)];
        bytes[..owner.len()].copy_from_slice(owner);
        bytes[OWNER_LENGTH..OWNER_LENGTH + reason.len()].copy_from_slice(reason);
        words[0] = (owner.len() as u64) << 32 | (reason.len() as u64) << 40;
        for (word, bytes) in words[1..].iter_mut().zip(bytes.chunks_exact(8)) {
            *word = u64::from_le_bytes(bytes.try_into().expect("chunks of eight"));
        }
        let highest = self.header_u32(header::HIGHEST_NOTE);
        let says = |note: &u32| {
            let stored = |position| self.get(Region::Notes, note_word(*note, position));
            stored(0) & !USES == words[0]
                && (1..words.len()).all(|position| stored(position) == words[position])
        };
        let in_use = |note: &u32| self.get(Region::Notes, note_word(*note, 0)) & USES != 0;
        let note = match (1..=highest).find(|note| in_use(note) && says(note)) {
            Some(note) => note,
            None => {
                let free = (1..=highest).find(|note| !in_use(note)).unwrap_or(highest + 1);
                if free >= NOTES {
                    return Err(Refused::Notes);
                }
                for (position, word) in words.into_iter().enumerate() {
                    self.set(Region::Notes, note_word(free, position), word);
                }
                self.set_header(header::HIGHEST_NOTE, highest.max(free).into());
                free
            }
        };
        self.use_note(note, 1);
        Ok(u16::try_from(note).expect("below NOTES"))
    }

    /// Lets go of a note.
    pub fn release_note(&mut self, note: u16) {
        self.use_note(note.into(), -1);
    }

    /// Makes the changes. No key may occur twice among them.
    ///
    /// # Errors
    ///
    /// [`Refused`]; then nothing is changed, but after [`Refused::NoPlace`], which takes new entries back, updates stay.
    pub fn apply(&mut self, edits: &[Edit], now_s: u32) -> Result<(), Refused> {
        if edits.is_empty() {
            return Ok(());
        }
        let ids = self.reserve(edits, now_s)?;
        self.set_header(header::DIRTY, CHANGING);
        let touched = self.mark(edits, &ids);
        if let Err(refused) = self.carry_out(&touched, now_s) {
            // What was new is unwanted again; what was there is as it was asked to be.
            for touched in touched.iter().filter(|touched| touched.kind == Kind::Insert) {
                self.set_state(touched.id, state::REMOVING);
            }
            self.recover(now_s);
            return Err(refused);
        }
        Ok(())
    }

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

    /// All entries that have ended by `now_s`, to be removed. Looks at each entry if any may have ended, and notes when
    /// the next will.
    pub fn ended(&mut self, now_s: u32) -> Vec<(u32, Entry)> {
        if self.next_end() > now_s {
            return Vec::new();
        }
        let mut next_end = FOREVER;
        let mut ended = Vec::new();
        for id in 1..=self.header_u32(header::HIGHEST) {
            let (until_s, _) = halves(self.get(Region::Entries, entry_word(id, word::TIMES)));
            if until_s > now_s {
                // Of a free id it is too early at worst.
                next_end = next_end.min(until_s);
            } else if let Some(entry) = self.entry(id) {
                ended.push((id, entry));
            }
        }
        self.set_header(header::NEXT_END, next_end.into());
        ended
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
        let mut ids = std::collections::HashSet::new();
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
            if find_below(&self.view(), &self.shape, Step(key.step.0 + 1), key.step, key.high, key.low)
                .is_none()
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
    fn reader_misses(&self, key: &Key) -> bool {
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

    fn record_of(&self, key: &Key) -> Option<Record> {
        match self.place(key, self.hash(key)) {
            Place::Taken { id, .. } => Some(self.record(id)),
            _ => None,
        }
    }

    // ---- a change, step by step

    /// Ids for all new entries.
    fn reserve(&self, edits: &[Edit], now_s: u32) -> Result<Vec<u32>, Refused> {
        let mut new = [0u32; 2];
        for edit in edits {
            if let Edit::Insert(entry) = edit {
                new[usize::from(entry.key.family() == Family::V6)] += 1;
            }
        }
        for (family, new) in [Family::V4, Family::V6].into_iter().zip(new) {
            if new > self.geometry.capacity(family) - self.used(family) {
                return Err(Refused::Full);
            }
        }
        let needed = (new[0] + new[1]) as usize;
        let mut ids = Vec::with_capacity(needed);
        let mut free = self.header_u32(header::FREE_FIRST);
        let mut resting_until = 0;
        while ids.len() < needed && free != 0 {
            let (next, since_s) = halves(self.get(Region::Entries, entry_word(free, word::FREE)));
            if since_s.saturating_add(REST_S) > now_s {
                resting_until = since_s.saturating_add(REST_S);
                break;
            }
            ids.push(free);
            free = next;
        }
        let fresh = self.header_u32(header::HIGHEST) + 1..self.geometry.ids();
        ids.extend(fresh.take(needed - ids.len()));
        if ids.len() < needed { Err(Refused::Resting(resting_until)) } else { Ok(ids) }
    }

    /// Writes down what is to be done, in entries and their states, and returns it in the order of keys.
    fn mark(&mut self, edits: &[Edit], ids: &[u32]) -> Vec<Touched> {
        let highest_before = self.header_u32(header::HIGHEST);
        let mut ids = ids.iter().copied();
        let mut highest = highest_before;
        let mut reused = 0;
        let mut touched = Vec::with_capacity(edits.len());
        for edit in edits {
            match *edit {
                Edit::Insert(entry) => {
                    let id = ids.next().expect("reserved for each");
                    // The counters of an id that was never used are zero.
                    let base = if id > highest_before { Counter::default() } else { self.counter(id) };
                    reused += u32::from(id <= highest_before);
                    highest = highest.max(id);
                    let entry = Entry { base, ..entry };
                    self.write_entry(id, &entry, state::ADDING);
                    self.use_note(entry.note.into(), 1);
                    touched.push(Touched { key: entry.key, id, kind: Kind::Insert });
                }
                Edit::Update { id, slots, until_s, note } => {
                    let before = self.read_entry(id).expect("updates are of entries");
                    let entry = Entry { slots, until_s, note, ..before };
                    self.use_note(note.into(), 1);
                    self.use_note(before.note.into(), -1);
                    self.add_digest(before.digest().wrapping_neg());
                    self.set_state(id, state::ADDING);
                    self.write_entry(id, &entry, state::ADDING);
                    touched.push(Touched { key: entry.key, id, kind: Kind::Update });
                }
                Edit::Remove(id) => {
                    let entry = self.read_entry(id).expect("removals are of entries");
                    self.set_state(id, state::REMOVING);
                    self.use_note(entry.note.into(), -1);
                    self.add_digest(entry.digest().wrapping_neg());
                    touched.push(Touched { key: entry.key, id, kind: Kind::Remove });
                }
            }
        }
        for _ in 0..reused {
            let first = self.header_u32(header::FREE_FIRST);
            let (next, _) = halves(self.get(Region::Entries, entry_word(first, word::FREE)));
            self.set_header(header::FREE_FIRST, next.into());
            if next == 0 {
                self.set_header(header::FREE_LAST, 0);
            }
        }
        self.set_header(header::HIGHEST, highest.into());
        touched.sort_unstable_by_key(|touched| (touched.key, touched.id));
        touched
    }

    fn carry_out(&mut self, touched: &[Touched], now_s: u32) -> Result<(), Refused> {
        for family in [Family::V4, Family::V6] {
            let of_family = |touched: &&Touched| touched.key.family() == family;
            let moved: Vec<&Touched> =
                touched.iter().filter(of_family).filter(|touched| touched.kind != Kind::Update).collect();
            self.reorder(family, &moved);
        }
        self.refresh_all(touched)?;
        let digest = self.settle(touched, now_s);
        self.add_digest(digest);
        let removed = touched.iter().filter(|touched| touched.kind == Kind::Remove).count();
        let stale = self.header(header::STALE) + removed as u64;
        self.set_header(header::STALE, stale);
        if stale > u64::from(self.geometry.entries() / 4).max(1024) {
            self.tidy();
        }
        self.set_header(header::GENERATION, self.generation() + 1);
        self.set_header(header::DIRTY, 0);
        Ok(())
    }

    /// Says in the entries that all is done. Returns the digest of those that are new or changed.
    fn settle(&mut self, touched: &[Touched], now_s: u32) -> u64 {
        let mut next_end = self.next_end();
        let mut digest = 0u64;
        for Touched { id, kind, .. } in touched {
            if *kind == Kind::Remove {
                self.set_state(*id, state::RESTING);
                self.append_free(*id, now_s);
                continue;
            }
            let entry = self.read_entry(*id).expect("written just now");
            next_end = next_end.min(entry.until_s);
            digest = digest.wrapping_add(entry.digest());
            self.set_state(*id, state::ACTIVE);
        }
        self.set_header(header::NEXT_END, next_end.into());
        digest
    }

    /// Brings the order of a family's keys to include what is new and leave out what is removed.
    fn reorder(&mut self, family: Family, moved: &[&Touched]) {
        let used = self.used(family);
        if moved.len() < MERGE_FROM {
            let mut used = used;
            for touched in moved {
                let position = self.position_among(family, &touched.key, 0, used);
                let at = |position: u32| self.order_word(family, position);
                if touched.kind == Kind::Insert {
                    for place in (position..used).rev() {
                        self.set(Region::Order, at(place + 1), self.get(Region::Order, at(place)));
                    }
                    self.set(Region::Order, at(position), order_of(&touched.key, touched.id));
                    used += 1;
                } else {
                    for place in position + 1..used {
                        self.set(Region::Order, at(place - 1), self.get(Region::Order, at(place)));
                    }
                    used -= 1;
                }
            }
            self.set_header(used_of(family), used.into());
            return;
        }
        let before: Vec<u64> =
            (0..used).map(|place| self.get(Region::Order, self.order_word(family, place))).collect();
        let mut before = before.into_iter().peekable();
        let mut after = 0;
        let mut push = |table: &Self, word: u64| {
            table.set(Region::Order, table.order_word(family, after), word);
            after += 1;
        };
        for touched in moved {
            while let Some(word) = before.next_if(|word| self.key_in(*word) < touched.key) {
                push(self, word);
            }
            if touched.kind == Kind::Insert {
                push(self, order_of(&touched.key, touched.id));
            } else {
                before.next();
            }
        }
        for word in before {
            push(self, word);
        }
        self.set_header(used_of(family), after.into());
    }

    /// Brings records, slots, codes, steps and Bloom filter to what the entries say, for the prefixes touched and all inside
    /// them.
    fn refresh_all(&mut self, touched: &[Touched]) -> Result<(), Refused> {
        let mut rest = touched;
        let mut cursor = (Family::V4, 0);
        while let Some(first) = rest.first() {
            let outer = first.key;
            let inside = rest.iter().take_while(|touched| outer.covers(&touched.key)).count();
            let (these, others) = rest.split_at(inside);
            let family = outer.family();
            if cursor.0 != family {
                cursor = (family, 0);
            }
            let start = self.position(family, &outer.first(), cursor.1);
            cursor.1 = self.refresh(&outer, start, these)?;
            rest = others;
        }
        Ok(())
    }

    /// Refreshes the entries inside `outer`, which start at `position` in the order. Returns where they end.
    ///
    /// New records are published first, narrower before wider; then those that were there change in place; then those
    /// that have no entry any more go, wider before narrower. So each address sees at most one change of its verdict.
    fn refresh(&mut self, outer: &Key, position: u32, touched: &[Touched]) -> Result<u32, Refused> {
        let family = outer.family();
        let used = self.used(family);
        let mut work = std::mem::take(&mut self.work);
        work.planned.clear();
        work.open.clear();
        let inherited = self.inherited(outer);
        let mut end = position;
        while end < used {
            let id = self.id_at(family, end);
            let Some(entry) = self.read_entry(id).filter(|entry| outer.covers(&entry.key)) else { break };
            end += 1;
            if let Some(last) = work.planned.last_mut()
                && last.prefix.is_same_prefix(&entry.key)
            {
                add_to(&mut last.record, id, &entry);
                if let Some((_, record)) = work.open.last_mut() {
                    *record = last.record;
                }
                continue;
            }
            while work.open.pop_if(|(outer, _)| !outer.covers(&entry.key)).is_some() {}
            let mut record = work.open.last().map_or(inherited, |(_, record)| *record);
            add_to(&mut record, id, &entry);
            work.open.push((entry.key, record));
            work.planned.push(Planned { prefix: entry.key, record, entry: id, host: None });
        }
        let published = self.publish(&mut work.planned);
        for planned in &work.planned {
            if let Some(host) = planned.host {
                self.update(planned, host);
            }
        }
        self.work = work;
        published?;
        let mut last: Option<Key> = None;
        for Touched { key, kind, .. } in touched {
            if *kind == Kind::Remove && last.is_none_or(|last| !last.is_same_prefix(key)) {
                self.unpublish(key);
                last = Some(*key);
            }
        }
        Ok(end)
    }

    /// Publishes what has no slot yet, and notes the hosts of the others.
    fn publish(&mut self, planned: &mut [Planned]) -> Result<(), Refused> {
        for planned in planned.iter_mut().rev() {
            let hash = self.hash(&planned.prefix);
            match self.place(&planned.prefix, hash) {
                Place::Taken { id, .. } => {
                    planned.host = Some(id);
                    // Whoever died may not have come to this. Outside of a recovery all of it is there.
                    if self.header(header::DIRTY) == RECOVERING {
                        self.admit(&planned.prefix, hash);
                    }
                }
                Place::None => return Err(Refused::NoPlace),
                Place::Free { index, choice } => {
                    self.write_record(planned.entry, &planned.prefix, &planned.record);
                    // The marks come first: a slot that nobody finds would never be cleared.
                    for passed in 0..choice {
                        let first = self.shape.bucket(hash, passed) as usize * BUCKET_SLOTS;
                        let word = self.get(Region::Buckets, first);
                        if word & OVERFLOW == 0 {
                            self.set(Region::Buckets, first, word | OVERFLOW);
                        }
                    }
                    let kept = self.get(Region::Buckets, index) & OVERFLOW;
                    self.set(Region::Buckets, index, Slot::new(hash.tag(), planned.entry).0 | kept);
                    self.admit(&planned.prefix, hash);
                }
            }
        }
        Ok(())
    }

    /// Changes the record of a prefix that has a slot.
    fn update(&mut self, planned: &Planned, host: u32) {
        let meta = self.get(Region::Entries, entry_word(host, word::META));
        if matches!(state_of(meta), state::ADDING | state::ACTIVE) {
            let first = record_at(host) + record_word::FIRST;
            for (position, word) in planned.record.words.into_iter().enumerate() {
                if self.get(Region::Records, first + position) != word {
                    self.set(Region::Records, first + position, word);
                }
            }
            return;
        }
        // The entry that lent the record its place goes; another of the prefix takes over.
        self.write_record(planned.entry, &planned.prefix, &planned.record);
        let hash = self.hash(&planned.prefix);
        if let Place::Taken { index, .. } = self.place(&planned.prefix, hash) {
            let kept = self.get(Region::Buckets, index) & OVERFLOW;
            self.set(Region::Buckets, index, Slot::new(hash.tag(), planned.entry).0 | kept);
        }
    }

    /// Takes a prefix out of the buckets, unless another entry has it.
    fn unpublish(&mut self, key: &Key) {
        let Place::Taken { index, id } = self.place(key, self.hash(key)) else {
            // Nothing to take out; but whoever died here may not have come to the codes.
            return self.exclude(key, false);
        };
        let meta = self.get(Region::Entries, entry_word(id, word::META));
        if matches!(state_of(meta), state::ADDING | state::ACTIVE) {
            return;
        }
        self.set(Region::Buckets, index, self.get(Region::Buckets, index) & OVERFLOW);
        self.exclude(key, true);
    }

    /// Lets readers look for this prefix.
    fn admit(&mut self, key: &Key, hash: Hash) {
        let (family, length) = key.family_and_length();
        match family {
            Family::V4 => self.set_codes(key, length),
            Family::V6 => {
                let (index, bits) = self.shape.bloom(hash);
                let word = self.get(Region::Bloom, index as usize);
                if word & bits != bits {
                    self.set(Region::Bloom, index as usize, word | bits);
                }
            }
        }
        let count = step_word(key.step.0, 3);
        let before = self.get(Region::Steps, count);
        self.set(Region::Steps, count, before + 1);
        if before == 0 {
            self.link(key.step);
        }
    }

    /// Lets readers no longer look for this prefix, as far as others don't need it.
    fn exclude(&mut self, key: &Key, counted: bool) {
        let (family, length) = key.family_and_length();
        if counted {
            let count = step_word(key.step.0, 3);
            let left = self.get(Region::Steps, count).saturating_sub(1);
            self.set(Region::Steps, count, left);
            if left == 0 {
                self.unlink(key.step);
            }
        }
        if family == Family::V4 {
            self.clear_codes(key, length);
        }
    }

    // ---- steps and codes

    /// Puts a length into the chain. Each store leaves a chain that holds all that were in it.
    fn link(&mut self, step: Step) {
        let Some((family, _)) = step.family_and_length() else { return };
        for longer in step.0 + 1..=Step::start(family).0 {
            let next = step_word(longer, 0);
            if self.get(Region::Steps, next) < step.0.into() {
                self.set(Region::Steps, next, step.0.into());
            }
        }
    }

    /// Takes a length out of the chain. A reader that is at this step goes on from it.
    fn unlink(&mut self, step: Step) {
        let Some((family, _)) = step.family_and_length() else { return };
        let after = self.get(Region::Steps, step_word(step.0, 0));
        for longer in step.0 + 1..=Step::start(family).0 {
            let next = step_word(longer, 0);
            if self.get(Region::Steps, next) == step.0.into() {
                self.set(Region::Steps, next, after);
            }
        }
    }

    fn set_codes(&mut self, key: &Key, length: u8) {
        if length > WIDE_LENGTH {
            return self.change_codes(code_range(key), NARROW, true);
        }
        self.change_codes(code_range(key), WIDE, true);
    }

    fn clear_codes(&mut self, key: &Key, length: u8) {
        let (start, end) = code_range(key);
        if length > WIDE_LENGTH {
            // Of the entries that start in this /24, those with more than 24 bits come first from here on.
            let network = Key {
                high: u64::from(start) << 40,
                low: 0,
                step: Step::of(Family::V4, WIDE_LENGTH + 1),
                action: 0,
            };
            let position = self.position(Family::V4, &network, 0);
            let is_needed = position < self.used(Family::V4)
                && self.key_of(self.id_at(Family::V4, position)).high >> 40 == start.into();
            if !is_needed {
                self.change_codes((start, end), NARROW, false);
            }
            return;
        }
        // A wider entry that stays covers all of it.
        let mut position = self.position(Family::V4, &key.first(), 0);
        if self.is_covered(key) {
            return;
        }
        let mut from = start;
        while position < self.used(Family::V4) {
            let inner = self.key_of(self.id_at(Family::V4, position));
            if !key.covers(&inner) {
                break;
            }
            position += 1;
            if inner.family_and_length().1 > WIDE_LENGTH {
                continue;
            }
            let (inner_start, inner_end) = code_range(&inner);
            if inner_start > from {
                self.change_codes((from, inner_start), WIDE, false);
            }
            from = from.max(inner_end);
        }
        if from < end {
            self.change_codes((from, end), WIDE, false);
        }
    }

    /// Whether an IPv4 entry covers more than this prefix.
    fn is_covered(&self, key: &Key) -> bool {
        let (family, length) = key.family_and_length();
        (0..length).any(|length| {
            let (high, _) = mask(length);
            let wider = Key { high: key.high & high, low: 0, step: Step::of(family, length), action: 0 };
            self.get(Region::Steps, step_word(wider.step.0, 3)) != 0 && {
                let position = self.position(family, &wider, 0);
                position < self.used(family)
                    && self.key_of(self.id_at(family, position)).is_same_prefix(&wider)
            }
        })
    }

    /// Sets or clears `code` for the /24s from the first on and below the second.
    fn change_codes(&mut self, (start, end): (u32, u32), code: u64, set: bool) {
        /// The lowest bit of each code.
        const EACH: u64 = 0x5555_5555_5555_5555;
        let mut from = start;
        while from < end {
            let index = from / CODES_A_WORD;
            let until = end.min((index + 1) * CODES_A_WORD);
            let (first, count) = (from % CODES_A_WORD, until - from);
            let ones = if count == CODES_A_WORD { u64::MAX } else { (1 << (2 * count)) - 1 };
            let bits = (EACH * code) & (ones << (2 * first));
            let word = self.get(Region::Codes, index as usize);
            let changed = if set { word | bits } else { word & !bits };
            if changed != word {
                self.set(Region::Codes, index as usize, changed);
            }
            from = until;
        }
    }

    /// Makes filter and overflow marks anew, without those that nothing needs any more. Each word goes from what admits
    /// more to what is needed.
    fn tidy(&mut self) {
        let mut filter = vec![0u64; self.geometry.bloom_words() as usize];
        let mut overflows = vec![false; self.geometry.buckets() as usize];
        for family in [Family::V4, Family::V6] {
            for position in 0..self.used(family) {
                let key = self.key_of(self.id_at(family, position));
                let hash = self.hash(&key);
                if family == Family::V6 {
                    let (index, bits) = self.shape.bloom(hash);
                    filter[index as usize] |= bits;
                }
                if let Place::Taken { index, .. } = self.place(&key, hash) {
                    let choices = (0..CHOICES).map(|choice| self.shape.bucket(hash, choice) as usize);
                    for passed in choices.take_while(|bucket| *bucket != index / BUCKET_SLOTS) {
                        overflows[passed] = true;
                    }
                }
            }
        }
        for (index, word) in filter.into_iter().enumerate() {
            if self.get(Region::Bloom, index) != word {
                self.set(Region::Bloom, index, word);
            }
        }
        for (bucket, overflows) in overflows.into_iter().enumerate() {
            let word = self.get(Region::Buckets, bucket * BUCKET_SLOTS);
            if !overflows && word & OVERFLOW != 0 {
                self.set(Region::Buckets, bucket * BUCKET_SLOTS, word & !OVERFLOW);
            }
        }
        self.set_header(header::STALE, 0);
    }

    // ---- look-ups of the writer

    fn view(&self) -> View<'_, C> {
        View { cells: &self.cells, geometry: self.geometry }
    }

    fn hash(&self, key: &Key) -> Hash {
        self.shape.hash(key.step, key.high, key.low)
    }

    /// What the narrowest prefix that covers more than this one says.
    fn inherited(&self, key: &Key) -> Record {
        let view = self.view();
        let (family, length) = key.family_and_length();
        let floor = match family {
            Family::V6 => Step::of(Family::V6, 0),
            Family::V4 => {
                let network = code_range(key).0;
                let word = view.codes(network / CODES_A_WORD).unwrap_or(0);
                let code = word >> (2 * (network % CODES_A_WORD));
                if code & WIDE != 0 {
                    Step::of(Family::V4, 0)
                } else if length <= WIDE_LENGTH + 1 || code & NARROW == 0 {
                    return Record::default();
                } else {
                    Step::of(Family::V4, WIDE_LENGTH + 1)
                }
            }
        };
        let found = find_below(&view, &self.shape, key.step, floor, key.high, key.low);
        found.map_or_else(Record::default, |id| self.record(id))
    }

    /// Where a key lies, or could.
    fn place(&self, key: &Key, hash: Hash) -> Place {
        let mut free = None;
        for choice in 0..CHOICES {
            let first = self.shape.bucket(hash, choice) as usize * BUCKET_SLOTS;
            let mut room = None;
            let mut has_tag = false;
            for index in first..first + BUCKET_SLOTS {
                let slot = Slot(self.get(Region::Buckets, index));
                if slot.id() == 0 {
                    room.get_or_insert(index);
                } else if slot.tag() == hash.tag() {
                    if self.is_record_of(slot.id(), key) {
                        return Place::Taken { index, id: slot.id() };
                    }
                    // Readers add up what has their tag: two in one bucket would be a third.
                    has_tag = true;
                }
            }
            if let (Some(index), false, None) = (room, has_tag, free) {
                free = Some((index, choice));
            }
            if self.get(Region::Buckets, first) & OVERFLOW == 0 && free.is_some() {
                break;
            }
        }
        free.map_or(Place::None, |(index, choice)| Place::Free { index, choice })
    }

    fn is_record_of(&self, id: u32, key: &Key) -> bool {
        let at = |position| self.get(Region::Records, record_at(id) + position);
        (at(record_word::HIGH), at(record_word::LOW), at(record_word::STEP))
            == (key.high, key.low, key.step.0.into())
    }

    fn record(&self, id: u32) -> Record {
        self.view().record(id).map_or_else(Record::default, |line| record_in(&line))
    }

    fn write_record(&mut self, id: u32, prefix: &Key, record: &Record) {
        let first = record_at(id);
        self.set(Region::Records, first + record_word::HIGH, prefix.high);
        self.set(Region::Records, first + record_word::LOW, prefix.low);
        self.set(Region::Records, first + record_word::STEP, prefix.step.0.into());
        for (position, word) in record.words.into_iter().enumerate() {
            self.set(Region::Records, first + record_word::FIRST + position, word);
        }
    }

    // ---- entries, their order, and free ids

    fn entries_of(
        &self,
        family: Family,
        positions: std::ops::Range<u32>,
    ) -> impl Iterator<Item = (u32, Entry)> {
        positions.filter_map(move |position| {
            let id = self.id_at(family, position);
            Some((id, self.entry(id)?))
        })
    }

    fn read_entry(&self, id: u32) -> Option<Entry> {
        Entry::from_words(std::array::from_fn(|position| self.get(Region::Entries, entry_word(id, position))))
    }

    fn write_entry(&mut self, id: u32, entry: &Entry, state: u8) {
        self.set(Region::Entries, entry_word(id, word::HIGH), entry.key.high);
        self.set(Region::Entries, entry_word(id, word::LOW), entry.key.low);
        self.set(Region::Entries, entry_word(id, word::TIMES), entry.times());
        self.set(Region::Entries, entry_word(id, word::BASE_PACKETS), entry.base.packets);
        self.set(Region::Entries, entry_word(id, word::BASE_BYTES), entry.base.bytes);
        self.set(Region::Entries, entry_word(id, word::META), entry.meta(state));
    }

    fn set_state(&mut self, id: u32, state: u8) {
        let meta = self.get(Region::Entries, entry_word(id, word::META));
        self.set(Region::Entries, entry_word(id, word::META), meta & !0xff | u64::from(state));
    }

    #[expect(clippy::cast_possible_truncation, reason = "fields of a word")]
    fn key_of(&self, id: u32) -> Key {
        let meta = self.get(Region::Entries, entry_word(id, word::META));
        Key {
            high: self.get(Region::Entries, entry_word(id, word::HIGH)),
            low: self.get(Region::Entries, entry_word(id, word::LOW)),
            step: Step((meta >> 8 & 0xff) as u32),
            action: (meta >> 16) as u8,
        }
    }

    fn key_in(&self, order: u64) -> Key {
        self.key_of(halves(order).1)
    }

    fn order_word(&self, family: Family, position: u32) -> usize {
        let start = if family == Family::V6 { self.geometry.capacity_v4 } else { 0 };
        (start + position) as usize
    }

    fn id_at(&self, family: Family, position: u32) -> u32 {
        halves(self.get(Region::Order, self.order_word(family, position))).1
    }

    /// The position of the first key that is not less than `key`, which is known not to lie before `from`.
    fn position(&self, family: Family, key: &Key, from: u32) -> u32 {
        self.position_among(family, key, from, self.used(family))
    }

    fn position_among(&self, family: Family, key: &Key, from: u32, used: u32) -> u32 {
        let start = halves(key.high).0;
        let is_less = |position: u32| {
            let word = self.get(Region::Order, self.order_word(family, position));
            let (high, id) = halves(word);
            if high == start { self.key_of(id) < *key } else { high < start }
        };
        // In steps that double, since what is sought one after the other lies close together.
        let (mut low, mut width) = (from, 1);
        while low + width <= used && is_less(low + width - 1) {
            low += width;
            width *= 2;
        }
        let mut high = used.min(low + width);
        while low < high {
            let middle = low + (high - low) / 2;
            if is_less(middle) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }

    fn append_free(&mut self, id: u32, now_s: u32) {
        self.set(Region::Entries, entry_word(id, word::FREE), now_s.into());
        let last = self.header_u32(header::FREE_LAST);
        if last == 0 {
            self.set_header(header::FREE_FIRST, id.into());
        } else {
            let (_, since_s) = halves(self.get(Region::Entries, entry_word(last, word::FREE)));
            let word = u64::from(id) << 32 | u64::from(since_s);
            self.set(Region::Entries, entry_word(last, word::FREE), word);
        }
        self.set_header(header::FREE_LAST, id.into());
    }

    fn find_next_end(&mut self) {
        let next = self.entries().map(|(_, entry)| entry.until_s).min().unwrap_or(FOREVER);
        self.set_header(header::NEXT_END, next.into());
    }

    /// What an id has counted since the table was made, whatever entries had it, over all CPUs.
    pub fn counter(&self, id: u32) -> Counter {
        let mut sum = Counter::default();
        for cpu in 0..self.geometry.cpus as usize {
            let first = 2 * (cpu * self.geometry.ids() as usize + id as usize);
            sum.packets = sum.packets.wrapping_add(self.get(Region::Counters, first));
            sum.bytes = sum.bytes.wrapping_add(self.get(Region::Counters, first + 1));
        }
        sum
    }

    fn use_note(&mut self, note: u32, by: i32) {
        if note == 0 || note >= NOTES {
            return;
        }
        let word = self.get(Region::Notes, note_word(note, 0));
        let uses = u32::try_from(word & USES).unwrap_or(0).saturating_add_signed(by);
        self.set(Region::Notes, note_word(note, 0), word & !USES | u64::from(uses));
    }

    /// Counts anew how often each note is used.
    fn count_notes(&mut self, keys: &[(Key, u32)]) {
        let mut uses = vec![0u64; NOTES as usize];
        for entry in keys.iter().filter_map(|(_, id)| self.read_entry(*id)) {
            if let Some(uses) = uses.get_mut(usize::from(entry.note)) {
                *uses += 1;
            }
        }
        for (note, uses) in (0..NOTES).zip(uses).skip(1) {
            let word = self.get(Region::Notes, note_word(note, 0));
            if word & USES != uses {
                self.set(Region::Notes, note_word(note, 0), word & !USES | uses);
            }
            if uses > 0 && note > self.header_u32(header::HIGHEST_NOTE) {
                self.set_header(header::HIGHEST_NOTE, note.into());
            }
        }
    }

    // ---- words

    fn add_digest(&mut self, digest: u64) {
        self.set_header(header::DIGEST, self.digest().wrapping_add(digest));
    }

    fn header(&self, position: usize) -> u64 {
        self.get(Region::Header, position)
    }

    /// A header word that holds a number of entries, an id or a second.
    fn header_u32(&self, position: usize) -> u32 {
        halves(self.header(position)).1
    }

    fn set_header(&self, position: usize, word: u64) {
        self.set(Region::Header, position, word);
    }

    fn get(&self, region: Region, index: usize) -> u64 {
        self.cells.load(region, index)
    }

    fn set(&self, region: Region, index: usize, word: u64) {
        self.cells.store(region, index, word);
    }
}

/// A slot of a bucket: the tag in the upper half, the id of the record in the lowest bits; zero is free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Slot(u64);

impl Slot {
    /// A slot in use.
    const fn new(tag: u32, id: u32) -> Self {
        Self((tag as u64) << 32 | (id as u64 & ID_MASK))
    }

    /// Id of the record; zero where the slot is free.
    const fn id(self) -> u32 {
        #[expect(clippy::cast_possible_truncation, reason = "24 bits")]
        {
            (self.0 & ID_MASK) as u32
        }
    }

    /// The tag.
    const fn tag(self) -> u32 {
        #[expect(clippy::cast_possible_truncation, reason = "the upper half")]
        {
            (self.0 >> 32) as u32
        }
    }
}

/// An entry that a change is about.
#[derive(Clone, Copy, Debug)]
struct Touched {
    key: Key,
    id: u32,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Insert,
    Update,
    Remove,
}

/// Marks in the header: a change is being made, or the end of one that was interrupted.
const CHANGING: u64 = 1;
const RECOVERING: u64 = 2;

/// The bits of a note's first word that count its uses.
const USES: u64 = 0xffff_ffff;

/// Adds what an entry says to the record of its prefix.
fn add_to(record: &mut Record, id: u32, entry: &Entry) {
    for slot in 0..SLOTS {
        if entry.slots >> slot & 1 == 1 {
            let position = 2 * slot + usize::from(entry.key.action == action::BLOCK);
            let before = Match::from_word(record.words[position]);
            let after = Match { entry: id, until_s: before.until_s.max(entry.until_s) };
            record.words[position] = after.to_word();
        }
    }
}

/// The first /24 of an IPv4 prefix, and the one behind its last.
fn code_range(key: &Key) -> (u32, u32) {
    let (_, length) = key.family_and_length();
    let start = halves(key.high).0 >> 8;
    (start, start + (1 << (WIDE_LENGTH - length.min(WIDE_LENGTH))))
}

/// A key's word in the order: the first 32 bits of the address, which mostly spare a look at the entry, and the id.
fn order_of(key: &Key, id: u32) -> u64 {
    key.high & !0xffff_ffff | u64::from(id) & ID_MASK
}

const fn used_of(family: Family) -> usize {
    match family {
        Family::V4 => header::USED_V4,
        Family::V6 => header::USED_V6,
    }
}

#[expect(clippy::cast_possible_truncation, reason = "that is what it is for")]
const fn halves(word: u64) -> (u32, u32) {
    ((word >> 32) as u32, word as u32)
}

const fn step_word(step: u32, position: usize) -> usize {
    4 * step as usize + position
}

const fn record_at(id: u32) -> usize {
    8 * id as usize
}

const fn entry_word(id: u32, position: usize) -> usize {
    8 * id as usize + position
}

const fn note_word(note: u32, position: usize) -> usize {
    NOTE_WORDS as usize * note as usize + position
}
