//! Part A: what a look-up adds to the filter, by test-run, in the filter's own tables and in the kernel's trie.

use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};
use aya::Ebpf;
use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{MapData, PerCpuArray};
use filter_common::abi::Counter;
use filter_common::{FOREVER, Reason};
use filter_ctl::host::monotonic_now_s;
use filter_tests::flood::pin;
use filter_tests::lab::{Host, join};

use crate::Extent;
use crate::product;
use crate::programs::{
    self, Environment, FLAT, FLAT_FLOOR, MapChoice, Set, TRIE, TRIE_FLOOR, TWO_LINES, cost_ns, frame, program,
};
use crate::results::{Measure, Point, Results, median};
use crate::set::{Draw, Kind, prefix_v4, prefix_v6};

/// Runs that fill the caches before anything is measured.
const WARM_UP: u32 = 200_000;

/// Parts in which each variant is run in a cycle, in turn with the others: what disturbs the machine for a moment then
/// spoils one part, and the median of them does not show it.
const SLICES: usize = 5;

/// Time until an entry with one second to live has surely ended: deadlines are whole seconds.
const UNTIL_ENDED: Duration = Duration::from_secs(3);

/// Seconds that entries with a deadline have to live: longer than they are measured.
const LIFE_S: u32 = 3600;

/// What is asked of a point: the least, and the aim.
type Bounds = (Option<f64>, Option<f64>);

const REPORTED: Bounds = (None, None);

/// The device on which the filter is loaded: nothing is sent to it.
const DEVICE: &str = "in0";

/// Measures all sets.
pub fn measure(results: &mut Results, extent: &Extent) {
    let is_whole = extent.many == 1_000_000;
    let mut sets = Vec::new();
    for (kind, hit, miss) in
        [(Kind::MixedV4, (7.0, 12.0), (20.0, 40.0)), (Kind::FourV6, (5.0, 7.0), (10.0, 15.0))]
    {
        let at_many = |(asked, aim)| if is_whole { (Some(asked), Some(aim)) } else { REPORTED };
        sets.push((Contents::lasting(kind, 1_000), (Some(1.0), None), (Some(2.0), None)));
        if is_whole {
            sets.push((Contents::lasting(kind, 100_000), REPORTED, REPORTED));
        }
        sets.push((Contents::lasting(kind, extent.many), at_many(hit), at_many(miss)));
        sets.push((Contents { ends: true, ..Contents::lasting(kind, extent.many) }, REPORTED, REPORTED));
    }
    sets.push((Contents::lasting(Kind::ManyV6, extent.many), REPORTED, REPORTED));
    sets.push((Contents::lasting(Kind::AllV6, extent.many), REPORTED, REPORTED));
    for (contents, hit, miss) in sets {
        let name = contents.name();
        if std::env::var("ONLY").is_ok_and(|only| !only.split(',').any(|o| o == name)) {
            continue;
        }
        results.attempt(&format!("look-ups, {name}"), |results| {
            let lab = Lab::new(contents)?;
            let draws: &[(Draw, &str, Bounds)] = match contents.set.kind {
                // Only how misses grow with the lengths is asked; `::/0` is every source's member.
                Kind::ManyV6 | Kind::AllV6 => &[(Draw::Other, "miss", miss)],
                // Only a hit asks the clock.
                _ if contents.ends => &[(Draw::Member, "hit", hit)],
                _ => &[
                    (Draw::Member, "hit", hit),
                    (Draw::Other, "miss", miss),
                    (Draw::Neighbour, "miss beside a member", REPORTED),
                ],
            };
            let extent = *extent;
            for (draw, draw_name, bounds) in draws.iter().copied() {
                if std::env::var("DRAW").is_ok_and(|only| !only.split(',').any(|o| o == draw_name)) {
                    continue;
                }
                let outcome = lab.host.run(move || one(contents.set, draw, &extent))?;
                report(results, &format!("{name}, {draw_name}"), bounds, outcome);
            }
            Ok(())
        });
    }
}

/// What the tables hold.
#[derive(Clone, Copy)]
pub struct Contents {
    pub set: Set,
    /// Whether entries have a deadline, which a hit must then compare with the clock.
    ends: bool,
}

impl Contents {
    /// Entries without a deadline.
    pub fn lasting(kind: Kind, size: u32) -> Self {
        Self { set: Set { kind, size }, ends: false }
    }

    fn name(self) -> String {
        format!("{}{}", name(self.set), if self.ends { " with deadlines" } else { "" })
    }

    /// The deadline of an entry, in seconds of CLOCK_MONOTONIC.
    fn until_s(self, index: u32) -> u32 {
        match (self.set.kind, index) {
            // It covers every source, so it must have ended for there to be misses.
            (Kind::AllV6, 0) => 0,
            _ if self.ends => monotonic_now_s() + LIFE_S,
            _ => FOREVER,
        }
    }
}

