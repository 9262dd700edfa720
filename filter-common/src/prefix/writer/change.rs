//! A change, step by step: ids, marks, the order of keys, and the end.

use super::entries::order_of;
use super::records::AHEAD;
use super::{CHANGING, Edit, Refused, Table, entry_word, halves, read_ahead, used_of};
use crate::abi::Counter;
use crate::decide::Clock;
use crate::prefix::REST_S;
use crate::prefix::cells::Cells;
use crate::prefix::entry::{Entry, Key, in_order, state, word};
use crate::prefix::geometry::{Region, header};
use crate::prefix::layout::Family;

impl<C: Cells> Table<C> {
    /// Makes the changes. No key may occur twice among them.
    ///
    /// # Errors
    ///
    /// [`Refused`]; then nothing is changed.
    pub fn apply(&mut self, edits: &[Edit], clock: &impl Clock) -> Result<(), Refused> {
        if edits.is_empty() {
            return Ok(());
        }
        let ids = self.reserve(edits, clock.now_s())?;
        let updated = edits.iter().filter_map(|edit| match edit {
            Edit::Update { id, .. } => Some((*id, self.read_entry(*id)?)),
            _ => None,
        });
        let before: Vec<(u32, Entry)> = updated.collect();
        self.set_header(header::DIRTY, CHANGING);
        let touched = self.mark(edits, &ids);
        if let Err(refused) = self.carry_out(&touched, clock) {
            // What was new is unwanted again, what was to go stays, and what was changed is to be what it was.
            for touched in &touched {
                match touched.kind {
                    Kind::Insert => self.set_state(touched.id, state::REMOVING),
                    Kind::Remove => self.set_state(touched.id, state::ADDING),
                    Kind::Update => {}
                }
            }
            for (id, entry) in before {
                self.write_entry(id, &entry, state::ADDING);
            }
            self.recover(clock).map_err(|_| Refused::Damaged)?;
            return Err(refused);
        }
        Ok(())
    }

