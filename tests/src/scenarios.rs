//! THE table: what the filter must say of which frame under which entries. Host, kernel and wire run it alike.

use std::net::IpAddr;

use filter_common::offline::{HostEntry, HostTables};
use filter_common::packet::Address;
use filter_common::{FOREVER, Reason, Verdict};
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
    pub name: String,
    /// The entries.
    pub policy: &'static [Rule],
    /// The frame.
    pub frame: Vec<u8>,
    /// Faults that pass all the same.
    pub tolerated: &'static [Reason],
    /// Why it gets its verdict.
    pub reason: Reason,
    /// The rule that decides, by its place in the policy.
    pub decided_by: Option<usize>,
}

/// A scenario's rules as tables of the host at the moment `now_s`. Ids are places in the policy, plus one.
///
/// # Panics
///
/// If a rule's prefix is none.
pub fn host_tables(scenario: &Scenario, now_s: u32) -> HostTables {
    let Scenario { policy, tolerated, .. } = scenario;
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
    HostTables { entries: policy.iter().map(entry).collect(), tolerated: tolerated.to_vec() }
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
    [
        addresses(),
        lists(),
        deadlines(),
        essentials(),
        ethernet_and_vlan(),
        ip_headers(),
        transport(),
        extensions(),
        chains(),
        fragments(),
        tolerated(),
        cut_short(),
    ]
    .concat()
}

impl Scenario {
    /// What happens to the frame.
    pub fn verdict(&self) -> Verdict {
        if self.tolerated.contains(&self.reason) { Verdict::Pass } else { self.reason.verdict() }
    }
}

fn pass(name: impl Into<String>, policy: &'static [Rule], frame: Vec<u8>, reason: Reason) -> Scenario {
    Scenario { name: name.into(), policy, frame, tolerated: &[], reason, decided_by: None }
}

fn decided(
    name: impl Into<String>,
    policy: &'static [Rule],
    frame: Vec<u8>,
    reason: Reason,
    by: usize,
) -> Scenario {
    Scenario { decided_by: Some(by), ..pass(name, policy, frame, reason) }
}

