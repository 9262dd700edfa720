//! `explain`: what the filter does with a frame, and why. By the kernel's own program, without effect, or offline.

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use filter_common::abi::Counter;
use filter_common::offline::{HostEntry, HostTables, StoppedClock};
use filter_common::packet::{Address, Packet, Transport};
use filter_common::{Decision, NO_ENTRY, Reason, filter, parse};
use serde::Serialize;

use super::{Session, standing_warnings};
use crate::capture;
use crate::cli::ExplainArgs;
use crate::control::ListHolding;
use crate::exit::{Exit, UsageError};
use crate::host::{monotonic_now, monotonic_now_s, whole_seconds};
use crate::kernel::explain::{Explainer, frame_from};
use crate::output::{self, EntryView};
use crate::policy::{Action, Deadline, Entry, Key, Owner, Prefix, ReasonText};

#[derive(Serialize)]
struct Report {
    verdict: &'static str,
    reason: &'static str,
    meaning: &'static str,
    /// Whether the kernel decided, or the same code in this process with the policy of the command line.
    offline: bool,
    /// The entry that decided.
    entry: Option<EntryView>,
    /// What it has counted; absent offline.
    hits: Option<Hits>,
    /// The verdict if that entry were not there.
    without_it: Option<&'static str>,
    /// All entries that cover the source, the widest first, the deciding one included.
    covering: Vec<EntryView>,
    /// The lists that hold the source, whether or not they decide.
    lists: Vec<ListHolding>,
    /// What was read from the headers; nothing where they can't be read.
    packet: Option<PacketView>,
    /// Length of the frame in bytes.
    length: usize,
    /// Interfaces on which this is not so, since they are not filtered.
    warnings: Vec<String>,
}

/// Packets and bytes that an entry decided.
#[derive(Clone, Copy, Serialize)]
struct Hits {
    packets: u64,
    bytes: u64,
}

#[derive(Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum PacketView {
    Arp,
    Llc,
    Mpls,
    Pppoe,
    NonIp { ether_type: u16 },
    Ip { source: IpAddr, destination: IpAddr, hop_limit: u8, transport: TransportView },
}

