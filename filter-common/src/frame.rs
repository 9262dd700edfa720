//! Access to the bytes of a frame. Holds no protocol knowledge.

use crate::parse::{MAX_EXTENSION_HEADERS, MAX_VLAN_TAGS};

/// The largest offset, in bytes, at which a header may start: behind Ethernet, the VLAN tags, the IPv6 header and
/// as many extension headers of 256 × 8 bytes as are followed.
///
/// The verifier needs a constant bound on packet offsets; it stands here, and not in the BPF shell, so that the
/// host build refuses the same frames as the kernel.
pub const MAX_OFFSET: usize = 14 + 4 * MAX_VLAN_TAGS + 40 + 2048 * MAX_EXTENSION_HEADERS;

/// A frame as received: from the destination MAC address on, without the frame check sequence.
pub trait Frame {
    /// Length of the whole frame, in bytes.
    fn length(&self) -> usize;

    /// The `N` bytes that start at `offset`, or `None` where the frame ends before `offset + N`.
    fn read<const N: usize>(&self, offset: usize) -> Option<[u8; N]>;
}

impl Frame for [u8] {
    fn length(&self) -> usize {
        self.len()
    }

    fn read<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        self.get(offset..)?.first_chunk().copied()
    }
}

/// A position in a frame that only moves forward.
#[derive(Debug)]
pub struct Cursor<'f, F: ?Sized> {
    frame: &'f F,
    offset: usize,
}

impl<'f, F: Frame + ?Sized> Cursor<'f, F> {
    /// A cursor at the first byte of `frame`.
    pub fn new(frame: &'f F) -> Self {
        Self { frame, offset: 0 }
    }

    /// Offset of the next byte, from the start of the frame.
    pub fn offset(&self) -> usize {
        self.offset
    }

    /// Bytes left in the frame.
    pub fn remaining(&self) -> usize {
        self.frame.length().saturating_sub(self.offset)
    }

    /// The next `N` bytes, without moving.
    #[inline(always)] // the verifier must see the comparison with MAX_OFFSET beside the read
    pub fn peek<const N: usize>(&self) -> Option<[u8; N]> {
        if self.offset > MAX_OFFSET {
            return None;
        }
        self.frame.read(self.offset)
    }

    /// The next `N` bytes; the cursor then stands behind them.
    #[inline(always)] // as `peek`
    pub fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let bytes = self.peek()?;
        self.offset += N;
        Some(bytes)
    }

    /// Moves over `count` bytes without reading them.
    pub fn skip(&mut self, count: usize) {
        self.offset += count;
    }
}
