//! How the filter counted before it had tables of its own: by reason, and by entry. Also the table that knows nothing.

use aya_ebpf::bindings::xdp_action::{XDP_ABORTED, XDP_DROP, XDP_PASS};
use aya_ebpf::btf_maps::PerCpuArray;
use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::macros::btf_map;
use aya_ebpf::programs::XdpContext;
use bench_shell::disguise::disguise;
use filter_common::abi::{Counter, REASON_SLOTS};
use filter_common::{Clock, Decision, Frame as _, NO_ENTRY, Tables, Verdict};

use crate::frame::XdpFrame;

/// Entries, if the bench does not say otherwise, which it always does.
pub const ELEMENTS: usize = 1;

const NS_PER_S: u64 = 1_000_000_000;

#[btf_map(name = "trie_entries")]
static TRIE_ENTRIES: PerCpuArray<Counter, ELEMENTS> = PerCpuArray::new();

#[btf_map(name = "trie_reasons")]
static TRIE_REASONS: PerCpuArray<Counter, { REASON_SLOTS as usize }> = PerCpuArray::new();

/// The whole filter over these tables, for a frame with another source.
#[inline(always)] // as `disguise`
pub fn run(context: &XdpContext, tables: &impl Tables) -> u32 {
    if disguise(context).is_none() {
        return XDP_ABORTED;
    }
    let frame = XdpFrame::<false>::new(context);
    act(&frame, filter_common::filter(&frame, &Monotonic, tables))
}

struct Monotonic;

impl Clock for Monotonic {
    fn now_s(&self) -> u32 {
        // SAFETY: a helper without arguments, allowed in every program type.
        let now_ns = unsafe { bpf_ktime_get_ns() };
        #[expect(clippy::cast_possible_truncation, reason = "2^32 seconds of uptime are 136 years")]
        {
            (now_ns / NS_PER_S) as u32
        }
    }
}

fn act(frame: &XdpFrame<false>, decision: Decision) -> u32 {
    let bytes = frame.length() as u64;
    count(TRIE_REASONS.get_ptr_mut(decision.reason.index()), bytes);
    if decision.entry != NO_ENTRY {
        count(TRIE_ENTRIES.get_ptr_mut(decision.entry), bytes);
    }
    match decision.verdict {
        Verdict::Pass => XDP_PASS,
        Verdict::Drop => XDP_DROP,
    }
}

fn count(counter: Option<*mut Counter>, bytes: u64) {
    if let Some(counter) = counter {
        // SAFETY: the look-up returned a valid, aligned Counter of this CPU, which nothing else writes meanwhile.
        let counter = unsafe { &mut *counter };
        counter.packets += 1;
        counter.bytes += bytes;
    }
}
