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
