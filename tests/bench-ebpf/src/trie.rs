//! The filter with the kernel's own trie as its table, as it was before it had tables of its own. The trie is given two
//! advantages: one look-up answers for allow and block entries together, and there is one policy only.

#![no_std]
#![no_main]
#![expect(missing_docs, reason = "a binary: nothing here is reachable from Rust")]

mod counting;
// Not from the filter's library, whose maps would be made as well.
#[path = "../../../filter-ebpf/src/frame.rs"]
mod frame;
mod licence;

use aya_ebpf::btf_maps::LpmTrie;
use aya_ebpf::btf_maps::lpm_trie::Key;
use aya_ebpf::macros::{btf_map, xdp};
use aya_ebpf::programs::XdpContext;
use filter_common::packet::Address;
use filter_common::prefix::Switch;
use filter_common::{Match, Reason, Tables};

use crate::counting::ELEMENTS;

/// The entry and its deadline.
#[repr(C)]
pub struct Record {
    entry: u32,
    until_s: u32,
}

#[btf_map(name = "trie_v4")]
static TRIE_V4: LpmTrie<[u8; 4], Record, ELEMENTS> = LpmTrie::new();

#[btf_map(name = "trie_v6")]
static TRIE_V6: LpmTrie<[u8; 16], Record, ELEMENTS> = LpmTrie::new();

#[xdp]
pub fn trie(context: XdpContext) -> u32 {
    counting::run(&context, &Tries)
}

struct Tries;

impl Tables for Tries {
    fn find(&self, source: &Address) -> Option<filter_common::prefix::Record> {
        let record = match *source {
            Address::V4(address) => TRIE_V4.get(&Key::new(32, address)),
            Address::V6(address) => TRIE_V6.get(&Key::new(128, address)),
        }?;
        let block = Match { entry: record.entry, until_s: record.until_s };
        Some(filter_common::prefix::Record { words: [0, block.to_word(), 0, 0] })
    }

    fn switch(&self) -> Switch {
        Switch::settled(0)
    }

    fn tolerates(&self, _: Reason) -> bool {
        false
    }
}
