//! TCP (RFC 9293), UDP (RFC 768), SCTP (RFC 9260), ICMP (RFC 792) and ICMPv6 (RFC 4443) headers. They must lie within the IP
//! packet, not merely within the frame: padding is never read as a header.

use crate::frame::{Cursor, Frame};
use crate::packet::Transport;
use crate::reason::Reason;

pub(super) const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const SCTP: u8 = 132;
pub(super) const ICMPV6: u8 = 58;

const TCP_HEADER_LENGTH: usize = 20;
const UDP_HEADER_LENGTH: usize = 8;
const SCTP_HEADER_LENGTH: usize = 12;
/// Type, code and checksum: what every ICMP and ICMPv6 message has.
const ICMP_HEADER_LENGTH: usize = 4;

/// The bytes behind the IP header.
#[derive(Clone, Copy)]
pub(super) struct Payload {
    /// IPv4 protocol or IPv6 next header.
    pub protocol: u8,
    /// Length in bytes, by the IP header; never more than the frame holds.
    pub length: usize,
    /// Whether this is the first of several fragments, so that the length is not the datagram's.
    pub fragmented: bool,
}

impl Payload {
    /// The `N` bytes at the cursor, if they lie within the payload; else `truncated`, or what that is in a first
    /// fragment.
    fn read<const N: usize, F: Frame + ?Sized>(
        self,
        cursor: &Cursor<'_, F>,
        truncated: Reason,
    ) -> Result<[u8; N], Reason> {
        match cursor.peek() {
            Some(bytes) if self.length >= N => Ok(bytes),
            _ if self.fragmented => Err(Reason::FragmentTooShort),
            _ => Err(truncated),
        }
    }
}

/// Reads the transport header at the cursor. `icmp` is the protocol number of this IP version's ICMP.
#[inline(always)] // as a subprogram it returns a Result in registers that are half undefined, which verifiers refuse
pub(super) fn header<F: Frame + ?Sized>(
    cursor: &Cursor<'_, F>,
    payload: Payload,
    icmp: u8,
) -> Result<Transport, Reason> {
    match payload.protocol {
        TCP => tcp(cursor, payload),
        UDP => udp(cursor, payload),
        SCTP => {
            let [s0, s1, d0, d1, ..] =
                payload.read::<SCTP_HEADER_LENGTH, _>(cursor, Reason::SctpTruncated)?;
            Ok(Transport::Sctp {
                source_port: u16::from_be_bytes([s0, s1]),
                destination_port: u16::from_be_bytes([d0, d1]),
            })
        }
        protocol if protocol == icmp => {
            let [kind, code, ..] = payload.read::<ICMP_HEADER_LENGTH, _>(cursor, Reason::IcmpTruncated)?;
            Ok(Transport::Icmp { kind, code })
        }
        protocol => Ok(Transport::Other { protocol }),
    }
}

fn tcp<F: Frame + ?Sized>(cursor: &Cursor<'_, F>, payload: Payload) -> Result<Transport, Reason> {
    let header = payload.read::<TCP_HEADER_LENGTH, _>(cursor, Reason::TcpTruncated)?;
    let [s0, s1, d0, d1, _, _, _, _, _, _, _, _, offset_and_reserved, flags, ..] = header;
    let data_offset = usize::from(offset_and_reserved >> 4) * 4;
    // The options of a first fragment may go on in the next one.
    if data_offset < TCP_HEADER_LENGTH || (data_offset > payload.length && !payload.fragmented) {
        return Err(Reason::TcpDataOffset);
    }
    Ok(Transport::Tcp {
        source_port: u16::from_be_bytes([s0, s1]),
        destination_port: u16::from_be_bytes([d0, d1]),
        flags,
    })
}

fn udp<F: Frame + ?Sized>(cursor: &Cursor<'_, F>, payload: Payload) -> Result<Transport, Reason> {
    let header = payload.read::<UDP_HEADER_LENGTH, _>(cursor, Reason::UdpTruncated)?;
    let [s0, s1, d0, d1, l0, l1, ..] = header;
    let length = usize::from(u16::from_be_bytes([l0, l1]));
    if length < UDP_HEADER_LENGTH || (length > payload.length && !payload.fragmented) {
        return Err(Reason::UdpLength);
    }
    Ok(Transport::Udp {
        source_port: u16::from_be_bytes([s0, s1]),
        destination_port: u16::from_be_bytes([d0, d1]),
    })
}
