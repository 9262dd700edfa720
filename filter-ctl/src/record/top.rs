//! Who and what the frames were, most first: samples sorted by what is asked about, and what was counted exactly
//! beside them. Pure: [`estimate`](super::estimate) has the statistics, `commands::top` reads the kernel.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use clap::ValueEnum;
use filter_common::abi::Counter;
use filter_common::{Reason, Verdict};
use serde::{Serialize, Serializer};

use super::estimate::{Estimate, Estimates, Tally, Totals};
use super::headers::{Headers, headers, protocol_name};
use super::{Head, Reading, Sample, Stream};
use crate::policy::{Key, Prefix};
use crate::stats::InterfaceCounts;

/// Bytes of the check sequence, which switches count as part of a frame and the kernel does not.
const CHECK_SEQUENCE: u32 = 4;

/// The least lengths of RMON's groups (RFC 2819, etherStatsPkts64Octets and following), with the check sequence.
const LENGTHS: [u32; 7] = [64, 65, 128, 256, 512, 1024, 1519];

/// EtherTypes of what has addresses: where a frame of one shows none, it is broken.
const WITH_ADDRESSES: [u16; 2] = [0x0800, 0x86dd];

/// What frames are told apart by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum By {
    /// Source address.
    Sources,
    /// The entry that decided; without one, the source's /24 or /64.
    Prefixes,
    /// Destination address.
    Destinations,
    /// Destination port.
    Ports,
    /// Source port: the service that reflects, in a reflection attack.
    SourcePorts,
    /// Protocol.
    Protocols,
    /// Reason.
    Reasons,
    /// Length with the check sequence, in the groups of RMON.
    Lengths,
}

/// What frames have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Group {
    /// The address.
    Address(IpAddr),
    /// The entry's prefix.
    Entry(Prefix),
    /// The source's network; no entry decided.
    Network(Prefix),
    /// Protocol and port.
    Port(u8, u16),
    /// A protocol without ports, or none to be read.
    Portless(u8),
    /// The protocol behind the IP header.
    Protocol(u8),
    /// What is neither IPv4 nor IPv6.
    EtherType(u16),
    /// The reason.
    Reason(Reason),
    /// The least length of a group, with the check sequence; zero of those that are too short.
    Length(u32),
    /// No address was to be read.
    NoAddress,
}

impl fmt::Display for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        /// ARP's EtherType.
        const ARP: u16 = 0x0806;
        match *self {
            Self::Address(address) => write!(f, "{address}"),
            Self::Entry(prefix) => write!(f, "{prefix}"),
            Self::Network(prefix) => write!(f, "{prefix} (no entry)"),
            Self::Port(protocol, port) => write!(f, "{port}/{}", protocol_name(protocol)),
            Self::Portless(protocol) => write!(f, "{} (no port)", protocol_name(protocol)),
            Self::Protocol(protocol) => f.write_str(&protocol_name(protocol)),
            Self::EtherType(ARP) => f.write_str("arp"),
            Self::EtherType(number) => write!(f, "EtherType 0x{number:04x}"),
            Self::Reason(reason) => f.write_str(reason.name()),
            Self::Length(least) => match LENGTHS.iter().find(|next| **next > least) {
                _ if least == 0 => write!(f, "under {}", LENGTHS[0]),
                Some(next) if next - 1 == least => write!(f, "{least}"),
                Some(next) => write!(f, "{least}-{}", next - 1),
                None => write!(f, "{least} and more"),
            },
            Self::NoAddress => f.write_str("(no address)"),
        }
    }
}

impl Serialize for Group {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Which frames are asked about, and by what they are told apart.
#[derive(Clone, Debug)]
pub struct Question {
    /// By what.
    pub by: By,
    /// What became of them.
    pub verdict: Verdict,
    /// Where they came in; anywhere if not given.
    pub interface: Option<String>,
}

impl Question {
    /// Whether frames that are asked about may be in this ring.
    pub fn is_in(&self, stream: Stream) -> bool {
        match stream.reason() {
            Some(reason) => reason.verdicts().any(|verdict| verdict == self.verdict),
            None => self.verdict == Verdict::Drop,
        }
    }

