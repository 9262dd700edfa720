//! New prefixes in large numbers. Their places in buckets and Bloom filter lie all over these, and each would be waited
//! for if it were gone to by itself. So they are noted first, apart for parts of the arrays that fit in a cache, and
//! then written part by part.

use super::change::Touched;
use super::records::{Place, add_to};
use super::{Refused, Table, read_ahead};
use crate::prefix::cells::Cells;
use crate::prefix::geometry::{Geometry, Region};
use crate::prefix::layout::{BUCKET_SLOTS, Family, Hash, STEPS, Step};

/// Buckets of a part: 128 KiB, which leaves room beside it in a second-level cache of 512 KiB.
const BUCKETS_A_PART: u32 = 2048;

/// Slots in a part from which on all of it is read first: 13 µs, or what a hundred waits for memory take.
const READ_FROM: usize = 128;

/// Words of the Bloom filter of a part: as many bytes.
const WORDS_A_PART: u32 = 16_384;

/// What is left to be written for prefixes whose records are.
pub(super) struct Bulk {
    /// By part of the buckets: the hash and the record's id.
    slots: Vec<Vec<(Hash, u32)>>,
    /// By part of the Bloom filter.
    filter: Vec<Vec<Hash>>,
    /// By step.
    counts: [u64; STEPS as usize],
}

impl Bulk {
    /// Nothing yet, with room for so many prefixes.
    pub(super) fn new(geometry: Geometry, prefixes: usize) -> Self {
        /// That many vectors, which are likely to have room enough.
        fn parts<T>(all: u32, in_part: u32, expected: usize) -> Vec<Vec<T>> {
            let parts = all.div_ceil(in_part) as usize;
            let each = expected / parts;
            (0..parts).map(|_| Vec::with_capacity(each + each / 8 + 16)).collect()
        }
        Self {
            slots: parts(geometry.buckets(), BUCKETS_A_PART, prefixes),
            filter: parts(geometry.bloom_words(), WORDS_A_PART, prefixes),
            counts: [0; STEPS as usize],
        }
    }
}

impl<C: Cells> Table<C> {
    /// Writes the record and codes of a new entry that is the only one inside its prefix, and notes in `bulk` what else
    /// readers need to find it. It is at `position` in the order.
    pub(super) fn note_down(&mut self, bulk: &mut Bulk, new: &Touched, position: u32) -> Result<(), Refused> {
        let Touched { key, id, .. } = new;
        let entry = self.read_entry(*id).ok_or(Refused::Damaged)?;
        let mut record = self.inherited(key, position);
        add_to(&mut record, *id, &entry);
        self.write_record(*id, key, &record);
        let (family, length) = key.family_and_length();
        if family == Family::V4 {
            self.set_codes(key, length);
        }
        bulk.counts[key.step.0 as usize] += 1;
        let hash = self.hash(key);
        bulk.slots[(self.shape.bucket(hash, 0) / BUCKETS_A_PART) as usize].push((hash, *id));
        for hash in self.filter_hashes(key, hash) {
            bulk.filter[(self.shape.bloom(hash).0 / WORDS_A_PART) as usize].push(hash);
        }
        Ok(())
    }

    /// Publishes what was noted.
    pub(super) fn publish_noted(&mut self, bulk: &Bulk) -> Result<(), Refused> {
        for (part, noted) in (0..).zip(&bulk.slots) {
            if noted.len() >= READ_FROM {
                self.read_part(part);
            }
            for (hash, id) in noted {
                let is_same = |other| self.is_record_of(other, &self.key_of(*id));
                // No prefix of a new entry that is alone in it has a slot.
                let Place::Free { index, choice } = self.place_where(*hash, is_same) else {
                    return Err(Refused::NoPlace);
                };
                self.fill(*hash, *id, index, choice);
            }
        }
        for noted in &bulk.filter {
            noted.iter().for_each(|hash| self.set_filter(*hash));
        }
        for (step, count) in (0..).zip(bulk.counts).filter(|(_, count)| *count > 0) {
            self.count_prefixes(Step(step), count);
        }
        Ok(())
    }

    /// Reads a part of the buckets from end to end, which is how memory is fastest.
    fn read_part(&self, part: u32) {
        let first = part * BUCKETS_A_PART;
        let until = (first + BUCKETS_A_PART).min(self.geometry.buckets());
        let words = (first..until).map(|bucket| self.get(Region::Buckets, bucket as usize * BUCKET_SLOTS));
        read_ahead(words);
    }
}
