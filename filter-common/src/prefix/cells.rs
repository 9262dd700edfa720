//! The arrays as the writer sees them: which there are, how large, and what their words mean.

use std::sync::atomic::{AtomicU64, Ordering};

use super::layout::{BUCKET_SLOTS, CODE_WORDS, Family, Line, Memory, STEPS, Seeds, Shape};

/// An array of words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Region {
    /// Sizes, seeds, totals: see [`header`].
    Header,
    /// 4 words a step: the next step, the mask, and the number of prefixes of this length.
    Steps,
    /// 32 codes a word.
    Codes,
    /// The Bloom filter.
    Filter,
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
        Self::Filter,
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
            Self::Codes | Self::Filter | Self::Order => 1,
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
    pub const fn buckets(self) -> u32 {
        const SMALLEST: u32 = 8;
        2 * self.entries() / BUCKET_SLOTS as u32 + SMALLEST
    }

    /// Words of the Bloom filter: 16 bits an IPv6 entry, so that one word in a hundred admits in vain.
    pub const fn filter_words(self) -> u32 {
        const SMALLEST: u32 = 8;
        self.capacity_v6 / 4 + SMALLEST
    }

    /// Elements of a region.
    ///
    /// # Panics
    ///
    /// Never for a geometry that was checked: the counters' elements fit 32 bits.
    pub const fn elements(self, region: Region) -> u32 {
        match region {
            Region::Header => 1,
            Region::Steps => STEPS,
            Region::Codes => CODE_WORDS,
            Region::Filter => self.filter_words(),
            Region::Buckets => self.buckets(),
            Region::Records | Region::Entries => self.ids(),
            Region::Order => self.entries(),
            Region::Notes => NOTES,
            Region::Counters => self.ids() * self.cpus,
        }
    }

    /// Bytes of all regions.
    pub fn bytes(self) -> u64 {
        let bytes = |region: Region| u64::from(self.elements(region)) * u64::from(region.words()) * 8;
        Region::ALL.into_iter().map(bytes).sum()
    }

    /// What readers must know.
    pub const fn shape(self, seeds: Seeds) -> Shape {
        Shape { seeds, buckets: self.buckets(), filter_words: self.filter_words() }
    }
}

/// Where the words are: memory of this process, or a kernel's maps.
pub trait Cells {
    /// The word at `index` of a region.
    ///
    /// # Panics
    ///
    /// If it lies outside. A writer asks for nothing but what the geometry has room for.
    fn cell(&self, region: Region, index: usize) -> &AtomicU64;

    /// Reads a word.
    fn load(&self, region: Region, index: usize) -> u64 {
        // Acquire in place of the dependency of addresses that readers in the kernel have: Rust knows no such thing.
        self.cell(region, index).load(Ordering::Acquire)
    }

    /// Publishes a word, and with it all that was stored before.
    fn store(&self, region: Region, index: usize, word: u64) {
        self.cell(region, index).store(word, Ordering::Release);
    }
}

/// A run of words of a region.
pub struct Run<'c, C: ?Sized> {
    cells: &'c C,
    region: Region,
    first: usize,
}

impl<C: Cells + ?Sized> Line for Run<'_, C> {
    fn word(&self, position: usize) -> u64 {
        self.cells.load(self.region, self.first + position)
    }
}

/// The reader's view of a writer's arrays.
pub struct View<'c, C: ?Sized> {
    /// The words.
    pub cells: &'c C,
    /// Their sizes.
    pub geometry: Geometry,
}

impl<'c, C: Cells + ?Sized> View<'c, C> {
    fn run(&self, region: Region, element: u32) -> Option<Run<'c, C>> {
        (element < self.geometry.elements(region)).then(|| Run {
            cells: self.cells,
            region,
            first: element as usize * region.words() as usize,
        })
    }
}

impl<'c, C: Cells + ?Sized> Memory for View<'c, C> {
    type Line = Run<'c, C>;

    fn codes(&self, index: u32) -> Option<u64> {
        self.run(Region::Codes, index).map(|run| run.word(0))
    }

    fn step(&self, index: u32) -> Option<Self::Line> {
        self.run(Region::Steps, index)
    }

    fn filter(&self, index: u32) -> Option<u64> {
        self.run(Region::Filter, index).map(|run| run.word(0))
    }

    fn bucket(&self, index: u32) -> Option<Self::Line> {
        self.run(Region::Buckets, index)
    }

    fn record(&self, id: u32) -> Option<Self::Line> {
        self.run(Region::Records, id)
    }
}

/// Words in this process' own memory.
pub struct OwnCells {
    regions: Vec<Box<[AtomicU64]>>,
}

impl OwnCells {
    /// All zero.
    pub fn new(geometry: Geometry) -> Self {
        let zeros = |region: Region| {
            (0..u64::from(geometry.elements(region)) * u64::from(region.words())).map(|_| AtomicU64::new(0)).collect()
        };
        Self { regions: Region::ALL.into_iter().map(zeros).collect() }
    }
}

impl Cells for OwnCells {
    fn cell(&self, region: Region, index: usize) -> &AtomicU64 {
        &self.regions[region as usize][index]
    }
}
