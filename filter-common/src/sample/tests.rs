//! Rings and samples on the host: what is kept of floods, and that nothing torn is taken for whole.

use std::cell::RefCell;
use std::collections::BTreeMap;

use super::*;
use crate::reason::Reason;

/// Frames of a flood, a millisecond of them at a time, on a host with 250 ticks a second.
const TICK_NS: u64 = 4_000_000;
const SECOND_NS: u64 = 1_000_000_000;
/// An hour after boot.
const START_NS: u64 = 3600 * SECOND_NS;

#[derive(Default)]
struct HostRing(RefCell<[u64; RING_WORDS]>);

impl Ring for HostRing {
    fn word(&self, position: usize) -> u64 {
        self.0.borrow()[position]
    }

    fn set(&self, position: usize, word: u64) {
        self.0.borrow_mut()[position] = word;
    }
}

#[derive(Default)]
struct HostSlot(RefCell<[u64; 32]>);

impl Slot for HostSlot {
    fn set(&self, position: usize, word: u64) {
        self.0.borrow_mut()[position] = word;
    }
}

/// What a slot was last used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    slot: u32,
    sequence: u64,
    number: u64,
}

/// A ring, its slots, and numbers by chance.
#[derive(Default)]
struct Recorder {
    ring: HostRing,
    /// When the frame in each slot came, and its place.
    slots: BTreeMap<u32, (u64, Place)>,
    chance: u64,
}

impl Recorder {
    fn frame(&mut self, ns: u64) -> Option<Place> {
        let ticks = ns / TICK_NS;
        if !is_due(&self.ring, ticks) {
            return None;
        }
        self.chance =
            self.chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let slot = take(&self.ring, Moment { ns, ticks }, GAP_NS.into(), (self.chance >> 32) as u32);
        let word = |position| self.ring.word(position);
        let place = Place { slot, sequence: word(ring_word::TAKEN), number: word(ring_word::SEEN) };
        self.slots.insert(place.slot, (ns, place));
        Some(place)
    }

    /// Frames at an even pace. Returns how many were sampled.
    fn flood(&mut self, from_ns: u64, frames: u64, apart_ns: u64) -> u64 {
        (0..frames).filter(|frame| self.frame(from_ns + frame * apart_ns).is_some()).count() as u64
    }

    fn taken(&self) -> u64 {
        self.ring.word(ring_word::TAKEN)
    }

    fn kept(&self) -> Vec<(u64, Place)> {
        let mut kept: Vec<_> = self.slots.values().copied().collect();
        kept.sort_by_key(|(_, place)| place.sequence);
        kept
    }
}

#[test]
fn the_first_frames_of_what_is_new_are_all_kept() {
    let mut recorder = Recorder::default();
    for number in 1..=BURST {
        let place = recorder.frame(START_NS + number).expect("sampled");
        assert_eq!((place.sequence, place.number), (number, number));
    }
    assert_eq!(recorder.kept().len() as u64, BURST);
}

#[test]
fn a_flood_is_sampled_at_the_pace_whatever_its_rate() {
    for apart_ns in [100, 1_000, 50_000, 1_000_000] {
        let mut recorder = Recorder::default();
        let seconds = 20;
        let sampled = recorder.flood(START_NS, seconds * SECOND_NS / apart_ns, apart_ns);
        let due = seconds * SECOND_NS / u64::from(GAP_NS);
        // Twice the budget may be used ahead of time, and a step too high or low is made up for slowly.
        assert!(
            (due * 7 / 10..=due * 13 / 10 + 2 * BURST).contains(&sampled),
            "{sampled} of {due}, {apart_ns}"
        );
        assert_eq!(sampled, recorder.taken());
    }
}

#[test]
fn the_start_of_a_flood_is_sampled_evenly() {
    for apart_ns in [200, 10_000] {
        let mut recorder = Recorder::default();
        let tenth_ns = SECOND_NS / 10;
        let frames = tenth_ns / apart_ns;
        for tenth in 0..10 {
            let sampled = recorder.flood(START_NS + tenth * tenth_ns, frames, apart_ns);
            assert!((3..=60).contains(&sampled), "{sampled} in tenth {tenth}, {apart_ns} ns apart");
        }
    }
}

#[test]
fn a_trickle_is_sampled_whole() {
    let mut recorder = Recorder::default();
    let apart_ns = 2 * u64::from(GAP_NS);
    assert_eq!(recorder.flood(START_NS, 500, apart_ns), 500);
}

#[test]
fn after_a_flood_a_trickle_is_seen_again_within_seconds() {
    let mut recorder = Recorder::default();
    recorder.flood(START_NS, 5_000_000, 1_000);
    // A frame a second: each wakes the ring, and the step is halved.
    let after = START_NS + 6 * SECOND_NS;
    assert_eq!(recorder.flood(after, 20, 2 * SECOND_NS), 20);
    // Ten at once after it.
    let sampled = recorder.flood(after + 60 * SECOND_NS, 10, 1_000);
    assert!(sampled >= 8, "{sampled}");
}

