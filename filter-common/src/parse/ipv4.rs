//! The IPv4 header (RFC 791).

use super::transport;
use crate::frame::{Cursor, Frame};
use crate::packet::{Address, IpPacket, Transport};
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
    let total_length = usize::from(u16::from_be_bytes([total_high, total_low]));
    // A frame may be longer than the packet: Ethernet pads to 60 bytes.
    if total_length < header_length || total_length > available {
        return Err(Reason::Ipv4TotalLength);
    }
    cursor.skip(header_length - HEADER_LENGTH);

    let fragment = u16::from_be_bytes([fragment_high, fragment_low]);
    let transport = if fragment & FRAGMENT_OFFSET_MASK != 0 {
        Transport::LaterFragment { protocol }
    } else {
        let payload = transport::Payload {
            protocol,
            length: total_length - header_length,
            fragmented: fragment & MORE_FRAGMENTS != 0,
        };
        transport::header(cursor, payload, transport::ICMP)?
    };
    Ok(IpPacket {
        source: Address::V4([s0, s1, s2, s3]),
        destination: Address::V4([d0, d1, d2, d3]),
        hop_limit,
        transport,
    })
}
