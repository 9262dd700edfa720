//! The arrays: which there are, how large, and what the words of the header mean.

use super::layout::{ALL_CODE_WORDS, BUCKET_SLOTS, Family, ID_MASK, STEPS, Seeds, Shape};

/// An array of words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Region {
    /// Sizes, seeds, totals: see [`header`].
    Header,
    /// 4 words a step: the next step, the mask, and the number of prefixes of this length.
    Steps,
    /// 32 codes a word, and behind them the bits of spans and blocks.
    Codes,
    /// The Bloom filter.
    Bloom,
    /// 8 slots a bucket.
    Buckets,
    /// 8 words a record, by id of the entry that lends it its place.
    Records,
    /// 8 words an entry, by id.
    Entries,
    /// Ids of the entries in the order of their keys: IPv4 from the start, IPv6 behind the room for IPv4.
    Order,
    /// Owner and reason of entries: 16 words each.
    Notes,
    /// Packets and bytes by CPU and id.
    Counters,
}

impl Region {
    /// All regions.
    pub const ALL: [Self; 10] = [
        Self::Header,
        Self::Steps,
        Self::Codes,
        Self::Bloom,
        Self::Buckets,
        Self::Records,
        Self::Entries,
        Self::Order,
        Self::Notes,
        Self::Counters,
    ];

    /// Words in an element, as the kernel's map has them.
    pub const fn words(self) -> u32 {
        match self {
            Self::Header => header::WORDS,
            Self::Steps => 4,
            Self::Codes | Self::Bloom | Self::Order => 1,
            Self::Buckets | Self::Records | Self::Entries => 8,
            Self::Notes => NOTE_WORDS,
            Self::Counters => 2,
        }
    }
}

/// Words of a note: 1 for its use and lengths, 3 for the owner, 12 for the reason.
pub const NOTE_WORDS: u32 = 16;

/// Notes that are kept: distinct pairs of owner and reason, the empty one included. 1 MiB; more than operators type, and
/// few enough to be searched from end to end.
pub const NOTES: u32 = 8192;

/// Positions in the header.
pub mod header {
    /// Words of the header.
    pub const WORDS: u32 = 32;
    /// Room for IPv4 entries.
    pub const CAPACITY_V4: usize = 0;
    /// Room for IPv6 entries.
    pub const CAPACITY_V6: usize = 1;
    /// CPUs that have a block of counters.
    pub const CPUS: usize = 2;
    /// First of three seeds.
    pub const SEEDS: usize = 3;
    /// Changes made.
    pub const GENERATION: usize = 6;
    /// Sum of the digests of all entries.
    pub const DIGEST: usize = 7;
    /// Not zero while a change is under way.
    pub const DIRTY: usize = 8;
    /// IPv4 entries.
    pub const USED_V4: usize = 9;
    /// IPv6 entries.
    pub const USED_V6: usize = 10;
    /// No id above this was ever used.
    pub const HIGHEST: usize = 11;
    /// First of the free ids, in the order in which they were freed.
    pub const FREE_FIRST: usize = 12;
    /// Last of the free ids.
    pub const FREE_LAST: usize = 13;
    /// No entry ends before this second.
    pub const NEXT_END: usize = 14;
    /// Prefixes removed since filter and overflow marks were last made anew.
    pub const STALE: usize = 15;
    /// No note above this is in use.
    pub const HIGHEST_NOTE: usize = 16;
    /// Which store the entries were taken from; zero for none yet. See [`Stored`](super::Stored).
    pub const STORE: usize = 17;
    /// The last change of that store that these tables hold.
    pub const STORE_CHANGE: usize = 18;
    /// Not zero where entries were changed without that store.
    pub const UNSTORED: usize = 19;
}

/// What the tables know of the store on disk that says what they should hold. Written by whoever holds the lock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stored {
    /// Number of the store, made by chance; zero while there was none.
    pub store: u64,
    /// The last change of the store that these tables hold.
    pub change: u64,
    /// Whether entries were changed without the store, which could not be used.
    pub unstored: bool,
}

/// Sizes from which all others follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Room for IPv4 entries.
    pub capacity_v4: u32,
    /// Room for IPv6 entries.
    pub capacity_v6: u32,
    /// CPUs that may count: the possible ones.
    pub cpus: u32,
}

impl Geometry {
    /// Whether every array has as many elements as a map may have.
    pub const fn is_possible(self) -> bool {
        let entries = self.capacity_v4 as u64 + self.capacity_v6 as u64;
        entries > 0 && entries < ID_MASK && (entries + 1) * self.cpus as u64 <= u32::MAX as u64
    }

    /// Most entries.
    pub const fn entries(self) -> u32 {
        self.capacity_v4 + self.capacity_v6
    }

    /// Ids: one for each entry, and id 0, which stands for no entry.
    pub const fn ids(self) -> u32 {
        self.entries() + 1
    }

    /// Entries of a family.
    pub const fn capacity(self, family: Family) -> u32 {
        match family {
            Family::V4 => self.capacity_v4,
            Family::V6 => self.capacity_v6,
        }
    }

    /// Buckets: twice as many slots as entries, so that one key in 120 overflows when all is full.
    #[expect(clippy::cast_possible_truncation, reason = "eight")]
    pub const fn buckets(self) -> u32 {
        const SMALLEST: u32 = 8;
        self.entries() / (BUCKET_SLOTS as u32 / 2) + SMALLEST
    }

    /// Words of the Bloom filter: 16 bits for each key in it, so that one word in a hundred admits in vain. IPv6 entries
    /// have a second key for their group.
    pub const fn bloom_words(self) -> u32 {
        const SMALLEST: u32 = 8;
        self.capacity_v4 / 4 + self.capacity_v6 / 2 + SMALLEST
    }

    /// Elements of a region.
    ///
    /// # Panics
    ///
    /// Where [`Geometry::is_possible`] is not so.
    pub const fn elements(self, region: Region) -> u32 {
        match region {
            Region::Header => 1,
            Region::Steps => STEPS,
            Region::Codes => ALL_CODE_WORDS,
            Region::Bloom => self.bloom_words(),
            Region::Buckets => self.buckets(),
            Region::Records | Region::Entries => self.ids(),
            Region::Order => self.entries(),
            Region::Notes => NOTES,
            Region::Counters => self.ids() * self.cpus,
        }
    }

    /// Bytes of all regions.
    pub fn bytes(self) -> u64 {
        Region::ALL.into_iter().map(|region| self.region_bytes(region)).sum()
    }

    /// Bytes of a region.
    pub fn region_bytes(self, region: Region) -> u64 {
        u64::from(self.elements(region)) * u64::from(region.words()) * 8
    }

    /// What readers must know.
    pub const fn shape(self, seeds: Seeds) -> Shape {
        Shape { seeds, buckets: self.buckets(), bloom_words: self.bloom_words() }
    }
}
