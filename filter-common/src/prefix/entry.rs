//! Entries as the tables hold them: keys, their order, and the words they become.

use std::cmp::Ordering;

use super::layout::{Family, Step, mask, mixed};
use crate::abi::{Counter, action};

/// What makes an entry that entry: at most one for each prefix and action.
///
/// The order puts a prefix directly before those it covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    /// Upper half of the network address; an IPv4 address is its upper half. Host bits are zero.
    pub high: u64,
    /// Lower half.
    pub low: u64,
    /// Family and length.
    pub step: Step,
    /// One of [`action`].
    pub action: u8,
}

impl Key {
    /// Family and length.
    #[inline]
    pub fn family_and_length(&self) -> (Family, u8) {
        self.step.family_and_length().expect("keys are made with the step of a length")
    }

    /// The family.
    #[inline]
    pub fn family(&self) -> Family {
        self.family_and_length().0
    }

    /// Whether both have the same prefix.
    pub fn is_same_prefix(&self, other: &Self) -> bool {
        (self.high, self.low, self.step) == (other.high, other.low, other.step)
    }

    /// Whether every address of `other` is in this prefix.
    #[inline]
    pub fn covers(&self, other: &Self) -> bool {
        let (family, length) = self.family_and_length();
        let (high, low) = mask(length);
        family == other.family()
            && self.step <= other.step
            && ((self.high ^ other.high) & high) | ((self.low ^ other.low) & low) == 0
    }

    /// How many of the first bits of both addresses are the same.
    #[expect(clippy::cast_possible_truncation, reason = "at most 128")]
    pub fn common_length(&self, other: &Self) -> u8 {
        let (high, low) = (self.high ^ other.high, self.low ^ other.low);
        let same = if high == 0 { 64 + low.leading_zeros() } else { high.leading_zeros() };
        same.min(self.family().bits().into()) as u8
    }

    /// The least key of this prefix.
    pub fn first(&self) -> Self {
        Self { action: 0, ..*self }
    }

    /// The greatest key that this prefix covers.
    pub fn last(&self) -> Self {
        let (family, length) = self.family_and_length();
        let (high, low) = mask(length);
        let (family_high, family_low) = mask(family.bits());
        Self {
            high: self.high | (!high & family_high),
            low: self.low | (!low & family_low),
            step: Step::of(family, family.bits()),
            action: u8::MAX,
        }
    }
}

impl Ord for Key {
    #[inline]
    fn cmp(&self, other: &Self) -> Ordering {
        let rank =
            |key: &Self| (key.step >= Step::of(Family::V6, 0), key.high, key.low, key.step, key.action);
        rank(self).cmp(&rank(other))
    }
}

impl PartialOrd for Key {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// The positions of these keys in their order.
pub fn in_order(keys: &[Key]) -> Vec<u32> {
    if keys.is_sorted() {
        return (0..).take(keys.len()).collect();
    }
    // Address and position as one number, of an IPv6 address its first 96 bits: a million of these are sorted in a
    // fraction of the time of keys.
    let (mut v4, mut v6) = (Vec::<u64>::new(), Vec::<u128>::new());
    for (position, key) in (0u32..).zip(keys) {
        match key.family() {
            Family::V4 => v4.push(key.high >> 32 << 32 | u64::from(position)),
            Family::V6 => {
                let address = u128::from(key.high) << 64 | u128::from(key.low);
                v6.push(address >> 32 << 32 | u128::from(position));
            }
        }
    }
    let mut positions = Vec::with_capacity(keys.len());
    #[expect(clippy::cast_possible_truncation, reason = "the position is meant")]
    {
        positions.extend(sorted(&mut v4, keys, |number| (number >> 32, number as u32)));
        positions.extend(sorted(&mut v6, keys, |number| (number >> 32, number as u32)));
    }
    positions
}

/// The positions in these numbers, in the order of their keys. What is equal up to the position is told apart by its keys;
/// equal keys stay in the order in which they came.
fn sorted<N: Copy + Ord>(
    numbers: &mut [N],
    keys: &[Key],
    address_and_position: impl Fn(N) -> (N, u32),
) -> impl Iterator<Item = u32> {
    numbers.sort_unstable();
    let address = |number: &N| address_and_position(*number).0;
    let position = |number: &N| address_and_position(*number).1;
    for alike in numbers.chunk_by_mut(|one, other| address(one) == address(other)) {
        if alike.len() > 1 {
            alike.sort_by_key(|number| keys[position(number) as usize]);
        }
    }
    numbers.iter().map(move |number| address_and_position(*number).1)
}

/// Where an entry is in its life.
pub mod state {
    /// Never used.
    pub const FREE: u8 = 0;
    /// Wanted; the tables may or may not hold it as it is.
    pub const ADDING: u8 = 1;
    /// In the tables.
    pub const ACTIVE: u8 = 2;
    /// No longer wanted; the tables may still hold it.
    pub const REMOVING: u8 = 3;
    /// In no table; its id rests before it is used again.
    pub const RESTING: u8 = 4;
}

/// An entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Prefix and action.
    pub key: Key,
    /// The slots of the policy that it is part of, a bit each.
    pub slots: u8,
    /// When it ends, in seconds of the clock, or [`FOREVER`](crate::FOREVER).
    pub until_s: u32,
    /// When it was made.
    pub created_s: u32,
    /// Its note: owner and reason.
    pub note: u16,
    /// What the counters of its id stood at when it was made: they are never zeroed.
    pub base: Counter,
}

