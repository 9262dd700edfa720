//! The look-up of a packet.

use core::hint::black_box;

use super::layout::{
    BUCKET_SLOTS, CHOICES, CODES_A_WORD, Family, Hash, ID_MASK, Line, Memory, NARROW, OVERFLOW, Record,
    Shape, Step, WIDE, WIDE_LENGTH, record_word, words_of,
};
use crate::packet::Address;

/// The record of the longest prefix that covers `source`.
pub fn find<M: Memory>(memory: &M, shape: &Shape, source: &Address) -> Option<Record> {
    let (family, high, low) = words_of(source);
    record(memory, find_id(memory, shape, family, high, low)?)
}

/// The id of the record of the longest prefix that covers an address.
#[inline(always)] // in BPF: one function, so that the verifier sees where words come from
pub fn find_id<M: Memory>(memory: &M, shape: &Shape, family: Family, high: u64, low: u64) -> Option<u32> {
    let (start, floor) = match family {
        Family::V4 => range_of(memory, high)?,
        Family::V6 => (Step::start(Family::V6), Step::of(Family::V6, 0)),
    };
    find_below(memory, shape, family, start, floor, high, low)
}

/// What the record with this id says.
#[inline(always)] // as `find_id`
pub fn record<M: Memory>(memory: &M, id: u32) -> Option<Record> {
    memory.record(id).map(|line| record_in(&line))
}

/// The first step before the lengths to try for an IPv4 address, and the last to try; nothing where its /24 has
/// nothing to do with any prefix.
#[inline(always)] // as `find_id`
fn range_of<M: Memory>(memory: &M, high: u64) -> Option<(Step, Step)> {
    #[expect(clippy::cast_possible_truncation, reason = "the upper 24 bits")]
    let network = (high >> 40) as u32;
    let codes = memory.codes(network / CODES_A_WORD)?;
    let code = codes >> (2 * (network % CODES_A_WORD)) & (WIDE | NARROW);
    if code == 0 {
        return None;
    }
    let beyond_wide = Step::of(Family::V4, WIDE_LENGTH + 1);
    let start = if code & NARROW == 0 { beyond_wide } else { Step::start(Family::V4) };
    let floor = if code & WIDE == 0 { beyond_wide } else { Step::of(Family::V4, 0) };
    Some((start, floor))
}

/// The id of the record of the longest prefix of the address whose step lies below `start` and not below `floor`.
#[inline(always)] // as `find_id`
pub(super) fn find_below<M: Memory>(
    memory: &M,
    shape: &Shape,
    family: Family,
    start: Step,
    floor: Step,
    high: u64,
    low: u64,
) -> Option<u32> {
    let mut step = next_of(&memory.step(start.0)?);
    for _ in 0..=family.bits() {
        if step < floor {
            return None;
        }
        let line = memory.step(step.0)?;
        let (high, low) = (high & line.word(1), low & line.word(2));
        let hash = shape.hash(step, high, low);
        if may_hold(memory, shape, step, hash)?
            && let Some(found) = memory.find_exactly(shape, step, hash, high, low)
        {
            return Some(found);
        }
        step = next_of(&line);
    }
    None
}

/// Whether the filter admits the key. IPv4 has the codes in its place.
#[inline(always)] // as `find_id`
fn may_hold<M: Memory>(memory: &M, shape: &Shape, step: Step, hash: Hash) -> Option<bool> {
    if step < Step::of(Family::V6, 0) {
        return Some(true);
    }
    let (word, bits) = shape.bloom(hash);
    Some(memory.bloom(word)? & bits == bits)
}

/// The id of the record of exactly this prefix.
#[inline(always)] // as `find_id`
pub fn find_exactly<M: Memory>(
    memory: &M,
    shape: &Shape,
    step: Step,
    hash: Hash,
    high: u64,
    low: u64,
) -> Option<u32> {
    for choice in 0..CHOICES {
        let bucket = memory.bucket(shape.bucket(hash, choice))?;
        // The writer puts no two keys with one tag into a bucket, so at most one slot has a part in the sum.
        // Without branches, which the verifier would have to follow in each combination.
        let mut id = 0;
        for position in 0..BUCKET_SLOTS {
            let slot = bucket.word(position);
            let difference = (slot >> 32) ^ u64::from(hash.tag());
            // One if the tags differ: the carry. Hidden from the compiler, which would make a branch of it.
            let differs = black_box(difference + 0xffff_ffff) >> 32;
            id |= slot & ID_MASK & differs.wrapping_sub(1);
        }
        #[expect(clippy::cast_possible_truncation, reason = "24 bits")]
        let id = id as u32;
        if id != 0 {
            let record = memory.record(id)?;
            let wrong = (record.word(record_word::HIGH) ^ high)
                | (record.word(record_word::LOW) ^ low)
                | (record.word(record_word::STEP) ^ u64::from(step.0));
            if wrong == 0 {
                return Some(id);
            }
        }
        if bucket.word(0) & OVERFLOW == 0 {
            return None;
        }
    }
    None
}

#[inline(always)] // as `find_id`
fn next_of(line: &impl Line) -> Step {
    #[expect(clippy::cast_possible_truncation, reason = "steps are small")]
    Step(line.word(0) as u32)
}

/// What the record says.
#[inline(always)] // as `find_id`
pub(super) fn record_in(line: &impl Line) -> Record {
    Record { words: core::array::from_fn(|position| line.word(record_word::FIRST + position)) }
}
