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
    if end == columns.len() && !line.is_ended {
        // 12 may be the start of 128, which is no block.
        return text::refuse(
            reading,
            line,
            if level.is_empty() { columns } else { level },
            "an access level that may be cut",
        );
    }
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

#[cfg(test)]
mod tests {
    use super::super::Format;
    use super::super::tests::*;
    #[test]
    fn octets_are_decimal_and_high_levels_are_passed_over() {
        let told = told(Format::Dat, FIXTURES[3].1);
        assert_eq!(
            told.entries,
            [
                "192.0.2.1/32 Example, Inc.",
                "192.0.2.2/31 Example, Inc.",
                "192.0.2.4/32 Example, Inc.",
                "198.51.100.0/24 Other",
            ]
        );
        assert_eq!((told.count, told.ignored), (2, 1));
    }

    #[test]
    fn each_refused_token_is_told_with_its_place() {
        let text = "001.002.003.004 - 001.002.003.009 , 127 , x\n192.0.2.009 - 192.0.2.001 , 0 , x\n192.0.2.1 - 192.0.2.256 , 0 , x\n192.0.2.1 - 192.0.2.0999 , 0 , x\n192.0.2.1 - 192.0.2.2\n192.0.2.1 - 192.0.2.2 , many , x\n192.0.2.1\n192.0.2.1 - 192.0.2.2 ,\n192.0.2.0300 - 192.0.2.2 , 1 , x\n192.0.2.010 - 192.0.2.011,9\n";
        let told = told(Format::Dat, text);
        assert_eq!(
            told.refused,
            [
                "2:1: `192.0.2.009 - 192.0.2.001 , 0 , x`, the range is reversed: its end is before its start",
                "3:13: `192.0.2.256`, no IP address",
                "4:13: `192.0.2.0999`, an octet is over 255",
                "5:1: `192.0.2.1 - 192.0.2.2`, no access level, which tells a block from an exception",
                "6:25: `many`, no access level",
                "7:1: `192.0.2.1`, no `first - last , level , name`",
                "8:24: ``, no access level",
                "9:1: `192.0.2.0300`, an octet is over 255",
            ]
        );
        assert_eq!(told.entries, ["1.2.3.4/30 x", "1.2.3.8/31 x", "192.0.2.10/31"]);
    }

    #[test]
    fn a_level_that_may_be_cut_is_not_believed() {
        let text = "192.0.2.1 - 192.0.2.2 , 12";
        let whole = told(Format::Dat, format!("{text}\n"));
        assert_eq!(whole.count, 1);
        let cut = told(Format::Dat, text);
        assert_eq!(cut.refused, ["1:25: `12`, an access level that may be cut"]);
        assert_eq!((cut.count, cut.about.cut.as_deref()), (0, Some("it ends in the middle, in line 1")));
    }
}
