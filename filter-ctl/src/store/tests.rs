//! The store over reboots, clock jumps, damage and tampering; lists in a file of their own.

mod lists;

use filter_common::abi::Counter;
use filter_common::{Reason, Verdict};

use super::*;
use crate::holds::{Hold, enforced};
use crate::kernel::filter::digest;
use crate::policy::{Action, Deadline, Key, Owner, Prefix, ReasonText};
use crate::stats::InterfaceCounts;

/// A directory that goes with the test.
struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("filter-ctl-store-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        Self(path)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn key(prefix: &str) -> Key {
    Key { action: Action::Block, prefix: Prefix::parse(prefix, false).unwrap() }
}

fn hold(owner: &str, until_s: u32) -> Hold {
    Hold {
        owner: Owner::parse(owner).unwrap(),
        reason: ReasonText::parse("flood").unwrap(),
        creator: "root".into(),
        created_s: 5,
        until: Deadline(until_s),
    }
}

fn record() -> Record {
    let actor = Actor { uid: 0, user: None, login: None, pid: 1, via: Via::Command };
    Record { actor, command: "block add".into(), change: serde_json::json!({}) }
}

fn write(store: &mut Store, holds: &[(Key, Vec<Hold>)]) {
    let sum = |(key, holds): &(Key, Vec<Hold>)| enforced(*key, holds).map_or(0, |entry| digest(&entry));
    let before = |key: &Key| enforced(*key, &store.holds(key).unwrap()).map_or(0, |entry| digest(&entry));
    let change =
        holds.iter().fold(0u64, |total, held| total.wrapping_add(sum(held)).wrapping_sub(before(&held.0)));
    let record = record();
    let were: Vec<_> = holds.iter().map(|(key, _)| (*key, store.holds(key).unwrap())).collect();
    store.intend(&Intent { before: &were, holds, digest: change, ..Intent::of(&record) }).unwrap();
}

fn open(directory: &Directory) -> Store {
    Store::open(&directory.0).unwrap_or_else(|error| panic!("{error}"))
}

/// Makes the store believe that it was last written in another boot, whose clock showed `monotonic_s`, while the wall
/// clock was `ago_s` behind what it is now.
fn from_another_boot(store: Store, monotonic_s: i64, ago_s: i64) {
    store
        .db
        .execute(
            "UPDATE state SET boot = 'another', monotonic_s = ?1, wall_s = ?2",
            [monotonic_s, wall_now_s() - ago_s],
        )
        .unwrap();
}

#[test]
fn what_is_written_is_there_in_the_order_of_keys() {
    let directory = Directory::new("order");
    let mut store = open(&directory);
    let texts = ["10.0.0.0/8", "10.0.0.0/16", "192.0.2.7", "2001:db8::/32", "2001:db8::1"];
    let held: Vec<_> =
        texts.iter().map(|text| (key(text), vec![hold("manual", 100), hold("fail2ban", 200)])).collect();
    write(&mut store, &held);
    let mut keys = Vec::new();
    open(&directory)
        .each_key(Bounds::All, |key, holds| {
            assert_eq!(holds.len(), 2);
            keys.push(key);
            Ok(())
        })
        .unwrap();
    assert!(keys.is_sorted());
    assert_eq!(keys, texts.map(key));
    let store = open(&directory);
    store.check().unwrap();
    assert_eq!(store.state().change, 1);
    assert_eq!(store.audit(10).unwrap().len(), 1);
    let mut within = 0;
    store
        .each_key(Bounds::Within(key("10.0.0.0/16"), key("192.0.2.7")), |_, _| {
            within += 1;
            Ok(())
        })
        .unwrap();
    assert_eq!(within, 2);
}

