//! What samples say of all frames: estimates, each with the interval in which the true number lies in 95 of 100 cases.
//!
//! Each ring is a stratum whose size is known: its head counts all frames. Those that are sampled are known; only the
//! others are estimated, so where every frame was sampled there is no error. The frames between two samples are
//! divided between both, those before the first and behind the last are theirs.
//!
//! Within a ring a key's share of the frames that were not sampled has Wilson's interval (E. B. Wilson, Probable
//! inference, the law of succession, and statistical inference, JASA 22, 1927), which keeps its promise where few or none
//! were seen. Its number of observations is the effective one of unequal weights, (Σw)²/Σw² (Kish, Survey Sampling, 1965,
//! 11.7), and with it the frames' own chance: 1/n = Σw²/(Σw)² + 1/Σw, which is the finite population's correction
//! (Cochran, Sampling Techniques, 3rd ed. 1977, 2.6) for what is left of the population. In place of the normal
//! distribution's quantile stands Student's for so many observations: where a few heavy samples decide, the normal one's
//! intervals are too narrow (as Korn and Graubard have it for surveys, Survey Methodology 24, 1998).
//!
//! Strata are independent, so the squares of their errors add up (Cochran, 5.4): the distance of each ring's lower bound
//! from its estimate, and of its upper one apart from that, since Wilson's interval is lopsided (Zou and Donner,
//! Construction of confidence intervals about functions of parameters, Statistics in Medicine 27, 2008). A ring in
//! which a key was not seen adds the square of its upper bound for a share of nothing, about 4/(n + 4) of its frames. A
//! ring of which no sample is kept says nothing, so it adds all its frames to every upper bound.
//!
//! What this assumes is that frames of which samples were overwritten were like those of which samples are kept;
//! [`Totals::overwritten_share`] says how many that are: few, where
//! somebody reads during the flood.

mod interval;

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::time::Duration;

use serde::Serialize;

use self::interval::{Found, Part, Sum, Weights, float, student, whole_number};
use super::{Head, Sample, Stream};

/// The longest that a ring lets frames pass before it samples one: 250 ticks of a kernel with 100 a second.
const LONGEST_REST: Duration = Duration::from_millis(2500);

/// How many, with an error.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Estimate {
    /// Frames.
    pub packets: u64,
    /// At least so many: in 97.5 of 100 cases, and never fewer than were seen.
    pub packets_lower: u64,
    /// At most so many: in 97.5 of 100 cases, and never more than there were.
    pub packets_upper: u64,
    /// Bytes in these.
    pub bytes: u64,
    /// At least so many.
    pub bytes_lower: u64,
    /// At most so many.
    pub bytes_upper: u64,
    /// Samples that this rests on.
    pub samples: u64,
}

impl Estimate {
    /// What was counted.
    pub fn exact(packets: u64, bytes: u64) -> Self {
        Self {
            packets,
            packets_lower: packets,
            packets_upper: packets,
            bytes,
            bytes_lower: bytes,
            bytes_upper: bytes,
            samples: 0,
        }
    }

    /// Whether it has no error, in bytes either.
    pub fn is_exact(&self) -> bool {
        self.packets_lower == self.packets_upper && self.bytes_lower == self.bytes_upper
    }

    /// The larger of the two distances to the bounds, in frames.
    pub fn error(&self) -> u64 {
        (self.packets_upper.saturating_sub(self.packets)).max(self.packets.saturating_sub(self.packets_lower))
    }

    /// This, and what was counted besides.
    pub fn plus(self, other: Self) -> Self {
        Self {
            packets: self.packets.saturating_add(other.packets),
            packets_lower: self.packets_lower.saturating_add(other.packets_lower),
            packets_upper: self.packets_upper.saturating_add(other.packets_upper),
            bytes: self.bytes.saturating_add(other.bytes),
            bytes_lower: self.bytes_lower.saturating_add(other.bytes_lower),
            bytes_upper: self.bytes_upper.saturating_add(other.bytes_upper),
            samples: self.samples.saturating_add(other.samples),
        }
    }
}

/// What all estimates rest on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Totals {
    /// Frames of all rings that were looked at.
    pub frames: u64,
    /// Samples taken of them.
    pub sampled: u64,
    /// Samples that were still there to be read.
    pub kept: u64,
    /// Share of the frames that no kept sample is of: those that are estimated.
    pub unsampled_share: f64,
    /// Share of the frames that lie between two samples of which those between were overwritten.
    pub overwritten_share: f64,
}

