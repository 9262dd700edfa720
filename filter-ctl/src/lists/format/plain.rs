//! Plain lists: an address or prefix a line, comments after `#`, `;` or `//`. FireHOL, Team Cymru and the text of Spamhaus
//! are such lists whose comments say more. Pure.

use std::io::Read;

use super::Unreadable;
use super::lines::{Line, Lines};
use super::text;
use crate::lists::items::Said;
use crate::lists::reading::{About, Reading};

/// Reads a list; `on_comment` is told each line that is a comment alone.
pub(super) fn read(
    input: impl Read,
    mask: bool,
    reading: &mut Reading,
    mut on_comment: impl FnMut(&mut About, &str),
) -> Result<(), Unreadable> {
    let mut lines = Lines::of(input);
    while let Some(line) = lines.next()? {
        // Nearly every line of a large list.
        if let Some(prefix) = text::plain_v4(line.bytes) {
            reading.entry(prefix, Said::default());
            continue;
        }
        entry(reading, &line, mask, &mut on_comment);
    }
    Ok(())
}

fn entry(reading: &mut Reading, line: &Line<'_>, mask: bool, on_comment: &mut impl FnMut(&mut About, &str)) {
    let (entry, comment) = text::split_comment(line.bytes.trim_ascii());
    let comment = text::comment(comment.unwrap_or_default());
    if entry.is_empty() {
        return on_comment(&mut reading.about, &comment);
    }
    let (token, rest) = text::split_word(entry.trim_ascii_end());
    if !rest.is_empty() {
        return text::refuse(reading, line, rest, text::ONLY_A_COMMENT);
    }
    match text::parse(token, mask) {
        Ok(prefix) => reading.entry(prefix, Said { ttl_s: None, comment: &comment }),
        Err(why) => text::refuse(reading, line, token, why),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Format;
    use super::super::Options;
    use super::super::tests::*;

    #[test]
    fn entries_have_comments_in_three_ways() {
        let told = told(Format::Plain, FIXTURES[0].1);
        let want = [
            "192.0.2.1/32",
            "192.0.2.128/25",
            "198.51.100.0/24 why",
            "203.0.113.7/32 tab",
            "2001:db8::/32 six",
        ];
        assert_eq!((told.entries, told.count), (want.map(str::to_owned).to_vec(), 5));
    }

    #[test]
    fn each_refused_token_is_told_with_its_place() {
        let text = b"192.0.2.1\n 192.0.2.1/24\n001.002.003.004 # x\n192.0.2.1 and more\ngarbage\n\t2001:db8::/129\n\xff\xfe\n192.0.2.9/33#x\n192.0.2.2 # caf\xe9\n0.0.0.0/0\n";
        let told = told(Format::Plain, text);
        assert_eq!(told.entries, ["0.0.0.0/0", "192.0.2.1/32", "192.0.2.2/32 caf\u{fffd}"]);
        assert_eq!(
            told.refused,
            [
                "2:2: `192.0.2.1/24`, host bits are set: 192.0.2.0/24 is the whole prefix, 192.0.2.1/32 the one address; --mask takes the first"
                    .replace("192.0.2.1/32 the", "192.0.2.1 the"),
                "3:1: `001.002.003.004`, leading zeros are octal to some programs, decimal to others".to_owned(),
                "4:11: `and more`, only a comment may follow an entry, after `#`, `;` or `//`".to_owned(),
                "5:1: `garbage`, neither IP address nor prefix".to_owned(),
                "6:2: `2001:db8::/129`, the prefix length is over 128".to_owned(),
                "7:1: `\u{fffd}\u{fffd}`, not UTF-8".to_owned(),
                "8:1: `192.0.2.9/33`, the prefix length is over 32".to_owned(),
            ]
        );
        assert_eq!(told.about.cut, None);
    }

    #[test]
    fn host_bits_may_be_cleared() {
        let options = Options { mask: true, ..Options::default() };
        let (_, told) = told_with("192.0.2.7/24\n::ffff:192.0.2.7/120 # same", &options);
        assert_eq!(told.entries, ["192.0.2.0/24"]);
        assert_eq!(told.count, 2);
    }

    #[test]
    fn a_last_line_that_is_no_entry_was_cut() {
        let told = told(Format::Plain, "192.0.2.1\n198.51.10");
        assert_eq!(told.refused, ["2:1: `198.51.10`, neither IP address nor prefix"]);
        assert_eq!(told.about.cut.as_deref(), Some("it ends in the middle, in line 2"));
    }
}
