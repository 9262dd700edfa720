//! Lists in the store: what is wanted with them, against a model that knows nothing of blocks and order; and the life of
//! generations.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::lists::block::{self, ENTRIES};
use crate::lists::format::Format;
use crate::lists::holes::Holes;
use crate::lists::items::{Items, Said};
use crate::lists::reading::About;
use crate::lists::settings::{Settings, Source, owner_of};

fn settings(action: Action) -> Settings {
    Settings {
        action,
        source: Source::File("feed.txt".into()),
        format: None,
        column: None,
        mask: false,
        refresh_s: None,
        bounds: crate::lists::guards::Bounds::default(),
    }
}

fn prefix(text: &str) -> Prefix {
    Prefix::parse(text, true).unwrap()
}

fn generation(entries: &[(Prefix, Option<u32>)]) -> NewGeneration {
    let mut items = Items::default();
    entries.iter().for_each(|(prefix, ttl_s)| items.push(*prefix, Said { ttl_s: *ttl_s, comment: "" }));
    let sorted = items.finish();
    let found = Found {
        format: Format::Plain,
        listed: entries.len() as u64,
        duplicates: sorted.duplicates as u64,
        covered: sorted.covered as u64,
        refused: 0,
        ignored: 0,
        about: About::default(),
    };
    NewGeneration {
        blocks: block::blocks(&sorted).collect(),
        entries: sorted.len() as u64,
        found,
        validators: Validators::default(),
    }
}

fn take(store: &mut Store, name: &str, action: Action, entries: &[(Prefix, Option<u32>)], base_s: u32) {
    let (settings, new, record) = (settings(action), generation(entries), record());
    let lists = [ListWrite::Take { name, settings: &settings, new: &new, base_s }];
    store.intend(&Intent { lists: &lists, ..Intent::of(&record) }).unwrap();
}

fn never(store: &mut Store, prefixes: &[Prefix]) {
    let never: Vec<Never> = prefixes
        .iter()
        .map(|prefix| Never {
            prefix: *prefix,
            kind: NeverKind::Operator,
            reason: String::new(),
            until: Deadline::NEVER,
        })
        .collect();
    let (lists, record) = ([ListWrite::Never(&never)], record());
    store.intend(&Intent { lists: &lists, ..Intent::of(&record) }).unwrap();
}

fn wanted(store: &Store) -> BTreeMap<Key, Vec<Hold>> {
    let mut wanted = BTreeMap::new();
    store
        .each_key(Bounds::All, |key, holds| {
            assert!(wanted.last_key_value().is_none_or(|(last, _)| *last < key), "{key:?} is out of order");
            wanted.insert(key, holds);
            Ok(())
        })
        .unwrap();
    wanted
}

#[test]
fn what_lists_hold_is_there_beside_rows_and_without_holes() {
    let directory = Directory::new("lists");
    let mut store = open(&directory);
    write(&mut store, &[(key("10.1.2.3"), vec![hold("manual", 70)])]);
    take(
        &mut store,
        "level1",
        Action::Block,
        &[(prefix("10.0.0.0/8"), None), (prefix("10.1.2.3"), Some(50))],
        10,
    );
    take(&mut store, "friends", Action::Allow, &[(prefix("10.0.0.0/8"), None)], 10);
    never(&mut store, &[prefix("10.200.0.0/16")]);

    let both = store.holds(&key("10.1.2.3")).unwrap();
    let named: Vec<_> = both.iter().map(|hold| (hold.owner.as_str(), hold.until)).collect();
    assert_eq!(named, [("list:level1", Deadline(60)), ("manual", Deadline(70))]);
    assert_eq!(store.holds(&key("10.0.0.0/8")).unwrap(), []);
    assert_eq!(store.holds(&key("10.128.0.0/9")).unwrap(), []);
    assert_eq!(store.holds(&key("10.0.0.0/9")).unwrap()[0].owner.as_str(), "list:level1");
    assert_eq!(store.holds(&key("10.201.0.0/16")).unwrap().len(), 1);
    assert_eq!(store.holds(&key("10.200.0.0/16")).unwrap(), []);
    let allow = Key { action: Action::Allow, prefix: prefix("10.0.0.0/8") };
    assert_eq!(store.holds(&allow).unwrap()[0].owner.as_str(), "list:friends", "allowing has no holes");
    let keys: Vec<String> = wanted(&store).keys().map(|key| key.prefix.to_string()).collect();
    let parts = [
        "10.0.0.0/8",
        "10.0.0.0/9",
        "10.1.2.3/32",
        "10.128.0.0/10",
        "10.192.0.0/13",
        "10.201.0.0/16",
        "10.202.0.0/15",
        "10.204.0.0/14",
        "10.208.0.0/12",
        "10.224.0.0/11",
    ];
    assert_eq!(keys, parts);
}

