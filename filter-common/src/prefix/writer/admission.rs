//! What lets readers look for a prefix at all: codes, steps, the Bloom filter, and marks of overflow.

use super::records::Place;
use super::{Table, halves, step_word};
use crate::prefix::cells::Cells;
use crate::prefix::entry::Key;
use crate::prefix::geometry::{Region, header};
use crate::prefix::layout::{
    BUCKET_SLOTS, CHOICES, CODE_WORDS, CODES_A_WORD, Family, GROUP_LENGTH, GROUP_MASK, Hash, NARROW,
    OVERFLOW, SPAN_WORDS, SPANS_A_WORD, Step, WIDE, WIDE_LENGTH, mask,
};

/// Codes of a /16.
const CODES_A_SPAN: u32 = 256;

impl<C: Cells> Table<C> {
    /// Lets readers look for this prefix.
    pub(super) fn admit(&mut self, key: &Key, hash: Hash) {
        let (family, length) = key.family_and_length();
        for hash in [Some(hash), self.group_hash(key)].into_iter().flatten() {
            let (index, bits) = self.shape.bloom(hash);
            let word = self.get(Region::Bloom, index as usize);
            if word & bits != bits {
                self.set(Region::Bloom, index as usize, word | bits);
            }
        }
        if family == Family::V4 {
            self.set_codes(key, length);
        }
        let count = step_word(key.step.0, 3);
        let before = self.get(Region::Steps, count);
        self.set(Region::Steps, count, before + 1);
        if before == 0 {
            self.link(key.step);
        }
    }

    /// Lets readers no longer look for this prefix, as far as others don't need it.
    pub(super) fn exclude(&mut self, key: &Key, counted: bool) {
        let (family, length) = key.family_and_length();
        if counted {
            let count = step_word(key.step.0, 3);
            let left = self.get(Region::Steps, count).saturating_sub(1);
            self.set(Region::Steps, count, left);
            if left == 0 {
                self.unlink(key.step);
            }
        }
        if family == Family::V4 {
            self.clear_codes(key, length);
        }
    }

    /// The hash of the group of an IPv6 prefix that is long enough to have one.
    fn group_hash(&self, key: &Key) -> Option<Hash> {
        let is_in_group = key.step >= Step::of(Family::V6, GROUP_LENGTH);
        is_in_group.then(|| self.shape.hash(Step::GROUP, key.high & GROUP_MASK, 0))
    }

    /// Puts a length into the chain. Each store leaves a chain that holds all that were in it.
    pub(super) fn link(&mut self, step: Step) {
        let Some((family, _)) = step.family_and_length() else { return };
        for longer in step.0 + 1..=Step::start(family).0 {
            let next = step_word(longer, 0);
            if self.get(Region::Steps, next) < step.0.into() {
                self.set(Region::Steps, next, step.0.into());
            }
        }
    }

    /// Takes a length out of the chain. A reader that is at this step goes on from it.
    pub(super) fn unlink(&mut self, step: Step) {
        let Some((family, _)) = step.family_and_length() else { return };
        let after = self.get(Region::Steps, step_word(step.0, 0));
        for longer in step.0 + 1..=Step::start(family).0 {
            let next = step_word(longer, 0);
            if self.get(Region::Steps, next) == step.0.into() {
                self.set(Region::Steps, next, after);
            }
        }
    }

    pub(super) fn set_codes(&mut self, key: &Key, length: u8) {
        if length > WIDE_LENGTH {
            return self.change_codes(code_range(key), NARROW, true);
        }
        self.change_codes(code_range(key), WIDE, true);
    }

    pub(super) fn clear_codes(&mut self, key: &Key, length: u8) {
        let (start, end) = code_range(key);
        if length > WIDE_LENGTH {
            // Of the entries that start in this /24, those with more than 24 bits come first from here on.
            let network = Key {
                high: u64::from(start) << 40,
                low: 0,
                step: Step::of(Family::V4, WIDE_LENGTH + 1),
                action: 0,
            };
            let position = self.position(Family::V4, &network, 0);
            let is_needed = position < self.used(Family::V4)
                && self.key_of(self.id_at(Family::V4, position)).high >> 40 == start.into();
            if !is_needed {
                self.change_codes((start, end), NARROW, false);
            }
            return;
        }
        // A wider entry that stays covers all of it.
        let mut position = self.position(Family::V4, &key.first(), 0);
        if self.is_covered(key) {
            return;
        }
        let mut from = start;
        while position < self.used(Family::V4) {
            let inner = self.key_of(self.id_at(Family::V4, position));
            if !key.covers(&inner) {
                break;
            }
            position += 1;
            if inner.family_and_length().1 > WIDE_LENGTH {
                continue;
            }
            let (inner_start, inner_end) = code_range(&inner);
            if inner_start > from {
                self.change_codes((from, inner_start), WIDE, false);
            }
            from = from.max(inner_end);
        }
        if from < end {
            self.change_codes((from, end), WIDE, false);
        }
    }

