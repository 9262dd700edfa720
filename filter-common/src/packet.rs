//! What a parsed frame is: all that the decision may know. Holds no parsing.

/// A packet whose headers are consistent with each other and with the frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packet {
    /// ARP or RARP (RFC 826, RFC 903).
    Arp,
    /// An IEEE 802.3 frame: a length in place of an EtherType (spanning tree, IS-IS).
    Llc,
    /// MPLS (RFC 3032, RFC 5332): a label stack, behind which a packet may follow.
    Mpls,
    /// PPPoE (RFC 2516), discovery or session.
    Pppoe,
    /// Any other frame that carries neither IPv4 nor IPv6.
    NonIp {
        /// EtherType behind all VLAN tags.
        ether_type: u16,
    },
    /// An IPv4 or IPv6 packet.
    Ip(IpPacket),
}

/// The fields of an IP packet that later steps may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IpPacket {
    /// Source address.
    pub source: Address,
    /// Destination address, of the same family.
    pub destination: Address,
    /// IPv4 time to live or IPv6 hop limit.
    pub hop_limit: u8,
    /// Whether it is a fragment, by its field in IPv4, by its header in IPv6 even of an atomic one (RFC 6946).
    pub is_fragment: bool,
    /// What follows the IP header.
    pub transport: Transport,
}

/// An IP address in network byte order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Address {
    /// IPv4.
    V4([u8; 4]),
    /// IPv6.
    V6([u8; 16]),
}

/// The transport header, as far as it is present in this packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// TCP (RFC 9293).
    Tcp {
        /// Source port.
        source_port: u16,
        /// Destination port.
        destination_port: u16,
        /// The low eight control bits, CWR to FIN.
        flags: u8,
    },
    /// UDP (RFC 768).
    Udp {
        /// Source port.
        source_port: u16,
        /// Destination port.
        destination_port: u16,
    },
    /// SCTP (RFC 9260).
    Sctp {
        /// Source port.
        source_port: u16,
        /// Destination port.
        destination_port: u16,
    },
    /// ICMP (RFC 792) over IPv4, ICMPv6 (RFC 4443) over IPv6.
    Icmp {
        /// Message type.
        kind: u8,
        /// Message code.
        code: u8,
    },
    /// A fragment other than the first: its payload is the middle of a datagram and is never read as a header.
    LaterFragment {
        /// Protocol number of the datagram.
        protocol: u8,
    },
    /// Any other protocol: tunnels, ESP, "no next header".
    Other {
        /// IPv4 protocol or IPv6 next header.
        protocol: u8,
    },
}
