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
