//! The tables' arrays, mapped into this process' memory.
//!
//! A command that changes one entry touches some dozen places in arrays of hundreds of megabytes, and the kernel sets
//! up every page of a mapping at once: so pieces are mapped when they are first touched, and whole arrays only for
//! work that goes over all of them.

use std::cell::{Cell, RefCell};
use std::path::Path;
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;

use anyhow::{Context as _, Result};
use aya::maps::MapData;
use filter_common::abi::{Capacity, MapSpec};
use filter_common::prefix::{Cells, Geometry, Region};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use super::set::Set;

/// Bytes of a piece: a few pages' cost a call, and a multiple of every page size in use (64 KiB on some arm64).
const PIECE: usize = 1 << 16;

/// Words in a piece.
const PIECE_WORDS: usize = PIECE / size_of::<AtomicU64>();

/// The arrays of a set of tables.
pub struct MappedCells {
    /// By region; nothing for those that were not opened.
    regions: [Option<Mapped>; Region::ALL.len()],
}

/// One array.
struct Mapped {
    map: MapData,
    name: &'static str,
    /// Length in bytes, whole pages.
    length: usize,
    /// Where each piece is mapped.
    pieces: Box<[Cell<Option<NonNull<AtomicU64>>>]>,
    /// What to unmap.
    mappings: RefCell<Vec<(NonNull<AtomicU64>, usize)>>,
}

impl MappedCells {
    /// Opens those arrays of `set` that are among these maps, which were compared with `geometry`.
    ///
    /// # Errors
    ///
    /// If a map can't be opened.
    pub fn open(set: &Set, geometry: Geometry, maps: &[MapSpec]) -> Result<Self> {
        let mut regions = Region::ALL.map(|_| None);
        for spec in maps {
            if let Capacity::Table(region) = spec.capacity {
                let mapped = Mapped::open(spec.name, &set.map(spec), geometry.region_bytes(region))?;
                regions[region as usize] = Some(mapped);
            }
        }
        Ok(Self { regions })
    }

    /// Maps all arrays that were opened whole, for work that goes over all of them.
    ///
    /// # Errors
    ///
    /// If there is no room in the address space.
    pub fn map_all(&self) -> Result<()> {
        self.regions.iter().flatten().try_for_each(Mapped::map_all)
    }
}

impl Cells for MappedCells {
    #[inline]
    fn cells(&self, region: Region, first: usize, count: usize) -> &[AtomicU64] {
        let mapped = self.regions[region as usize].as_ref();
        let mapped = mapped.expect("whoever asks for a region has opened it");
        let (piece, offset) = (first / PIECE_WORDS, first % PIECE_WORDS);
        // Elements are powers of two in size, so none lies across the border of a piece.
        assert!(
            offset + count <= PIECE_WORDS && (first + count) * size_of::<AtomicU64>() <= mapped.length,
            "{} has no words {first} to {}",
            mapped.name,
            first + count
        );
        let start = mapped.pieces[piece].get().unwrap_or_else(|| mapped.map_piece(piece));
        // SAFETY: the piece is mapped from `start` on for PIECE bytes, or up to the array's length, within both of which
        // the words were found to lie; it stays mapped as long as `self` lives. Words are aligned, since mappings
        // start at pages. All access from this process is atomic; the kernel's programs only read, or write counters of
        // which any value will do.
        unsafe { std::slice::from_raw_parts(start.add(offset).as_ptr(), count) }
    }
}

impl Mapped {
    fn open(name: &'static str, path: &Path, bytes: u64) -> Result<Self> {
        let map = open_map(path)?;
        let page = rustix::param::page_size();
        let length = usize::try_from(bytes).context("the map is larger than memory")?.next_multiple_of(page);
        let pieces = (0..length.div_ceil(PIECE)).map(|_| Cell::new(None)).collect();
        Ok(Self { map, name, length, pieces, mappings: RefCell::default() })
    }

