//! `verify`: what the BPF object costs each kernel's verifier, against the committed budget. Loading is left to
//! bpftool, which prints the verifier's own words; nothing is attached, and nothing stays loaded.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::command::{Run, cargo_messages};
use crate::guest::Guest;
use crate::kernels::{Kernels, file_name, numbers};
use crate::setup::{self, Scope};
use crate::vm;

const BUDGET_FILE: &str = "xtask/budget.txt";
/// The name of the kernel that this machine runs, on the command line.
const RUNNING: &str = "running";
/// No budget may be above: a quarter of the million that kernels since 5.2 process before they refuse, so that
/// a kernel whose verifier prunes less still has room.
const INSTRUCTION_CEILING: u32 = 250_000;
/// Bytes of stack of all functions together. No chain of calls has all of them: the kernel itself refuses one that uses more
/// than 512, and this keeps the sum of the two longest within reach.
const STACK_CEILING: u32 = 768;
/// `--update` allows this much over what was measured: compilers and stable kernels differ by a few percent,
/// while a lost bound on a loop costs a multiple.
const MARGIN_PERCENT: u32 = 25;
/// `--update` allows this many bytes of stack over what was measured: four spilled registers.
const STACK_MARGIN: u32 = 32;

/// The objects that filter-ctl embeds, but for that which logs, and the first kernel that takes each.
const OBJECTS: [(&str, [u32; 2]); 3] =
    [("filter-ebpf", [5, 10]), ("filter-explain", [5, 10]), ("filter-frags", [5, 18])];

/// Loads the objects at `$@` and prints the lines that count; if one is refused, the end of the verifier's log. The
/// whole log is megabytes, too much for a serial line. For a bpffs at /sys/fs/bpf.
const SCRIPT: &str = r#"
for object
do
    if log=$(bpftool -d prog loadall "$object" "/sys/fs/bpf/${object##*/}" 2>&1)
    then echo "$log" | grep -E "BEGIN PROG LOAD LOG|^stack depth|^processed"
    else echo "$log" | tail -n 60; exit 1
    fi
done
"#;

/// `cargo xtask verify`
#[derive(clap::Args)]
pub struct Args {
    /// `running`, or series of Debian's kernels, as 6.12
    #[arg(default_values = [RUNNING].into_iter().chain(vm::KERNELS))]
    kernels: Vec<String>,
    /// Write what was measured, and a margin, into the budget
    #[arg(long)]
    update: bool,
}

impl Args {
    /// The running kernel and those of `vm`, against the budget.
    pub fn all() -> Self {
        let kernels = [RUNNING].into_iter().chain(vm::KERNELS).map(str::to_owned).collect();
        Self { kernels, update: false }
    }
}

/// Measures, prints, and compares or updates.
pub fn run(args: &Args) -> Result<()> {
    setup::ensure_ready(Scope::Vm)?;
    let directory = object_directory()?;
    let mut measured = Vec::new();
    for kernel in &args.kernels {
        let is_running = kernel == RUNNING;
        let kernel = if is_running { running_series()? } else { kernel.clone() };
        let fits = |first: [u32; 2]| numbers(&kernel) >= first.to_vec();
        let objects = OBJECTS.iter().filter(|(_, first)| fits(*first)).map(|(name, _)| directory.join(name));
        let objects: Vec<PathBuf> = objects.collect();
        let log = if is_running { on_running_kernel(&objects)? } else { in_guest(&kernel, &objects)? };
        let costs = parse_log(&kernel, &log);
        ensure!(!costs.is_empty(), "kernel {kernel}: bpftool printed no count; it wrote:\n{log}");
        for cost in &costs {
            println!(
                "kernel {kernel}, program {}: {} instructions processed, {} bytes of stack",
                cost.program, cost.instructions, cost.stack
            );
        }
        measured.extend(costs);
    }
    let text = fs::read_to_string(BUDGET_FILE).unwrap_or_default();
    let budget = parse_budget(&text).with_context(|| format!("{BUDGET_FILE} can't be read"))?;
    if args.update {
        let updated = updated(budget, &measured)?;
        fs::write(BUDGET_FILE, render_budget(&updated))
            .with_context(|| format!("cannot write {BUDGET_FILE}"))?;
        eprintln!("{BUDGET_FILE} is updated: commit it, with the reason for the change");
        return Ok(());
    }
    let mut excesses = Vec::new();
    for cost in &measured {
        match budget_for(&budget, cost) {
            Some(allowed) => excesses.extend(excess(cost, allowed)),
            None => excesses.push(format!("kernel {}, program {}: no budget", cost.kernel, cost.program)),
        }
    }
    if excesses.is_empty() {
        println!("all within {BUDGET_FILE}");
        return Ok(());
    }
    bail!(
        "over budget:\n  {}\n  next: make it cheaper, or `cargo xtask verify --update` and say why in the commit",
        excesses.join("\n  "),
    )
}

/// What a program costs on a kernel, or may cost.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Cost {
    /// The series, as "6.1".
    kernel: String,
    program: String,
    /// Instructions that the verifier processed.
    instructions: u32,
    /// Bytes of stack, summed over the program's functions.
    stack: u32,
}

