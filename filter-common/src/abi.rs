//! The contract between the kernel's side and userspace: the pinned maps, their keys, values and limits.
//!
//! Everything here is `repr(C)`, made of integers and arrays, without padding. A change of layout or meaning
//! needs a new [`ABI_VERSION`]; a test compares the layout with the one
//! committed for the version (`filter-common/abi.txt`).

use crate::decide::{Decision, NO_ENTRY};
use crate::reason::{Reason, Verdict};

/// Version of this contract. It names the directory in which maps and programs are pinned, so that builds
/// with different layouts never share a map.
pub const ABI_VERSION: u32 = 2;

/// Interfaces that can be counted apart, slot [`TEST_SLOT`] included. One slot costs
/// [`SLOT_COUNTERS`] × 16 bytes a CPU; a server with more ingress interfaces than 63 has not been seen.
pub const INTERFACE_SLOTS: u32 = 64;

/// The slot that counts frames of `BPF_PROG_TEST_RUN`, so that a test or a self-check never shows up in the
/// figures of a real interface.
pub const TEST_SLOT: u32 = 0;

/// `ingress_ifindex` of a test-run without a context: the loopback device, on which loading is refused.
pub const LOOPBACK_IFINDEX: u32 = 1;

/// Counters kept for each interface: room for reasons to come. A power of two, so that an index is one shift.
pub const REASON_SLOTS: u32 = 64;

/// Counters of an interface: one for each reason and verdict, since a tolerated fault passes.
pub const SLOT_COUNTERS: u32 = 2 * REASON_SLOTS;

/// Entries (allow and block, IPv4 and IPv6 together) if the operator does not say otherwise. Each costs 128
/// bytes, 16 more a CPU, and about 150 in the kernel's trie: 17 MiB and 1 MiB a CPU when full.
pub const DEFAULT_MAX_ENTRIES: u32 = 65_536;

/// The most entries that may be asked for: beyond, the kernel's trie costs more a packet than dropping is worth.
pub const LARGEST_MAX_ENTRIES: u32 = 1 << 20;

/// Longest reason text of an entry, in bytes of UTF-8: what is left of a 128-byte record.
pub const REASON_TEXT_LENGTH: usize = 96;

/// Longest interface name with its terminator: the kernel's `IFNAMSIZ`.
pub const INTERFACE_NAME_LENGTH: usize = 16;

/// Name of the XDP program in the object, and in the kernel.
pub const PROGRAM: &str = "filter";

/// Name of the program for frames beyond one page (5.18), in an object of its own: older kernels refuse it.
pub const FRAGS_PROGRAM: &str = "filter_frags";

/// Name of the program that decides as [`PROGRAM`] does and has no effect: it returns [`explained`].
pub const EXPLAIN_PROGRAM: &str = "explain";

/// What the program `explain` returns for a decision: the entry above the low byte, which holds the reason and, in
/// its highest bit, whether the frame passes.
pub const fn explained(decision: Decision) -> u32 {
    let passes = matches!(decision.verdict, Verdict::Pass) as u32;
    decision.entry << 8 | passes << 7 | decision.reason.index()
}

/// The decision of which [`explained`] made this number.
pub fn decision_of(explained: u32) -> Option<Decision> {
    let verdict = if explained >> 7 & 1 == 1 { Verdict::Pass } else { Verdict::Drop };
    Some(Decision { reason: Reason::from_index(explained & 0x7f)?, entry: explained >> 8, verdict })
}

/// Name of the read-only global that tells a program which interface slot it counts in.
pub const INTERFACE_SLOT_GLOBAL: &str = "INTERFACE_SLOT";

/// Packets and bytes. Bytes are the frame's, from the destination MAC address on, VLAN tags included, frame
/// check sequence not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Counter {
    /// Frames.
    pub packets: u64,
    /// Sum of the lengths of these frames.
    pub bytes: u64,
}

/// Value of a prefix in a trie: what the program needs, and no more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Record {
    /// Id of the entry, index into the maps `entries` and `entry_counters`.
    pub entry: u32,
    /// End of the last covering entry, in seconds of CLOCK_MONOTONIC: see
    /// [`Match::until_s`](crate::Match::until_s).
    pub until_s: u32,
}

/// An operator's entry. Only userspace reads and writes these; they lie in a map so that they live exactly as
/// long as the tables that are derived from them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Entry {
    /// Network address, host bits zero; IPv4 in the first four bytes.
    pub address: [u8; 16],
    /// One of [`entry_state`].
    pub state: u32,
    /// End of this entry in seconds of CLOCK_MONOTONIC, or [`FOREVER`](crate::FOREVER).
    pub until_s: u32,
    /// When it was made, in seconds of CLOCK_MONOTONIC.
    pub created_s: u32,
    /// 4 or 6.
    pub family: u8,
    /// 0 to 32 or 0 to 128.
    pub prefix_len: u8,
    /// One of [`action`].
    pub action: u8,
    /// Bytes of `reason` in use.
    pub reason_length: u8,
    /// Why the operator made it: UTF-8.
    pub reason: [u8; REASON_TEXT_LENGTH],
}

