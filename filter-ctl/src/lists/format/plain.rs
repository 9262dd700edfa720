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
