//! Which frames are recorded, what of each, and where: the flight recorder's pure part. Clock and chance are arguments.
//!
//! Each CPU has [`RINGS`] rings: one for each reason, and [`ENTRY_RINGS`] among which the frames that entries drop are
//! divided by the entry's id. So a flood only ever overwrites samples of its own ring. Within a ring the share of
//! frames that is sampled is halved as long as samples come faster than one in [`GAP_NS`] and the burst is used up: the
//! first frames of whatever is new are all recorded, and of a million a second one in ten thousand. Which frame is next
//! is drawn by chance among the frames (not in time: time-driven sampling favours whatever follows a
//! pause; Claffy, Polyzos and Braun, SIGCOMM 1993).
//!
//! A ring forgets in levels: the latest samples are kept close together, and those that were the first in four
//! seconds, in a minute, in seventeen minutes lie apart. So the first frame of a flood is still there hours after it.
//!
//! A sample carries the number of its frame in the ring. The differences between the numbers of those that are kept say
//! how many frames each stands for, and what was not sampled or was overwritten.

use core::hint::black_box;

use crate::abi::{REASON_SLOTS, TEST_SLOT};
use crate::decide::{Decision, NO_ENTRY};
use crate::frame::Frame;
use crate::reason::Verdict;

/// Bytes of a frame that are kept: Ethernet with two VLAN tags, IPv6, TCP with all options, and a DNS question behind UDP.
pub const SNAP_LENGTH: usize = 128;

/// Rings of a CPU among which the frames that entries drop are divided. A power of two: an id's ring is its low bits.
pub const ENTRY_RINGS: u32 = 64;

/// Rings of a CPU: those by reason first. Each costs [`SLOTS`] samples, so that a CPU costs 1.1 MiB.
pub const RINGS: u32 = REASON_SLOTS + ENTRY_RINGS;

/// The ring of test-runs, of which nobody's record is: the last of those by reason, which no reason has yet.
pub const TEST_RING: u32 = REASON_SLOTS - 1;

/// Levels of a ring: the further up, the further apart its samples.
pub const LEVELS: usize = 4;

/// Slots of each level; powers of two. The lowest has those of a burst.
pub const LEVEL_SLOTS: [u32; LEVELS] = [16, 8, 8, 8];

/// The first slot of each level.
const FIRST_SLOT: [u32; LEVELS] =
    [0, LEVEL_SLOTS[0], LEVEL_SLOTS[0] + LEVEL_SLOTS[1], LEVEL_SLOTS[0] + LEVEL_SLOTS[1] + LEVEL_SLOTS[2]];

/// The least time between two samples of a level, in [`Moment::coarse`] units.
const LEVEL_APART: [u32; LEVELS] = [0, 4, 64, 1024];

/// Slots of a ring.
pub const SLOTS: u32 = FIRST_SLOT[LEVELS - 1] + LEVEL_SLOTS[LEVELS - 1];

/// Time between two samples of a ring in the long run, in nanoseconds: a hundred a second, of which the work is under a
/// thousandth of a CPU's time even where all rings are busy.
pub const GAP_NS: u32 = 10_000_000;

/// Samples that may come at once, after a rest.
pub const BURST: u64 = 16;

/// Ticks after which a sample is due, however few frames there were: a second of kernels with 250 a second, and 0.25 to
/// 2.5 s of others.
const WAKE_TICKS: u64 = 250;

/// Ticks for which frames that nobody asks for are passed over, unlooked at: recording them may begin at any time.
const PASS_TICKS: u64 = 10;

/// The least share that is sampled is one in 2^this: no interface brings more in a quarter of a second.
const MAX_STEP: u32 = 24;

/// Words of a ring in its map.
pub const RING_WORDS: usize = 16;

