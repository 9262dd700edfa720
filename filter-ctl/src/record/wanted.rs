//! Which samples somebody asks for.

use std::net::IpAddr;
use std::time::Duration;

use filter_common::{Reason, Verdict};

use super::Sample;
use super::headers::Headers;
use crate::policy::Prefix;

/// What samples must be like. What is not set does not matter.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// One of these reasons.
    pub reasons: Vec<Reason>,
    /// This verdict.
    pub verdict: Option<Verdict>,
    /// Decided by an entry of this prefix, or of one within.
    pub entry: Option<Prefix>,
    /// From this prefix.
    pub source: Option<Prefix>,
    /// To this prefix.
    pub destination: Option<Prefix>,
    /// Loaded under this name.
    pub interface: Option<String>,
    /// Not before this moment of CLOCK_MONOTONIC.
    pub since: Option<Duration>,
}

impl Wanted {
    /// Whether a sample with these headers is among them.
    pub fn has(&self, sample: &Sample, headers: &Headers) -> bool {
        let is_in = |prefix: Option<Prefix>, address: Option<IpAddr>| {
            prefix.is_none_or(|prefix| address.is_some_and(|address| prefix.covers(&Prefix::host(address))))
        };
        let is_by =
            |prefix: Prefix| sample.entry.as_ref().is_some_and(|entry| prefix.covers(&entry.key.prefix));
        (self.reasons.is_empty() || self.reasons.contains(&sample.reason))
            && self.verdict.is_none_or(|verdict| verdict == sample.verdict)
            && self.entry.is_none_or(is_by)
            && is_in(self.source, headers.source)
            && is_in(self.destination, headers.destination)
            && self.interface.as_ref().is_none_or(|name| sample.interface.as_ref() == Some(name))
            && self.since.is_none_or(|since| sample.time >= since)
    }
}
