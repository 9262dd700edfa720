//! The prefix tables on the host: against a naive model over random sequences of changes, with a writer that dies at any
//! store, and at their limits.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};

use filter_common::abi::{Counter, action};
use filter_common::offline::StoppedClock;
use filter_common::packet::Address;
use filter_common::prefix::{
    Cells, Edit, Entry, Family, Geometry, Key, NOTES, OwnCells, REST_S, Refused, Region, Seeds, Step, Table,
    header,
};
use filter_common::{FOREVER, Match};
use filter_tests::prefixes::{Model, address, compare, key_of, probes, seeds, some_change, some_key};
use filter_tests::seeded;

const SMALL: Geometry = Geometry { capacity_v4: 300, capacity_v6: 200, cpus: 2 };

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
            table.apply(&edits, &StoppedClock(now_s)).unwrap();
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
        table.apply(&edits, &StoppedClock(now_s)).unwrap();
        table.check().unwrap();
        for region in [Region::Codes, Region::Buckets] {
            let words = SMALL.elements(region) * region.words();
            let left = (0..words as usize).filter(|index| {
                table.cells().cells(region, *index, 1)[0].load(Ordering::Relaxed) & !(1 << 24) != 0
            });
            assert_eq!(left.count(), 0, "{region:?} is not empty");
        }
    }
}

/// Cells that end the writer after a number of stores, as one that is killed.
struct Dying {
    cells: OwnCells,
    left: Cell<u64>,
    lost: AtomicU64,
}

impl Cells for Dying {
    fn cells(&self, region: Region, first: usize, count: usize) -> &[AtomicU64] {
        self.cells.cells(region, first, count)
    }

    fn store<const N: usize>(&self, region: Region, first: usize, words: [u64; N]) {
        for (cell, word) in self.cells(region, first, N).iter().zip(words) {
            if self.left.get() == 0 {
                self.lost.fetch_add(1, Ordering::Relaxed);
                // Without a word: this is no failure.
                std::panic::resume_unwind(Box::new(()));
            }
            self.left.set(self.left.get() - 1);
            cell.store(word, Ordering::Release);
        }
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
            let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                table.apply(&edits, &StoppedClock(now_s))
            }));
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
                            reopened.recover(&StoppedClock(now_s))
                        }));
                        reopened.cells().left.set(u64::MAX);
                    }
                    reopened.recover(&StoppedClock(now_s)).unwrap();
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
        table.apply(&[Edit::Insert(*entry)], &StoppedClock(10)).unwrap();
    }
    table.check().unwrap();
    assert_eq!(table.apply(&[Edit::Insert(entries[8])], &StoppedClock(10)), Err(Refused::NoPlace));
    table.check().unwrap();
    for (position, entry) in entries.iter().enumerate() {
        assert_eq!(table.lookup(&entry.key).is_some(), position < 8);
    }
    // Nor does a refused change remove what it was to remove.
    let eighth = table.lookup(&entries[7].key).unwrap();
    let refused = [Edit::Remove(eighth), Edit::Insert(block([192, 0, 1, 1], 32))];
    assert_eq!(table.apply(&refused, &StoppedClock(10)), Err(Refused::NoPlace));
    table.check().unwrap();
    assert_eq!(table.lookup(&entries[7].key), Some(eighth));
    // A hole in the first choice does not hide those behind it.
    let first = table.lookup(&entries[0].key).unwrap();
    table.apply(&[Edit::Remove(first)], &StoppedClock(10)).unwrap();
    table.check().unwrap();
    table.apply(&[Edit::Insert(entries[8])], &StoppedClock(10)).unwrap();
    table.check().unwrap();
}

#[test]
fn a_writer_may_die_while_it_finds_no_place() {
    // As above, every key collides, and the ninth has no place.
    for deaths in 0..400 {
        let cells = Dying { cells: OwnCells::new(SMALL), left: Cell::new(u64::MAX), lost: AtomicU64::new(0) };
        let mut table = Table::create(cells, SMALL, Seeds([0; 3]));
        let entries: Vec<_> = (1..=12).map(|last| block([192, 0, 2, last], 32)).collect();
        let first: Vec<_> = entries[..7].iter().map(|entry| Edit::Insert(*entry)).collect();
        table.apply(&first, &StoppedClock(10)).unwrap();
        let id = table.lookup(&entries[0].key).unwrap();
        let change = [
            Edit::Update { id, slots: 3, until_s: 50, note: 0 },
            Edit::Insert(entries[7]),
            Edit::Insert(entries[8]),
            Edit::Insert(entries[9]),
        ];
        table.cells().left.set(deaths);
        let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            table.apply(&change, &StoppedClock(20))
        }));
        table.cells().left.set(u64::MAX);
        let died = table.cells().lost.swap(0, Ordering::Relaxed) > 0;
        let mut table = Table::open(table.into_cells(), SMALL, Seeds([0; 3]));
        if table.is_dirty() {
            table.recover(&StoppedClock(20)).unwrap();
        }
        table.check().unwrap_or_else(|wrong| panic!("dead after {deaths} stores: {wrong}"));
        for entry in &entries[..7] {
            assert!(table.lookup(&entry.key).is_some(), "dead after {deaths} stores");
        }
        if !died {
            // Refused as a whole: the update is taken back as well.
            assert_eq!(table.entry(id).unwrap().until_s, FOREVER);
            assert_eq!(table.used(Family::V4), 7);
        }
    }
}

