//! Entries of a list as bytes: some thousands in a block, in the order of keys, each address as its distance from the one
//! before. What a child hands to its parent, and what the store keeps. Pure; reads what may be damaged or hostile.
//!
//! A block is: the family (4 or 6), the number of entries, then of each entry the distance of its address and its length;
//! then the lives, and then the comments, or a zero where there is none of these. Numbers are of seven bits a byte, the
//! lowest first (LEB128).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use thiserror::Error;

use super::items::{LONGEST_COMMENT, Said, Sorted};
use crate::policy::Prefix;

/// Entries of a block: a look-up decodes one, in some tens of microseconds, and of a million there are 245.
pub const ENTRIES: usize = 4096;

/// Most bytes of a block: each entry an IPv6 address, a life and a comment of its own, all as long as can be.
pub const LARGEST: usize = ENTRIES * (19 + 1 + 5 + 3 + LONGEST_COMMENT + 2) + 64;

/// What is no block that this program wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("a block of a list is damaged")]
pub struct Damaged;

/// An entry of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Item {
    /// The prefix.
    pub prefix: Prefix,
    /// Seconds that it lasts from when the list was taken in; for ever, if none.
    pub ttl_s: Option<u32>,
}

/// A block, read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Block {
    /// Its entries, in the order of keys.
    pub items: Vec<Item>,
    texts: Vec<String>,
    /// Of each entry the place of its text and one; empty if there are no texts.
    text_of: Vec<u16>,
}

impl Block {
    /// Whether it holds `prefix` if its list does.
    pub fn spans(&self, prefix: &Prefix) -> bool {
        self.items.first().is_some_and(|first| first.prefix <= *prefix)
            && self.items.last().is_some_and(|last| *prefix <= last.prefix)
    }

    /// The comment of the entry at this position, empty where there is none.
    pub fn comment(&self, position: usize) -> &str {
        let text = self.text_of.get(position).and_then(|place| place.checked_sub(1));
        text.and_then(|place| self.texts.get(usize::from(place))).map_or("", String::as_str)
    }
}

/// The blocks of a list, in order.
pub fn blocks(list: &Sorted) -> impl Iterator<Item = Vec<u8>> {
    let mut entries = list.iter().peekable();
    std::iter::from_fn(move || {
        let (first, _) = entries.peek()?;
        let family = first.family();
        let mut encoder = Encoder::default();
        while encoder.count < ENTRIES
            && let Some((prefix, said)) = entries.next_if(|(prefix, _)| prefix.family() == family)
        {
            encoder.push(prefix, said);
        }
        Some(encoder.finish())
    })
}

#[derive(Default)]
struct Encoder {
    family: u8,
    count: usize,
    last: u128,
    prefixes: Vec<u8>,
    lives: Vec<Option<u32>>,
    texts: Vec<String>,
    text_of: Vec<u16>,
}

impl Encoder {
    fn push(&mut self, prefix: Prefix, said: Said<'_>) {
        let (family, address) = match prefix.address() {
            IpAddr::V4(address) => (4, u128::from(address.to_bits())),
            IpAddr::V6(address) => (6, address.to_bits()),
        };
        self.family = family;
        write(&mut self.prefixes, address - self.last);
        self.prefixes.push(prefix.prefix_len());
        self.last = address;
        self.count += 1;
        self.lives.push(said.ttl_s);
        let place = match said.comment {
            "" => 0,
            comment if self.texts.last().is_some_and(|last| last == comment) => self.texts.len(),
            comment => {
                self.texts.push(comment.to_owned());
                self.texts.len()
            }
        };
        self.text_of.push(u16::try_from(place).unwrap_or(0));
    }

