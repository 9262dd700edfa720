//! Snapshots of the counters and what lies between two of them. Pure: reading them is `commands::stats`' business.

use std::time::Duration;

use filter_common::abi::Counter;
use filter_common::{Reason, Verdict};
use serde::Serialize;

use crate::policy::Entry;

/// Everything that is counted, read within a short time.
#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot {
    /// When, on CLOCK_MONOTONIC.
    pub at: Duration,
    /// By interface, in the order of their names.
    pub interfaces: Vec<InterfaceCounts>,
    /// By entry, in the order of keys.
    pub entries: Vec<EntryCounts>,
}

/// What an interface has counted.
#[derive(Clone, Debug, PartialEq)]
pub struct InterfaceCounts {
    /// Name under which it was loaded.
    pub name: String,
    /// When, in seconds of CLOCK_MONOTONIC.
    pub loaded_s: u32,
    /// By reason, in the order of [`Reason::ALL`], and verdict.
    pub by_reason: Vec<(Reason, Verdict, Counter)>,
}

/// What an entry has counted.
#[derive(Clone, Debug, PartialEq)]
pub struct EntryCounts {
    /// Its id.
    pub id: u32,
    /// The entry.
    pub entry: Entry,
    /// Its count.
    pub counter: Counter,
}

/// A count, and how fast it grows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Figures {
    /// Frames since loading.
    pub packets: u64,
    /// Bytes in these.
    pub bytes: u64,
    /// Frames a second between the two snapshots; absent where there was only one.
    pub packets_per_second: Option<f64>,
    /// Bytes a second, likewise.
    pub bytes_per_second: Option<f64>,
}

impl Figures {
    /// `now`, and its growth since `before` over `interval`.
    fn new(now: Counter, before: Option<(Counter, Duration)>) -> Self {
        // A counter that is smaller than before belongs to something else by now.
        let before = before.filter(|(before, interval)| {
            before.packets <= now.packets && before.bytes <= now.bytes && !interval.is_zero()
        });
        #[expect(clippy::cast_precision_loss, reason = "exact up to 2^53 a second, beyond any interface")]
        let rate = |now: u64, before: u64, interval: Duration| (now - before) as f64 / interval.as_secs_f64();
        Self {
            packets: now.packets,
            bytes: now.bytes,
            packets_per_second: before.map(|(before, interval)| rate(now.packets, before.packets, interval)),
            bytes_per_second: before.map(|(before, interval)| rate(now.bytes, before.bytes, interval)),
        }
    }
}

/// The figures of an interface.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct InterfaceFigures {
    /// Name under which it was loaded.
    pub interface: String,
    /// Frames handed to the kernel.
    pub passed: Figures,
    /// Frames dropped.
    pub dropped: Figures,
    /// By reason, in the order of [`Reason::ALL`]. A fault that was tolerated has a second row, for what passed.
    pub reasons: Vec<ReasonFigures>,
}

/// The figures of a reason on an interface.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ReasonFigures {
    /// Name of the reason.
    pub reason: &'static str,
    /// `pass` or `drop`.
    pub verdict: &'static str,
    /// How much.
    #[serde(flatten)]
    pub figures: Figures,
}

/// The figures of an entry.
#[derive(Clone, Debug, PartialEq)]
pub struct EntryFigures {
    /// The entry.
    pub entry: Entry,
    /// How much it decided.
    pub figures: Figures,
}

/// The figures of each interface, with rates where an earlier snapshot is given.
pub fn by_interface(now: &Snapshot, before: Option<&Snapshot>) -> Vec<InterfaceFigures> {
    now.interfaces
        .iter()
        .map(|interface| {
            let earlier = before.and_then(|before| {
                // The same name loaded anew is another count.
                let same = |then: &&InterfaceCounts| {
                    (&then.name, then.loaded_s) == (&interface.name, interface.loaded_s)
                };
                Some((before.interfaces.iter().find(same)?, now.at.saturating_sub(before.at)))
            });
            let sum = |verdict: Verdict| {
                let earlier = earlier.map(|(earlier, interval)| (earlier.total(verdict), interval));
                Figures::new(interface.total(verdict), earlier)
            };
            let rows = interface.by_reason.iter().filter(|(reason, verdict, counter)| {
                *verdict == reason.verdict() || *counter != Counter::default()
            });
            let reasons = rows.map(|(reason, verdict, counter)| ReasonFigures {
                reason: reason.name(),
                verdict: verdict.name(),
                figures: Figures::new(
                    *counter,
                    earlier.map(|(earlier, interval)| (earlier.of(*reason, *verdict), interval)),
                ),
            });
            InterfaceFigures {
                interface: interface.name.clone(),
                passed: sum(Verdict::Pass),
                dropped: sum(Verdict::Drop),
                reasons: reasons.collect(),
            }
        })
        .collect()
}

/// The `top` entries that decided most frames, most first; entries that decided none are left out.
pub fn top_entries(now: &Snapshot, before: Option<&Snapshot>, top: usize) -> Vec<EntryFigures> {
    let mut hit: Vec<&EntryCounts> = now.entries.iter().filter(|entry| entry.counter.packets > 0).collect();
    hit.sort_by_key(|entry| (std::cmp::Reverse(entry.counter.packets), entry.entry.key));
    hit.truncate(top);
    hit.into_iter()
        .map(|entry| {
            let earlier = before.and_then(|before| {
                // Both snapshots are in the order of keys.
                let found = before.entries.binary_search_by_key(&entry.entry.key, |then| then.entry.key);
                let found = found.ok().map(|position| &before.entries[position]);
                let found = found.filter(|then| then.entry.created_s == entry.entry.created_s);
                // An entry that is new since then had counted nothing.
                Some((found.map_or(Counter::default(), |then| then.counter), now.at.checked_sub(before.at)?))
            });
            EntryFigures { entry: entry.entry.clone(), figures: Figures::new(entry.counter, earlier) }
        })
        .collect()
}

