//! Records and their slots: what is decided for each prefix, and where readers find it.

use super::admission::code_range;
use super::bulk::Bulk;
use super::change::{Kind, Touched};
use super::entries::order_of;
use super::{RECOVERING, Refused, Table, entry_word, halves, read_ahead, record_at};
use crate::abi::action;
use crate::decide::Match;
use crate::prefix::cells::Cells;
use crate::prefix::entry::{Entry, Key, state, state_of, word};
use crate::prefix::geometry::{Region, header};
use crate::prefix::layout::{
    BUCKET_SLOTS, CHOICES, Family, Hash, ID_MASK, Lengths, OVERFLOW, Range, Record, SLOTS, Step, WIDE,
    record_word,
};
use crate::prefix::reader::{find_exactly, find_in, lengths_of, record_of};

impl<C: Cells> Table<C> {
    /// Brings records, slots, codes, steps and Bloom filter to what the entries say, for the prefixes touched and all inside
    /// them.
    pub(super) fn refresh_all(&mut self, touched: &[Touched]) -> Result<(), Refused> {
        // Whoever died may have published what is found as new, which takes a look at each.
        let new = touched.iter().filter(|touched| touched.kind == Kind::Insert).count();
        let is_bulk = new >= BULK_FROM && self.header(header::DIRTY) != RECOVERING;
        let mut bulk = is_bulk.then(|| Bulk::new(self.geometry, new));
        let mut rest = touched;
        let mut cursor = (Family::V4, 0);
        let mut fetched = 0;
        while let Some(first) = rest.first() {
            if rest.len() <= touched.len() - fetched {
                let ahead = &rest[..rest.len().min(AHEAD)];
                let is_visited = |touched: &&Touched| bulk.is_none() || touched.kind != Kind::Insert;
                self.prefetch(ahead.iter().filter(is_visited).map(|touched| touched.key));
                fetched = touched.len() - rest.len() + ahead.len();
            }
            let outer = first.key;
            let inside = rest.iter().take_while(|touched| outer.covers(&touched.key)).count();
            let (these, others) = rest.split_at(inside);
            let family = outer.family();
            if cursor.0 != family {
                cursor = (family, 0);
            }
            // Most often there is nothing between what was touched last and this.
            let start = if self.is_at(family, cursor.1, first) {
                cursor.1
            } else {
                self.position(family, &outer.first(), cursor.1)
            };
            cursor.1 = match (these, &mut bulk) {
                ([new], Some(bulk))
                    if new.kind == Kind::Insert && self.is_alone(&outer, start, others.first()) =>
                {
                    self.note_down(bulk, new, start)?;
                    start + 1
                }
                _ => self.refresh(&outer, start, these)?,
            };
            rest = others;
        }
        bulk.map_or(Ok(()), |bulk| self.publish_noted(&bulk))
    }

    /// Has the processor fetch what will be read of buckets and Bloom filter for these keys, [`AHEAD`] of them at most, all
    /// at once: one after the other each would be waited for.
    pub fn prefetch(&self, keys: impl Iterator<Item = Key>) {
        let words = keys.map(|key| {
            let hash = self.hash(&key);
            let bucket = self.shape.bucket(hash, 0) as usize;
            let word = |hash| self.get(Region::Bloom, self.shape.bloom(hash).0 as usize);
            self.get(Region::Buckets, bucket * BUCKET_SLOTS)
                ^ word(hash)
                ^ self.group_hash(&key).map_or(0, word)
        });
        read_ahead(words);
    }

    /// Whether this entry is at `position` in the order of a family.
    fn is_at(&self, family: Family, position: u32, touched: &Touched) -> bool {
        position < self.used(family)
            && self.get(Region::Order, self.order_word(family, position))
                == order_of(&touched.key, touched.id)
    }

    /// Whether the entry at `position` in the order, whose prefix this is, is the only one inside it. The next one that is
    /// touched is known not to be inside.
    fn is_alone(&self, prefix: &Key, position: u32, next: Option<&Touched>) -> bool {
        let family = prefix.family();
        if position + 1 >= self.used(family)
            || next.is_some_and(|next| self.is_at(family, position + 1, next))
        {
            return true;
        }
        let next = self.get(Region::Order, self.order_word(family, position + 1));
        // Most often the first comparison spares a look at the entry.
        halves(next).0 > halves(prefix.last().high).0 || !prefix.covers(&self.key_in(next))
    }

