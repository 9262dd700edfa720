//! What IPv4 and IPv6 fragments have in common (RFC 791, RFC 8200). Nothing is reassembled: each fragment stands
//! for itself.

use crate::packet::Transport;
use crate::reason::Reason;

/// The most bytes that a datagram can have behind its IP header.
const LONGEST_DATAGRAM: usize = 65_535;
const TCP: u8 = 6;

/// A fragment other than the first, at `offset` in units of eight bytes, with `length` bytes of payload.
pub(super) fn later(protocol: u8, offset: u16, length: usize) -> Result<Transport, Reason> {
    if protocol == TCP && offset == 1 {
        return Err(Reason::TcpFragmentOffset);
    }
    if usize::from(offset) * 8 + length > LONGEST_DATAGRAM {
        return Err(Reason::FragmentBeyondEnd);
    }
    Ok(Transport::LaterFragment { protocol })
}
