//! The bench's BPF programs: loading them for a set and a draw, the frames they get, and what a run costs.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use aya::programs::{ProgramError, TestRun as _, TestRunAttrs, TestRunOptions, Xdp};
use aya::{Ebpf, EbpfLoader};
use nix::time::{ClockId, clock_gettime};

use crate::set::{Draw, Kind, prefix_v4, prefix_v6};

/// The filter with the kernel's trie, and the same without.
pub static TRIE: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/bench-trie"));
pub static TRIE_FLOOR: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/bench-trie-floor"));
/// The filter with its own tables, and the same without.
pub static FLAT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/bench-flat"));
pub static FLAT_FLOOR: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/bench-flat-floor"));
/// The filter with two dependent lines of its tables' memory in place of a look-up.
pub static TWO_LINES: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/bench-two-lines"));
/// The filter without the flight recorder.
pub static UNRECORDED: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/bench-unrecorded"));
/// The sender, and programs that do nothing.
pub static SEND: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/bench-send"));

/// Where the template's frames go (RFC 5737, RFC 3849).
const TARGET_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const TARGET_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);

/// Length of the shortest Ethernet frame without its check sequence.
const SHORTEST_FRAME: usize = 60;

/// Frames that are flushed to the peer at a time: see `filter_tests::flood`.
const BATCH: u32 = 64;

/// Prefixes: which, and how many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Set {
    pub kind: Kind,
    pub size: u32,
}

impl Set {
    /// All its prefixes, as text.
    pub fn prefixes(self) -> impl Iterator<Item = String> {
        (0..self.size).map(move |index| prefix_text(self.kind, index))
    }
}

fn prefix_text(kind: Kind, index: u32) -> String {
    if kind.is_v4() {
        let prefix = prefix_v4(kind, index);
        return format!("{}/{}", Ipv4Addr::from_bits(prefix.address), prefix.length);
    }
    let prefix = prefix_v6(kind, index);
    let address = u128::from(prefix.high) << 64 | u128::from(prefix.low);
    format!("{}/{}", Ipv6Addr::from_bits(address), prefix.length)
}

/// Where a map lies, or how large it is made.
pub enum MapChoice {
    Pinned(&'static str, PathBuf),
    Elements(&'static str, u32),
}

/// What an object is loaded with besides.
#[derive(Default)]
pub struct Environment {
    /// Its maps; of names that it has not, nothing is looked at.
    pub maps: Vec<MapChoice>,
    /// Its read-only globals, as bytes.
    pub globals: Vec<(&'static str, Vec<u8>)>,
}

/// Loads the object for sources drawn so from a set, and its programs of these names.
pub fn load(
    object: &[u8],
    programs: &[&str],
    set: Set,
    draw: Draw,
    environment: &Environment,
) -> Result<Ebpf> {
    let (kind, draw) = (set.kind as u32, draw as u32);
    let header_sum = header_sum(&frame(set.kind, [0; 6], [0; 6]));
    let mut loader = EbpfLoader::new();
    // No CO-RE relocations in the object, so the kernel's own types need not be parsed.
    loader
        .btf(None)
        .override_global("KIND", &kind, true)
        .override_global("SIZE", &set.size, true)
        .override_global("DRAW", &draw, true)
        .override_global("HEADER_SUM", &header_sum, true);
    for (name, bytes) in &environment.globals {
        loader.override_global(name, bytes.as_slice(), true);
    }
    for choice in &environment.maps {
        match choice {
            MapChoice::Pinned(name, path) => loader.map_pin_path(name, path.as_path()),
            MapChoice::Elements(name, elements) => loader.map_max_entries(name, *elements),
        };
    }
    let mut object = loader.load(object)?;
    for name in programs {
        let program: &mut Xdp = object.program_mut(name).with_context(|| name.to_string())?.try_into()?;
        program.load()?;
    }
    Ok(object)
}

/// The program of this name.
pub fn program<'o>(object: &'o Ebpf, name: &str) -> Result<&'o Xdp> {
    Ok(object.program(name).with_context(|| format!("no program {name}"))?.try_into()?)
}

/// Seconds of CPU time that this thread has used. Other processes on the same CPU don't count.
pub fn cpu_time_s() -> Result<f64> {
    let time = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?;
    Ok(time.tv_sec() as f64 + time.tv_nsec() as f64 * 1e-9)
}

/// Runs the program so often on the frame, and returns the CPU time of one run, in nanoseconds. The kernel's own
/// figure has no fractions.
pub fn cost_ns(program: &Xdp, frame: &[u8], repeat: u32) -> Result<f64> {
    let start = cpu_time_s()?;
    program.test_run(TestRunOptions { data_in: Some(frame), repeat, ..TestRunOptions::default() })?;
    Ok((cpu_time_s()? - start) * 1e9 / f64::from(repeat))
}

/// Has the program send so many frames.
pub fn send(program: &Xdp, frame: &[u8], count: u32) -> Result<()> {
    let options = TestRunOptions {
        data_in: Some(frame),
        repeat: count,
        attrs: TestRunAttrs::new().xdp_live_frames(BATCH),
        ..TestRunOptions::default()
    };
    match program.test_run(options) {
        Ok(_) => Ok(()),
        Err(ProgramError::SyscallError(error))
            if error.io_error.kind() == std::io::ErrorKind::Interrupted =>
        {
            Ok(())
        }
        Err(error) => Err(error).context("the kernel does not send live frames (it needs Linux 5.18)"),
    }
}

/// The template: an empty UDP datagram. Its source is the programs' matter, and so is the checksum of IPv4's header;
/// UDP's is not used over IPv4, and over IPv6 nobody here gets as far as to look at it.
pub fn frame(kind: Kind, destination: [u8; 6], source: [u8; 6]) -> Vec<u8> {
    let udp = [0x30, 0x39, 0x00, 0x35, 0, 8, 0, 0];
    let mut frame = [destination, source].concat();
    if kind.is_v4() {
        frame.extend([0x08, 0x00, 0x45, 0, 0, 28, 0, 0, 0x40, 0, 64, 17, 0, 0, 0, 0, 0, 0]);
        frame.extend(TARGET_V4.octets());
    } else {
        frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 8, 17, 64]);
        frame.extend([0; 16]);
        frame.extend(TARGET_V6.octets());
    }
    frame.extend(udp);
    frame.resize(frame.len().max(SHORTEST_FRAME), 0);
    frame
}

