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

#[cfg(test)]
mod tests {
    use super::super::Format;
    use super::super::tests::*;
    use super::super::{Options, Unreadable, read};

    fn with_column(text: &str, column: &str) -> Told {
        let options = Options { column: Some(column.to_owned()), ..Options::default() };
        told_with(text, &options).1
    }

    #[test]
    fn a_column_is_found_by_its_name() {
        let fixture = told(Format::Csv, FIXTURES[13].1);
        assert_eq!(fixture.entries, ["192.0.2.1/32", "198.51.100.0/24", "2001:db8::7/128"]);
        let table = "Name;Target\n\"a;b\n;\";192.0.2.1\nx;192.0.2.2";
        assert_eq!(with_column(table, "target").entries, ["192.0.2.1/32", "192.0.2.2/32"]);
        assert_eq!(with_column("a\tnetwork\n1\t192.0.2.0/24\n", "NETWORK").entries, ["192.0.2.0/24"]);
        assert_eq!(told(Format::Csv, "network,geoname_id\n192.0.2.0/24,1\n").entries, ["192.0.2.0/24"]);
    }

    #[test]
    fn each_refused_token_is_told_with_its_place() {
        let text = "note,ip\n\"a, \"\"b\"\"\r\nc\",192.0.2.1/24\nx\n\n# y\n\"d,\", \"192.0.2.01\"\nz,192.0.2.1,more\nlast,192.0.2.";
        let told = told(Format::Csv, text);
        assert_eq!(told.entries, ["192.0.2.1/32"]);
        assert_eq!(
            told.refused,
            [
                "3:4: `192.0.2.1/24`, host bits are set: 192.0.2.0/24 is the whole prefix, 192.0.2.1 the one address; --mask takes the first",
                "4:1: `x`, no column ip",
                "7:6: `\\\"192.0.2.01\\\"`, neither IP address nor prefix",
                "9:6: `192.0.2.`, neither IP address nor prefix",
            ]
        );
        assert_eq!(told.about.cut.as_deref(), Some("it ends in the middle, in line 9"));
    }

    #[test]
    fn a_quote_that_never_ends_is_a_cut() {
        let told = told(Format::Csv, "ip,note\n192.0.2.1,\"x\n");
        assert_eq!(told.entries, ["192.0.2.1/32"]);
        assert_eq!(told.about.cut.as_deref(), Some("it ends in the middle, in line 2"));
    }

    #[test]
    fn what_columns_there_are_is_told() {
        let options = |column: &str| Options {
            format: Some(Format::Csv),
            column: Some(column.to_owned()),
            mask: false,
        };
        let error = |text: &str, options: &Options| match read(&mut text.as_bytes(), options).unwrap_err() {
            Unreadable::Column(why) => why,
            other => panic!("{other}"),
        };
        assert_eq!(
            error("a,\"b\u{1b}\"\n1,2", &options("ip")),
            "there is no column `ip`; there are: a, b\\u{1b}; choose one with --column"
        );
        let none = Options { column: None, ..options("") };
        assert_eq!(
            error("a,b\n1,192.0.2.1", &none),
            "no column is named as one of addresses; there are: a, b; choose one with --column"
        );
        assert_eq!(error("# x\n", &none), "the table has no header, and so no column of addresses");
    }
}
