//! FireHOL's `.netset` and `.ipset`: plain, with a head of `# Key : value`. Pure.

use super::date;
use crate::lists::reading::About;

/// What a comment of its own line says of the list.
pub(super) fn comment(about: &mut About, comment: &str) {
    let Some((key, value)) = comment.split_once(':') else { return };
    match key.trim() {
        // "4,484 subnets, 612,345,678 unique IPs", of a list of bare addresses only the latter.
        "Entries" => {
            let first = value.trim().split(' ').next().unwrap_or_default();
            about.declared = first.replace(',', "").parse().ok();
        }
        "This File Date" => about.made_s = date::seconds(value),
        _ => {}
    }
}
