//! The filter as in `trie`, without a table. An object of its own: where two programs share the parser it is no longer
//! inlined, and the verifier refuses what it then returns.

#![no_std]
#![no_main]
#![expect(missing_docs, reason = "a binary: nothing here is reachable from Rust")]

mod counting;
#[path = "../../../filter-ebpf/src/frame.rs"]
mod frame;
mod licence;
mod no_tables;

use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;

#[xdp]
pub fn trie_floor(context: XdpContext) -> u32 {
    counting::run(&context, &no_tables::NoTables)
}