/// What was estimated.
#[derive(Clone, Debug, PartialEq)]
pub struct Estimates<K> {
    /// All that have a key.
    pub whole: Estimate,
    /// Each key that was seen, in no order.
    pub keys: Vec<(K, Estimate)>,
    /// What it rests on.
    pub totals: Totals,
}

/// Samples, added up by ring and key.
#[derive(Clone, Debug)]
pub struct Tally<K> {
    since: Option<Duration>,
    rings: BTreeMap<Stream, Stratum<K>>,
}

#[derive(Clone, Debug)]
struct Stratum<K> {
    /// The last frame that is known by a sample, or where the time begins that is asked about.
    last: Mark,
    /// The sample whose frames are not all known yet.
    pending: Option<Weighted<K>>,
    samples: u64,
    /// Of the weights: how many frames each sample stands for beside its own.
    weights: Weights,
    /// Frames that may lie before the time that is asked about, and how many of them likely don't.
    unsure: u64,
    unsure_within: f64,
    /// Frames of which no sample is kept, if all there may be lie in the time that is asked about.
    unknown: u64,
    overwritten: f64,
    /// Samples taken before the first one that counts.
    before: u64,
    taken: u64,
    whole: Part,
    keys: HashMap<K, Part>,
}

/// A frame of a ring.
#[derive(Clone, Copy, Debug, Default)]
struct Mark {
    number: u64,
    sequence: u64,
    time: Option<Duration>,
}

#[derive(Clone, Debug)]
struct Weighted<K> {
    key: Option<K>,
    length: u32,
    weight: f64,
}

impl<K> Default for Stratum<K> {
    fn default() -> Self {
        Self {
            last: Mark::default(),
            pending: None,
            samples: 0,
            weights: Weights::default(),
            unsure: 0,
            unsure_within: 0.0,
            unknown: 0,
            overwritten: 0.0,
            before: 0,
            taken: 0,
            whole: Part::default(),
            keys: HashMap::new(),
        }
    }
}

impl<K: Eq + Hash> Tally<K> {
    /// Of everything that the rings counted, or of what came from this moment of CLOCK_MONOTONIC on.
    pub fn new(since: Option<Duration>) -> Self {
        Self { since, rings: BTreeMap::new() }
    }

    /// Of what comes after these heads were read.
    pub fn after(heads: &[Head]) -> Self {
        let stratum = |head: &Head| {
            let last = Mark { number: head.seen, sequence: head.taken, time: None };
            (head.stream, Stratum { last, before: head.taken, ..Stratum::default() })
        };
        Self { since: None, rings: heads.iter().map(stratum).collect() }
    }

    /// Adds a sample; without a key it is none of those that are asked about. Those of a ring come in their order.
    pub fn add(&mut self, sample: &Sample, key: Option<K>) {
        let ring = self.rings.entry(sample.stream).or_default();
        let mark = Mark { number: sample.number, sequence: sample.sequence, time: Some(sample.time) };
        if sample.number <= ring.last.number {
            return; // of a time before the one that is asked about
        }
        if self.since.is_some_and(|since| sample.time < since) {
            ring.last = mark;
            return;
        }
        let gap = sample.number - ring.last.number - 1;
        let is_next = sample.sequence == ring.last.sequence + 1;
        let frames = float(gap);
        let is_first = ring.pending.is_none();
        let weight = match (ring.pending.take(), self.since) {
            (Some(mut before), _) => {
                before.weight += frames / 2.0;
                ring.count(before);
                frames / 2.0
            }
            (None, None) => frames,
            (None, Some(since)) => {
                ring.unsure_within = frames * share_after(since, ring.last.time, sample.time, is_next);
                ring.unsure = if ring.unsure_within > 0.0 { gap } else { 0 };
                ring.before = sample.sequence - 1;
                ring.unsure_within
            }
        };
        if !is_next {
            ring.overwritten += if is_first { weight } else { frames };
        }
        ring.pending = Some(Weighted { key, length: sample.length, weight });
        ring.last = mark;
    }

