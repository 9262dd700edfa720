//! The program for frames within one page. All but the entry point is the library's.

#![no_std]
#![no_main]
#![expect(missing_docs, reason = "a binary: nothing here is reachable from Rust")]

use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;
use filter_shell::shell;

/// The filter. Its name is `filter_common::abi::PROGRAM`.
#[xdp]
pub fn filter(context: XdpContext) -> u32 {
    shell::filter::<false>(&context)
}
