//! THE table: what the filter must say of which frame under which entries. Host, kernel and wire run it alike.

use std::net::IpAddr;

use filter_common::packet::Address;
use filter_common::testing::{HostEntry, HostTables};
use filter_common::{FOREVER, Reason};
use filter_ctl::policy::{Action, Prefix};

use crate::frames::{Ipv4, Ipv6, ethernet, icmp, ipv4, ipv6, protocol, tcp, tcp_with, udp, udp_with};

/// An entry of a scenario's policy.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    /// What it does.
    pub action: Action,
    /// Whom it concerns.
    pub prefix: &'static str,
    /// When it ends.
    pub life: Life,
}

/// When a rule ends, relative to the moment at which frames are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    /// Never.
    Forever,
    /// Long after.
    Lasting,
    /// It has ended; nobody has cleared it away.
    Over,
}

/// A frame and what must become of it.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// What is special about it.
    pub name: &'static str,
    /// The entries.
    pub policy: &'static [Rule],
    /// The frame.
    pub frame: Vec<u8>,
    /// Why it gets its verdict; the verdict follows.
    pub reason: Reason,
    /// The rule that decides, by its place in the policy.
    pub decided_by: Option<usize>,
}

/// The rules as tables of the host at the moment `now_s`. Ids are places in the policy, plus one.
///
/// # Panics
///
/// If a rule's prefix is none.
pub fn host_tables(policy: &[Rule], now_s: u32) -> HostTables {
    let entry = |rule: &Rule| {
        let prefix = Prefix::parse(rule.prefix, false).expect("a scenario's prefix");
        let address = match prefix.address() {
            IpAddr::V4(address) => Address::V4(address.octets()),
            IpAddr::V6(address) => Address::V6(address.octets()),
        };
        let until_s = match rule.life {
            Life::Forever => FOREVER,
            Life::Lasting => now_s + 1,
            Life::Over => now_s,
        };
        HostEntry { address, prefix_len: prefix.prefix_len(), allows: rule.action == Action::Allow, until_s }
    };
    HostTables(policy.iter().map(entry).collect())
}

const fn block(prefix: &'static str) -> Rule {
    Rule { action: Action::Block, prefix, life: Life::Forever }
}

const fn allow(prefix: &'static str) -> Rule {
    Rule { action: Action::Allow, prefix, life: Life::Forever }
}

const fn with(life: Life, rule: Rule) -> Rule {
    Rule { life, ..rule }
}

const NONE: &[Rule] = &[];
/// Blocks all there is: what passes under it passes by its protocol.
const EVERYTHING: &[Rule] = &[block("0.0.0.0/0"), block("::/0")];
const DESTINATION: &[Rule] = &[block("192.0.2.1/32")];
const V4: &[Rule] = &[block("203.0.113.64/26")];
const V6: &[Rule] = &[block("2001:db8:bad::/48")];
const ODD_LENGTHS: &[Rule] = &[block("203.0.113.130/31"), block("2001:db8:bad:8000::/49")];
const ALLOW_IN_BLOCK: &[Rule] = &[block("203.0.113.0/24"), allow("203.0.113.7/32")];
const BLOCK_IN_ALLOW: &[Rule] = &[allow("203.0.113.0/24"), block("203.0.113.7/32")];
const NESTED: &[Rule] = &[block("203.0.0.0/16"), block("203.0.113.0/24"), block("203.0.113.7/32")];
const LASTING: &[Rule] = &[with(Life::Lasting, block("203.0.113.0/24"))];
const OVER: &[Rule] = &[with(Life::Over, block("203.0.113.0/24"))];
const ALLOW_OVER: &[Rule] = &[with(Life::Over, allow("203.0.113.0/24")), block("203.0.113.0/24")];
const OVER_IN_FOREVER: &[Rule] = &[block("203.0.0.0/16"), with(Life::Over, block("203.0.113.0/24"))];
const OVER_IN_LASTING: &[Rule] =
    &[with(Life::Lasting, block("203.0.0.0/16")), with(Life::Over, block("203.0.113.0/24"))];
