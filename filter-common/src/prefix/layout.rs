//! One definition of hashing, buckets and words, for reader and writer.

use crate::decide::Match;
use crate::packet::Address;

/// Policies that may be in force: the active one and, while it is tried, a pending one.
pub const SLOTS: usize = 2;

/// Keys in a bucket: what one cache line of 64 bytes holds.
pub const BUCKET_SLOTS: usize = 8;

/// Buckets in which a key may lie. At full load, half of the slots, one key in 120 goes to its second, one in 2,500 to its
/// third, and of a million full tables of a million keys one has a key that finds no place in eight: then the writer
/// refuses it, and a table with other seeds has room.
pub const CHOICES: u32 = 8;

/// Words of codes: 2^24 codes of two bits. Behind them lie [`SPAN_WORDS`].
pub const CODE_WORDS: u32 = 1 << 19;

/// Words with a bit for each IPv4 /16, set where one of its codes is not zero: 8 KiB, which stay in the first-level cache,
/// and end most look-ups of small sets. Behind them lie [`BLOCK_WORDS`].
pub const SPAN_WORDS: u32 = 1 << 10;

/// Words with a bit for each IPv4 /22, one word a /16, likewise: 512 KiB, for the second-level cache, which end four
/// look-ups of five among a million addresses.
pub const BLOCK_WORDS: u32 = 1 << 16;

/// Words of the array that holds codes, spans and blocks.
pub const ALL_CODE_WORDS: u32 = CODE_WORDS + SPAN_WORDS + BLOCK_WORDS;

/// Bits in a word of these.
pub const SPANS_A_WORD: u32 = 64;

/// IPv6 prefixes of at least this length are in the Bloom filter a second time, as their first 32 bits, which is what
/// registries give to a network: an address of a network with no prefix is done after one look, whatever lengths are in
/// use.
pub const GROUP_LENGTH: u8 = 32;

/// The mask of [`GROUP_LENGTH`].
pub const GROUP_MASK: u64 = !0 << 32;

/// Elements of the table of steps: see [`Step`].
pub const STEPS: u32 = 256;

/// Seconds that an id rests before it is used again, counted in whole seconds of the clock: between one and two. A
/// run of the program takes microseconds; a second also covers a virtual CPU that is not scheduled meanwhile.
pub const REST_S: u32 = 2;

/// Low bits of a slot that hold the id of a record: 16 million.
pub const ID_BITS: u32 = 24;

/// The bits of the id.
pub const ID_MASK: u64 = (1 << ID_BITS) - 1;

/// In the first slot of a bucket: a key whose choice it was lies in a later choice.
pub const OVERFLOW: u64 = 1 << ID_BITS;

/// The code of a /24 in which single addresses lie, and that no other prefix has to do with.
pub const HOSTS: u64 = 0b01;

/// The code of a /24 that a prefix of at most [`WIDE_LENGTH`] bits covers, and in which no longer one lies.
pub const WIDE: u64 = 0b10;

/// The code of any other /24 that a prefix has to do with. It is what [`HOSTS`] and [`WIDE`] give together, so that codes
/// can be set without a look at what they are.
pub const MIXED: u64 = HOSTS | WIDE;

/// The longest length that [`WIDE`] stands for.
pub const WIDE_LENGTH: u8 = 24;

/// What a prefix of this length adds to the codes of the /24s that it has to do with.
#[cfg(any(test, feature = "writer"))]
pub const fn code_of(length: u8) -> u64 {
    match length {
        ..=WIDE_LENGTH => WIDE,
        32 => HOSTS,
        _ => MIXED,
    }
}

/// Codes in a word.
pub const CODES_A_WORD: u32 = 32;

/// The families of addresses, as offsets in the table of steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u32)]
pub enum Family {
    /// IPv4: lengths 0 to 32.
    V4 = 0,
    /// IPv6: lengths 0 to 128.
    V6 = 64,
}

impl Family {
    /// Bits of an address.
    pub const fn bits(self) -> u8 {
        match self {
            Self::V4 => 32,
            Self::V6 => 128,
        }
    }
}

/// A step of a look-up: an index into the table of steps, which stands for a family and a length. The step after
/// the longest length is where a look-up starts. Zero is the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Step(pub u32);

impl Step {
    /// Stands in the hash for the first 32 bits of an IPv6 address: no step of a length.
    pub const GROUP: Self = Self(STEPS - 1);

    /// The step of single IPv4 addresses.
    pub const HOST: Self = Self::of(Family::V4, Family::V4.bits());

    /// The step of a length.
    pub const fn of(family: Family, length: u8) -> Self {
        Self(family as u32 + length as u32 + 1)
    }

    /// Where a look-up among all lengths starts.
    pub const fn start(family: Family) -> Self {
        Self::of(family, family.bits() + 1)
    }

