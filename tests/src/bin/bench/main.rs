//! The bench, `cargo xtask bench`: what the filter costs, as ratios to peers that are measured in the same run. It
//! states what was measured and judges nothing: a point that is not reached is printed as such.

mod chart;
mod clean;
mod commands;
mod drops;
mod filling;
mod lists;
mod lookups;
mod machine;
mod peers;
mod product;
mod programs;
mod recorder;
mod report;
mod results;
#[path = "../../../bench-ebpf/src/set.rs"]
mod set;
mod wire;

use std::path::PathBuf;

use anyhow::{Result, ensure};
use clap::Parser;
use nix::sched::{CpuSet, sched_getaffinity};
use nix::unistd::Pid;

use crate::machine::Machine;
use crate::results::Results;

/// Measure the filter against peers.
#[derive(Parser)]
#[command(name = "cargo xtask bench")]
struct Args {
    /// 100,000 prefixes in place of a million, and fewer cycles: to see whether all works
    #[arg(long)]
    quick: bool,
    /// Only these parts: A look-ups, B drop rates, C clean packets, D changes, E lists, F the recorder
    #[arg(long, value_delimiter = ',', value_name = "PART", ignore_case = true)]
    only: Vec<Part>,
    /// Where the table goes
    #[arg(long, value_name = "FILE", default_value = "BENCHMARKS.md")]
    report: PathBuf,
    /// Where the samples and the chart go
    #[arg(long, value_name = "DIR", default_value = "tests/bench-results")]
    results: PathBuf,
}

/// A part of the bench.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Part {
    /// Look-ups.
    A,
    /// Drop rates.
    B,
    /// Clean packets.
    C,
    /// Filling and commands.
    D,
    /// Lists.
    E,
    /// The recorder.
    F,
}

/// Measures a part.
type Work = fn(&mut Results, &Extent);

/// How much is measured.
#[derive(Clone, Copy, Debug)]
pub struct Extent {
    /// Prefixes in the largest sets.
    pub many: u32,
    /// Times that everything is measured, in turn.
    pub cycles: usize,
    /// Seconds that one test-run takes, about.
    pub test_run_s: f64,
    /// Seconds that frames are sent at a time, about.
    pub flood_s: f64,
    /// Runs of each command.
    pub commands: usize,
    /// The CPU on which all is measured.
    pub cpu: usize,
}

impl Extent {
    fn new(quick: bool) -> Result<Self> {
        let allowed = sched_getaffinity(Pid::from_raw(0))?;
        // The last: interrupts of devices mostly go to the first.
        let cpu = (0..CpuSet::count()).rfind(|cpu| allowed.is_set(*cpu).unwrap_or(false));
        let cpu = cpu.unwrap_or_default();
        Ok(if quick {
            Self { many: 100_000, cycles: 3, test_run_s: 0.1, flood_s: 0.5, commands: 20, cpu }
        } else {
            Self { many: 1_000_000, cycles: 7, test_run_s: 0.4, flood_s: 1.0, commands: 100, cpu }
        })
    }
}

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    if arguments.next().as_deref() == Some(lists::PARSER) {
        return lists::parser_alone(&arguments.next().unwrap_or_default());
    }
    let args = Args::parse();
    ensure!(
        std::env::var_os("FILTER_CTL").is_some(),
        "it is run by `cargo xtask bench`, which builds filter-ctl first"
    );
    let extent = Extent::new(args.quick)?;
    let mut results = Results::new(args.quick);
    // At the start: sources may change while the bench runs.
    let machine = Machine::this();
    let wanted = |part| args.only.is_empty() || args.only.contains(&part);
    let parts: [(Part, Work); 6] = [
        (Part::A, lookups::measure),
        (Part::B, drops::measure),
        (Part::C, clean::measure),
        (Part::D, |results, extent| {
            filling::measure(results, extent);
            commands::measure(results, extent);
        }),
        (Part::E, lists::measure),
        (Part::F, recorder::measure),
    ];
    for (part, measure) in parts {
        if wanted(part) {
            measure(&mut results, &extent);
            // What is measured is not lost if a later part is interrupted.
            report::write(&results, &extent, &machine, &args.report, &args.results)?;
        }
    }
    Ok(())
}