    /// What this frame is counted among; nothing where it is not asked about.
    fn group(&self, sample: &Sample) -> Option<Group> {
        let is_there = self.interface.is_none() || self.interface == sample.interface;
        if !is_there || sample.verdict != self.verdict {
            return None;
        }
        let said = headers(&sample.frame);
        let network = |address: IpAddr| {
            Prefix::host(address).widened(if address.is_ipv4() { 24 } else { 64 }).map(Group::Network)
        };
        Some(match self.by {
            By::Sources => said.source.map_or(Group::NoAddress, Group::Address),
            By::Destinations => said.destination.map_or(Group::NoAddress, Group::Address),
            By::Prefixes => match sample.entry {
                Some(entry) => Group::Entry(entry.key.prefix),
                None => said.source.and_then(network).unwrap_or(Group::NoAddress),
            },
            By::Ports => port(&said, said.destination_port),
            By::SourcePorts => port(&said, said.source_port),
            By::Protocols => said.protocol.map_or_else(|| without_protocol(&said), Group::Protocol),
            By::Reasons => Group::Reason(sample.reason),
            By::Lengths => {
                let length = sample.length + CHECK_SEQUENCE;
                Group::Length(LENGTHS.iter().rfind(|least| **least <= length).copied().unwrap_or(0))
            }
        })
    }

    /// Whether an entry's own count answers this.
    fn is_answered_by(&self, key: &Key) -> bool {
        let bits = if key.prefix.address().is_ipv4() { 32 } else { 128 };
        match self.by {
            _ if self.interface.is_some() => false, // entries don't count by interface
            By::Prefixes => true,
            By::Sources => key.prefix.prefix_len() == bits,
            _ => false,
        }
    }

    /// What an entry's own count is counted among.
    fn group_of(&self, key: &Key) -> Group {
        if self.by == By::Sources { Group::Address(key.prefix.address()) } else { Group::Entry(key.prefix) }
    }
}

fn port(said: &Headers, port: Option<u16>) -> Group {
    match (said.protocol, port) {
        (Some(protocol), Some(port)) => Group::Port(protocol, port),
        (Some(protocol), None) => Group::Portless(protocol),
        (None, _) => without_protocol(said),
    }
}

fn without_protocol(said: &Headers) -> Group {
    let other = said.ether_type.filter(|number| !WITH_ADDRESSES.contains(number));
    other.map_or(Group::NoAddress, Group::EtherType)
}

/// An entry, and when it was made, in seconds of CLOCK_MONOTONIC as the tables have them.
pub type Made = (Key, u32);

/// What counters said at one time.
#[derive(Clone, Debug)]
pub struct Counters {
    /// When, on CLOCK_MONOTONIC.
    pub at: Duration,
    /// By interface.
    pub interfaces: Vec<InterfaceCounts>,
    /// By entry: those that counted anything.
    pub entries: HashMap<Made, Counter>,
}

/// What was counted exactly.
#[derive(Clone, Debug, Default)]
pub struct Counted {
    entries: BTreeMap<Made, Counter>,
    reasons: BTreeMap<Reason, Counter>,
}

impl Counted {
    /// What answers `question` of the counters as they are now, less what they were before.
    pub fn new(question: &Question, now: &Counters, before: Option<&Counters>) -> Self {
        let mut counted = Self::default();
        if question.by == By::Reasons {
            let asked = |name: &str| question.interface.as_deref().is_none_or(|asked| asked == name);
            for interface in now.interfaces.iter().filter(|interface| asked(&interface.name)) {
                // A name that was loaded anew goes on where it was.
                let named = |then: &&InterfaceCounts| then.name == interface.name;
                let then = before.and_then(|before| before.interfaces.iter().find(named));
                for (reason, verdict, counter) in &interface.by_reason {
                    if *verdict == question.verdict {
                        let then = then.map(|then| then.of(*reason, *verdict)).unwrap_or_default();
                        let sum = counted.reasons.entry(*reason).or_default();
                        *sum = sum.plus(grown(*counter, then));
                    }
                }
            }
        }
        let answers = |key: &Key| key.action.verdict() == question.verdict && question.is_answered_by(key);
        for (made, counter) in now.entries.iter().filter(|((key, _), _)| answers(key)) {
            let then = before.and_then(|before| before.entries.get(made)).copied().unwrap_or_default();
            counted.entries.insert(*made, grown(*counter, then));
        }
        counted
    }
}

fn grown(now: Counter, before: Counter) -> Counter {
    Counter {
        packets: now.packets.saturating_sub(before.packets),
        bytes: now.bytes.saturating_sub(before.bytes),
    }
}

/// Samples on their way to an answer.
pub struct Counting<'q> {
    question: &'q Question,
    tally: Tally<(Group, Option<Made>)>,
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Top {
    /// What the estimates rest on.
    pub totals: Totals,
    /// All frames that are asked about.
    pub whole: Row,
    /// How many groups were seen.
    pub groups: usize,
    /// The groups, the largest first.
    pub rows: Vec<Row>,
}

/// A group of frames, or all.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// What they have in common; nothing of the whole.
    pub key: Option<Group>,
    /// Whether there is no error: they were counted, or all were sampled.
    pub is_exact: bool,
    /// How many.
    #[serde(flatten)]
    pub estimate: Estimate,
    /// Share of the whole, in percent.
    pub share_percent: f64,
}