/// Words of a ring, by position. Userspace only reads them.
pub mod ring_word {
    /// Frames of this ring.
    pub const SEEN: usize = 0;
    /// The number of the frame that is sampled next.
    pub const NEXT: usize = 1;
    /// The tick from which on a frame is sampled in any case.
    pub const WAKE: usize = 2;
    /// Samples taken.
    pub const TAKEN: usize = 3;
    /// When, at a sample each gap, all that were taken would have been.
    pub const PACE: usize = 4;
    /// When levels one and two last got a sample.
    pub const LAST_LOW: usize = 5;
    /// When level three last got a sample, and above it the logarithm of how many frames one stands for.
    pub const LAST_HIGH: usize = 6;
    /// How many samples each level got: 16 bits each.
    pub const POSITIONS: usize = 7;
    /// When the last sample was taken, in nanoseconds of CLOCK_MONOTONIC.
    pub const TIME: usize = 8;
}

/// Words of a sample in its map.
pub const SAMPLE_WORDS: usize = HEADER_WORDS + FRAME_WORDS;

/// Words before the frame's.
pub const HEADER_WORDS: usize = 11;

/// Words of the frame: its bytes in the order of memory.
const FRAME_WORDS: usize = SNAP_LENGTH / 8;

/// Words of a sample, by position. `filter-ebpf` writes them in this order.
pub mod sample_word {
    /// How many samples its ring had with it; zero in a slot that is empty or being written.
    pub const SEQUENCE: usize = 0;
    /// When, in nanoseconds of CLOCK_MONOTONIC.
    pub const TIME: usize = 1;
    /// How many frames its ring had with it.
    pub const NUMBER: usize = 2;
    /// Length of the frame, and above it how many of its bytes are kept.
    pub const LENGTH: usize = 3;
    /// What `abi::explained` made of the decision, and above it the receive queue.
    pub const DECIDED: usize = 4;
    /// Index of the interface, and above it its slot.
    pub const INTERFACE: usize = 5;
    /// The first four words of the entry, which say which one it was after it is gone.
    pub const ENTRY_WORDS: usize = 6;
    /// [`digest`](super::digest) of all the others.
    pub const DIGEST: usize = 10;
}

/// The ring of a frame that came in on this interface slot.
#[inline(always)] // in BPF, a few instructions of the one exit
pub fn ring_of(slot: u32, decision: Decision) -> u32 {
    if slot == TEST_SLOT {
        TEST_RING
    } else if decision.entry != NO_ENTRY && matches!(decision.verdict, Verdict::Drop) {
        REASON_SLOTS + decision.entry % ENTRY_RINGS
    } else {
        decision.reason.index()
    }
}

/// Whether a frame with this decision is recorded without being asked for: those that are dropped, and those that would
/// be if their fault were not tolerated.
#[inline(always)] // as `ring_of`
pub fn is_always_recorded(decision: Decision) -> bool {
    // The first question has an answer at hand, and is the one that most frames of a flood need.
    matches!(decision.verdict, Verdict::Drop) || matches!(decision.reason.verdict(), Verdict::Drop)
}

/// When a frame is looked at.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// Nanoseconds of CLOCK_MONOTONIC.
    pub ns: u64,
    /// The kernel's timer ticks.
    pub ticks: u64,
}

impl Moment {
    /// In units of 2^30 ns, 1.07 seconds: no division.
    #[inline(always)] // as `ring_of`
    #[expect(clippy::cast_possible_truncation, reason = "2^32 of them are 146 years")]
    const fn coarse(self) -> u32 {
        (self.ns >> 30) as u32
    }
}

/// A ring's words, wherever they lie.
pub trait Ring {
    /// The word at this position.
    fn word(&self, position: usize) -> u64;
    /// Sets the word at this position.
    fn set(&self, position: usize, word: u64);
}

/// Counts a frame, and says whether it is to be sampled: as a rule not, after five instructions.
#[inline(always)] // as `ring_of`
pub fn is_due(ring: &impl Ring, ticks: u64) -> bool {
    let seen = ring.word(ring_word::SEEN).wrapping_add(1);
    ring.set(ring_word::SEEN, seen);
    seen >= ring.word(ring_word::NEXT) || ticks >= ring.word(ring_word::WAKE)
}