const FOREVER_IN_OVER: &[Rule] = &[with(Life::Over, block("203.0.0.0/16")), block("203.0.113.0/24")];
const OVER_IN_OVER: &[Rule] =
    &[with(Life::Over, block("203.0.0.0/16")), with(Life::Over, block("203.0.113.0/24"))];

const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
const C_TAG: (u16, u16) = (0x8100, 7);
const S_TAG: (u16, u16) = (0x88a8, 8);
const OLD_TAGS: [(u16, u16); 2] = [(0x9100, 9), (0x9200, 10)];

/// A plain UDP frame from an IPv4 source.
fn v4(source: &str) -> Vec<u8> {
    ethernet(&[], IPV4, &ipv4(source, protocol::UDP, &udp(b"data")))
}

/// A plain UDP frame from an IPv6 source.
fn v6(source: &str) -> Vec<u8> {
    ethernet(&[], IPV6, &ipv6(source, protocol::UDP, &udp(b"data")))
}

fn tagged(tags: &[(u16, u16)]) -> Vec<u8> {
    ethernet(tags, IPV4, &ipv4("203.0.113.77", protocol::UDP, &udp(b"data")))
}

/// An IPv4 frame from 198.51.100.1 with one thing changed.
fn odd_v4(header: Ipv4<'_>, payload: &[u8]) -> Vec<u8> {
    ethernet(&[], IPV4, &header.packet(payload))
}

fn odd_v6(header: Ipv6<'_>, payload: &[u8]) -> Vec<u8> {
    ethernet(&[], IPV6, &header.packet(payload))
}

fn v4_with(protocol: u8, payload: &[u8]) -> Vec<u8> {
    odd_v4(Ipv4 { protocol, ..Ipv4::default() }, payload)
}

fn v6_with(next_header: u8, payload: &[u8]) -> Vec<u8> {
    odd_v6(Ipv6 { next_header, ..Ipv6::default() }, payload)
}

fn neighbour_discovery(kind: u8, hop_limit: u8) -> Vec<u8> {
    odd_v6(Ipv6 { next_header: protocol::ICMPV6, hop_limit, ..Ipv6::default() }, &icmp(kind))
}

fn cut(mut frame: Vec<u8>, length: usize) -> Vec<u8> {
    frame.truncate(length);
    frame
}

fn padded(mut frame: Vec<u8>, length: usize) -> Vec<u8> {
    frame.resize(length, 0xee);
    frame
}

/// Every scenario.
pub fn all() -> Vec<Scenario> {
    [addresses(), lists(), deadlines(), essentials(), ethernet_and_vlan(), ip_headers(), transport()].concat()
}

fn pass(name: &'static str, policy: &'static [Rule], frame: Vec<u8>, reason: Reason) -> Scenario {
    Scenario { name, policy, frame, reason, decided_by: None }
}

fn decided(
    name: &'static str,
    policy: &'static [Rule],
    frame: Vec<u8>,
    reason: Reason,
    by: usize,
) -> Scenario {
    Scenario { name, policy, frame, reason, decided_by: Some(by) }
}

fn malformed(name: &'static str, frame: Vec<u8>, reason: Reason) -> Scenario {
    Scenario { name, policy: NONE, frame, reason, decided_by: None }
}

