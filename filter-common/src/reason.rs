//! The one enum that names every outcome. Holds the wording and the verdict of each, and nothing else.

/// What happens to a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u32)] // as `Reason`
pub enum Verdict {
    /// Handed on to the kernel's network stack.
    Pass,
    /// Dropped in the driver's hook.
    Drop,
}

impl Verdict {
    /// `pass` or `drop`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Drop => "drop",
        }
    }
}

/// Defines [`Reason`] and its tables from one list, so that no outcome can lack a name, verdict or sentence.
macro_rules! reasons {
    ($($variant:ident = $index:literal, $name:literal, $verdict:ident, $sentence:literal;)*) => {
        /// Why a frame got its verdict. Every frame leaves the filter with exactly one.
        ///
        /// The number is the counter's index in the pinned maps, hence part of the ABI: numbers are only
        /// ever appended.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[must_use = "a dropped reason is an uncounted packet"]
        // Not a byte: LLVM packs a byte with the undefined padding beside it into one word, and reading such
        // stack or registers is refused (stack by 5.10, registers by all).
        #[repr(u32)]
        pub enum Reason {
            $(#[doc = $sentence] $variant = $index,)*
        }

        impl Reason {
            /// All reasons, in the order of their numbers.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The name in statistics, JSON and metrics.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// What the reason means, in one sentence.
            pub const fn sentence(self) -> &'static str {
                match self { $(Self::$variant => $sentence,)* }
            }

            /// What happens to a frame with this reason.
            pub const fn verdict(self) -> Verdict {
                match self { $(Self::$variant => Verdict::$verdict,)* }
            }
        }
    };
}

reasons! {
    NoMatch = 0, "no_match", Pass, "No entry covers the source address: the default is to pass.";
    Allowed = 1, "allowed", Pass, "An allow entry covers the source address; block entries are not asked.";
    Arp = 2, "arp", Pass, "ARP, which a neighbour needs before it can send IPv4: passed before any list.";
    NeighbourDiscovery = 3, "neighbour_discovery", Pass, "IPv6 neighbour discovery with hop limit 255, so sent on this link (RFC 4861): passed before any list.";
    NonIp = 4, "non_ip", Pass, "An EtherType that is none of those named here: no address to match.";
    Blocked = 5, "blocked", Drop, "A block entry covers the source address and no allow entry does.";
    EthernetTruncated = 6, "ethernet_truncated", Drop, "The frame ends inside the Ethernet header.";
    VlanTruncated = 7, "vlan_truncated", Drop, "The frame ends inside a VLAN tag.";
    VlanTooDeep = 8, "vlan_too_deep", Drop, "More than four VLAN tags.";
    Ipv4Truncated = 9, "ipv4_truncated", Drop, "The frame ends inside the IPv4 header.";
    Ipv4Version = 10, "ipv4_version", Drop, "EtherType IPv4, but the version field is not 4.";
    Ipv4HeaderLength = 11, "ipv4_header_length", Drop, "The IPv4 header length is under 20 bytes (RFC 791).";
    Ipv4TotalLength = 12, "ipv4_total_length", Drop, "The IPv4 total length is under the header's or over the frame's.";
    Ipv6Truncated = 13, "ipv6_truncated", Drop, "The frame ends inside the IPv6 header.";
    Ipv6Version = 14, "ipv6_version", Drop, "EtherType IPv6, but the version field is not 6.";
    Ipv6PayloadLength = 15, "ipv6_payload_length", Drop, "The IPv6 payload length is over the frame's.";
    TcpTruncated = 16, "tcp_truncated", Drop, "The IP packet ends inside the TCP header.";
    TcpDataOffset = 17, "tcp_data_offset", Drop, "The TCP data offset is under 20 bytes or over the IP packet's length.";
    UdpTruncated = 18, "udp_truncated", Drop, "The IP packet ends inside the UDP header.";
    UdpLength = 19, "udp_length", Drop, "The UDP length is under 8 bytes or over the IP packet's length.";
    IcmpTruncated = 20, "icmp_truncated", Drop, "The IP packet ends inside the ICMP header.";
    Llc = 21, "llc", Pass, "An IEEE 802.3 frame, such as spanning tree: no address to match.";
    Mpls = 22, "mpls", Pass, "MPLS: the packet behind the labels is not looked at.";
    Pppoe = 23, "pppoe", Pass, "PPPoE: the packet within is not looked at.";
    PathMtu = 24, "path_mtu", Pass, "ICMP fragmentation needed or ICMPv6 packet too big, which path MTU discovery rests on, from a source that no entry covers.";
    SctpTruncated = 25, "sctp_truncated", Drop, "The IP packet ends inside the SCTP header.";
    Ipv6ExtensionTruncated = 26, "ipv6_extension_truncated", Drop, "The IPv6 packet ends inside an extension header.";
    Ipv6ExtensionLength = 27, "ipv6_extension_length", Drop, "An authentication header of under 12 bytes (RFC 4302).";
    Ipv6ExtensionOrder = 28, "ipv6_extension_order", Drop, "A hop-by-hop options header that is not the first (RFC 8200).";
    Ipv6TooManyExtensions = 29, "ipv6_too_many_extensions", Drop, "More than eight IPv6 extension headers.";
    Ipv6JumboLength = 30, "ipv6_jumbo_length", Drop, "The IPv6 payload length says jumbogram (RFC 2675), and the frame is too short for one.";
    FragmentTooShort = 31, "fragment_too_short", Drop, "A first fragment ends before its transport header does (RFC 7112).";
    FragmentLength = 32, "fragment_length", Drop, "An IPv6 fragment other than the last has a length that is no multiple of eight (RFC 8200).";
    FragmentBeyondEnd = 33, "fragment_beyond_end", Drop, "A fragment ends beyond the 65,535 bytes that a packet can have once it is put together.";
    TcpFragmentOffset = 34, "tcp_fragment_offset", Drop, "A TCP fragment at offset 1, which would overwrite the flags on reassembly (RFC 3128).";
}

impl Reason {
    /// The counter's index.
    pub const fn index(self) -> u32 {
        self as u32
    }

    /// The reason with this index.
    pub fn from_index(index: u32) -> Option<Self> {
        Self::ALL.iter().copied().find(|reason| reason.index() == index)
    }

    /// The verdicts that a frame with this reason may have.
    pub fn verdicts(self) -> impl Iterator<Item = Verdict> {
        [self.verdict(), Verdict::Pass].into_iter().take(if self.is_malformed() { 2 } else { 1 })
    }

    /// Whether it is said of frames that can't be parsed: dropped, unless the operator tolerates it.
    pub const fn is_malformed(self) -> bool {
        matches!(self.verdict(), Verdict::Drop) && !matches!(self, Self::Blocked)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::abi::REASON_SLOTS;

    #[test]
    fn numbers_are_dense_and_fit_the_counter_map() {
        for (position, reason) in Reason::ALL.iter().enumerate() {
            assert_eq!(reason.index() as usize, position, "{reason:?}");
        }
        assert!(Reason::ALL.len() <= REASON_SLOTS as usize);
    }

    #[test]
    fn names_are_unique_snake_case() {
        let names: std::collections::BTreeSet<_> = Reason::ALL.iter().map(|reason| reason.name()).collect();
        assert_eq!(names.len(), Reason::ALL.len());
        for name in names {
            assert!(
                name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_'),
                "{name}"
            );
        }
    }
}
