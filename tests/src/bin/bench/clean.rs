//! Part C: what packets cost that nobody has blocked, with many prefixes blocked, from end to end.

use anyhow::Result;
use aya::programs::Xdp;
use aya_obj::programs::XdpAttachType;
use filter_tests::flood::pin;
use filter_tests::lab::Host;

use crate::Extent;
use crate::drops::attach;
use crate::lookups::{runs_in, thousands};
use crate::peers::{self, XDP_FILTER_PROGRAM, dropped_by_xdp};
use crate::product;
use crate::programs::{Set, cost_ns, frame};
use crate::results::{Measure, Point, Results};
use crate::set::{Draw, Kind, scrambled, source_v4, source_v6};
use crate::wire::{INGRESS, Wire};

/// What is asked: our whole cost is at most so many times xdp-filter's.
const ASKED: f64 = 1.5;

/// Runs that fill the caches before anything is measured.
const WARM_UP: u32 = 100_000;

/// Measures both families.
pub fn measure(results: &mut Results, extent: &Extent) {
    for (kind, family) in [(Kind::MixedV4, "IPv4"), (Kind::FourV6, "IPv6")] {
        let set = Set { kind, size: extent.many };
        let name = format!("clean {family} packet, {} blocked", thousands(set.size));
        results.attempt(&name, |results| {
            let (ours, peer, bare) = (Wire::new()?, Wire::new()?, Wire::new()?);
            product::load_with(&ours.receiver, INGRESS, set)?;
            peers::xdp_filter(&peer.receiver)?;
            attach(&bare, "pass_all")?;
            by_test_run(results, extent, set, &name, [&ours.receiver, &peer.receiver])?;
            over_veth(results, extent, set, &name, [&ours, &peer, &bare])
        });
    }
}

fn point(what: String, unit: &'static str, ours: Vec<f64>, theirs: Vec<f64>) -> Point {
    let peer = "xdp-filter, all features".to_owned();
    Point { part: 'C', what, peer, unit, measure: Measure::Cost, ours, theirs, asked: Some(ASKED), aim: None }
}

/// The very programs that are attached, run on a frame whose source is another in each cycle, and the same within it.
fn by_test_run(
    results: &mut Results,
    extent: &Extent,
    set: Set,
    name: &str,
    [ours, peer]: [&Host; 2],
) -> Result<()> {
    let mut samples = [Vec::new(), Vec::new()];
    for cycle in 0..extent.cycles as u64 {
        let frame = clean_frame(set, scrambled(cycle));
        for ((host, is_ours), samples) in [(ours, true), (peer, false)].into_iter().zip(&mut samples) {
            let (frame, extent) = (frame.clone(), *extent);
            samples.push(host.run(move || {
                pin(&[extent.cpu])?;
                let program = if is_ours {
                    product::program(INGRESS)?
                } else {
                    Xdp::from_pin(XDP_FILTER_PROGRAM, XdpAttachType::Interface)?
                };
                let repeat = runs_in(extent.test_run_s, cost_ns(&program, &frame, WARM_UP)?);
                cost_ns(&program, &frame, repeat)
            })?);
        }
    }
    let [ours, theirs] = samples;
    results.point(point(format!("{name}, whole program by test-run, one source"), "ns", ours, theirs));
    Ok(())
}

/// A frame from a source that is not in the set.
fn clean_frame(set: Set, random: u64) -> Vec<u8> {
    let mut frame = frame(set.kind, [2; 6], [4; 6]);
    if set.kind.is_v4() {
        let source = source_v4(set.kind, set.size, Draw::Other, random);
        frame[26..30].copy_from_slice(&source.to_be_bytes());
    } else {
        let (high, low) = source_v6(set.kind, set.size, Draw::Other, random);
        frame[22..30].copy_from_slice(&high.to_be_bytes());
        frame[30..38].copy_from_slice(&low.to_be_bytes());
    }
    frame
}

/// Random sources, from the making of the frame until the receiver's stack drops it, since it is for nobody.
fn over_veth(results: &mut Results, extent: &Extent, set: Set, name: &str, wires: [&Wire; 3]) -> Result<()> {
    let lanes: Result<Vec<_>> = wires.iter().map(|wire| wire.lane(set, Draw::Other)).collect();
    let mut lanes = lanes?;
    let mut samples = [Vec::new(), Vec::new(), Vec::new()];
    for _ in 0..extent.cycles {
        for (lane, samples) in lanes.iter_mut().zip(&mut samples) {
            samples.push(1e3 / lane.run(extent)?);
        }
    }
    lanes.iter().try_for_each(|lane| lane.verify(false, &dropped_by_xdp))?;
    let [ours, theirs, bare] = samples;
    results.figure('C', format!("{name}, over veth, XDP_PASS alone"), "ns", bare.clone());
    let above =
        |whole: &[f64]| whole.iter().zip(&bare).map(|(whole, bare)| (whole - bare).max(0.1)).collect();
    let net = point(format!("{name}, over veth, above XDP_PASS alone"), "ns", above(&ours), above(&theirs));
    results.point(Point { asked: None, ..net });
    results.point(point(format!("{name}, over veth, random sources"), "ns", ours, theirs));
    Ok(())
}
