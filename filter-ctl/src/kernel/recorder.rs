//! Reads the flight recorder's rings, while programs write them. Needs no lock: nothing here changes anything, but for
//! until when frames that pass are recorded.

use std::collections::HashMap;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::time::Duration;

use super::interface::slot_name;
use super::mapped::MappedArray;
use super::maps::{Maps, possible_cpus, require};
use super::pins::Pins;
use crate::host::monotonic_now;
use crate::policy::Key;
use crate::record::{Cursor, Head, Read, Reading, Sample, SampledEntry, Stream};
use anyhow::Result;
use bytes::Bytes;
use filter_common::Verdict;
use filter_common::abi::{Interface, RECORDING, RINGS, SAMPLES, decision_of};
use filter_common::prefix;
use filter_common::sample::{
    HEADER_WORDS, RING_WORDS, RINGS as RINGS_A_CPU, SAMPLE_WORDS, SLOTS, TEST_RING, captured_of, digest,
    ring_word, sample_word,
};

/// How often a sample that is being written is read again before it is given up: writing takes a fraction of a
/// microsecond.
const TRIES: u32 = 3;

/// Until when frames that pass are recorded.
pub struct Passed(MappedArray);

impl Passed {
    /// Opens the map below `pins`.
    ///
    /// # Errors
    ///
    /// As [`Recorder::open`].
    pub fn open(pins: &Pins) -> Result<Self> {
        require(pins, &[RECORDING])?;
        Ok(Self(MappedArray::open(&pins.map(&RECORDING), RECORDING.name, 1)?))
    }

    /// Until when, in seconds of CLOCK_MONOTONIC; zero if they are not.
    pub fn until_s(&self) -> u64 {
        self.0.words().first().map_or(0, |word| word.load(Acquire))
    }

    /// Sets until when; zero for not at all. It ends by itself, whoever is still there.
    pub fn set_until_s(&self, until_s: u64) {
        if let Some(word) = self.0.words().first() {
            word.store(until_s, Release);
        }
    }
}

/// The recorder of the loaded filter.
pub struct Recorder {
    maps: Maps,
    passed: Passed,
    rings: MappedArray,
    samples: MappedArray,
}

impl Recorder {
    /// Opens the recorder below `pins`.
    ///
    /// # Errors
    ///
    /// [`NotLoaded`](super::pins::NotLoaded) if there is no filter; if a map is missing or not what is expected.
    pub fn open(pins: &Pins) -> Result<Self> {
        let maps = Maps::open(pins)?;
        require(pins, &[RINGS, SAMPLES])?;
        let rings = (possible_cpus()? * RINGS_A_CPU) as usize;
        let array = |spec, words| MappedArray::open(&pins.map(spec), spec.name, words);
        Ok(Self {
            maps,
            passed: Passed::open(pins)?,
            rings: array(&RINGS, rings * RING_WORDS)?,
            samples: array(&SAMPLES, rings * SLOTS as usize * SAMPLE_WORDS)?,
        })
    }

    /// Until when frames that pass are recorded.
    pub fn passed(&self) -> &Passed {
        &self.passed
    }

    /// What each ring counted, but for that of test-runs, and for those of what passes while that is not recorded.
    pub fn heads(&self) -> Vec<Head> {
        let is_told = self.is_told();
        let heads = self.rings.words().chunks_exact(RING_WORDS).enumerate();
        heads.map(|(index, ring)| head(index, ring)).filter(|head| is_told(head)).collect()
    }

    /// Whether a ring counted what is recorded.
    fn is_told(&self) -> impl Fn(&Head) -> bool + use<> {
        // The word is not taken back when its time is over, and until then frames that pass were only counted.
        let has_passed = self.passed.until_s() > monotonic_now().as_secs();
        move |head| {
            let Head { stream, seen, .. } = head;
            let is_dropped = stream.reason().is_none_or(|reason| reason.verdict() == Verdict::Drop);
            *seen > 0 && stream.ring != TEST_RING && (has_passed || is_dropped)
        }
    }

    /// Reads what is new since `cursor`, and moves it. The samples of test-runs are left out, and so are heads of rings of
    /// what passes while that is not recorded.
    ///
    /// # Errors
    ///
    /// If the names of interfaces can't be read.
    pub fn read(&self, cursor: &mut Cursor) -> Result<Reading> {
        self.read_rings(cursor, |ring| ring != TEST_RING)
    }

    /// As [`Recorder::read`], of test-runs alone.
    ///
    /// # Errors
    ///
    /// As [`Recorder::read`].
    pub fn read_tests(&self, cursor: &mut Cursor) -> Result<Reading> {
        self.read_rings(cursor, |ring| ring == TEST_RING)
    }

