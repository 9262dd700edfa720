//! The naive reference filter: what the RFCs say, written once more in the plainest way, on slices and wide
//! integers, by linear search, sharing no code with the filter but the names of its reasons. Slow, and easy to read.

use std::net::IpAddr;

use filter_common::{Reason, Verdict};
use filter_ctl::policy::Action;

use crate::scenarios::{Life, Rule};

/// What the model says of a frame: why, what happens to it, and which rule decided (by its place).
pub fn judge(frame: &[u8], rules: &[Rule], tolerated: &[Reason]) -> (Reason, Verdict, Option<usize>) {
    let (reason, rule) = match read(frame) {
        Err(fault) => (fault, None),
        Ok(Seen::Other(reason)) => (reason, None),
        Ok(Seen::Ip { source, path_mtu }) => {
            let of = |action| deciding(rules, action, source);
            match (of(Action::Allow), of(Action::Block)) {
                (Some(rule), _) => (Reason::Allowed, Some(rule)),
                (None, Some(rule)) => (Reason::Blocked, Some(rule)),
                (None, None) if path_mtu => (Reason::PathMtu, None),
                (None, None) => (Reason::NoMatch, None),
            }
        }
    };
    let verdict = if tolerated.contains(&reason) { Verdict::Pass } else { reason.verdict() };
    (reason, verdict, rule)
}

/// The longest rule with this action that covers the source, if any that covers it is not over.
fn deciding(rules: &[Rule], action: Action, source: IpAddr) -> Option<usize> {
    let covering: Vec<(usize, u32)> = rules
        .iter()
        .enumerate()
        .filter(|(_, rule)| rule.action == action)
        .filter_map(|(place, rule)| Some((place, covered(rule.prefix, source)?)))
        .collect();
    let alive = covering.iter().any(|(place, _)| rules[*place].life != Life::Over);
    covering.into_iter().max_by_key(|(_, length)| *length).filter(|_| alive).map(|(place, _)| place)
}

/// The length of the prefix, if it covers the source.
fn covered(prefix: &str, source: IpAddr) -> Option<u32> {
    let (network, length) = prefix.split_once('/').expect("rules have lengths");
    let (network, length): (IpAddr, u32) =
        (network.parse().expect("an address"), length.parse().expect("a length"));
    let (network, source, bits) = match (network, source) {
        (IpAddr::V4(network), IpAddr::V4(source)) => {
            (u128::from(network.to_bits()), u128::from(source.to_bits()), 32)
        }
        (IpAddr::V6(network), IpAddr::V6(source)) => (network.to_bits(), source.to_bits(), 128),
        _ => return None,
    };
    let block = 1u128.checked_shl(bits - length);
    let same = block.is_none_or(|block| network / block == source / block);
    same.then_some(length)
}

enum Seen {
    Ip { source: IpAddr, path_mtu: bool },
    Other(Reason),
}

fn word(bytes: &[u8], at: usize) -> usize {
    usize::from(bytes[at]) * 256 + usize::from(bytes[at + 1])
}

fn read(frame: &[u8]) -> Result<Seen, Reason> {
    if frame.len() < 14 {
        return Err(Reason::EthernetTruncated);
    }
    let mut tags = 0;
    let mut at = 12;
    while [0x8100, 0x88a8, 0x9100, 0x9200].contains(&word(frame, at)) {
        tags += 1;
        if tags > 4 {
            return Err(Reason::VlanTooDeep);
        }
        if frame.len() < at + 6 {
            return Err(Reason::VlanTruncated);
        }
        at += 4;
    }
    let payload = &frame[at + 2..];
    match word(frame, at) {
        0x0800 => ipv4(payload),
        0x86dd => ipv6(payload),
        0x0806 | 0x8035 => Ok(Seen::Other(Reason::Arp)),
        0x8847 | 0x8848 => Ok(Seen::Other(Reason::Mpls)),
        0x8863 | 0x8864 => Ok(Seen::Other(Reason::Pppoe)),
        0..=1535 => Ok(Seen::Other(Reason::Llc)),
        _ => Ok(Seen::Other(Reason::NonIp)),
    }
}

fn ipv4(packet: &[u8]) -> Result<Seen, Reason> {
    if packet.len() < 20 {
        return Err(Reason::Ipv4Truncated);
    }
    if packet[0] / 16 != 4 {
        return Err(Reason::Ipv4Version);
    }
    let header = usize::from(packet[0] % 16) * 4;
    if header < 20 {
        return Err(Reason::Ipv4HeaderLength);
    }
    if packet.len() < header {
        return Err(Reason::Ipv4Truncated);
    }
    let total = if word(packet, 2) == 0 && packet.len() > 65_535 { packet.len() } else { word(packet, 2) };
    if total < header || total > packet.len() {
        return Err(Reason::Ipv4TotalLength);
    }
    let source = IpAddr::from([packet[12], packet[13], packet[14], packet[15]]);
    let field = word(packet, 6);
    let payload = &packet[header..total];
    let path_mtu = if field.is_multiple_of(0x2000) {
        transport(packet[9], payload, field / 0x2000 % 2 == 1, 1)?;
        packet[9] == 1 && payload[..2] == [3, 4]
    } else {
        later_fragment(packet[9], field % 0x2000, total)?;
        false
    };
    Ok(Seen::Ip { source, path_mtu })
}

