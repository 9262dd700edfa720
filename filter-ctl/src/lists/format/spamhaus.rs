//! Spamhaus' DROP as text: `;` comments that say when it was made and when to fetch it again, and behind each entry its
//! record. Pure.

use super::date;
use crate::lists::reading::About;

/// What a comment of its own line says of the list.
pub(super) fn comment(about: &mut About, comment: &str) {
    if let Some((key, value)) = comment.split_once(':') {
        match key.trim() {
            "Expires" => about.expires_s = date::seconds(value),
            "Last-Modified" => about.made_s = date::seconds(value),
            _ => {}
        }
    } else if about.made_s.is_none() && comment.starts_with("Spamhaus") {
        // "Spamhaus DROP List 2026/10/08 - (c) …"
        about.made_s = comment.split(' ').find(|word| word.contains('/')).and_then(date::seconds);
    }
}

#[cfg(test)]
mod tests {
    use super::super::Format;
    use super::super::tests::*;
    #[test]
    fn the_head_tells_when_and_each_entry_why() {
        let told = told(Format::Spamhaus, FIXTURES[4].1);
        assert_eq!(told.entries, ["192.0.2.0/25 SBL100001", "198.51.100.0/24 SBL100002"]);
        assert_eq!(told.about.made_s, Some(1_791_458_042));
        assert_eq!(told.about.expires_s, Some(1_791_461_642));
    }

    #[test]
    fn the_first_line_tells_the_day_if_nothing_tells_more() {
        let told = told(
            Format::Spamhaus,
            "; Spamhaus DROP List 2026/10/08 - (c) 2026\n192.0.2.0/2 ; SBL1\n; Expires: soon",
        );
        assert_eq!(told.about.made_s, Some(1_791_417_600));
        assert_eq!(told.about.expires_s, None);
        assert_eq!(told.refused.len(), 1);
        assert!(told.refused[0].starts_with("2:1: `192.0.2.0/2`, host bits are set"), "{:?}", told.refused);
    }
}
