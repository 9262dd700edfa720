//! The entries of one list: gathered in the order of its lines, then sorted, each prefix once. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};

use crate::policy::Prefix;

/// Most bytes of a comment that are kept: as much as a reason holds, on one line of a terminal.
pub const LONGEST_COMMENT: usize = 100;

/// Most bytes of all comments of a list: 16 for each entry of a list of four million.
const MOST_COMMENTS: usize = 64 << 20;

/// What a list says of a prefix beside the prefix itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Said<'l> {
    /// Seconds that the entry is still to last; for ever, if none.
    pub ttl_s: Option<u32>,
    /// Why, in the list's own words; empty where it says nothing.
    pub comment: &'l str,
}

/// The place in `Items::said` of an entry of which nothing is said.
const NOTHING: u32 = 0;

/// An IPv4 entry: address and length as one number that sorts as prefixes do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct V4 {
    rank: u64,
    said: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct V6 {
    address: u128,
    length: u8,
    said: u32,
}

/// An entry of a few bytes that knows its prefix.
trait Compact: Copy + Ord {
    fn prefix(&self) -> Option<Prefix>;
    fn said(&mut self) -> &mut u32;
    fn is_alike(&self, other: &Self) -> bool;
    fn rank(&self) -> (u128, u8);
}

impl Compact for V4 {
    #[expect(clippy::cast_possible_truncation, reason = "fields of a word")]
    fn prefix(&self) -> Option<Prefix> {
        let address = Ipv4Addr::from((self.rank >> 8) as u32);
        Prefix::of_network(Ipv4Net::new(address, self.rank as u8).ok()?.into())
    }

    fn said(&mut self) -> &mut u32 {
        &mut self.said
    }

    fn is_alike(&self, other: &Self) -> bool {
        self.rank == other.rank
    }

    #[expect(clippy::cast_possible_truncation, reason = "fields of a word")]
    fn rank(&self) -> (u128, u8) {
        (u128::from(self.rank >> 8), self.rank as u8)
    }
}

impl Compact for V6 {
    fn prefix(&self) -> Option<Prefix> {
        let address = Ipv6Addr::from(self.address);
        Prefix::of_network(Ipv6Net::new(address, self.length).ok()?.into())
    }

    fn said(&mut self) -> &mut u32 {
        &mut self.said
    }

    fn is_alike(&self, other: &Self) -> bool {
        (self.address, self.length) == (other.address, other.length)
    }

    fn rank(&self) -> (u128, u8) {
        (self.address, self.length)
    }
}

/// Entries as they come.
#[derive(Clone, Debug, Default)]
pub struct Items {
    v4: Vec<V4>,
    v6: Vec<V6>,
    said: Vec<Kept>,
    comments: String,
    last_comment: (u32, u16),
}

/// What is said of an entry, with the comment as a place in all comments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Kept {
    ttl_s: Option<u32>,
    start: u32,
    length: u16,
}

impl Items {
    /// Entries so far, duplicates counted each time.
    pub fn len(&self) -> usize {
        self.v4.len() + self.v6.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Adds an entry.
    pub fn push(&mut self, prefix: Prefix, said: Said<'_>) {
        let said = if said == Said::default() { NOTHING } else { self.keep(said) };
        match prefix.address() {
            IpAddr::V4(address) => {
                let rank = u64::from(address.to_bits()) << 8 | u64::from(prefix.prefix_len());
                self.v4.push(V4 { rank, said });
            }
            IpAddr::V6(address) => {
                self.v6.push(V6 { address: address.to_bits(), length: prefix.prefix_len(), said });
            }
        }
    }

    fn keep(&mut self, said: Said<'_>) -> u32 {
        let (start, length) = self.keep_comment(said.comment);
        if self.said.is_empty() {
            self.said.push(Kept { ttl_s: None, start: 0, length: 0 });
        }
        let kept = Kept { ttl_s: said.ttl_s, start, length };
        if self.said.last() != Some(&kept) {
            self.said.push(kept);
        }
        u32::try_from(self.said.len() - 1).unwrap_or(NOTHING)
    }

    /// Keeps a comment for a terminal: without control characters, and once where the same comes again and again.
    fn keep_comment(&mut self, comment: &str) -> (u32, u16) {
        if comment.is_empty() || self.comments.len() > MOST_COMMENTS {
            return (0, 0);
        }
        let cut = &comment[..comment.floor_char_boundary(LONGEST_COMMENT)];
        let shown: String = cut.chars().filter(|char| !char.is_control()).collect();
        let (start, length) = self.last_comment;
        if self.comments[start as usize..start as usize + usize::from(length)] != shown {
            let start = u32::try_from(self.comments.len()).unwrap_or(0);
            self.comments.push_str(&shown);
            self.last_comment = (start, u16::try_from(shown.len()).unwrap_or(0));
        }
        self.last_comment
    }

    fn said(&self, position: u32) -> Said<'_> {
        let Some(kept) = self.said.get(position as usize) else { return Said::default() };
        let (start, end) = (kept.start as usize, kept.start as usize + usize::from(kept.length));
        Said { ttl_s: kept.ttl_s, comment: &self.comments[start..end] }
    }

