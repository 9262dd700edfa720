//! Part F: what the flight recorder adds to a packet: the same program, with and without it.

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
use crate::programs::{MapChoice, Set, cost_ns};
use crate::results::{Results, median};
use crate::set::Kind;

/// Cycles for each of the others': nanoseconds are told apart here.
const CYCLES: usize = 5;

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
            let added = |with: &[f64]| with.iter().zip(&measured.without).map(|(a, b)| a - b).collect();
            results.figure('F', format!("{what}: without the recorder"), "ns", measured.without.clone());
            results.figure(
                'F',
                format!("{what}: added by the recorder as it is"),
                "ns",
                added(&measured.usual),
            );
            if what == "blocked" {
                let name = format!(
                    "{what}: added where one in {:.0} is sampled (asked: under 3 ns)",
                    median(&measured.share)
                );
                results.figure('F', name, "ns", added(&measured.often));
            }
            Ok(())
        });
    }
}

/// Nanoseconds a frame.
#[derive(Default)]
struct Measured {
    without: Vec<f64>,
    usual: Vec<f64>,
    often: Vec<f64>,
    /// Frames of which one was sampled, in `often`.
    share: Vec<f64>,
}

#[expect(clippy::cast_possible_truncation, reason = "some millions at most")]
fn cycles(extent: &Extent, frame: &[u8]) -> Result<Measured> {
    pin(&[extent.cpu])?;
    let (mut without, mut usual) = (load(0)?, load(GAP_NS)?);
    let warm = cost_ns(program(&mut without)?, frame, 100_000)?;
    let mut often = load((warm * SHARE) as u32)?;
    let repeat = (extent.test_run_s * 1e9 / warm) as u32;
    let mut measured = Measured::default();
    for _ in 0..extent.cycles * CYCLES {
        measured.without.push(cost_ns(program(&mut without)?, frame, repeat)?);
        measured.usual.push(cost_ns(program(&mut usual)?, frame, repeat)?);
        let before = head()?;
        measured.often.push(cost_ns(program(&mut often)?, frame, repeat)?);
        if let (Some(before), Some(after)) = (before, head()?) {
            let taken = after.taken - before.taken;
            measured.share.push((after.seen - before.seen) as f64 / taken.max(1) as f64);
        }
    }
    Ok(measured)
}

/// The filter's object with this pace of samples.
fn load(gap_ns: u32) -> Result<Ebpf> {
    let environment = product::tables()?;
    let mut loader = EbpfLoader::new();
    loader.btf(None).override_global(global::GAP_NS, &gap_ns, true);
    for (name, bytes) in &environment.globals {
        loader.override_global(name, bytes.as_slice(), true);
    }
    for choice in &environment.maps {
        if let MapChoice::Pinned(name, path) = choice {
            loader.map_pin_path(name, path.as_path());
        }
    }
    let mut object = loader.load(OBJECT)?;
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
