//! The contract between the kernel's side and userspace: the pinned maps, their keys, values and limits.
//!
//! Everything here is `repr(C)`, made of integers and arrays, without padding. A change of layout or meaning
//! needs a new [`ABI_VERSION`]; a test compares the layout with the one
//! committed for the version (`filter-common/abi.txt`).

use crate::decide::{Decision, NO_ENTRY};
use crate::prefix::{Geometry, Region};
use crate::reason::{Reason, Verdict};
use crate::sample;

/// Version of this contract. It names the directory in which maps and programs are pinned, so that builds
/// with different layouts never share a map.
pub const ABI_VERSION: u32 = 6;

/// The oldest version from which an upgrade takes over entries and counters. Since then the maps `header`, `entries`,
/// `notes` and `entry_counters`, and those that no set of tables has to itself, have had the same layout, but for words
/// that were zero before they got a meaning.
pub const OLDEST_READABLE: u32 = 4;

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

/// IPv4 entries, allow and block together, if the operator does not say otherwise: the public blocklists together.
/// Each costs 157 bytes and 16 more a CPU.
pub const DEFAULT_MAX_V4: u32 = 1 << 18;

/// IPv6 entries, likewise: those of today's blocklists many times over.
pub const DEFAULT_MAX_V6: u32 = 1 << 16;

/// The most entries of a family that may be asked for: four times what was measured, and together within the 24
/// bits of an id.
pub const LARGEST_MAX: u32 = 1 << 22;

/// Longest interface name with its terminator: the kernel's `IFNAMSIZ`.
pub const INTERFACE_NAME_LENGTH: usize = 16;

/// Name of the XDP program in the object, and in the kernel.
pub const PROGRAM: &str = "filter";

/// Name of the program for frames beyond one page (5.18), in an object of its own: older kernels refuse it.
pub const FRAGS_PROGRAM: &str = "filter_frags";

/// Name of the program that filters as [`PROGRAM`] does and logs each frame by aya-log, in an object of its own: what
/// [`explained`] makes of the decision, length, receive queue and index of the interface, as numbers.
pub const DEBUG_PROGRAM: &str = "filter_debug";

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

/// Names of the read-only globals that the loader sets.
pub mod global {
    /// The interface slot that a program counts in (`u32`).
    pub const INTERFACE_SLOT: &str = "INTERFACE_SLOT";
    /// [`Seeds`](crate::prefix::Seeds) of the tables (three `u64`).
    pub const SEEDS: &str = "SEEDS";
    /// Number of buckets (`u32`).
    pub const BUCKETS: &str = "BUCKET_COUNT";
    /// Words of the Bloom filter (`u32`).
    pub const BLOOM_WORDS: &str = "BLOOM_WORDS";
    /// Ids that a CPU's block of counters has room for (`u32`).
    pub const IDS: &str = "IDS";
    /// Time between two samples of a ring in the long run, in nanoseconds (`u32`).
    pub const GAP_NS: &str = "GAP_NS";
}

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

impl Counter {
    /// Both together.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self {
            packets: self.packets.saturating_add(other.packets),
            bytes: self.bytes.saturating_add(other.bytes),
        }
    }
}

/// Values of [`Key::action`](crate::prefix::Key::action).
pub mod action {
    /// Pass, whatever block entries say.
    pub const ALLOW: u8 = 1;
    /// Drop.
    pub const BLOCK: u8 = 2;
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
}

/// `BPF_F_MMAPABLE` (5.5): userspace maps the array into its memory.
pub const MMAPABLE: u32 = 1 << 10;

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
    /// Number of elements, and where it is pinned.
    pub capacity: Capacity,
    /// `map_flags`.
    pub flags: u32,
}

/// Number of elements of a map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Capacity {
    /// The same in every installation.
    Fixed(u32),
    /// So many for each CPU that there may be.
    EachCpu(u32),
    /// One of the arrays of the prefix tables, which are made anew together when they grow.
    Table(Region),
}

impl Capacity {
    /// Whether no set of tables has the map to itself.
    pub const fn is_shared(self) -> bool {
        !matches!(self, Self::Table(_))
    }