/// Passes over a frame that is due, and all others until the ring wakes.
#[inline(always)] // as `ring_of`
pub fn pass_over(ring: &impl Ring, ticks: u64) {
    ring.set(ring_word::NEXT, u64::MAX);
    ring.set(ring_word::WAKE, ticks.wrapping_add(PASS_TICKS));
}

/// Takes a sample of the frame that was counted last: returns its slot, under [`SLOTS`], and draws the frame that is due
/// next. The sample is the [`TAKEN`](ring_word::TAKEN)th, of the [`SEEN`](ring_word::SEEN)th frame.
#[inline(always)] // as `ring_of`
#[expect(clippy::cast_possible_truncation, reason = "halves of words")]
pub fn take(ring: &impl Ring, now: Moment, gap_ns: u64, chance: u32) -> u32 {
    let number = ring.word(ring_word::SEEN);
    let last_low = ring.word(ring_word::LAST_LOW);
    let last_high = ring.word(ring_word::LAST_HIGH);

    let mut step = (last_high >> 32) as u32 & 31;
    if number < ring.word(ring_word::NEXT) {
        // It was woken: there are far fewer frames than there were.
        step /= 2;
    }
    let (budget, pace) = (BURST * gap_ns, ring.word(ring_word::PACE));
    let pace = if pace < now.ns { now.ns } else { pace } + gap_ns;
    let ahead = pace - now.ns;
    if ahead > budget {
        step = if step < MAX_STEP { step + 1 } else { step };
    } else if ahead < budget / 2 && step > 0 {
        step -= 1;
    }
    // What a flood's start took too much is forgiven: made up for, the share would be halved until that is done, and be far
    // too small then.
    ring.set(ring_word::PACE, if ahead > budget { now.ns + budget } else { pace });
    // Uniform over the even numbers under 2^(step + 1), and one: 2^step in the mean.
    let skipped = chance & ((2 << step) - 2);
    ring.set(ring_word::NEXT, number.wrapping_add(1 + u64::from(skipped)));
    ring.set(ring_word::WAKE, now.ticks.wrapping_add(WAKE_TICKS));

    let coarse = now.coarse();
    let mut last = [0, last_low as u32, (last_low >> 32) as u32, last_high as u32];
    let is_apart = |level: usize| last[level] == 0 || coarse.wrapping_sub(last[level]) >= LEVEL_APART[level];
    let (level, first_slot) = if is_apart(3) {
        (3, FIRST_SLOT[3])
    } else if is_apart(2) {
        (2, FIRST_SLOT[2])
    } else if is_apart(1) {
        (1, FIRST_SLOT[1])
    } else {
        (0, FIRST_SLOT[0])
    };
    // Zero stands for never, and a machine up for a second has nothing to remember.
    let stamp = if coarse == 0 { 1 } else { coarse };
    if level >= 1 {
        last[1] = stamp;
    }
    if level >= 2 {
        last[2] = stamp;
    }
    if level >= 3 {
        last[3] = stamp;
    }
    ring.set(ring_word::LAST_LOW, u64::from(last[2]) << 32 | u64::from(last[1]));
    ring.set(ring_word::LAST_HIGH, u64::from(step) << 32 | u64::from(last[3]));

    let positions = ring.word(ring_word::POSITIONS);
    let shift = 16 * level;
    let position = positions >> shift & 0xffff;
    let others = positions & !(0xffff << shift);
    ring.set(ring_word::POSITIONS, others | (position.wrapping_add(1) & 0xffff) << shift);
    let slots = if level == 0 { LEVEL_SLOTS[0] } else { LEVEL_SLOTS[1] };
    ring.set(ring_word::TIME, now.ns);
    ring.set(ring_word::TAKEN, ring.word(ring_word::TAKEN).wrapping_add(1));
    first_slot + (position as u32 & (slots - 1))
}