    fn finish(self) -> Vec<u8> {
        let mut bytes = vec![self.family];
        write(&mut bytes, self.count as u128);
        bytes.extend(self.prefixes);
        let has_lives = self.lives.iter().any(Option::is_some);
        bytes.push(has_lives.into());
        if has_lives {
            // One more, so that zero is for ever.
            self.lives
                .iter()
                .for_each(|ttl_s| write(&mut bytes, ttl_s.map_or(0, |ttl_s| u128::from(ttl_s) + 1)));
        }
        write(&mut bytes, self.texts.len() as u128);
        for text in &self.texts {
            write(&mut bytes, text.len() as u128);
            bytes.extend(text.as_bytes());
        }
        if !self.texts.is_empty() {
            self.text_of.iter().for_each(|place| write(&mut bytes, u128::from(*place)));
        }
        bytes
    }
}

/// Reads a block.
///
/// # Errors
///
/// [`Damaged`] if it is nothing that [`blocks`] makes: cut short, longer, out of order, with host bits.
pub fn decode(bytes: &[u8]) -> Result<Block, Damaged> {
    let mut rest = bytes;
    let family = byte(&mut rest)?;
    let count = usize::try_from(number(&mut rest)?).map_err(|_| Damaged)?;
    // Each entry takes two bytes at least: nothing is reserved that is not there.
    if count == 0 || count > ENTRIES || count * 2 > rest.len() {
        return Err(Damaged);
    }
    let mut items: Vec<Item> = Vec::with_capacity(count);
    let mut last = 0u128;
    for _ in 0..count {
        last = last.checked_add(number(&mut rest)?).ok_or(Damaged)?;
        let prefix = network(family, last, byte(&mut rest)?)?;
        if items.last().is_some_and(|before| before.prefix >= prefix) {
            return Err(Damaged);
        }
        items.push(Item { prefix, ttl_s: None });
    }
    match byte(&mut rest)? {
        0 => {}
        1 => {
            for item in &mut items {
                item.ttl_s = match number(&mut rest)? {
                    0 => None,
                    life => Some(u32::try_from(life - 1).map_err(|_| Damaged)?),
                };
            }
        }
        _ => return Err(Damaged),
    }
    let count_of_texts = usize::try_from(number(&mut rest)?).map_err(|_| Damaged)?;
    if count_of_texts > count {
        return Err(Damaged);
    }
    let mut texts = Vec::with_capacity(count_of_texts);
    for _ in 0..count_of_texts {
        let length = usize::try_from(number(&mut rest)?).map_err(|_| Damaged)?;
        let (text, after) = rest.split_at_checked(length).ok_or(Damaged)?;
        let text = str::from_utf8(text).map_err(|_| Damaged)?;
        if length > LONGEST_COMMENT || text.chars().any(char::is_control) {
            return Err(Damaged);
        }
        rest = after;
        texts.push(text.to_owned());
    }
    let mut text_of = Vec::new();
    if count_of_texts > 0 {
        for _ in 0..count {
            let place = number(&mut rest)?;
            if place > count_of_texts as u128 {
                return Err(Damaged);
            }
            text_of.push(u16::try_from(place).map_err(|_| Damaged)?);
        }
    }
    if rest.is_empty() { Ok(Block { items, texts, text_of }) } else { Err(Damaged) }
}

/// The first prefix of a block.
///
/// # Errors
///
/// As [`decode`], as far as that prefix.
pub fn first(bytes: &[u8]) -> Result<Prefix, Damaged> {
    let mut rest = bytes;
    let family = byte(&mut rest)?;
    number(&mut rest)?;
    let address = number(&mut rest)?;
    network(family, address, byte(&mut rest)?)
}

fn network(family: u8, address: u128, length: u8) -> Result<Prefix, Damaged> {
    let address = match family {
        4 => IpAddr::from(Ipv4Addr::from(u32::try_from(address).map_err(|_| Damaged)?)),
        6 => IpAddr::from(Ipv6Addr::from(address)),
        _ => return Err(Damaged),
    };
    IpNet::new(address, length).ok().and_then(Prefix::of_network).ok_or(Damaged)
}

