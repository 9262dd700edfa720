//! A naive model of the prefix tables, and random changes to both: what the host's tests and the kernel's share.

use std::collections::BTreeMap;

use fastrand::Rng;
use filter_common::abi::{Counter, action};
use filter_common::packet::Address;
use filter_common::prefix::{Cells, Edit, Entry, Family, Key, Record, SLOTS, Seeds, Step, Table, mask};
use filter_common::{FOREVER, Match};

/// Random seeds.
pub fn seeds(random: &mut Rng) -> Seeds {
    Seeds([random.u64(..), random.u64(..), random.u64(..)])
}

/// A key in a small world, so that prefixes nest, meet and repeat.
pub fn some_key(random: &mut Rng) -> Key {
    let family = if random.bool() { Family::V4 } else { Family::V6 };
    let length = match (family, random.u8(0..8)) {
        (_, 0) => random.u8(0..=family.bits()),
        (Family::V4, _) => random.choice([0, 8, 15, 16, 22, 23, 24, 25, 26, 31, 32]).expect("not empty"),
        (Family::V6, _) => random.choice([0, 16, 32, 48, 63, 64, 65, 96, 127, 128]).expect("not empty"),
    };
    let (high, low) = some_words(random, family);
    let (high_mask, low_mask) = mask(length);
    Key {
        high: high & high_mask,
        low: low & low_mask,
        step: Step::of(family, length),
        action: if random.bool() { action::ALLOW } else { action::BLOCK },
    }
}

fn some_words(random: &mut Rng, family: Family) -> (u64, u64) {
    /// A few bits that differ, all over the address.
    fn sparse(random: &mut Rng) -> u64 {
        (0..2).fold(0x2001_0db8_0000_0000, |word, _| word ^ random.u64(0..2) << random.u64(0..64))
    }
    match family {
        Family::V4 => (sparse(random) & !0xffff_ffff, 0),
        Family::V6 => (sparse(random), sparse(random)),
    }
}

/// The address of these words.
pub fn address(family: Family, (high, low): (u64, u64)) -> Address {
    match family {
        Family::V4 => Address::V4(high.to_be_bytes()[..4].try_into().expect("four bytes")),
        Family::V6 => {
            Address::V6([high.to_be_bytes(), low.to_be_bytes()].concat().try_into().expect("sixteen bytes"))
        }
    }
}

/// Entries in a map, searched from end to end.
#[derive(Clone, Default)]
pub struct Model(pub BTreeMap<Key, Entry>);

impl Model {
    /// The end of the last entry that covers the words and the narrowest that does, by slot and action.
    pub fn decide(&self, family: Family, (high, low): (u64, u64)) -> [Option<(u32, Key)>; 2 * SLOTS] {
        let host = Key { high, low, step: Step::of(family, family.bits()), action: 0 };
        std::array::from_fn(|position| {
            let (slot, action) = (position / 2, [action::ALLOW, action::BLOCK][position % 2]);
            let covering = || {
                self.0.values().filter(|entry| {
                    entry.key.action == action && entry.slots >> slot & 1 == 1 && entry.key.covers(&host)
                })
            };
            let narrowest = covering().max_by_key(|entry| entry.key.step)?;
            Some((covering().map(|entry| entry.until_s).max()?, narrowest.key))
        })
    }
}

/// What a record says, by slot and action: the end, and the key of the entry that it names.
pub fn said<C: Cells>(table: &Table<C>, record: Option<Record>) -> [Option<(u32, Key)>; 2 * SLOTS] {
    record.unwrap_or_default().words.map(|word| {
        let Match { entry, until_s } = Match::from_word(word);
        (entry != 0).then(|| (until_s, table.entry(entry).expect("records name entries").key))
    })
}

/// Addresses at and around the borders of a prefix, and some inside.
pub fn probes(random: &mut Rng, key: &Key) -> Vec<(Family, (u64, u64))> {
    let (family, length) = key.family_and_length();
    let (high, low) = mask(length);
    let (family_high, family_low) = mask(family.bits());
    let last = key.last();
    let value = |high: u64, low: u64| u128::from(high) << 64 | u128::from(low);
    let unit = if family == Family::V4 { 1u128 << 96 } else { 1 };
    let inside =
        (key.high | (random.u64(..) & !high & family_high), key.low | (random.u64(..) & !low & family_low));
    #[expect(clippy::cast_possible_truncation, reason = "the two halves")]
    let words = |value: u128| ((value >> 64) as u64, value as u64);
    [
        words(value(key.high, key.low)),
        words(value(last.high, last.low)),
        words(value(key.high, key.low).wrapping_sub(unit)),
        words(value(last.high, last.low).wrapping_add(unit)),
        inside,
        some_words(random, family),
    ]
    .map(|words| (family, words))
    .to_vec()
}

/// A random change of the model, and the edits that are to make it in the table.
pub fn some_change<C: Cells>(random: &mut Rng, model: &mut Model, table: &Table<C>, now_s: u32) -> Vec<Edit> {
    let mut room =
        [Family::V4, Family::V6].map(|family| table.geometry().capacity(family) - table.used(family));
    let mut edits = BTreeMap::new();
    let count = random.choice([1, 1, 1, 2, 5, 60]).expect("not empty");
    for _ in 0..count {
        let key = match random.u8(0..3) {
            0 if !model.0.is_empty() => {
                *model.0.keys().nth(random.usize(0..model.0.len())).expect("not empty")
            }
            _ => some_key(random),
        };
        if edits.contains_key(&key) {
            continue;
        }
        let until_s = random.choice([FOREVER, now_s, now_s + 5, now_s + 50]).expect("not empty");
        let slots = random.u8(1..4);
        let held = table.lookup(&key);
        assert_eq!(held.is_some(), model.0.contains_key(&key), "{key:?}");
        let edit = match held {
            Some(id) if random.bool() => {
                model.0.remove(&key);
                Edit::Remove(id)
            }
            Some(id) => {
                let entry = model.0.get_mut(&key).expect("not empty");
                (entry.until_s, entry.slots) = (until_s, slots);
                Edit::Update { id, slots, until_s, note: 0 }
            }
            None if room[usize::from(key.family() == Family::V6)] > 0 => {
                room[usize::from(key.family() == Family::V6)] -= 1;
                let base = Counter::default();
                let entry = Entry { key, slots, until_s, created_s: now_s, note: 0, base };
                model.0.insert(key, entry);
                Edit::Insert(entry)
            }
            None => continue,
        };
        edits.insert(key, edit);
    }
    let mut edits: Vec<_> = edits.into_values().collect();
    random.shuffle(&mut edits);
    edits
}

/// Compares what readers find around these prefixes with the model.
///
/// # Panics
///
/// If they differ.
pub fn compare<C: Cells>(random: &mut Rng, model: &Model, table: &Table<C>, keys: &[Key]) {
    for (family, words) in keys.iter().flat_map(|key| probes(random, key)).collect::<Vec<_>>() {
        let found = table.find(&address(family, words));
        assert_eq!(
            said(table, found),
            model.decide(family, words),
            "{:?} among {:?}",
            address(family, words),
            model.0
        );
    }
}

/// The key that an edit is about.
pub fn key_of<C: Cells>(table: &Table<C>, edit: &Edit) -> Option<Key> {
    match edit {
        Edit::Insert(entry) => Some(entry.key),
        Edit::Update { id, .. } | Edit::Remove(id) => Some(table.entry(*id)?.key),
    }
}
