//! The tables against a naive model, over random sequences of changes, with every step of the writer looked at.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use super::cells::{Cells, OwnCells};
use super::entry::{Entry, Key};
use super::geometry::{Geometry, Region, header};
use super::layout::{Family, REST_S, Record, SLOTS, Seeds, Step, mask};
use super::writer::{Edit, Refused, Table};
use crate::abi::{Counter, action};
use crate::decide::{FOREVER, Match};
use crate::packet::Address;

const SMALL: Geometry = Geometry { capacity_v4: 300, capacity_v6: 200, cpus: 2 };

fn seeds(random: &mut fastrand::Rng) -> Seeds {
    Seeds([random.u64(..), random.u64(..), random.u64(..)])
}

fn seeded() -> fastrand::Rng {
    let seed =
        std::env::var("FILTER_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(|| fastrand::u64(..));
    println!("FILTER_SEED={seed}");
    fastrand::Rng::with_seed(seed)
}

/// A key in a small world, so that prefixes nest, meet and repeat.
fn some_key(random: &mut fastrand::Rng) -> Key {
    let family = if random.bool() { Family::V4 } else { Family::V6 };
    let length = match (family, random.u8(0..8)) {
        (_, 0) => random.u8(0..=family.bits()),
        (Family::V4, _) => random.choice([0, 8, 15, 16, 22, 23, 24, 25, 26, 31, 32]).unwrap(),
        (Family::V6, _) => random.choice([0, 16, 32, 48, 63, 64, 65, 96, 127, 128]).unwrap(),
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

fn some_words(random: &mut fastrand::Rng, family: Family) -> (u64, u64) {
    /// A few bits that differ, all over the address.
    fn sparse(random: &mut fastrand::Rng) -> u64 {
        (0..2).fold(0x2001_0db8_0000_0000, |word, _| word ^ random.u64(0..2) << random.u64(0..64))
    }
    match family {
        Family::V4 => (sparse(random) & !0xffff_ffff, 0),
        Family::V6 => (sparse(random), sparse(random)),
    }
}

fn address(family: Family, (high, low): (u64, u64)) -> Address {
    match family {
        Family::V4 => Address::V4(high.to_be_bytes()[..4].try_into().unwrap()),
        Family::V6 => Address::V6([high.to_be_bytes(), low.to_be_bytes()].concat().try_into().unwrap()),
    }
}

/// Entries in a map, searched from end to end.
#[derive(Clone, Default)]
struct Model(BTreeMap<Key, Entry>);

impl Model {
    /// The end of the last entry that covers the words and the narrowest that does, by slot and action.
    fn decide(&self, family: Family, (high, low): (u64, u64)) -> [Option<(u32, Key)>; 2 * SLOTS] {
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

fn said<C: Cells>(table: &Table<C>, record: Option<Record>) -> [Option<(u32, Key)>; 2 * SLOTS] {
    record.unwrap_or_default().words.map(|word| {
        let Match { entry, until_s } = Match::from_word(word);
        (entry != 0).then(|| (until_s, table.entry(entry).expect("records name entries").key))
    })
}

/// Addresses at and around the borders of a prefix, and some inside.
fn probes(random: &mut fastrand::Rng, key: &Key) -> Vec<(Family, (u64, u64))> {
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
fn some_change<C: Cells>(
    random: &mut fastrand::Rng,
    model: &mut Model,
    table: &Table<C>,
    now_s: u32,
) -> Vec<Edit> {
    let mut room =
        [Family::V4, Family::V6].map(|family| table.geometry().capacity(family) - table.used(family));
    let mut edits = BTreeMap::new();
    let count = random.choice([1, 1, 1, 2, 5, 60]).unwrap();
    for _ in 0..count {
        let key = match random.u8(0..3) {
            0 if !model.0.is_empty() => *model.0.keys().nth(random.usize(0..model.0.len())).unwrap(),
            _ => some_key(random),
        };
        if edits.contains_key(&key) {
            continue;
        }
        let until_s = random.choice([FOREVER, now_s, now_s + 5, now_s + 50]).unwrap();
        let slots = random.u8(1..4);
        let held = table.lookup(&key);
        assert_eq!(held.is_some(), model.0.contains_key(&key), "{key:?}");
        let edit = match held {
            Some(id) if random.bool() => {
                model.0.remove(&key);
                Edit::Remove(id)
            }
            Some(id) => {
                let entry = model.0.get_mut(&key).unwrap();
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

fn compare<C: Cells>(random: &mut fastrand::Rng, model: &Model, table: &Table<C>, keys: &[Key]) {
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

fn key_of<C: Cells>(table: &Table<C>, edit: &Edit) -> Option<Key> {
    match edit {
        Edit::Insert(entry) => Some(entry.key),
        Edit::Update { id, .. } | Edit::Remove(id) => Some(table.entry(*id)?.key),
    }
}

#[test]
fn tables_equal_the_model_after_any_sequence_of_changes() {
    let mut random = seeded();
    for _ in 0..20 {
        let seeds = seeds(&mut random);
        let mut table = Table::create(OwnCells::new(SMALL), SMALL, seeds);
        let mut model = Model::default();
        let mut now_s = 100;
        for _ in 0..150 {
            let edits = some_change(&mut random, &mut model, &table, now_s);
            let keys: Vec<_> = edits.iter().filter_map(|edit| key_of(&table, edit)).collect();
            now_s += REST_S;
            table.apply(&edits, now_s).unwrap();
            compare(&mut random, &model, &table, &keys);
        }
        table.check().unwrap();
        let all: Vec<_> = model.0.keys().copied().collect();
        compare(&mut random, &model, &table, &all);
        let listed: Vec<_> = table.entries().map(|(_, entry)| entry.key).collect();
        assert_eq!(listed, all, "entries are listed in the order of their keys");
        for key in &all {
            let inside: Vec<_> = all.iter().filter(|inner| key.covers(inner)).copied().collect();
            let listed: Vec<_> = table.entries_in(key).map(|(_, entry)| entry.key).collect();
            assert_eq!(listed, inside);
            let covering = all.iter().filter(|outer| outer.covers(key)).count();
            assert_eq!(table.covering(key).len(), covering, "{key:?}");
        }
        // And all the way down again.
        let edits: Vec<_> = table.entries().map(|(id, _)| Edit::Remove(id)).collect();
        table.apply(&edits, now_s).unwrap();
        table.check().unwrap();
        for region in [Region::Codes, Region::Buckets] {
            let words = SMALL.elements(region) * region.words();
            let left = (0..words as usize)
                .filter(|index| table.cells().cell(region, *index).load(Ordering::Relaxed) & !(1 << 24) != 0);
            assert_eq!(left.count(), 0, "{region:?} is not empty");
        }
    }
}

/// Cells that stop storing after a number of stores, as a process does that is killed.
struct Dying {
    cells: OwnCells,
    left: Cell<u64>,
    lost: AtomicU64,
}

impl Cells for Dying {
    fn cell(&self, region: Region, index: usize) -> &AtomicU64 {
        self.cells.cell(region, index)
    }

    fn store(&self, region: Region, index: usize, word: u64) {
        if self.left.get() == 0 {
            self.lost.fetch_add(1, Ordering::Relaxed);
            return;
        }
        self.left.set(self.left.get() - 1);
        self.cells.cell(region, index).store(word, Ordering::Release);
    }

    fn load(&self, region: Region, index: usize) -> u64 {
        self.cells.cell(region, index).load(Ordering::Acquire)
    }
}

#[test]
fn a_writer_may_die_at_any_store() {
    let mut random = seeded();
    for _ in 0..12 {
        let cells = Dying { cells: OwnCells::new(SMALL), left: Cell::new(u64::MAX), lost: AtomicU64::new(0) };
        let seeds = seeds(&mut random);
        let mut table = Table::create(cells, SMALL, seeds);
        let mut model = Model::default();
        let mut now_s = 100;
        for _ in 0..120 {
            let before = model.clone();
            let edits = some_change(&mut random, &mut model, &table, now_s);
            let keys: Vec<_> = edits.iter().filter_map(|edit| key_of(&table, edit)).collect();
            now_s += REST_S;
            let most = if random.bool() { 40 } else { 4000 };
            table.cells().left.set(random.u64(0..most));
            // Dead or not, it goes on to the end in this process, reading what is there.
            let outcome =
                std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| table.apply(&edits, now_s)));
            let died = table.cells().lost.swap(0, Ordering::Relaxed) > 0;
            table.cells().left.set(u64::MAX);
            assert!(died || matches!(outcome, Ok(Ok(()))));
            let mut reopened = Table::open(table.into_cells(), SMALL, seeds);
            if died {
                // What was not touched is decided as before, whatever half-made things lie about.
                for _ in 0..60 {
                    let key = some_key(&mut random);
                    for (family, words) in probes(&mut random, &key) {
                        let host = Key {
                            high: words.0,
                            low: words.1,
                            step: Step::of(family, family.bits()),
                            action: 0,
                        };
                        if keys.iter().any(|key| key.covers(&host)) {
                            continue;
                        }
                        let found = reopened.find(&address(family, words)).unwrap_or_default();
                        let ends = found.words.map(|word| Match::from_word(word).until_s);
                        let wanted = before.decide(family, words).map(|end| end.map_or(0, |(end, _)| end));
                        assert_eq!(ends, wanted, "{:?}", address(family, words));
                    }
                }
                assert!(reopened.is_dirty() || reopened.check().is_ok());
                if reopened.is_dirty() {
                    // Whoever recovers may die as well.
                    for _ in 0..2 {
                        reopened.cells().left.set(random.u64(0..3000));
                        let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                            reopened.recover(now_s)
                        }));
                        reopened.cells().left.set(u64::MAX);
                    }
                    reopened.recover(now_s);
                }
                // Each change was made or not; and the tables are what the entries say.
                for edit in &edits {
                    if let Edit::Insert(entry) = edit
                        && reopened.lookup(&entry.key).is_none()
                    {
                        model.0.remove(&entry.key);
                    }
                }
                for key in &keys {
                    let held = reopened.lookup(key).and_then(|id| reopened.entry(id));
                    match held {
                        Some(entry) => model.0.insert(*key, entry),
                        None => model.0.remove(key),
                    };
                }
                reopened.cells().lost.store(0, Ordering::Relaxed);
            }
            reopened.check().unwrap();
            compare(&mut random, &model, &reopened, &keys);
            table = reopened;
        }
        let all: Vec<_> = model.0.keys().copied().collect();
        compare(&mut random, &model, &table, &all);
    }
}

fn block(prefix: [u8; 4], length: u8) -> Entry {
    let key = Key {
        high: u64::from(u32::from_be_bytes(prefix)) << 32,
        low: 0,
        step: Step::of(Family::V4, length),
        action: action::BLOCK,
    };
    Entry { key, slots: 3, until_s: FOREVER, created_s: 1, note: 0, base: Counter::default() }
}

#[test]
fn keys_that_all_collide_are_found_and_one_too_many_is_refused() {
    // Without a seed every key has the same hash, so each fills a bucket of its own, and there are eight choices.
    let mut table = Table::create(OwnCells::new(SMALL), SMALL, Seeds([0; 3]));
    let entries: Vec<_> = (1..=9).map(|last| block([192, 0, 2, last], 32)).collect();
    for entry in &entries[..8] {
        table.apply(&[Edit::Insert(*entry)], 10).unwrap();
    }
    table.check().unwrap();
    assert_eq!(table.apply(&[Edit::Insert(entries[8])], 10), Err(Refused::NoPlace));
    table.check().unwrap();
    for (position, entry) in entries.iter().enumerate() {
        assert_eq!(table.lookup(&entry.key).is_some(), position < 8);
    }
    // A hole in the first choice does not hide those behind it.
    let first = table.lookup(&entries[0].key).unwrap();
    table.apply(&[Edit::Remove(first)], 10).unwrap();
    table.check().unwrap();
    table.apply(&[Edit::Insert(entries[8])], 10).unwrap();
    table.check().unwrap();
}

#[test]
fn full_is_refused_before_anything_changes_and_ids_rest() {
    let geometry = Geometry { capacity_v4: 4, capacity_v6: 1, cpus: 1 };
    let mut table = Table::create(OwnCells::new(geometry), geometry, Seeds([1, 2, 3]));
    let insert = |last| Edit::Insert(block([192, 0, 2, last], 32));
    let five: Vec<_> = (1..=5).map(insert).collect();
    assert_eq!(table.apply(&five, 10), Err(Refused::Full));
    assert_eq!((table.used(Family::V4), table.generation()), (0, 0));
    table.apply(&five[..4], 10).unwrap();
    // The room of IPv6 is not IPv4's, though its id is free.
    assert_eq!(table.apply(&five[4..], 10), Err(Refused::Full));
    let all: Vec<_> = table.entries().map(|(id, _)| Edit::Remove(id)).collect();
    table.apply(&all, 10).unwrap();
    // One id was never used; the others rest.
    assert_eq!(table.apply(&five[..2], 11), Err(Refused::Resting(10 + REST_S)));
    table.apply(&five[..1], 11).unwrap();
    table.apply(&five[1..3], 10 + REST_S).unwrap();
    table.check().unwrap();
}

#[test]
fn counters_are_never_zeroed_and_a_new_entry_starts_at_zero() {
    let geometry = Geometry { capacity_v4: 1, capacity_v6: 0, cpus: 2 };
    let mut table = Table::create(OwnCells::new(geometry), geometry, Seeds([1, 2, 3]));
    let insert = |last| Edit::Insert(block([192, 0, 2, last], 32));
    table.apply(&[insert(1)], 10).unwrap();
    for cpu in 0..2 {
        table.cells().cell(Region::Counters, 2 * (2 * cpu + 1)).store(7, Ordering::Relaxed);
    }
    assert_eq!(table.counted(1, &table.entry(1).unwrap()).packets, 14);
    table.apply(&[Edit::Remove(1)], 10).unwrap();
    table.apply(&[insert(2)], 20).unwrap();
    assert_eq!(table.counted(1, &table.entry(1).unwrap()).packets, 0);
    table.cells().cell(Region::Counters, 2).store(8, Ordering::Relaxed);
    assert_eq!(table.counted(1, &table.entry(1).unwrap()).packets, 1);
    table.credit(1, Counter { packets: 100, bytes: 0 });
    assert_eq!(table.counted(1, &table.entry(1).unwrap()).packets, 115);
}

#[test]
fn notes_are_shared_and_their_places_used_again() {
    let mut table = Table::create(OwnCells::new(SMALL), SMALL, Seeds([1, 2, 3]));
    let flood = table.hold_note("manual", "SYN flood").unwrap();
    assert_eq!(table.hold_note("manual", "SYN flood"), Ok(flood));
    let other = table.hold_note("list:drop", "SYN flood").unwrap();
    assert_ne!(flood, other);
    assert_eq!(table.note(other), ("list:drop".into(), "SYN flood".into()));
    table.release_note(flood);
    let entry = Entry { note: flood, ..block([192, 0, 2, 1], 32) };
    table.apply(&[Edit::Insert(entry)], 10).unwrap();
    table.release_note(flood);
    // The entry alone holds it now.
    assert_ne!(table.hold_note("manual", "another"), Ok(flood));
    let id = table.lookup(&entry.key).unwrap();
    table.apply(&[Edit::Remove(id)], 10).unwrap();
    assert_eq!(table.hold_note("manual", "a third"), Ok(flood));
    let mut kept = 3;
    let refused = loop {
        match table.hold_note("manual", &format!("reason {kept}")) {
            Ok(_) => kept += 1,
            Err(refused) => break refused,
        }
    };
    assert_eq!((refused, kept), (Refused::Notes, super::NOTES - 1));
}

#[test]
fn the_widest_prefixes_are_bounded_and_leave_nothing() {
    let geometry = Geometry { capacity_v4: 8, capacity_v6: 8, cpus: 1 };
    let mut table = Table::create(OwnCells::new(geometry), geometry, Seeds([5, 6, 7]));
    let prefixes =
        [([0; 4], 0), ([10, 0, 0, 0], 8), ([10, 1, 0, 0], 16), ([10, 1, 2, 0], 24), ([10, 1, 2, 3], 32)];
    let edits: Vec<_> =
        prefixes.iter().map(|(prefix, length)| Edit::Insert(block(*prefix, *length))).collect();
    table.apply(&edits, 10).unwrap();
    table.check().unwrap();
    let names = |table: &Table<OwnCells>, octets| {
        let record = table.find(&Address::V4(octets))?;
        let (_, length) = table.entry(record.block(0).entry)?.key.family_and_length();
        Some(length)
    };
    assert_eq!(
        [[10, 1, 2, 3], [10, 1, 2, 4], [10, 1, 3, 0], [10, 2, 0, 0], [11, 0, 0, 0]]
            .map(|octets| names(&table, octets)),
        [32, 24, 16, 8, 0].map(Some)
    );
    for length in [8, 0] {
        let id = table.entries().find(|(_, entry)| entry.key.family_and_length().1 == length).unwrap().0;
        table.apply(&[Edit::Remove(id)], 10).unwrap();
        table.check().unwrap();
    }
    assert_eq!(names(&table, [10, 1, 200, 0]), Some(16));
    assert_eq!(names(&table, [10, 2, 0, 0]), None);
    assert_eq!(table.cells().cell(Region::Header, header::USED_V4).load(Ordering::Relaxed), 3);
}
