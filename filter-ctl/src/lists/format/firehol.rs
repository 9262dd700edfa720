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

#[cfg(test)]
mod tests {
    use super::super::Format;
    use super::super::tests::*;
    #[test]
    fn the_head_declares_how_many_there_are() {
        let told = told(Format::Firehol, FIXTURES[6].1);
        assert_eq!(told.entries, ["0.0.0.0/8", "192.0.2.0/25", "198.51.100.7/32"]);
        assert_eq!((told.about.declared, told.count), (Some(3), 3));
        assert_eq!(told.about.made_s, Some(1_791_461_642));
    }

    #[test]
    fn numbers_have_commas() {
        let told = told(Format::Firehol, "# ipv4 hash:ip ipset\n# Entries : 4,484 unique IPs\n192.0.2.1\n");
        assert_eq!(told.about.declared, Some(4484));
    }
}
