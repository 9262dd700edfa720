//! The operator's lists and the clock, as the kernel has them.

use aya_ebpf::btf_maps::lpm_trie::Key;
use aya_ebpf::helpers::bpf_ktime_get_ns;
use filter_common::abi::Record;
use filter_common::packet::Address;
use filter_common::{Clock, Match, Reason, Tables};

use crate::maps::{ALLOW_V4, ALLOW_V6, BLOCK_V4, BLOCK_V6, TOLERATED};

const V4_BITS: u32 = 32;
const V6_BITS: u32 = 128;
const NS_PER_S: u64 = 1_000_000_000;

/// The tries. A lookup yields the longest prefix; the writer has folded what covers it into the record.
pub struct KernelTables;

impl Tables for KernelTables {
    fn allow(&self, source: &Address) -> Option<Match> {
        match *source {
            Address::V4(address) => ALLOW_V4.get(&Key::new(V4_BITS, address)),
            Address::V6(address) => ALLOW_V6.get(&Key::new(V6_BITS, address)),
        }
        .map(matched)
    }

    fn block(&self, source: &Address) -> Option<Match> {
        match *source {
            Address::V4(address) => BLOCK_V4.get(&Key::new(V4_BITS, address)),
            Address::V6(address) => BLOCK_V6.get(&Key::new(V6_BITS, address)),
        }
        .map(matched)
    }

    fn tolerates(&self, fault: Reason) -> bool {
        TOLERATED.get(fault.index()).is_some_and(|tolerated| *tolerated != 0)
    }
}

fn matched(record: &Record) -> Match {
    Match { entry: record.entry, until_s: record.until_s }
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
