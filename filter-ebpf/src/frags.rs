//! The XDP program for frames beyond one page, in an object of its own: kernels before 5.18 refuse an object that
//! asks for frags. All but the entry point is the library's.

#![no_std]
#![no_main]
#![expect(missing_docs, reason = "a binary: nothing here is reachable from Rust")]

use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;
use filter_shell::shell;

/// The filter. Its name is `filter_common::abi::FRAGS_PROGRAM`.
#[xdp(frags)]
pub fn filter_frags(context: XdpContext) -> u32 {
    shell::filter::<true>(&context)
}