    /// Ids for all new entries.
    pub(super) fn reserve(&self, edits: &[Edit], now_s: u32) -> Result<Vec<u32>, Refused> {
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
            if free >= self.geometry.ids() {
                return Err(Refused::Damaged);
            }
            let (next, since_s) = halves(self.get(Region::Entries, entry_word(free, word::FREE)));
            if since_s > now_s.saturating_add(REST_S) {
                return Err(Refused::Damaged);
            }
            if since_s.saturating_add(REST_S) > now_s {
                resting_until = since_s.saturating_add(REST_S);
                break;
            }
            ids.push(free);
            free = next;
        }
        let fresh = self.header_u32(header::HIGHEST) + 1..self.geometry.ids();
        ids.extend(fresh.take(needed - ids.len()));
        match ids.len() < needed {
            true if resting_until == 0 => Err(Refused::Damaged),
            true => Err(Refused::Resting(resting_until)),
            false => Ok(ids),
        }
    }

    /// Writes down what is to be done, in entries and their states, and returns it in the order of keys. New entries get
    /// their ids in this order too, so that whatever goes over them by key goes through memory from end to end.
    pub(super) fn mark(&mut self, edits: &[Edit], ids: &[u32]) -> Vec<Touched> {
        let highest_before = self.header_u32(header::HIGHEST);
        let mut ids = ids.iter().copied();
        let mut highest = highest_before;
        let mut reused = 0;
        let mut next_end = self.next_end();
        let mut digest = 0u64;
        let mut touched = Vec::with_capacity(edits.len());
        let keys = edits.iter().map(|edit| match edit {
            Edit::Insert(entry) => entry.key,
            Edit::Update { id, .. } | Edit::Remove(id) => self.key_of(*id),
        });
        let order = in_order(&keys.collect::<Vec<_>>());
        for position in order.chunks(AHEAD).inspect(|next| fetch(edits, next)).flatten() {
            match edits[*position as usize] {
                Edit::Insert(entry) => {
                    let id = ids.next().expect("reserved for each");
                    // The counters of an id that was never used are zero.
                    let base = if id > highest_before { Counter::default() } else { self.counter(id) };
                    reused += u32::from(id <= highest_before);
                    highest = highest.max(id);
                    let entry = Entry { base, ..entry };
                    self.write_entry(id, &entry, state::ADDING);
                    self.use_note(entry.note.into(), 1);
                    digest = digest.wrapping_add(entry.digest());
                    next_end = next_end.min(entry.until_s);
                    touched.push(Touched { key: entry.key, id, kind: Kind::Insert });
                }
                Edit::Update { id, slots, until_s, note } => {
                    let before = self.read_entry(id).expect("updates are of entries");
                    let entry = Entry { slots, until_s, note, ..before };
                    self.use_note(note.into(), 1);
                    self.use_note(before.note.into(), -1);
                    digest = digest.wrapping_sub(before.digest()).wrapping_add(entry.digest());
                    next_end = next_end.min(until_s);
                    self.set_state(id, state::ADDING);
                    self.write_entry(id, &entry, state::ADDING);
                    touched.push(Touched { key: entry.key, id, kind: Kind::Update });
                }
                Edit::Remove(id) => {
                    let entry = self.read_entry(id).expect("removals are of entries");
                    self.set_state(id, state::REMOVING);
                    self.use_note(entry.note.into(), -1);
                    digest = digest.wrapping_sub(entry.digest());
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
        self.set_header(header::NEXT_END, next_end.into());
        self.set_header(header::DIGEST, self.digest().wrapping_add(digest));
        touched
    }

    pub(super) fn carry_out(&mut self, touched: &[Touched], clock: &impl Clock) -> Result<(), Refused> {
        let first_v6 = touched.partition_point(|touched| touched.key.family() == Family::V4);
        self.reorder(Family::V4, &touched[..first_v6]);
        self.reorder(Family::V6, &touched[first_v6..]);
        self.refresh_all(touched)?;
        self.settle(touched, clock.now_s());
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

    /// Says in the entries that all is done.
    pub(super) fn settle(&mut self, touched: &[Touched], now_s: u32) {
        for Touched { id, kind, .. } in touched {
            if *kind == Kind::Remove {
                self.set_state(*id, state::RESTING);
                self.append_free(*id, now_s);
            } else {
                self.set_state(*id, state::ACTIVE);
            }
        }
    }

    /// Brings the order of a family's keys to include what is new and leave out what is removed.
    pub(super) fn reorder(&mut self, family: Family, touched: &[Touched]) {
        let used = self.used(family);
        let moved = touched.iter().filter(|touched| touched.kind != Kind::Update);
        if moved.clone().take(MERGE_FROM).count() < MERGE_FROM {
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
        // What comes before the first of them stays as it is: of many that are added in their order, all.
        let mut moved = moved.peekable();
        let first = moved.peek().map_or(used, |touched| self.position_among(family, &touched.key, 0, used));
        let before: Vec<u64> =
            (first..used).map(|place| self.get(Region::Order, self.order_word(family, place))).collect();
        let mut before = before.into_iter().peekable();
        let mut after = first;
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
}

/// Has the processor fetch the edits at these positions all at once.
fn fetch(edits: &[Edit], positions: &[u32]) {
    let words = positions.iter().map(|position| match &edits[*position as usize] {
        Edit::Insert(entry) => entry.key.high ^ entry.base.bytes ^ u64::from(entry.slots),
        Edit::Update { id, .. } | Edit::Remove(id) => (*id).into(),
    });
    read_ahead(words);
}

/// An entry that a change is about.
#[derive(Clone, Copy, Debug)]
pub(super) struct Touched {
    pub(super) key: Key,
    pub(super) id: u32,
    pub(super) kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Insert,
    Update,
    Remove,
}

/// Edits from which on the order of keys is merged in one pass, in place of one move for each.
const MERGE_FROM: usize = 32;
