//! Entries, the order of their keys, and ids that are free.

use super::{Table, entry_word, halves, step_word};
use crate::abi::{Counter, action};
use crate::decide::FOREVER;
use crate::prefix::cells::Cells;
use crate::prefix::entry::{Entry, Key, state, state_of, word};
use crate::prefix::geometry::{Region, header};
use crate::prefix::layout::{Family, ID_MASK, Step, mask};

impl<C: Cells> Table<C> {
    /// The id of the entry with this key.
    pub fn lookup(&self, key: &Key) -> Option<u32> {
        self.lookup_from(&mut Finger::default(), key)
    }

    /// The id of the entry with this key, sought from where the last look-up by this finger ended, which is close by where
    /// keys come in their order. The table must not have changed in between.
    pub fn lookup_from(&self, finger: &mut Finger, key: &Key) -> Option<u32> {
        let family = key.family();
        let position = self.position_from(finger, key);
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

    /// All entries, in the order of their keys.
    pub fn entries(&self) -> impl Iterator<Item = (u32, Entry)> {
        self.entries_of(Family::V4, 0..self.used(Family::V4))
            .chain(self.entries_of(Family::V6, 0..self.used(Family::V6)))
    }

    /// All entries, by id: as [`Table::entries`], but from the entries' own words alone, so that it serves for a table of
    /// another ABI, and for one that a change was interrupted in.
    pub fn entries_by_id(&self) -> impl Iterator<Item = (u32, Entry)> {
        (1..self.geometry.ids()).filter_map(|id| Some((id, self.entry(id)?)))
    }

    /// The entries whose prefix lies in that of `key`, its own included.
    pub fn entries_in(&self, key: &Key) -> impl Iterator<Item = (u32, Entry)> {
        self.entries_in_from(&mut Finger::default(), key)
    }

    /// As [`Table::entries_in`], sought as by [`Table::lookup_from`].
    pub fn entries_in_from<'t>(
        &'t self,
        finger: &mut Finger,
        key: &Key,
    ) -> impl Iterator<Item = (u32, Entry)> + use<'t, C> {
        let first = self.position_from(finger, &key.first());
        let last = self.position_from(finger, &key.last());
        self.entries_of(key.family(), first..last)
    }

    fn position_from(&self, finger: &mut Finger, key: &Key) -> u32 {
        let family = key.family();
        let from = match finger.0 {
            Some((last, position)) if last.family() == family && last <= *key => position,
            _ => 0,
        };
        let position = self.position(family, key, from);
        finger.0 = Some((*key, position));
        position
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
        // With something to remove it stays, so that whoever comes after a process that dies now looks again.
        if ended.is_empty() {
            self.set_header(header::NEXT_END, next_end.into());
        }
        ended
    }

    pub(super) fn entries_of(
        &self,
        family: Family,
        positions: std::ops::Range<u32>,
    ) -> impl Iterator<Item = (u32, Entry)> {
        positions.filter_map(move |position| {
            let id = self.id_at(family, position);
            Some((id, self.entry(id)?))
        })
    }

    pub(super) fn read_entry(&self, id: u32) -> Option<Entry> {
        Entry::from_words(self.cells.load(Region::Entries, entry_word(id, 0)))
    }

    pub(super) fn write_entry(&mut self, id: u32, entry: &Entry, state: u8) {
        let [high, low, _, rest @ ..] = entry.words();
        self.cells.store(Region::Entries, entry_word(id, word::HIGH), [high, low]);
        self.cells.store(Region::Entries, entry_word(id, word::TIMES), rest);
        self.set(Region::Entries, entry_word(id, word::META), entry.meta(state));
    }

    pub(super) fn set_state(&mut self, id: u32, state: u8) {
        let meta = self.get(Region::Entries, entry_word(id, word::META));
        self.set(Region::Entries, entry_word(id, word::META), meta & !0xff | u64::from(state));
    }

    #[expect(clippy::cast_possible_truncation, reason = "fields of a word")]
    pub(super) fn key_of(&self, id: u32) -> Key {
        let [high, low, meta] = self.cells.load(Region::Entries, entry_word(id, word::HIGH));
        let step = Step((meta >> 8 & 0xff) as u32);
        // What no writer wrote gets a key that nothing is looked up by.
        let step = if step.family_and_length().is_some() { step } else { Step::of(Family::V4, 0) };
        Key { high, low, step, action: (meta >> 16) as u8 }
    }

    pub(super) fn key_in(&self, order: u64) -> Key {
        self.key_of(self.id_in(order))
    }

    pub(super) fn order_word(&self, family: Family, position: u32) -> usize {
        let start = if family == Family::V6 { self.geometry.capacity_v4 } else { 0 };
        (start + position) as usize
    }

    pub(super) fn id_at(&self, family: Family, position: u32) -> u32 {
        self.id_in(self.get(Region::Order, self.order_word(family, position)))
    }

    /// The key before this position. What covers the first key of a prefix at the position is this one, or covers it too:
    /// so it is no longer than what both have in common.
    pub(super) fn key_before(&self, family: Family, position: u32) -> Option<Key> {
        Some(self.key_of(self.id_at(family, position.checked_sub(1)?)))
    }

    /// The id in a word of the order; id 0, which is never used, in place of one that is none.
    pub(super) fn id_in(&self, order: u64) -> u32 {
        let (_, id) = halves(order);
        if id < self.geometry.ids() { id } else { 0 }
    }

    /// The position of the first key that is not less than `key`, which is known not to lie before `from`.
    pub(super) fn position(&self, family: Family, key: &Key, from: u32) -> u32 {
        self.position_among(family, key, from, self.used(family))
    }

    pub(super) fn position_among(&self, family: Family, key: &Key, from: u32, used: u32) -> u32 {
        let start = halves(key.high).0;
        let is_less = |position: u32| {
            let word = self.get(Region::Order, self.order_word(family, position));
            let (high, _) = halves(word);
            if high == start { self.key_in(word) < *key } else { high < start }
        };
        // In steps that double, since what is sought one after the other lies close together.
        let (mut low, mut high, mut width) = (from, used, 1);
        while low + width <= used {
            if !is_less(low + width - 1) {
                high = low + width - 1;
                break;
            }
            low += width;
            width *= 2;
        }
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

    pub(super) fn append_free(&mut self, id: u32, now_s: u32) {
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

    pub(super) fn find_next_end(&mut self) {
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

    /// What the entry has counted since it was made.
    pub fn counted(&self, id: u32, entry: &Entry) -> Counter {
        let sum = self.counter(id);
        Counter {
            packets: sum.packets.wrapping_sub(entry.base.packets),
            bytes: sum.bytes.wrapping_sub(entry.base.bytes),
        }
    }

    /// Adds to what the entry counts in this table what it counted in another one.
    pub fn credit(&mut self, id: u32, counted: Counter) {
        let base = Counter { packets: counted.packets.wrapping_neg(), bytes: counted.bytes.wrapping_neg() };
        self.set_base(id, base);
    }

    /// Sets what the counters of its id stood at when the entry was made.
    pub fn set_base(&mut self, id: u32, base: Counter) {
        self.cells.store(Region::Entries, entry_word(id, word::BASE_PACKETS), [base.packets, base.bytes]);
    }
}

/// The last key that was looked up, and its position among all.
#[derive(Clone, Copy, Debug, Default)]
pub struct Finger(Option<(Key, u32)>);

/// A key's word in the order: the first 32 bits of the address, which mostly spare a look at the entry, and the id.
pub(super) fn order_of(key: &Key, id: u32) -> u64 {
    key.high & !0xffff_ffff | u64::from(id) & ID_MASK
}