fn addresses() -> Vec<Scenario> {
    use Reason::{Blocked, NoMatch};
    vec![
        pass("IPv4, no entries", NONE, v4("203.0.113.77"), NoMatch),
        pass("IPv6, no entries", NONE, v6("2001:db8:bad::1"), NoMatch),
        decided("first address of an IPv4 prefix", V4, v4("203.0.113.64"), Blocked, 0),
        decided("last address of an IPv4 prefix", V4, v4("203.0.113.127"), Blocked, 0),
        pass("address before an IPv4 prefix", V4, v4("203.0.113.63"), NoMatch),
        pass("address behind an IPv4 prefix", V4, v4("203.0.113.128"), NoMatch),
        pass("byte-swapped twin of a blocked IPv4 address", V4, v4("77.113.0.203"), NoMatch),
        decided("first address of an IPv6 prefix", V6, v6("2001:db8:bad::"), Blocked, 0),
        decided(
            "last address of an IPv6 prefix",
            V6,
            v6("2001:db8:bad:ffff:ffff:ffff:ffff:ffff"),
            Blocked,
            0,
        ),
        pass("address before an IPv6 prefix", V6, v6("2001:db8:bac:ffff:ffff:ffff:ffff:ffff"), NoMatch),
        pass("address behind an IPv6 prefix", V6, v6("2001:db8:bae::"), NoMatch),
        decided("a /31", ODD_LENGTHS, v4("203.0.113.131"), Blocked, 0),
        pass("beside a /31", ODD_LENGTHS, v4("203.0.113.132"), NoMatch),
        decided("a /49", ODD_LENGTHS, v6("2001:db8:bad:8000::1"), Blocked, 1),
        pass("beside a /49", ODD_LENGTHS, v6("2001:db8:bad:7fff::1"), NoMatch),
        decided("0.0.0.0/0", EVERYTHING, v4("1.2.3.4"), Blocked, 0),
        decided("::/0", EVERYTHING, v6("2001:db8::7"), Blocked, 1),
        pass("the destination is not matched", DESTINATION, v4("203.0.113.77"), NoMatch),
        // An IPv4-mapped source on the wire is an IPv6 address, whatever it looks like.
        pass("an IPv6 source is not matched by IPv4 entries", V4, v6("::ffff:203.0.113.77"), NoMatch),
    ]
}

fn lists() -> Vec<Scenario> {
    use Reason::{Allowed, Blocked, NoMatch};
    vec![
        decided("allow inside block", ALLOW_IN_BLOCK, v4("203.0.113.7"), Allowed, 1),
        decided("beside the allow inside block", ALLOW_IN_BLOCK, v4("203.0.113.8"), Blocked, 0),
        decided("allow wins over a longer block", BLOCK_IN_ALLOW, v4("203.0.113.7"), Allowed, 0),
        pass("neither list", BLOCK_IN_ALLOW, v4("198.51.100.1"), NoMatch),
        decided("the most specific block is named", NESTED, v4("203.0.113.7"), Blocked, 2),
        decided("the middle block is named", NESTED, v4("203.0.113.8"), Blocked, 1),
        decided("the widest block is named", NESTED, v4("203.0.114.7"), Blocked, 0),
    ]
}

fn deadlines() -> Vec<Scenario> {
    use Reason::{Blocked, NoMatch};
    let blocked = || v4("203.0.113.7");
    vec![
        decided("a block with time left", LASTING, blocked(), Blocked, 0),
        pass("a block whose time is over", OVER, blocked(), NoMatch),
        decided("an allow whose time is over does not shadow a block", ALLOW_OVER, blocked(), Blocked, 1),
        decided("an ended block inside a permanent one", OVER_IN_FOREVER, blocked(), Blocked, 1),
        decided("an ended block inside a lasting one", OVER_IN_LASTING, blocked(), Blocked, 1),
        decided("a permanent block inside an ended one", FOREVER_IN_OVER, blocked(), Blocked, 1),
        pass("the rest of an ended block", FOREVER_IN_OVER, v4("203.0.114.7"), NoMatch),
        pass("an ended block inside an ended one", OVER_IN_OVER, blocked(), NoMatch),
    ]
}