#[test]
fn the_first_frame_of_a_flood_outlasts_it_and_its_course_is_kept() {
    let mut recorder = Recorder::default();
    // A flood of half an hour, a hundred frames a second, and nothing for hours.
    recorder.flood(START_NS, 180_000, 10_000_000);
    let kept = recorder.kept();
    let after_s = |ns: u64| (ns - START_NS) / SECOND_NS;
    let (first, last) = (kept.first().expect("some"), kept.last().expect("some"));
    assert_eq!((first.1.number, after_s(first.0)), (1, 0));
    assert!(after_s(last.0) >= 1799, "{last:?}");
    // Its course: something of each of the last eight minutes, and of each quarter of an hour.
    let apart = kept.windows(2).map(|pair| after_s(pair[1].0) - after_s(pair[0].0)).max().expect("pairs");
    assert!(apart <= 1100, "{apart} s between two samples");
    let late = kept.iter().filter(|(ns, _)| (1300..1790).contains(&after_s(*ns))).count();
    assert!(late >= 6, "{kept:?}");
}

#[test]
fn numbers_tell_how_many_frames_there_were() {
    let mut recorder = Recorder::default();
    recorder.flood(START_NS, 1_000_000, 1_000);
    assert_eq!(recorder.ring.word(ring_word::SEEN), 1_000_000);
    let kept = recorder.kept();
    assert!(kept.windows(2).all(|pair| pair[0].1.number < pair[1].1.number));
    // Slots of the lowest level are the latest without a gap.
    let lowest: Vec<u64> =
        kept.iter().filter(|(_, place)| place.slot < LEVEL_SLOTS[0]).map(|(_, p)| p.sequence).collect();
    assert_eq!(lowest.len(), LEVEL_SLOTS[0] as usize);
    assert!(recorder.taken() - lowest[0] <= u64::from(LEVEL_SLOTS[0]) + 3);
}

#[test]
fn frames_that_are_passed_over_wake_the_ring_later() {
    let recorder = Recorder::default();
    let ticks = START_NS / TICK_NS;
    assert!(is_due(&recorder.ring, ticks));
    pass_over(&recorder.ring, ticks);
    assert!(!is_due(&recorder.ring, ticks + PASS_TICKS - 1));
    assert!(is_due(&recorder.ring, ticks + PASS_TICKS));
}

#[test]
fn rings_are_by_reason_and_of_entries_by_id() {
    let decision = |reason: Reason, entry, verdict| Decision { reason, entry, verdict };
    assert_eq!(ring_of(3, decision(Reason::UdpLength, 0, Verdict::Drop)), Reason::UdpLength.index());
    let [one, other] = [1, 2].map(|id| ring_of(3, decision(Reason::Blocked, id, Verdict::Drop)));
    assert!(one != other && one >= REASON_SLOTS && other < RINGS);
    // What passes is never among what is dropped.
    assert_eq!(ring_of(3, decision(Reason::Allowed, 1, Verdict::Pass)), Reason::Allowed.index());
    assert_eq!(ring_of(TEST_SLOT, decision(Reason::Blocked, 1, Verdict::Drop)), TEST_RING);
    assert!(is_always_recorded(decision(Reason::UdpLength, 0, Verdict::Pass)), "tolerated");
    assert!(!is_always_recorded(decision(Reason::NoMatch, 0, Verdict::Pass)));
}

fn written(frame: &[u8], sequence: u64) -> [u64; SAMPLE_WORDS] {
    let slot = HostSlot::default();
    let mut header = [7; HEADER_WORDS];
    header[sample_word::SEQUENCE] = sequence;
    header[sample_word::LENGTH] = (captured_length(frame.len()) as u64) << 32;
    write(&slot, &header, frame, captured_length(frame.len()));
    std::array::from_fn(|position| slot.0.borrow()[position])
}

#[test]
fn the_first_bytes_are_kept_whatever_the_length() {
    let frame: Vec<u8> = (1..=200).collect();
    for length in 14..=frame.len() {
        let words = written(&frame[..length], 5);
        let bytes: Vec<u8> = words[HEADER_WORDS..].iter().flat_map(|word| word.to_ne_bytes()).collect();
        let kept = captured_length(length);
        assert_eq!(bytes[..kept], frame[..kept], "{length} bytes");
        assert_eq!(words[sample_word::DIGEST], digest(&words));
    }
}

#[test]
fn a_sample_of_two_is_none() {
    // Whatever words of one sample are seen beside those of another, the digest does not fit.
    let (old, new) = (written(&[1; 100], 5), written(&[2; 100], 45));
    for first in 0..SAMPLE_WORDS {
        for end in first + 1..=SAMPLE_WORDS {
            let mut torn = old;
            torn[first..end].copy_from_slice(&new[first..end]);
            if torn != old && torn != new {
                assert_ne!(torn[sample_word::DIGEST], digest(&torn), "words {first} to {end}");
            }
        }
    }
}