#[test]
fn deadlines_go_on_over_a_reboot_by_the_wall_clock() {
    let directory = Directory::new("reboot");
    let mut store = open(&directory);
    write(
        &mut store,
        &[
            (key("192.0.2.1"), vec![hold("manual", 1_000)]),
            (key("192.0.2.2"), vec![hold("manual", 1_500)]),
            (key("192.0.2.3"), vec![hold("manual", Deadline::NEVER.0)]),
        ],
    );
    // Written at second 900, and 300 seconds ago: the first has ended meanwhile, the second has 300 seconds left.
    from_another_boot(store, 900, 300);
    let store = open(&directory);
    let now_s = i64::from(monotonic_now_s());
    assert_eq!(store.holds(&key("192.0.2.1")).unwrap(), []);
    let left_s = i64::from(store.holds(&key("192.0.2.2")).unwrap()[0].until.0) - now_s;
    assert!((298..=301).contains(&left_s), "{left_s}");
    let kept = &store.holds(&key("192.0.2.3")).unwrap()[0];
    assert_eq!(kept.until, Deadline::NEVER);
    // Made at second 5 of that boot, which is 895 + 300 seconds ago.
    assert!((1_194..=1_197).contains(&(now_s - kept.created_s)), "{}", now_s - kept.created_s);
    store.check().unwrap();
}

#[test]
fn a_clock_that_went_back_ends_nothing() {
    let directory = Directory::new("back");
    let mut store = open(&directory);
    write(&mut store, &[(key("192.0.2.1"), vec![hold("manual", 1_000)])]);
    // The wall clock is an hour before what it was when the store was last written.
    from_another_boot(store, 900, -3_600);
    let store = open(&directory);
    let left_s = i64::from(store.holds(&key("192.0.2.1")).unwrap()[0].until.0) - i64::from(monotonic_now_s());
    assert!((99..=101).contains(&left_s), "{left_s}");
    // And the next boot counts from the later of both, so nothing is stretched twice.
    let wall_s: i64 = store.db.query_row("SELECT wall_s FROM state", [], |row| row.get(0)).unwrap();
    assert!(wall_s >= wall_now_s() + 3_599, "{wall_s}");
}

#[test]
fn what_can_not_be_used_says_why_and_what_to_do() {
    let refused = |name: &str, spoil: &dyn Fn(&Path)| {
        let directory = Directory::new(name);
        drop(open(&directory));
        spoil(&directory.0);
        Store::open(&directory.0).map(drop).unwrap_err()
    };
    let newer = refused("newer", &|path| {
        Connection::open(path.join(DATABASE)).unwrap().pragma_update(None, "user_version", 99).unwrap()
    });
    assert!(newer.to_string().contains("version 99, from a newer filter-ctl") && !newer.damaged, "{newer}");
    let foreign = refused("foreign", &|path| {
        Connection::open(path.join(DATABASE)).unwrap().pragma_update(None, "application_id", 7).unwrap()
    });
    assert!(foreign.to_string().contains("another program's") && foreign.damaged, "{foreign}");
    let noise = refused("noise", &|path| fs::write(path.join(DATABASE), vec![0x5a; 8192]).unwrap());
    assert!(noise.damaged && noise.to_string().contains("filter-ctl repair"), "{noise}");
    let open_to_all = refused("open", &|path| {
        fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap()
    });
    assert!(open_to_all.to_string().contains("chmod 700"), "{open_to_all}");
}

#[test]
fn a_damaged_store_is_set_aside_for_its_copy() {
    let directory = Directory::new("damaged");
    let mut store = open(&directory);
    write(&mut store, &[(key("192.0.2.1"), vec![hold("manual", Deadline::NEVER.0)])]);
    backup(&store, Kept::Always).unwrap();
    drop(store);
    let path = directory.0.join(DATABASE);
    let mut bytes = fs::read(&path).unwrap();
    bytes[100..].fill(0xa5);
    fs::write(&path, bytes).unwrap();
    let unusable = Store::open(&directory.0)
        .and_then(|store| store.check().map_err(|error| store.unusable(&error)))
        .unwrap_err();
    assert!(unusable.damaged, "{unusable}");
    let (aside, has_copy) = restore_backup(&directory.0).unwrap();
    assert!(aside.exists() && has_copy);
    let store = open(&directory);
    store.check().unwrap();
    assert_eq!(store.holds(&key("192.0.2.1")).unwrap().len(), 1);
    // Once more, with a copy that is as bad: it is begun anew, and nothing is overwritten.
    drop(store);
    fs::write(&path, b"x").unwrap();
    fs::write(directory.0.join("backup.db"), b"x").unwrap();
    let (second, has_copy) = restore_backup(&directory.0).unwrap();
    assert!(second != aside && !has_copy);
    assert_eq!(open(&directory).state().change, 0);
}