    /// Refreshes the entries inside `outer`, which start at `position` in the order. Returns where they end.
    ///
    /// New records are published first, narrower before wider; then those that were there change in place; then those
    /// that have no entry any more go, wider before narrower. So between any two stores each address has its old verdict or
    /// its new one. Only a look-up that is under way meanwhile may see a state of its narrower lengths and a later one of its
    /// wider ones, as if it had come between two changes.
    pub(super) fn refresh(
        &mut self,
        outer: &Key,
        position: u32,
        touched: &[Touched],
    ) -> Result<u32, Refused> {
        let family = outer.family();
        let used = self.used(family);
        let mut work = std::mem::take(&mut self.work);
        work.planned.clear();
        work.open.clear();
        let inherited = self.inherited(outer, position);
        let mut end = position;
        let (last_high, _) = halves(outer.last().high);
        while end < used {
            let word = self.get(Region::Order, self.order_word(family, end));
            // Most often this spares a look at the entry.
            if halves(word).0 > last_high {
                break;
            }
            let id = self.id_in(word);
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
    pub(super) fn publish(&mut self, planned: &mut [Planned]) -> Result<(), Refused> {
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
                    self.fill(hash, planned.entry, index, choice);
                    self.admit(&planned.prefix, hash);
                }
            }
        }
        Ok(())
    }

    /// Puts the id of a record that is written into a slot of one of its choices.
    pub(super) fn fill(&mut self, hash: Hash, id: u32, index: usize, choice: u32) {
        // The marks come first: a slot that nobody finds would never be cleared.
        for passed in 0..choice {
            let first = self.shape.bucket(hash, passed) as usize * BUCKET_SLOTS;
            let word = self.get(Region::Buckets, first);
            if word & OVERFLOW == 0 {
                self.set(Region::Buckets, first, word | OVERFLOW);
            }
        }
        let kept = self.get(Region::Buckets, index) & OVERFLOW;
        self.set(Region::Buckets, index, Slot::new(hash.tag(), id).0 | kept);
    }

    /// Changes the record of a prefix that has a slot.
    pub(super) fn update(&mut self, planned: &Planned, host: u32) {
        let meta = self.get(Region::Entries, entry_word(host, word::META));
        if matches!(state_of(meta), state::ADDING | state::ACTIVE) {
            let first = record_at(host) + record_word::FIRST;
            for slot in 0..SLOTS {
                let [allow, block] = [2 * slot, 2 * slot + 1];
                // So that an address whose allow and block entries go together is never shown without the one and with
                // the other.
                let allow_shrinks = planned.record.words[allow] < self.get(Region::Records, first + allow);
                for position in if allow_shrinks { [block, allow] } else { [allow, block] } {
                    let word = planned.record.words[position];
                    if self.get(Region::Records, first + position) != word {
                        self.set(Region::Records, first + position, word);
                    }
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
    pub(super) fn unpublish(&mut self, key: &Key) {
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

    pub(super) fn write_record(&mut self, id: u32, prefix: &Key, record: &Record) {
        let [a, b, c, d] = record.words;
        let words = [prefix.high, prefix.low, prefix.step.0.into(), 0, a, b, c, d];
        self.cells.store(Region::Records, record_at(id), words);
    }

    /// What the narrowest prefix that covers more than this one says. The first key of this prefix is at `position`.
    pub(super) fn inherited(&self, key: &Key, position: u32) -> Record {
        let view = self.view();
        let family = key.family();
        if family == Family::V4 && self.code(code_range(key).0) & WIDE == 0 {
            // At most single addresses.
            return Record::default();
        }
        let Some(before) = self.key_before(family, position) else { return Record::default() };
        let common = key.common_length(&before);
        let range = Range { before: key.step.min(Step::of(family, common + 1)), last: Step::of(family, 0) };
        let found = find_in(&view, &self.shape, range, key.high, key.low);
        found.map_or_else(Record::default, |id| self.record(id))
    }

    /// Where a key lies, or could.
    pub(super) fn place(&self, key: &Key, hash: Hash) -> Place {
        self.place_where(hash, |id| self.is_record_of(id, key))
    }

    /// As [`Table::place`], of a key that is only looked at where a record may be its own.
    pub(super) fn place_where(&self, hash: Hash, is_its_record: impl Fn(u32) -> bool) -> Place {
        let mut free = None;
        for choice in 0..CHOICES {
            let first = self.shape.bucket(hash, choice) as usize * BUCKET_SLOTS;
            let slots: [u64; BUCKET_SLOTS] = self.cells.load(Region::Buckets, first);
            // A bit for each slot, since branches would mostly be foreseen wrong.
            let (mut with_tag, mut without_key) = (0u32, 0u32);
            for (position, slot) in slots.map(Slot).into_iter().enumerate() {
                with_tag |= u32::from(slot.tag() == hash.tag()) << position;
                without_key |= u32::from(slot.id() == 0) << position;
            }
            // Readers add up what has their tag: two in one bucket would be a third.
            with_tag &= !without_key;
            if with_tag != 0 {
                let index = with_tag.trailing_zeros() as usize;
                let id = Slot(slots[index]).id();
                if is_its_record(id) {
                    return Place::Taken { index: first + index, id };
                }
            } else if without_key != 0 && free.is_none() {
                free = Some((first + without_key.trailing_zeros() as usize, choice));
            }
            if slots[0] & OVERFLOW == 0 && free.is_some() {
                break;
            }
        }
        free.map_or(Place::None, |(index, choice)| Place::Free { index, choice })
    }

    /// What readers find for exactly this key's prefix: by their way, through codes, steps, Bloom filter and buckets.
    pub fn seen(&self, key: &Key) -> Option<Record> {
        let view = self.view();
        let hash = self.hash(key);
        let id = match lengths_of(&view, &self.shape, key.family(), key.high)? {
            Lengths::Host if key.step == Step::HOST => {
                find_exactly(&view, &self.shape, key.step, hash, key.high, key.low)
            }
            Lengths::Among(Range { before, last }) if last <= key.step && key.step < before => {
                let alone = Range { before: Step(key.step.0 + 1), last: key.step };
                find_in(&view, &self.shape, alone, key.high, key.low)
            }
            _ => None,
        };
        Some(self.record(id?))
    }

    pub(super) fn is_record_of(&self, id: u32, key: &Key) -> bool {
        // A slot of damaged tables may name any.
        id < self.geometry.ids() && {
            let words = self.cells.load(Region::Records, record_at(id) + record_word::HIGH);
            words == [key.high, key.low, key.step.0.into()]
        }
    }

    pub(super) fn record(&self, id: u32) -> Record {
        record_of(&self.view(), id).unwrap_or_default()
    }
}

/// Keys whose places in memory are worth fetching ahead: as many as a core fetches at a time, and some more.
pub const AHEAD: usize = 32;

/// Entries of a change from which on new ones are published all at once.
const BULK_FROM: usize = 32;

/// Room for a change's intermediate values, kept between changes.
#[derive(Default)]
pub(super) struct Work {
    pub(super) planned: Vec<Planned>,
    pub(super) open: Vec<(Key, Record)>,
}

/// A record as it is to be.
#[derive(Clone, Copy)]
pub(super) struct Planned {
    pub(super) prefix: Key,
    pub(super) record: Record,
    /// An entry of the prefix, which lends the record its place.
    pub(super) entry: u32,
    /// The entry that lends it now.
    pub(super) host: Option<u32>,
}

/// Where a key lies in the buckets.
pub(super) enum Place {
    /// There, with this record.
    Taken { index: usize, id: u32 },
    /// Nowhere; the first choice with room.
    Free { index: usize, choice: u32 },
    /// Nowhere, and no choice has room.
    None,
}

/// A slot of a bucket: the tag in the upper half, the id of the record in the lowest bits; zero is free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Slot(pub(super) u64);

impl Slot {
    /// A slot in use.
    pub(super) const fn new(tag: u32, id: u32) -> Self {
        Self((tag as u64) << 32 | (id as u64 & ID_MASK))
    }

    /// Id of the record; zero where the slot is free.
    pub(super) const fn id(self) -> u32 {
        (self.0 & ID_MASK) as u32
    }

    /// The tag.
    pub(super) const fn tag(self) -> u32 {
        (self.0 >> 32) as u32
    }
}

/// Adds what an entry says to the record of its prefix.
pub(super) fn add_to(record: &mut Record, id: u32, entry: &Entry) {
    for slot in 0..SLOTS {
        if entry.slots >> slot & 1 == 1 {
            let position = 2 * slot + usize::from(entry.key.action == action::BLOCK);
            let before = Match::from_word(record.words[position]);
            let after = Match { entry: id, until_s: before.until_s.max(entry.until_s) };
            record.words[position] = after.to_word();
        }
    }
}
