//! The only pointer arithmetic on packets.

use aya_ebpf::programs::XdpContext;
use filter_common::Frame;

/// The linear part of an XDP buffer, which without frags is the whole frame.
pub struct XdpFrame {
    data: usize,
    data_end: usize,
}

impl XdpFrame {
    #[inline(always)] // the verifier tracks packet pointers only within what it can see at once
    pub fn new(context: &XdpContext) -> Self {
        Self { data: context.data(), data_end: context.data_end() }
    }
}

impl Frame for XdpFrame {
    #[inline(always)] // as `new`
    fn length(&self) -> usize {
        self.data_end - self.data
    }

    #[inline(always)] // the bounds check must stand directly before the read
    fn read<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        let start = self.data + offset;
        if start + N > self.data_end {
            return None;
        }
        // SAFETY: start + N <= data_end, so the bytes lie within the frame; a byte array has no alignment
        // and no invalid values. The kernel keeps the buffer alive while the program runs.
        Some(unsafe { *(start as *const [u8; N]) })
    }
}
