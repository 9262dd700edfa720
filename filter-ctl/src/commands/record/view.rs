//! A sample as people and programs read it.

use std::net::{IpAddr, SocketAddr};

use anyhow::Result;
use serde::Serialize;

use super::Session;
use crate::host::WallClock;
use crate::record::Sample;
use crate::record::entries::{Fate, Story};
use crate::record::headers::{Headers, protocol_name};
use crate::record::pcapng::interface_name;

/// Columns of a terminal.
const WIDTH: usize = 80;

/// The header of what `print` prints.
pub const HEADER: &str = "time          interface   verdict  reason                    protocol    length";

/// A sample as JSON.
#[derive(Serialize)]
pub struct SampleView {
    /// RFC 3339 in UTC, with nanoseconds.
    time: String,
    interface: Option<String>,
    ifindex: u32,
    queue: u32,
    cpu: u32,
    /// Number of the ring on that CPU; frames are numbered within.
    ring: u32,
    number: u64,
    /// Frames since the sample before it of this ring, itself included.
    stands_for: u64,
    verdict: &'static str,
    reason: &'static str,
    entry: Option<Story>,
    /// Bytes of the frame.
    length: u32,
    ether_type: Option<u16>,
    source: Option<IpAddr>,
    destination: Option<IpAddr>,
    protocol: Option<u8>,
    source_port: Option<u16>,
    destination_port: Option<u16>,
    /// Its first bytes, in hex.
    bytes: String,
}

impl SampleView {
    pub fn new(sample: &Sample, headers: &Headers, story: Option<Story>, clock: WallClock) -> Self {
        Self {
            time: humantime::format_rfc3339_nanos(clock.time(sample.time)).to_string(),
            interface: sample.interface.clone(),
            ifindex: sample.ifindex,
            queue: sample.queue,
            cpu: sample.stream.cpu,
            ring: sample.stream.ring,
            number: sample.number,
            stands_for: sample.stands_for,
            verdict: sample.verdict.name(),
            reason: sample.reason.name(),
            entry: story,
            length: sample.length,
            ether_type: headers.ether_type,
            source: headers.source,
            destination: headers.destination,
            protocol: headers.protocol,
            source_port: headers.source_port,
            destination_port: headers.destination_port,
            bytes: sample.frame.iter().map(|byte| format!("{byte:02x}")).collect(),
        }
    }
}

/// Prints the day of a sample where it is another than that of the one before.
pub fn print_day(session: &Session, sample: &Sample, clock: WallClock, day: &mut String) -> Result<()> {
    let time = humantime::format_rfc3339_millis(clock.time(sample.time)).to_string();
    let its = time.split('T').next().unwrap_or_default();
    if its == day {
        return Ok(());
    }
    its.clone_into(day);
    session.out.line(&format!("{day} (UTC)"))
}

/// Prints a sample: what happened to it in one line, and who sent it and whose entry it met in another, so that both fit.
pub fn print(
    session: &Session,
    sample: &Sample,
    headers: &Headers,
    story: Option<&Story>,
    clock: WallClock,
) -> Result<()> {
    let time = humantime::format_rfc3339_millis(clock.time(sample.time)).to_string();
    let time = time.split_once('T').map_or(&time[..], |(_, time)| time).trim_end_matches('Z');
    session.out.line(&format!(
        "{time}  {:<10}  {:<7}  {:<24}  {:<10}  {:>6}",
        interface_name(sample),
        sample.verdict.name(),
        sample.reason.name(),
        protocol(headers),
        sample.length
    ))?;
    let who = endpoints(headers);
    let by = story.map(described).unwrap_or_default();
    match (who, by) {
        (None, _) => Ok(()),
        (Some(who), by) if by.is_empty() => session.out.line(&format!("  {who}")),
        (Some(who), by) if who.chars().count() + by.chars().count() + 4 <= WIDTH => {
            session.out.line(&format!("  {who}, {by}"))
        }
        (Some(who), by) => {
            session.out.line(&format!("  {who}"))?;
            session.out.line(&format!("    {by}"))
        }
    }
}

/// Source and destination, with ports where they are known.
fn endpoints(headers: &Headers) -> Option<String> {
    let endpoint = |address: IpAddr, port: Option<u16>| match port {
        Some(port) => SocketAddr::new(address, port).to_string(),
        None => address.to_string(),
    };
    let source = endpoint(headers.source?, headers.source_port);
    Some(format!("{source} → {}", endpoint(headers.destination?, headers.destination_port)))
}

/// The entry, in words.
pub fn described(story: &Story) -> String {
    let fate = match story.fate {
        Fate::Present => "",
        Fate::Removed => ", removed since",
        Fate::Unknown => ", of whom can't be told",
    };
    let owner = story.owner.as_ref().map_or(String::new(), |owner| format!(" of {owner}"));
    let why = story.why.as_ref().map_or(String::new(), |why| format!(": {why}"));
    format!("{} {}{owner}{fate}{why}", story.action.name(), story.prefix)
}

/// The innermost protocol that is known, by the name that people have for it.
pub fn protocol(headers: &Headers) -> String {
    match (headers.protocol, headers.ether_type) {
        (Some(number), _) => protocol_name(number),
        (None, Some(0x806)) => "arp".into(),
        (None, Some(other)) => format!("type {other:04x}"),
        (None, None) => "-".into(),
    }
}
