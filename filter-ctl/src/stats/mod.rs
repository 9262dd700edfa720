//! Snapshots of the counters and what lies between them. Pure: reading them is `commands::stats`' business.

mod past;
mod rates;
mod recorded;
#[cfg(test)]
mod tests;

use std::time::{Duration, SystemTime};

use filter_common::abi::Counter;
use filter_common::{Reason, Verdict};
use serde::Serialize;

pub use self::past::Past;
pub use self::rates::{Earlier, Over, Rate, Rates, Span};
pub use self::recorded::Recorded;
use crate::policy::Owner;

/// Everything that is counted, read within a short time: what is at rest is exact, and of what grows meanwhile each figure was
/// true at some moment between beginning and end.
#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot {
    /// When it was begun, on CLOCK_MONOTONIC.
    pub at: Duration,
    /// The same by the wall clock.
    pub began: SystemTime,
    /// How long it took.
    pub took: Duration,
    /// By interface, in the order of their names.
    pub interfaces: Vec<InterfaceCounts>,
    /// By list, in the order of their names; nothing where the store can't be read.
    pub lists: Option<Vec<ListCounts>>,
    /// By entry.
    pub entries: EntryCounts,
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

/// What a list did.
#[derive(Clone, Debug, PartialEq)]
pub struct ListCounts {
    /// The list as an owner.
    pub owner: Owner,
    /// Packets that entries decided which it holds, or which lie in one that it holds.
    pub counter: Counter,
    /// Of these, those from addresses that nobody else holds.
    pub alone: Counter,
}

/// What entries have counted.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct EntryCounts {
    /// Which tables these are, by a number of chance: in others an id is another entry's.
    pub tables: u64,
    /// Those that have counted something, in the order of their ids.
    pub by_id: Vec<EntryCount>,
}

/// What an entry has counted: few bytes, since a million of them are kept for a while.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EntryCount {
    /// Its id.
    pub id: u32,
    /// When it was made, which tells it from one that had the id before.
    pub created_s: u32,
    /// Its count.
    pub counter: Counter,
}

/// A count, and how fast it grows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Figures {
    /// Frames so far.
    pub packets: u64,
    /// Bytes in these.
    pub bytes: u64,
    /// Frames a second between the two snapshots; absent where there was only one.
    pub packets_per_second: Option<f64>,
    /// Bytes a second, likewise.
    pub bytes_per_second: Option<f64>,
    /// Rates over set times.
    pub rates: Rates,
}

impl Figures {
    fn new(counter: Counter, measured: Option<Rate>, rates: Rates) -> Self {
        Self {
            packets: counter.packets,
            bytes: counter.bytes,
            packets_per_second: measured.map(|rate| rate.packets_per_second),
            bytes_per_second: measured.map(|rate| rate.bytes_per_second),
            rates,
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

/// The figures of a list.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ListFigures {
    /// Its name.
    pub list: String,
    /// What entries decided which it holds, or which lie in one that it holds.
    #[serde(flatten)]
    pub figures: Figures,
    /// Of this, what came from addresses that nobody else holds.
    pub alone: Figures,
}

/// The figures of each interface.
pub fn by_interface(now: &Snapshot, earlier: &Earlier<'_>) -> Vec<InterfaceFigures> {
    now.interfaces
        .iter()
        .map(|interface| {
            let figures = |of: &dyn Fn(&InterfaceCounts) -> Counter, rows: recorded::Rows| {
                // The same name loaded anew may be another count.
                let same = |then: &&InterfaceCounts| {
                    (&then.name, then.loaded_s) == (&interface.name, interface.loaded_s)
                };
                let then = |before: &Snapshot| before.interfaces.iter().find(same).map(of);
                earlier.figures(now, of(interface), &then, Some((interface, rows)))
            };
            let sum = |verdict| figures(&|interface| interface.total(verdict), (None, verdict));
            let rows = interface.by_reason.iter().filter(|(reason, verdict, counter)| {
                *verdict == reason.verdict() || *counter != Counter::default()
            });
            let reasons = rows.map(|(reason, verdict, _)| ReasonFigures {
                reason: reason.name(),
                verdict: verdict.name(),
                figures: figures(&|interface| interface.of(*reason, *verdict), (Some(*reason), *verdict)),
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

/// The figures of each list; nothing where the store can't be read.
pub fn by_list(now: &Snapshot, earlier: &Earlier<'_>) -> Option<Vec<ListFigures>> {
    let of_list = |list: &ListCounts| {
        let figures = |of: fn(&ListCounts) -> Counter| {
            let then = |before: &Snapshot| {
                before.lists.as_ref()?.iter().find(|then| then.owner == list.owner).map(of)
            };
            earlier.figures(now, of(list), &then, None)
        };
        ListFigures {
            list: list.owner.list_name().unwrap_or_default().to_owned(),
            figures: figures(|list| list.counter),
            alone: figures(|list| list.alone),
        }
    };
    Some(now.lists.as_ref()?.iter().map(of_list).collect())
}

/// The figures of an entry, which has counted this.
pub fn of_entry(now: &Snapshot, earlier: &Earlier<'_>, entry: EntryCount) -> Figures {
    let then = |before: &Snapshot| {
        (before.entries.tables == now.entries.tables).then(|| before.entries.of(entry.id, entry.created_s))
    };
    earlier.figures(now, entry.counter, &then, None)
}

impl InterfaceCounts {
    /// The count of a reason and verdict; zero where there is none.
    pub fn of(&self, reason: Reason, verdict: Verdict) -> Counter {
        let found = self.by_reason.iter().find(|(r, v, _)| (*r, *v) == (reason, verdict));
        found.map(|(_, _, counter)| *counter).unwrap_or_default()
    }

    fn total(&self, verdict: Verdict) -> Counter {
        let counters = self.by_reason.iter().filter(|(_, counted, _)| *counted == verdict);
        counters.fold(Counter::default(), |sum, (_, _, counter)| sum.plus(*counter))
    }
}

impl EntryCounts {
    /// What an entry has counted: nothing where it is new.
    fn of(&self, id: u32, created_s: u32) -> Counter {
        let found = self.by_id.binary_search_by_key(&id, |count| count.id).ok().map(|at| self.by_id[at]);
        found.filter(|count| count.created_s == created_s).map_or(Counter::default(), |count| count.counter)
    }
}
