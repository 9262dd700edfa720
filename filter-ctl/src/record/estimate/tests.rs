use std::array;
use std::cell::Cell;

use bytes::Bytes;
use filter_common::sample::{GAP_NS, Moment, RING_WORDS, Ring, SLOTS, is_due, ring_word, take};
use filter_common::{Reason, Verdict};
use proptest::prelude::*;
use proptest::test_runner::{RngAlgorithm, TestRng};

use super::interval::{Z, wilson};
use super::*;

/// The kernel's ring, on the host: what the program does with a frame, and what a reader finds.
struct Simulated {
    stream: Stream,
    words: [Cell<u64>; RING_WORDS],
    slots: Vec<Option<Sample>>,
    /// Every sample, as somebody finds them who reads often enough.
    all: Vec<Sample>,
    /// The true numbers of frames and bytes by key.
    truth: BTreeMap<u32, (u64, u64)>,
    now_ns: u64,
}

impl Ring for Simulated {
    fn word(&self, position: usize) -> u64 {
        self.words[position].get()
    }

    fn set(&self, position: usize, word: u64) {
        self.words[position].set(word);
    }
}

impl Simulated {
    fn new(ring: u32) -> Self {
        Self {
            stream: Stream { cpu: 0, ring },
            words: array::from_fn(|_| Cell::new(0)),
            slots: vec![None; SLOTS as usize],
            all: Vec::new(),
            truth: BTreeMap::new(),
            now_ns: 1 << 40,
        }
    }

    /// A frame with this key, this long after the one before.
    fn frame(&mut self, random: &mut TestRng, after_ns: u64, key: u32, length: u32) {
        self.now_ns += after_ns;
        let (packets, bytes) = self.truth.entry(key).or_default();
        (*packets, *bytes) = (*packets + 1, *bytes + u64::from(length));
        let now = Moment { ns: self.now_ns, ticks: self.now_ns / 4_000_000 };
        if !is_due(self, now.ticks) {
            return;
        }
        let slot = take(self, now, GAP_NS.into(), random.next_u32());
        let sample = Sample {
            stream: self.stream,
            sequence: self.word(ring_word::TAKEN),
            number: self.word(ring_word::SEEN),
            stands_for: 0,
            time: Duration::from_nanos(now.ns),
            ifindex: 1,
            interface: None,
            queue: key,
            reason: Reason::Blocked,
            verdict: Verdict::Drop,
            entry: None,
            length,
            frame: Bytes::new(),
        };
        self.slots[slot as usize] = Some(sample.clone());
        self.all.push(sample);
    }

    /// What can be read once all is over.
    fn kept(&self) -> Vec<Sample> {
        let mut kept: Vec<_> = self.slots.iter().flatten().cloned().collect();
        kept.sort_by_key(|sample| sample.sequence);
        kept
    }

    fn head(&self) -> Head {
        Head { stream: self.stream, seen: self.word(ring_word::SEEN), taken: self.word(ring_word::TAKEN) }
    }
}

/// A deterministic source of chance: a test that fails fails again.
fn chance(seed: u8) -> TestRng {
    TestRng::from_seed(RngAlgorithm::ChaCha, &[seed; 32])
}

/// The estimates from these samples, whose keys are in their queues.
fn estimates(mut tally: Tally<u32>, samples: &[Sample], heads: &[Head]) -> Estimates<u32> {
    samples.iter().for_each(|sample| tally.add(sample, Some(sample.queue)));
    tally.estimates(heads, |_| true, false)
}

/// Of the keys 0 to 3 these shares, in a thousand, by ring.
const MIXES: [[u32; 4]; 3] = [[500, 300, 190, 10], [20, 20, 60, 900], [0, 0, 0, 1000]];

