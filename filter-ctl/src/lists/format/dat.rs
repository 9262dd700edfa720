//! eMule's `ipfilter.dat`, `001.002.003.004 - 001.002.003.255 , 100 , name`. Octets are filled up with zeros and decimal
//! nevertheless. Pure.

use std::io::Read;

use super::Unreadable;
use super::lines::{Line, Lines};
use super::range::{self, Parts};
use super::span::Written;
use super::text;
use crate::lists::reading::Reading;

/// eMule blocks what has an access level below this; from here on a range is allowed.
const ALLOWED_FROM: u32 = 128;

/// Reads a list.
pub(super) fn read(input: impl Read, reading: &mut Reading) -> Result<(), Unreadable> {
    let mut lines = Lines::of(input);
    while let Some(line) = lines.next()? {
        let row = line.bytes.trim_ascii();
        if !(row.is_empty() || row.starts_with(b"#") || row.starts_with(b";") || row.starts_with(b"/")) {
            take(reading, &line, row);
        }
    }
    Ok(())
}

fn take(reading: &mut Reading, line: &Line<'_>, row: &[u8]) {
    let Some(Parts { first, last, separator: b'-', rest }) = Parts::of(row) else {
        return text::refuse(reading, line, row, "no `first - last , level , name`");
    };
    let Some(columns) = rest.trim_ascii_start().strip_prefix(b",") else {
        return text::refuse(reading, line, row, "no access level, which tells a block from an exception");
    };
    let end = columns.iter().position(|byte| *byte == b',').unwrap_or(columns.len());
    let (level, name) = (columns[..end].trim_ascii(), columns.get(end + 1..).unwrap_or_default());
    match str::from_utf8(level).ok().and_then(|level| level.parse::<u32>().ok()) {
        None => {
            text::refuse(reading, line, if level.is_empty() { columns } else { level }, "no access level")
        }
        Some(ALLOWED_FROM..) => reading.ignored += 1,
        Some(_) => {
            let name = text::comment(name.trim_ascii());
            range::take(reading, line, row, (first, last), Written::Padded, &name);
        }
    }
}