    fn map_all(&self) -> Result<()> {
        if self.pieces.iter().all(|piece| piece.get().is_some()) {
            return Ok(());
        }
        let start = self.map_bytes(0, self.length)?;
        for (number, piece) in self.pieces.iter().enumerate() {
            // SAFETY: the piece starts within the mapping just made.
            piece.set(Some(unsafe { start.add(number * PIECE_WORDS) }));
        }
        Ok(())
    }

    /// Maps a piece.
    ///
    /// # Panics
    ///
    /// If the kernel refuses, which leaves the change for the next command to finish. It has memory for the page tables
    /// of 64 KiB, or this host has none for anything.
    fn map_piece(&self, number: usize) -> NonNull<AtomicU64> {
        let first = number * PIECE;
        let start =
            self.map_bytes(first, PIECE.min(self.length - first)).unwrap_or_else(|error| panic!("{error:#}"));
        self.pieces[number].set(Some(start));
        start
    }

    fn map_bytes(&self, first: usize, length: usize) -> Result<NonNull<AtomicU64>> {
        let start = map_bytes(&self.map, self.name, first, length)?;
        self.mappings.borrow_mut().push((start, length));
        Ok(start)
    }
}

/// Maps a part of an array. Whoever gets it unmaps it.
fn map_bytes(map: &MapData, name: &str, first: usize, length: usize) -> Result<NonNull<AtomicU64>> {
    // SAFETY: a new mapping at an address of the kernel's choice: it replaces nothing.
    let start = unsafe {
        mmap(
            std::ptr::null_mut(),
            length,
            ProtFlags::READ | ProtFlags::WRITE,
            MapFlags::SHARED,
            map.fd(),
            first as u64,
        )
    };
    let start = start.with_context(|| format!("could not map {length} bytes of the map {name}"))?;
    NonNull::new(start.cast()).context("the kernel mapped at address zero")
}

fn open_map(path: &Path) -> Result<MapData> {
    MapData::from_pin(path).with_context(|| format!("could not open the map {}", path.display()))
}

/// An array that is mapped whole, and whose elements may have any length.
pub struct MappedArray {
    start: NonNull<AtomicU64>,
    words: usize,
    length: usize,
}

// SAFETY: all that it gives out are references to atomic words, and the mapping belongs to the process, not to a thread.
unsafe impl Send for MappedArray {}
// SAFETY: as above.
unsafe impl Sync for MappedArray {}

impl MappedArray {
    /// Maps the array that is pinned at `path`, of so many words, which was compared with what is expected.
    ///
    /// # Errors
    ///
    /// If it can't be opened, or there is no room in the address space.
    pub fn open(path: &Path, name: &str, words: usize) -> Result<Self> {
        let length = (words * size_of::<AtomicU64>()).next_multiple_of(rustix::param::page_size());
        // The mapping keeps the map, so its descriptor may be closed.
        let start = map_bytes(&open_map(path)?, name, 0, length)?;
        Ok(Self { start, words, length })
    }

    /// Its words. Other processes and the kernel's programs may change them at any time.
    pub fn words(&self) -> &[AtomicU64] {
        // SAFETY: as many words are mapped from `start` on as long as `self` lives, aligned, since mappings start at pages.
        // All access from this process is atomic; the kernel's programs store whole words.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.words) }
    }
}

impl Drop for MappedArray {
    fn drop(&mut self) {
        unmap(self.start, self.length);
    }
}

fn unmap(start: NonNull<AtomicU64>, length: usize) {
    // SAFETY: called by those who own what `map_bytes` mapped with this length, when nothing borrows from it any more. That
    // it can't fail for a mapping of our own is all there is to say about the result.
    let _ = unsafe { munmap(start.as_ptr().cast(), length) };
}

impl Drop for Mapped {
    fn drop(&mut self) {
        for (start, length) in self.mappings.get_mut().drain(..) {
            unmap(start, length);
        }
    }
}
