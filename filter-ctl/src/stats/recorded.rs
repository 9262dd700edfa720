//! What the daemon recorded of the time before a snapshot: rates of interfaces that nobody has to wait for.

use std::collections::BTreeMap;
use std::time::Duration;

use filter_common::abi::Counter;
use filter_common::{Reason, Verdict};

use super::InterfaceCounts;
use super::rates::{Rate, Span};
use crate::store::history::Step;

/// Rows of an interface: those of a verdict, of one reason or all.
pub(super) type Rows = (Option<Reason>, Verdict);

/// What was counted within the time before now.
#[derive(Clone, Debug, PartialEq)]
pub struct Recorded {
    /// How long that is.
    pub(super) time: Duration,
    /// By interface, reason and verdict; what is missing counted nothing.
    counts: BTreeMap<(String, String, String), Counter>,
}

impl Recorded {
    /// For each span, what the last of these steps tell of it. They follow each other without a gap, and the last has just
    /// ended.
    pub fn of(steps: &[Step]) -> [Option<Self>; 3] {
        Span::ALL.map(|span| {
            let mut recorded = Self { time: Duration::ZERO, counts: BTreeMap::new() };
            for step in steps.iter().rev() {
                recorded.time += step.interval;
                for count in &step.counts {
                    let series = &count.series;
                    let key = (series.interface.clone(), series.reason.clone(), series.verdict.clone());
                    let counted = Counter { packets: count.packets, bytes: count.bytes };
                    let so_far = recorded.counts.entry(key).or_default();
                    *so_far = so_far.plus(counted);
                }
                if recorded.time >= span.shortest() {
                    break;
                }
            }
            span.admits(recorded.time).then_some(recorded)
        })
    }

    /// The rate of rows of an interface; nothing if it was loaded within the time.
    pub(super) fn rate(&self, now: Duration, of: &InterfaceCounts, (reason, verdict): Rows) -> Option<Rate> {
        let loaded = Duration::from_secs(of.loaded_s.into());
        if now.checked_sub(loaded)? <= self.time + Duration::from_secs(1) {
            return None;
        }
        let counted = self.counts.iter().filter(|((interface, counted, by), _)| {
            *interface == of.name
                && by == verdict.name()
                && reason.is_none_or(|reason| counted == reason.name())
        });
        let counted = counted.fold(Counter::default(), |so_far, (_, counter)| so_far.plus(*counter));
        Rate::new(counted, self.time)
    }
}
