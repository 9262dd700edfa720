//! The prefix tables: which entries cover a source address, whatever their length, in a handful of cache lines.
//!
//! # Structure
//!
//! Flat arrays of 64-bit words. A packet touches them in this order:
//!
//! 1. **codes** (IPv4): a bit for each /16 and for each /22 says whether any prefix has to do with it; two bits for each
//!    /24, whether single addresses lie in it, a prefix of at most 24 bits covers it, or more than that. Most clean packets
//!    end here.
//! 2. **steps**: for each length the next shorter one in use, and its mask. A look-up tries the lengths in use
//!    from long to short.
//! 3. **bloom**: a Bloom filter over (length, prefix), three bits of one word each, so that a length without a prefix
//!    for this address costs one cached word (Putze, Sanders and Singler, *Cache-, Hash- and Space-Efficient Bloom
//!    Filters*, 2007). It also holds the first 32 bits of IPv6 prefixes, which end most clean IPv6 packets.
//! 4. **buckets**: one cache line of eight slots, each a tag and the id of a record. A bucket that was full when a
//!    key came says so, and the key is in its next choice.
//! 5. **records**: one cache line for each prefix: the prefix itself, and what is decided there ([`Record`]).
//!
//! A record holds what the entries of its prefix *and of all wider prefixes that cover it* say, so the longest match
//! is the whole answer. [`writer`] keeps it so.
//!
//! # Memory model
//!
//! One writer, under a lock, and any number of readers in the kernel, which take no lock. Words are 64 bits, aligned,
//! and written whole. Every change becomes visible by one Release store of one word, and every state between two
//! stores is a valid table:
//!
//! - A record is written before the slot that names it. The reader gets to it only through the id in that slot: an
//!   address dependency, which all processors order, arm64 included. Nothing relies on the order of two loads
//!   with only a branch between them.
//! - The words of a record (an action in a slot of the policy) are independent of each other. Each holds a
//!   deadline and the entry that names it.
//! - A record that no slot names any more stays as it is for [`REST_S`] seconds before its id is used again: longer
//!   than any run of the program that may still be reading it.
//! - Codes, bloom and steps only admit look-ups: they are set before or after the slot, in any order, and cleared
//!   when nothing needs them. A bit that is set in vain costs time, never a verdict.
//! - Keys never move between buckets, so a reader between two buckets misses nothing.
//!
//! So a writer that dies anywhere leaves a table that answers right for everything that it was not changing.
//!
//! # Hashing
//!
//! Each 32-bit half of a key is added to a secret seed, the sums are multiplied in pairs (NH, Black et al., *UMAC*,
//! 1999), and the whole is mixed by MurmurHash3's finalizer. For two given keys, whoever does not know the seeds
//! can't make them collide more often than by chance (2^-32). The seeds are random, and lie in a map that only root
//! can read and in the program's read-only data.

#[cfg(any(test, feature = "writer"))]
mod cells;
#[cfg(any(test, feature = "writer"))]
mod entry;
mod geometry;
mod layout;
mod reader;
#[cfg(any(test, feature = "writer"))]
pub mod writer;

#[cfg(any(test, feature = "writer"))]
pub use cells::{Cells, OwnCells, View};
#[cfg(any(test, feature = "writer"))]
pub use entry::{Entry, Key, in_order};
pub use geometry::{Geometry, NOTE_WORDS, NOTES, Region, Stored, header};
#[cfg(any(test, feature = "writer"))]
pub use layout::code_of;
pub use layout::{
    ALL_CODE_WORDS, BUCKET_SLOTS, Family, Hash, Lengths, Line, Memory, REST_S, Range, Record, SLOTS, STEPS,
    Seeds, Shape, Step, Switch, mask, words_of,
};
pub use reader::{find, find_exactly, find_in, lengths_of};
#[cfg(any(test, feature = "writer"))]
pub use writer::{AHEAD, Edit, Finger, Inconsistent, OWNER_LENGTH, REASON_LENGTH, Refused, Table};