/// Two floods and a trickle, with other mixes; their true numbers.
fn flood(random: &mut TestRng, frames: u32) -> (Vec<Simulated>, BTreeMap<u32, (u64, u64)>) {
    let mut rings: Vec<_> = (0..3).map(Simulated::new).collect();
    for ((ring, mix), (frames, after_ns)) in
        rings.iter_mut().zip(MIXES).zip([(frames, 100_000), (frames / 3, 400_000), (12, 1_000_000_000)])
    {
        for _ in 0..frames {
            let drawn = random.next_u32();
            let mut left = drawn % 1000;
            let key = (0..).zip(mix).find(|(_, share)| {
                let found = left < *share;
                left = left.saturating_sub(*share);
                found
            });
            let (key, _) = key.expect("the shares are a thousand");
            let length = 60 + key * 300 + drawn / 1000 % 200;
            let after_ns = after_ns / 2 + u64::from(drawn >> 18) % after_ns;
            ring.frame(random, after_ns, key, length);
        }
    }
    let mut truth: BTreeMap<u32, (u64, u64)> = BTreeMap::new();
    for (key, (packets, bytes)) in rings.iter().flat_map(|ring| &ring.truth) {
        let sum = truth.entry(*key).or_default();
        *sum = (sum.0 + packets, sum.1 + bytes);
    }
    (rings, truth)
}

/// What became of the intervals of many floods.
struct Intervals {
    /// In how many percent the true number of frames, and of bytes, lay within the bounds, for the worst key.
    packets: f64,
    bytes: f64,
    /// How far the bounds of the most frequent key were apart in the mean, as a share of its frames.
    width: f64,
}

fn intervals(draws: u32, frames: u32, read: fn(&Simulated) -> Vec<Sample>) -> Intervals {
    let mut width = 0.0;
    let mut within: BTreeMap<u32, (u32, u32)> = BTreeMap::new();
    let mut random = chance(1);
    for _ in 0..draws {
        let (rings, truth) = flood(&mut random, frames);
        let samples: Vec<_> = rings.iter().flat_map(read).collect();
        let heads: Vec<_> = rings.iter().map(Simulated::head).collect();
        let estimates = estimates(Tally::new(None), &samples, &heads);
        for (key, (packets, bytes)) in truth {
            // One that was not seen is said nothing of, which counts as wrong.
            let found = estimates.keys.iter().find(|(found, _)| *found == key).map(|(_, found)| *found);
            let found = found.unwrap_or_default();
            if key == 0 {
                let bounds = found.packets_upper - found.packets_lower;
                width += float(bounds) / float(packets) / f64::from(draws);
            }
            let within = within.entry(key).or_default();
            within.0 += u32::from((found.packets_lower..=found.packets_upper).contains(&packets));
            within.1 += u32::from((found.bytes_lower..=found.bytes_upper).contains(&bytes));
        }
    }
    let worst = |of: fn(&(u32, u32)) -> u32| {
        let fewest = within.values().map(of).min().expect("keys were seen");
        f64::from(fewest) * 100.0 / f64::from(draws)
    };
    Intervals { packets: worst(|within| within.0), bytes: worst(|within| within.1), width }
}

#[test]
fn of_100_intervals_95_hold_the_true_number_where_all_samples_are_read() {
    let Intervals { packets, bytes, width } = intervals(300, 20_000, |ring| ring.all.clone());
    assert!(packets >= 93.0 && bytes >= 93.0, "{packets} % of packets, {bytes} % of bytes");
    assert!(width < 1.0, "{width}"); // up to all frames it would be 2.7, and always hold
}

#[test]
fn of_100_intervals_95_hold_the_true_number_where_samples_were_overwritten() {
    let Intervals { packets, bytes, width } = intervals(300, 20_000, Simulated::kept);
    assert!(packets >= 93.0 && bytes >= 93.0, "{packets} % of packets, {bytes} % of bytes");
    assert!(width < 2.2, "{width}");
}

#[test]
fn estimates_are_right_in_the_mean() {
    let mut random = chance(2);
    let (mut sum, mut true_sum) = (0.0, 0.0);
    for _ in 0..300 {
        let (rings, truth) = flood(&mut random, 20_000);
        let samples: Vec<_> = rings.iter().flat_map(|ring| ring.all.clone()).collect();
        let heads: Vec<_> = rings.iter().map(Simulated::head).collect();
        let found = estimates(Tally::new(None), &samples, &heads);
        sum += found.keys.iter().find(|(key, _)| *key == 1).map_or(0.0, |(_, found)| float(found.packets));
        true_sum += float(truth[&1].0);
    }
    assert!((sum / true_sum - 1.0).abs() < 0.06, "{sum} of {true_sum}");
}

