//! The one exit: counts the frame, once, records it if it is due, and turns the verdict into the XDP action.

use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS};
use aya_ebpf::programs::XdpContext;
use filter_common::abi::{Counter, LOOPBACK_IFINDEX, TEST_SLOT, counter_index};
use filter_common::{Decision, Frame, NO_ENTRY, Verdict};

use crate::frame::XdpFrame;
use crate::maps::{COUNTERS, ENTRY_COUNTERS, INTERFACE_SLOT};
use crate::record::record;
use crate::tables::{counter_of, this_cpu};

/// Counts `decision`, records the frame if it is due, and returns the XDP action.
pub fn act<const FRAGS: bool>(context: &XdpContext, frame: &XdpFrame<FRAGS>, decision: Decision) -> u32 {
    let (cpu, slot) = counted(context, frame, decision);
    record(context, cpu, slot, decision, frame.length());
    action_of(decision)
}

/// Counts `decision`. Returns the CPU and the interface slot in which it did.
#[inline(always)] // a part of the one exit
pub fn counted<const FRAGS: bool>(
    context: &XdpContext,
    frame: &XdpFrame<FRAGS>,
    decision: Decision,
) -> (u32, u32) {
    let bytes = frame.length() as u64;
    let slot = if context.ingress_ifindex() == LOOPBACK_IFINDEX as usize {
        TEST_SLOT
    } else {
        INTERFACE_SLOT.load()
    };
    count(COUNTERS.get_ptr_mut(counter_index(slot, decision.reason, decision.verdict)), bytes);
    let cpu = this_cpu();
    if decision.entry != NO_ENTRY {
        count(ENTRY_COUNTERS.get_ptr_mut(counter_of(cpu, decision.entry)), bytes);
    }
    (cpu, slot)
}

/// What the kernel is told.
#[inline(always)] // as `counted`
pub fn action_of(decision: Decision) -> u32 {
    match decision.verdict {
        Verdict::Pass => XDP_PASS,
        Verdict::Drop => XDP_DROP,
    }
}

fn count(counter: Option<*mut Counter>, bytes: u64) {
    if let Some(counter) = counter {
        // SAFETY: the map lookup returned a valid, aligned Counter. It is this CPU's, and XDP runs with the CPU to
        // itself, so nothing else writes it: no atomics needed.
        let counter = unsafe { &mut *counter };
        counter.packets += 1;
        counter.bytes += bytes;
    }
}
