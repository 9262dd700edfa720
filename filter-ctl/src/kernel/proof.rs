//! Proof that a program on an interface decides and counts as it should: frames from addresses that nobody has, run through
//! it, count in the slot of test-runs and at entries of their own.

use std::net::IpAddr;

use anyhow::{Context as _, Result, bail, ensure};
use aya::programs::{TestRun as _, TestRunOptions, Xdp};
use aya_obj::programs::XdpAttachType;
use filter_common::abi::{Counter, TEST_SLOT};
use filter_common::packet::Address;
use filter_common::prefix::{Record, Switch};
use filter_common::{Decision, NO_ENTRY, Reason, Tables, Verdict, filter};

use super::Filter;
use super::explain::frame_from;
use super::maps::Maps;
use crate::host::Monotonic;
use crate::policy::{Action, Key, Prefix};

/// What the kernel's test-run returns (`enum xdp_action`).
const XDP_DROP: u32 = 1;
const XDP_PASS: u32 = 2;

/// The entries that are there for the proof alone: allow inside block, for each family, in addresses that no packet comes
/// from: 240.0.0.0/4 is reserved (RFC 1112, 4), and 100::/64 is for discarding (RFC 6666).
pub const CANARIES: [(Action, &str); 4] = [
    (Action::Block, "240.0.0.0/31"),
    (Action::Allow, "240.0.0.1/32"),
    (Action::Block, "100::dead:bee0/127"),
    (Action::Allow, "100::dead:bee1/128"),
];

/// Sources of the frames that are run: one blocked, one allowed, one that no entry covers, for each family.
const SOURCES: [&str; 6] =
    ["240.0.0.0", "240.0.0.1", "240.0.0.2", "100::dead:bee0", "100::dead:bee1", "100::dead:bee2"];

/// Keys of [`CANARIES`].
pub fn canary_keys() -> Vec<Key> {
    let key = |(action, prefix): &(Action, &str)| {
        Some(Key { action: *action, prefix: Prefix::parse(prefix, false).ok()? })
    };
    CANARIES.iter().filter_map(key).collect()
}

/// The entries as this process sees them.
struct Mapped<'f> {
    filter: &'f Filter,
    switch: Switch,
}

impl Tables for Mapped<'_> {
    fn find(&self, source: &Address) -> Option<Record> {
        self.filter.table().find(source)
    }

    fn switch(&self) -> Switch {
        self.switch
    }

    fn tolerates(&self, fault: Reason) -> bool {
        self.filter.maps().tolerates(fault).unwrap_or(false)
    }
}

/// What a frame has counted so far.
fn counts(maps: &Maps, filter: &Filter, decision: Decision) -> Result<(Counter, Option<Counter>)> {
    let slot = maps.counter(TEST_SLOT, decision.reason, decision.verdict)?;
    Ok((slot, (decision.entry != NO_ENTRY).then(|| filter.table().counter(decision.entry))))
}

/// Runs the program that is pinned for `interface` on frames from addresses that nobody has, and compares what it returns
/// and counts with what the same code says in this process. Frames that an operator's entry decides are left out: they
/// would count there.
///
/// # Errors
///
/// If anything differs, with what.
pub fn prove(filter: &Filter, interface: &str) -> Result<()> {
    let path = filter.set().program(interface);
    let program = Xdp::from_pin(&path, XdpAttachType::Interface)
        .with_context(|| format!("could not open the program {}", path.display()))?;
    let mapped = Mapped { filter, switch: filter.maps().switch()? };
    let mut proven = 0;
    for source in SOURCES {
        let address: IpAddr = source.parse().context("an address of a canary")?;
        let frame = frame_from(address);
        let decision = self::filter(&frame[..], &Monotonic, &mapped);
        if decision.entry != NO_ENTRY && !filter.is_canary(decision.entry) {
            continue;
        }
        let before = counts(filter.maps(), filter, decision)?;
        let options = TestRunOptions { data_in: Some(&frame), ..TestRunOptions::default() };
        let result = program.test_run(options).context("the kernel did not run it on a frame")?;
        let wanted = if decision.verdict == Verdict::Drop { XDP_DROP } else { XDP_PASS };
        ensure!(
            result.return_value == wanted,
            "it answers {} to a frame from {source}, and {wanted} is right: {}",
            result.return_value,
            decision.reason.name()
        );
        let after = counts(filter.maps(), filter, decision)?;
        let length = frame.len() as u64;
        let moved = |before: Counter, after: Counter| {
            (after.packets.wrapping_sub(before.packets), after.bytes.wrapping_sub(before.bytes))
                == (1, length)
        };
        let is_counted = moved(before.0, after.0)
            && before.1.zip(after.1).is_none_or(|(before, after)| moved(before, after));
        ensure!(is_counted, "a frame from {source} did not count once as `{}`", decision.reason.name());
        proven += 1;
    }
    if proven == 0 {
        bail!("an entry covers all of {}: nothing can be proven", SOURCES.join(", "));
    }
    Ok(())
}