fn name(set: Set) -> String {
    let kind = match set.kind {
        Kind::ExactV4 => "IPv4 addresses",
        Kind::MixedV4 => "IPv4",
        Kind::FourV6 => "IPv6",
        Kind::ManyV6 => "IPv6 of 32 lengths",
        Kind::AllV6 => "IPv6 of 129 lengths",
    };
    format!("{} {kind}", thousands(set.size))
}

/// A number as people write it: 10 k, 1 M.
pub fn thousands(number: u32) -> String {
    match number {
        1_000_000.. if number.is_multiple_of(1_000_000) => format!("{} M", number / 1_000_000),
        1_000.. if number.is_multiple_of(1_000) => format!("{} k", number / 1_000),
        _ => number.to_string(),
    }
}

/// Nanoseconds a packet, one sample a cycle.
#[derive(Default)]
struct Outcome {
    /// Without a table, in the trie's object and in the filter's.
    floors: [Vec<f64>; 2],
    trie: Vec<f64>,
    flat: Vec<f64>,
    /// Two lines of memory in place of a look-up.
    two_lines: Vec<f64>,
    /// Share of packets that were blocked: by the trie, and by the filter.
    hits: [f64; 2],
}

fn report(results: &mut Results, name: &str, (asked, aim): Bounds, outcome: Outcome) {
    let above = |whole: &[f64], floor: &[f64]| {
        // Where a look-up costs next to nothing, noise would make a ratio of it.
        whole.iter().zip(floor).map(|(whole, floor)| (whole - floor).max(0.1)).collect::<Vec<_>>()
    };
    let [trie_floor, flat_floor] = &outcome.floors;
    let (theirs, ours) = (above(&outcome.trie, trie_floor), above(&outcome.flat, flat_floor));
    results.point(Point {
        part: 'A',
        what: name.to_owned(),
        peer: "kernel trie".to_owned(),
        unit: "ns",
        measure: Measure::Speed,
        ours,
        theirs,
        asked,
        aim,
    });
    if asked.is_some() && outcome.hits[1] > 0.999 {
        // What keeps a hit from being faster.
        results.point(Point {
            part: 'A',
            what: format!("{name}, if it were two lines of memory and nothing else"),
            peer: "kernel trie".to_owned(),
            unit: "ns",
            measure: Measure::Speed,
            ours: above(&outcome.two_lines, flat_floor),
            theirs: above(&outcome.trie, trie_floor),
            asked: None,
            aim: None,
        });
    }
    let whole = [("ours", &outcome.flat), ("trie", &outcome.trie), ("no table", flat_floor)];
    for (variant, samples) in whole {
        results.figure('A', format!("{name}, whole program, {variant}"), "ns", samples.clone());
    }
    for (variant, share) in ["trie", "ours"].into_iter().zip(outcome.hits) {
        results.figure('A', format!("{name}, share of hits, {variant}"), "%", vec![share * 100.0]);
    }
}

/// A host with the filter and a trie, both holding the set.
struct Lab {
    host: Host,
    _other: Host,
}

impl Lab {
    fn new(contents: Contents) -> Result<Self> {
        let set = contents.set;
        let (host, other) = (Host::new("filter")?, Host::new("other")?);
        join(&host, DEVICE, &other, "out0")?;
        if set.kind == Kind::AllV6 {
            product::load(&host, DEVICE, set)?;
            let rest = set.prefixes().skip(1).collect::<Vec<_>>().join("\n");
            product::block(&host, &rest, &[])?;
            // It covers every source, so it must have ended for there to be misses.
            product::block(&host, "::/0\n", &["--ttl", "1s"])?;
            thread::sleep(UNTIL_ENDED);
        } else {
            product::load(&host, DEVICE, set)?;
            let life = format!("{LIFE_S}s");
            let arguments: &[&str] = if contents.ends { &["--ttl", &life] } else { &[] };
            product::block(&host, &set.prefixes().collect::<Vec<_>>().join("\n"), arguments)?;
        }
        host.run(move || fill_trie(contents))?;
        Ok(Self { host, _other: other })
    }
}

/// The trie's maps, pinned so that all its programs share them.
pub fn trie_maps(set: Set) -> Result<Environment> {
    let directory = product::pin_directory()?;
    let [v4, v6] = if set.kind.is_v4() { [set.size, 1] } else { [1, set.size] };
    let maps = vec![
        MapChoice::Elements("trie_v4", v4),
        MapChoice::Elements("trie_v6", v6),
        MapChoice::Elements("trie_entries", set.size + 1),
        MapChoice::Pinned("trie_v4", directory.join("trie_v4")),
        MapChoice::Pinned("trie_v6", directory.join("trie_v6")),
        MapChoice::Pinned("trie_entries", directory.join("trie_entries")),
    ];
    Ok(Environment { maps, ..Environment::default() })
}

