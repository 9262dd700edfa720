//! The sender of floods, run on live frames (`BPF_F_TEST_XDP_LIVE_FRAMES`, Linux 5.18): gives each frame a
//! random source address and port, and sends it out of a device. It knows Ethernet, IPv4 without options and
//! IPv6 without extension headers, in front of TCP or UDP: what `filter_tests::flood` makes.
//!
//! The kernel recycles frames between runs and does not restore their bytes (net/bpf/test_run.c), so a frame
//! comes in as this program left it. Checksums are therefore updated, not computed, and stay right.

#![no_std]
#![no_main]
#![expect(missing_docs, reason = "a binary: nothing here is reachable from Rust")]

use aya_ebpf::Global;
use aya_ebpf::bindings::xdp_action::{XDP_ABORTED, XDP_REDIRECT};
use aya_ebpf::btf_maps::{Array, PerCpuArray};
use aya_ebpf::helpers::{bpf_get_prandom_u32, bpf_redirect};
use aya_ebpf::macros::{btf_map, xdp};
use aya_ebpf::programs::XdpContext;

/// Most prefixes that a flood comes from: enough for a story; the maps hold this many.
const MAX_SOURCES: usize = 16;

/// Bytes of an Ethernet header.
const ETHERNET: usize = 14;

/// Where each prefix starts, as on the wire, an IPv4 address in the last two words; behind it the host bits
/// of these last two words.
#[btf_map(name = "sources")]
static SOURCES: Array<[u16; 10], MAX_SOURCES> = Array::new();

/// Frames sent from each prefix.
#[btf_map(name = "sent")]
static SENT: PerCpuArray<u64, MAX_SOURCES> = PerCpuArray::new();

/// How many prefixes there are.
#[unsafe(no_mangle)]
static SOURCE_COUNT: Global<u32> = Global::new(1);

/// The device to send from.
#[unsafe(no_mangle)]
static IFINDEX: Global<u32> = Global::new(0);

#[xdp]
pub fn flood(context: XdpContext) -> u32 {
    if rewrite(&Frame(&context)).is_none() {
        return XDP_ABORTED;
    }
    // SAFETY: a helper with plain arguments, allowed in XDP programs.
    let action = unsafe { bpf_redirect(IFINDEX.load(), 0) };
    if action == XDP_REDIRECT.into() { XDP_REDIRECT } else { XDP_ABORTED }
}

/// Gives the frame another source, and counts it.
fn rewrite(frame: &Frame<'_>) -> Option<()> {
    // The high half of the product is evenly distributed, and needs no division.
    let index = ((u64::from(random()) * u64::from(SOURCE_COUNT.load())) >> 32) as u32;
    let &[a, b, c, d, e, f, g, h, high, low] = SOURCES.get(index)?;
    let [random_high, random_low] = halves(random());
    let (g, h) = (g | (random_high & high), h | (random_low & low));
    match frame.read::<1>(12)?.map(u16::from_be) {
        [0x0800] => {
            let change = frame.replace(ETHERNET + 12, [g, h])?;
            frame.update(ETHERNET + 10, change)?;
            transport(frame, ETHERNET + 20, frame.byte(ETHERNET + 9)?, change)?;
        }
        [0x86dd] => {
            let change = frame.replace(ETHERNET + 8, [a, b, c, d, e, f, g, h])?;
            transport(frame, ETHERNET + 40, frame.byte(ETHERNET + 6)?, change)?;
        }
        _ => return None,
    }
    let sent = SENT.get_ptr_mut(index)?;
    // SAFETY: the lookup returned a valid, aligned slot of this CPU, which nothing else writes meanwhile.
    unsafe { *sent += 1 };
    Some(())
}

/// Gives the segment at `offset` another source port, and puts that and the `change` of the address, which the
/// pseudo-header holds, into its checksum.
fn transport(frame: &Frame<'_>, offset: usize, protocol: u8, change: u32) -> Option<()> {
    let checksum = offset + if protocol == 6 { 16 } else { 6 };
    // Below 1024 are no clients.
    let [_, port] = halves(random());
    let port = (port | 1024).to_be();
    let change = change + frame.replace(offset, [port])?;
    frame.update(checksum, change)
}

#[expect(clippy::cast_possible_truncation, reason = "each half has 16 bits")]
fn halves(word: u32) -> [u16; 2] {
    [(word >> 16) as u16, word as u16]
}

fn random() -> u32 {
    // SAFETY: a helper without arguments, allowed in XDP programs.
    unsafe { bpf_get_prandom_u32() }
}

/// The frame as 16-bit words, the unit of internet checksums.
struct Frame<'c>(&'c XdpContext);

impl Frame<'_> {
    /// Writes `words` at `offset` and returns what this adds to a checksum (RFC 1624, equation 3: ~m + m').
    #[inline(always)] // the verifier tracks packet pointers only within what it can see at once
    fn replace<const N: usize>(&self, offset: usize, words: [u16; N]) -> Option<u32> {
        let mut change = 0;
        for (old, new) in self.read::<N>(offset)?.into_iter().zip(words) {
            change += u32::from(!old) + u32::from(new);
        }
        self.write(offset, words)?;
        Some(change)
    }

    /// Updates the checksum at `offset`: ~(~HC + change), never zero, which UDP does not use.
    #[inline(always)] // as `replace`
    fn update(&self, offset: usize, change: u32) -> Option<()> {
        let [checksum] = self.read(offset)?;
        let sum = u32::from(!checksum) + change;
        let sum = (sum & 0xffff) + (sum >> 16);
        let [carry, sum] = halves(sum);
        let checksum = !(sum + carry);
        // Both zeros of one's complement verify alike.
        self.write(offset, [if checksum == 0 { 0xffff } else { checksum }])
    }

    #[inline(always)] // as `replace`
    fn byte(&self, offset: usize) -> Option<u8> {
        let [word] = self.read::<1>(offset & !1)?;
        Some(word.to_ne_bytes()[offset & 1])
    }

    #[inline(always)] // as `replace`
    fn read<const N: usize>(&self, offset: usize) -> Option<[u16; N]> {
        let words = self.at::<N>(offset)?;
        // SAFETY: `at` checked that the words lie within the frame, which starts at an even address, since
        // pages and the headroom are; so does every header. The kernel keeps it while the program runs.
        Some(unsafe { *words })
    }

    #[inline(always)] // as `replace`
    fn write<const N: usize>(&self, offset: usize, words: [u16; N]) -> Option<()> {
        let place = self.at::<N>(offset)?;
        // SAFETY: as in `read`; nothing else holds a reference into the frame.
        unsafe { *place = words };
        Some(())
    }

    #[inline(always)] // the bounds check must stand directly before the access
    fn at<const N: usize>(&self, offset: usize) -> Option<*mut [u16; N]> {
        let start = self.0.data() + offset;
        (start + size_of::<[u16; N]>() <= self.0.data_end()).then_some(start as *mut [u16; N])
    }
}

/// Dual licensed in the kernel's words, which makes every helper available.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

/// A loop, not `unreachable_unchecked`: if a panic could be reached, the verifier must be able to refuse it.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