impl fmt::Display for Cost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:6} {:14} {:12} {:5}", self.kernel, self.program, self.instructions, self.stack)
    }
}

/// The directory of [`OBJECTS`]: the output of filter-ctl's build script.
fn object_directory() -> Result<PathBuf> {
    let messages = cargo_messages(&["build", "--package", "filter-ctl"])?;
    let is_ours = |message: &&Value| {
        message["reason"] == "build-script-executed"
            && message["package_id"].as_str().is_some_and(|id| id.contains("filter-ctl"))
    };
    let directory = messages.iter().find(is_ours).and_then(|message| message["out_dir"].as_str());
    Ok(PathBuf::from(directory.context("cargo named no output of filter-ctl's build script")?))
}

/// The series of the running kernel: `6.18` of `6.18.44-cloud`.
fn running_series() -> Result<String> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    Ok(release.split('.').take(2).collect::<Vec<_>>().join("."))
}

/// Loads the objects here, into a bpffs of a mount namespace that ends with the command.
fn on_running_kernel(objects: &[PathBuf]) -> Result<String> {
    let script = format!("mount -t bpf bpf /sys/fs/bpf || exit 1\n{SCRIPT}");
    let mut load = Run::as_root("unshare").args(["--mount", "sh", "-c", &script, "sh"]).args(objects);
    let output = load.command().stderr(Stdio::inherit()).output()?;
    let log = String::from_utf8_lossy(&output.stdout).into_owned();
    if log.is_empty() {
        load.check(output.status)?; // bpftool was not reached
    }
    ensure!(output.status.success(), "{}", refused("running", &log));
    Ok(log)
}

fn in_guest(series: &str, objects: &[PathBuf]) -> Result<String> {
    let kernels = Kernels::open()?;
    let (busybox, kernel) = (kernels.busybox()?, kernels.kernel(series)?);
    let names: Vec<String> = objects.iter().map(|object| format!("/{}", file_name(object))).collect();
    let script = format!("set -- {}\n{SCRIPT}", names.join(" "));
    let files: Vec<(&Path, &str)> =
        objects.iter().zip(&names).map(|(object, name)| (object.as_path(), name.as_str())).collect();
    let guest = Guest { kernel: &kernel, busybox: &busybox, files: &files, script: &script };
    let mut log = String::new();
    let code = guest.run(&mut |line| {
        log += line;
        log += "\n";
    })?;
    ensure!(code == 0, "{}", refused(series, &log));
    Ok(log)
}

fn refused(kernel: &str, log: &str) -> String {
    format!("kernel {kernel} refused the BPF object; the end of what bpftool and the verifier wrote:\n{log}")
}

/// The costs in bpftool's output: for each program, its name in the line `libbpf: prog 'NAME': -- BEGIN PROG
/// LOAD LOG --`, then `stack depth A+B…` with a part for each function, then `processed N insns …`.
fn parse_log(kernel: &str, log: &str) -> Vec<Cost> {
    let mut costs = Vec::new();
    let (mut program, mut stack) = ("", 0);
    for line in log.lines() {
        if let Some(rest) = line.strip_prefix("libbpf: prog '") {
            program = rest.split('\'').next().unwrap_or_default();
        } else if let Some(parts) = line.strip_prefix("stack depth ") {
            stack = parts.split('+').filter_map(|part| part.trim().parse::<u32>().ok()).sum();
        } else if let Some(rest) = line.strip_prefix("processed ")
            && let Some(Ok(instructions)) = rest.split(' ').next().map(str::parse)
        {
            costs.push(Cost { kernel: kernel.to_owned(), program: program.to_owned(), instructions, stack });
        }
    }
    costs
}

/// The budget's lines: kernel, program, instructions, bytes of stack; `#` starts a comment.
fn parse_budget(text: &str) -> Result<Vec<Cost>> {
    let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default());
    let rows = lines.map(|line| line.split_whitespace().collect::<Vec<_>>()).filter(|row| !row.is_empty());
    rows.map(|row| {
        let [kernel, program, instructions, stack] = row[..] else {
            bail!("four fields were expected: {row:?}")
        };
        Ok(Cost {
            kernel: kernel.to_owned(),
            program: program.to_owned(),
            instructions: instructions.parse().with_context(|| format!("{instructions} is no number"))?,
            stack: stack.parse().with_context(|| format!("{stack} is no number"))?,
        })
    })
    .collect()
}

fn render_budget(budget: &[Cost]) -> String {
    let mut text = format!(
        "# What each program may cost the verifier. Written by `cargo xtask verify --update`: as measured, plus\n\
         # {MARGIN_PERCENT} % of the instructions and {STACK_MARGIN} bytes of stack. Never above {INSTRUCTION_CEILING} and {STACK_CEILING}. A kernel that is\n\
         # not listed may use the most that one listed may.\n\
         # kernel program instructions stack\n"
    );
    for cost in budget {
        text += &format!("{cost}\n");
    }
    text
}

