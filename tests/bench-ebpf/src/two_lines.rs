//! What memory alone costs a hit: a line of the buckets, where the source leads, and a counter, where that line leads.
//! Nothing is compared, so it is right about nothing; but no table that is larger than the caches, names the entry that
//! decided, and counts by it can do with less. An object of its own for the reason that `trie_floor` has.

#![no_std]
#![no_main]
#![expect(missing_docs, reason = "a binary: nothing here is reachable from Rust")]

use aya_ebpf::bindings::xdp_action::XDP_ABORTED;
use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;
use bench_shell::disguise::disguise;
use filter_common::packet::Address;
use filter_common::prefix::{Line as _, Record, Step, Switch, words_of};
use filter_common::{FOREVER, Match, Reason, Tables};
use filter_shell::act::act;
use filter_shell::frame::XdpFrame;
use filter_shell::maps;
use filter_shell::tables::{KernelClock, shape};

#[xdp]
pub fn two_lines(context: XdpContext) -> u32 {
    if disguise(&context).is_none() {
        return XDP_ABORTED;
    }
    let frame = XdpFrame::<false>::new(&context);
    act(&context, &frame, filter_common::filter(&frame, &KernelClock, &TwoLines))
}

/// Blocks every source.
struct TwoLines;

impl Tables for TwoLines {
    #[inline(always)] // the verifier must see that words come from maps
    fn find(&self, source: &Address) -> Option<Record> {
        let shape = shape();
        let (_, high, low) = words_of(source);
        let hash = shape.hash(Step::HOST, high, low);
        let slot = maps::BUCKETS.get(shape.bucket(hash, 0))?.word(0);
        // Any entry will do that is only known when the slot is there.
        let place = (slot ^ hash.0) & 0xffff_ffff;
        let entry = 1 + ((place * u64::from(maps::IDS.load() - 1)) >> 32);
        #[expect(clippy::cast_possible_truncation, reason = "less than the number of ids, which has 32 bits")]
        let block = Match { entry: entry as u32, until_s: FOREVER }.to_word();
        Some(Record { words: [0, block, 0, block] })
    }

    fn switch(&self) -> Switch {
        Switch::settled(0)
    }

    fn tolerates(&self, _: Reason) -> bool {
        false
    }
}
