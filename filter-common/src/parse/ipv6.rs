//! The fixed IPv6 header (RFC 8200). Extension headers are reported as [`Transport::Other`]: addresses match
//! all the same.
//!
//! [`Transport::Other`]: crate::packet::Transport::Other

use super::transport;
use crate::frame::{Cursor, Frame};
use crate::packet::{Address, IpPacket};
use crate::reason::Reason;

pub(super) fn packet<F: Frame + ?Sized>(cursor: &mut Cursor<'_, F>) -> Result<IpPacket, Reason> {
    let [version_and_class, _, _, _, length_high, length_low, next_header, hop_limit] =
        cursor.take().ok_or(Reason::Ipv6Truncated)?;
    if version_and_class >> 4 != 6 {
        return Err(Reason::Ipv6Version);
    }
    let source = cursor.take().ok_or(Reason::Ipv6Truncated)?;
    let destination = cursor.take().ok_or(Reason::Ipv6Truncated)?;
    let payload_length = usize::from(u16::from_be_bytes([length_high, length_low]));
    if payload_length > cursor.remaining() {
        return Err(Reason::Ipv6PayloadLength);
    }
    let payload = transport::Payload { protocol: next_header, length: payload_length, fragmented: false };
    Ok(IpPacket {
        source: Address::V6(source),
        destination: Address::V6(destination),
        hop_limit,
        transport: transport::header(cursor, payload, transport::ICMPV6)?,
    })
}