/// Values of [`Entry::state`].
pub mod entry_state {
    /// The slot is free; its other fields mean nothing.
    pub const FREE: u32 = 0;
    /// Wanted; the trie may or may not have it yet.
    pub const ADDING: u32 = 1;
    /// In the trie.
    pub const ACTIVE: u32 = 2;
    /// No longer wanted; the trie may still have it.
    pub const REMOVING: u32 = 3;
}

/// Values of [`Entry::action`].
pub mod action {
    /// Pass, whatever block entries say.
    pub const ALLOW: u8 = 1;
    /// Drop.
    pub const BLOCK: u8 = 2;
}

/// What userspace must know before it reads the other maps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Header {
    /// No entry id above this is in use, so that nobody has to read all of a large, nearly empty map.
    pub highest_entry: u32,
}

/// Who counts in an interface slot. Only userspace reads and writes these.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Interface {
    /// Name at the time of loading, padded with zeros; all zeros in a free slot.
    pub name: [u8; INTERFACE_NAME_LENGTH],
    /// Index at the time of loading.
    pub ifindex: u32,
    /// When it was loaded, in seconds of CLOCK_MONOTONIC.
    pub loaded_s: u32,
}

/// Kinds of map in use, with the kernel's numbers (`enum bpf_map_type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum MapKind {
    /// `BPF_MAP_TYPE_ARRAY`.
    Array = 2,
    /// `BPF_MAP_TYPE_PERCPU_ARRAY`.
    PerCpuArray = 6,
    /// `BPF_MAP_TYPE_LPM_TRIE` (4.11).
    LpmTrie = 11,
}

/// `BPF_F_NO_PREALLOC`: obligatory for tries.
const NO_PREALLOC: u32 = 1;

/// How a map must look, whoever made it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapSpec {
    /// Name of the pin; at most 15 bytes, the kernel's limit.
    pub name: &'static str,
    /// Kind.
    pub kind: MapKind,
    /// Size of a key in bytes.
    pub key_size: u32,
    /// Size of a value in bytes (of one CPU's, where it is per CPU).
    pub value_size: u32,
    /// Number of elements.
    pub capacity: Capacity,
    /// `map_flags`.
    pub flags: u32,
}

/// Number of elements of a map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Capacity {
    /// The same in every installation.
    Fixed(u32),
    /// One for each entry, and one more: slot [`NO_ENTRY`] is never used, and a full trie refuses even
    /// updates in place before 6.1.123.
    Entries,
}

impl Capacity {
    /// `max_entries` of the map, for a filter that holds `max_entries` entries.
    pub const fn elements(self, max_entries: u32) -> u32 {
        match self {
            Self::Fixed(elements) => elements,
            Self::Entries => max_entries + 1,
        }
    }
}

const fn size_of_u32<T>() -> u32 {
    let size = size_of::<T>();
    assert!(size <= 4096);
    #[expect(clippy::cast_possible_truncation, reason = "asserted above")]
    {
        size as u32
    }
}

const fn array<V>(name: &'static str, capacity: Capacity) -> MapSpec {
    MapSpec {
        name,
        kind: MapKind::Array,
        key_size: size_of_u32::<u32>(),
        value_size: size_of_u32::<V>(),
        capacity,
        flags: 0,
    }
}

const fn counters(name: &'static str, capacity: Capacity) -> MapSpec {
    let value_size = size_of_u32::<Counter>();
    MapSpec { kind: MapKind::PerCpuArray, value_size, ..array::<Counter>(name, capacity) }
}

/// A trie over addresses of `bytes` bytes.
const fn trie(name: &'static str, bytes: u32) -> MapSpec {
    MapSpec {
        name,
        kind: MapKind::LpmTrie,
        key_size: 4 + bytes,
        value_size: size_of_u32::<Record>(),
        capacity: Capacity::Entries,
        flags: NO_PREALLOC,
    }
}

/// Allowed IPv4 prefixes.
pub const ALLOW_V4: MapSpec = trie("allow_v4", 4);
/// Allowed IPv6 prefixes.
pub const ALLOW_V6: MapSpec = trie("allow_v6", 16);
/// Blocked IPv4 prefixes.
pub const BLOCK_V4: MapSpec = trie("block_v4", 4);
/// Blocked IPv6 prefixes.
pub const BLOCK_V6: MapSpec = trie("block_v6", 16);
/// [`Entry`] by id.
pub const ENTRIES: MapSpec = array::<Entry>("entries", Capacity::Entries);
/// The [`Header`].
pub const HEADER: MapSpec = array::<Header>("header", Capacity::Fixed(1));
/// [`Counter`] by entry id.
pub const ENTRY_COUNTERS: MapSpec = counters("entry_counters", Capacity::Entries);
/// [`Counter`] by [`counter_index`].
pub const COUNTERS: MapSpec = counters("counters", Capacity::Fixed(INTERFACE_SLOTS * SLOT_COUNTERS));
/// [`Interface`] by slot.
pub const INTERFACES: MapSpec = array::<Interface>("interfaces", Capacity::Fixed(INTERFACE_SLOTS));

