//! The filter that logs each frame, in an object of its own: the others have no trace of it. `filter-ctl debug` puts it
//! in the place of an interface's program for a while.

#![no_std]
#![no_main]
#![expect(missing_docs, reason = "a binary: nothing here is reachable from Rust")]

use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;
use aya_log_ebpf::debug;
use filter_common::Frame as _;
use filter_common::abi::explained;
use filter_shell::act::act;
use filter_shell::frame::XdpFrame;
use filter_shell::shell;

/// The filter, and a line for each frame. Its name is `filter_common::abi::DEBUG_PROGRAM`.
#[xdp]
pub fn filter_debug(context: XdpContext) -> u32 {
    let frame = XdpFrame::<false>::new(&context);
    let decision = shell::decide(&frame);
    // Numbers alone, which userspace puts into words: names would be as many strings as there are reasons.
    debug!(
        &context,
        "{} {} {} {}",
        explained(decision),
        frame.length(),
        context.rx_queue_index(),
        context.ingress_ifindex()
    );
    act(&context, &frame, decision)
}
