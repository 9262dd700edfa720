//! The flight recorder's samples as values: what was recorded of a frame, and what that stands for. Reading them from
//! the kernel is `kernel::recorder`'s business.

pub mod entries;
pub mod estimate;
pub mod headers;
pub mod pcapng;
pub mod thinning;
pub mod top;
pub mod wanted;

use std::time::Duration;

use bytes::Bytes;
use filter_common::abi::REASON_SLOTS;
use filter_common::{Reason, Verdict};

use crate::policy::Key;

/// Which ring a sample comes from: only within one do numbers say anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stream {
    /// The CPU.
    pub cpu: u32,
    /// The ring on it: of a reason, or, from [`REASON_SLOTS`] on, of the entries that share it.
    pub ring: u32,
}

impl Stream {
    /// The reason of all its frames; nothing for the rings of entries.
    pub fn reason(self) -> Option<Reason> {
        if self.ring < REASON_SLOTS { Reason::from_index(self.ring) } else { None }
    }
}

/// What a ring counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// The ring.
    pub stream: Stream,
    /// Frames, sampled or not.
    pub seen: u64,
    /// Samples taken of them, kept or not.
    pub taken: u64,
}

/// A frame that was recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// Its ring.
    pub stream: Stream,
    /// Which sample of its ring it is, from 1 on.
    pub sequence: u64,
    /// Which frame of its ring it is, from 1 on.
    pub number: u64,
    /// Frames of its ring since the sample before it that was read, itself included: how many it stands for.
    pub stands_for: u64,
    /// When, on CLOCK_MONOTONIC.
    pub time: Duration,
    /// Index of the interface.
    pub ifindex: u32,
    /// Name under which the interface is loaded; nothing where it is no more.
    pub interface: Option<String>,
    /// The receive queue.
    pub queue: u32,
    /// Why it got its verdict.
    pub reason: Reason,
    /// What became of it.
    pub verdict: Verdict,
    /// The entry that decided.
    pub entry: Option<SampledEntry>,
    /// Length of the frame, in bytes.
    pub length: u32,
    /// Its first bytes.
    pub frame: Bytes,
}

/// An entry as it was when it decided about a frame. It may be gone since.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SampledEntry {
    /// Prefix and action.
    pub key: Key,
    /// When it was made, in seconds of CLOCK_MONOTONIC as the tables have them.
    pub created_s: u32,
}

/// What was read of the recorder.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// When reading began, on CLOCK_MONOTONIC.
    pub began: Duration,
    /// When it ended.
    pub ended: Duration,
    /// Each ring that counted anything.
    pub heads: Vec<Head>,
    /// Samples that are new to the reader, in the order of time.
    pub samples: Vec<Sample>,
    /// Samples that were overwritten before this reader read them.
    pub lost: u64,
}

/// How far a reader has read each ring.
#[derive(Clone, Debug, Default)]
pub struct Cursor(pub(crate) Vec<Read>);

/// The last sample of a ring that was read.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Read {
    pub sequence: u64,
    pub number: u64,
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A sample of this ring, taken at this time, with nothing else that matters.
    pub fn sample(cpu: u32, ring: u32, time: Duration) -> Sample {
        Sample {
            stream: Stream { cpu, ring },
            sequence: 1,
            number: 1,
            stands_for: 1,
            time,
            ifindex: 2,
            interface: Some("eth0".into()),
            queue: 0,
            reason: Reason::Blocked,
            verdict: Verdict::Drop,
            entry: None,
            length: 0,
            frame: Bytes::new(),
        }
    }
}