    /// `max_entries` of the map.
    pub const fn elements(self, geometry: Geometry) -> u32 {
        match self {
            Self::Fixed(elements) => elements,
            Self::EachCpu(elements) => elements * geometry.cpus,
            Self::Table(region) => geometry.elements(region),
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

/// An array of the prefix tables.
const fn table(name: &'static str, region: Region) -> MapSpec {
    MapSpec {
        name,
        kind: MapKind::Array,
        key_size: size_of_u32::<u32>(),
        value_size: 8 * region.words(),
        capacity: Capacity::Table(region),
        flags: MMAPABLE,
    }
}

/// The tables' header.
pub const HEADER: MapSpec = table("header", Region::Header);
/// Lengths in use, and their masks.
pub const STEPS: MapSpec = table("steps", Region::Steps);
/// Two bits for each IPv4 /24.
pub const CODES: MapSpec = table("codes", Region::Codes);
/// Bloom filter of IPv6 prefixes.
pub const BLOOM: MapSpec = table("bloom", Region::Bloom);
/// Prefixes by their hash.
pub const BUCKETS: MapSpec = table("buckets", Region::Buckets);
/// What is decided for each prefix.
pub const RECORDS: MapSpec = table("records", Region::Records);
/// Entries by id.
pub const ENTRIES: MapSpec = table("entries", Region::Entries);
/// Ids of entries in the order of their keys.
pub const ORDER: MapSpec = table("order", Region::Order);
/// Owners and reasons.
pub const NOTES: MapSpec = table("notes", Region::Notes);
/// [`Counter`] by CPU and entry id: element `cpu * ids + id`. Not a map per CPU, which can't be mapped into memory.
pub const ENTRY_COUNTERS: MapSpec = table("entry_counters", Region::Counters);

/// [`Switch`](crate::prefix::Switch): which slot of the policy is in force. Eight bytes, written whole.
pub const SWITCH: MapSpec = MapSpec { flags: MMAPABLE, ..array::<u64>("switch", Capacity::Fixed(1)) };
/// [`Counter`] by [`counter_index`].
pub const COUNTERS: MapSpec = MapSpec {
    kind: MapKind::PerCpuArray,
    ..array::<Counter>("counters", Capacity::Fixed(INTERFACE_SLOTS * SLOT_COUNTERS))
};
/// [`Interface`] by slot.
pub const INTERFACES: MapSpec = array::<Interface>("interfaces", Capacity::Fixed(INTERFACE_SLOTS));
/// By reason: not zero where frames with this fault pass all the same.
pub const TOLERATED: MapSpec = array::<u32>("tolerated", Capacity::Fixed(REASON_SLOTS));

/// Until when frames that pass are recorded, in seconds of CLOCK_MONOTONIC; zero if they are not. Eight bytes, written
/// whole.
pub const RECORDING: MapSpec = MapSpec { flags: MMAPABLE, ..array::<u64>("recording", Capacity::Fixed(1)) };
/// Rings of the recorder: [`ring_word`](sample::ring_word)s by CPU and ring.
pub const RINGS: MapSpec = MapSpec {
    flags: MMAPABLE,
    ..array::<[u64; sample::RING_WORDS]>("rings", Capacity::EachCpu(sample::RINGS))
};
/// Samples: [`sample_word`](sample::sample_word)s by CPU, ring and slot.
pub const SAMPLES: MapSpec = MapSpec {
    flags: MMAPABLE,
    ..array::<[u64; sample::SAMPLE_WORDS]>("samples", Capacity::EachCpu(sample::RINGS * sample::SLOTS))
};

/// All maps.
pub const MAPS: [MapSpec; 17] = [
    SWITCH,
    TOLERATED,
    COUNTERS,
    INTERFACES,
    RECORDING,
    RINGS,
    SAMPLES,
    HEADER,
    STEPS,
    CODES,
    BLOOM,
    BUCKETS,
    RECORDS,
    ENTRIES,
    ORDER,
    NOTES,
    ENTRY_COUNTERS,
];

/// Those that the program reads or writes; the others are userspace's own.
pub const PROGRAM_MAPS: [MapSpec; 13] = [
    SWITCH,
    TOLERATED,
    COUNTERS,
    RECORDING,
    RINGS,
    SAMPLES,
    STEPS,
    CODES,
    BLOOM,
    BUCKETS,
    RECORDS,
    ENTRIES,
    ENTRY_COUNTERS,
];

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
    assert!(REASON_SLOTS <= 1 << 7 && 2 * LARGEST_MAX < 1 << 24);
    assert!(size_of::<Counter>() == 16 && align_of::<Counter>() == 8);
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
    use super::{Counter, Interface};

    // SAFETY: `repr(C)`, integers only, no padding (asserted above): every bit pattern is a value.
    unsafe impl aya::Pod for Counter {}
    // SAFETY: as Counter, and arrays of integers.
    unsafe impl aya::Pod for Interface {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prefix::{Seeds, Shape, Step, code_of};
    use std::fmt::Write as _;
    use std::mem::offset_of;

    /// Everything that two builds must agree on to share pinned maps.
    fn layout() -> String {
        let mut text = format!("version {ABI_VERSION}\n");
        for MapSpec { name, kind, key_size, value_size, capacity, flags } in MAPS {
            writeln!(text, "{name} {kind:?} {key_size} {value_size} {capacity:?} {flags:#x}")
                .expect("a String");
        }
        let interface =
            [offset_of!(Interface, name), offset_of!(Interface, ifindex), offset_of!(Interface, loaded_s)];
        writeln!(text, "Interface {interface:?}").expect("a String");
        writeln!(
            text,
            "hash {:#x}",
            Shape { seeds: Seeds([1, 2, 3]), buckets: 9, bloom_words: 9 }.hash(Step(7), 8, 9).0
        )
        .expect("a String");
        writeln!(text, "codes {:?}", [0, 24, 25, 31, 32].map(code_of)).expect("a String");
        for reason in Reason::ALL {
            writeln!(text, "{} {}", reason.index(), reason.name()).expect("a String");
        }
        text
    }

    #[test]
    fn decisions_survive_being_explained() {
        for reason in Reason::ALL {
            for (entry, verdict) in [(0, Verdict::Drop), (2 * LARGEST_MAX, Verdict::Pass)] {
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