/// `length` is of the packet as far as its own length field counts it.
fn later_fragment(protocol: u8, offset: usize, length: usize) -> Result<(), Reason> {
    if protocol == 6 && offset == 1 {
        Err(Reason::TcpFragmentOffset)
    } else if offset * 8 + length > 65_535 {
        Err(Reason::FragmentBeyondEnd)
    } else {
        Ok(())
    }
}

fn ipv6(packet: &[u8]) -> Result<Seen, Reason> {
    // The version is looked at as soon as it is there with the first eight bytes.
    if packet.len() < 8 {
        return Err(Reason::Ipv6Truncated);
    }
    if packet[0] / 16 != 6 {
        return Err(Reason::Ipv6Version);
    }
    if packet.len() < 40 {
        return Err(Reason::Ipv6Truncated);
    }
    let source = IpAddr::from(<[u8; 16]>::try_from(&packet[8..24]).expect("sixteen bytes"));
    let (mut next, hop_limit, behind) = (packet[6], packet[7], &packet[40..]);
    let mut rest = match word(packet, 4) {
        0 if behind.len() > 65_535 => behind,
        0 if next == 0 => return Err(Reason::Ipv6JumboLength),
        length => behind.get(..length).ok_or(Reason::Ipv6PayloadLength)?,
    };
    let (mut headers, mut first_fragment, mut fragment_header) = (0, false, false);
    let whole = rest.len();
    while [0, 43, 44, 51, 60, 135, 139, 140].contains(&next) {
        if next == 0 && headers > 0 {
            return Err(Reason::Ipv6ExtensionOrder);
        }
        headers += 1;
        if headers > 8 {
            return Err(Reason::Ipv6TooManyExtensions);
        }
        let cut = if first_fragment { Reason::FragmentTooShort } else { Reason::Ipv6ExtensionTruncated };
        if rest.len() < 8 {
            return Err(cut);
        }
        let length = match next {
            44 => 8,
            51 => (usize::from(rest[1]) + 2) * 4,
            _ => (usize::from(rest[1]) + 1) * 8,
        };
        if next == 51 && length < 12 {
            return Err(Reason::Ipv6ExtensionLength);
        }
        if rest.len() < length {
            return Err(cut);
        }
        let (header, following) = rest.split_at(length);
        rest = following;
        let this = std::mem::replace(&mut next, header[0]);
        if this == 44 {
            let (offset, more) = (word(header, 2) / 8, word(header, 2) % 2 == 1);
            if more && rest.len() % 8 != 0 {
                return Err(Reason::FragmentLength);
            }
            fragment_header = true;
            if offset > 0 {
                // All but the fragment header itself counts in what is put together.
                later_fragment(next, offset, whole - 8)?;
                return Ok(Seen::Ip { source, path_mtu: false });
            }
            first_fragment |= more;
        }
    }
    transport(next, rest, first_fragment, 58)?;
    let icmp = next == 58;
    if icmp && hop_limit == 255 && !fragment_header && (133..=137).contains(&rest[0]) {
        return Ok(Seen::Other(Reason::NeighbourDiscovery));
    }
    Ok(Seen::Ip { source, path_mtu: icmp && rest[0] == 2 })
}

fn transport(protocol: u8, payload: &[u8], first_fragment: bool, icmp: u8) -> Result<(), Reason> {
    let (length, cut) = match protocol {
        6 => (20, Reason::TcpTruncated),
        17 => (8, Reason::UdpTruncated),
        132 => (12, Reason::SctpTruncated),
        _ if protocol == icmp => (4, Reason::IcmpTruncated),
        _ => return Ok(()),
    };
    if payload.len() < length {
        return Err(if first_fragment { Reason::FragmentTooShort } else { cut });
    }
    let longest = if first_fragment { usize::MAX } else { payload.len() };
    let data_offset = || usize::from(payload[12] / 16) * 4;
    match protocol {
        6 if !(20..=longest).contains(&data_offset()) => Err(Reason::TcpDataOffset),
        17 if !(8..=longest).contains(&word(payload, 4)) => Err(Reason::UdpLength),
        _ => Ok(()),
    }
}
