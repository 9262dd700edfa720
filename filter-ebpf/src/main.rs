//! The XDP program: a shell that gives `filter-common` a frame, the maps and a clock, and acts on its
//! decision. No protocol knowledge belongs here.

#![no_std]
#![no_main]
#![expect(missing_docs, reason = "a binary: nothing here is reachable from Rust")]

mod act;
mod frame;
mod maps;
mod tables;

use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;

/// The entry point. Its name is `filter_common::abi::PROGRAM`.
#[xdp]
pub fn filter(context: XdpContext) -> u32 {
    let frame = frame::XdpFrame::new(&context);
    let decision = filter_common::filter(&frame, &tables::KernelClock, &tables::KernelTables);
    act::act(&context, &frame, decision)
}

/// Dual licensed in the kernel's words, which makes every helper available.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

/// A loop, not `unreachable_unchecked`: if a panic could be reached, the verifier must be able to refuse it.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
