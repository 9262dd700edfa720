//! Where the words are, as the writer sees them.

use std::sync::atomic::{AtomicU64, Ordering};

use super::geometry::{Geometry, Region};
use super::layout::{Hash, Line, Memory, Shape, Step};
use super::reader::find_exactly;

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
    type Step = Run<'c, C>;

    fn codes(&self, index: u32) -> Option<u64> {
        self.run(Region::Codes, index).map(|run| run.word(0))
    }

    fn step(&self, index: u32) -> Option<Self::Step> {
        self.run(Region::Steps, index)
    }

    fn bloom(&self, index: u32) -> Option<u64> {
        self.run(Region::Bloom, index).map(|run| run.word(0))
    }

    fn bucket(&self, index: u32) -> Option<Self::Line> {
        self.run(Region::Buckets, index)
    }

    fn record(&self, id: u32) -> Option<Self::Line> {
        self.run(Region::Records, id)
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
    fn cell(&self, region: Region, index: usize) -> &AtomicU64 {
        &self.regions[region as usize][index]
    }
}