#[test]
fn where_every_frame_was_sampled_there_is_no_error() {
    let mut random = chance(3);
    let mut ring = Simulated::new(5);
    (0..30).for_each(|position| ring.frame(&mut random, 100_000_000, position % 3, 60 + position));
    let found = estimates(Tally::new(None), &ring.all, &[ring.head()]);
    for (key, estimate) in &found.keys {
        let (packets, bytes) = ring.truth[key];
        assert_eq!(*estimate, Estimate { samples: packets, ..Estimate::exact(packets, bytes) });
    }
    let totals = Totals { frames: 30, sampled: 30, kept: 30, unsampled_share: 0.0, overwritten_share: 0.0 };
    assert_eq!((found.whole.packets, found.whole.is_exact(), found.totals), (30, true, totals));
}

#[test]
fn what_comes_after_a_reading_counts_alone() {
    let mut random = chance(4);
    let mut ring = Simulated::new(5);
    (0..50_000).for_each(|_| ring.frame(&mut random, 10_000, 1, 60));
    let (before, read) = (ring.head(), ring.all.len());
    (0..20_000).for_each(|_| ring.frame(&mut random, 10_000, 2, 60));
    let found = estimates(Tally::after(&[before]), &ring.all[read..], &[ring.head()]);
    assert_eq!(found.totals.frames, 20_000);
    assert_eq!((found.whole.packets, found.whole.is_exact()), (20_000, true));
    assert_eq!(found.keys.iter().map(|(key, _)| *key).collect::<Vec<_>>(), [2]);
    assert_eq!(found.totals.sampled, found.totals.kept);
    assert!(found.totals.overwritten_share == 0.0 && found.totals.unsampled_share > 0.9);
}

#[test]
fn a_time_that_is_asked_about_begins_between_two_samples() {
    let mut random = chance(5);
    for _ in 0..50 {
        let mut ring = Simulated::new(5);
        (0..10_000).for_each(|_| ring.frame(&mut random, 100_000, 1, 60));
        let since = Duration::from_nanos(ring.now_ns + 1);
        (0..10_000).for_each(|_| ring.frame(&mut random, 100_000, 2, 60));
        let found = estimates(Tally::new(Some(since)), &ring.all, &[ring.head()]);
        assert!((found.whole.packets_lower..=found.whole.packets_upper).contains(&10_000), "{found:?}");
        assert_eq!(found.keys.len(), 1);
    }
}

#[test]
fn frames_of_long_ago_are_not_of_the_time_that_is_asked_about() {
    let mut random = chance(6);
    let mut ring = Simulated::new(5);
    (0..5_000).for_each(|_| ring.frame(&mut random, 10_000, 1, 60));
    let since = Duration::from_nanos(ring.now_ns) + Duration::from_secs(10);
    let none = estimates(Tally::new(Some(since)), &ring.all, &[ring.head()]);
    assert_eq!((none.whole, none.totals), (Estimate::default(), Totals::default()));
    // Those behind the last sample may be of any time up to now.
    let since = Duration::from_nanos(ring.now_ns);
    let few = estimates(Tally::new(Some(since)), &ring.all, &[ring.head()]);
    assert!(few.whole.packets == 0 && few.whole.packets_upper > 0, "{few:?}");
}

#[test]
fn a_ring_without_samples_adds_all_its_frames_to_each_upper_bound() {
    let mut random = chance(7);
    let mut ring = Simulated::new(5);
    (0..10).for_each(|_| ring.frame(&mut random, 100_000_000, 1, 60));
    let dark = Head { stream: Stream { cpu: 1, ring: 5 }, seen: 1_000, taken: 3 };
    let found = estimates(Tally::new(None), &ring.all, &[ring.head(), dark]);
    let [(1, estimate)] = found.keys[..] else { panic!("one key: {found:?}") };
    assert_eq!((estimate.packets, estimate.packets_lower, estimate.packets_upper), (10, 10, 1_010));
    assert_eq!((found.totals.frames, found.totals.sampled, found.totals.kept), (1_010, 13, 10));
}

