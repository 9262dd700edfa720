//! Words of maps that userspace reads or writes while packets flow: read and written whole, and never from what the
//! compiler remembers.

use core::cell::UnsafeCell;

use filter_common::sample::{RING_WORDS, SAMPLE_WORDS};

/// A word that another process may write at any time.
#[repr(transparent)]
pub struct Word(UnsafeCell<u64>);

// SAFETY: it is only ever accessed by volatile loads and stores of one aligned word.
unsafe impl Sync for Word {}

impl Word {
    /// Its value now.
    #[inline(always)] // the verifier must see that the pointer is a map value's
    pub fn load(&self) -> u64 {
        // SAFETY: the reference is aligned and lies in a map value. The load is volatile and of 64 bits, which every
        // processor that BPF runs on reads at once.
        unsafe { self.0.get().read_volatile() }
    }

    /// Sets it. For words that no other CPU's program writes.
    #[inline(always)] // as `load`
    pub fn store(&self, value: u64) {
        // SAFETY: as for `load`.
        unsafe { self.0.get().write_volatile(value) }
    }
}

/// A run of words.
#[repr(transparent)]
pub struct Line<const N: usize>([Word; N]);

impl<const N: usize> Line<N> {
    /// The word at this position.
    #[inline(always)] // as `Word::load`
    pub fn load(&self, position: usize) -> u64 {
        self.0.get(position).map_or(0, Word::load)
    }

    /// Sets the word at this position.
    #[inline(always)] // as `Word::load`
    pub fn store(&self, position: usize, value: u64) {
        if let Some(word) = self.0.get(position) {
            word.store(value);
        }
    }
}

impl<const N: usize> filter_common::prefix::Line for &Line<N> {
    #[inline(always)] // as `Word::load`
    fn word(&self, position: usize) -> u64 {
        self.load(position)
    }
}

impl filter_common::sample::Ring for &Line<RING_WORDS> {
    #[inline(always)] // as `Word::load`
    fn word(&self, position: usize) -> u64 {
        self.load(position)
    }

    #[inline(always)] // as `Word::load`
    fn set(&self, position: usize, word: u64) {
        self.store(position, word);
    }
}

impl filter_common::sample::Slot for &Line<SAMPLE_WORDS> {
    #[inline(always)] // as `Word::load`
    fn set(&self, position: usize, word: u64) {
        self.store(position, word);
    }
}