fn essentials() -> Vec<Scenario> {
    use Reason::{Arp, Blocked, NeighbourDiscovery, NonIp};
    let arp = [0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 2, 203, 0, 113, 77, 0, 0, 0, 0, 0, 0, 192, 0, 2, 1];
    vec![
        pass("ARP", EVERYTHING, ethernet(&[], 0x0806, &arp), Arp),
        pass("reverse ARP", EVERYTHING, ethernet(&[], 0x8035, &arp), Arp),
        pass("tagged ARP", EVERYTHING, ethernet(&[C_TAG], 0x0806, &arp), Arp),
        pass("router solicitation", EVERYTHING, neighbour_discovery(133, 255), NeighbourDiscovery),
        pass("router advertisement", EVERYTHING, neighbour_discovery(134, 255), NeighbourDiscovery),
        pass("neighbour solicitation", EVERYTHING, neighbour_discovery(135, 255), NeighbourDiscovery),
        pass("neighbour advertisement", EVERYTHING, neighbour_discovery(136, 255), NeighbourDiscovery),
        pass("redirect", EVERYTHING, neighbour_discovery(137, 255), NeighbourDiscovery),
        decided(
            "neighbour solicitation from another link",
            EVERYTHING,
            neighbour_discovery(135, 254),
            Blocked,
            1,
        ),
        decided("echo request with hop limit 255", EVERYTHING, neighbour_discovery(128, 255), Blocked, 1),
        decided("ICMPv6 type 132", EVERYTHING, neighbour_discovery(132, 255), Blocked, 1),
        decided("ICMPv6 type 138", EVERYTHING, neighbour_discovery(138, 255), Blocked, 1),
        pass("LLDP", EVERYTHING, ethernet(&[], 0x88cc, &[0; 46]), NonIp),
        pass("an IEEE 802.3 length", EVERYTHING, ethernet(&[], 46, &[0x42; 46]), NonIp),
        pass("no payload at all", EVERYTHING, ethernet(&[], 0x88cc, &[]), NonIp),
    ]
}

fn ethernet_and_vlan() -> Vec<Scenario> {
    use Reason::{Blocked, EthernetTruncated, NoMatch, VlanTooDeep, VlanTruncated};
    let [old, older] = OLD_TAGS;
    vec![
        malformed("an empty frame", vec![], EthernetTruncated),
        malformed("half an Ethernet header", cut(v4("203.0.113.77"), 13), EthernetTruncated),
        decided("one 802.1Q tag", V4, tagged(&[C_TAG]), Blocked, 0),
        decided("one 802.1ad tag", V4, tagged(&[S_TAG]), Blocked, 0),
        decided("one 0x9100 tag", V4, tagged(&[old]), Blocked, 0),
        decided("one 0x9200 tag", V4, tagged(&[older]), Blocked, 0),
        decided("two tags", V4, tagged(&[S_TAG, C_TAG]), Blocked, 0),
        decided("four tags, mixed", V4, tagged(&[S_TAG, C_TAG, old, older]), Blocked, 0),
        decided(
            "tagged IPv6",
            V6,
            ethernet(&[S_TAG, C_TAG], IPV6, &ipv6("2001:db8:bad::1", protocol::TCP, &tcp())),
            Blocked,
            0,
        ),
        pass(
            "a tag, not blocked",
            V4,
            ethernet(&[C_TAG], IPV4, &ipv4("198.51.100.1", protocol::TCP, &tcp())),
            NoMatch,
        ),
        malformed("five tags", tagged(&[C_TAG; 5]), VlanTooDeep),
        malformed("a cut tag", cut(tagged(&[C_TAG]), 17), VlanTruncated),
        malformed("a tag announced at the end", cut(tagged(&[C_TAG, C_TAG]), 18), VlanTruncated),
    ]
}

