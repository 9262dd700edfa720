//! What IPv4 and IPv6 fragments have in common (RFC 791, RFC 8200). Nothing is reassembled: each fragment stands
//! for itself.

use crate::packet::Transport;
use crate::reason::Reason;

/// The most bytes that a reassembled packet can have by its own length field: with its header in IPv4 (RFC 791), without
/// the fixed header in IPv6 (RFC 8200, 4.5).
const LONGEST: usize = 65_535;
const TCP: u8 = 6;

/// A fragment other than the first, at `offset` in units of eight bytes, with `length` bytes of payload. `before` is what
/// the reassembled packet has before its payload and counts in its length: IPv4's header, IPv6's extension headers.
pub(super) fn later(protocol: u8, offset: u16, length: usize, before: usize) -> Result<Transport, Reason> {
    if protocol == TCP && offset == 1 {
        return Err(Reason::TcpFragmentOffset);
    }
    if before + usize::from(offset) * 8 + length > LONGEST {
        return Err(Reason::FragmentBeyondEnd);
    }
    Ok(Transport::LaterFragment { protocol })
}
