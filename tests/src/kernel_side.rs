//! The filter in the kernel as the tests see it: entries enforced, frames run, all counters read. Everything
//! here must run on the host of the lab whose BPF file system holds the pins.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use aya::programs::{TestRun as _, TestRunOptions, Xdp};
use aya_obj::programs::XdpAttachType;
use filter_common::abi::{Counter, INTERFACE_SLOTS};
use filter_common::{FOREVER, Reason, Verdict};
use filter_ctl::control::{Author, Control, Loading, Place};
use filter_ctl::host::devices::Mode;
use filter_ctl::host::monotonic_now_s;
use filter_ctl::kernel::loading::Sizes;
use filter_ctl::kernel::{Filter, Pins};
use filter_ctl::plan::{Plan, Target};
use filter_ctl::policy::{Deadline, Entry, Key, Owner, Prefix, ReasonText};
use filter_ctl::store::{Actor, Via};

use crate::scenarios::{Life, Rule};

/// How long tests wait for the lock: they hold it only for moments.
pub const LOCK_WAIT: Duration = Duration::from_secs(20);

/// Seconds that an entry with time left has left: longer than any test runs.
const LASTING_S: u32 = 3600;

/// Where the lab's hosts pin the filter.
pub fn pins() -> Pins {
    Pins::new(filter_ctl::kernel::pins::DEFAULT_ROOT)
}

/// Where the lab's hosts have all parts of the filter.
pub fn place() -> Place {
    Place { pins: pins(), state: Path::new("/var/lib/filter-ctl").to_owned(), lock_wait: LOCK_WAIT }
}

/// Who changes something in a test.
pub fn author() -> Author {
    let actor = Actor { uid: 0, user: None, login: None, pid: std::process::id(), via: Via::Command };
    Author { actor, command: "a test".into() }
}

/// Filters an interface in native mode.
///
/// # Errors
///
/// If the kernel refuses.
pub fn load(interface: &str, sizes: Sizes) -> Result<()> {
    let names = [interface.to_owned()];
    let loading = Loading { names: &names, mode: Mode::Native, sizes, verbose: false };
    Control::load(&place(), author(), loading).map(drop)
}

/// Opens the filter.
///
/// # Errors
///
/// If it is not loaded.
pub fn open() -> Result<Filter> {
    Filter::open(pins(), LOCK_WAIT)
}

/// Replaces all entries by these rules and tolerates these faults only. Returns the id of each rule's entry.
///
/// # Errors
///
/// If the kernel refuses.
pub fn enforce(rules: &[Rule], tolerated: &[Reason]) -> Result<Vec<u32>> {
    let mut filter = open()?;
    let faults: Vec<Reason> = Reason::ALL.iter().copied().filter(|reason| reason.is_malformed()).collect();
    filter.tolerate(&faults, false)?;
    filter.tolerate(tolerated, true)?;
    let gone = filter.entries()?.into_iter().map(|(_, entry)| Target::Gone(entry.key)).collect();
    filter.bring(gone)?;
    let now_s = monotonic_now_s();
    let wanted: Vec<Entry> = rules
        .iter()
        .map(|rule| Entry {
            key: Key {
                action: rule.action,
                prefix: Prefix::parse(rule.prefix, false).expect("a scenario's prefix"),
            },
            until: Deadline(match rule.life {
                Life::Forever => FOREVER,
                Life::Lasting => now_s + LASTING_S,
                Life::Over => 0,
            }),
            created_s: now_s.into(),
            owner: Owner::manual(),
            reason: ReasonText::default(),
        })
        .collect();
    add(&mut filter, wanted.clone())?;
    let there = filter.entries()?;
    let id_of = |wanted: &Entry| there.iter().find(|(_, entry)| entry.key == wanted.key).map(|(id, _)| *id);
    wanted.iter().map(|entry| id_of(entry).with_context(|| format!("{entry:?} was not enforced"))).collect()
}

