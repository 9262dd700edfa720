//! Frames, built by hand from the RFCs: deliberately not with the parser's own constants.

use std::net::{Ipv4Addr, Ipv6Addr};

/// Locally administered addresses of the lab.
const DESTINATION_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0x01];
const SOURCE_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0x02];

/// Protocol and next header numbers (IANA).
pub mod protocol {
    #![expect(missing_docs, reason = "the names are the registry's")]
    pub const ICMP: u8 = 1;
    pub const TCP: u8 = 6;
    pub const UDP: u8 = 17;
    pub const GRE: u8 = 47;
    pub const SCTP: u8 = 132;
    pub const ICMPV6: u8 = 58;
}

/// An Ethernet II frame, with `tags` as (tag protocol identifier, tag control information), outermost first.
pub fn ethernet(tags: &[(u16, u16)], ether_type: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = [DESTINATION_MAC, SOURCE_MAC].concat();
    for (identifier, control) in tags {
        frame.extend(identifier.to_be_bytes());
        frame.extend(control.to_be_bytes());
    }
    frame.extend(ether_type.to_be_bytes());
    frame.extend(payload);
    frame
}

/// An IPv4 packet (RFC 791) without options.
pub fn ipv4(source: &str, protocol: u8, payload: &[u8]) -> Vec<u8> {
    Ipv4 { source, protocol, ..Ipv4::default() }.packet(payload)
}

/// The fields of an IPv4 header that tests vary.
#[derive(Clone, Copy, Debug)]
pub struct Ipv4<'a> {
    /// Source address.
    pub source: &'a str,
    /// Protocol.
    pub protocol: u8,
    /// Flags and fragment offset.
    pub fragment: u16,
    /// Options, a multiple of four bytes.
    pub options: &'a [u8],
    /// First byte, if not the right one.
    pub version_and_length: Option<u8>,
    /// Total length, if not the right one.
    pub total_length: Option<u16>,
}

impl Default for Ipv4<'_> {
    fn default() -> Self {
        Self {
            source: "198.51.100.1",
            protocol: protocol::UDP,
            fragment: 0,
            options: &[],
            version_and_length: None,
            total_length: None,
        }
    }
}

impl Ipv4<'_> {
    /// The packet, with a right checksum.
    pub fn packet(&self, payload: &[u8]) -> Vec<u8> {
        let header_length = 20 + self.options.len();
        let source: Ipv4Addr = self.source.parse().expect("a test's address");
        let version_and_length = 0x40 | u8::try_from(header_length / 4).expect("at most 60 bytes");
        let total_length = u16::try_from(header_length + payload.len()).expect("a test's packet is small");
        let mut header = vec![self.version_and_length.unwrap_or(version_and_length), 0];
        header.extend(self.total_length.unwrap_or(total_length).to_be_bytes());
        header.extend([0x12, 0x34]);
        header.extend(self.fragment.to_be_bytes());
        header.extend([64, self.protocol, 0, 0]);
        header.extend(source.octets());
        header.extend([192, 0, 2, 1]);
        header.extend(self.options);
        let checksum = internet_checksum(&header);
        header[10..12].copy_from_slice(&checksum.to_be_bytes());
        header.extend(payload);
        header
    }
}

/// An IPv6 packet (RFC 8200) with only the fixed header.
pub fn ipv6(source: &str, next_header: u8, payload: &[u8]) -> Vec<u8> {
    Ipv6 { source, next_header, ..Ipv6::default() }.packet(payload)
}

/// The fields of an IPv6 header that tests vary.
#[derive(Clone, Copy, Debug)]
pub struct Ipv6<'a> {
    /// Source address.
    pub source: &'a str,
    /// Next header.
    pub next_header: u8,
    /// Hop limit.
    pub hop_limit: u8,
    /// Version and the high bits of the traffic class, if not the right ones.
    pub version_and_class: u8,
    /// Payload length, if not the right one.
    pub payload_length: Option<u16>,
}

impl Default for Ipv6<'_> {
    fn default() -> Self {
        Self {
            source: "2001:db8:1::1",
            next_header: protocol::UDP,
            hop_limit: 64,
            version_and_class: 0x60,
            payload_length: None,
        }
    }
}

impl Ipv6<'_> {
    /// The packet.
    pub fn packet(&self, payload: &[u8]) -> Vec<u8> {
        let source: Ipv6Addr = self.source.parse().expect("a test's address");
        let destination: Ipv6Addr = "2001:db8::1".parse().expect("an address");
        let length = u16::try_from(payload.len()).expect("a test's packet is small");
        let mut packet = vec![self.version_and_class, 0, 0, 0];
        packet.extend(self.payload_length.unwrap_or(length).to_be_bytes());
        packet.extend([self.next_header, self.hop_limit]);
        packet.extend(source.octets());
        packet.extend(destination.octets());
        packet.extend(payload);
        packet
    }
}

/// A TCP segment (RFC 9293), SYN, without options.
pub fn tcp() -> Vec<u8> {
    tcp_with(0x50, &[])
}

/// A TCP segment with this data offset byte and what follows the fixed header.
pub fn tcp_with(data_offset: u8, rest: &[u8]) -> Vec<u8> {
    let mut segment =
        vec![0x30, 0x39, 0x00, 0x50, 0, 0, 0, 1, 0, 0, 0, 0, data_offset, 0x02, 0xff, 0xff, 0, 0, 0, 0];
    segment.extend(rest);
    segment
}

/// A UDP datagram (RFC 768) without checksum.
pub fn udp(payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(8 + payload.len()).expect("a test's datagram is small");
    udp_with(length, payload)
}

/// A UDP datagram with this length field.
pub fn udp_with(length: u16, payload: &[u8]) -> Vec<u8> {
    let mut datagram = vec![0x30, 0x39, 0x00, 0x35];
    datagram.extend(length.to_be_bytes());
    datagram.extend([0, 0]);
    datagram.extend(payload);
    datagram
}

/// An ICMP or ICMPv6 message of this type.
pub fn icmp(kind: u8) -> Vec<u8> {
    vec![kind, 0, 0, 0, 0, 1, 0, 1]
}

/// RFC 1071.
fn internet_checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)));
    let sum = words.sum::<u32>();
    let folded = (sum & 0xffff) + (sum >> 16);
    let folded = (folded & 0xffff) + (folded >> 16);
    !u16::try_from(folded).expect("folded twice")
}
