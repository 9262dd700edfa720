//! What a new generation of a list must keep to before it takes the place of the old one. Pure.
//!
//! Feeds fail in ways that look like lists: emptied, cut short, a page of HTML, ten times as long as yesterday, or with the
//! default route in it. Whoever takes them as they come unblocks an attacker, or cuts off everybody.

use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::reading::About;
use crate::policy::Prefix;

/// Wide prefixes that are named; of more the rest is counted.
const MOST_NAMED: usize = 5;

/// IPv4 addresses that a list may cover, without those that nobody has: a quarter of all. All bogons and all that large
/// lists of attackers hold are a tenth.
const MOST_ADDRESSES: u64 = 1 << 30;

/// Entries below which a list may change as it likes: of three a half is nothing.
const FEW: u64 = 100;

/// What a new generation must keep to. Each can be set for a list, and an operator can say `--force`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bounds {
    /// Most percent by which it may have more entries than the one before.
    pub grow_percent: u32,
    /// Most percent of entries that it may lack of the one before.
    pub shrink_percent: u32,
    /// Most percent of what is in it that may be no entry.
    pub refused_percent: u32,
    /// Shortest IPv4 prefix.
    pub shortest_v4: u8,
    /// Shortest IPv6 prefix.
    pub shortest_v6: u8,
}

impl Default for Bounds {
    /// A list that changes daily moves by some percent. Public lists hold whole /8s of IPv4, such as 0.0.0.0/8 and
    /// 10.0.0.0/8; a registry is given /12s of IPv6, so what is wider concerns several.
    fn default() -> Self {
        Self { grow_percent: 100, shrink_percent: 50, refused_percent: 1, shortest_v4: 8, shortest_v6: 12 }
    }
}

/// Why a new generation is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It has no entry.
    Empty,
    /// It is shorter than it says.
    Cut(String),
    /// Much of it is no entry.
    Garbage {
        /// Entries.
        entries: u64,
        /// What is none.
        refused: u64,
        /// The first such place.
        first: String,
    },
    /// It has far more entries than the one before.
    Grown(Change),
    /// It has far fewer.
    Shrunk(Change),
    /// It covers more of IPv4 than any list should.
    Large {
        /// Addresses of IPv4.
        addresses: u64,
    },
    /// It holds prefixes that are too short.
    Wide {
        /// The first of them.
        first: Vec<Prefix>,
        /// How many there are.
        number: u64,
        /// Shortest length that is accepted, of each family.
        shortest: [u8; 2],
    },
}

/// How many entries there were and are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// Before.
    pub before: u64,
    /// Now.
    pub now: u64,
    /// Most percent that are accepted.
    pub percent: u32,
}

impl Refusal {
    /// A word for metrics and scripts.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::Cut(_) => "cut_short",
            Self::Garbage { .. } => "not_a_list",
            Self::Grown(_) => "grown",
            Self::Shrunk(_) => "shrunk",
            Self::Large { .. } | Self::Wide { .. } => "wide",
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => write!(f, "it is empty"),
            Self::Cut(how) => write!(f, "it is cut short: {how}"),
            Self::Garbage { entries, refused, first } => {
                write!(
                    f,
                    "{refused} places in it are no entries, beside {entries} that are, the first at {first}"
                )
            }
            Self::Grown(Change { before, now, percent }) => {
                write!(f, "it has {now} entries after {before}, more than {percent} % more")
            }
            Self::Shrunk(Change { before, now, percent }) => {
                write!(f, "it has {now} entries after {before}, more than {percent} % fewer")
            }
            Self::Large { addresses } => {
                write!(f, "it covers {addresses} addresses of IPv4, over a quarter of all")
            }
            Self::Wide { first, number, shortest } => {
                let named: Vec<String> = first.iter().map(ToString::to_string).collect();
                let more = number.saturating_sub(first.len() as u64);
                let more = if more > 0 { format!(" and {more} more") } else { String::new() };
                let [v4, v6] = shortest;
                write!(f, "it holds {}{more}, wider than /{v4} (IPv4) or /{v6} (IPv6)", named.join(", "))
            }
        }
    }
}

