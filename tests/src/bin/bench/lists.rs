//! Part E: lists, from a file of text to what is enforced, against their own parser alone and against the peers' ways to
//! take a file.

use std::fs::{self, File};
use std::io::{BufReader, BufWriter, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use filter_ctl::lists::format::{Options, read};
use filter_tests::lab::{Host, join};

use crate::Extent;
use crate::lookups::thousands;
use crate::product;
use crate::programs::Set;
use crate::results::{Measure, Point, Results};
use crate::set::Kind;
use crate::{peers, wire};

/// How many times the parser's own time a list may take.
const OF_PARSER: f64 = 3.0;

/// How much faster than `nft -f` and `ipset restore` is asked for.
const OF_NFT: f64 = 5.0;
const OF_IPSET: f64 = 2.0;

/// Entries of the small list, and how many times less than the large one it may take.
const SMALL: u32 = 25_000;
const OF_LARGE: f64 = 10.0;

/// Most memory that a command may take, in MiB.
const MOST_MIB: f64 = 200.0;

/// The first argument of this program that makes it the parser alone.
pub const PARSER: &str = "parser-alone";

/// Reads the list in a file with the product's parser, and writes its prefixes in order to nowhere.
pub fn parser_alone(path: &str) -> Result<()> {
    let mut input = BufReader::with_capacity(1 << 16, File::open(path)?);
    let (_, reading) = read(&mut input, &Options::default())?;
    ensure!(reading.refusals == 0, "{} places are refused", reading.refusals);
    let mut output = BufWriter::with_capacity(1 << 16, File::create("/dev/null")?);
    for (prefix, _) in reading.items.finish().iter() {
        writeln!(output, "{prefix}")?;
    }
    Ok(output.flush()?)
}

/// A file that goes with the bench.
struct Feed(PathBuf);

impl Feed {
    fn of(set: Set) -> Result<Self> {
        let path = std::env::temp_dir().join(format!("filter-bench-{}-{}", std::process::id(), set.size));
        fs::write(&path, set.prefixes().collect::<Vec<_>>().join("\n") + "\n")?;
        Ok(Self(path))
    }

    fn path(&self) -> Result<&str> {
        self.0.to_str().context("the temporary directory's name is not UTF-8")
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// What a command took: seconds, and the most memory of its own and of all that it mapped, in MiB.
struct Taken {
    seconds: f64,
    own_mib: f64,
    all_mib: f64,
}

/// Measures them.
pub fn measure(results: &mut Results, extent: &Extent) {
    let (large, small) = (
        Set { kind: Kind::MixedV4, size: extent.many },
        Set { kind: Kind::MixedV4, size: SMALL.min(extent.many / 4) },
    );
    let name = format!("list add, {} lines", thousands(large.size));
    results.attempt(&name.clone(), |results| {
        let (mut ours, mut few, mut parser) = (vec![], vec![], vec![]);
        let (mut ipset, mut nft, mut own, mut all) = (vec![], vec![], vec![], vec![]);
        let (feed, short) = (Feed::of(large)?, Feed::of(small)?);
        for _ in 0..extent.cycles {
            parser.push(alone(&feed)?);
            let taken = take(large, &feed)?;
            ours.push(taken.seconds);
            own.push(taken.own_mib);
            all.push(taken.all_mib);
            few.push(take(large, &short)?.seconds);
            ipset.push(peer(|host| peers::ipset(host, large))?);
            nft.push(peer(|host| peers::nft(host, large))?);
        }
        let point = |what: String, peer: &str, measure, ours: &[f64], theirs: Vec<f64>, asked| Point {
            part: 'E',
            what,
            peer: peer.to_owned(),
            unit: "s",
            measure,
            ours: ours.to_vec(),
            theirs,
            asked: (extent.many == 1_000_000).then_some(asked),
            aim: None,
        };
        let alone = "its parser alone, text to text";
        results.point(point(
            format!("{name}, whole command"),
            alone,
            Measure::Cost,
            &ours,
            parser,
            OF_PARSER,
        ));
        let what = format!("{name}, whole command");
        results.point(point(what.clone(), "ipset restore", Measure::Speed, &ours, ipset, OF_IPSET));
        results.point(point(what, "nft -f", Measure::Speed, &ours, nft, OF_NFT));
        let what = format!("list add, {} lines in the same tables", thousands(small.size));
        results.point(point(what, &name, Measure::Speed, &few, ours.clone(), OF_LARGE));
        results.figure(
            'E',
            format!("{name}, most memory of its own (asked: under {MOST_MIB} MiB)"),
            "MiB",
            own,
        );
        results.figure('E', format!("{name}, most memory with the kernel's tables that it maps"), "MiB", all);
        Ok(())
    });
}

/// Seconds that the parser alone takes, as a process of its own.
fn alone(feed: &Feed) -> Result<f64> {
    let start = Instant::now();
    let status = Command::new(std::env::current_exe()?).arg(PARSER).arg(&feed.0).status()?;
    ensure!(status.success(), "the parser alone failed");
    Ok(start.elapsed().as_secs_f64())
}

/// Takes a list on a fresh host with room for a set.
fn take(room: Set, feed: &Feed) -> Result<Taken> {
    let (host, other) = (Host::new("filter")?, Host::new("other")?);
    join(&host, "in0", &other, "out0")?;
    product::load(&host, "in0", room)?;
    let mut command =
        host.filter_ctl(&["list", "add", "bench", "--file", feed.path()?, "--max-growth", "1000"]);
    command.stdout(Stdio::null()).stderr(Stdio::piped()).process_group(0);
    let start = Instant::now();
    let mut child = host.spawn(command)?;
    let memory = watch(child.id());
    let output = child.wait()?;
    let seconds = start.elapsed().as_secs_f64();
    ensure!(output.success(), "list add failed");
    let (own_kib, all_kib) = memory;
    Ok(Taken { seconds, own_mib: own_kib as f64 / 1024.0, all_mib: all_kib as f64 / 1024.0 })
}

/// The most memory of a process until it ends, in KiB: of its own, and of all that it maps.
fn watch(pid: u32) -> (u64, u64) {
    let mut most = (0, 0);
    while let Ok(text) = fs::read_to_string(format!("/proc/{pid}/status")) {
        let field = |name: &str| -> u64 {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|line| line.trim_start_matches(':').split_whitespace().next()?.parse().ok())
                .unwrap_or(0)
        };
        if text.contains("State:\tZ") {
            break;
        }
        most = (most.0.max(field("RssAnon")), most.1.max(field("VmHWM")));
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    most
}

/// Seconds that a peer takes on a fresh host.
fn peer(fill: impl FnOnce(&Host) -> Result<std::time::Duration>) -> Result<f64> {
    let (host, other) = (Host::new("filter")?, Host::new("other")?);
    join(&host, wire::INGRESS, &other, "out0")?;
    Ok(fill(&host)?.as_secs_f64())
}