/// The budget of `cost`'s program on its kernel, or else the largest of that program.
fn budget_for<'a>(budget: &'a [Cost], cost: &Cost) -> Option<&'a Cost> {
    let of_program = || budget.iter().filter(|allowed| allowed.program == cost.program);
    of_program()
        .find(|allowed| allowed.kernel == cost.kernel)
        .or_else(|| of_program().max_by_key(|allowed| allowed.instructions))
}

/// What `cost` has over `allowed`, in words.
fn excess(cost: &Cost, allowed: &Cost) -> Vec<String> {
    let mut words = Vec::new();
    let rows = [
        ("instructions processed", cost.instructions, allowed.instructions.min(INSTRUCTION_CEILING)),
        ("bytes of stack", cost.stack, allowed.stack.min(STACK_CEILING)),
    ];
    for (what, is, may) in rows {
        if is > may {
            words
                .push(format!("kernel {}, program {}: {is} {what}, budget {may}", cost.kernel, cost.program));
        }
    }
    words
}

/// `budget` with what was `measured` and the margin; kernels that were not measured stay as they are.
fn updated(mut budget: Vec<Cost>, measured: &[Cost]) -> Result<Vec<Cost>> {
    for cost in measured {
        ensure!(
            cost.instructions <= INSTRUCTION_CEILING && cost.stack <= STACK_CEILING,
            "kernel {}, program {}: {} instructions and {} bytes of stack; no budget goes above \
             {INSTRUCTION_CEILING} and {STACK_CEILING}",
            cost.kernel,
            cost.program,
            cost.instructions,
            cost.stack,
        );
        budget.retain(|old| (&old.kernel, &old.program) != (&cost.kernel, &cost.program));
        budget.push(Cost {
            instructions: (cost.instructions + cost.instructions * MARGIN_PERCENT / 100)
                .min(INSTRUCTION_CEILING),
            stack: (cost.stack + STACK_MARGIN).min(STACK_CEILING),
            ..cost.clone()
        });
    }
    // By number: 5.10, 6.1, 6.12.
    let key = |cost: &Cost| (numbers(&cost.kernel), cost.program.clone());
    budget.sort_by_key(key);
    Ok(budget)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cost(kernel: &str, instructions: u32, stack: u32) -> Cost {
        Cost { kernel: kernel.to_owned(), program: "filter".to_owned(), instructions, stack }
    }

    #[test]
    fn log_yields_each_program() {
        let log = "libbpf: prog 'filter': -- BEGIN PROG LOAD LOG --\nstack depth 104+16\n\
                   processed 7407 insns (limit 1000000) max_states_per_insn 11\n\
                   libbpf: prog 'explain': -- BEGIN PROG LOAD LOG --\nstack depth 96\nprocessed 12 insns (limit 1)\n";
        let explain = Cost { program: "explain".to_owned(), ..cost("6.1", 12, 96) };
        assert_eq!(parse_log("6.1", log), [cost("6.1", 7407, 120), explain]);
        assert!(parse_log("6.1", "libbpf: failed to load object\n").is_empty());
    }

    #[test]
    fn budget_is_read_as_it_was_written() {
        let budget = vec![cost("5.10", 9000, 128), cost("6.1", 8000, 144)];
        assert_eq!(parse_budget(&render_budget(&budget)).unwrap(), budget);
        assert!(parse_budget("5.10 filter 9000\n").is_err());
        assert!(parse_budget("5.10 filter many 12\n").is_err());
    }

    #[test]
    fn excess_names_what_is_over() {
        let allowed = cost("6.1", 100, 64);
        assert!(excess(&cost("6.1", 100, 64), &allowed).is_empty());
        assert_eq!(
            excess(&cost("6.1", 101, 64), &allowed),
            ["kernel 6.1, program filter: 101 instructions processed, budget 100"]
        );
        assert_eq!(excess(&cost("6.1", 101, 65), &allowed).len(), 2);
    }

    #[test]
    fn no_budget_is_above_the_ceilings() {
        let generous = cost("6.1", 1_000_000, 4096);
        assert_eq!(excess(&cost("6.1", INSTRUCTION_CEILING + 1, STACK_CEILING + 1), &generous).len(), 2);
        assert!(updated(Vec::new(), &[cost("6.1", INSTRUCTION_CEILING + 1, 0)]).is_err());
    }

    #[test]
    fn an_unlisted_kernel_may_use_the_most_of_any() {
        let budget = [cost("5.10", 100, 64), cost("6.1", 300, 64), cost("6.12", 200, 64)];
        assert_eq!(budget_for(&budget, &cost("5.10", 1, 1)), Some(&budget[0]));
        assert_eq!(budget_for(&budget, &cost("7.3", 1, 1)), Some(&budget[1]));
        assert_eq!(budget_for(&[], &cost("7.3", 1, 1)), None);
    }

    #[test]
    fn update_keeps_what_was_not_measured() {
        let budget = updated(vec![cost("6.12", 5, 5), cost("6.1", 5, 5)], &[cost("6.1", 100, 64)]).unwrap();
        assert_eq!(budget, [cost("6.1", 125, 96), cost("6.12", 5, 5)]);
    }
}