/// What is known of a new generation.
#[derive(Clone, Copy, Debug)]
pub struct Arrived<'l> {
    /// Entries as the list has them, before duplicates are taken out.
    pub listed: u64,
    /// Places that are no entries, the first of them in words.
    pub refused: (u64, Option<&'l str>),
    /// What it says of itself.
    pub about: &'l About,
    /// Prefixes, each once.
    pub entries: u64,
    /// Entries of the generation in force.
    pub before: Option<u64>,
}

/// Why a new generation is refused, all of it; nothing if it may take the old one's place.
pub fn refusals(arrived: &Arrived<'_>, wide: &Wide, bounds: &Bounds) -> Vec<Refusal> {
    let mut refusals = Vec::new();
    let all = arrived.listed + arrived.refused.0;
    if arrived.refused.0 * 100 > all * u64::from(bounds.refused_percent) {
        refusals.push(Refusal::Garbage {
            entries: arrived.listed,
            refused: arrived.refused.0,
            first: arrived.refused.1.unwrap_or_default().to_owned(),
        });
    }
    if arrived.entries == 0 {
        refusals.push(Refusal::Empty);
    }
    if let Some(cut) = &arrived.about.cut {
        refusals.push(Refusal::Cut(cut.clone()));
    }
    if let Some(declared) = arrived.about.declared
        && all < declared
    {
        refusals.push(Refusal::Cut(format!("it says that it has {declared} entries, and has {all}")));
    }
    if let Some(before) = arrived.before.filter(|before| *before >= FEW) {
        let change = |percent| Change { before, now: arrived.entries, percent };
        if u128::from(arrived.entries) * 100 > u128::from(before) * (100 + u128::from(bounds.grow_percent)) {
            refusals.push(Refusal::Grown(change(bounds.grow_percent)));
        }
        let fewest = 100u128.saturating_sub(bounds.shrink_percent.into());
        if arrived.entries > 0 && u128::from(arrived.entries) * 100 < u128::from(before) * fewest {
            refusals.push(Refusal::Shrunk(change(bounds.shrink_percent)));
        }
    }
    if wide.addresses > MOST_ADDRESSES {
        refusals.push(Refusal::Large { addresses: wide.addresses });
    }
    if wide.number > 0 {
        let shortest = [bounds.shortest_v4, bounds.shortest_v6];
        refusals.push(Refusal::Wide { first: wide.first.clone(), number: wide.number, shortest });
    }
    refusals
}

/// The prefixes of a list that are too short, and how much of IPv4 all of them cover.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wide {
    first: Vec<Prefix>,
    number: u64,
    addresses: u64,
    /// The last that no other covers.
    outer: Option<Prefix>,
}

