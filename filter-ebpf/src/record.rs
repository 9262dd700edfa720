//! The flight recorder's shell: which ring a frame counts in, and what only a sample needs.

use core::array;
use core::hint::black_box;

use aya_ebpf::bindings::xdp_md;
use aya_ebpf::helpers::{bpf_get_prandom_u32, bpf_jiffies64, bpf_ktime_get_ns};
use aya_ebpf::programs::XdpContext;
use filter_common::abi::{decision_of, explained};
use filter_common::sample::{
    HEADER_WORDS, Moment, RINGS, SLOTS, captured_length, is_always_recorded, is_due, pass_over, ring_of,
    ring_word, take, write,
};
use filter_common::{Decision, Frame as _, NO_ENTRY};

use crate::frame::XdpFrame;
use crate::maps;
use crate::tables::NS_PER_S;
use crate::word::Word;

/// Counts a frame that is recorded in its ring, and samples it if it is due.
#[inline(always)] // a few instructions of the one exit
#[expect(clippy::cast_possible_truncation, reason = "a frame is shorter than 4 GiB")]
pub fn record(context: &XdpContext, cpu: u32, slot: u32, decision: Decision, length: usize) {
    if !is_always_recorded(decision) && maps::RECORDING.get(0).is_none_or(|until_s| until_s.load() == 0) {
        return;
    }
    let index = cpu.wrapping_mul(RINGS).wrapping_add(ring_of(slot, decision));
    if let Some(ring) = maps::RINGS.get(index)
        && is_due(&ring, ticks())
    {
        sample(context.ctx, index, explained(decision), slot, length as u32);
    }
}

/// Where the sample of the frame goes that was counted last in this ring: its slot, or a number beyond them where it is
/// not sampled after all.
///
/// A function that the kernel's verifier follows once: a global one (Linux 5.6). Inside of [`sample`], what comes behind it
/// would be followed for each way through it.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn find_place(index: u32, decided: u32) -> u32 {
    let (Some(ring), Some(decision)) = (maps::RINGS.get(index), decision_of(decided)) else { return SLOTS };
    // SAFETY: helpers without arguments, allowed in every program type.
    let (ns, chance) = unsafe { (bpf_ktime_get_ns(), bpf_get_prandom_u32()) };
    let now = Moment { ns, ticks: ticks() };
    if !is_always_recorded(decision) && now.ns / NS_PER_S >= maps::RECORDING.get(0).map_or(0, Word::load) {
        pass_over(&ring, now.ticks);
        return SLOTS;
    }
    take(&ring, now, maps::GAP_NS.load().into(), chance)
}

/// Takes a sample. Returns nothing of use: kernels want a number.
///
/// As [`find_place`], followed once and not for each decision.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn sample(context: *mut xdp_md, index: u32, decided: u32, slot: u32, length: u32) -> u32 {
    let place = find_place(index, decided);
    if place >= SLOTS {
        return 0;
    }
    let Some(ring) = maps::RINGS.get(index) else { return 0 };
    let Some(place) = maps::SAMPLES.get(index.wrapping_mul(SLOTS).wrapping_add(place)) else { return 0 };
    // Of a frame in fragments the rest lies where pointers can't reach, and the headers do not.
    let context = XdpContext::new(context);
    let frame = XdpFrame::<false>::new(&context);
    // Hidden from the compiler, which would see that it implies the comparisons with the frame's end, and leave those out;
    // the verifier does not.
    let captured = black_box(captured_length(frame.length()));
    let entry = match decision_of(decided) {
        Some(decision) if decision.entry != NO_ENTRY => maps::ENTRIES.get(decision.entry),
        _ => None,
    };
    let [high, low, meta, times] =
        entry.map_or([0; 4], |entry| array::from_fn(|position| entry.load(position)));
    let header: [u64; HEADER_WORDS] = [
        ring.load(ring_word::TAKEN),
        ring.load(ring_word::TIME),
        ring.load(ring_word::SEEN),
        (captured as u64) << 32 | u64::from(length),
        u64::from(context.rx_queue_index()) << 32 | u64::from(decided),
        u64::from(slot) << 32 | context.ingress_ifindex() as u64,
        high,
        low,
        meta,
        times,
        0, // the digest's place
    ];
    write(&place, &header, &frame, captured);
    0
}

/// The kernel's timer ticks: a load, where `bpf_ktime_get_ns` reads the processor's clock.
#[inline(always)] // as `record`
fn ticks() -> u64 {
    // SAFETY: a helper without arguments (Linux 5.5), allowed in every program type.
    unsafe { bpf_jiffies64() }
}