    /// The estimates, given what the rings had counted when the last sample had been read. Frames behind the last sample of
    /// a ring that has no head here are left out. `is_told` says of which rings all frames are among those that are asked
    /// about, and `by_ring` that these have the same key in each, too.
    pub fn estimates(
        mut self,
        heads: &[Head],
        is_told: impl Fn(Stream) -> bool,
        by_ring: bool,
    ) -> Estimates<K> {
        for head in heads {
            self.rings.entry(head.stream).or_default().end(head, self.since);
        }
        for ring in self.rings.values_mut() {
            if let Some(last) = ring.pending.take() {
                ring.count(last);
            }
        }
        let totals = self.totals();
        let nowhere = self.rings.iter().fold(Sum::default(), |sum, (stream, ring)| {
            sum.without(&ring.found(by_ring && is_told(*stream)))
        });
        let mut whole = Sum::default();
        let mut keys: HashMap<K, Sum> = HashMap::new();
        for (stream, ring) in self.rings {
            let found = ring.found(is_told(stream));
            whole = whole.without(&found);
            whole.add(&found, &ring.whole);
            let found = Found { is_told: by_ring && found.is_told, ..found };
            for (key, part) in ring.keys {
                keys.entry(key).or_insert(nowhere).add(&found, &part);
            }
        }
        let variance = whole.lengths.variance();
        let keys = keys.into_iter().map(|(key, sum)| (key, sum.estimate(variance))).collect();
        Estimates { whole: whole.estimate(variance), keys, totals }
    }

    fn totals(&self) -> Totals {
        let sum = |of: fn(&Stratum<K>) -> f64| self.rings.values().map(of).sum::<f64>();
        let kept: u64 = self.rings.values().map(|ring| ring.samples).sum();
        let unsampled = sum(|ring| ring.weights.sum + float(ring.unknown));
        let frames = unsampled + float(kept);
        let share = |part: f64| if frames > 0.0 { (part / frames).clamp(0.0, 1.0) } else { 0.0 };
        Totals {
            frames: whole_number(frames.round()),
            sampled: self.rings.values().map(|ring| ring.taken.max(ring.samples)).sum(),
            kept,
            unsampled_share: share(unsampled),
            overwritten_share: share(sum(|ring| ring.overwritten)),
        }
    }
}

impl<K: Eq + Hash> Stratum<K> {
    /// Counts a sample of which all that it stands for is known.
    fn count(&mut self, Weighted { key, length, weight }: Weighted<K>) {
        self.samples += 1;
        self.weights.add(weight);
        if let Some(key) = key {
            self.whole.add(length, weight);
            self.keys.entry(key).or_default().add(length, weight);
        }
    }

    /// Adds the frames behind the last sample.
    fn end(&mut self, head: &Head, since: Option<Duration>) {
        let tail = head.seen.saturating_sub(self.last.number);
        match (&mut self.pending, since, self.last.time) {
            (Some(last), ..) => last.weight += float(tail),
            // None of them is from after the ring would have sampled one.
            (None, Some(since), Some(last)) if last + LONGEST_REST <= since => {}
            (None, ..) => self.unknown = tail,
        }
        let counts = self.pending.is_some() || since.is_none();
        self.taken = if counts { head.taken.saturating_sub(self.before) } else { 0 };
    }

    /// The ring as a stratum. `is_told` says that all its frames have the same key.
    fn found(&self, is_told: bool) -> Found {
        let unsampled = self.weights.sum;
        let least = (unsampled - self.unsure_within).max(0.0);
        let most = least + float(self.unsure);
        let effective = self.weights.effective().unwrap_or(float(self.samples));
        Found {
            samples: self.samples,
            unsampled,
            least,
            most,
            unknown: float(self.unknown),
            observations: 1.0 / (1.0 / effective + 1.0 / most),
            quantile: student(effective),
            is_told,
        }
    }
}

/// Which share of the frames between two samples came after `since`, if they came evenly.
fn share_after(since: Duration, before: Option<Duration>, sample: Duration, is_next: bool) -> f64 {
    // Where the sample before is gone, nothing is known: the middle is least wrong.
    let Some(before) = before else { return 0.5 };
    let end = if is_next { sample.min(before + LONGEST_REST) } else { sample };
    let between = end.saturating_sub(before).as_secs_f64();
    if between > 0.0 { (end.saturating_sub(since).as_secs_f64() / between).min(1.0) } else { 0.0 }
}

#[cfg(test)]
mod tests;