/// Sum of the words of the IPv4 header of a template.
fn header_sum(frame: &[u8]) -> u32 {
    frame[14..34].chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::set::{source_v4, source_v6};

    #[test]
    fn prefixes_are_distinct_and_without_host_bits() {
        let size = 1 << 20;
        let v4: BTreeSet<_> = (0..size).map(|index| prefix_v4(Kind::MixedV4, index)).collect();
        assert_eq!(v4.len(), size as usize);
        assert!(v4.iter().all(|p| u64::from(p.address) & ((1 << (32 - p.length)) - 1) == 0));
        for (kind, lengths) in [(Kind::FourV6, 4), (Kind::ManyV6, 32), (Kind::AllV6, 129)] {
            let set: BTreeSet<_> = (0..size).map(|index| prefix_v6(kind, index)).collect();
            assert_eq!(set.len(), size as usize, "{kind:?}");
            assert_eq!(set.iter().map(|prefix| prefix.length).collect::<BTreeSet<_>>().len(), lengths);
            let host = |p: &crate::set::V6| {
                (u128::from(p.high) << 64 | u128::from(p.low)).checked_shl(p.length).unwrap_or_default()
            };
            assert!(set.iter().all(|prefix| host(prefix) == 0), "{kind:?}");
        }
    }

    #[test]
    fn members_hit_and_others_miss() {
        let size = 100_000;
        let v4: BTreeSet<_> = (0..size).map(|index| prefix_v4(Kind::MixedV4, index)).collect();
        let covered = |source: u32| {
            (16..=32).any(|length| {
                let address = source & u32::MAX.checked_shl(32 - length).unwrap_or_default();
                v4.contains(&crate::set::V4 { address, length })
            })
        };
        let share = |draw| {
            let hits = (1..=10_000)
                .filter(|n| covered(source_v4(Kind::MixedV4, size, draw, crate::set::scrambled(*n))));
            hits.count()
        };
        assert_eq!(share(Draw::Member), 10_000);
        assert!(share(Draw::Other) < 50, "{}", share(Draw::Other));
        assert!(share(Draw::Neighbour) < 300, "{}", share(Draw::Neighbour));
        let v6: BTreeSet<_> = (0..size).map(|index| prefix_v6(Kind::FourV6, index)).collect();
        let covered = |(high, low): (u64, u64)| {
            [32, 48, 64, 128].into_iter().any(|length: u32| {
                let low = if length == 128 { low } else { 0 };
                let high = if length < 64 { high >> (64 - length) << (64 - length) } else { high };
                v6.contains(&crate::set::V6 { high, low, length })
            })
        };
        let share = |draw| {
            let source = |n| source_v6(Kind::FourV6, size, draw, crate::set::scrambled(n));
            (1..=10_000).filter(|n| covered(source(*n))).count()
        };
        assert_eq!(share(Draw::Member), 10_000);
        assert!(share(Draw::Other) < 20 && share(Draw::Neighbour) < 20);
    }
}
