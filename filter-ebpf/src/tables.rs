//! The operator's lists and the clock, as the kernel has them.

use aya_ebpf::helpers::{bpf_get_smp_processor_id, bpf_ktime_get_ns};
use filter_common::packet::Address;
use filter_common::prefix::{
    Hash, Memory, Range, Record, Seeds, Shape, Step, Switch, find, find_exactly, find_in,
};
use filter_common::{Clock, NO_ENTRY, Reason, Tables};

use crate::maps;
use crate::word::{Line, Word};

/// Nanoseconds in a second.
pub const NS_PER_S: u64 = 1_000_000_000;

/// The flat tables.
pub struct KernelTables;

impl Tables for KernelTables {
    fn find(&self, source: &Address) -> Option<Record> {
        find(&KernelMemory, &shape(), source)
    }

    fn switch(&self) -> Switch {
        Switch(maps::SWITCH.get(0).map_or(0, Word::load))
    }

    fn tolerates(&self, fault: Reason) -> bool {
        maps::TOLERATED.get(fault.index()).is_some_and(|tolerated| *tolerated != 0)
    }
}

/// The id of the record that decides about an address with prefixes among the lengths of `range`, or zero.
///
/// A function that the kernel's verifier follows once, whatever calls it: a global one (Linux 5.6). Inside of the
/// program it would be followed for each way through the headers.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn walk(range: u32, high: u64, low: u64) -> u32 {
    find_in(&KernelMemory, &shape(), Range::unpack(range), high, low).unwrap_or(NO_ENTRY)
}

/// The id of the record of exactly this prefix, or zero. As [`walk`], followed once in place of once a length.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn probe(step: u32, hash: u64, high: u64, low: u64) -> u32 {
    find_exactly(&KernelMemory, &shape(), Step(step), Hash(hash), high, low).unwrap_or(NO_ENTRY)
}

/// The number of this CPU.
#[inline(always)] // a helper's call
pub fn this_cpu() -> u32 {
    // SAFETY: a helper without arguments, allowed in every program type.
    unsafe { bpf_get_smp_processor_id() }
}

/// Where a CPU counts for an entry.
#[inline(always)] // the verifier must see that words come from maps
pub fn counter_of(cpu: u32, entry: u32) -> u32 {
    cpu.wrapping_mul(maps::IDS.load()).wrapping_add(entry)
}

/// What a look-up must know of these tables.
#[inline(always)] // the verifier must see the constants
pub fn shape() -> Shape {
    Shape {
        seeds: Seeds(maps::SEEDS.load()),
        buckets: maps::BUCKET_COUNT.load(),
        bloom_words: maps::BLOOM_WORDS.load(),
    }
}

/// The arrays of the tables.
struct KernelMemory;

impl Memory for KernelMemory {
    type Line = &'static Line<8>;
    type Step = &'static Line<4>;

    #[inline(always)] // the verifier must see that words come from maps
    fn codes(&self, index: u32) -> Option<u64> {
        maps::CODES.get(index).map(Word::load)
    }

    #[inline(always)] // the verifier must see that words come from maps
    fn step(&self, index: u32) -> Option<Self::Step> {
        maps::STEPS.get(index)
    }

    #[inline(always)] // the verifier must see that words come from maps
    fn bloom(&self, index: u32) -> Option<u64> {
        maps::BLOOM.get(index).map(Word::load)
    }

    #[inline(always)] // the verifier must see that words come from maps
    fn bucket(&self, index: u32) -> Option<Self::Line> {
        maps::BUCKETS.get(index)
    }

    #[inline(always)] // the verifier must see that words come from maps
    fn record(&self, id: u32) -> Option<Self::Line> {
        maps::RECORDS.get(id)
    }

    #[inline(always)] // the verifier must see that words come from maps
    fn expect(&self, entry: u32) {
        // Reading a word brings its cache line, while the record's is on the way.
        if let Some(counter) = maps::ENTRY_COUNTERS.get_ptr(counter_of(this_cpu(), entry)) {
            // SAFETY: the map lookup returned a valid, aligned Counter. Volatile, since the value is not used.
            let _ = unsafe { (&raw const (*counter).packets).read_volatile() };
        }
    }

    #[inline(always)] // the verifier must see that words come from maps
    fn find_in(&self, _: &Shape, range: Range, high: u64, low: u64) -> Option<u32> {
        match walk(range.pack(), high, low) {
            NO_ENTRY => None,
            id => Some(id),
        }
    }

    #[inline(always)] // the verifier must see that words come from maps
    fn find_exactly(&self, _: &Shape, step: Step, hash: Hash, high: u64, low: u64) -> Option<u32> {
        match probe(step.0, hash.0, high, low) {
            NO_ENTRY => None,
            id => Some(id),
        }
    }
}

/// CLOCK_MONOTONIC.
pub struct KernelClock;

impl Clock for KernelClock {
    fn now_s(&self) -> u32 {
        // SAFETY: a helper without arguments, allowed in every program type.
        let now_ns = unsafe { bpf_ktime_get_ns() };
        #[expect(clippy::cast_possible_truncation, reason = "2^32 seconds of uptime are 136 years")]
        {
            (now_ns / NS_PER_S) as u32
        }
    }
}
