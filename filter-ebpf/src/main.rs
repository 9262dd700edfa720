//! The XDP program: a shell that gives `filter-common` a frame, the maps and a clock, and acts on its
//! decision. No protocol knowledge belongs here.

#![no_std]
#![no_main]
#![expect(missing_docs, reason = "a binary: nothing here is reachable from Rust")]

mod act;
mod frame;
mod maps;
mod shell;
mod tables;

use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;
use filter_common::abi;

use crate::frame::XdpFrame;

/// The filter. Its name is `filter_common::abi::PROGRAM`.
#[xdp]
pub fn filter(context: XdpContext) -> u32 {
    shell::filter::<false>(&context)
}

/// The filter without effects, for test-runs. Its name is `filter_common::abi::EXPLAIN_PROGRAM`.
#[xdp]
pub fn explain(context: XdpContext) -> u32 {
    abi::explained(shell::decide(&XdpFrame::<false>::new(&context)))
}
