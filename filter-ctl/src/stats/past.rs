//! The snapshots that are kept, so that rates over a minute can be told: many of the last seconds, few of those before.

use std::collections::VecDeque;
use std::time::Duration;

use super::{Snapshot, Span};

/// How far apart snapshots are kept, up to which age. Each span finds one that is not much older than it; and of a million
/// entries that count, 24 bytes each, some 25 snapshots are 600 MB, which is why there are not more.
const KEPT: [(Duration, Duration); 4] = [
    (Duration::from_secs(2), Duration::from_millis(500)),
    (Duration::from_secs(11), Duration::from_secs(1)),
    (Duration::from_secs(20), Duration::from_secs(5)),
    (Duration::from_secs(120), Duration::from_secs(10)),
];

/// Snapshots, the oldest first.
#[derive(Clone, Debug, Default)]
pub struct Past(VecDeque<Snapshot>);

impl Past {
    /// Adds one, and lets go of those that are not needed any more.
    pub fn push(&mut self, snapshot: Snapshot) {
        let now = snapshot.at;
        let mut last = None;
        // The first of each stretch of time stays: always the same, however often it is looked.
        self.0.retain(|kept| {
            let age = now.saturating_sub(kept.at);
            let apart = KEPT.iter().find(|(up_to, _)| age <= *up_to).map(|(_, apart)| *apart);
            let stretch = apart.map(|apart| (apart, kept.at.as_millis() / apart.as_millis()));
            stretch.is_some() && std::mem::replace(&mut last, stretch) != stretch
        });
        self.0.push_back(snapshot);
    }

    /// The newest.
    #[cfg(test)]
    pub fn last(&self) -> Option<&Snapshot> {
        self.0.back()
    }

    /// The newest from which it is as long to `now` as this span.
    pub(super) fn before(&self, now: Duration, span: Span) -> Option<&Snapshot> {
        let long_ago = self.0.iter().rev().find(|kept| now.saturating_sub(kept.at) >= span.shortest());
        long_ago.filter(|kept| span.admits(now.saturating_sub(kept.at)))
    }
}
