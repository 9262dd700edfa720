//! Part B: how many frames a second are dropped on one CPU, over veth, by the filter and by its peers.

use anyhow::Result;
use aya::Ebpf;
use aya::programs::links::FdLink;
use aya::programs::{Xdp, XdpMode};

use crate::Extent;
use crate::lookups::thousands;
use crate::peers::{self, XDP_FILTER_MOST, XDP_FILTER_SET, dropped_by_ipset, dropped_by_nft, dropped_by_xdp};
use crate::product;
use crate::programs::{self, Environment, SEND, Set};
use crate::results::{Measure, Point, Results};
use crate::set::{Draw, Kind};
use crate::wire::{INGRESS, Wire};

type Dropped = fn(&Wire) -> Result<u64>;

/// A filter that drops all of a set.
struct Contender {
    name: String,
    wire: Wire,
    set: Set,
    dropped: Dropped,
    /// Million frames a second, one sample a cycle.
    rates: Vec<f64>,
}

/// Measures them all in turn.
pub fn measure(results: &mut Results, extent: &Extent) {
    let many = Set { kind: Kind::MixedV4, size: extent.many };
    let few = Set { kind: Kind::MixedV4, size: XDP_FILTER_MOST };
    let (m, f) = (thousands(many.size), thousands(few.size));
    let (ours_many, ours_few) = (format!("ours, {m} prefixes"), format!("ours, {f} prefixes"));
    let ours_exact = format!("ours, {f} addresses");
    let (ipset, nft) = (format!("ipset hash:net in raw, {m}"), format!("nft netdev ingress, {m}"));
    let xdp_filter = format!("xdp-filter, all features, {f} addresses");
    let bare = "XDP_DROP alone".to_owned();

    let mut contenders = Vec::new();
    let mut add = |results: &mut Results, name: &str, set, dropped: Dropped, prepare: Prepare<'_>| {
        results.attempt(&format!("drop rate, set-up of {name}"), |results| {
            let wire = Wire::new()?;
            prepare(results, &wire)?;
            contenders.push(Contender { name: name.to_owned(), wire, set, dropped, rates: Vec::new() });
            Ok(())
        });
    };
    add(results, &bare, many, dropped_by_xdp, &|_, wire| attach(wire, "drop_all"));
    for (name, set) in [(&ours_many, many), (&ours_few, few), (&ours_exact, XDP_FILTER_SET)] {
        add(results, name, set, dropped_by_xdp, &|_, wire| {
            product::load_with(&wire.receiver, INGRESS, set).map(drop)
        });
    }
    add(results, &xdp_filter, XDP_FILTER_SET, dropped_by_xdp, &|_, wire| peers::xdp_filter(&wire.receiver));
    add(results, &ipset, many, dropped_by_ipset, &|results, wire| {
        let took = peers::ipset(&wire.receiver, many)?;
        results.figure('D', format!("filling, ipset restore, {m}"), "s", vec![took.as_secs_f64()]);
        Ok(())
    });
    add(results, &nft, many, dropped_by_nft, &|results, wire| {
        let took = peers::nft(&wire.receiver, many)?;
        results.figure('D', format!("filling, nft -f, {m}"), "s", vec![took.as_secs_f64()]);
        Ok(())
    });

    results.attempt("drop rates", |results| race(results, extent, &mut contenders));
    for contender in &contenders {
        results.figure('B', &contender.name, "million frames/s", contender.rates.clone());
    }
    let is_whole = extent.many == 1_000_000;
    let bounds = |asked, aim| if is_whole { (Some(asked), Some(aim)) } else { (None, None) };
    for (ours, peer, (asked, aim)) in [
        (&ours_many, &xdp_filter, bounds(0.5, 0.75)),
        (&ours_many, &ipset, bounds(5.0, 8.0)),
        (&ours_many, &nft, bounds(12.0, 18.0)),
        (&ours_few, &xdp_filter, (Some(1.0), None)),
        (&ours_exact, &xdp_filter, (None, None)),
        (&ours_many, &bare, (None, None)),
    ] {
        let rates =
            |name| contenders.iter().find(|contender| &contender.name == name).map(|it| it.rates.clone());
        // Whoever could not be set up is among the failures.
        if let (Some(ours_rates), Some(theirs)) = (rates(ours), rates(peer)) {
            results.point(Point {
                part: 'B',
                what: format!("drop rate, {ours}"),
                peer: peer.clone(),
                unit: "million frames/s",
                measure: Measure::Rate,
                ours: ours_rates,
                theirs,
                asked,
                aim,
            });
        }
    }
}

type Prepare<'p> = &'p dyn Fn(&mut Results, &Wire) -> Result<()>;

fn race(results: &mut Results, extent: &Extent, contenders: &mut [Contender]) -> Result<()> {
    let mut lanes = Vec::new();
    for Contender { name, wire, set, dropped, rates } in contenders {
        lanes.push((name, wire.lane(*set, Draw::Member)?, *dropped, rates));
    }
    for cycle in 1..=extent.cycles {
        results.tell(&format!("cycle {cycle}"));
        for (name, lane, _, rates) in &mut lanes {
            rates.push(lane.run(extent).map_err(|error| error.context(name.clone()))?);
        }
    }
    results.tell("asking each how many frames it has dropped");
    for (name, lane, dropped, _) in &lanes {
        lane.verify(true, dropped).map_err(|error| error.context((*name).clone()))?;
    }
    Ok(())
}

/// Attaches one of the programs that decide nothing to the receiver, as long as the host lives.
pub fn attach(wire: &Wire, name: &'static str) -> Result<()> {
    let set = Set { kind: Kind::ExactV4, size: 1 };
    wire.receiver.run(move || {
        let mut object: Ebpf = programs::load(SEND, &[name], set, Draw::Member, &Environment::default())?;
        let program: &mut Xdp = object.program_mut(name).expect("it was loaded").try_into()?;
        let link = program.attach(INGRESS, XdpMode::Driver)?;
        let link = FdLink::try_from(program.take_link(link)?)?;
        link.pin(product::pin_directory()?.join(name))?;
        Ok(())
    })
}
