//! Gives each frame another source: what the bench's programs do first, so that caches are as cold as in a flood.

use aya_ebpf::Global;
use aya_ebpf::btf_maps::PerCpuArray;
use aya_ebpf::macros::btf_map;
use aya_ebpf::programs::XdpContext;

use crate::set::{Draw, Kind, scrambled, source_v4, source_v6};

/// Offset of the checksum in an IPv4 frame without VLAN tags.
const CHECKSUM_V4: usize = 14 + 10;
/// Offset of the source in such a frame.
const SOURCE_V4: usize = 14 + 12;
/// Offset of the source in an IPv6 frame without VLAN tags.
const SOURCE_V6: usize = 14 + 8;

/// [`Kind`] of the set.
#[unsafe(no_mangle)]
static KIND: Global<u32> = Global::new(0);

/// Prefixes in the set.
#[unsafe(no_mangle)]
static SIZE: Global<u32> = Global::new(1);

/// [`Draw`] of the sources.
#[unsafe(no_mangle)]
static DRAW: Global<u32> = Global::new(0);

/// Sum of the 16-bit words of the template's IPv4 header, without checksum and source.
#[unsafe(no_mangle)]
static HEADER_SUM: Global<u32> = Global::new(0);

/// Sources drawn.
#[btf_map(name = "drawn")]
static DRAWN: PerCpuArray<u64, 1> = PerCpuArray::new();

/// Gives the frame the next source; `None` if it is too short.
#[inline(always)] // the verifier tracks packet pointers only within what it can see at once
pub fn disguise(context: &XdpContext) -> Option<()> {
    let drawn = DRAWN.get_ptr_mut(0)?;
    // SAFETY: the look-up returned a valid, aligned slot of this CPU, which nothing else writes meanwhile.
    let random = unsafe {
        *drawn += 1;
        scrambled(*drawn)
    };
    let (kind, draw) = (Kind::from_index(KIND.load()), Draw::from_index(DRAW.load()));
    if kind.is_v4() {
        let source = source_v4(kind, SIZE.load(), draw, random);
        // RFC 1071: carries are added at the end. Three words carry at most twice.
        let sum = HEADER_SUM.load() + (source >> 16) + (source & 0xffff);
        let sum = (sum & 0xffff) + (sum >> 16);
        let sum = (sum & 0xffff) + (sum >> 16);
        #[expect(clippy::cast_possible_truncation, reason = "16 bits, after the carries")]
        write(context, CHECKSUM_V4, (!sum as u16).to_be())?;
        write(context, SOURCE_V4, source.to_be())
    } else {
        let (high, low) = source_v6(kind, SIZE.load(), draw, random);
        write(context, SOURCE_V6, [high.to_be(), low.to_be()])
    }
}

#[inline(always)] // the bounds check must stand directly before the write
fn write<T>(context: &XdpContext, offset: usize, value: T) -> Option<()> {
    let start = context.data() + offset;
    if start + size_of::<T>() > context.data_end() {
        return None;
    }
    // SAFETY: the value lies within the frame, which the kernel keeps while the program runs, and nothing else
    // holds a reference into it.
    unsafe { (start as *mut T).write_unaligned(value) };
    Some(())
}
