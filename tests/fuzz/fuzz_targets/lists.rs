//! Any bytes as a blocklist: an answer, and no more memory than the entries take.
//!
//! The first byte chooses the format, or that it is to be detected; the rest is the list.

#![no_main]

use filter_ctl::lists::format::{Format, Options, read};
use libfuzzer_sys::fuzz_target;

/// Prefixes of the range that takes the most: from ::1 to the last but one.
const MOST_PREFIXES: usize = 254;

fuzz_target!(|data: &[u8]| {
    let [choice, list @ ..] = data else { return };
    let choice = usize::from(*choice) % (Format::all().len() + 1);
    let format = choice.checked_sub(1).map(|place| Format::all()[place]);
    for column in [None, Some("ip".to_owned())] {
        let options = Options { format, mask: false, column };
        let Ok((_, reading)) = read(&mut &*list, &options) else { continue };
        assert!(reading.items.len() <= list.len() * MOST_PREFIXES);
        let sorted = reading.items.finish();
        assert!(sorted.iter().map(|(prefix, _)| prefix).is_sorted());
    }
});
