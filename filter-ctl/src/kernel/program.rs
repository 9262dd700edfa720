//! The programs, loaded with the tables of a set. Attaches nothing.

use std::path::Path;

use anyhow::{Context as _, Result, anyhow};
use aya::programs::{ProgramError, ProgramInfo, Xdp};
use aya::{Ebpf, EbpfLoader, VerifierLogLevel};
use filter_common::abi::{self, DEBUG_PROGRAM, EXPLAIN_PROGRAM, FRAGS_PROGRAM, PROGRAM, TEST_SLOT, global};
use filter_common::prefix::{Geometry, Seeds, Shape};
use rustix::io::Errno;

use super::bpffs::remove_pin;
use super::errno_of;
use super::refusal::missing_capabilities;
use super::set::Set;

/// The BPF object with the program `filter`, built with this program.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/filter-ebpf"));

/// The BPF object with the program `explain`.
static EXPLAIN_OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/filter-explain"));

/// The BPF object with the program `filter_frags`.
static FRAGS_OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/filter-frags"));

/// The BPF object with the program `filter_debug`.
static DEBUG_OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/filter-debug"));

/// What tells this build from others that mean something else by the same words: its version, and its programs.
pub fn build() -> String {
    // FNV-1a: enough to tell builds apart, and the same in all of them.
    let sum = OBJECT
        .iter()
        .chain(EXPLAIN_OBJECT)
        .chain(FRAGS_OBJECT)
        .fold(0xcbf2_9ce4_8422_2325_u64, |sum, byte| (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3));
    format!("{} {} {sum:016x}", env!("CARGO_PKG_VERSION"), abi::ABI_VERSION)
}

/// Lines of the verifier's log that are shown: its last words name the instruction and the rule. The rest of
/// what can be megabytes is only counted.
const VERIFIER_LINES: usize = 12;

/// Makes and pins the maps of `set` and the program that explains, and those maps that all sets share as far as they
/// are missing. The tables' words are all zero.
///
/// # Errors
///
/// If the kernel refuses.
pub fn create_maps(set: &Set, geometry: Geometry, seeds: Seeds, verbose: bool) -> Result<()> {
    let program = Program { set, geometry, shape: geometry.shape(seeds), slot: TEST_SLOT, verbose };
    program.prepare(EXPLAIN_PROGRAM, &set.explain())
}

/// What a program is loaded with.
pub(super) struct Program<'s> {
    /// Its tables.
    pub set: &'s Set,
    /// Their sizes.
    pub geometry: Geometry,
    /// What it must know of them.
    pub shape: Shape,
    /// The interface slot that it counts in.
    pub slot: u32,
    /// Whether to keep all of the verifier's log.
    pub verbose: bool,
}

impl Program<'_> {
    /// Loads the program `name` of an object with the maps of its set; makes those that are missing.
    fn load(&self, object: &[u8], name: &str) -> Result<Ebpf> {
        let mut loader = EbpfLoader::new();
        let Shape { seeds: Seeds(seeds), buckets, bloom_words } = self.shape;
        let ids = self.geometry.ids();
        // No CO-RE relocations in the object, so the kernel's own types need not be parsed. Each object has all maps
        // and globals, which the shell's library brings, whatever its program needs of them.
        loader
            .btf(None)
            .override_global(global::SEEDS, &seeds, true)
            .override_global(global::BUCKETS, &buckets, true)
            .override_global(global::BLOOM_WORDS, &bloom_words, true)
            .override_global(global::INTERFACE_SLOT, &self.slot, true)
            .override_global(global::IDS, &ids, true);
        if self.verbose {
            loader.verifier_log_level(VerifierLogLevel::VERBOSE | VerifierLogLevel::STATS);
        }
        for spec in &abi::MAPS {
            loader.map_pin_path(spec.name, self.set.map(spec));
            loader.map_max_entries(spec.name, spec.capacity.elements(self.geometry));
        }
        let loaded = loader.load(object);
        let mut object =
            loaded.map_err(|error| explained(anyhow!(error).context("could not create the maps")))?;
        xdp(&mut object, name)?.load().map_err(|error| explained(verifier_error(error, self.verbose)))?;
        Ok(object)
    }

    /// Loads the program `name` and pins it, without effect on any interface.
    ///
    /// # Errors
    ///
    /// If the kernel refuses.
    pub fn prepare(&self, name: &str, pin: &Path) -> Result<()> {
        self.load_named(name)?.pin(pin)
    }

    /// Loads the program `name`; that for frames of one page where there is no such program.
    ///
    /// # Errors
    ///
    /// If the kernel refuses.
    pub fn load_named(&self, name: &str) -> Result<LoadedProgram> {
        let (object, name) = match name {
            FRAGS_PROGRAM => (FRAGS_OBJECT, FRAGS_PROGRAM),
            DEBUG_PROGRAM => (DEBUG_OBJECT, DEBUG_PROGRAM),
            EXPLAIN_PROGRAM => (EXPLAIN_OBJECT, EXPLAIN_PROGRAM),
            _ => (OBJECT, PROGRAM),
        };
        Ok(LoadedProgram { object: self.load(object, name)?, name })
    }
}

