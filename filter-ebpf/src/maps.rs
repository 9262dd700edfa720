//! The maps. Their contract (who writes what, sizes, flags) is `filter_common::abi`; the elements of the tables'
//! arrays are set by the loader before the maps are made.
//!
//! | map | element | written by | read by |
//! |---|---|---|---|
//! | `switch` | 0: which slot of the policy is in force | userspace | program |
//! | `tolerated` | reason: not zero if it passes | userspace | program |
//! | `counters` | interface slot, verdict, reason: `Counter` a CPU | program; zeroed by userspace before a slot is used | userspace |
//! | `interfaces` | interface slot: `Interface` | userspace | userspace |
//! | `steps` `codes` `bloom` `buckets` `records` | the tables: see `filter_common::prefix` | userspace, by mapped memory | program |
//! | `entry_counters` | CPU, entry id: `Counter` | program | userspace |
//! | `recording` | 0: until when frames that pass are recorded | userspace | program |
//! | `rings` | CPU, ring: the recorder's state | program | userspace, by mapped memory |
//! | `samples` | CPU, ring, slot: a sample | program | userspace, by mapped memory |
//! | `entries` | what else the tables' writer keeps | userspace | userspace; program, for samples |
//! | `header` `order` `notes` | likewise | userspace | userspace |

use aya_ebpf::Global;
use aya_ebpf::btf_maps::{Array, PerCpuArray};
use aya_ebpf::macros::btf_map;
use filter_common::abi::{
    Counter, INTERFACE_SLOTS, Interface, MMAPABLE, REASON_SLOTS, SLOT_COUNTERS, TEST_SLOT,
};
use filter_common::prefix::{ALL_CODE_WORDS, NOTE_WORDS, NOTES as NOTE_COUNT, STEPS as STEP_COUNT, header};
use filter_common::sample::{GAP_NS as USUAL_GAP_NS, RING_WORDS, SAMPLE_WORDS};

use crate::word::{Line, Word};

/// Elements of an array whose number the loader sets.
const SET_BY_LOADER: usize = 1;

const MMAP: usize = MMAPABLE as usize;

#[btf_map(name = "switch")]
pub static SWITCH: Array<Word, 1, MMAP> = Array::new();

#[btf_map(name = "tolerated")]
pub static TOLERATED: Array<u32, { REASON_SLOTS as usize }> = Array::new();

#[btf_map(name = "counters")]
pub static COUNTERS: PerCpuArray<Counter, { (INTERFACE_SLOTS * SLOT_COUNTERS) as usize }> =
    PerCpuArray::new();

#[btf_map(name = "interfaces")]
pub static INTERFACES: Array<Interface, { INTERFACE_SLOTS as usize }> = Array::new();

#[btf_map(name = "recording")]
pub static RECORDING: Array<Word, 1, MMAP> = Array::new();

#[btf_map(name = "rings")]
pub static RINGS: Array<Line<RING_WORDS>, SET_BY_LOADER, MMAP> = Array::new();

#[btf_map(name = "samples")]
pub static SAMPLES: Array<Line<SAMPLE_WORDS>, SET_BY_LOADER, MMAP> = Array::new();

#[btf_map(name = "steps")]
pub static STEPS: Array<Line<4>, { STEP_COUNT as usize }, MMAP> = Array::new();

#[btf_map(name = "codes")]
pub static CODES: Array<Word, { ALL_CODE_WORDS as usize }, MMAP> = Array::new();

#[btf_map(name = "bloom")]
pub static BLOOM: Array<Word, SET_BY_LOADER, MMAP> = Array::new();

#[btf_map(name = "buckets")]
pub static BUCKETS: Array<Line<8>, SET_BY_LOADER, MMAP> = Array::new();

#[btf_map(name = "records")]
pub static RECORDS: Array<Line<8>, SET_BY_LOADER, MMAP> = Array::new();

#[btf_map(name = "entry_counters")]
pub static ENTRY_COUNTERS: Array<Counter, SET_BY_LOADER, MMAP> = Array::new();

#[btf_map(name = "header")]
pub static HEADER: Array<Line<{ header::WORDS as usize }>, 1, MMAP> = Array::new();

#[btf_map(name = "entries")]
pub static ENTRIES: Array<Line<8>, SET_BY_LOADER, MMAP> = Array::new();

#[btf_map(name = "order")]
pub static ORDER: Array<Word, SET_BY_LOADER, MMAP> = Array::new();

#[btf_map(name = "notes")]
pub static NOTES: Array<Line<{ NOTE_WORDS as usize }>, { NOTE_COUNT as usize }, MMAP> = Array::new();

/// The slot in which this program counts: set by the loader, one program an interface.
#[unsafe(no_mangle)]
pub static INTERFACE_SLOT: Global<u32> = Global::new(TEST_SLOT);

/// Secret numbers of the hash.
#[unsafe(no_mangle)]
pub static SEEDS: Global<[u64; 3]> = Global::new([0; 3]);

/// Number of buckets.
#[unsafe(no_mangle)]
pub static BUCKET_COUNT: Global<u32> = Global::new(1);

/// Words of the Bloom filter.
#[unsafe(no_mangle)]
pub static BLOOM_WORDS: Global<u32> = Global::new(1);

/// Ids in a CPU's block of counters.
#[unsafe(no_mangle)]
pub static IDS: Global<u32> = Global::new(0);

/// Time between two samples of a ring in the long run.
#[unsafe(no_mangle)]
pub static GAP_NS: Global<u32> = Global::new(USUAL_GAP_NS);
