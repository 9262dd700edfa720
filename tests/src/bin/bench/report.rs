//! Writes down what a run brought: a table to read, all samples as JSON, and a chart.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde_json::json;

use crate::Extent;
use crate::chart;
use crate::machine::Machine;
use crate::results::{Measure, Point, Results, median, spread};

/// Titles of the parts.
const PARTS: [(char, &str); 6] = [
    ('A', "A. What a look-up adds, by test-run"),
    ('B', "B. Frames dropped on one CPU, over veth"),
    ('C', "C. What clean packets cost"),
    ('D', "D. Filling and changing"),
    ('E', "E. Lists"),
    ('F', "F. The flight recorder"),
];

/// Writes all three.
pub fn write(
    results: &Results,
    extent: &Extent,
    machine: &Machine,
    report: &Path,
    directory: &Path,
) -> Result<()> {
    fs::create_dir_all(directory).with_context(|| format!("could not make {}", directory.display()))?;
    let samples = directory.join("bench.json");
    let json = json!({ "schema": 1, "machine": machine, "results": results });
    put(&samples, &format!("{json:#}\n"))?;
    let picture = directory.join("bench.svg");
    put(&picture, &chart::draw(&results.points)?)?;
    put(report, &table(results, extent, machine, &samples, &picture))?;
    eprintln!("wrote {}, {} and {}", report.display(), samples.display(), picture.display());
    Ok(())
}

fn put(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("could not write {}", path.display()))
}

fn table(results: &Results, extent: &Extent, machine: &Machine, samples: &Path, picture: &Path) -> String {
    let mut text = format!(
        "# Benchmarks\n\n\
         Written by `cargo xtask bench`. Every ratio is of two things measured in turn in this one run: the median of \
         {} cycles (commands: {} runs), with the least and the greatest in brackets. [All samples]({}) are kept. \
         How it is measured, and what it can't show, is told at the end.\n\n",
        extent.cycles,
        extent.commands,
        samples.display(),
    );
    if results.quick {
        text += "**A quick run, with fewer prefixes and cycles: it shows that the bench works, and no more.**\n\n";
    }
    let _ = writeln!(text, "![Ratios and what was asked]({})\n", picture.display());
    text += "| machine | |\n|---|---|\n";
    for (what, value) in &machine.facts {
        let _ = writeln!(text, "| {what} | {} |", value.replace('\n', ", ").replace('|', "/"));
    }
    for (part, title) in PARTS {
        part_table(&mut text, results, part, title);
    }
    if !results.failures.is_empty() {
        text += "\n## Not measured\n\n";
        for failure in &results.failures {
            let _ = writeln!(text, "- {}", failure.replace('\n', " "));
        }
    }
    text + METHOD
}

fn part_table(text: &mut String, results: &Results, part: char, title: &str) {
    let points: Vec<&Point> = results.points.iter().filter(|point| point.part == part).collect();
    let figures: Vec<_> = results.figures.iter().filter(|figure| figure.part == part).collect();
    if points.is_empty() && figures.is_empty() {
        return;
    }
    let _ = writeln!(text, "\n## {title}\n");
    if !points.is_empty() {
        *text +=
            "| what | ours | peer | | ratio | asked | aim | reached |\n|---|--:|---|--:|--:|--:|--:|---|\n";
    }
    for point in points {
        let (low, middle, high) = spread(&point.ratios());
        let bound = |bound: Option<f64>| {
            bound.map_or_else(String::new, |bound| match point.measure {
                Measure::Cost => format!("≤ {bound}x"),
                Measure::Speed | Measure::Rate => format!("≥ {bound}x"),
            })
        };
        let reached = match (point.asked, point.aim) {
            (Some(asked), _) if !point.reaches(asked) => "**not reached**",
            (Some(_), Some(aim)) if point.reaches(aim) => "yes, and the aim",
            (Some(_), _) => "yes",
            (None, _) => "reported",
        };
        let _ = writeln!(
            text,
            "| {} | {} {unit} | {} | {} {unit} | {middle:.2}x [{low:.2}–{high:.2}] | {} | {} | {reached} |",
            point.what,
            figure(median(&point.ours)),
            point.peer,
            figure(median(&point.theirs)),
            bound(point.asked),
            bound(point.aim),
            unit = point.unit,
        );
    }
    if figures.is_empty() {
        return;
    }
    *text += "\n| besides | median | least–greatest |\n|---|--:|--:|\n";
    for series in figures {
        let (low, middle, high) = spread(&series.samples);
        let unit = series.unit;
        let _ = writeln!(
            text,
            "| {} | {} {unit} | {}–{} |",
            series.what,
            figure(middle),
            figure(low),
            figure(high)
        );
    }
}

/// A number with as many decimals as mean something.
fn figure(value: f64) -> String {
    match value.abs() {
        100.0.. => format!("{value:.0}"),
        10.0.. => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// What readers must know to judge the figures.
const METHOD: &str = "
## How it is measured

- **Test-runs** (`BPF_PROG_TEST_RUN`) repeat a program some million times on one CPU. It first gives the frame another
  source, computed and not read from memory, then runs the whole filter and counts; what a look-up adds is what the same
  program costs more than without a table. Time is the thread's CPU time, so that others on the machine disturb little.
- **Sets**: of IPv4 prefixes 70 % are /32, a fifth /24, the rest /16 to /31; of IPv6 prefixes 70 % are /128, the rest /64,
  /48 and /32. A hit is in a prefix of the set, each as likely as any other, with random host bits. A miss is anywhere else;
  1.3 % of IPv4 misses are hits by chance, which slows ours more than the trie. The shares are measured and reported.
- **The trie** is the kernel's `LPM_TRIE`, with the id and the deadline of an entry in each value and the same counters. It
  answers for allow and block in one look-up, which is more than a filter with two lists could do with it.
- **Two lines of memory** is a program that reads a random bucket and then counts for an entry that only this bucket
  tells, and compares nothing: what a table beyond the caches can't do without if it names the entry and counts by it.
- **Filling**: the tables' write alone gets the prefixes as values and in no order, as the trie does, by one call a prefix.
  By batches, for which aya has no call, the trie took 3.4 s in place of 4.4 where this was tried, and 1.7 s with keys
  sorted beforehand, which ours does within its time.
- **Over veth** frames are made by an XDP program and sent as live frames, received and handled on one CPU: rates are of
  all of that, and a filter that cost nothing would reach the rate of `XDP_DROP` alone. Each filter's own counters confirm
  that it dropped all of them, or none.
- **xdp-filter** is loaded without libxdp's dispatcher where the kernel refuses that; this flatters it slightly. It holds
  exact addresses only, 10,000 at most.
- **nft** gets the prefixes that no other covers, since its intervals must not overlap; **ipset** gets a table that is large
  enough from the start.
- **Clean packets** over veth are addressed to nobody, so that the stack drops them at once and the filters' share in
  the cost is as large as it can be made.
";
