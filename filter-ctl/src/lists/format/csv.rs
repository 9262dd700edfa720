//! Tables with a header: one column holds the addresses, the rest is passed over. Comma, semicolon or tab. Pure.

use std::io::Read;

use csv_core::{ReadFieldResult, Reader, ReaderBuilder};

use super::lines::Lines;
use super::text;
use super::{LONGEST_LINE, Unreadable};
use crate::lists::items::Said;
use crate::lists::reading::Reading;

/// Names of columns that hold addresses, as feeds have them.
pub(super) const COLUMNS: [&str; 16] = [
    "ip",
    "ipaddress",
    "ip_address",
    "ip address",
    "address",
    "addr",
    "cidr",
    "network",
    "prefix",
    "range",
    "subnet",
    "dst_ip",
    "src_ip",
    "host_ip",
    "ip_prefix",
    "source_ip",
];

/// Most columns that are looked at.
const MOST_COLUMNS: usize = 256;

/// A field, its place, and its number in the record.
struct Field<'f> {
    bytes: &'f [u8],
    line: u64,
    column: u64,
    number: usize,
    is_last: bool,
    /// Whether the text ends in its line, without ending that.
    is_at_end: bool,
    /// Whether the text ends within its quotes.
    is_open: bool,
}

/// Reads a table. The column is the one that is named, or the first whose name is one of [`COLUMNS`].
pub(super) fn read(
    input: impl Read,
    mask: bool,
    column: Option<&str>,
    reading: &mut Reading,
) -> Result<(), Unreadable> {
    let mut header: Vec<String> = Vec::new();
    let mut wanted: Option<usize> = None;
    let mut found = false;
    fields(input, |field| {
        let Some(wanted) = wanted else {
            if header.len() < MOST_COLUMNS {
                header.push(text::comment(field.bytes.trim_ascii()).into_owned());
            }
            if field.is_last {
                wanted = Some(choose(&header, column)?);
            }
            return Ok(());
        };
        let mut is_refused = false;
        let mut refuse = |reading: &mut Reading, why: &str| {
            reading.refuse(field.line, field.column, &text::comment(field.bytes.trim_ascii()), why);
            is_refused = true;
        };
        if field.number == wanted {
            found = true;
            match text::parse(field.bytes.trim_ascii(), mask) {
                Ok(prefix) => reading.entry(prefix, Said::default()),
                Err(why) => refuse(reading, &why),
            }
        }
        if field.is_last {
            if !found {
                refuse(reading, &format!("no column {}", header.get(wanted).map_or("", String::as_str)));
            }
            found = false;
        }
        let is_short = field.is_last && field.number + 1 < header.len();
        if field.is_open || field.is_at_end && (is_refused || is_short) {
            reading.about.cut = Some(text::cut_in(field.line));
        }
        Ok(())
    })?;
    match wanted {
        None => Err(Unreadable::Column("the table has no header, and so no column of addresses".to_owned())),
        Some(_) => Ok(()),
    }
}

fn choose(header: &[String], column: Option<&str>) -> Result<usize, Unreadable> {
    let is = |name: &str| header.iter().position(|column| column.eq_ignore_ascii_case(name));
    let chosen = match column {
        Some(name) => is(name),
        None => COLUMNS.iter().find_map(|name| is(name)),
    };
    chosen.ok_or_else(|| {
        let there: Vec<String> = header.iter().map(|name| shown(name)).collect();
        let why = match column {
            Some(name) => format!("there is no column `{}`", shown(name)),
            None => "no column is named as one of addresses".to_owned(),
        };
        Unreadable::Column(format!("{why}; there are: {}; choose one with --column", there.join(", ")))
    })
}

fn shown(name: &str) -> String {
    name.chars().take(40).flat_map(char::escape_debug).collect()
}

/// Tells each field. Blank lines are passed over, and so are lines that begin with `#`, but for a header behind it.
fn fields(
    input: impl Read,
    mut tell: impl FnMut(Field<'_>) -> Result<(), Unreadable>,
) -> Result<(), Unreadable> {
    let mut lines = Lines::of(input);
    let mut csv: Option<Reader> = None;
    let mut out = vec![0; LONGEST_LINE];
    let mut written = 0;
    let (mut number, mut start) = (0, None);
    let mut is_open = false;
    while let Some(line) = lines.next()? {
        let is_between = number == 0 && !is_open;
        if is_between
            && (line.bytes.trim_ascii().is_empty() || line.bytes.trim_ascii_start().starts_with(b"#"))
        {
            continue;
        }
        let csv = csv.get_or_insert_with(|| ReaderBuilder::new().delimiter(delimiter(line.bytes)).build());
        let mut at = 0;
        // A line's end is one byte to the reader, whatever it was.
        for input in [line.bytes, b"\n"] {
            let mut rest = input;
            while !rest.is_empty() {
                let place = *start.get_or_insert((line.number, at as u64 + 1));
                let (result, read, wrote) = csv.read_field(rest, &mut out[written..]);
                (rest, at, written) = (&rest[read..], at + read, written + wrote);
                match result {
                    ReadFieldResult::OutputFull => return Err(Unreadable::LongLine { line: place.0 }),
                    ReadFieldResult::InputEmpty | ReadFieldResult::End => {
                        is_open = true;
                        break;
                    }
                    ReadFieldResult::Field { record_end } => {
                        let bytes = &out[..written];
                        let (of_line, column) = place;
                        let (is_last, is_at_end) = (record_end, !line.is_ended);
                        is_open = false;
                        tell(Field { bytes, line: of_line, column, number, is_last, is_at_end, is_open })?;
                        (written, start) = (0, None);
                        number = if record_end { 0 } else { number + 1 };
                    }
                }
            }
        }
    }
    // A quoted field that never ends.
    if is_open && let Some((line, column)) = start {
        let bytes = &out[..written];
        tell(Field { bytes, line, column, number, is_last: true, is_at_end: true, is_open })?;
    }
    Ok(())
}

/// The sign between columns: of the header that of which there are most.
fn delimiter(header: &[u8]) -> u8 {
    let count = |sign: u8| header.iter().filter(|byte| **byte == sign).count();
    [b';', b'\t', b','].into_iter().max_by_key(|sign| count(*sign)).unwrap_or(b',')
}
