//! Ranges, one a line: `a-b`, `a - b`, the first two columns of tables of tabs or commas, as addresses or as decimal
//! numbers; single addresses and prefixes between them. Pure.

use std::io::Read;

use super::Unreadable;
use super::lines::{Line, Lines};
use super::span::{self, Written};
use super::text;
use crate::lists::items::Said;
use crate::lists::reading::Reading;

/// Reads a list.
pub(super) fn read(input: impl Read, mask: bool, reading: &mut Reading) -> Result<(), Unreadable> {
    let mut lines = Lines::of(input);
    while let Some(line) = lines.next()? {
        let (entry, comment) = text::split_comment(line.bytes.trim_ascii());
        if !entry.is_empty() {
            row(reading, &line, entry.trim_ascii_end(), comment.unwrap_or_default(), mask);
        }
    }
    Ok(())
}

/// A line's parts: `first separator last rest`.
pub(super) struct Parts<'l> {
    pub first: &'l [u8],
    pub last: &'l [u8],
    pub separator: u8,
    pub rest: &'l [u8],
}

impl<'l> Parts<'l> {
    /// Splits a line; none if it holds no two tokens with a separator between.
    pub fn of(entry: &'l [u8]) -> Option<Self> {
        let is_end = |byte: &u8| byte.is_ascii_whitespace() || matches!(byte, b'-' | b',');
        let end = entry.iter().position(is_end)?;
        let first = &entry[..end];
        let gap = entry[end..].trim_ascii_start();
        let (separator, after) = match gap {
            [separator @ (b'-' | b','), after @ ..] => (*separator, after.trim_ascii_start()),
            _ if entry[end] == b'\t' => (b'\t', gap),
            _ => return None,
        };
        let end = after.iter().position(is_end).unwrap_or(after.len());
        Some(Self { first, last: &after[..end], separator, rest: &after[end..] })
    }
}

fn unquoted(token: &[u8]) -> &[u8] {
    token.strip_prefix(b"\"").and_then(|token| token.strip_suffix(b"\"")).unwrap_or(token)
}

fn row(reading: &mut Reading, line: &Line<'_>, entry: &[u8], comment: &[u8], mask: bool) {
    let Some(Parts { first, last, separator, rest }) = Parts::of(entry) else {
        let (token, rest) = text::split_word(entry);
        return match text::parse(token, mask) {
            _ if !rest.is_empty() => text::refuse(reading, line, rest, text::ONLY_A_COMMENT),
            Ok(prefix) => reading.entry(prefix, Said { ttl_s: None, comment: &text::comment(comment) }),
            Err(why) => text::refuse(reading, line, token, why),
        };
    };
    if separator == b'-' && !rest.is_empty() {
        return text::refuse(reading, line, rest.trim_ascii_start(), text::ONLY_A_COMMENT);
    }
    let columns = rest.trim_ascii_start();
    let said = text::comment(if columns.is_empty() {
        comment
    } else {
        columns.strip_prefix(b",").unwrap_or(columns)
    });
    let ends = (unquoted(first), unquoted(last));
    take(reading, line, entry, ends, Written::Usual, said.trim());
}

/// Takes the range between two tokens of a line. `whole` begins with the range, and is shown if that is none.
pub(super) fn take(
    reading: &mut Reading,
    line: &Line<'_>,
    whole: &[u8],
    (first, last): (&[u8], &[u8]),
    written: Written,
    comment: &str,
) {
    let ends = match span::decimals(first, last) {
        Some(ends) => ends,
        None => {
            let first_address = match span::address(first, written) {
                Ok(address) => address,
                Err(why) => return text::refuse(reading, line, first, why),
            };
            match span::address(last, written) {
                Ok(address) => (first_address, address),
                Err(why) => return text::refuse(reading, line, last, why),
            }
        }
    };
    match span::prefixes(ends.0, ends.1) {
        Ok(prefixes) => reading.range(prefixes, Said { ttl_s: None, comment }),
        Err(why) => text::refuse(reading, line, whole, why),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Format;
    use super::super::tests::*;
    #[test]
    fn ranges_of_all_kinds() {
        let told = told(Format::Range, FIXTURES[1].1);
        assert_eq!(
            told.entries,
            [
                "1.0.0.0/24",
                "192.0.2.1/32",
                "192.0.2.2/31",
                "192.0.2.4/32",
                "192.0.2.64/26 64496\tUS\tEXAMPLE".replace('\t', "").as_str(),
                "198.51.100.0/24 all of it",
                "203.0.113.7/32",
                "2001:db8::/120",
            ]
        );
        assert_eq!(told.count, 6);
    }

    #[test]
    fn numbers_beyond_ipv4_are_ipv6() {
        let six = "\"281470681743360\",\"281470681743615\",\"-\"\n\"42540766411282592856903984951653826560\",\"42540766411282592856903984951653826561\",\"x\"";
        assert_eq!(told(Format::Range, six).entries, ["0.0.0.0/24 \"-\"", "2001:db8::/127 \"x\""]);
    }

    #[test]
    fn each_refused_token_is_told_with_its_place() {
        let text = "192.0.2.1-192.0.2.2\n192.0.2.9 - 192.0.2.1\n 192.0.2.1-192.0.2.01\n192.0.2.1-\n192.0.2.1-2001:db8::\n192.0.2.1-192.0.2.2 x\n192.0.2.1/24\n192.0.2.1-192.0.2.2 , 100 , x\nname\n16777216-5\n1,x\n";
        assert_eq!(
            told(Format::Range, text).refused,
            [
                "2:1: `192.0.2.9 - 192.0.2.1`, the range is reversed: its end is before its start",
                "3:12: `192.0.2.01`, leading zeros are octal to some programs, decimal to others",
                "4:11: ``, no IP address",
                "5:1: `192.0.2.1-2001:db8::`, the ends of the range are of two families",
                "6:21: `x`, only a comment may follow an entry, after `#`, `;` or `//`",
                "7:1: `192.0.2.1/24`, host bits are set: 192.0.2.0/24 is the whole prefix, 192.0.2.1 the one address; --mask takes the first",
                "8:21: `, 100 , x`, only a comment may follow an entry, after `#`, `;` or `//`",
                "9:1: `name`, neither IP address nor prefix",
                "10:1: `16777216-5`, the range is reversed: its end is before its start",
                "11:1: `1`, no IP address",
            ]
        );
    }
}
