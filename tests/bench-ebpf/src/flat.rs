//! The filter itself, over the tables of the one that is loaded.

#![no_std]
#![no_main]
#![expect(missing_docs, reason = "a binary: nothing here is reachable from Rust")]

use aya_ebpf::bindings::xdp_action::XDP_ABORTED;
use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;
use bench_shell::disguise::disguise;
use filter_shell::shell;

#[xdp]
pub fn flat(context: XdpContext) -> u32 {
    if disguise(&context).is_none() {
        return XDP_ABORTED;
    }
    shell::filter::<false>(&context)
}
