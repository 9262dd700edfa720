//! Part F: what the flight recorder adds to a packet: the same program, with and without the code for it.

use anyhow::{Context as _, Result, ensure};
use aya::programs::Xdp;
use aya::{Ebpf, EbpfLoader};
use filter_common::abi::{PROGRAM, global};
use filter_common::sample::GAP_NS;
use filter_ctl::kernel::program::OBJECT;
use filter_ctl::kernel::recorder::Recorder;
use filter_ctl::record::{Cursor, Head};
use filter_tests::flood::pin;
use filter_tests::frames::{ethernet, ipv4, protocol, udp};
use filter_tests::kernel_side::pins;
use filter_tests::lab::Host;

use crate::Extent;
use crate::product;
use crate::programs::{MapChoice, Set, UNRECORDED, cost_ns};
use crate::results::{Results, median};
use crate::set::Kind;

/// Cycles for each of the others': nanoseconds are told apart here.
const CYCLES: usize = 3;

/// Pairs of runs in a cycle, with and without, in turn: a virtual machine's speed changes within a tenth of a second, and by
/// more than what is measured.
const PAIRS: usize = 40;

/// Frames of which one is to be sampled.
const SHARE: f64 = 1000.0;

/// Measures frames that are blocked, by an address that stays in the caches, and frames that pass.
pub fn measure(results: &mut Results, extent: &Extent) {
    for (what, source) in [("blocked", "198.51.100.7"), ("passed", "192.0.2.7")] {
        results.attempt(&format!("recorder, {what}"), |results| {
            let host = Host::new("filter")?;
            host.ip("link add in0 type veth peer name out0")?;
            product::load(&host, "in0", Set { kind: Kind::MixedV4, size: 1 })?;
            product::done(host.ctl(&["block", "add", "198.51.100.0/24"]))?;
            let frame = ethernet(&[], 0x0800, &ipv4(source, protocol::UDP, &udp(&[0; 18])));
            let measured = host.run(|| cycles(extent, &frame))?;
            results.figure('F', format!("{what}: without the recorder"), "ns", measured.without);
            results.figure('F', format!("{what}: added by the recorder as it is"), "ns", measured.usual);
            if let Some((share, often)) = measured.often {
                let name = format!("{what}: added where one in {share:.0} is sampled (asked: under 3 ns)");
                results.figure('F', name, "ns", often);
            }
            Ok(())
        });
    }
}

/// Nanoseconds a frame, of each cycle.
struct Measured {
    without: Vec<f64>,
    /// What is added to that.
    usual: Vec<f64>,
    /// The same where one of so many frames is sampled; nothing where none is recorded.
    often: Option<(f64, Vec<f64>)>,
}

#[expect(clippy::cast_possible_truncation, reason = "some millions at most")]
fn cycles(extent: &Extent, frame: &[u8]) -> Result<Measured> {
    pin(&[extent.cpu])?;
    let warm = cost_ns(program(&mut load(UNRECORDED, None)?)?, frame, 100_000)?;
    let repeat = (extent.test_run_s * 1e9 / warm) as u32 / PAIRS as u32;
    let cycles = extent.cycles * CYCLES;
    // One after the other: both count in one ring.
    let usual = pairs(GAP_NS, frame, repeat, cycles)?;
    let mut often = None;
    if let Some(before) = head()? {
        let (_, added) = pairs((warm * SHARE) as u32, frame, repeat, cycles)?;
        let after = head()?.context("what was recorded is gone")?;
        let share = (after.seen - before.seen) as f64 / (after.taken - before.taken).max(1) as f64;
        often = Some((share, added));
    }
    Ok(Measured { without: usual.0, usual: usual.1, often })
}

/// What the filter costs in each cycle without the recorder, and what it costs more with one at this pace: medians of pairs.
fn pairs(gap_ns: u32, frame: &[u8], repeat: u32, cycles: usize) -> Result<(Vec<f64>, Vec<f64>)> {
    let (mut costs, mut added) = (Vec::new(), Vec::new());
    for _ in 0..cycles {
        // Anew each time: where the kernel puts a program's code makes a difference of more than what is measured.
        let (mut one, mut other) = (load(UNRECORDED, None)?, load(OBJECT, Some(gap_ns))?);
        let (one, other) = (program(&mut one)?, program(&mut other)?);
        let (mut of_one, mut differences) = (Vec::new(), Vec::new());
        for pair in 0..PAIRS {
            // Whoever comes second may find the caches as the first left them.
            let (a, b) = if pair % 2 == 0 {
                let a = cost_ns(one, frame, repeat)?;
                (a, cost_ns(other, frame, repeat)?)
            } else {
                let b = cost_ns(other, frame, repeat)?;
                (cost_ns(one, frame, repeat)?, b)
            };
            of_one.push(a);
            differences.push(b - a);
        }
        costs.push(median(&of_one));
        added.push(median(&differences));
    }
    Ok((costs, added))
}

/// The filter's object, with this pace of samples if it takes any.
fn load(object: &[u8], gap_ns: Option<u32>) -> Result<Ebpf> {
    let environment = product::tables()?;
    let mut loader = EbpfLoader::new();
    loader.btf(None);
    if let Some(gap_ns) = &gap_ns {
        loader.override_global(global::GAP_NS, gap_ns, true);
    }
    for (name, bytes) in &environment.globals {
        loader.override_global(name, bytes.as_slice(), true);
    }
    for choice in &environment.maps {
        if let MapChoice::Pinned(name, path) = choice {
            loader.map_pin_path(name, path.as_path());
        }
    }
    let mut object = loader.load(object)?;
    program(&mut object)?.load()?;
    Ok(object)
}

fn program(object: &mut Ebpf) -> Result<&mut Xdp> {
    Ok(object.program_mut(PROGRAM).context("no filter in the object")?.try_into()?)
}

/// The ring of test-runs, on the CPU on which they ran.
fn head() -> Result<Option<Head>> {
    let reading = Recorder::open(&pins())?.read_tests(&mut Cursor::default())?;
    ensure!(reading.heads.len() <= 1, "test-runs on more than one CPU");
    Ok(reading.heads.first().copied())
}