#[test]
fn the_audit_log_is_only_appended_to() {
    let directory = Directory::new("audit");
    let mut store = open(&directory);
    write(&mut store, &[(key("192.0.2.1"), vec![hold("manual", 9)])]);
    for tampering in ["UPDATE audit SET command = 'x'", "DELETE FROM audit"] {
        let refused = store.db.execute(tampering, []).unwrap_err().to_string();
        assert!(refused.contains("audit log"), "{refused}");
    }
    assert_eq!(store.audit(10).unwrap()[0].command, "block add");
}

fn blocked(name: &str, packets: u64) -> InterfaceCounts {
    let counted = Counter { packets, bytes: u64::MAX };
    let none = (Reason::NoMatch, Verdict::Pass, Counter::default());
    InterfaceCounts {
        name: name.into(),
        loaded_s: 1,
        by_reason: vec![(Reason::Blocked, Verdict::Drop, counted), none],
    }
}

fn carried_entries(store: &Store) -> Vec<(Key, Counter)> {
    let mut entries = Vec::new();
    store.each_carried_entry(|key, counter| entries.push((key, counter))).unwrap();
    entries
}

#[test]
fn a_store_of_version_2_becomes_one_that_carries_counts() {
    let directory = Directory::new("version-2");
    let mut store = open(&directory);
    write(&mut store, &[(key("192.0.2.7"), vec![hold("manual", u32::MAX)])]);
    let state = store.state();
    store
        .db
        .execute_batch("DROP TABLE carried; DROP TABLE carried_entries; PRAGMA user_version = 2;")
        .unwrap();
    drop(store);
    let mut store = open(&directory);
    store.check().unwrap();
    assert_eq!(store.holds(&key("192.0.2.7")).unwrap().len(), 1);
    store.carry(&[blocked("eth0", 7)], None).unwrap();
    let counted = Counter { packets: 7, bytes: u64::MAX };
    assert_eq!(store.carried("eth0").unwrap(), Some(vec![(Reason::Blocked, Verdict::Drop, counted)]));
    assert_eq!((store.carried("eth1").unwrap(), open(&directory).state()), (None, state));
}

#[test]
fn counts_are_carried_until_they_are_forgotten() {
    let directory = Directory::new("carried");
    let mut store = open(&directory);
    let mut texts: Vec<_> =
        (0..10_000u32).map(|n| std::net::Ipv4Addr::from(0x0a00_0000 + n).to_string()).collect();
    texts.extend(["2001:db8::/32", "2001:db8::1"].map(str::to_owned));
    let entries: Vec<_> =
        (1..).zip(&texts).map(|(n, text)| (key(text), Counter { packets: n, bytes: 60 * n })).collect();
    store.carry(&[blocked("eth0", 7), blocked("eth1", 8)], Some(&entries)).unwrap();
    assert_eq!(carried_entries(&store), entries);
    // Without entries, those that there are stay; and the same may be said again.
    store.carry(&[blocked("eth0", 9)], None).unwrap();
    assert_eq!(
        (carried_entries(&store).len(), store.carried("eth0").unwrap().unwrap()[0].2.packets),
        (10_002, 9)
    );
    store.carry(&[], Some(&entries[..1])).unwrap();
    assert_eq!(carried_entries(&store), entries[..1]);
    store.forget_carried(&["eth0".into()], false).unwrap();
    assert_eq!((store.carried("eth0").unwrap(), carried_entries(&store).len()), (None, 1));
    store.forget_carried(&[], true).unwrap();
    assert!(store.carried("eth1").unwrap().is_some() && carried_entries(&store).is_empty());
    // Names that come and go do not pile up.
    for number in 0..1_100 {
        store.carry(&[blocked(&format!("veth{number}"), 1)], None).unwrap();
    }
    let kept: i64 = store.db.query_row("SELECT count(*) FROM carried", [], |row| row.get(0)).unwrap();
    assert_eq!((kept, store.carried("eth1").unwrap()), (1_000, None));
    store.db.execute("INSERT INTO carried_entries (bytes) VALUES (x'00')", []).unwrap();
    let error = store.each_carried_entry(|_, _| {}).unwrap_err();
    assert!(store.unusable(&error).damaged, "{error:#}");
}
