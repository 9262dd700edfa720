//! The writer: changes entries, and keeps records, slots, codes, steps and Bloom filter as the entries say.
//!
//! # Bounds
//!
//! A change of one entry takes time and memory in proportion to the entries inside its prefix, whose records may
//! inherit from it (half a second for /0 with a million inside); to those in the IPv4 /24 in which it lies, at most 511
//! prefixes; and to the codes of an IPv4 prefix of up to 24 bits, at most 2^19 words (/0: 4 MiB, a millisecond). Moving the
//! order of keys takes one word for each entry behind it. Once in a quarter of the capacity, a removal makes codes, filter
//! and overflow marks anew, in one pass over all entries.
//!
//! # Dying
//!
//! The header is marked before the first word is written and cleared after the last; states of entries say what was
//! under way. Whoever finds the mark calls [`Table::recover`], which makes anew what only writers read, and finishes the
//! change.

mod admission;
mod bulk;
mod change;
mod entries;
mod notes;
mod records;
mod recovery;

use std::collections::HashMap;

use thiserror::Error;

pub use self::entries::Finger;
pub use self::records::AHEAD;
use self::records::Work;
use super::cells::{Cells, View};
use super::entry::{Entry, Key};
use super::geometry::{Geometry, NOTES, Region, Stored, header};
use super::layout::{Family, Hash, Record, STEPS, Seeds, Shape, Step, mask};
use super::reader::find;
use crate::decide::FOREVER;
use crate::packet::Address;

/// Longest owner of an entry in bytes: what fits in a note beside the reason.
pub const OWNER_LENGTH: usize = 24;

/// Longest reason in bytes.
pub const REASON_LENGTH: usize = 96;

/// A change to one entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Edit {
    /// A new entry. Its base is set here.
    Insert(Entry),
    /// The entry with this id gets these slots, end and note.
    Update {
        /// Its id.
        id: u32,
        /// Slots of the policy.
        slots: u8,
        /// End.
        until_s: u32,
        /// Note.
        note: u16,
    },
    /// The entry with this id goes.
    Remove(u32),
}

/// Why a change was not made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Refused {
    /// More entries than there is room for.
    #[error("there is no room for so many entries")]
    Full,
    /// Enough ids are free, but some were used until just now.
    #[error("ids of removed entries rest until second {0}")]
    Resting(u32),
    /// A key found none of its places free, which a table with other seeds or more room has.
    #[error("a prefix found no place in the table, though it is not full; `filter-ctl resize` makes it anew")]
    NoPlace,
    /// The tables hold what no writer writes.
    #[error(
        "the tables hold something that filter-ctl never writes; `filter-ctl unload --all` and load again"
    )]
    Damaged,
    /// All notes are in use.
    #[error(
        "there are {NOTES} different reasons, which is all that can be kept; remove entries, or use reasons again"
    )]
    Notes,
}

/// What is wrong with a table, in words.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct Inconsistent(pub String);

/// The tables, to be changed. Whoever has one holds the lock.
pub struct Table<C> {
    cells: C,
    geometry: Geometry,
    shape: Shape,
    work: Work,
    /// Notes that this process holds, and how often.
    held: HashMap<u16, u64>,
}

impl<C: Cells> Table<C> {
    /// Makes an empty table of words that are all zero.
    pub fn create(cells: C, geometry: Geometry, seeds: Seeds) -> Self {
        let table = Self::open(cells, geometry, seeds);
        for index in 0..STEPS {
            if let Some((_, length)) = Step(index).family_and_length() {
                let (high, low) = mask(length);
                table.set(Region::Steps, step_word(index, 1), high);
                table.set(Region::Steps, step_word(index, 2), low);
            }
        }
        let Seeds(seeds) = seeds;
        for (index, seed) in seeds.into_iter().enumerate() {
            table.set_header(header::SEEDS + index, seed);
        }
        table.set_header(header::NEXT_END, FOREVER.into());
        table.set_header(header::CAPACITY_V4, geometry.capacity_v4.into());
        table.set_header(header::CAPACITY_V6, geometry.capacity_v6.into());
        table.set_header(header::CPUS, geometry.cpus.into());
        table
    }

    /// Opens a table that was made with this geometry and these seeds.
    pub fn open(cells: C, geometry: Geometry, seeds: Seeds) -> Self {
        Self { shape: geometry.shape(seeds), cells, geometry, work: Work::default(), held: HashMap::new() }
    }

    /// The words.
    pub fn cells(&self) -> &C {
        &self.cells
    }