/// A program that nothing runs yet.
pub(super) struct LoadedProgram {
    object: Ebpf,
    name: &'static str,
}

impl LoadedProgram {
    /// The program.
    ///
    /// # Errors
    ///
    /// If the object was built without it.
    pub fn xdp(&mut self) -> Result<&mut Xdp> {
        xdp(&mut self.object, self.name)
    }

    /// What the kernel says of it.
    ///
    /// # Errors
    ///
    /// If it says nothing.
    pub fn info(&mut self) -> Result<ProgramInfo> {
        self.xdp()?.info().context("could not query the program just loaded")
    }

    /// Pins it, in place of what may be pinned there.
    ///
    /// # Errors
    ///
    /// If the kernel refuses.
    pub fn pin(&mut self, path: &Path) -> Result<()> {
        remove_pin(path)?;
        self.xdp()?.pin(path).with_context(|| format!("could not pin the program {}", path.display()))
    }
}

fn xdp<'o>(object: &'o mut Ebpf, name: &str) -> Result<&'o mut Xdp> {
    let program = object.program_mut(name).with_context(|| format!("the object holds no program {name}"))?;
    program.try_into().with_context(|| format!("{name} is no XDP program"))
}

/// The end of the verifier's log in place of all of it.
fn verifier_error(error: ProgramError, verbose: bool) -> anyhow::Error {
    let ProgramError::LoadError { io_error, verifier_log } = error else {
        return anyhow::Error::new(error).context("the kernel refused the program");
    };
    let log = verifier_log.to_string();
    let lines: Vec<_> = log.lines().filter(|line| !line.trim().is_empty()).collect();
    let shown = if verbose { lines.len() } else { VERIFIER_LINES.min(lines.len()) };
    let omitted = lines.len() - shown;
    let tail = lines[omitted..].join("\n");
    let hint = if omitted > 0 {
        format!("\n({omitted} lines before these; all with --verbose)")
    } else {
        String::new()
    };
    anyhow!(io_error).context(format!("the kernel's verifier refused the program:\n{tail}{hint}"))
}

/// Names the missing capabilities where the kernel refused for want of one.
fn explained(error: anyhow::Error) -> anyhow::Error {
    let denied =
        matches!(errno_of(error.as_ref()).map(Errno::from_raw_os_error), Some(Errno::PERM | Errno::ACCESS));
    match effective_capabilities().map(missing_capabilities) {
        Some(missing) if denied && !missing.is_empty() => {
            error.context(format!("this process lacks {}; run it as root or grant these", missing.join(", ")))
        }
        _ => error,
    }
}

pub(super) fn effective_capabilities() -> Option<u64> {
    Some(procfs::process::Process::myself().ok()?.status().ok()?.capeff)
}
