//! The only pointer arithmetic on packets.

use core::mem::MaybeUninit;

use aya_ebpf::bindings::xdp_md;
use aya_ebpf::helpers::{bpf_xdp_get_buff_len, bpf_xdp_load_bytes};
use aya_ebpf::programs::XdpContext;
use filter_common::Frame;

/// An XDP buffer. Without `FRAGS` its linear part is the whole frame; with it the rest lies in fragments, which
/// pointers can't reach.
pub struct XdpFrame<const FRAGS: bool> {
    context: *mut xdp_md,
    data: usize,
    data_end: usize,
}

impl<const FRAGS: bool> XdpFrame<FRAGS> {
    #[inline(always)] // the verifier tracks packet pointers only within what it can see at once
    pub fn new(context: &XdpContext) -> Self {
        Self { context: context.ctx, data: context.data(), data_end: context.data_end() }
    }
}

impl<const FRAGS: bool> Frame for XdpFrame<FRAGS> {
    #[inline(always)] // as `new`
    #[expect(clippy::cast_possible_truncation, reason = "a frame is shorter than 4 GiB")]
    fn length(&self) -> usize {
        if FRAGS {
            // SAFETY: `context` is the context that the kernel gave this program.
            return unsafe { bpf_xdp_get_buff_len(self.context) } as usize;
        }
        self.data_end - self.data
    }

    #[inline(always)] // the bounds check must stand directly before the read
    fn read<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        if FRAGS {
            return self.copy(offset);
        }
        let start = self.data + offset;
        if start + N > self.data_end {
            return None;
        }
        // SAFETY: start + N <= data_end, so the bytes lie within the frame; a byte array has no alignment and no
        // invalid values. The kernel keeps the buffer alive while the program runs.
        Some(unsafe { *(start as *const [u8; N]) })
    }
}

impl<const FRAGS: bool> XdpFrame<FRAGS> {
    /// Bytes of any part of the buffer. Reading the linear part by pointer would be faster, but two ways for each
    /// read are more paths than the verifier follows.
    #[inline(always)] // as `new`
    #[expect(
        clippy::cast_possible_truncation,
        reason = "offsets are at most MAX_OFFSET, and N a header's length"
    )]
    fn copy<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        let mut bytes = MaybeUninit::<[u8; N]>::uninit();
        // SAFETY: `context` is the context that the kernel gave this program; the helper writes at most N bytes, and
        // fails where the frame ends before.
        let failed =
            unsafe { bpf_xdp_load_bytes(self.context, offset as u32, bytes.as_mut_ptr().cast(), N as u32) };
        // SAFETY: the helper has written all N bytes if it did not fail.
        (failed == 0).then(|| unsafe { bytes.assume_init() })
    }
}