impl Wide {
    /// Looks at a prefix; they come in their order. Wide ones in which nobody's traffic has its source are as good as any, and lists of bogons hold
    /// them: 224.0.0.0/3 (RFC 5771, RFC 1112) and what is beside 2000::/3 (RFC 4291, section 2.4).
    pub fn look_at(&mut self, prefix: &Prefix, bounds: &Bounds) {
        let (shortest, is_unicast) = match prefix.address() {
            IpAddr::V4(first) => (bounds.shortest_v4, first.octets()[0] < 224),
            IpAddr::V6(first) => (bounds.shortest_v6, first.octets()[0] >> 5 == 1 || prefix.prefix_len() < 3),
        };
        if is_unicast && prefix.address().is_ipv4() && !self.outer.is_some_and(|outer| outer.covers(prefix)) {
            self.addresses += 1 << (32 - prefix.prefix_len());
            self.outer = Some(*prefix);
        }
        if prefix.prefix_len() < shortest && is_unicast {
            self.number += 1;
            if self.first.len() < MOST_NAMED {
                self.first.push(*prefix);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(
        listed: u64,
        refused: u64,
        before: Option<u64>,
        about: &About,
        prefixes: &[&str],
    ) -> Vec<&'static str> {
        let bounds = Bounds::default();
        let mut wide = Wide::default();
        prefixes.iter().for_each(|prefix| wide.look_at(&Prefix::parse(prefix, false).unwrap(), &bounds));
        let arrived = Arrived { listed, refused: (refused, Some("1:1")), about, entries: listed, before };
        refusals(&arrived, &wide, &bounds).iter().map(Refusal::name).collect()
    }

    #[test]
    fn what_looks_wrong_is_refused_by_name() {
        let nothing = About::default();
        let declared = About { declared: Some(1000), ..About::default() };
        let cut = About { cut: Some("line 7 ends in the middle".into()), ..About::default() };
        assert_eq!(names(0, 0, Some(1000), &nothing, &[]), ["empty"]);
        assert_eq!(names(0, 3, None, &nothing, &[]), ["not_a_list", "empty"]);
        assert_eq!(names(1000, 11, None, &nothing, &[]), ["not_a_list"]);
        assert_eq!(names(999, 0, None, &declared, &[]), ["cut_short"]);
        assert_eq!(names(999, 0, None, &cut, &[]), ["cut_short"]);
        assert_eq!(names(2001, 0, Some(1000), &nothing, &[]), ["grown"]);
        assert_eq!(names(499, 0, Some(1000), &nothing, &[]), ["shrunk"]);
        for wide in ["::/0", "2000::/3", "2400::/8", "128.0.0.0/1", "126.0.0.0/7"] {
            let told = names(3, 0, None, &nothing, &[wide]);
            assert!(!told.is_empty() && told.iter().all(|name| *name == "wide"), "{wide}: {told:?}");
        }
        assert_eq!(names(3, 0, Some(1000), &cut, &["0.0.0.0/0"]), ["cut_short", "shrunk", "wide", "wide"]);
    }

    #[test]
    fn what_changes_as_lists_do_is_taken() {
        let declared = About { declared: Some(1000), ..About::default() };
        assert!(
            names(1000, 0, Some(1000), &declared, &["10.0.0.0/8", "224.0.0.0/3", "2001::/16", "4000::/3"])
                .is_empty()
        );
        assert!(names(990, 10, Some(1000), &declared, &[]).is_empty());
        assert!(names(2000, 0, Some(1000), &About::default(), &[]).is_empty());
        assert!(names(500, 0, Some(1000), &About::default(), &[]).is_empty());
        assert!(names(1, 0, Some(99), &About::default(), &[]).is_empty());
    }

    #[test]
    fn much_of_the_internet_in_small_pieces_is_wide_as_well() {
        let nothing = About::default();
        let eighths: Vec<String> = (1..80).map(|first| format!("{first}.0.0.0/8")).collect();
        let texts: Vec<&str> = eighths.iter().map(String::as_str).collect();
        assert_eq!(names(99, 0, None, &nothing, &texts[..65]), ["wide"]);
        assert!(names(99, 0, None, &nothing, &texts[..64]).is_empty());
        let same: Vec<&str> =
            ["10.0.0.0/8"].into_iter().chain(std::iter::repeat_n("10.1.0.0/16", 70)).collect();
        assert!(names(99, 0, None, &nothing, &same).is_empty(), "what is covered counts once");
    }

    #[test]
    fn refusals_say_what_and_how_much() {
        let shrunk = Refusal::Shrunk(Change { before: 1000, now: 3, percent: 50 });
        assert_eq!(shrunk.to_string(), "it has 3 entries after 1000, more than 50 % fewer");
        let wide = Refusal::Wide {
            first: vec![Prefix::parse("0.0.0.0/0", false).unwrap()],
            number: 3,
            shortest: [8, 12],
        };
        assert_eq!(wide.to_string(), "it holds 0.0.0.0/0 and 2 more, wider than /8 (IPv4) or /12 (IPv6)");
    }
}