/// Makes the trie and writes the set into it.
fn fill_trie(contents: Contents) -> Result<()> {
    let set = contents.set;
    let mut object = programs::load(TRIE, &[], set, Draw::Member, &trie_maps(set)?)?;
    insert_all(&mut object, contents)
}

/// Writes the set into a trie. Ids start at 1.
pub fn insert_all(object: &mut Ebpf, contents: Contents) -> Result<()> {
    let set = contents.set;
    let record = |index: u32| [index + 1, contents.until_s(index)];
    if set.kind.is_v4() {
        let map = object.map_mut("trie_v4").context("no map trie_v4")?;
        let mut trie = LpmTrie::<_, [u8; 4], [u32; 2]>::try_from(map)?;
        for index in 0..set.size {
            let prefix = prefix_v4(set.kind, index);
            trie.insert(&Key::new(prefix.length, prefix.address.to_be_bytes()), record(index), 0)?;
        }
    } else {
        let map = object.map_mut("trie_v6").context("no map trie_v6")?;
        let mut trie = LpmTrie::<_, [[u8; 8]; 2], [u32; 2]>::try_from(map)?;
        for index in 0..set.size {
            let prefix = prefix_v6(set.kind, index);
            let address = [prefix.high.to_be_bytes(), prefix.low.to_be_bytes()];
            trie.insert(&Key::new(prefix.length, address), record(index), 0)?;
        }
    }
    Ok(())
}

/// Positions of the two that look up among the programs that are run in turn.
const TRIE_RUN: usize = 1;
const FLAT_RUN: usize = 3;

/// Measures a draw from the set, on the lab's host.
fn one(set: Set, draw: Draw, extent: &Extent) -> Result<Outcome> {
    pin(&[extent.cpu])?;
    let (tries, tables) = (trie_maps(set)?, product::tables()?);
    let load = |object, name, environment| programs::load(object, &[name], set, draw, environment);
    let trie_floor = load(TRIE_FLOOR, "trie_floor", &tries)?;
    let trie = load(TRIE, "trie", &tries)?;
    let flat_floor = load(FLAT_FLOOR, "flat_floor", &tables)?;
    let flat = load(FLAT, "flat", &tables)?;
    let two_lines = load(TWO_LINES, "two_lines", &tables)?;
    let programs = [
        program(&trie_floor, "trie_floor")?,
        program(&trie, "trie")?,
        program(&flat_floor, "flat_floor")?,
        program(&flat, "flat")?,
        program(&two_lines, "two_lines")?,
    ];
    let frame = frame(set.kind, [2; 6], [4; 6]);
    let mut repeats = [0; 5];
    for (program, repeat) in programs.iter().zip(&mut repeats) {
        *repeat = runs_in(extent.test_run_s / SLICES as f64, cost_ns(program, &frame, WARM_UP)?);
    }
    let mut outcome = Outcome::default();
    let counted = || Ok::<_, anyhow::Error>([blocked_by_trie(&trie)?, product::blocked(&flat)?]);
    let mut blocked = [0; 2];
    for _ in 0..extent.cycles {
        let mut slices = [const { Vec::new() }; 5];
        for _ in 0..SLICES {
            for (which, costs) in slices.iter_mut().enumerate() {
                // All that count in the filter's maps count as one, in the slot of test-runs.
                let before = counted()?;
                costs.push(cost_ns(programs[which], &frame, repeats[which])?);
                let after = counted()?;
                match which {
                    TRIE_RUN => blocked[0] += after[0] - before[0],
                    FLAT_RUN => blocked[1] += after[1] - before[1],
                    _ => {}
                }
            }
        }
        let costs = slices.map(|costs| median(&costs));
        outcome.floors[0].push(costs[0]);
        outcome.trie.push(costs[TRIE_RUN]);
        outcome.floors[1].push(costs[2]);
        outcome.flat.push(costs[FLAT_RUN]);
        outcome.two_lines.push(costs[4]);
    }
    let runs = |which: usize| f64::from(repeats[which]) * (SLICES * extent.cycles) as f64;
    outcome.hits = [blocked[0] as f64 / runs(TRIE_RUN), blocked[1] as f64 / runs(FLAT_RUN)];
    Ok(outcome)
}

/// How many runs of this cost fit into so many seconds.
pub fn runs_in(seconds: f64, cost_ns: f64) -> u32 {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "seconds over nanoseconds are under 2^32 while nothing is faster than a nanosecond"
    )]
    {
        (seconds * 1e9 / cost_ns.max(1.0)) as u32
    }
}

/// Frames that the trie's program has blocked so far.
fn blocked_by_trie(object: &Ebpf) -> Result<u64> {
    let counters: PerCpuArray<&MapData, Counter> =
        PerCpuArray::try_from(object.map("trie_reasons").context("no map trie_reasons")?)?;
    Ok(counters.get(&Reason::Blocked.index(), 0)?.iter().map(|counter| counter.packets).sum())
}
