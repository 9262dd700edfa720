//! Where the words are, as the writer sees them.

use std::sync::atomic::{AtomicU64, Ordering};

use super::geometry::{Geometry, Region};
use super::layout::{Hash, Line, Memory, Range, Shape, Step};
use super::reader::{find_exactly, find_in};

/// Where the words are: memory of this process, or a kernel's maps.
pub trait Cells {
    /// Words of one element of a region, from `first` on.
    ///
    /// # Panics
    ///
    /// If they lie outside. A writer asks for nothing but what the geometry has room for.
    fn cells(&self, region: Region, first: usize, count: usize) -> &[AtomicU64];

    /// Reads words of one element.
    #[inline]
    fn load<const N: usize>(&self, region: Region, first: usize) -> [u64; N] {
        let cells = self.cells(region, first, N).first_chunk::<N>().expect("as many as asked for");
        // Acquire in place of the dependency of addresses that readers in the kernel have: Rust knows no such thing.
        cells.each_ref().map(|cell| cell.load(Ordering::Acquire))
    }

    /// Publishes words of one element, one after the other, and with each all that was stored before.
    #[inline]
    fn store<const N: usize>(&self, region: Region, first: usize, words: [u64; N]) {
        let cells = self.cells(region, first, N);
        for (cell, word) in cells.iter().zip(words) {
            cell.store(word, Ordering::Release);
        }
    }
}

/// A run of words of a region.
pub struct Run<'c, C> {
    cells: &'c C,
    region: Region,
    first: usize,
}

impl<C: Cells> Line for Run<'_, C> {
    #[inline]
    fn word(&self, position: usize) -> u64 {
        let [word] = self.cells.load(self.region, self.first + position);
        word
    }
}

/// The reader's view of a writer's arrays.
pub struct View<'c, C> {
    /// The words.
    pub cells: &'c C,
    /// Their sizes.
    pub geometry: Geometry,
}

impl<'c, C: Cells> View<'c, C> {
    #[inline]
    fn run(&self, region: Region, element: u32) -> Option<Run<'c, C>> {
        (element < self.geometry.elements(region)).then(|| Run {
            cells: self.cells,
            region,
            first: element as usize * region.words() as usize,
        })
    }
}

impl<'c, C: Cells> Memory for View<'c, C> {
    type Line = Run<'c, C>;
    type Step = Run<'c, C>;

    #[inline]
    fn codes(&self, index: u32) -> Option<u64> {
        self.run(Region::Codes, index).map(|run| run.word(0))
    }

    #[inline]
    fn step(&self, index: u32) -> Option<Self::Step> {
        self.run(Region::Steps, index)
    }

    #[inline]
    fn bloom(&self, index: u32) -> Option<u64> {
        self.run(Region::Bloom, index).map(|run| run.word(0))
    }

    #[inline]
    fn bucket(&self, index: u32) -> Option<Self::Line> {
        self.run(Region::Buckets, index)
    }

    #[inline]
    fn record(&self, id: u32) -> Option<Self::Line> {
        self.run(Region::Records, id)
    }

    fn find_in(&self, shape: &Shape, range: Range, high: u64, low: u64) -> Option<u32> {
        find_in(self, shape, range, high, low)
    }

    fn find_exactly(&self, shape: &Shape, step: Step, hash: Hash, high: u64, low: u64) -> Option<u32> {
        find_exactly(self, shape, step, hash, high, low)
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
            (0..u64::from(geometry.elements(region)) * u64::from(region.words()))
                .map(|_| AtomicU64::new(0))
                .collect()
        };
        Self { regions: Region::ALL.into_iter().map(zeros).collect() }
    }
}

impl Cells for OwnCells {
    #[inline]
    fn cells(&self, region: Region, first: usize, count: usize) -> &[AtomicU64] {
        &self.regions[region as usize][first..first + count]
    }
}
