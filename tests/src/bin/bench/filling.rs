//! Part D, first half: how long it takes to get many prefixes into the kernel.

use std::time::Instant;

use anyhow::Result;
use filter_tests::flood::pin;
use filter_tests::lab::{Host, join};

use crate::Extent;
use crate::lookups::{Contents, insert_all, thousands, trie_maps};
use crate::product;
use crate::programs::{self, Set, TRIE};
use crate::results::{Measure, Point, Results};
use crate::set::{Draw, Kind};

/// How much faster than the trie is asked for.
const ASKED: f64 = 20.0;

/// Times that each table is filled: they take seconds.
const FILLS: usize = 3;

/// Measures both families.
pub fn measure(results: &mut Results, extent: &Extent) {
    for (kind, family) in [(Kind::MixedV4, "IPv4"), (Kind::FourV6, "IPv6")] {
        let set = Set { kind, size: extent.many };
        let name = format!("filling, {} {family}", thousands(set.size));
        let cpu = extent.cpu;
        results.attempt(&name.clone(), |results| {
            let (mut writes, mut changes, mut commands, mut theirs) = (vec![], vec![], vec![], vec![]);
            for _ in 0..FILLS.min(extent.cycles) {
                let (host, _other) = loaded(set)?;
                writes.push(host.run(move || pinned(cpu, || product::write(set)))?);
                theirs.push(host.run(move || pinned(cpu, || fill_trie(set)))?);
                let (host, _other) = loaded(set)?;
                changes.push(host.run(move || pinned(cpu, || product::change(set)))?);
                let (host, _other) = loaded(set)?;
                let prefixes = set.prefixes().collect::<Vec<_>>().join("\n");
                commands.push(product::block(&host, &prefixes, &[])?.as_secs_f64());
            }
            let point = |what: &str, ours, asked| Point {
                part: 'D',
                what: format!("{name}, {what}"),
                peer: "kernel trie, updates alone".to_owned(),
                unit: "s",
                measure: Measure::Speed,
                ours,
                theirs: theirs.clone(),
                asked,
                aim: None,
            };
            let asked = (extent.many == 1_000_000).then_some(ASKED);
            results.point(point(
                "tables' write alone, from prefixes as values, as the trie's",
                writes,
                asked,
            ));
            results.point(point("change of the tables, planned and read back", changes, None));
            results.point(point("whole command, from text", commands, None));
            Ok(())
        });
    }
}

/// A host with the filter loaded for a set, and the one at the other end of its device.
fn loaded(set: Set) -> Result<(Host, Host)> {
    let (host, other) = (Host::new("filter")?, Host::new("other")?);
    join(&host, "in0", &other, "out0")?;
    product::load(&host, "in0", set)?;
    Ok((host, other))
}

/// Does something on this CPU.
fn pinned<T>(cpu: usize, work: impl FnOnce() -> Result<T>) -> Result<T> {
    pin(&[cpu])?;
    work()
}

/// Fills a new trie, and returns how long that took. By one call a prefix, since aya has no call for a batch
/// (`BPF_MAP_UPDATE_BATCH`), which took a quarter less where this was tried: 3.4 s in place of 4.4.
fn fill_trie(set: Set) -> Result<f64> {
    let mut object = programs::load(TRIE, &[], set, Draw::Member, &trie_maps(set)?)?;
    let start = Instant::now();
    insert_all(&mut object, Contents::lasting(set.kind, set.size))?;
    Ok(start.elapsed().as_secs_f64())
}
