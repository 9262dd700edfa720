//! What a program needs that does not link the filter's shell, which brings its own.

/// Dual licensed in the kernel's words, which makes every helper available.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

/// A loop, not `unreachable_unchecked`: if a panic could be reached, the verifier must be able to refuse it.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
