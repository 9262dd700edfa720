//! PeerGuardian's text, `Name:192.0.2.4-192.0.2.8`: the name may hold colons, so it ends at the last. Pure.

use std::io::Read;

use super::Unreadable;
use super::lines::Lines;
use super::range::{self, Parts};
use super::span::Written;
use super::text;
use crate::lists::reading::Reading;

/// Reads a list.
pub(super) fn read(input: impl Read, reading: &mut Reading) -> Result<(), Unreadable> {
    let mut lines = Lines::of(input);
    while let Some(line) = lines.next()? {
        let row = line.bytes.trim_ascii();
        // Names may hold the signs of comments: only whole lines are comments.
        if row.is_empty() || row.starts_with(b"#") || row.starts_with(b"//") {
            continue;
        }
        let Some(colon) = row.iter().rposition(|byte| *byte == b':') else {
            text::refuse(reading, &line, row, "no `Name:first-last`");
            continue;
        };
        let (name, range) = (row[..colon].trim_ascii(), row[colon + 1..].trim_ascii());
        match Parts::of(range) {
            Some(Parts { first, last, separator: b'-', rest: [] }) => {
                range::take(reading, &line, range, (first, last), Written::Usual, &text::comment(name));
            }
            _ => text::refuse(reading, &line, range, "no range of IPv4, `first-last`"),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::Format;
    use super::super::tests::*;
    #[test]
    fn names_may_hold_colons_and_any_bytes() {
        let fixture = told(Format::P2p, FIXTURES[2].1);
        assert_eq!(
            fixture.entries,
            [
                "192.0.2.1/32 Example: an Inc.",
                "192.0.2.2/31 Example: an Inc.",
                "192.0.2.4/32 Example: an Inc.",
                "198.51.100.0/24 Other # one",
            ]
        );
        assert_eq!(fixture.count, 2);
        assert_eq!(told(Format::P2p, b"caf\xe9:192.0.2.1-192.0.2.1").entries, ["192.0.2.1/32 caf\u{fffd}"]);
    }

    #[test]
    fn each_refused_token_is_told_with_its_place() {
        let text = "a:192.0.2.1-192.0.2.2\nb:192.0.2.2-192.0.2.1\nnothing\nc:192.0.2.1\nd:192.0.2.1-192.0.2.002\ne:192.0.2.1-192.0.2.2 x\n192.0.2.1-192.0.2.2\nf:192.0.2";
        let told = told(Format::P2p, text);
        assert_eq!(
            told.refused,
            [
                "2:3: `192.0.2.2-192.0.2.1`, the range is reversed: its end is before its start",
                "3:1: `nothing`, no `Name:first-last`",
                "4:3: `192.0.2.1`, no range of IPv4, `first-last`",
                "5:13: `192.0.2.002`, leading zeros are octal to some programs, decimal to others",
                "6:3: `192.0.2.1-192.0.2.2 x`, no range of IPv4, `first-last`",
                "7:1: `192.0.2.1-192.0.2.2`, no `Name:first-last`",
                "8:3: `192.0.2`, no range of IPv4, `first-last`",
            ]
        );
        assert!(told.about.cut.is_some());
    }
}