    fn read_rings(&self, cursor: &mut Cursor, is_read: impl Fn(u32) -> bool) -> Result<Reading> {
        let is_told = self.is_told();
        let rings = self.rings.words().chunks_exact(RING_WORDS);
        cursor.0.resize(rings.len(), Read::default());
        let mut reading = Reading { began: monotonic_now(), ..Reading::default() };
        let mut names = None;
        for (index, (ring, read)) in rings.zip(&mut cursor.0).enumerate() {
            let head = head(index, ring);
            if !is_read(head.stream.ring) {
                continue;
            }
            if is_told(&head) || head.stream.ring == TEST_RING && head.seen > 0 {
                reading.heads.push(head);
            }
            if head.taken > read.sequence {
                // Most looks find nothing new, and need no names.
                let names = match names {
                    Some(ref names) => names,
                    None => &*names.insert(Names::new(&self.maps.interfaces()?)),
                };
                self.read_ring(index, head, read, names, &mut reading);
            }
        }
        reading.samples.sort_by_key(|sample| (sample.time, sample.stream, sample.sequence));
        reading.ended = monotonic_now();
        Ok(reading)
    }

    /// Reads the samples of a ring up to the last that its head counts.
    fn read_ring(
        &self,
        index: usize,
        Head { stream, taken, .. }: Head,
        read: &mut Read,
        names: &Names,
        reading: &mut Reading,
    ) {
        let length = SLOTS as usize * SAMPLE_WORDS;
        let slots = self.samples.words()[index * length..(index + 1) * length].chunks_exact(SAMPLE_WORDS);
        let new = read.sequence + 1..=taken;
        let mut words: Vec<_> = slots
            .filter(|slot| new.contains(&slot[sample_word::SEQUENCE].load(Acquire)))
            .filter_map(whole)
            .filter(|words| new.contains(&words[sample_word::SEQUENCE]))
            .collect();
        words.sort_unstable_by_key(|words| words[sample_word::SEQUENCE]);
        reading.lost += (taken - read.sequence).saturating_sub(words.len() as u64);
        for words in words {
            let number = words[sample_word::NUMBER];
            // A sample of another build's decision is passed over; its frames are the next one's.
            if let Some(sample) = decoded(stream, &words, number.saturating_sub(read.number), names) {
                reading.samples.push(sample);
                read.number = number;
            }
        }
        read.sequence = taken;
    }
}

/// Names under which interfaces are loaded, by their index. Not those of devices: this process may be in another network
/// namespace than the filter.
struct Names(HashMap<u32, String>);

impl Names {
    fn new(slots: &[Interface]) -> Self {
        let loaded = slots.iter().filter(|slot| slot.ifindex != 0);
        Self(loaded.filter_map(|slot| Some((slot.ifindex, slot_name(slot)?))).collect())
    }
}

/// What the ring with this number counted.
fn head(index: usize, ring: &[AtomicU64]) -> Head {
    // Acquire, and first: the samples that it counts are there, as far as the processor keeps stores in order; where it does
    // not, the digest tells.
    let taken = ring[ring_word::TAKEN].load(Acquire);
    Head { stream: stream_of(index), seen: ring[ring_word::SEEN].load(Relaxed), taken }
}

fn stream_of(index: usize) -> Stream {
    let number = |index: usize| u32::try_from(index).unwrap_or(u32::MAX);
    Stream { cpu: number(index / RINGS_A_CPU as usize), ring: number(index % RINGS_A_CPU as usize) }
}

/// The words of a slot, once they are a whole sample.
fn whole(slot: &[AtomicU64]) -> Option<[u64; SAMPLE_WORDS]> {
    let read = || -> [u64; SAMPLE_WORDS] { std::array::from_fn(|position| slot[position].load(Acquire)) };
    (0..TRIES).map(|_| read()).find(|words| words[sample_word::DIGEST] == digest(words))
}

#[expect(clippy::cast_possible_truncation, reason = "halves of words")]
fn decoded(stream: Stream, words: &[u64; SAMPLE_WORDS], stands_for: u64, names: &Names) -> Option<Sample> {
    let decision = decision_of(words[sample_word::DECIDED] as u32)?;
    let time = Duration::from_nanos(words[sample_word::TIME]);
    let frame: Vec<u8> = words[HEADER_WORDS..].iter().flat_map(|word| word.to_ne_bytes()).collect();
    let ifindex = words[sample_word::INTERFACE] as u32;
    let entry = std::array::from_fn(|position| words[sample_word::ENTRY_WORDS + position]);
    let entry = prefix::Entry::from_sample(entry).and_then(|entry| {
        Some(SampledEntry { key: Key::from_table(&entry.key)?, created_s: entry.created_s })
    });
    Some(Sample {
        stream,
        sequence: words[sample_word::SEQUENCE],
        number: words[sample_word::NUMBER],
        stands_for,
        time,
        ifindex,
        interface: names.0.get(&ifindex).cloned(),
        queue: (words[sample_word::DECIDED] >> 32) as u32,
        reason: decision.reason,
        verdict: decision.verdict,
        entry,
        length: words[sample_word::LENGTH] as u32,
        frame: Bytes::from(frame).slice(..captured_of(words)),
    })
}
