//! The filter itself, counting as it does, without a table. An object of its own for the reason that `trie_floor` has.

#![no_std]
#![no_main]
#![expect(missing_docs, reason = "a binary: nothing here is reachable from Rust")]

mod no_tables;

use aya_ebpf::bindings::xdp_action::XDP_ABORTED;
use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;
use bench_shell::disguise::disguise;
use filter_shell::act::act;
use filter_shell::frame::XdpFrame;
use filter_shell::tables::KernelClock;

#[xdp]
pub fn flat_floor(context: XdpContext) -> u32 {
    if disguise(&context).is_none() {
        return XDP_ABORTED;
    }
    let frame = XdpFrame::<false>::new(&context);
    act(&context, &frame, filter_common::filter(&frame, &KernelClock, &no_tables::NoTables))
}
