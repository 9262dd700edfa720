//! Team Cymru's fullbogons: plain, with `# last updated 1787936101 (…)` in front. Pure.

use crate::lists::reading::About;

/// What a comment of its own line says of the list.
pub(super) fn comment(about: &mut About, comment: &str) {
    if let Some(rest) = comment.strip_prefix("last updated ") {
        about.made_s = rest.split(' ').next().and_then(|seconds| seconds.parse().ok());
    }
}
