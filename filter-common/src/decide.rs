//! The order of the checks, and nothing else.

use crate::frame::Frame;
use crate::packet::{Address, IpPacket, Packet, Transport};
use crate::parse::parse;
use crate::prefix::{Record, Switch};
use crate::reason::{Reason, Verdict};

/// The entry id that stands for "no entry": ids start at 1, and slot 0 of the entry maps is never used.
pub const NO_ENTRY: u32 = 0;

/// A deadline that never comes. See [`Match::until_s`].
pub const FOREVER: u32 = u32::MAX;

/// What became of a frame, and by which entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a dropped decision is an uncounted packet"]
pub struct Decision {
    /// Why.
    pub reason: Reason,
    /// Id of the entry that decided, or [`NO_ENTRY`].
    pub entry: u32,
    /// What happens to the frame: the reason's verdict, but for faults that the operator tolerates.
    pub verdict: Verdict,
}

/// What a table knows of an address and an action.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Match {
    /// Id of the most specific entry that covers the address, or [`NO_ENTRY`].
    pub entry: u32,
    /// When the *last* of all covering entries ends, in seconds of the [`Clock`]; [`FOREVER`] if one never
    /// does. The writer of the tables keeps it so: thus the end of a nested entry never uncovers an address
    /// that a wider one still covers, whether or not any process is alive to tidy up.
    pub until_s: u32,
}

impl Match {
    /// Reads a word of a table: the end in the upper half, the entry in the lower.
    #[inline(always)] // in BPF, part of one look-up
    pub const fn from_word(word: u64) -> Self {
        #[expect(clippy::cast_possible_truncation, reason = "the two halves")]
        Self { entry: word as u32, until_s: (word >> 32) as u32 }
    }

    /// The word of a table.
    pub const fn to_word(self) -> u64 {
        (self.until_s as u64) << 32 | self.entry as u64
    }
}

/// The questions that [`decide`] asks of the operator's lists.
pub trait Tables {
    /// What is decided for `source`, under each policy.
    fn find(&self, source: &Address) -> Option<Record>;
    /// Which policy is in force.
    fn switch(&self) -> Switch;
    /// Whether frames with this fault are to pass all the same, unread.
    fn tolerates(&self, fault: Reason) -> bool;
}

/// The time, on the clock in which deadlines are given. Asked at most once a packet, and only where an entry
/// with a deadline matches.
pub trait Clock {
    /// Whole seconds since a fixed moment (in the kernel: CLOCK_MONOTONIC, which starts at boot).
    fn now_s(&self) -> u32;
}

/// The decision about a frame: parses it and, if it is well-formed, [`decide`]s.
pub fn filter<F: Frame + ?Sized>(frame: &F, clock: &impl Clock, tables: &impl Tables) -> Decision {
    match parse(frame) {
        Ok(packet) => decide(&packet, clock, tables),
        Err(fault) if tables.tolerates(fault) => Decision { verdict: Verdict::Pass, ..by_protocol(fault) },
        Err(fault) => by_protocol(fault),
    }
}

/// The decision about a well-formed packet. The order of the checks is the policy:
/// protocol essentials, then allow, then block, then path MTU messages, then pass.
pub fn decide(packet: &Packet, clock: &impl Clock, tables: &impl Tables) -> Decision {
    let ip = match packet {
        Packet::Arp => return by_protocol(Reason::Arp),
        Packet::Llc => return by_protocol(Reason::Llc),
        Packet::Mpls => return by_protocol(Reason::Mpls),
        Packet::Pppoe => return by_protocol(Reason::Pppoe),
        Packet::NonIp { .. } => return by_protocol(Reason::NonIp),
        Packet::Ip(ip) => ip,
    };
    if is_neighbour_discovery(ip) {
        return by_protocol(Reason::NeighbourDiscovery);
    }
    let mut now = Now { clock, read_s: None };
    if let Some(record) = tables.find(&ip.source) {
        let slot = slot_in_force(tables.switch(), &mut now);
        let (allow, block) = (record.allow(slot), record.block(slot));
        if allow.entry != NO_ENTRY && now.is_before(allow.until_s) {
            return by_entry(Reason::Allowed, allow);
        }
        if block.entry != NO_ENTRY && now.is_before(block.until_s) {
            return by_entry(Reason::Blocked, block);
        }
    }
    if is_path_mtu(ip) {
        return by_protocol(Reason::PathMtu);
    }
    by_protocol(Reason::NoMatch)
}

/// The slot of the policy that is in force: the pending one until it lapses, if there is one.
fn slot_in_force<C: Clock>(switch: Switch, now: &mut Now<'_, C>) -> usize {
    match switch.pending() {
        Some((pending, confirm_by_s)) if now.is_before(confirm_by_s) => pending,
        _ => switch.active(),
    }
}

/// A decision in which no entry took part.
fn by_protocol(reason: Reason) -> Decision {
    Decision { reason, entry: NO_ENTRY, verdict: reason.verdict() }
}

/// The decision of an entry.
fn by_entry(reason: Reason, found: Match) -> Decision {
    Decision { reason, entry: found.entry, verdict: reason.verdict() }
}

/// Router and neighbour solicitation and advertisement, and redirect (RFC 4861), which without hop limit 255
/// did not come from this link, and in a fragment must be ignored (RFC 6980).
fn is_neighbour_discovery(ip: &IpPacket) -> bool {
    matches!(
        (ip.source, ip.transport, ip.hop_limit, ip.is_fragment),
        (Address::V6(_), Transport::Icmp { kind: 133..=137, .. }, 255, false)
    )
}

/// Fragmentation needed (RFC 1191) and packet too big (RFC 8201): without them connections hang after the handshake.
fn is_path_mtu(ip: &IpPacket) -> bool {
    matches!(
        (ip.source, ip.transport),
        (Address::V4(_), Transport::Icmp { kind: 3, code: 4 })
            | (Address::V6(_), Transport::Icmp { kind: 2, .. })
    )
}

/// The clock, read when first needed and then kept.
struct Now<'c, C> {
    clock: &'c C,
    read_s: Option<u32>,
}

impl<C: Clock> Now<'_, C> {
    fn is_before(&mut self, until_s: u32) -> bool {
        if until_s == FOREVER {
            return true;
        }
        let clock = self.clock;
        let now_s = *self.read_s.get_or_insert_with(|| clock.now_s());
        now_s < until_s
    }
}
