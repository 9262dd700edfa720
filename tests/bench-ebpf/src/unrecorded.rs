//! The filter itself, but for the flight recorder.

#![no_std]
#![no_main]
#![expect(missing_docs, reason = "a binary: nothing here is reachable from Rust")]

use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;
use filter_shell::act::{action_of, counted};
use filter_shell::frame::XdpFrame;
use filter_shell::shell::decide;

#[xdp]
pub fn filter(context: XdpContext) -> u32 {
    let frame = XdpFrame::<false>::new(&context);
    let decision = decide(&frame);
    counted(&context, &frame, decision);
    action_of(decision)
}