#[test]
fn keys_that_a_ring_implies_have_no_error() {
    let mut random = chance(8);
    let mut rings = [Simulated::new(5), Simulated::new(6)];
    for (key, ring) in (0..).zip(&mut rings) {
        (0..20_000).for_each(|_| ring.frame(&mut random, 10_000, key, 60));
    }
    let mut tally = Tally::new(None);
    rings.iter().flat_map(|ring| &ring.all).for_each(|sample| tally.add(sample, Some(sample.queue)));
    let found = tally.estimates(&rings.each_ref().map(Simulated::head), |_| true, true);
    for (_, estimate) in found.keys {
        assert_eq!((estimate.packets, estimate.is_exact()), (20_000, true));
    }
}

#[test]
fn nothing_is_nothing() {
    let none = estimates(Tally::new(None), &[], &[]);
    assert_eq!((none.whole, none.totals, none.keys.len()), (Estimate::default(), Totals::default(), 0));
    let since = estimates(Tally::new(Some(Duration::from_secs(5))), &[], &[]);
    assert_eq!((since.whole, since.totals), (Estimate::default(), Totals::default()));
}

#[test]
fn wilsons_interval_is_that_of_the_tables() {
    // R's prop.test(10, 50, correct = FALSE), and none of ten, whose upper bound is z²/(n + z²).
    let (lower, upper) = wilson(0.2, 50.0, Z);
    assert!((lower - 0.1124).abs() < 1e-4 && (upper - 0.3304).abs() < 1e-4, "{lower} {upper}");
    let (lower, upper) = wilson(0.0, 10.0, Z);
    assert!(lower == 0.0 && (upper - 0.2775).abs() < 1e-4, "{lower} {upper}");
}

#[test]
fn students_quantile_is_that_of_the_tables() {
    for (freedom, quantile) in [(5.0, 2.571), (10.0, 2.228), (30.0, 2.042), (1e6, 1.960)] {
        assert!((student(freedom) - quantile).abs() < 0.03, "{freedom}: {}", student(freedom));
    }
}

proptest! {
    /// Whatever came, was read and was lost: bounds are in order, nothing is more than there was, and the parts are the whole.
    #[test]
    fn no_estimate_is_more_than_there_was(
        seed: u8,
        bursts in prop::collection::vec((0_u32..3, 1_u32..3_000, 1_u64..100_000_000, 0_u32..5), 0..6),
        lost in 0_usize..5,
        is_kept: bool,
    ) {
        let mut random = chance(seed);
        let mut rings: Vec<_> = (0..3).map(Simulated::new).collect();
        for (ring, frames, after_ns, keys) in bursts {
            for _ in 0..frames {
                let key = random.next_u32() % (keys + 1);
                rings[ring as usize].frame(&mut random, after_ns, key, 60 + key);
            }
        }
        let read = |ring: &Simulated| if is_kept { ring.kept() } else { ring.all.clone() };
        let samples = rings.iter().flat_map(read).enumerate();
        let samples: Vec<_> =
            samples.filter(|(at, _)| lost == 0 || at % (lost + 1) > 0).map(|(_, sample)| sample).collect();
        let heads: Vec<_> = rings.iter().map(Simulated::head).collect();
        let frames: u64 = heads.iter().map(|head| head.seen).sum();
        let found = estimates(Tally::new(None), &samples, &heads);
        prop_assert_eq!(found.totals.frames, frames);
        prop_assert!((0.0..=1.0).contains(&found.totals.unsampled_share));
        prop_assert!((0.0..=1.0).contains(&found.totals.overwritten_share));
        for estimate in found.keys.iter().map(|(_, estimate)| *estimate).chain([found.whole]) {
            prop_assert!(estimate.packets_lower <= estimate.packets, "{:?}", estimate);
            prop_assert!(estimate.packets <= estimate.packets_upper, "{:?}", estimate);
            prop_assert!(estimate.packets_upper <= frames, "{:?} of {}", estimate, frames);
            prop_assert!(estimate.packets_lower >= estimate.samples, "{:?}", estimate);
            prop_assert!(estimate.bytes_lower <= estimate.bytes, "{:?}", estimate);
            prop_assert!(estimate.bytes <= estimate.bytes_upper, "{:?}", estimate);
        }
        let parts: u64 = found.keys.iter().map(|(_, estimate)| estimate.packets).sum();
        prop_assert!(parts.abs_diff(found.whole.packets) <= found.keys.len() as u64, "{:?}", found);
    }
}