fn ip_headers() -> Vec<Scenario> {
    use Reason::{
        Blocked, Ipv4HeaderLength, Ipv4TotalLength, Ipv4Truncated, Ipv4Version, Ipv6PayloadLength,
        Ipv6Truncated, Ipv6Version, NoMatch,
    };
    let options = [1, 1, 1, 1, 7, 4, 0, 0];
    let of_blocked = |header| odd_v4(Ipv4 { source: "203.0.113.77", ..header }, &udp(b"data"));
    let none = Ipv4::default();
    vec![
        decided("IPv4 options", V4, of_blocked(Ipv4 { options: &options, ..none }), Blocked, 0),
        decided("the most IPv4 options", V4, of_blocked(Ipv4 { options: &[1; 40], ..none }), Blocked, 0),
        decided("padding to 60 bytes", V4, padded(v4("203.0.113.77"), 60), Blocked, 0),
        malformed("a cut IPv4 header", cut(v4("203.0.113.77"), 33), Ipv4Truncated),
        malformed("cut IPv4 options", cut(of_blocked(Ipv4 { options: &options, ..none }), 38), Ipv4Truncated),
        malformed(
            "IPv4 with version 6",
            of_blocked(Ipv4 { version_and_length: Some(0x65), ..none }),
            Ipv4Version,
        ),
        malformed(
            "IPv4 with version 0",
            of_blocked(Ipv4 { version_and_length: Some(0x05), ..none }),
            Ipv4Version,
        ),
        malformed(
            "IPv4 header length 4",
            of_blocked(Ipv4 { version_and_length: Some(0x44), ..none }),
            Ipv4HeaderLength,
        ),
        malformed(
            "IPv4 header length 0",
            of_blocked(Ipv4 { version_and_length: Some(0x40), ..none }),
            Ipv4HeaderLength,
        ),
        malformed(
            "total length under the header's",
            of_blocked(Ipv4 { total_length: Some(19), ..none }),
            Ipv4TotalLength,
        ),
        malformed(
            "total length over the frame's",
            of_blocked(Ipv4 { total_length: Some(33), ..none }),
            Ipv4TotalLength,
        ),
        malformed("total length 0", of_blocked(Ipv4 { total_length: Some(0), ..none }), Ipv4TotalLength),
        malformed("a cut IPv6 header", cut(v6("2001:db8:bad::1"), 53), Ipv6Truncated),
        malformed(
            "IPv6 with version 4",
            odd_v6(Ipv6 { version_and_class: 0x40, ..Ipv6::default() }, &udp(b"")),
            Ipv6Version,
        ),
        malformed(
            "payload length over the frame's",
            odd_v6(Ipv6 { payload_length: Some(9), ..Ipv6::default() }, &udp(b"")),
            Ipv6PayloadLength,
        ),
        pass(
            "traffic class and flow label",
            V6,
            odd_v6(Ipv6 { version_and_class: 0x6f, ..Ipv6::default() }, &udp(b"")),
            NoMatch,
        ),
        decided("padding behind IPv6", V6, padded(v6("2001:db8:bad::1"), 90), Blocked, 0),
    ]
}

