//! The maps. Their contract (who writes what, sizes, flags) is `filter_common::abi`; capacities that depend on
//! the number of entries are set by the loader before the maps are made.
//!
//! | map | key | value | written by | read by |
//! |---|---|---|---|---|
//! | `allow_v4` `allow_v6` `block_v4` `block_v6` | prefix | `Record` | userspace | program |
//! | `tolerated` | reason | not zero: passes | userspace | program |
//! | `header` | 0 | `Header` | userspace | userspace |
//! | `entries` | entry id | `Entry` | userspace | userspace |
//! | `entry_counters` | entry id | `Counter` a CPU | program; zeroed by userspace before an id is used | userspace |
//! | `counters` | interface slot, verdict, reason | `Counter` a CPU | program; zeroed by userspace before a slot is used | userspace |
//! | `interfaces` | interface slot | `Interface` | userspace | userspace |

use aya_ebpf::Global;
use aya_ebpf::btf_maps::{Array, LpmTrie, PerCpuArray};
use aya_ebpf::macros::btf_map;
use filter_common::abi::{
    self, Counter, DEFAULT_MAX_ENTRIES, Entry, Header, INTERFACE_SLOTS, Interface, REASON_SLOTS, Record,
    SLOT_COUNTERS, TEST_SLOT,
};

const ELEMENTS: usize = abi::Capacity::Entries.elements(DEFAULT_MAX_ENTRIES) as usize;

#[btf_map(name = "allow_v4")]
pub static ALLOW_V4: LpmTrie<[u8; 4], Record, ELEMENTS> = LpmTrie::new();

#[btf_map(name = "allow_v6")]
pub static ALLOW_V6: LpmTrie<[u8; 16], Record, ELEMENTS> = LpmTrie::new();

#[btf_map(name = "block_v4")]
pub static BLOCK_V4: LpmTrie<[u8; 4], Record, ELEMENTS> = LpmTrie::new();

#[btf_map(name = "block_v6")]
pub static BLOCK_V6: LpmTrie<[u8; 16], Record, ELEMENTS> = LpmTrie::new();

#[btf_map(name = "tolerated")]
pub static TOLERATED: Array<u32, { REASON_SLOTS as usize }> = Array::new();

#[btf_map(name = "header")]
pub static HEADER: Array<Header, 1> = Array::new();

#[btf_map(name = "entries")]
pub static ENTRIES: Array<Entry, ELEMENTS> = Array::new();

#[btf_map(name = "entry_counters")]
pub static ENTRY_COUNTERS: PerCpuArray<Counter, ELEMENTS> = PerCpuArray::new();

#[btf_map(name = "counters")]
pub static COUNTERS: PerCpuArray<Counter, { (INTERFACE_SLOTS * SLOT_COUNTERS) as usize }> =
    PerCpuArray::new();

#[btf_map(name = "interfaces")]
pub static INTERFACES: Array<Interface, { INTERFACE_SLOTS as usize }> = Array::new();

/// The slot in which this program counts: set by the loader, one program an interface.
#[unsafe(no_mangle)]
pub static INTERFACE_SLOT: Global<u32> = Global::new(TEST_SLOT);
