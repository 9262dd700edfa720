//! What lets readers look for a prefix at all: codes, steps, the Bloom filter, and marks of overflow.

use super::records::Place;
use super::{Table, halves, step_word};
use crate::prefix::cells::Cells;
use crate::prefix::entry::Key;
use crate::prefix::geometry::{Region, header};
use crate::prefix::layout::{
    ALL_CODE_WORDS, BUCKET_SLOTS, CHOICES, CODE_WORDS, CODES_A_WORD, Family, GROUP_LENGTH, GROUP_MASK, HOSTS,
    Hash, MIXED, OVERFLOW, SPAN_WORDS, SPANS_A_WORD, Step, WIDE, WIDE_LENGTH, code_of, mask,
};

/// The lowest bit of each code in a word.
pub(super) const EACH: u64 = 0x5555_5555_5555_5555;

/// Codes of a /16.
const CODES_A_SPAN: u32 = 256;

/// Codes of a /22.
const CODES_A_BLOCK: u32 = 4;

impl<C: Cells> Table<C> {
    /// Lets readers look for this prefix.
    pub(super) fn admit(&mut self, key: &Key, hash: Hash) {
        let (family, length) = key.family_and_length();
        for hash in self.filter_hashes(key, hash) {
            self.set_filter(hash);
        }
        if family == Family::V4 {
            self.set_codes(key, length);
        }
        self.count_prefixes(key.step, 1);
    }

    /// The hashes by which a prefix, whose own is given, is in the Bloom filter.
    pub(super) fn filter_hashes(&self, key: &Key, hash: Hash) -> impl Iterator<Item = Hash> + use<C> {
        [Some(hash), self.group_hash(key)].into_iter().flatten()
    }

    /// Puts a hash into the Bloom filter.
    pub(super) fn set_filter(&mut self, hash: Hash) {
        let (index, bits) = self.shape.bloom(hash);
        let word = self.get(Region::Bloom, index as usize);
        if word & bits != bits {
            self.set(Region::Bloom, index as usize, word | bits);
        }
    }