fn byte(rest: &mut &[u8]) -> Result<u8, Damaged> {
    let (first, after) = rest.split_first().ok_or(Damaged)?;
    *rest = after;
    Ok(*first)
}

fn number(rest: &mut &[u8]) -> Result<u128, Damaged> {
    let mut number = 0u128;
    for shift in (0..128).step_by(7) {
        let byte = byte(rest)?;
        let bits = u128::from(byte & 0x7f);
        if bits << shift >> shift != bits {
            return Err(Damaged);
        }
        number |= bits << shift;
        if byte & 0x80 == 0 {
            return Ok(number);
        }
    }
    Err(Damaged)
}

#[expect(clippy::cast_possible_truncation, reason = "the lowest seven bits are meant")]
fn write(bytes: &mut Vec<u8>, mut number: u128) {
    while number > 0x7f {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

#[cfg(test)]
mod tests {
    use super::super::items::Items;
    use super::*;
    use proptest::prelude::*;

    fn list(entries: &[(String, Option<u32>, String)]) -> Sorted {
        let mut items = Items::default();
        for (prefix, ttl_s, comment) in entries {
            items.push(Prefix::parse(prefix, true).unwrap(), Said { ttl_s: *ttl_s, comment });
        }
        items.finish()
    }

    fn entry() -> impl Strategy<Value = (String, Option<u32>, String)> {
        let v4 = (any::<[u8; 4]>(), 0u8..=32).prop_map(|(a, l)| format!("{}/{l}", Ipv4Addr::from(a)));
        let v6 = (any::<[u8; 16]>(), 0u8..=128).prop_map(|(a, l)| format!("{}/{l}", Ipv6Addr::from(a)));
        (prop_oneof![v4, v6], any::<Option<u32>>(), "[a-c]{0,3}")
    }

    fn flat(blocks: &[Vec<u8>]) -> Vec<(Prefix, Option<u32>, String)> {
        let blocks = blocks.iter().map(|block| decode(block).unwrap());
        let entries = blocks.flat_map(|block| {
            let of =
                |(place, item): (usize, &Item)| (item.prefix, item.ttl_s, block.comment(place).to_owned());
            block.items.iter().enumerate().map(of).collect::<Vec<_>>()
        });
        entries.collect()
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(entries in prop::collection::vec(entry(), 0..50)) {
            let list = list(&entries);
            let written: Vec<_> = blocks(&list).collect();
            let want: Vec<_> =
                list.iter().map(|(prefix, said)| (prefix, said.ttl_s, said.comment.to_owned())).collect();
            prop_assert_eq!(flat(&written), want);
        }

        #[test]
        fn damage_never_panics_and_cuts_are_told(
            entries in prop::collection::vec(entry(), 1..20), at in any::<prop::sample::Index>(), to in any::<u8>(),
        ) {
            let Some(mut bytes) = blocks(&list(&entries)).next() else { return Ok(()) };
            let at = at.index(bytes.len());
            prop_assert_eq!(decode(&bytes[..at]), Err(Damaged));
            bytes[at] = to;
            let _ = decode(&bytes);
        }

        #[test]
        fn hostile_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(&bytes);
        }
    }

    #[test]
    fn many_are_several_blocks_of_one_family_each() {
        let count = u32::try_from(ENTRIES).unwrap() + 10;
        let entries: Vec<_> = (0..count)
            .map(|number| (Ipv4Addr::from(number).to_string(), None, String::new()))
            .chain([("2001:db8::".to_owned(), None, String::new())])
            .collect();
        let written: Vec<_> = blocks(&list(&entries)).collect();
        let counts: Vec<_> = written.iter().map(|block| decode(block).unwrap().items.len()).collect();
        assert_eq!(counts, [ENTRIES, 10, 1]);
        assert!(written.iter().all(|block| block.len() <= LARGEST));
        assert!(written[0].len() < 3 * ENTRIES, "two bytes an entry where addresses are close");
    }
}
