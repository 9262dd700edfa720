//! The bench's sender of live frames, and programs that decide nothing: the floor of what receiving costs.

#![no_std]
#![no_main]
#![expect(missing_docs, reason = "a binary: nothing here is reachable from Rust")]

mod licence;

use aya_ebpf::Global;
use aya_ebpf::bindings::xdp_action::{XDP_ABORTED, XDP_DROP, XDP_PASS, XDP_REDIRECT};
use aya_ebpf::helpers::bpf_redirect;
use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;
use bench_shell::disguise::disguise;

/// The device to send from.
#[unsafe(no_mangle)]
static IFINDEX: Global<u32> = Global::new(0);

#[xdp]
pub fn send(context: XdpContext) -> u32 {
    if disguise(&context).is_none() {
        return XDP_ABORTED;
    }
    // SAFETY: a helper with plain arguments, allowed in XDP programs.
    let action = unsafe { bpf_redirect(IFINDEX.load(), 0) };
    if action == XDP_REDIRECT.into() { XDP_REDIRECT } else { XDP_ABORTED }
}

#[xdp]
pub fn drop_all(_: XdpContext) -> u32 {
    XDP_DROP
}

#[xdp]
pub fn pass_all(_: XdpContext) -> u32 {
    XDP_PASS
}