    /// Counts so many more prefixes of a length.
    pub(super) fn count_prefixes(&mut self, step: Step, more: u64) {
        let count = step_word(step.0, 3);
        let before = self.get(Region::Steps, count);
        self.set(Region::Steps, count, before.saturating_add(more));
        if before == 0 {
            self.link(step);
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
    pub(super) fn group_hash(&self, key: &Key) -> Option<Hash> {
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

    /// Brings the codes to what they are without this prefix, whose entries are gone from the order.
    pub(super) fn clear_codes(&mut self, key: &Key, length: u8) {
        let (start, end) = code_range(key);
        if length > WIDE_LENGTH {
            return self.clear_code(start, 0, Self::is_covered);
        }
        let mut position = self.position(Family::V4, &key.first(), 0);
        // A wider entry that stays covers all of it.
        if self.is_covered(key, position) {
            return;
        }
        let mut from = start;
        let mut narrow = None;
        while position < self.used(Family::V4) {
            let inner = self.key_of(self.id_at(Family::V4, position));
            if !key.covers(&inner) {
                break;
            }
            position += 1;
            let (inner_start, inner_end) = code_range(&inner);
            if inner.family_and_length().1 > WIDE_LENGTH {
                if inner_start >= from && narrow != Some(inner_start) {
                    narrow = Some(inner_start);
                    // Nothing wider than `key` covers it, and nothing inside `key` that came before.
                    self.clear_code(inner_start, position - 1, |_, _, _| false);
                }
                continue;
            }
            if inner_start > from {
                self.reduce_codes((from, inner_start), |codes| codes & !wide_alone(codes));
            }
            from = from.max(inner_end);
        }
        if from < end {
            self.reduce_codes((from, end), |codes| codes & !wide_alone(codes));
        }
    }

    /// Brings the code of one /24 to what the entries say, where it can be less than it is. Its entries of more than 24 bits
    /// don't lie before `from` in the order; `is_covered` tells whether others cover it.
    fn clear_code(&mut self, network: u32, from: u32, is_covered: impl FnOnce(&Self, &Key, u32) -> bool) {
        let first = u64::from(network) << 40;
        let narrowest = Key { high: first, low: 0, step: Step::of(Family::V4, WIDE_LENGTH + 1), action: 0 };
        let before = self.code(network);
        // Of the entries that start in this /24, those with more than 24 bits come first from here on.
        let mut position = self.position(Family::V4, &narrowest, from);
        let mut code = if before & WIDE != 0 && is_covered(self, &narrowest, position) { WIDE } else { 0 };
        while code != before && position < self.used(Family::V4) {
            let inner = self.key_of(self.id_at(Family::V4, position));
            if inner.high >> 40 != network.into() {
                break;
            }
            code |= code_of(inner.family_and_length().1);
            position += 1;
        }
        if code != before {
            self.reduce_codes((network, network + 1), |codes| codes & (code * EACH));
        }
    }

    /// Whether an IPv4 entry covers more than this prefix, whose place in the order is `position`.
    fn is_covered(&self, key: &Key, position: u32) -> bool {
        let (family, length) = key.family_and_length();
        let Some(before) = self.key_before(family, position) else { return false };
        before.covers(key)
            || (0..length.min(before.common_length(key) + 1)).any(|length| {
                let (high, _) = mask(length);
                let wider = Key { high: key.high & high, low: 0, step: Step::of(family, length), action: 0 };
                self.get(Region::Steps, step_word(wider.step.0, 3)) != 0 && {
                    let position = self.position(family, &wider, 0);
                    position < self.used(family)
                        && self.key_of(self.id_at(family, position)).is_same_prefix(&wider)
                }
            })
    }

    /// The code of a /24.
    pub(super) fn code(&self, network: u32) -> u64 {
        self.get(Region::Codes, (network / CODES_A_WORD) as usize) >> (2 * (network % CODES_A_WORD)) & MIXED
    }

    /// Brings what a prefix adds into the codes.
    pub(super) fn set_codes(&mut self, key: &Key, length: u8) {
        let (start, end) = code_range(key);
        self.change_codes((start, end), |codes| codes | (code_of(length) * EACH));
        for span in start / CODES_A_SPAN..end.div_ceil(CODES_A_SPAN) {
            self.open_span(span, start, end);
        }
    }

    /// Takes out of the codes of the /24s from the first on and below the second what `keep` does not keep.
    fn reduce_codes(&mut self, (start, end): (u32, u32), keep: impl Fn(u64) -> u64) {
        self.change_codes((start, end), keep);
        for span in start / CODES_A_SPAN..end.div_ceil(CODES_A_SPAN) {
            self.refresh_span(span);
        }
    }

    /// Changes the codes of the /24s from the first on and below the second, a word of them at a time.
    fn change_codes(&mut self, range: (u32, u32), change: impl Fn(u64) -> u64) {
        for (index, mask) in words_of_codes(range) {
            let word = self.get(Region::Codes, index);
            let changed = word & !mask | change(word) & mask;
            if changed != word {
                self.set(Region::Codes, index, changed);
            }
        }
    }

    /// Sets the bits of a /16, and of the /22s in it between the two /24s: for what is set, the codes of others don't
    /// matter.
    fn open_span(&mut self, span: u32, start: u32, end: u32) {
        let first = span * CODES_A_SPAN;
        let from = start.saturating_sub(first) / CODES_A_BLOCK;
        let until = (end - first).min(CODES_A_SPAN).div_ceil(CODES_A_BLOCK);
        let blocks = u64::MAX >> (SPANS_A_WORD - (until - from)) << from;
        for (at, bits) in [
            (CODE_WORDS + SPAN_WORDS + span, blocks),
            (CODE_WORDS + span / SPANS_A_WORD, 1 << (span % SPANS_A_WORD)),
        ] {
            let word = self.get(Region::Codes, at as usize);
            if word & bits != bits {
                self.set(Region::Codes, at as usize, word | bits);
            }
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

    /// Codes, and bits of spans and blocks, that the entries need.
    pub(super) fn needed_codes(&self) -> Vec<u64> {
        const WORDS_A_SPAN: usize = (CODES_A_SPAN / CODES_A_WORD) as usize;
        let mut needed = vec![0u64; ALL_CODE_WORDS as usize];
        let (codes, others) = needed.split_at_mut(CODE_WORDS as usize);
        let (spans, blocks) = others.split_at_mut(SPAN_WORDS as usize);
        for position in 0..self.used(Family::V4) {
            let key = self.key_of(self.id_at(Family::V4, position));
            let code = code_of(key.family_and_length().1);
            for (index, mask) in words_of_codes(code_range(&key)) {
                codes[index] |= (code * EACH) & mask;
            }
        }
        for (index, word) in codes.iter().enumerate().filter(|(_, word)| **word != 0) {
            let (span, first) = (index / WORDS_A_SPAN, 8 * (index % WORDS_A_SPAN));
            // Four codes are a byte.
            let bytes = word.to_le_bytes().into_iter().enumerate();
            blocks[span] |=
                bytes.fold(0, |bits, (block, codes)| bits | u64::from(codes != 0) << (first + block));
            spans[span / SPANS_A_WORD as usize] |= 1 << (span % SPANS_A_WORD as usize);
        }
        needed
    }

    /// Makes codes, filter and overflow marks anew, without those that nothing needs any more. Each word goes from what admits
    /// more to what is needed.
    pub(super) fn tidy(&mut self) {
        let mut filter = vec![0u64; self.geometry.bloom_words() as usize];
        let mut overflows = vec![false; self.geometry.buckets() as usize];
        for family in [Family::V4, Family::V6] {
            for position in 0..self.used(family) {
                let key = self.key_of(self.id_at(family, position));
                let hash = self.hash(&key);
                for hash in self.filter_hashes(&key, hash) {
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
        for (index, word) in self.needed_codes().into_iter().enumerate() {
            if self.get(Region::Codes, index) != word {
                self.set(Region::Codes, index, word);
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

/// The words in which the codes of the /24s from the first on and below the second lie, and their bits there.
pub(super) fn words_of_codes((start, end): (u32, u32)) -> impl Iterator<Item = (usize, u64)> {
    (start / CODES_A_WORD..end.div_ceil(CODES_A_WORD)).map(move |index| {
        let first = start.max(index * CODES_A_WORD) % CODES_A_WORD;
        let count = end.min((index + 1) * CODES_A_WORD) - index * CODES_A_WORD - first;
        (index as usize, (u64::MAX >> (64 - 2 * count)) << (2 * first))
    })
}

/// The codes of a word that are [`WIDE`]. What is [`MIXED`] may be so for another reason.
const fn wide_alone(codes: u64) -> u64 {
    let hosts = codes & (EACH * HOSTS);
    codes & (EACH * WIDE) & !(hosts << 1)
}

/// The first /24 of an IPv4 prefix, and the one behind its last.
pub(super) fn code_range(key: &Key) -> (u32, u32) {
    let (_, length) = key.family_and_length();
    let start = halves(key.high).0 >> 8;
    (start, start + (1 << (WIDE_LENGTH - length.min(WIDE_LENGTH))))
}