/// Adds entries to the kernel's tables, or brings those that there are to what these say.
///
/// # Errors
///
/// If the kernel refuses.
pub fn add(filter: &mut Filter, mut entries: Vec<Entry>) -> Result<Plan> {
    entries.sort_by_key(|entry| entry.key);
    entries.dedup_by_key(|entry| entry.key);
    filter.bring(entries.into_iter().map(Target::There).collect())
}

/// Runs the program of an interface on a frame (`BPF_PROG_TEST_RUN`), and returns the XDP action.
///
/// # Errors
///
/// If the kernel refuses the frame: those under 14 bytes, and those beyond a page.
pub fn test_run(interface: &str, frame: &[u8]) -> Result<u32> {
    let set = pins().set()?.context("nothing is loaded")?;
    let program = Xdp::from_pin(set.program(interface), XdpAttachType::Interface)?;
    let result = program.test_run(TestRunOptions { data_in: Some(frame), ..TestRunOptions::default() })?;
    Ok(result.return_value)
}

/// What a counter counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Counted {
    /// Frames of an interface slot with a reason and verdict.
    Slot(u32, Reason, Verdict),
    /// Frames that an entry decided.
    Entry(u32),
}

/// All counters that are not zero.
pub type Counts = BTreeMap<Counted, Counter>;

/// Interface slots that tests use: the one of test-runs, and those of the first interfaces that are loaded.
const SLOTS: u32 = 4;

/// Reads the counters of the slots that tests use, for all reasons, and of all entries. Those of the other slots are
/// [`assert_unused_slots_untouched`]'s matter: reading all each time takes longer than all the rest.
///
/// # Errors
///
/// If a map can't be read.
pub fn counts() -> Result<Counts> {
    let filter = open()?;
    let maps = filter.maps();
    let mut counts = Counts::new();
    for slot in 0..SLOTS {
        for reason in Reason::ALL {
            for verdict in reason.verdicts() {
                counts.insert(Counted::Slot(slot, *reason, verdict), maps.counter(slot, *reason, verdict)?);
            }
        }
    }
    for id in 0..filter.geometry().ids() {
        counts.insert(Counted::Entry(id), filter.table().counter(id));
    }
    counts.retain(|_, counter| *counter != Counter::default());
    Ok(counts)
}

/// Checks that nothing was ever counted in the slots of interfaces that are not there.
///
/// # Panics
///
/// If something was, or a map can't be read.
pub fn assert_unused_slots_untouched() {
    let filter = open().expect("the filter is loaded");
    for slot in SLOTS..INTERFACE_SLOTS {
        for (reason, verdict) in Reason::ALL.iter().flat_map(|r| r.verdicts().map(move |v| (*r, v))) {
            let counter = filter.maps().counter(slot, reason, verdict).expect("the counter can be read");
            assert_eq!(counter, Counter::default(), "slot {slot}, {reason:?}, {verdict:?}");
        }
    }
}

/// The counters that moved, and by how much.
pub fn moved(before: &Counts, after: &Counts) -> Counts {
    let zero = Counter::default();
    let difference = |key: &Counted| {
        let (before, after) = (before.get(key).unwrap_or(&zero), after.get(key).unwrap_or(&zero));
        Counter {
            packets: after.packets.wrapping_sub(before.packets),
            bytes: after.bytes.wrapping_sub(before.bytes),
        }
    };
    let keys = before.keys().chain(after.keys());
    keys.map(|key| (*key, difference(key))).filter(|(_, moved)| *moved != zero).collect()
}

/// The counters that must move for a frame of `length` bytes.
pub fn expected(
    slot: u32,
    (reason, verdict): (Reason, Verdict),
    entry: Option<u32>,
    length: usize,
) -> Counts {
    let counter = Counter { packets: 1, bytes: length as u64 };
    let entry = entry.map(|id| (Counted::Entry(id), counter));
    [(Counted::Slot(slot, reason, verdict), counter)].into_iter().chain(entry).collect()
}