#[test]
fn full_is_refused_before_anything_changes_and_ids_rest() {
    let geometry = Geometry { capacity_v4: 4, capacity_v6: 1, cpus: 1 };
    let mut table = Table::create(OwnCells::new(geometry), geometry, Seeds([1, 2, 3]));
    let insert = |last| Edit::Insert(block([192, 0, 2, last], 32));
    let five: Vec<_> = (1..=5).map(insert).collect();
    assert_eq!(table.apply(&five, &StoppedClock(10)), Err(Refused::Full));
    assert_eq!((table.used(Family::V4), table.generation()), (0, 0));
    table.apply(&five[..4], &StoppedClock(10)).unwrap();
    // The room of IPv6 is not IPv4's, though its id is free.
    assert_eq!(table.apply(&five[4..], &StoppedClock(10)), Err(Refused::Full));
    let all: Vec<_> = table.entries().map(|(id, _)| Edit::Remove(id)).collect();
    table.apply(&all, &StoppedClock(10)).unwrap();
    // One id was never used; the others rest.
    assert_eq!(table.apply(&five[..2], &StoppedClock(11)), Err(Refused::Resting(10 + REST_S)));
    table.apply(&five[..1], &StoppedClock(11)).unwrap();
    table.apply(&five[1..3], &StoppedClock(10 + REST_S)).unwrap();
    table.check().unwrap();
}

#[test]
fn counters_are_never_zeroed_and_a_new_entry_starts_at_zero() {
    let geometry = Geometry { capacity_v4: 1, capacity_v6: 0, cpus: 2 };
    let mut table = Table::create(OwnCells::new(geometry), geometry, Seeds([1, 2, 3]));
    let insert = |last| Edit::Insert(block([192, 0, 2, last], 32));
    table.apply(&[insert(1)], &StoppedClock(10)).unwrap();
    for cpu in 0..2 {
        table.cells().cells(Region::Counters, 2 * (2 * cpu + 1), 1)[0].store(7, Ordering::Relaxed);
    }
    assert_eq!(table.counted(1, &table.entry(1).unwrap()).packets, 14);
    table.apply(&[Edit::Remove(1)], &StoppedClock(10)).unwrap();
    table.apply(&[insert(2)], &StoppedClock(20)).unwrap();
    assert_eq!(table.counted(1, &table.entry(1).unwrap()).packets, 0);
    table.cells().cells(Region::Counters, 2, 1)[0].store(8, Ordering::Relaxed);
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
    table.apply(&[Edit::Insert(entry)], &StoppedClock(10)).unwrap();
    table.release_note(flood);
    // The entry alone holds it now.
    assert_ne!(table.hold_note("manual", "another"), Ok(flood));
    let id = table.lookup(&entry.key).unwrap();
    table.apply(&[Edit::Remove(id)], &StoppedClock(10)).unwrap();
    assert_eq!(table.hold_note("manual", "a third"), Ok(flood));
    let mut kept = 3;
    let refused = loop {
        match table.hold_note("manual", &format!("reason {kept}")) {
            Ok(_) => kept += 1,
            Err(refused) => break refused,
        }
    };
    assert_eq!((refused, kept), (Refused::Notes, NOTES - 1));
}

#[test]
fn the_widest_prefixes_are_bounded_and_leave_nothing() {
    let geometry = Geometry { capacity_v4: 8, capacity_v6: 8, cpus: 1 };
    let mut table = Table::create(OwnCells::new(geometry), geometry, Seeds([5, 6, 7]));
    let prefixes =
        [([0; 4], 0), ([10, 0, 0, 0], 8), ([10, 1, 0, 0], 16), ([10, 1, 2, 0], 24), ([10, 1, 2, 3], 32)];
    let edits: Vec<_> =
        prefixes.iter().map(|(prefix, length)| Edit::Insert(block(*prefix, *length))).collect();
    table.apply(&edits, &StoppedClock(10)).unwrap();
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
        table.apply(&[Edit::Remove(id)], &StoppedClock(10)).unwrap();
        table.check().unwrap();
    }
    assert_eq!(names(&table, [10, 1, 200, 0]), Some(16));
    assert_eq!(names(&table, [10, 2, 0, 0]), None);
    assert_eq!(table.cells().cells(Region::Header, header::USED_V4, 1)[0].load(Ordering::Relaxed), 3);
}
