//! What reading a list gives: its entries, the lines that were refused, and what the list says of itself. The formats fill
//! it in. Pure.

use std::fmt;

use super::items::{Items, Said};
use crate::policy::Prefix;

/// Refused places that are told one by one; of more the rest is counted.
pub const MOST_REFUSED: usize = 1000;

/// Most characters of refused text that are shown: it may come from a stranger, and goes to a terminal.
const MOST_SHOWN: usize = 64;

/// A place in a list that is no entry.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Refused {
    /// From 1.
    pub line: u64,
    /// From 1, in bytes.
    pub column: u64,
    /// What is there, fit for a terminal.
    pub what: String,
    /// Why it is refused.
    pub why: String,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: `{}`, {}", self.line, self.column, self.what, self.why)
    }
}

/// What a list says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct About {
    /// How many entries it says it has, to tell whether it was cut short.
    pub declared: Option<u64>,
    /// When it says that it was made, in seconds since 1970.
    pub made_s: Option<i64>,
    /// When it says that it is to be fetched again, in seconds since 1970.
    pub expires_s: Option<i64>,
    /// It ended in the middle of something, so that it was cut short; where that is, for people.
    pub cut: Option<String>,
}

/// A list, while it is read.
#[derive(Clone, Debug, Default)]
pub struct Reading {
    /// Its entries.
    pub items: Items,
    /// The first [`MOST_REFUSED`] of the places that are no entries.
    pub refused: Vec<Refused>,
    /// How many there are of these.
    pub refusals: u64,
    /// Entries that the list has, each counted once however many prefixes it takes: what `About::declared` is compared with.
    pub entries: u64,
    /// Entries of kinds that are none of ours, such as countries and captchas, and were passed over.
    pub ignored: u64,
    /// What it says of itself.
    pub about: About,
}

impl Reading {
    /// Takes an entry.
    pub fn entry(&mut self, prefix: Prefix, said: Said<'_>) {
        self.entries += 1;
        self.items.push(prefix, said);
    }

    /// Takes an entry that is a range, as the fewest prefixes that are the same.
    pub fn range(&mut self, prefixes: impl IntoIterator<Item = Prefix>, said: Said<'_>) {
        self.entries += 1;
        prefixes.into_iter().for_each(|prefix| self.items.push(prefix, said));
    }

    /// Refuses what is in a place. `what` is shown with all that is not printable escaped, and cut.
    pub fn refuse(&mut self, line: u64, column: u64, what: &str, why: impl fmt::Display) {
        self.refusals += 1;
        if self.refused.len() < MOST_REFUSED {
            let what = what.chars().take(MOST_SHOWN).flat_map(char::escape_debug).collect();
            self.refused.push(Refused { line, column, what, why: why.to_string() });
        }
    }
}