    /// Family and length; nothing for a number that is no step of a length.
    pub const fn family_and_length(self) -> Option<(Family, u8)> {
        let (family, length) = match self.0 {
            1..=33 => (Family::V4, self.0 - 1),
            65..=193 => (Family::V6, self.0 - 65),
            _ => return None,
        };
        #[expect(clippy::cast_possible_truncation, reason = "at most 128")]
        Some((family, length as u8))
    }
}

/// Of which lengths a prefix of an address can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lengths {
    /// All bits of an IPv4 address.
    Host,
    /// Those in use in this range.
    Among(Range),
}

/// Lengths to try, from long to short.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// The step behind which they start.
    pub before: Step,
    /// The last to try.
    pub last: Step,
}

impl Range {
    /// Both as one number, for functions with few arguments.
    pub const fn pack(self) -> u32 {
        self.before.0 << 8 | self.last.0
    }

    /// The range of that number.
    pub const fn unpack(packed: u32) -> Self {
        Self { before: Step(packed >> 8 & 0xff), last: Step(packed & 0xff) }
    }
}

/// A run of words that lie together, such as a cache line.
pub trait Line {
    /// The word at `position`, read whole.
    fn word(&self, position: usize) -> u64;
}

/// The arrays, as a reader sees them. Each answers `None` for an index beyond its end.
pub trait Memory {
    /// A bucket or record.
    type Line: Line;
    /// A step.
    type Step: Line;
    /// 32 codes, or bits of 64 spans or blocks.
    fn codes(&self, index: u32) -> Option<u64>;
    /// A step: the next step and two words of mask.
    fn step(&self, index: u32) -> Option<Self::Step>;
    /// A word of the Bloom filter.
    fn bloom(&self, index: u32) -> Option<u64>;
    /// A bucket.
    fn bucket(&self, index: u32) -> Option<Self::Line>;
    /// A record.
    fn record(&self, id: u32) -> Option<Self::Line>;
    /// Told of an entry whose counters will most likely be needed, while its record is still on the way from memory.
    fn expect(&self, _entry: u32) {}
    /// [`find_in`](super::find_in), by a call of its own where that is cheaper.
    fn find_in(&self, shape: &Shape, range: Range, high: u64, low: u64) -> Option<u32>;
    /// [`find_exactly`](super::find_exactly), likewise.
    fn find_exactly(&self, shape: &Shape, step: Step, hash: Hash, high: u64, low: u64) -> Option<u32>;
}

/// Secret numbers of the hash function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seeds(pub [u64; 3]);

/// What a look-up must know before it starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Secret numbers.
    pub seeds: Seeds,
    /// Number of buckets.
    pub buckets: u32,
    /// Words of the Bloom filter.
    pub bloom_words: u32,
}

impl Shape {
    /// The hash of a prefix (`high` and `low` with host bits zero) of the length for which `step` stands.
    #[inline(always)] // in BPF, a call with five arguments would go through the stack
    pub fn hash(&self, step: Step, high: u64, low: u64) -> Hash {
        let Seeds([first, second, third]) = self.seeds;
        let pair = |word: u64, seed: u64| {
            let left = ((word >> 32) + (seed >> 32)) & 0xffff_ffff;
            let right = word.wrapping_add(seed) & 0xffff_ffff;
            left * right
        };
        let sum = pair(high, first)
            .wrapping_add(pair(low, second))
            .wrapping_add(u64::from(step.0).wrapping_mul(third));
        Hash(mixed(sum))
    }

    /// Index of the bucket that is the key's choice number `choice`.
    #[inline(always)] // as `hash`
    pub fn bucket(&self, hash: Hash, choice: u32) -> u32 {
        /// 2^32 over the golden ratio: its small multiples lie far from each other.
        const APART: u32 = 0x9e37_79b9;
        let stride = APART.wrapping_add(hash.tag() >> 3);
        let place = ((hash.0 >> 32) as u32).wrapping_add(choice.wrapping_mul(stride));
        scaled(place, self.buckets)
    }

    /// Word of the Bloom filter, and the bits in it.
    #[inline(always)] // as `hash`
    pub fn bloom(&self, hash: Hash) -> (u32, u64) {
        let bit = |shift: u32| 1u64 << ((hash.0 >> shift) & 63);
        (scaled(hash.tag(), self.bloom_words), bit(32) | bit(38) | bit(44))
    }
}

/// The hash of a prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hash(pub u64);

impl Hash {
    /// What a slot keeps of it.
    #[inline(always)] // as `Shape::hash`
    pub fn tag(self) -> u32 {
        #[expect(clippy::cast_possible_truncation, reason = "the lower half is meant")]
        {
            self.0 as u32
        }
    }
}

