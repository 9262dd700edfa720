//! Reads the flight recorder's rings, while programs write them. Needs no lock: nothing here changes anything, but for
//! until when frames that pass are recorded.

use std::collections::HashMap;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::time::Duration;

use super::interface::slot_name;
use super::mapped::MappedArray;
use super::maps::{Maps, possible_cpus};
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

/// The recorder of the loaded filter.
pub struct Recorder {
    maps: Maps,
    recording: MappedArray,
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
        let rings = (possible_cpus()? * RINGS_A_CPU) as usize;
        let array = |spec, words| MappedArray::open(&pins.map(spec), spec.name, words);
        Ok(Self {
            maps,
            recording: array(&RECORDING, 1)?,
            rings: array(&RINGS, rings * RING_WORDS)?,
            samples: array(&SAMPLES, rings * SLOTS as usize * SAMPLE_WORDS)?,
        })
    }

    /// Until when frames that pass are recorded, in seconds of CLOCK_MONOTONIC; zero if they are not.
    pub fn recording_passed(&self) -> u64 {
        self.recording.words().first().map_or(0, |word| word.load(Acquire))
    }

    /// Sets until when frames that pass are recorded; zero for not at all. It ends by itself, whoever is still there.
    pub fn record_passed(&self, until_s: u64) {
        if let Some(word) = self.recording.words().first() {
            word.store(until_s, Release);
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
        let names = Names::new(&self.maps.interfaces()?);
        // The word is not taken back when its time is over, and until then frames that pass were only counted.
        let has_passed = self.recording_passed() > monotonic_now().as_secs();
        let rings = self.rings.words().chunks_exact(RING_WORDS);
        cursor.0.resize(rings.len(), Read::default());
        let mut reading = Reading { began: monotonic_now(), ..Reading::default() };
        for (index, (ring, read)) in rings.zip(&mut cursor.0).enumerate() {
            let stream = stream_of(index);
            // Acquire, and first: the samples that it counts are there, as far as the processor keeps stores in order; where
            // it does not, the digest tells.
            let taken = ring[ring_word::TAKEN].load(Acquire);
            let seen = ring[ring_word::SEEN].load(Relaxed);
            if seen == 0 || !is_read(stream.ring) {
                continue;
            }
            if has_passed || stream.reason().is_none_or(|reason| reason.verdict() == Verdict::Drop) {
                reading.heads.push(Head { stream, seen, taken });
            }
            if taken > read.sequence {
                self.read_ring(index, stream, taken, read, &names, &mut reading);
            }
        }
        reading.samples.sort_by_key(|sample| (sample.time, sample.stream, sample.sequence));
        reading.ended = monotonic_now();
        Ok(reading)
    }

    /// Reads the samples of a ring up to the one that is its `taken`th.
    fn read_ring(
        &self,
        index: usize,
        stream: Stream,
        taken: u64,
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