#[test]
fn generations_are_kept_and_never_change() {
    let directory = Directory::new("generations");
    let mut store = open(&directory);
    for number in 1..=15u32 {
        take(&mut store, "feed", Action::Block, &[(prefix(&format!("192.0.2.{number}")), None)], number);
    }
    let listed = store.list("feed").unwrap().unwrap();
    assert_eq!(listed.generation, Some(15));
    let numbers: Vec<_> = store.generations(&listed).unwrap().iter().map(|kept| kept.number).collect();
    assert_eq!(numbers, (6..=15).collect::<Vec<_>>());
    assert_eq!(wanted(&store).keys().collect::<Vec<_>>(), [&key("192.0.2.15")]);

    let record = record();
    let back = [ListWrite::Force { name: "feed", generation: Some(7), is_held: true }];
    store.intend(&Intent { lists: &back, ..Intent::of(&record) }).unwrap();
    assert_eq!(wanted(&store).keys().collect::<Vec<_>>(), [&key("192.0.2.7")]);
    // The old one in force is kept beside the ten newest, until it is in force no more.
    (0..5).for_each(|_| take(&mut store, "feed", Action::Block, &[(prefix("192.0.2.99"), None)], 20));
    let numbers: Vec<_> = store.generations(&listed).unwrap().iter().map(|kept| kept.number).collect();
    assert_eq!(numbers, (11..=20).collect::<Vec<_>>());
    for (table, column) in
        [("blocks", "bytes"), ("blocks", "first"), ("generations", "entries"), ("generations", "found")]
    {
        assert!(
            store.db.execute(&format!("UPDATE {table} SET {column} = ''"), []).is_err(),
            "{table}.{column}"
        );
    }

    let gone = [ListWrite::Remove { name: "feed" }];
    store.intend(&Intent { lists: &gone, ..Intent::of(&record) }).unwrap();
    assert!(wanted(&store).is_empty() && store.lists().unwrap().is_empty());
    let left: i64 = store.db.query_row("SELECT count(*) FROM blocks", [], |row| row.get(0)).unwrap();
    assert_eq!(left, 0);
}

#[test]
fn a_removal_that_was_killed_leaves_nothing_to_the_next_list_of_its_name() {
    let directory = Directory::new("half-removed");
    let (mut store, record) = (open(&directory), record());
    take(&mut store, "feed", Action::Allow, &[(prefix("192.0.2.1"), None)], 1);
    let half = [
        ListWrite::Keep { name: "feed", counted: [7, 700] },
        ListWrite::Force { name: "feed", generation: None, is_held: false },
    ];
    store.intend(&Intent { lists: &half, ..Intent::of(&record) }).unwrap();
    assert_eq!((store.lists().unwrap().len(), store.next_generation("feed").unwrap()), (0, 1));
    take(&mut store, "feed", Action::Block, &[(prefix("192.0.2.2"), None)], 1);
    let listed = store.list("feed").unwrap().unwrap();
    assert_eq!((listed.generation, listed.kept), (Some(1), [0; 2]));
    assert_eq!(wanted(&store).keys().collect::<Vec<_>>(), [&key("192.0.2.2")]);
}