fn malformed(name: impl Into<String>, frame: Vec<u8>, reason: Reason) -> Scenario {
    pass(name, NONE, frame, reason)
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
    use Reason::{Arp, Blocked, Llc, Mpls, NeighbourDiscovery, NonIp, Pppoe};
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
        pass("an IEEE 802.3 length", EVERYTHING, ethernet(&[], 46, &[0x42; 46]), Llc),
        pass("the largest IEEE 802.3 length", EVERYTHING, ethernet(&[], 0x05ff, &[0x42; 46]), Llc),
        pass("the smallest EtherType", EVERYTHING, ethernet(&[], 0x0600, &[0x42; 46]), NonIp),
        pass("MPLS unicast", EVERYTHING, ethernet(&[], 0x8847, &[0; 46]), Mpls),
        pass("MPLS with upstream labels", EVERYTHING, ethernet(&[], 0x8848, &[0; 46]), Mpls),
        pass("PPPoE discovery", EVERYTHING, ethernet(&[], 0x8863, &[0; 46]), Pppoe),
        pass("PPPoE session", EVERYTHING, ethernet(&[C_TAG], 0x8864, &[0; 46]), Pppoe),
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
    use Reason::{
        Blocked, FragmentTooShort, IcmpTruncated, NoMatch, PathMtu, SctpTruncated, TcpDataOffset,
        TcpTruncated, UdpLength, UdpTruncated,
    };
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
        pass("SCTP", V4, v4_with(protocol::SCTP, &[7; 12]), NoMatch),
        pass("SCTP over IPv6", V4, v6_with(protocol::SCTP, &[7; 12]), NoMatch),
        malformed("a cut SCTP header", v4_with(protocol::SCTP, &[7; 11]), SctpTruncated),
        malformed(
            "an SCTP header that is padding",
            padded(v4_with(protocol::SCTP, &[7; 11]), 60),
            SctpTruncated,
        ),
        pass("ICMP fragmentation needed", V4, v4_with(protocol::ICMP, &[3, 4, 0, 0, 0, 0, 5, 0xdc]), PathMtu),
        pass("ICMP port unreachable", V4, v4_with(protocol::ICMP, &[3, 3, 0, 0, 0, 0, 0, 0]), NoMatch),
        pass("ICMPv6 packet too big", V4, v6_with(protocol::ICMPV6, &[2, 0, 0, 0, 0, 0, 5, 0]), PathMtu),
        pass("ICMPv6 type 3 code 4", V4, v6_with(protocol::ICMPV6, &[3, 4, 0, 0, 0, 0, 0, 0]), NoMatch),
        decided(
            "fragmentation needed from a blocked source",
            V4,
            blocked(protocol::ICMP, &[3, 4, 0, 0, 0, 0, 5, 0xdc]),
            Blocked,
            0,
        ),
        decided(
            "packet too big from a blocked source",
            EVERYTHING,
            v6_with(protocol::ICMPV6, &[2, 0, 0, 0, 0, 0, 5, 0]),
            Blocked,
            1,
        ),
        pass("a first fragment", V4, fragment(more_fragments, &udp_with(2000, b"data")), NoMatch),
        malformed("a first fragment too short for UDP", fragment(more_fragments, &[0; 7]), FragmentTooShort),
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

/// An extension header of `length` bytes, a multiple of eight, followed by `next`.
fn extension(next: u8, length: usize) -> Vec<u8> {
    let mut header = vec![0; length];
    header[0] = next;
    header[1] = u8::try_from(length / 8 - 1).expect("at most 2048 bytes");
    header
}

/// An authentication header of `length` bytes, a multiple of four (RFC 4302: its length field counts words, less two).
fn authentication(next: u8, length: usize) -> Vec<u8> {
    let mut header = vec![0; length];
    header[0] = next;
    header[1] = u8::try_from(length / 4 - 2).expect("at most 1028 bytes");
    header
}

/// A fragment header with this offset, in units of eight bytes, and this more-fragments flag.
fn fragment_header(next: u8, offset: u16, more: bool) -> Vec<u8> {
    let field = offset << 3 | u16::from(more);
    [&[next, 0][..], &field.to_be_bytes(), &[0, 0, 0, 7]].concat()
}

/// A frame from a source that [`V6`] blocks.
fn blocked_v6(next_header: u8, payload: &[u8]) -> Vec<u8> {
    odd_v6(Ipv6 { source: "2001:db8:bad::77", next_header, ..Ipv6::default() }, payload)
}

/// Extension headers with the form of RFC 6564, by name.
const EXTENSIONS: [(&str, u8); 6] = [
    ("hop-by-hop options", 0),
    ("routing", 43),
    ("destination options", 60),
    ("mobility", 135),
    ("host identity", 139),
    ("shim6", 140),
];

fn extensions() -> Vec<Scenario> {
    use Reason::{
        Blocked, Ipv6ExtensionLength, Ipv6ExtensionOrder, Ipv6ExtensionTruncated, Ipv6JumboLength, NoMatch,
        TcpTruncated, UdpLength,
    };
    let mut scenarios = Vec::new();
    for (name, number) in EXTENSIONS {
        for length in [8, 16, 2048] {
            let packet = |upper: &[u8]| [extension(protocol::TCP, length), upper.to_vec()].concat();
            let shown = format!("{name} header of {length} bytes");
            scenarios.push(pass(format!("{shown}, TCP"), NONE, v6_with(number, &packet(&tcp())), NoMatch));
            scenarios.push(decided(
                format!("{shown}, blocked source"),
                V6,
                blocked_v6(number, &packet(&tcp())),
                Blocked,
                0,
            ));
            // Only if the header is skipped by its right length is what follows seen to be cut.
            scenarios.push(malformed(
                format!("{shown}, cut TCP"),
                v6_with(number, &packet(&tcp()[..19])),
                TcpTruncated,
            ));
            let cut_header = &extension(protocol::TCP, length)[..length - 1];
            scenarios.push(malformed(
                format!("{shown}, itself cut"),
                v6_with(number, cut_header),
                Ipv6ExtensionTruncated,
            ));
        }
        scenarios.push(malformed(
            format!("{name} header of which one byte is there"),
            v6_with(number, &[protocol::TCP]),
            Ipv6ExtensionTruncated,
        ));
        scenarios.push(malformed(
            format!("{name} header that says 2048 bytes in a short packet"),
            v6_with(number, &[&[protocol::TCP, 255][..], &[0; 6], &tcp()].concat()),
            Ipv6ExtensionTruncated,
        ));
        scenarios.push(malformed(
            format!("{name} header in the padding"),
            padded(v6_with(number, &[]), 90),
            if number == 0 { Ipv6JumboLength } else { Ipv6ExtensionTruncated },
        ));
    }
    for length in [12, 16, 24, 1028] {
        let packet = |upper: &[u8]| [authentication(protocol::UDP, length), upper.to_vec()].concat();
        let shown = format!("authentication header of {length} bytes");
        scenarios.push(pass(format!("{shown}, UDP"), NONE, v6_with(51, &packet(&udp(b"data"))), NoMatch));
        scenarios.push(decided(
            format!("{shown}, blocked source"),
            V6,
            blocked_v6(51, &packet(&udp(b""))),
            Blocked,
            0,
        ));
        scenarios.push(malformed(
            format!("{shown}, UDP length 7"),
            v6_with(51, &packet(&udp_with(7, b""))),
            UdpLength,
        ));
        let cut_header = &authentication(protocol::UDP, length)[..length - 1];
        scenarios.push(malformed(
            format!("{shown}, itself cut"),
            v6_with(51, cut_header),
            Ipv6ExtensionTruncated,
        ));
    }
    let short_authentication = [&[protocol::UDP, 0][..], &[0; 6], &udp(b"data")].concat();
    scenarios.extend([
        malformed(
            "authentication header of 8 bytes",
            v6_with(51, &short_authentication),
            Ipv6ExtensionLength,
        ),
        malformed(
            "hop-by-hop options behind another header",
            v6_with(60, &[extension(0, 8), extension(protocol::TCP, 8), tcp()].concat()),
            Ipv6ExtensionOrder,
        ),
        pass("no next header", NONE, v6_with(59, &[]), NoMatch),
        pass("no next header, with bytes behind", NONE, v6_with(59, &[1, 2, 3]), NoMatch),
        decided("no next header from a blocked source", V6, blocked_v6(59, &[]), Blocked, 0),
        pass("ESP", NONE, v6_with(50, &[0; 16]), NoMatch),
        decided("ESP from a blocked source", V6, blocked_v6(50, &[0; 16]), Blocked, 0),
        decided(
            "ESP behind destination options",
            V6,
            blocked_v6(60, &[extension(50, 8), vec![0; 16]].concat()),
            Blocked,
            0,
        ),
        decided(
            "IPv6 in IPv6 from a blocked source",
            V6,
            blocked_v6(41, &ipv6("2001:db8:1::1", 17, &udp(b""))),
            Blocked,
            0,
        ),
        pass(
            "IPv6 in IPv6, the inner source blocked",
            V6,
            v6_with(41, &ipv6("2001:db8:bad::1", 17, &udp(b""))),
            NoMatch,
        ),
        pass("authentication over IPv4 is any protocol", NONE, v4_with(51, &[17, 0]), NoMatch),
        malformed(
            "payload length 0 with hop-by-hop options in a short frame",
            odd_v6(
                Ipv6 { next_header: 0, payload_length: Some(0), ..Ipv6::default() },
                &[&[protocol::TCP, 0, 0xc2, 4, 0, 1, 0, 0][..], &tcp()].concat(),
            ),
            Ipv6JumboLength,
        ),
        malformed(
            "payload length 0 and TCP",
            odd_v6(Ipv6 { next_header: protocol::TCP, payload_length: Some(0), ..Ipv6::default() }, &tcp()),
            TcpTruncated,
        ),
        pass(
            "neighbour solicitation behind destination options",
            EVERYTHING,
            odd_v6(
                Ipv6 { next_header: 60, hop_limit: 255, ..Ipv6::default() },
                &[extension(protocol::ICMPV6, 8), icmp(135)].concat(),
            ),
            Reason::NeighbourDiscovery,
        ),
    ]);
    scenarios
}

/// Chains of 1 to 12 headers: eight are followed.
fn chains() -> Vec<Scenario> {
    let chain = |headers: usize, upper: &[u8]| {
        let mut payload: Vec<u8> = (1..headers).flat_map(|_| extension(60, 8)).collect();
        payload.extend(extension(protocol::UDP, 8));
        payload.extend(upper);
        payload
    };
    let mut scenarios = Vec::new();
    for headers in 1..=12 {
        let shown = format!("{headers} extension headers");
        let deep = headers > 8;
        let (good, cut) = (chain(headers, &udp(b"data")), chain(headers, &udp(b"")[..7]));
        let too_many = Reason::Ipv6TooManyExtensions;
        scenarios.push(pass(
            shown.clone(),
            NONE,
            v6_with(60, &good),
            if deep { too_many } else { Reason::NoMatch },
        ));
        scenarios.push(malformed(
            format!("{shown}, then a cut UDP header"),
            v6_with(60, &cut),
            if deep { too_many } else { Reason::UdpTruncated },
        ));
        let blocked = blocked_v6(60, &good);
        scenarios.push(if deep {
            malformed(format!("{shown}, blocked source"), blocked, too_many)
        } else {
            decided(format!("{shown}, blocked source"), V6, blocked, Reason::Blocked, 0)
        });
    }
    scenarios.push(malformed(
        "eight headers, then hop-by-hop options",
        v6_with(
            60,
            &[(0..7).flat_map(|_| extension(60, 8)).collect(), extension(0, 8), vec![0; 16]].concat(),
        ),
        Reason::Ipv6ExtensionOrder,
    ));
    scenarios
}

fn fragments() -> Vec<Scenario> {
    use Reason::{
        Blocked, FragmentBeyondEnd, FragmentLength, FragmentTooShort, NoMatch, TcpFragmentOffset,
        TcpTruncated, UdpLength,
    };
    let v4_fragment =
        |protocol, fragment, payload: &[u8]| odd_v4(Ipv4 { protocol, fragment, ..Ipv4::default() }, payload);
    let v6_fragment = |next, offset, more, payload: &[u8]| {
        v6_with(44, &[fragment_header(next, offset, more), payload.to_vec()].concat())
    };
    let (tcp_number, udp_number, more) = (protocol::TCP, protocol::UDP, 0x2000);
    let mut scenarios = vec![
        pass(
            "IPv6 first fragment",
            NONE,
            v6_fragment(udp_number, 0, true, &udp_with(2000, &[0; 8])),
            NoMatch,
        ),
        pass(
            "IPv6 later fragment is not read as a header",
            NONE,
            v6_fragment(udp_number, 3, true, &[0xff; 8]),
            NoMatch,
        ),
        pass("IPv6 last fragment of one byte", NONE, v6_fragment(udp_number, 185, false, &[0xff]), NoMatch),
        pass("IPv6 atomic fragment", NONE, v6_fragment(tcp_number, 0, false, &tcp()), NoMatch),
        malformed(
            "IPv6 atomic fragment with a cut TCP header",
            v6_fragment(tcp_number, 0, false, &tcp()[..19]),
            TcpTruncated,
        ),
        malformed(
            "IPv6 atomic fragment with a UDP length lie",
            v6_fragment(udp_number, 0, false, &udp_with(9, &[])),
            UdpLength,
        ),
        malformed(
            "IPv6 first fragment too short for TCP",
            v6_fragment(tcp_number, 0, true, &tcp()[..16]),
            FragmentTooShort,
        ),
        malformed(
            "IPv6 first fragment too short for UDP",
            v6_fragment(udp_number, 0, true, &[]),
            FragmentTooShort,
        ),
        malformed(
            "IPv6 first fragment too short for ICMPv6",
            v6_fragment(protocol::ICMPV6, 0, true, &[]),
            FragmentTooShort,
        ),
        malformed(
            "IPv6 first fragment that ends in an extension header",
            v6_fragment(60, 0, true, &extension(tcp_number, 16)[..8]),
            FragmentTooShort,
        ),
        pass(
            "IPv6 first fragment with options behind",
            NONE,
            v6_fragment(60, 0, true, &[extension(tcp_number, 8), tcp(), vec![0; 4]].concat()),
            NoMatch,
        ),
        malformed(
            "IPv6 fragment of 9 bytes with more to come",
            v6_fragment(udp_number, 3, true, &[0; 9]),
            FragmentLength,
        ),
        malformed(
            "IPv6 first fragment of 9 bytes",
            v6_fragment(udp_number, 0, true, &udp_with(200, &[0])),
            FragmentLength,
        ),
        malformed(
            "IPv6 TCP fragment at offset 1",
            v6_fragment(tcp_number, 1, true, &[0; 16]),
            TcpFragmentOffset,
        ),
        pass("IPv6 UDP fragment at offset 1", NONE, v6_fragment(udp_number, 1, true, &[0; 16]), NoMatch),
        pass("IPv6 TCP fragment at offset 2", NONE, v6_fragment(tcp_number, 2, true, &[0; 16]), NoMatch),
        malformed(
            "IPv6 fragment beyond 65,535",
            v6_fragment(udp_number, 0x1fff, false, &[0; 8]),
            FragmentBeyondEnd,
        ),
        pass("IPv6 fragment up to 65,535", NONE, v6_fragment(udp_number, 0x1fff, false, &[0; 7]), NoMatch),
        malformed(
            "a cut fragment header",
            v6_with(44, &fragment_header(udp_number, 0, true)[..7]),
            Reason::Ipv6ExtensionTruncated,
        ),
        malformed(
            "a fragment within a fragment, too short",
            v6_fragment(44, 0, true, &fragment_header(tcp_number, 0, true)),
            FragmentTooShort,
        ),
        pass(
            "a later fragment within a first",
            NONE,
            v6_fragment(44, 0, true, &[fragment_header(udp_number, 9, false), vec![0; 8]].concat()),
            NoMatch,
        ),
        malformed("TCP fragment at offset 1", v4_fragment(tcp_number, 1, &[0; 16]), TcpFragmentOffset),
        malformed(
            "TCP fragment at offset 1 with more to come",
            v4_fragment(tcp_number, more | 1, &[0; 16]),
            TcpFragmentOffset,
        ),
        pass("UDP fragment at offset 1", NONE, v4_fragment(udp_number, 1, &[0; 16]), NoMatch),
        pass("TCP fragment at offset 2", NONE, v4_fragment(tcp_number, 2, &[0; 16]), NoMatch),
        // With the header of 20 bytes: 20 + 8189 * 8 + 3 is 65,535.
        pass("IPv4 fragment up to 65,535", NONE, v4_fragment(udp_number, 0x1ffd, &[0; 3]), NoMatch),
        malformed("IPv4 fragment beyond 65,535", v4_fragment(udp_number, 0x1ffd, &[0; 4]), FragmentBeyondEnd),
        malformed("the ping of death", v4_fragment(protocol::ICMP, 0x1fff, &[0; 7]), FragmentBeyondEnd),
        malformed(
            "IPv6 fragment whose options carry it beyond 65,535",
            v6_with(60, &[extension(44, 8), fragment_header(udp_number, 0x1fff, false), vec![0; 7]].concat()),
            FragmentBeyondEnd,
        ),
        malformed(
            "first fragment too short for TCP",
            v4_fragment(tcp_number, more, &tcp()[..16]),
            FragmentTooShort,
        ),
        malformed(
            "first fragment too short for ICMP",
            v4_fragment(protocol::ICMP, more, &[8]),
            FragmentTooShort,
        ),
        malformed(
            "first fragment too short for SCTP",
            v4_fragment(protocol::SCTP, more, &[0; 8]),
            FragmentTooShort,
        ),
        pass("first fragment of an unknown protocol", NONE, v4_fragment(253, more, &[]), NoMatch),
        decided(
            "IPv6 TCP fragment at offset 2 of a blocked source",
            V6,
            blocked_v6(44, &[fragment_header(tcp_number, 2, true), vec![0; 8]].concat()),
            Blocked,
            0,
        ),
        decided(
            "IPv6 atomic fragment of a blocked source",
            V6,
            blocked_v6(44, &[fragment_header(udp_number, 0, false), udp(b"")].concat()),
            Blocked,
            0,
        ),
        decided(
            "neighbour solicitation in a first fragment is none",
            EVERYTHING,
            odd_v6(
                Ipv6 { next_header: 44, hop_limit: 255, ..Ipv6::default() },
                &[fragment_header(protocol::ICMPV6, 0, true), icmp(135)].concat(),
            ),
            Blocked,
            1,
        ),
        decided(
            "neighbour solicitation in an atomic fragment is none",
            EVERYTHING,
            odd_v6(
                Ipv6 { next_header: 44, hop_limit: 255, ..Ipv6::default() },
                &[fragment_header(protocol::ICMPV6, 0, false), icmp(135)].concat(),
            ),
            Blocked,
            1,
        ),
        decided(
            "neighbour solicitation in a later fragment is none",
            EVERYTHING,
            odd_v6(
                Ipv6 { next_header: 44, hop_limit: 255, ..Ipv6::default() },
                &[fragment_header(protocol::ICMPV6, 5, false), icmp(135)].concat(),
            ),
            Blocked,
            1,
        ),
    ];
    for (name, offset, is_more) in [("first", 0, true), ("middle", 4, true), ("last", 9, false)] {
        let field = offset | if is_more { more } else { 0 };
        let header = Ipv4 { source: "203.0.113.77", fragment: field, ..Ipv4::default() };
        let payload = if offset == 0 { udp_with(80, &[0; 8]) } else { vec![0xff; 16] };
        scenarios.push(decided(
            format!("IPv4 {name} fragment of a blocked source"),
            V4,
            odd_v4(header, &payload),
            Blocked,
            0,
        ));
        let payload = [fragment_header(udp_number, offset, is_more), payload].concat();
        scenarios.push(decided(
            format!("IPv6 {name} fragment of a blocked source"),
            V6,
            blocked_v6(44, &payload),
            Blocked,
            0,
        ));
    }
    scenarios
}

/// Faults that the operator lets pass: counted all the same, and no list is asked.
fn tolerated() -> Vec<Scenario> {
    let tolerating = |name: &str, tolerated: &'static [Reason], frame: Vec<u8>, reason| Scenario {
        tolerated,
        ..pass(format!("{name}, tolerated"), EVERYTHING, frame, reason)
    };
    vec![
        tolerating("five tags", &[Reason::VlanTooDeep], tagged(&[C_TAG; 5]), Reason::VlanTooDeep),
        tolerating(
            "UDP length 7",
            &[Reason::UdpLength, Reason::Ipv4Version],
            v4_with(protocol::UDP, &udp_with(7, b"data")),
            Reason::UdpLength,
        ),
        tolerating(
            "a cut TCP header, another fault",
            &[Reason::UdpLength],
            v4_with(protocol::TCP, &cut(tcp(), 19)),
            Reason::TcpTruncated,
        ),
    ]
}