#[derive(Serialize)]
#[serde(tag = "protocol", rename_all = "snake_case")]
enum TransportView {
    Tcp { source_port: u16, destination_port: u16, flags: u8 },
    Udp { source_port: u16, destination_port: u16 },
    Sctp { source_port: u16, destination_port: u16 },
    Icmp { r#type: u8, code: u8 },
    LaterFragment { number: u8 },
    Other { number: u8 },
}

pub fn run(session: &Session, args: &ExplainArgs) -> Result<Exit> {
    let frame = frame(args)?;
    let source = match parse(&frame[..]) {
        Ok(Packet::Ip(packet)) => Some(address(packet.source)),
        _ => None,
    };
    let Answer { decision, entries, tolerated, hits, lists, warnings } =
        if args.offline { offline(args, &frame)? } else { loaded(session, &frame, source)? };
    let now = monotonic_now();
    let by_id = |id: u32| entries.iter().find(|(known, _)| *known == id).map(|(_, entry)| entry);
    let mut covering: Vec<&Entry> = entries
        .iter()
        .map(|(_, entry)| entry)
        .filter(|entry| source.is_some_and(|source| entry.key.prefix.covers(&Prefix::host(source))))
        .collect();
    covering.sort_by_key(|entry| entry.key);
    let report = Report {
        verdict: decision.verdict.name(),
        reason: decision.reason.name(),
        meaning: decision.reason.sentence(),
        offline: args.offline,
        entry: by_id(decision.entry).map(|entry| EntryView::new(entry, now)),
        hits,
        without_it: by_id(decision.entry)
            .map(|entry| without(entry, &entries, tolerated, &frame, now).verdict.name()),
        covering: covering.into_iter().map(|entry| EntryView::new(entry, now)).collect(),
        lists,
        packet: parse(&frame[..]).ok().map(packet_view),
        length: frame.len(),
        warnings,
    };
    if session.global.json {
        session.out.json(&report)?
    } else {
        print(session, &report)?
    }
    Ok(Exit::Done)
}

/// A decision, the entries among which are those that cover the source, by id, and what must be known with it.
struct Answer {
    decision: Decision,
    entries: Vec<(u32, Entry)>,
    tolerated: Vec<Reason>,
    hits: Option<Hits>,
    lists: Vec<ListHolding>,
    warnings: Vec<String>,
}

/// What the loaded filter says.
fn loaded(session: &Session, frame: &[u8], source: Option<IpAddr>) -> Result<Answer> {
    // One lock around both, so that the entries are those that decided.
    let control = session.open()?;
    let filter = control.filter();
    let entries = match source {
        Some(source) => filter.covering(&Key { action: Action::Block, prefix: Prefix::host(source) })?,
        None => Vec::new(),
    };
    let decision = Explainer::open(&session.pins())?.decide(frame)?;
    let faults = Reason::ALL.iter().copied().filter(|reason| reason.is_malformed());
    let tolerated = faults
        .filter_map(|fault| filter.maps().tolerates(fault).map(|it_is| it_is.then_some(fault)).transpose())
        .collect::<Result<_>>()?;
    let hits = (decision.entry != NO_ENTRY).then(|| {
        let Counter { packets, bytes } = filter.counted_of(decision.entry);
        Hits { packets, bytes }
    });
    let lists = source.map_or_else(|| Ok(Vec::new()), |source| control.lists_holding(source))?;
    Ok(Answer { decision, entries, tolerated, hits, lists, warnings: standing_warnings(&control) })
}

/// What would be decided if `entry` were not among those that cover the source.
fn without(
    entry: &Entry,
    entries: &[(u32, Entry)],
    tolerated: Vec<Reason>,
    frame: &[u8],
    now: Duration,
) -> Decision {
    let others = entries.iter().map(|(_, other)| other).filter(|other| other.key != entry.key);
    let tables = HostTables { entries: others.map(host_entry).collect(), tolerated };
    filter(frame, &StoppedClock(whole_seconds(now)), &tables)
}

fn host_entry(entry: &Entry) -> HostEntry {
    HostEntry {
        address: match entry.key.prefix.address() {
            IpAddr::V4(address) => Address::V4(address.octets()),
            IpAddr::V6(address) => Address::V6(address.octets()),
        },
        prefix_len: entry.key.prefix.prefix_len(),
        allows: entry.key.action == Action::Allow,
        until_s: entry.until.0,
    }
}

/// What the same code says here, with the entries of the command line. Ids are places in their list, plus one.
fn offline(args: &ExplainArgs, frame: &[u8]) -> Result<Answer> {
    let mut entries = Vec::new();
    for (action, texts) in [(Action::Block, &args.block), (Action::Allow, &args.allow)] {
        for text in texts {
            let key = Key { action, prefix: Prefix::parse(text, false)? };
            entries.push(Entry {
                key,
                until: Deadline::NEVER,
                created_s: monotonic_now_s().into(),
                owner: Owner::manual(),
                reason: ReasonText::default(),
            });
        }
    }
    let tolerated = args.tolerate.iter().map(|name| fault(name)).collect::<Result<Vec<_>>>()?;
    let tables =
        HostTables { entries: entries.iter().map(host_entry).collect(), tolerated: tolerated.clone() };
    let decision = filter(frame, &StoppedClock(0), &tables);
    let entries = (NO_ENTRY + 1..).zip(entries).collect();
    Ok(Answer { decision, entries, tolerated, hits: None, lists: Vec::new(), warnings: Vec::new() })
}

/// The fault of this name.
///
/// # Errors
///
/// If there is none, with the names there are.
pub fn fault(name: &str) -> Result<Reason> {
    let faults = || Reason::ALL.iter().copied().filter(|reason| reason.is_malformed());
    faults().find(|reason| reason.name() == name).ok_or_else(|| {
        let names: Vec<_> = faults().map(Reason::name).collect();
        let shown: String = name.chars().take(40).flat_map(char::escape_debug).collect();
        UsageError(format!("`{shown}` is no fault of a frame; there are {}", names.join(", "))).into()
    })
}

/// The frame that the arguments name.
fn frame(args: &ExplainArgs) -> Result<Vec<u8>> {
    match (&args.address, &args.frame, &args.pcap) {
        (Some(address), None, None) => Ok(frame_from(*address)),
        (None, Some(hex), None) => bytes_of(hex),
        (None, None, Some(place)) => {
            let (path, number) = place.rsplit_once(':').with_context(usage_of_pcap)?;
            let number = number.parse().ok().filter(|number| *number > 0).with_context(usage_of_pcap)?;
            capture::packet(Path::new(path), number)
        }
        _ => bail!(UsageError("give one of ADDR, --frame and --pcap".into())),
    }
}

fn usage_of_pcap() -> UsageError {
    UsageError("--pcap takes FILE:N, with the number of the packet counted from 1".into())
}

/// Longest frame in hex that is taken: 64 KiB of bytes, with separators.
const LONGEST_HEX: usize = 3 << 16;

/// Bytes from hex digits, with or without spaces, colons and line ends between them, as tools print them.
fn bytes_of(hex: &str) -> Result<Vec<u8>> {
    let digits: Vec<u8> = hex.bytes().filter(|byte| !matches!(byte, b' ' | b':' | b'\n' | b'\t')).collect();
    let digit = |digit: &u8| char::from(*digit).to_digit(16);
    let value = |pair: &[u8]| match pair {
        [high, low] => u8::try_from(digit(high)? * 16 + digit(low)?).ok(),
        _ => None,
    };
    let bytes: Option<Vec<u8>> =
        if hex.len() > LONGEST_HEX { None } else { digits.chunks(2).map(value).collect() };
    bytes
        .ok_or_else(|| UsageError("--frame takes pairs of hex digits, of at most 65,536 bytes".into()).into())
}

fn address(address: Address) -> IpAddr {
    match address {
        Address::V4(octets) => octets.into(),
        Address::V6(octets) => octets.into(),
    }
}

fn packet_view(packet: Packet) -> PacketView {
    match packet {
        Packet::Arp => PacketView::Arp,
        Packet::Llc => PacketView::Llc,
        Packet::Mpls => PacketView::Mpls,
        Packet::Pppoe => PacketView::Pppoe,
        Packet::NonIp { ether_type } => PacketView::NonIp { ether_type },
        Packet::Ip(ip) => PacketView::Ip {
            source: address(ip.source),
            destination: address(ip.destination),
            hop_limit: ip.hop_limit,
            transport: match ip.transport {
                Transport::Tcp { source_port, destination_port, flags } => {
                    TransportView::Tcp { source_port, destination_port, flags }
                }
                Transport::Udp { source_port, destination_port } => {
                    TransportView::Udp { source_port, destination_port }
                }
                Transport::Sctp { source_port, destination_port } => {
                    TransportView::Sctp { source_port, destination_port }
                }
                Transport::Icmp { kind, code } => TransportView::Icmp { r#type: kind, code },
                Transport::LaterFragment { protocol } => TransportView::LaterFragment { number: protocol },
                Transport::Other { protocol } => TransportView::Other { number: protocol },
            },
        },
    }
}

fn print(session: &Session, report: &Report) -> Result<()> {
    session.out.warn(&report.warnings);
    session.out.line(&format!("{}: {}", report.verdict, report.reason))?;
    session.out.line(&format!("  {}", report.meaning))?;
    if let Some(entry) = &report.entry {
        session.out.line(&format!("  decided by {}", described(entry)))?;
        let hits = report.hits.map_or(String::new(), |hits| {
            format!("it has decided {}; ", output::counted_u64(hits.packets, "packet", "packets"))
        });
        session.out.line(&format!("  {hits}without it: {}", report.without_it.unwrap_or("unknown")))?;
    }
    let deciding = report.entry.as_ref().map(|entry| (entry.action, entry.prefix));
    for entry in report.covering.iter().filter(|entry| Some((entry.action, entry.prefix)) != deciding) {
        session.out.line(&format!("  also covered by {}", described(entry)))?;
    }
    for ListHolding { list, action, prefix, comment, hole } in &report.lists {
        let said = comment.as_ref().map_or(String::new(), |comment| format!(": {comment}"));
        let but = hole.map_or(String::new(), |hole| format!("; but no list may block {hole}"));
        session.out.line(&format!("  in the list {list}, to {} {prefix}{said}{but}", action.name()))?;
    }
    session.out.line(&format!(
        "  {} bytes: {}",
        report.length,
        report.packet.as_ref().map_or("can't be read".into(), read)
    ))
}

fn described(entry: &EntryView) -> String {
    let why = entry.reason.as_deref().map_or(String::new(), |why| format!(": {why}"));
    let left = match entry.expires_in_s {
        None => "until removed".into(),
        Some(0) => "expired".into(),
        Some(left) => format!("{} left", output::span(left)),
    };
    let held = if entry.owner == Owner::manual().as_str() {
        String::new()
    } else {
        format!(", held by {}", entry.owner)
    };
    format!("{} {}, {} old, {left}{held}{why}", entry.action.name(), entry.prefix, output::span(entry.age_s))
}

/// What was read, in words.
fn read(packet: &PacketView) -> String {
    match packet {
        PacketView::Arp => "ARP".into(),
        PacketView::Llc => "an IEEE 802.3 frame".into(),
        PacketView::Mpls => "MPLS".into(),
        PacketView::Pppoe => "PPPoE".into(),
        PacketView::NonIp { ether_type } => format!("EtherType {ether_type:#06x}"),
        PacketView::Ip { source, destination, hop_limit, transport } => {
            format!("{source} to {destination}, hop limit {hop_limit}, {}", read_transport(transport))
        }
    }
}

fn read_transport(transport: &TransportView) -> String {
    let ports = |name, source, destination| format!("{name}, port {source} to {destination}");
    match transport {
        TransportView::Tcp { source_port, destination_port, flags } => {
            format!("{}, flags {flags:#04x}", ports("TCP", source_port, destination_port))
        }
        TransportView::Udp { source_port, destination_port } => ports("UDP", source_port, destination_port),
        TransportView::Sctp { source_port, destination_port } => ports("SCTP", source_port, destination_port),
        TransportView::Icmp { r#type, code } => format!("ICMP, type {type} code {code}"),
        TransportView::LaterFragment { number } => format!("a later fragment of protocol {number}"),
        TransportView::Other { number } => format!("protocol {number}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_is_read_as_tools_print_it() {
        assert_eq!(bytes_of("00:ff 1A\n2b").unwrap(), [0, 0xff, 0x1a, 0x2b]);
        assert_eq!(bytes_of("").unwrap(), [0u8; 0]);
        for text in ["0", "0g", "+1", "0x12", &"00".repeat(100_000)] {
            assert!(bytes_of(text).is_err(), "{}", text.len());
        }
    }

    #[test]
    fn an_address_becomes_a_frame_with_that_source() {
        for text in ["192.0.2.7", "2001:db8::7", "::ffff:192.0.2.7"] {
            let source: IpAddr = text.parse().unwrap();
            let Ok(Packet::Ip(packet)) = parse(&frame_from(source)[..]) else {
                panic!("{text} is no packet")
            };
            assert_eq!(address(packet.source), source.to_canonical());
        }
    }
}
