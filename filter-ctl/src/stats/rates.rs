//! How fast counts grow: between two snapshots, and over set times.

use std::time::Duration;

use filter_common::abi::Counter;
use serde::Serialize;

use super::recorded::{Recorded, Rows};
use super::{Figures, InterfaceCounts, Past, Snapshot};

/// A time over which rates are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Span {
    /// A second.
    Second,
    /// Ten seconds.
    TenSeconds,
    /// A minute.
    Minute,
}

impl Span {
    /// All, the shortest first.
    pub const ALL: [Self; 3] = [Self::Second, Self::TenSeconds, Self::Minute];

    /// How long it is.
    pub const fn length(self) -> Duration {
        Duration::from_secs(match self {
            Self::Second => 1,
            Self::TenSeconds => 10,
            Self::Minute => 60,
        })
    }

    /// The shortest time that is told as this span: the daemon's seconds are some microseconds longer or shorter.
    pub(super) fn shortest(self) -> Duration {
        const JITTER: Duration = Duration::from_millis(50);
        self.length() - JITTER
    }

    /// Whether what was measured over this time may be told as measured over the span.
    pub(super) fn admits(self, time: Duration) -> bool {
        (self.shortest()..2 * self.length()).contains(&time)
    }
}

/// How fast a count grows.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Rate {
    /// Frames a second.
    pub packets_per_second: f64,
    /// Bytes a second.
    pub bytes_per_second: f64,
}

impl Rate {
    /// Of this growth within a time; nothing within no time.
    #[expect(clippy::cast_precision_loss, reason = "exact up to 2^53 a second, beyond any interface")]
    pub(super) fn new(growth: Counter, time: Duration) -> Option<Self> {
        let per_second = |number: u64| number as f64 / time.as_secs_f64();
        (!time.is_zero()).then(|| Self {
            packets_per_second: per_second(growth.packets),
            bytes_per_second: per_second(growth.bytes),
        })
    }

    /// From one count to another. One that is smaller than before belongs to something else by now.
    fn between(before: Counter, now: Counter, time: Duration) -> Option<Self> {
        let packets = now.packets.checked_sub(before.packets)?;
        Self::new(Counter { packets, bytes: now.bytes.checked_sub(before.bytes)? }, time)
    }
}

/// Rates over each span; nothing where they are not known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Rates {
    /// Over a second.
    #[serde(rename = "1s")]
    pub second: Option<Rate>,
    /// Over ten seconds.
    #[serde(rename = "10s")]
    pub ten_seconds: Option<Rate>,
    /// Over a minute.
    #[serde(rename = "1min")]
    pub minute: Option<Rate>,
}

/// Over how many seconds rates were truly taken; nothing where they are not known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Over {
    /// Those over a second.
    #[serde(rename = "1s")]
    pub second: Option<f64>,
    /// Those over ten seconds.
    #[serde(rename = "10s")]
    pub ten_seconds: Option<f64>,
    /// Those over a minute.
    #[serde(rename = "1min")]
    pub minute: Option<f64>,
}

/// What is known of the time before a snapshot.
#[derive(Clone, Debug)]
pub struct Earlier<'p> {
    /// The snapshot that was told before, or that was taken to be compared with.
    last: Option<&'p Snapshot>,
    /// For each span, one from its beginning.
    spans: [Option<&'p Snapshot>; 3],
    /// For each span, what the daemon recorded of interfaces.
    recorded: &'p [Option<Recorded>; 3],
}

impl<'p> Earlier<'p> {
    /// What the snapshot that was told before, those of the time between, and this record tell of the time before `now`.
    pub fn new(
        now: &Snapshot,
        last: Option<&'p Snapshot>,
        past: &'p Past,
        recorded: &'p [Option<Recorded>; 3],
    ) -> Self {
        Self { last, spans: Span::ALL.map(|span| past.before(now.at, span)), recorded }
    }

    /// Seconds since the snapshot before.
    pub fn interval_s(&self, now: &Snapshot) -> Option<f64> {
        self.last.map(|before| now.at.saturating_sub(before.at).as_secs_f64())
    }

    /// Over how many seconds rates are taken that come from snapshots; `of_interfaces` come from the record where there are
    /// none.
    pub fn over(&self, now: &Snapshot, of_interfaces: bool) -> Over {
        let [second, ten_seconds, minute] = [0, 1, 2].map(|span: usize| {
            let recorded =
                self.recorded[span].as_ref().filter(|_| of_interfaces).map(|recorded| recorded.time);
            let time = self.spans[span].map(|before| now.at.saturating_sub(before.at)).or(recorded);
            time.map(|time| time.as_secs_f64())
        });
        Over { second, ten_seconds, minute }
    }

    /// The figures of a count that was `then` in another snapshot, if it can be told; of an interface's rows, which the daemon
    /// may have recorded.
    pub(super) fn figures(
        &self,
        now: &Snapshot,
        counter: Counter,
        then: &dyn Fn(&Snapshot) -> Option<Counter>,
        of: Option<(&InterfaceCounts, Rows)>,
    ) -> Figures {
        let since =
            |before: &Snapshot| Rate::between(then(before)?, counter, now.at.saturating_sub(before.at));
        let [second, ten_seconds, minute] = [0, 1, 2].map(|span: usize| match self.spans[span] {
            Some(before) => since(before),
            None => of.and_then(|(of, rows)| self.recorded[span].as_ref()?.rate(now.at, of, rows)),
        });
        Figures::new(counter, self.last.and_then(since), Rates { second, ten_seconds, minute })
    }
}