    /// Sorts the entries, and keeps each prefix once, with the longest life that it is given.
    pub fn finish(mut self) -> Sorted {
        let before = self.len();
        self.v4.sort_unstable();
        self.v6.sort_unstable();
        let said = std::mem::take(&mut self.said);
        merge(&mut self.v4, &said);
        merge(&mut self.v6, &said);
        self.said = said;
        let duplicates = before - self.len();
        let covered = covered(&self.v4, 32) + covered(&self.v6, 128);
        Sorted { items: self, duplicates, covered }
    }

    fn iter(&self) -> impl Iterator<Item = (Prefix, u32)> {
        let v4 = self.v4.iter().filter_map(|entry| Some((entry.prefix()?, entry.said)));
        let v6 = self.v6.iter().filter_map(|entry| Some((entry.prefix()?, entry.said)));
        v4.chain(v6)
    }
}

/// Keeps each prefix once; of several the one that lasts longest, and of these the first.
fn merge<E: Compact>(entries: &mut Vec<E>, said: &[Kept]) {
    let ttl = |position: u32| said.get(position as usize).and_then(|kept| kept.ttl_s).unwrap_or(u32::MAX);
    entries.dedup_by(|next, kept| {
        let is_alike = next.is_alike(kept);
        if is_alike && ttl(*next.said()) > ttl(*kept.said()) {
            *kept.said() = *next.said();
        }
        is_alike
    });
}

/// Sorted entries that a wider one covers.
fn covered<E: Compact>(entries: &[E], bits: u8) -> usize {
    let mut last_of_wide: Option<u128> = None;
    let mut covered = 0;
    for entry in entries {
        let (address, length) = entry.rank();
        if last_of_wide.is_some_and(|last| address <= last) {
            covered += 1;
        } else {
            let free = u32::from(bits - length);
            last_of_wide = Some(address | 1u128.checked_shl(free).map_or(u128::MAX, |size| size - 1));
        }
    }
    covered
}

/// The entries of a list, in order, each prefix once.
#[derive(Clone, Debug, Default)]
pub struct Sorted {
    items: Items,
    /// Entries that were left out since the same prefix was there.
    pub duplicates: usize,
    /// Entries that a wider one of the list covers.
    pub covered: usize,
}

impl Sorted {
    /// Entries.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// The entries in the order of keys.
    pub fn iter(&self) -> impl Iterator<Item = (Prefix, Said<'_>)> {
        self.items.iter().map(|(prefix, position)| (prefix, self.items.said(position)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(entries: &[(&str, Option<u32>, &str)]) -> Sorted {
        let mut items = Items::default();
        for (prefix, ttl_s, comment) in entries {
            items.push(Prefix::parse(prefix, true).unwrap(), Said { ttl_s: *ttl_s, comment });
        }
        items.finish()
    }

    fn shown(list: &Sorted) -> Vec<String> {
        let shown = |(prefix, said): (Prefix, Said<'_>)| {
            let left = said.ttl_s.map_or(String::new(), |ttl_s| format!(" {ttl_s}s"));
            format!("{prefix}{left} {}", said.comment).trim_end().to_owned()
        };
        list.iter().map(shown).collect()
    }

    #[test]
    fn each_prefix_is_kept_once_with_the_longest_life() {
        let list = list(&[
            ("2001:db8::/32", None, "six"),
            ("192.0.2.0/24", Some(5), "short"),
            ("192.0.2.7", None, ""),
            ("192.0.2.0/24", Some(9), "long"),
            ("192.0.2.0/24", Some(7), "middle"),
        ]);
        assert_eq!(shown(&list), ["192.0.2.0/24 9s long", "192.0.2.7/32", "2001:db8::/32 six"]);
        assert_eq!((list.duplicates, list.covered), (2, 1));
    }

    #[test]
    fn comments_are_cut_and_fit_for_a_terminal() {
        let long = "\u{e9}".repeat(LONGEST_COMMENT);
        let list = list(&[("192.0.2.1", None, "a\u{1b}[2Jb"), ("192.0.2.2", None, &long)]);
        let comments: Vec<_> = list.iter().map(|(_, said)| said.comment.to_owned()).collect();
        assert_eq!(comments, ["a[2Jb", &"\u{e9}".repeat(LONGEST_COMMENT / 2)]);
    }

    #[test]
    fn everything_covers_what_follows() {
        assert_eq!(list(&[("0.0.0.0/0", None, ""), ("255.255.255.255", None, "")]).covered, 1);
        let six = list(&[("::/0", None, ""), ("ffff::/16", None, ""), ("ffff::1", None, "")]);
        assert_eq!(six.covered, 2);
    }
}
