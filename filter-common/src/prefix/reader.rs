//! The look-up of a packet.

use core::hint::black_box;

use super::layout::{
    BUCKET_SLOTS, CHOICES, CODE_WORDS, CODES_A_WORD, Family, GROUP_LENGTH, GROUP_MASK, HOSTS, Hash, ID_MASK,
    Lengths, Line, MIXED, Memory, OVERFLOW, Range, Record, SPAN_WORDS, SPANS_A_WORD, Shape, Step, WIDE,
    WIDE_LENGTH, record_word, words_of,
};
use crate::packet::Address;

/// Most lengths that a look-up tries: those of IPv6.
const LENGTHS: usize = 129;

/// The record of the longest prefix that covers `source`.
#[inline(always)] // as `lengths_of`
pub fn find<M: Memory>(memory: &M, shape: &Shape, source: &Address) -> Option<Record> {
    let (family, high, low) = words_of(source);
    let id = match lengths_of(memory, shape, family, high)? {
        // Most addresses that get here are found, so the Bloom filter's answer would be waited for in vain.
        Lengths::Host => memory.find_exactly(shape, Step::HOST, shape.hash(Step::HOST, high, low), high, low),
        Lengths::Among(range) => memory.find_in(shape, range, high, low),
    };
    record_of(memory, id?)
}

/// The lengths of which a prefix of an address may be: nothing where there can't be any. Most clean packets end here.
#[inline(always)] // in BPF: in its caller, so that the verifier sees where words come from
pub fn lengths_of<M: Memory>(memory: &M, shape: &Shape, family: Family, high: u64) -> Option<Lengths> {
    match family {
        Family::V4 => lengths_of_v4(memory, high),
        Family::V6 => lengths_of_v6(memory, shape, high),
    }
}

#[inline(always)] // as `lengths_of`
fn lengths_of_v4<M: Memory>(memory: &M, high: u64) -> Option<Lengths> {
    let network = (high >> 40) as u32;
    let span = network >> 8;
    if memory.codes(CODE_WORDS + span / SPANS_A_WORD)? >> (span % SPANS_A_WORD) & 1 == 0 {
        return None;
    }
    let block = network >> 2 & 63;
    if memory.codes(CODE_WORDS + SPAN_WORDS + span)? >> block & 1 == 0 {
        return None;
    }
    let codes = memory.codes(network / CODES_A_WORD)?;
    let last = Step::of(Family::V4, 0);
    match codes >> (2 * (network % CODES_A_WORD)) & MIXED {
        0 => None,
        HOSTS => Some(Lengths::Host),
        WIDE => Some(Lengths::Among(Range { before: Step::of(Family::V4, WIDE_LENGTH + 1), last })),
        _ => Some(Lengths::Among(Range { before: Step::start(Family::V4), last })),
    }
}

#[inline(always)] // as `lengths_of`
fn lengths_of_v6<M: Memory>(memory: &M, shape: &Shape, high: u64) -> Option<Lengths> {
    let last = Step::of(Family::V6, 0);
    let (word, bits) = shape.bloom(shape.hash(Step::GROUP, high & GROUP_MASK, 0));
    if memory.bloom(word)? & bits == bits {
        return Some(Lengths::Among(Range { before: Step::start(Family::V6), last }));
    }
    let before = Step::of(Family::V6, GROUP_LENGTH);
    if next_of(&memory.step(before.0)?) < last {
        return None;
    }
    Some(Lengths::Among(Range { before, last }))
}

/// The id of the record of the longest prefix of the address whose length is in the range.
#[inline(always)] // as `lengths_of`
pub fn find_in<M: Memory>(memory: &M, shape: &Shape, range: Range, high: u64, low: u64) -> Option<u32> {
    let Range { before, last } = range;
    let mut step = next_of(&memory.step(before.0)?);
    for _ in 0..LENGTHS {
        if step < last {
            return None;
        }
        let line = memory.step(step.0)?;
        let (high, low) = (high & line.word(1), low & line.word(2));
        let hash = shape.hash(step, high, low);
        let (word, bits) = shape.bloom(hash);
        if memory.bloom(word)? & bits == bits
            && let Some(found) = memory.find_exactly(shape, step, hash, high, low)
        {
            return Some(found);
        }
        step = next_of(&line);
    }
    None
}

/// The id of the record of exactly this prefix.
#[inline(always)] // as `lengths_of`
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
            memory.expect(id);
            // An id beyond the records is of no key, as is one of another prefix.
            let wrong = memory.record(id).map_or(1, |record| {
                (record.word(record_word::HIGH) ^ high)
                    | (record.word(record_word::LOW) ^ low)
                    | (record.word(record_word::STEP) ^ u64::from(step.0))
            });
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

#[inline(always)] // as `lengths_of`
fn next_of(line: &impl Line) -> Step {
    #[expect(clippy::cast_possible_truncation, reason = "steps are small")]
    Step(line.word(0) as u32)
}

/// What the record with this id says.
#[inline(always)] // as `lengths_of`
pub(super) fn record_of<M: Memory>(memory: &M, id: u32) -> Option<Record> {
    let line = memory.record(id)?;
    Some(Record { words: core::array::from_fn(|position| line.word(record_word::FIRST + position)) })
}