#[test]
fn what_a_list_counted_outlives_a_reboot_with_what_entries_counted() {
    let directory = Directory::new("kept");
    let kept = |unloaded: bool| {
        let (mut store, record) = (open(&directory), record());
        take(&mut store, "feed", Action::Block, &[(prefix("192.0.2.1"), None)], 1);
        let lists = [ListWrite::Keep { name: "feed", counted: [7, 700] }];
        store.intend(&Intent { lists: &lists, ..Intent::of(&record) }).unwrap();
        if unloaded {
            // That they have counted nothing is carried as well.
            store.carry(&[], Some(&[])).unwrap();
        }
        from_another_boot(store, 1000, 100);
        open(&directory).list("feed").unwrap().unwrap().kept
    };
    assert_eq!(kept(false), [0; 2]);
    assert_eq!(kept(true), [7, 700]);
}

#[test]
fn ends_move_with_the_clock_and_what_ended_is_gone() {
    let directory = Directory::new("ends");
    let mut store = open(&directory);
    let entries =
        [(prefix("192.0.2.1"), Some(5000)), (prefix("192.0.2.2"), Some(50)), (prefix("192.0.2.3"), None)];
    take(&mut store, "feed", Action::Block, &entries, 1000);
    from_another_boot(store, 1010, 100);
    let store = open(&directory);
    let now_s = monotonic_now_s();
    let wanted = wanted(&store);
    let until = |prefix: &str| wanted[&key(prefix)][0].until.0;
    assert!(until("192.0.2.1").abs_diff(now_s + 4890) <= 1, "{} at {now_s}", until("192.0.2.1"));
    assert_eq!((until("192.0.2.3"), wanted.len()), (u32::MAX, 2));
    store.check().unwrap();
}

#[test]
fn a_store_of_version_1_becomes_one_with_lists() {
    let directory = Directory::new("version-1");
    let mut store = open(&directory);
    write(&mut store, &[(key("192.0.2.7"), vec![hold("manual", u32::MAX)])]);
    store
        .db
        .execute_batch(
            "DROP TABLE blocks; DROP TABLE generations; DROP TABLE lists; DROP TABLE never;
             ALTER TABLE state DROP COLUMN cleared_s; DROP TABLE carried; DROP TABLE carried_entries;
             PRAGMA user_version = 1;",
        )
        .unwrap();
    drop(store);
    let mut store = open(&directory);
    store.check().unwrap();
    take(&mut store, "feed", Action::Block, &[(prefix("192.0.2.8"), None)], 0);
    assert_eq!(wanted(&open(&directory)).len(), 2);
}

#[test]
fn a_damaged_block_is_damage_and_no_shorter_list() {
    let directory = Directory::new("damaged-block");
    let mut store = open(&directory);
    take(&mut store, "feed", Action::Block, &[(prefix("192.0.2.8"), None)], 0);
    store
        .db
        .execute_batch("DROP TRIGGER blocks_never_change; UPDATE blocks SET bytes = substr(bytes, 1, 12)")
        .unwrap();
    let error = store.check().unwrap_err();
    assert!(store.unusable(&error).damaged, "{error:#}");
}

