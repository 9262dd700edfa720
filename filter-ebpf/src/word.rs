//! Words of maps that userspace writes while packets flow: read whole, and never from what the compiler remembers.

use core::cell::UnsafeCell;

/// A word that another process may write at any time.
#[repr(transparent)]
pub struct Word(UnsafeCell<u64>);

// SAFETY: it is only ever read, by volatile loads of one aligned word.
unsafe impl Sync for Word {}

impl Word {
    /// Its value now.
    #[inline(always)] // the verifier must see that the pointer is a map value's
    pub fn load(&self) -> u64 {
        // SAFETY: the reference is aligned and lies in a map value. The load is volatile and of 64 bits, which every
        // processor that BPF runs on reads at once.
        unsafe { self.0.get().read_volatile() }
    }
}

/// A run of words.
#[repr(transparent)]
pub struct Line<const N: usize>([Word; N]);

impl<const N: usize> filter_common::prefix::Line for &Line<N> {
    #[inline(always)] // as `load`
    fn word(&self, position: usize) -> u64 {
        self.0.get(position).map_or(0, Word::load)
    }
}