/// By reason: not zero where frames with this fault pass all the same.
pub const TOLERATED: MapSpec = array::<u32>("tolerated", Capacity::Fixed(REASON_SLOTS));

/// All maps.
pub const MAPS: [MapSpec; 10] = [
    TOLERATED,
    ALLOW_V4,
    ALLOW_V6,
    BLOCK_V4,
    BLOCK_V6,
    HEADER,
    ENTRIES,
    ENTRY_COUNTERS,
    COUNTERS,
    INTERFACES,
];

/// Those that the program reads or writes; the others are userspace's own.
pub const PROGRAM_MAPS: [MapSpec; 7] =
    [ALLOW_V4, ALLOW_V6, BLOCK_V4, BLOCK_V6, TOLERATED, ENTRY_COUNTERS, COUNTERS];

/// Index into the map `counters`.
pub const fn counter_index(interface_slot: u32, reason: Reason, verdict: Verdict) -> u32 {
    let half = match verdict {
        Verdict::Pass => 0,
        Verdict::Drop => REASON_SLOTS,
    };
    interface_slot * SLOT_COUNTERS + half + reason.index()
}

const _: () = {
    assert!(NO_ENTRY == 0 && TEST_SLOT == 0);
    // `explained` has seven bits for the reason and 24 for the entry.
    assert!(REASON_SLOTS <= 1 << 7 && LARGEST_MAX_ENTRIES < 1 << 24);
    assert!(size_of::<Counter>() == 16 && align_of::<Counter>() == 8);
    // The kernel places a trie's value right behind its key, so 4-byte alignment is all there is.
    assert!(size_of::<Record>() == 8 && align_of::<Record>() == 4);
    assert!(size_of::<Entry>() == 128 && align_of::<Entry>() == 4);
    assert!(size_of::<Interface>() == 24 && align_of::<Interface>() == 4);
    let mut map = 0;
    while map < MAPS.len() {
        assert!(MAPS[map].name.len() <= 15);
        map += 1;
    }
};

#[cfg(feature = "pod")]
#[expect(unsafe_code, reason = "the marker that lets aya copy these types to and from maps")]
mod pod {
    use super::{Counter, Entry, Header, Interface, Record};

    // SAFETY: `repr(C)`, integers only, no padding (asserted above): every bit pattern is a value.
    unsafe impl aya::Pod for Counter {}
    // SAFETY: as Counter.
    unsafe impl aya::Pod for Record {}
    // SAFETY: as Counter, and arrays of integers.
    unsafe impl aya::Pod for Entry {}
    // SAFETY: as Entry.
    unsafe impl aya::Pod for Interface {}
    // SAFETY: as Counter.
    unsafe impl aya::Pod for Header {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fmt::Write as _;
    use std::mem::offset_of;

    /// Everything that two builds must agree on to share pinned maps.
    fn layout() -> String {
        let mut text = format!("version {ABI_VERSION}\n");
        for MapSpec { name, kind, key_size, value_size, capacity, flags } in MAPS {
            writeln!(text, "{name} {kind:?} {key_size} {value_size} {capacity:?} {flags:#x}")
                .expect("a String");
        }
        let entry = [
            offset_of!(Entry, address),
            offset_of!(Entry, state),
            offset_of!(Entry, until_s),
            offset_of!(Entry, created_s),
            offset_of!(Entry, family),
            offset_of!(Entry, prefix_len),
            offset_of!(Entry, action),
            offset_of!(Entry, reason_length),
            offset_of!(Entry, reason),
        ];
        let interface =
            [offset_of!(Interface, name), offset_of!(Interface, ifindex), offset_of!(Interface, loaded_s)];
        let record = [offset_of!(Record, entry), offset_of!(Record, until_s)];
        writeln!(text, "Entry {entry:?} Interface {interface:?} Record {record:?}").expect("a String");
        for reason in Reason::ALL {
            writeln!(text, "{} {}", reason.index(), reason.name()).expect("a String");
        }
        text
    }

    #[test]
    fn decisions_survive_being_explained() {
        for reason in Reason::ALL {
            for (entry, verdict) in [(0, Verdict::Drop), (LARGEST_MAX_ENTRIES, Verdict::Pass)] {
                let decision = Decision { reason: *reason, entry, verdict };
                assert_eq!(decision_of(explained(decision)), Some(decision));
            }
        }
        assert_eq!(decision_of(0x7f), None);
    }

    #[test]
    fn layout_is_the_committed_one() {
        let committed = include_str!("../abi.txt");
        assert_eq!(
            layout(),
            committed,
            "\nThe pinned layout changed. If builds that differ in it must not share maps, raise ABI_VERSION; \
             reasons may be appended without. Then commit the left-hand text as filter-common/abi.txt."
        );
    }
}