/// `place` of 2^32 as a place of `count`, without a division (Lemire, *Fast random integer generation*, 2019).
#[inline(always)] // as `Shape::hash`
fn scaled(place: u32, count: u32) -> u32 {
    ((u64::from(place) * u64::from(count)) >> 32) as u32
}

/// The finalizer of MurmurHash3 (Appleby, public domain): each bit of `x` decides about half of those that come out.
#[inline(always)] // as `Shape::hash`
pub(crate) const fn mixed(mut x: u64) -> u64 {
    x ^= x >> 33;
    x = x.wrapping_mul(0xff51_afd7_ed55_8ccd);
    x ^= x >> 33;
    x = x.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    x ^ (x >> 33)
}

/// Words of a record, by position.
pub mod record_word {
    /// Upper half of the network address; an IPv4 address is its upper half.
    pub const HIGH: usize = 0;
    /// Lower half.
    pub const LOW: usize = 1;
    /// The [`Step`](super::Step) of family and length.
    pub const STEP: usize = 2;
    /// First of the words of [`Record`](super::Record).
    pub const FIRST: usize = 4;
}

/// What is decided for the addresses whose longest match is a prefix: for each slot of the policy and each action
/// when the *last* of all covering entries ends, and the most specific of these entries.
///
/// So the end of a nested entry never uncovers what a wider entry covers, with no process alive; only the name may
/// lag until a writer runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// By slot and action (allow, block): the end in the upper half, the entry in the lower; zero where there is none.
    pub words: [u64; 2 * SLOTS],
}

impl Record {
    /// The allow entries that cover the address under the policy in `slot`.
    #[inline(always)] // as `Shape::hash`
    pub fn allow(&self, slot: usize) -> Match {
        Match::from_word(if slot == 0 { self.words[0] } else { self.words[2] })
    }

    /// The block entries that cover the address under the policy in `slot`.
    #[inline(always)] // as `Shape::hash`
    pub fn block(&self, slot: usize) -> Match {
        Match::from_word(if slot == 0 { self.words[1] } else { self.words[3] })
    }
}

/// Which slot of the policy is in force: one word, so that a switch is one store.
///
/// From the lowest byte on: the active slot, the pending slot; in the upper half the second of the clock at which the
/// pending one lapses unless it was confirmed. Where both are the same, nothing is pending.
///
/// A reader copies a record before it looks at the switch. So a slot may be put in force no sooner than [`REST_S`] after
/// the last store that filled it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Switch(pub u64);

impl Switch {
    /// Slot `active` is in force.
    pub const fn settled(active: u8) -> Self {
        Self(active as u64 & 1 | (active as u64 & 1) << 8)
    }

    /// The other slot than `active` is in force until `confirm_by_s`, and afterwards `active`.
    pub const fn trying(active: u8, confirm_by_s: u32) -> Self {
        let active = active as u64 & 1;
        Self(active | (active ^ 1) << 8 | (confirm_by_s as u64) << 32)
    }

    /// The active slot.
    #[inline(always)] // as `Shape::hash`
    pub const fn active(self) -> usize {
        (self.0 & 1) as usize
    }

    /// The pending slot and when it lapses, if there is one.
    #[inline(always)] // as `Shape::hash`
    pub const fn pending(self) -> Option<(usize, u32)> {
        let pending = (self.0 >> 8 & 1) as usize;
        let confirm_by_s = (self.0 >> 32) as u32;
        if pending == self.active() { None } else { Some((pending, confirm_by_s)) }
    }
}

/// The 128 bits of an address as two words; IPv4 in the uppermost 32.
#[inline(always)] // as `Shape::hash`
pub fn words_of(address: &Address) -> (Family, u64, u64) {
    match *address {
        Address::V4(octets) => (Family::V4, (u32::from_be_bytes(octets) as u64) << 32, 0),
        Address::V6([a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p]) => (
            Family::V6,
            u64::from_be_bytes([a, b, c, d, e, f, g, h]),
            u64::from_be_bytes([i, j, k, l, m, n, o, p]),
        ),
    }
}

/// The mask of a length, as two words.
pub const fn mask(length: u8) -> (u64, u64) {
    const fn ones(bits: u8) -> u64 {
        match bits {
            0 => 0,
            1..64 => u64::MAX << (64 - bits),
            _ => u64::MAX,
        }
    }
    (ones(length), ones(length.saturating_sub(64)))
}

const _: () = {
    assert!(BUCKET_SLOTS * 8 == 64 && 8 * (record_word::FIRST + 2 * SLOTS) == 64);
    assert!(Step::start(Family::V4).0 < Step::of(Family::V6, 0).0 && Step::start(Family::V6).0 < STEPS);
};