impl Row {
    fn new(key: Option<Group>, estimate: Estimate, whole: u64) -> Self {
        #[expect(clippy::cast_precision_loss, reason = "a share")]
        let share = if whole == 0 { 0.0 } else { estimate.packets as f64 / whole as f64 };
        Self { key, is_exact: estimate.is_exact(), estimate, share_percent: (share * 100.0).min(100.0) }
    }
}

impl<'q> Counting<'q> {
    /// Of everything that is recorded, or of what came since a moment of CLOCK_MONOTONIC.
    pub fn new(question: &'q Question, since: Option<Duration>) -> Self {
        Self { question, tally: Tally::new(since) }
    }

    /// Of what comes after this was read.
    pub fn after(question: &'q Question, reading: &Reading) -> Self {
        Self { question, tally: Tally::after(&reading.heads) }
    }

    /// Adds what was read.
    pub fn add(&mut self, reading: &Reading) {
        for sample in reading.samples.iter().filter(|sample| self.question.is_in(sample.stream)) {
            let group = self.question.group(sample).map(|group| {
                let made = sample.entry.map(|entry| (entry.key, entry.created_s));
                (group, made.filter(|(key, _)| self.question.is_answered_by(key)))
            });
            self.tally.add(sample, group);
        }
    }

    /// The answer, with `limit` groups. Frames behind the last sample of a ring count where `heads` has it. Faults in
    /// `mixed` have frames of either verdict.
    pub fn finish(self, heads: &[Head], counted: &Counted, mixed: &[Reason], limit: usize) -> Top {
        let question = self.question;
        let heads: Vec<Head> = heads.iter().copied().filter(|head| question.is_in(head.stream)).collect();
        let is_told = |stream: Stream| {
            question.interface.is_none() && stream.reason().is_none_or(|reason| !mixed.contains(&reason))
        };
        let by_ring = question.by == By::Reasons;
        let Estimates { mut whole, keys, totals } = self.tally.estimates(&heads, is_told, by_ring);
        let exact = |counter: &Counter| Estimate::exact(counter.packets, counter.bytes);
        let mut groups: HashMap<Group, Estimate> = HashMap::new();
        if counted.reasons.is_empty() {
            for ((group, made), estimate) in keys {
                if made.is_none_or(|made| !counted.entries.contains_key(&made)) {
                    let sum = groups.entry(group).or_default();
                    *sum = sum.plus(estimate);
                }
            }
        } else {
            whole = Estimate::default();
        }
        let reasons =
            counted.reasons.iter().map(|(reason, counter)| (Group::Reason(*reason), exact(counter)));
        let entries =
            counted.entries.iter().map(|((key, _), counter)| (question.group_of(key), exact(counter)));
        for (group, count) in reasons.chain(entries).filter(|(_, count)| count.packets > 0) {
            let sum = groups.entry(group).or_default();
            *sum = sum.plus(count);
        }
        // Counters know of frames that no ring does: from before another build took over.
        let known = groups.values().filter(|group| group.is_exact());
        let known = known.fold(Estimate::default(), |sum, group| sum.plus(*group));
        if known.packets > whole.packets {
            whole = known;
        }
        let mut rows: Vec<Row> = groups
            .into_iter()
            .map(|(group, estimate)| Row::new(Some(group), estimate, whole.packets))
            .collect();
        rows.sort_by_key(|row| (Reverse(row.estimate.packets), row.key));
        let groups = rows.len();
        rows.truncate(limit);
        Top { totals, whole: Row::new(None, whole, whole.packets), groups, rows }
    }
}

#[cfg(test)]
mod tests;