    /// Whether an IPv4 entry covers more than this prefix.
    pub(super) fn is_covered(&self, key: &Key) -> bool {
        let (family, length) = key.family_and_length();
        (0..length).any(|length| {
            let (high, _) = mask(length);
            let wider = Key { high: key.high & high, low: 0, step: Step::of(family, length), action: 0 };
            self.get(Region::Steps, step_word(wider.step.0, 3)) != 0 && {
                let position = self.position(family, &wider, 0);
                position < self.used(family)
                    && self.key_of(self.id_at(family, position)).is_same_prefix(&wider)
            }
        })
    }

    /// Sets or clears `code` for the /24s from the first on and below the second.
    pub(super) fn change_codes(&mut self, (start, end): (u32, u32), code: u64, set: bool) {
        /// The lowest bit of each code.
        const EACH: u64 = 0x5555_5555_5555_5555;
        let mut from = start;
        while from < end {
            let index = from / CODES_A_WORD;
            let until = end.min((index + 1) * CODES_A_WORD);
            let (first, count) = (from % CODES_A_WORD, until - from);
            let ones = if count == CODES_A_WORD { u64::MAX } else { (1 << (2 * count)) - 1 };
            let bits = (EACH * code) & (ones << (2 * first));
            let word = self.get(Region::Codes, index as usize);
            let changed = if set { word | bits } else { word & !bits };
            if changed != word {
                self.set(Region::Codes, index as usize, changed);
            }
            from = until;
        }
        for span in start / CODES_A_SPAN..end.div_ceil(CODES_A_SPAN) {
            self.refresh_span(span);
        }
    }

    /// Brings the bits of a /16, and of the /22s in it, to what their codes say.
    fn refresh_span(&mut self, span: u32) {
        const WORDS: usize = (CODES_A_SPAN / CODES_A_WORD) as usize;
        let mut blocks = 0;
        for word in 0..WORDS {
            // Four codes are a byte.
            let codes = self.get(Region::Codes, span as usize * WORDS + word).to_le_bytes();
            for (position, _) in codes.iter().enumerate().filter(|(_, codes)| **codes != 0) {
                blocks |= 1u64 << (8 * word + position);
            }
        }
        let at = (CODE_WORDS + SPAN_WORDS + span) as usize;
        if self.get(Region::Codes, at) != blocks {
            self.set(Region::Codes, at, blocks);
        }
        let at = (CODE_WORDS + span / SPANS_A_WORD) as usize;
        let bit = 1 << (span % SPANS_A_WORD);
        let word = self.get(Region::Codes, at);
        let refreshed = if blocks == 0 { word & !bit } else { word | bit };
        if refreshed != word {
            self.set(Region::Codes, at, refreshed);
        }
    }

    /// Makes filter and overflow marks anew, without those that nothing needs any more. Each word goes from what admits
    /// more to what is needed.
    pub(super) fn tidy(&mut self) {
        let mut filter = vec![0u64; self.geometry.bloom_words() as usize];
        let mut overflows = vec![false; self.geometry.buckets() as usize];
        for family in [Family::V4, Family::V6] {
            for position in 0..self.used(family) {
                let key = self.key_of(self.id_at(family, position));
                let hash = self.hash(&key);
                for hash in [Some(hash), self.group_hash(&key)].into_iter().flatten() {
                    let (index, bits) = self.shape.bloom(hash);
                    filter[index as usize] |= bits;
                }
                if let Place::Taken { index, .. } = self.place(&key, hash) {
                    let choices = (0..CHOICES).map(|choice| self.shape.bucket(hash, choice) as usize);
                    for passed in choices.take_while(|bucket| *bucket != index / BUCKET_SLOTS) {
                        overflows[passed] = true;
                    }
                }
            }
        }
        for (index, word) in filter.into_iter().enumerate() {
            if self.get(Region::Bloom, index) != word {
                self.set(Region::Bloom, index, word);
            }
        }
        for (bucket, overflows) in overflows.into_iter().enumerate() {
            let word = self.get(Region::Buckets, bucket * BUCKET_SLOTS);
            if !overflows && word & OVERFLOW != 0 {
                self.set(Region::Buckets, bucket * BUCKET_SLOTS, word & !OVERFLOW);
            }
        }
        self.set_header(header::STALE, 0);
    }
}

/// The first /24 of an IPv4 prefix, and the one behind its last.
pub(super) fn code_range(key: &Key) -> (u32, u32) {
    let (_, length) = key.family_and_length();
    let start = halves(key.high).0 >> 8;
    (start, start + (1 << (WIDE_LENGTH - length.min(WIDE_LENGTH))))
}