/// A few prefixes close together, so that they cover each other and meet the holes.
fn near() -> impl Strategy<Value = Prefix> {
    (0u32..64, 26u8..=32).prop_map(|(low, length)| {
        prefix(&format!("{}/{length}", std::net::Ipv4Addr::from(0xc000_0200 | low)))
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    #[test]
    fn what_is_wanted_is_what_a_model_says(
        lists in prop::collection::vec(prop::collection::vec((near(), prop::option::of(1u32..9)), 0..12), 0..3),
        rows in prop::collection::vec(near(), 0..6),
        holes in prop::collection::vec(near(), 0..3),
        bounds in (near(), near()),
    ) {
        let directory = Directory::new("model");
        let mut store = open(&directory);
        let mut model: BTreeMap<Key, BTreeMap<String, Deadline>> = BTreeMap::new();
        let left: Holes = holes.iter().copied().collect();
        for (number, entries) in lists.iter().enumerate() {
            let name = format!("feed{number}");
            take(&mut store, &name, Action::Block, entries, 1);
            for (prefix, ttl_s) in entries {
                for part in left.parts_of(*prefix) {
                    let held = model.entry(Key { prefix: part, action: Action::Block }).or_default();
                    let until = ttl_s.map_or(Deadline::NEVER, |ttl_s| Deadline(1 + ttl_s));
                    let owner = owner_of(&name).unwrap().as_str().to_owned();
                    let end = held.entry(owner).or_insert(until);
                    *end = Deadline::max(*end, until);
                }
            }
        }
        for prefix in &rows {
            let key = Key { prefix: *prefix, action: Action::Block };
            write(&mut store, &[(key, vec![hold("manual", 70)])]);
            model.entry(key).or_default().insert("manual".into(), Deadline(70));
        }
        never(&mut store, &holes);
        let plain = |holds: &[Hold]| -> BTreeMap<String, Deadline> {
            holds.iter().map(|hold| (hold.owner.as_str().to_owned(), hold.until)).collect()
        };
        let found: BTreeMap<_, _> = wanted(&store).iter().map(|(key, holds)| (*key, plain(holds))).collect();
        prop_assert_eq!(&found, &model);
        for (key, held) in &model {
            prop_assert_eq!(&plain(&store.holds(key).unwrap()), held);
        }
        let [first, last] = [bounds.0.min(bounds.1), bounds.0.max(bounds.1)]
            .map(|prefix| Key { prefix, action: Action::Block });
        let mut within = BTreeMap::new();
        store.each_key(Bounds::Within(first, last), |key, holds| {
            within.insert(key, plain(&holds));
            Ok(())
        }).unwrap();
        let expected: BTreeMap<_, _> = model.range(first..=last).map(|(key, held)| (*key, held.clone())).collect();
        prop_assert_eq!(within, expected);
    }
}

#[test]
fn look_ups_find_what_lies_in_any_block() {
    let directory = Directory::new("blocks");
    let mut store = open(&directory);
    let many = 3 * u32::try_from(ENTRIES).unwrap();
    let entries: Vec<_> = (0..many)
        .map(|number| (Prefix::host(std::net::Ipv4Addr::from(0x0a00_0000 + 2 * number).into()), None))
        .chain([(prefix("10.0.0.0/14"), None), (prefix("2001:db8::/32"), None)])
        .collect();
    take(&mut store, "feed", Action::Block, &entries, 1);
    never(&mut store, &[prefix("10.0.0.3")]);
    for number in (0..many).step_by(997) {
        let there = Prefix::host(std::net::Ipv4Addr::from(0x0a00_0000 + 2 * number).into());
        let beside = Prefix::host(std::net::Ipv4Addr::from(0x0a00_0001 + 2 * number).into());
        let held = |prefix| store.holds(&Key { prefix, action: Action::Block }).unwrap().len();
        assert_eq!((held(there), held(beside)), (1, 0), "{there}");
    }
    assert_eq!(
        store.holds(&key("10.2.0.0/15")).unwrap().len(),
        1,
        "a part of a wide prefix, blocks away from it"
    );
    assert_eq!(store.holds(&key("2001:db8::/32")).unwrap().len(), 1);
    let list = store.view().lists[0].clone();
    let touching = store.touching(&list, &prefix("10.0.32.0/29")).unwrap();
    let texts: Vec<_> = touching.iter().map(ToString::to_string).collect();
    assert_eq!(texts, ["10.0.0.0/14", "10.0.32.0/32", "10.0.32.2/32", "10.0.32.4/32", "10.0.32.6/32"]);
}