/// Well-formed frames cut at every length: the reason names the layer in which they end.
fn cut_short() -> Vec<Scenario> {
    let layers = |frame: Vec<u8>, name: &'static str, ends: &'static [(usize, Reason)]| {
        (0..frame.len()).map(move |length| {
            let (_, reason) =
                ends.iter().find(|(end, _)| length < *end).expect("the last end is the frame's");
            malformed(format!("{name} cut to {length} bytes"), cut(frame.clone(), length), *reason)
        })
    };
    use Reason::{
        EthernetTruncated, Ipv4TotalLength, Ipv4Truncated, Ipv6PayloadLength, Ipv6Truncated, VlanTruncated,
    };
    let ipv4_tcp = ethernet(&[S_TAG, C_TAG], IPV4, &ipv4("198.51.100.1", protocol::TCP, &tcp()));
    let ipv6_udp = ethernet(
        &[],
        IPV6,
        &ipv6("2001:db8:1::1", 60, &[extension(protocol::UDP, 8), udp(b"data")].concat()),
    );
    let ipv4_ends =
        &[(14, EthernetTruncated), (22, VlanTruncated), (42, Ipv4Truncated), (62, Ipv4TotalLength)];
    let ipv6_ends = &[(14, EthernetTruncated), (54, Ipv6Truncated), (74, Ipv6PayloadLength)];
    layers(ipv4_tcp, "tagged TCP over IPv4", ipv4_ends)
        .chain(layers(ipv6_udp, "UDP over IPv6 with options", ipv6_ends))
        .collect()
}