fn transport() -> Vec<Scenario> {
    use Reason::{Blocked, IcmpTruncated, NoMatch, TcpDataOffset, TcpTruncated, UdpLength, UdpTruncated};
    let more_fragments = 0x2000;
    let fragment = |fragment, payload: &[u8]| odd_v4(Ipv4 { fragment, ..Ipv4::default() }, payload);
    let blocked = |protocol, payload: &[u8]| ethernet(&[], IPV4, &ipv4("203.0.113.77", protocol, payload));
    vec![
        pass("TCP", V4, v4_with(protocol::TCP, &tcp()), NoMatch),
        pass("TCP with options", V4, v4_with(protocol::TCP, &tcp_with(0x60, &[2, 4, 5, 0xb4])), NoMatch),
        pass("TCP over IPv6", V4, v6_with(protocol::TCP, &tcp()), NoMatch),
        malformed("a cut TCP header", v4_with(protocol::TCP, &cut(tcp(), 19)), TcpTruncated),
        malformed("a cut TCP header over IPv6", v6_with(protocol::TCP, &cut(tcp(), 19)), TcpTruncated),
        malformed(
            "a TCP header that is padding",
            padded(v4_with(protocol::TCP, &cut(tcp(), 19)), 60),
            TcpTruncated,
        ),
        malformed("TCP data offset 16", v4_with(protocol::TCP, &tcp_with(0x40, &[])), TcpDataOffset),
        malformed(
            "TCP data offset over the packet",
            v4_with(protocol::TCP, &tcp_with(0x60, &[1, 1, 1])),
            TcpDataOffset,
        ),
        malformed(
            "TCP options that are padding",
            padded(v4_with(protocol::TCP, &tcp_with(0x60, &[])), 60),
            TcpDataOffset,
        ),
        pass("an empty UDP datagram", V4, v4_with(protocol::UDP, &udp(b"")), NoMatch),
        malformed("a cut UDP header", v4_with(protocol::UDP, &cut(udp(b""), 7)), UdpTruncated),
        malformed("a UDP header that is padding", padded(v4_with(protocol::UDP, &[]), 60), UdpTruncated),
        malformed("a cut UDP header over IPv6", v6_with(protocol::UDP, &cut(udp(b""), 7)), UdpTruncated),
        malformed("UDP length 7", v4_with(protocol::UDP, &udp_with(7, b"data")), UdpLength),
        malformed("UDP length over the packet's", v4_with(protocol::UDP, &udp_with(13, b"data")), UdpLength),
        malformed(
            "UDP length in the padding",
            padded(v4_with(protocol::UDP, &udp_with(13, b"data")), 60),
            UdpLength,
        ),
        pass("UDP length under the packet's", V4, v4_with(protocol::UDP, &udp_with(8, b"data")), NoMatch),
        pass("ICMP echo", V4, v4_with(protocol::ICMP, &icmp(8)), NoMatch),
        pass("ICMPv6 echo", V4, v6_with(protocol::ICMPV6, &icmp(128)), NoMatch),
        malformed("a cut ICMP header", v4_with(protocol::ICMP, &icmp(8)[..3]), IcmpTruncated),
        malformed("a cut ICMPv6 header", v6_with(protocol::ICMPV6, &icmp(128)[..3]), IcmpTruncated),
        pass("ICMPv6 over IPv4 is any protocol", V4, v4_with(protocol::ICMPV6, &[]), NoMatch),
        pass("ICMP over IPv6 is any protocol", V4, v6_with(protocol::ICMP, &[]), NoMatch),
        decided("TCP from a blocked source", V4, blocked(protocol::TCP, &tcp()), Blocked, 0),
        decided("ICMP from a blocked source", V4, blocked(protocol::ICMP, &icmp(8)), Blocked, 0),
        decided("GRE from a blocked source", V4, blocked(protocol::GRE, &[]), Blocked, 0),
        decided("an unknown protocol from a blocked source", V4, blocked(253, &[]), Blocked, 0),
        decided(
            "an IPv6 extension header does not hide the source",
            V6,
            ethernet(
                &[],
                IPV6,
                &ipv6("2001:db8:bad::1", protocol::HOP_BY_HOP, &[protocol::UDP, 0, 5, 2, 0, 0, 0, 0]),
            ),
            Blocked,
            0,
        ),
        pass("a first fragment", V4, fragment(more_fragments, &udp_with(2000, b"data")), NoMatch),
        malformed("a first fragment too short for UDP", fragment(more_fragments, &[0; 7]), UdpTruncated),
        malformed(
            "a first fragment with UDP length 7",
            fragment(more_fragments, &udp_with(7, b"data")),
            UdpLength,
        ),
        pass(
            "a later fragment is not read as a header",
            V4,
            fragment(more_fragments | 3, &[0xff; 3]),
            NoMatch,
        ),
        pass("a last fragment of one byte", V4, fragment(185, &[0xff]), NoMatch),
        decided(
            "a later fragment from a blocked source",
            V4,
            odd_v4(Ipv4 { source: "203.0.113.77", fragment: 3, ..Ipv4::default() }, &[0xff; 8]),
            Blocked,
            0,
        ),
        pass("don't fragment is no fragment", V4, fragment(0x4000, &udp(b"data")), NoMatch),
    ]
}