    /// The words, for whoever goes on with them.
    pub fn into_cells(self) -> C {
        self.cells
    }

    /// Its sizes.
    pub fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// What readers must know of it.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// The record that decides about an address: what readers see.
    pub fn find(&self, address: &Address) -> Option<Record> {
        find(&self.view(), &self.shape, address)
    }

    /// Compares the header with the sizes of the table: whoever passes over this may be led beyond them.
    ///
    /// # Errors
    ///
    /// [`Inconsistent`] with what is wrong.
    pub fn check_header(&self) -> Result<(), Inconsistent> {
        let last = u64::from(self.geometry.entries());
        let limits = [
            (header::USED_V4, u64::from(self.geometry.capacity_v4), "IPv4 entries"),
            (header::USED_V6, u64::from(self.geometry.capacity_v6), "IPv6 entries"),
            (header::HIGHEST, last, "the highest id"),
            (header::FREE_FIRST, last, "the first free id"),
            (header::FREE_LAST, last, "the last free id"),
            (header::HIGHEST_NOTE, u64::from(NOTES) - 1, "the highest note"),
        ];
        for (position, limit, what) in limits {
            let found = self.header(position);
            if found > limit {
                return Err(Inconsistent(format!("{what}: {found}, where at most {limit} is possible")));
            }
        }
        Ok(())
    }

    /// Changes made since the table was created.
    pub fn generation(&self) -> u64 {
        self.header(header::GENERATION)
    }

    /// Sum of what all entries say.
    pub fn digest(&self) -> u64 {
        self.header(header::DIGEST)
    }

    /// Whether a change was begun and not finished.
    pub fn is_dirty(&self) -> bool {
        self.header(header::DIRTY) != 0
    }

    /// What the tables know of the store on disk.
    pub fn stored(&self) -> Stored {
        Stored {
            store: self.header(header::STORE),
            change: self.header(header::STORE_CHANGE),
            unstored: self.header(header::UNSTORED) != 0,
        }
    }

    /// Writes down what the tables hold of the store. A reader between two of these words takes the change for one that
    /// is not yet made, and makes it again.
    pub fn set_stored(&self, stored: Stored) {
        self.set_header(header::UNSTORED, stored.unstored.into());
        if self.stored().store != stored.store {
            self.set_header(header::STORE_CHANGE, 0);
        }
        self.set_header(header::STORE, stored.store);
        self.set_header(header::STORE_CHANGE, stored.change);
    }

    /// Entries of a family.
    pub fn used(&self, family: Family) -> u32 {
        self.header_u32(used_of(family))
    }

    /// The second before which no entry ends; [`FOREVER`] if none does.
    pub fn next_end(&self) -> u32 {
        self.header_u32(header::NEXT_END)
    }

    fn view(&self) -> View<'_, C> {
        View { cells: &self.cells, geometry: self.geometry }
    }

    fn hash(&self, key: &Key) -> Hash {
        self.shape.hash(key.step, key.high, key.low)
    }

    fn header(&self, position: usize) -> u64 {
        self.get(Region::Header, position)
    }

    /// A header word that holds a number of entries, an id or a second.
    fn header_u32(&self, position: usize) -> u32 {
        halves(self.header(position)).1
    }

    fn set_header(&self, position: usize, word: u64) {
        self.set(Region::Header, position, word);
    }

    fn get(&self, region: Region, index: usize) -> u64 {
        let [word] = self.cells.load(region, index);
        word
    }

    fn set(&self, region: Region, index: usize, word: u64) {
        self.cells.store(region, index, [word]);
    }
}

/// Marks in the header: a change is being made, or the end of one that was interrupted.
const CHANGING: u64 = 1;
const RECOVERING: u64 = 2;

const fn used_of(family: Family) -> usize {
    match family {
        Family::V4 => header::USED_V4,
        Family::V6 => header::USED_V6,
    }
}

#[expect(clippy::cast_possible_truncation, reason = "that is what it is for")]
const fn halves(word: u64) -> (u32, u32) {
    ((word >> 32) as u32, word as u32)
}

/// Reads words for nothing but that they are in the cache afterwards: all at once, where one after the other each would be
/// waited for.
fn read_ahead(words: impl Iterator<Item = u64>) {
    std::hint::black_box(words.fold(0, |sum, word| sum ^ word));
}

const fn step_word(step: u32, position: usize) -> usize {
    4 * step as usize + position
}

const fn record_at(id: u32) -> usize {
    8 * id as usize
}

const fn entry_word(id: u32, position: usize) -> usize {
    8 * id as usize + position
}
