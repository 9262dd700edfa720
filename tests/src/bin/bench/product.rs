//! The filter under test: loading and filling it, and what the bench's programs need of it. What changes with its
//! tables is here alone.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use aya::Ebpf;
use aya::maps::PerCpuArray;
use aya::programs::Xdp;
use aya_obj::programs::XdpAttachType;
use filter_common::abi::{self, Counter, TEST_SLOT, counter_index, global};
use filter_common::prefix::{self, Edit, Seeds, Shape};
use filter_common::{FOREVER, Reason, Verdict};
use filter_ctl::host::Monotonic;
use filter_ctl::kernel::maps::open_table;

use filter_ctl::policy::{Action, Deadline, Entry, Key, Owner, Prefix, ReasonText};
use filter_tests::kernel_side::{add, open, pins};
use filter_tests::lab::{Finished, Host};

use crate::programs::{Environment, MapChoice, Set};

/// Entries beyond the set that fit: for the commands that are timed.
const SPARE: u32 = 4096;

/// Loads the filter on a device of this host, with room for a set and some more.
pub fn load(host: &Host, device: &str, set: Set) -> Result<()> {
    let [v4, v6] = if set.kind.is_v4() { [set.size, 0] } else { [0, set.size] };
    let [v4, v6] = [v4, v6].map(|size| (size + SPARE).to_string());
    done(host.ctl(&["load", device, "--max-ipv4", &v4, "--max-ipv6", &v6]))
}

/// Blocks these prefixes, and returns how long the command took: reading them and reading them back included.
pub fn block(host: &Host, prefixes: &str, arguments: &[&str]) -> Result<Duration> {
    let mut command = host.filter_ctl(&[&["block", "add", "-", "--force"], arguments].concat());
    command.stdin(Stdio::piped());
    let start = Instant::now();
    let mut child = host.spawn(command)?;
    let mut input = child.stdin.take().context("standard input was piped")?;
    input.write_all(prefixes.as_bytes())?;
    drop(input);
    let output = child.wait_with_output()?;
    let took = start.elapsed();
    done(output.into())?;
    Ok(took)
}

/// Loads the filter and blocks a set.
pub fn load_with(host: &Host, device: &str, set: Set) -> Result<Duration> {
    load(host, device, set)?;
    block(host, &set.prefixes().collect::<Vec<_>>().join("\n"), &[])
}

/// An error that says what a command printed, unless it succeeded.
pub fn done(finished: Finished) -> Result<()> {
    ensure!(finished.code == Some(0), "filter-ctl failed: {}{}", finished.stdout, finished.stderr);
    Ok(())
}

/// Blocks a set, and returns the seconds that takes from the prefixes as values: planning the change, making it, and
/// reading it back. On the host where the filter is loaded.
pub fn change(set: Set) -> Result<f64> {
    let mut filter = open()?;
    let entries = entries(set)?;
    let start = Instant::now();
    let plan = add(&mut filter, entries)?;
    let took_s = start.elapsed().as_secs_f64();
    ensure!(plan.added.len() == set.size as usize, "{} were added", plan.added.len());
    Ok(took_s)
}

/// Writes a set into the tables of the loaded filter, and returns the seconds that takes from the prefixes as values:
/// mapping the tables and making the change. On the host where it is loaded, while no command runs.
pub fn write(set: Set) -> Result<f64> {
    let mut table = open_table(&pins().set()?.context("the filter is not loaded")?)?;
    let note = table.hold_note(Owner::manual().as_str(), "")?;
    let edits = entries(set)?.into_iter().map(|entry| {
        Edit::Insert(prefix::Entry {
            key: entry.key.to_table(),
            slots: 0b11,
            until_s: entry.until.0,
            created_s: 0,
            note,
            base: Counter::default(),
        })
    });
    let edits: Vec<_> = edits.collect();
    let start = Instant::now();
    table.cells().map_all()?;
    table.apply(&edits, &Monotonic)?;
    let took_s = start.elapsed().as_secs_f64();
    table.release_note(note);
    table.check()?;
    Ok(took_s)
}

/// The entries that block a set.
fn entries(set: Set) -> Result<Vec<Entry>> {
    let (owner, reason) = (Owner::manual(), ReasonText::default());
    let entries = set.prefixes().map(|text| {
        Ok(Entry {
            key: Key { action: Action::Block, prefix: Prefix::parse(&text, false)? },
            until: Deadline(FOREVER),
            created_s: 0,
            owner: owner.clone(),
            reason: reason.clone(),
        })
    });
    entries.collect()
}

/// The tables of the loaded filter, for an object that has the filter's maps and globals.
pub fn tables() -> Result<Environment> {
    let filter = open()?;
    let maps = abi::MAPS.iter().map(|spec| MapChoice::Pinned(spec.name, filter.set().map(spec))).collect();
    let Shape { seeds: Seeds(seeds), buckets, bloom_words } = filter.table().shape();
    let ids = filter.geometry().ids();
    let globals = vec![
        (global::SEEDS, seeds.iter().flat_map(|seed| seed.to_ne_bytes()).collect()),
        (global::BUCKETS, buckets.to_ne_bytes().to_vec()),
        (global::BLOOM_WORDS, bloom_words.to_ne_bytes().to_vec()),
        (global::INTERFACE_SLOT, TEST_SLOT.to_ne_bytes().to_vec()),
        (global::IDS, ids.to_ne_bytes().to_vec()),
    ];
    Ok(Environment { maps, globals })
}

/// The program on a device.
pub fn program(device: &str) -> Result<Xdp> {
    let set = pins().set()?.context("the filter is not loaded")?;
    Ok(Xdp::from_pin(set.program(device), XdpAttachType::Interface)?)
}

/// A directory on this host's BPF file system for the bench's own pins.
pub fn pin_directory() -> Result<PathBuf> {
    let directory = PathBuf::from("/sys/fs/bpf/bench");
    std::fs::create_dir_all(&directory)?;
    Ok(directory)
}

/// Frames of test-runs that were blocked so far, by the maps of an object that counts as the filter does.
pub fn blocked(object: &Ebpf) -> Result<u64> {
    let counters =
        PerCpuArray::<_, Counter>::try_from(object.map(abi::COUNTERS.name).context("no counters")?)?;
    let index = counter_index(TEST_SLOT, Reason::Blocked, Verdict::Drop);
    Ok(counters.get(&index, 0)?.iter().map(|counter| counter.packets).sum())
}
