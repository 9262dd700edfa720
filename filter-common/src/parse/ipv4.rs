//! The IPv4 header (RFC 791).

use super::{fragment, transport};
use crate::frame::{Cursor, Frame};
use crate::packet::{Address, IpPacket};
use crate::reason::Reason;

const HEADER_LENGTH: usize = 20;
const FRAGMENT_OFFSET_MASK: u16 = 0x1fff;
const MORE_FRAGMENTS: u16 = 0x2000;

pub(super) fn packet<F: Frame + ?Sized>(cursor: &mut Cursor<'_, F>) -> Result<IpPacket, Reason> {
    let available = cursor.remaining();
    let header: [u8; HEADER_LENGTH] = cursor.take().ok_or(Reason::Ipv4Truncated)?;
    let [
        version_and_length,
        _,
        total_high,
        total_low,
        _,
        _,
        fragment_high,
        fragment_low,
        hop_limit,
        protocol,
        ..,
    ] = header;
    let [.., s0, s1, s2, s3, d0, d1, d2, d3] = header;

    if version_and_length >> 4 != 4 {
        return Err(Reason::Ipv4Version);
    }
    let header_length = usize::from(version_and_length & 0x0f) * 4;
    if header_length < HEADER_LENGTH {
        return Err(Reason::Ipv4HeaderLength);
    }
    if header_length > available {
        return Err(Reason::Ipv4Truncated);
    }
    let total_length = match u16::from_be_bytes([total_high, total_low]) {
        // What the stack has merged into more than the field can say (BIG TCP, 6.3); generic mode sees it.
        0 if available > usize::from(u16::MAX) => available,
        length => usize::from(length),
    };
    // A frame may be longer than the packet: Ethernet pads to 60 bytes.
    if total_length < header_length || total_length > available {
        return Err(Reason::Ipv4TotalLength);
    }
    cursor.skip(header_length - HEADER_LENGTH);

    let length = total_length - header_length;
    let fragment_field = u16::from_be_bytes([fragment_high, fragment_low]);
    let transport = match fragment_field & FRAGMENT_OFFSET_MASK {
        0 => {
            let fragmented = fragment_field & MORE_FRAGMENTS != 0;
            transport::header(cursor, transport::Payload { protocol, length, fragmented }, transport::ICMP)?
        }
        offset => fragment::later(protocol, offset, length, header_length)?,
    };
    Ok(IpPacket {
        source: Address::V4([s0, s1, s2, s3]),
        destination: Address::V4([d0, d1, d2, d3]),
        hop_limit,
        is_fragment: fragment_field & (FRAGMENT_OFFSET_MASK | MORE_FRAGMENTS) != 0,
        transport,
    })
}
