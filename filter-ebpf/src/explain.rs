//! The program that tells what the filter would do, in an object of its own: what two programs of one object share is compiled
//! as a function, and its call would cost each packet that the filter sees.

#![no_std]
#![no_main]
#![expect(missing_docs, reason = "a binary: nothing here is reachable from Rust")]

use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;
use filter_common::abi;
use filter_shell::frame::XdpFrame;
use filter_shell::shell;

/// The filter without effects, for test-runs. Its name is `filter_common::abi::EXPLAIN_PROGRAM`.
#[xdp]
pub fn explain(context: XdpContext) -> u32 {
    abi::explained(shell::decide(&XdpFrame::<false>::new(&context)))
}
