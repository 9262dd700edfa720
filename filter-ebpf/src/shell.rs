//! What the entry points share: the path of a packet through the shell, the licence, and what a panic does.

use aya_ebpf::programs::XdpContext;
use filter_common::Decision;

use crate::act::act;
use crate::frame::XdpFrame;
use crate::tables::{KernelClock, KernelTables};

/// Decides about the frame, counts it, and returns the XDP action.
pub fn filter<const FRAGS: bool>(context: &XdpContext) -> u32 {
    let frame = XdpFrame::<FRAGS>::new(context);
    act(context, &frame, decide(&frame))
}

/// What the filter says of the frame.
pub fn decide<const FRAGS: bool>(frame: &XdpFrame<FRAGS>) -> Decision {
    filter_common::filter(frame, &KernelClock, &KernelTables)
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
