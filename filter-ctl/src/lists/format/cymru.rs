//! Team Cymru's fullbogons: plain, with `# last updated 1787936101 (…)` in front. Pure.

use crate::lists::reading::About;

/// What a comment of its own line says of the list.
pub(super) fn comment(about: &mut About, comment: &str) {
    if let Some(rest) = comment.strip_prefix("last updated ") {
        about.made_s = rest.split(' ').next().and_then(|seconds| seconds.parse().ok());
    }
}

#[cfg(test)]
mod tests {
    use super::super::Format;
    use super::super::tests::*;
    #[test]
    fn the_head_tells_when_it_was_made() {
        let told = told(Format::Cymru, FIXTURES[11].1);
        assert_eq!(told.entries, ["0.0.0.0/8", "192.0.2.0/24", "2001:db8::/32"]);
        assert_eq!(told.about.made_s, Some(1_787_936_101));
    }
}