impl InterfaceCounts {
    /// The count of a reason and verdict; zero where there is none.
    pub fn of(&self, reason: Reason, verdict: Verdict) -> Counter {
        let found = self.by_reason.iter().find(|(r, v, _)| (*r, *v) == (reason, verdict));
        found.map(|(_, _, counter)| *counter).unwrap_or_default()
    }

    fn total(&self, verdict: Verdict) -> Counter {
        let counters = self.by_reason.iter().filter(|(_, counted, _)| *counted == verdict);
        counters.fold(Counter::default(), |sum, (_, _, counter)| Counter {
            packets: sum.packets + counter.packets,
            bytes: sum.bytes + counter.bytes,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{Action, Deadline, Key, Owner, Prefix, ReasonText};

    fn counter(packets: u64, bytes: u64) -> Counter {
        Counter { packets, bytes }
    }

    fn snapshot(at_s: u64, blocked: Counter, passed: Counter, entries: &[(u32, &str, Counter)]) -> Snapshot {
        let interface = InterfaceCounts {
            name: "eth0".into(),
            loaded_s: 1,
            by_reason: vec![
                (Reason::NoMatch, Verdict::Pass, passed),
                (Reason::Allowed, Verdict::Pass, counter(1, 60)),
                (Reason::Blocked, Verdict::Drop, blocked),
            ],
        };
        let entry = |(id, prefix, counter): &(u32, &str, Counter)| EntryCounts {
            id: *id,
            entry: Entry {
                key: Key { action: Action::Block, prefix: Prefix::parse(prefix, false).unwrap() },
                until: Deadline::NEVER,
                created_s: 5,
                owner: Owner::manual(),
                reason: ReasonText::default(),
            },
            counter: *counter,
        };
        Snapshot {
            at: Duration::from_secs(at_s),
            interfaces: vec![interface],
            entries: entries.iter().map(entry).collect(),
        }
    }

    #[test]
    fn totals_are_sums_by_verdict() {
        let now = snapshot(9, counter(10, 600), counter(4, 240), &[]);
        let [eth0] = &by_interface(&now, None)[..] else { panic!("one interface") };
        assert_eq!((eth0.dropped.packets, eth0.dropped.bytes), (10, 600));
        assert_eq!((eth0.passed.packets, eth0.passed.bytes), (5, 300));
        assert_eq!(eth0.dropped.packets_per_second, None);
    }

    #[test]
    fn a_tolerated_fault_counts_as_passed() {
        let mut now = snapshot(9, counter(10, 600), counter(4, 240), &[]);
        let by_reason = &mut now.interfaces[0].by_reason;
        by_reason.push((Reason::UdpLength, Verdict::Drop, counter(2, 120)));
        by_reason.push((Reason::UdpLength, Verdict::Pass, counter(3, 180)));
        by_reason.push((Reason::TcpTruncated, Verdict::Drop, counter(0, 0)));
        by_reason.push((Reason::TcpTruncated, Verdict::Pass, counter(0, 0)));
        let eth0 = &by_interface(&now, None)[0];
        assert_eq!((eth0.dropped.packets, eth0.passed.packets), (12, 8));
        let rows: Vec<_> = eth0.reasons.iter().map(|row| (row.reason, row.verdict)).collect();
        assert_eq!(rows[3..], [("udp_length", "drop"), ("udp_length", "pass"), ("tcp_truncated", "drop")]);
    }

    #[test]
    fn rates_are_growth_over_the_time_between() {
        let before = snapshot(9, counter(10, 600), counter(4, 240), &[]);
        let now = snapshot(11, counter(30, 1800), counter(4, 240), &[]);
        let eth0 = &by_interface(&now, Some(&before))[0];
        assert_eq!(eth0.dropped.packets_per_second, Some(10.0));
        assert_eq!(eth0.dropped.bytes_per_second, Some(600.0));
        assert_eq!(eth0.passed.packets_per_second, Some(0.0));
        assert_eq!(eth0.reasons[2].figures.packets_per_second, Some(10.0));
    }

    #[test]
    fn an_interface_loaded_anew_has_no_rate() {
        let before = snapshot(9, counter(10, 600), counter(4, 240), &[]);
        let mut now = snapshot(11, counter(30, 1800), counter(4, 240), &[]);
        now.interfaces[0].loaded_s = 10;
        assert_eq!(by_interface(&now, Some(&before))[0].dropped.packets_per_second, None);
        let shrunk = snapshot(11, counter(3, 180), counter(4, 240), &[]);
        assert_eq!(by_interface(&shrunk, Some(&before))[0].dropped.packets_per_second, None);
    }

    #[test]
    fn top_entries_are_those_with_most_packets() {
        let entries = [
            (1, "192.0.2.0/24", counter(5, 300)),
            (2, "198.51.100.0/24", counter(0, 0)),
            (3, "203.0.113.0/24", counter(9, 540)),
            (4, "203.0.113.7", counter(1, 60)),
        ];
        let now = snapshot(11, counter(15, 900), counter(0, 0), &entries);
        let before = snapshot(9, counter(1, 60), counter(0, 0), &entries[..1]);
        let top = top_entries(&now, Some(&before), 2);
        let shown: Vec<_> = top
            .iter()
            .map(|top| (top.entry.key.prefix.to_string(), top.figures.packets_per_second))
            .collect();
        assert_eq!(shown, [("203.0.113.0/24".into(), Some(4.5)), ("192.0.2.0/24".into(), Some(0.0))]);
    }
}
