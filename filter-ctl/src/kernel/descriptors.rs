//! Descriptors: closing those that came with the process, and what the kernel tells of one.

use std::io;
use std::str::FromStr;

/// Closes all descriptors but standard input, output and error (`close_range`, since Linux 5.9). For a process at its very
/// start: what it was given beside these by whoever started it, a shell or a service manager, is not for it.
///
/// # Errors
///
/// If the kernel refuses.
pub fn close_inherited() -> io::Result<()> {
    const FIRST: libc::c_uint = 3;
    // SAFETY: closing descriptors touches no memory. The caller has opened none so far, so that none is owned by a value
    // that would use or close it later.
    let closed = unsafe { libc::syscall(libc::SYS_close_range, FIRST, libc::c_uint::MAX, 0) };
    if closed == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The value of a key in the text of a `/proc/self/fdinfo` file.
pub(super) fn told<T: FromStr>(fdinfo: &str, key: &str) -> Option<T> {
    fdinfo.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':')?.trim().parse().ok())
}
