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
        results.attempt(&name.clone(), |results| {
            let (mut ours, mut commands, mut theirs) = (Vec::new(), Vec::new(), Vec::new());
            for _ in 0..FILLS.min(extent.cycles) {
                let (host, other) = (Host::new("filter")?, Host::new("other")?);
                join(&host, "in0", &other, "out0")?;
                product::load(&host, "in0", set)?;
                let cpu = extent.cpu;
                ours.push(host.run(move || {
                    pin(&[cpu])?;
                    product::change(set)
                })?);
                theirs.push(host.run(move || fill_trie(set, cpu))?);
                let (host, other) = (Host::new("filter")?, Host::new("other")?);
                join(&host, "in0", &other, "out0")?;
                commands.push(product::load_with(&host, "in0", set)?.as_secs_f64());
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
            results.point(point("change of the tables, planned and read back", ours, asked));
            results.point(point("whole command, from text", commands, None));
            Ok(())
        });
    }
}

/// Fills a new trie, and returns how long that took. By one call a prefix: batches of the kernel's trie do the same
/// work behind fewer calls, and were not faster where this was tried.
fn fill_trie(set: Set, cpu: usize) -> Result<f64> {
    pin(&[cpu])?;
    let mut object = programs::load(TRIE, &[], set, Draw::Member, &trie_maps(set)?)?;
    let start = Instant::now();
    insert_all(&mut object, Contents::lasting(set.kind, set.size))?;
    Ok(start.elapsed().as_secs_f64())
}
