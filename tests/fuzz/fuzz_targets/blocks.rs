//! Any bytes as a block of a list: what is read is in order, and is written as the same again.

#![no_main]

use filter_ctl::lists::block::{blocks, decode};
use filter_ctl::lists::items::{Items, Said};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(block) = decode(data) else { return };
    let mut items = Items::default();
    for (place, item) in block.items.iter().enumerate() {
        items.push(item.prefix, Said { ttl_s: item.ttl_s, comment: block.comment(place) });
    }
    let written: Vec<Vec<u8>> = blocks(&items.finish()).collect();
    let [again] = &*written else { panic!("one block became {}", written.len()) };
    let again = decode(again).expect("what was just written");
    assert_eq!(again.items, block.items);
    for place in 0..block.items.len() {
        assert_eq!(again.comment(place), block.comment(place));
    }
});