/// Words of an entry, by position.
pub(super) mod word {
    pub const HIGH: usize = 0;
    pub const LOW: usize = 1;
    /// State, step, action, slots, note.
    pub const META: usize = 2;
    /// End and making.
    pub const TIMES: usize = 3;
    pub const BASE_PACKETS: usize = 4;
    pub const BASE_BYTES: usize = 5;
    /// Of a resting entry: the next free id, and since when it rests.
    pub const FREE: usize = 6;
}

impl Entry {
    /// State, step, action, slots and note as one word, which is written last.
    pub(super) fn meta(&self, state: u8) -> u64 {
        u64::from(state)
            | u64::from(self.key.step.0) << 8
            | u64::from(self.key.action) << 16
            | u64::from(self.slots) << 24
            | u64::from(self.note) << 32
    }

    /// The words, with a state that is none.
    pub(super) fn words(&self) -> [u64; 6] {
        let times = u64::from(self.until_s) << 32 | u64::from(self.created_s);
        [self.key.high, self.key.low, self.meta(0), times, self.base.packets, self.base.bytes]
    }

    /// The entry of these words; nothing where they are none that a writer wrote.
    #[expect(clippy::cast_possible_truncation, reason = "fields of a word")]
    pub(super) fn from_words(words: [u64; 6]) -> Option<Self> {
        let meta = words[word::META];
        let key = Key {
            high: words[word::HIGH],
            low: words[word::LOW],
            step: Step((meta >> 8 & 0xff) as u32),
            action: (meta >> 16) as u8,
        };
        let (_, length) = key.step.family_and_length()?;
        let (high, low) = mask(length);
        let is_network = key.high & !high == 0 && key.low & !low == 0;
        let is_known = matches!(key.action, action::ALLOW | action::BLOCK);
        (is_network && is_known).then_some(Self {
            key,
            slots: (meta >> 24) as u8,
            until_s: (words[word::TIMES] >> 32) as u32,
            created_s: words[word::TIMES] as u32,
            note: (meta >> 32) as u16,
            base: Counter { packets: words[word::BASE_PACKETS], bytes: words[word::BASE_BYTES] },
        })
    }

    /// The entry of its first four words, as a sample keeps them, without what its counters stood at; nothing where they
    /// are none that a writer wrote.
    pub fn from_sample(words: [u64; 4]) -> Option<Self> {
        let [high, low, meta, times] = words;
        Self::from_words([high, low, meta, times, 0, 0])
    }

    /// A number for what the entry says, of which a table keeps the sum.
    pub fn digest(&self) -> u64 {
        let said = mixed(self.key.low ^ mixed(self.meta(0) & 0xffff_ffff ^ u64::from(self.until_s) << 32));
        mixed(self.key.high ^ said)
    }
}

/// The state in an entry's word.
#[expect(clippy::cast_possible_truncation, reason = "the lowest byte is meant")]
pub(super) fn state_of(meta: u64) -> u8 {
    meta as u8
}