/// A slot for a sample, wherever it lies.
pub trait Slot {
    /// Sets the word at this position, under [`SAMPLE_WORDS`].
    fn set(&self, position: usize, word: u64);
}

/// Writes a sample. Whoever reads it meanwhile, in whatever order stores become visible to it, sees by the digest that
/// it is not whole.
///
/// Of `header` the place of the digest is not looked at. `captured` bytes of the frame are kept, which it has, and which
/// the header states; eight at least, as all frames of the kernel have. Words behind them stay as they were.
#[inline(always)] // as `ring_of`
pub fn write<F: Frame + ?Sized>(slot: &impl Slot, header: &[u64; HEADER_WORDS], frame: &F, captured: usize) {
    slot.set(sample_word::SEQUENCE, 0);
    let mut digest = 0;
    for (position, word) in header.iter().enumerate().skip(1).filter(|(at, _)| *at != sample_word::DIGEST) {
        slot.set(position, *word);
        digest = digested(digest, *word);
    }
    let mut position = 0;
    while position < FRAME_WORDS && 8 * position + 8 <= captured {
        let Some(bytes) = frame.read(8 * position) else { break };
        let word = u64::from_ne_bytes(bytes);
        slot.set(HEADER_WORDS + position, word);
        digest = digested(digest, word);
        position += 1;
    }
    // The bytes behind the last whole word, from the last eight of all: byte by byte, the verifier would follow each number
    // of them. Hidden from the compiler, which would compare the end, where the verifier wants to see offset and size.
    if position < FRAME_WORDS && captured > 8 * position && captured >= 8 {
        let last = frame.read(black_box(captured - 8)).map_or(0, u64::from_le_bytes);
        let word = (last >> ((8 * (8 * position + 8 - captured)) & 63)).to_le();
        slot.set(HEADER_WORDS + position, word);
        digest = digested(digest, word);
    }
    slot.set(sample_word::DIGEST, digested(digest, header[sample_word::SEQUENCE]));
    slot.set(sample_word::SEQUENCE, header[sample_word::SEQUENCE]);
}

/// Bytes that are kept of a frame of this length.
#[inline(always)] // as `ring_of`
pub const fn captured_length(length: usize) -> usize {
    if length < SNAP_LENGTH { length } else { SNAP_LENGTH }
}

/// What [`sample_word::DIGEST`] must be in these words: of those that hold something.
pub fn digest(words: &[u64; SAMPLE_WORDS]) -> u64 {
    let used = HEADER_WORDS + captured_of(words).div_ceil(8);
    let others = words[1..used].iter().zip(1..).filter(|(_, position)| *position != sample_word::DIGEST);
    digested(others.fold(0, |digest, (word, _)| digested(digest, *word)), words[sample_word::SEQUENCE])
}

/// How many bytes of the frame these words hold.
pub fn captured_of(words: &[u64; SAMPLE_WORDS]) -> usize {
    usize::try_from(words[sample_word::LENGTH] >> 32).map_or(SNAP_LENGTH, captured_length)
}

#[inline(always)] // as `ring_of`
const fn digested(digest: u64, word: u64) -> u64 {
    // A prime close to 2^64 divided by the golden ratio: every bit of a word reaches the highest bits, and the rotation
    // brings them down.
    (digest.rotate_left(23) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

const _: () = {
    // A slot is found by two numbers of slots, and by the low bits of a position.
    assert!(LEVEL_SLOTS[1] == LEVEL_SLOTS[2] && LEVEL_SLOTS[2] == LEVEL_SLOTS[3]);
    assert!(ENTRY_RINGS.is_power_of_two() && MAX_STEP < 31);
    assert!(crate::reason::Reason::ALL.len() <= TEST_RING as usize);
};

#[cfg(test)]
mod tests;
