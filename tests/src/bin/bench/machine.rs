//! What machine this is, as far as it explains figures.

use std::fs;
use std::process::Command;

use serde::Serialize;

/// The machine and the programs.
#[derive(Debug, Serialize)]
pub struct Machine {
    /// What, and its value, in the order to show them.
    pub facts: Vec<(String, String)>,
}

impl Machine {
    /// This one.
    pub fn this() -> Self {
        let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let cores = std::thread::available_parallelism().map_or(0, usize::from);
        let kernel = read("/proc/sys/kernel/osrelease");
        let facts = [
            ("date", output("date", &["--utc", "--iso-8601=minutes"])),
            ("commit", output("git", &["describe", "--always", "--dirty"])),
            ("CPU", field(&cpu, "model name")),
            ("cores in use", cores.to_string()),
            ("caches", caches()),
            ("memory", field(&memory, "MemTotal")),
            // What follows the first dash names a vendor's build.
            ("kernel", kernel.split('-').next().unwrap_or_default().to_owned()),
            ("JIT", if read("/proc/sys/net/core/bpf_jit_enable") == "0" { "off" } else { "on" }.to_owned()),
            ("virtual", if cpu.contains(" hypervisor ") { "yes" } else { "no" }.to_owned()),
            ("xdp-filter", first_line("xdp-filter", &["status", "--version"])),
            ("ipset", first_line("ipset", &["--version"])),
            ("iptables", first_line("iptables", &["--version"])),
            ("nft", first_line("nft", &["--version"])),
        ];
        Self { facts: facts.map(|(what, value)| (what.to_owned(), value)).to_vec() }
    }
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

/// The value of the first line `NAME : VALUE`.
fn field(text: &str, name: &str) -> String {
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.trim_start().strip_prefix(':'));
    value.unwrap_or("unknown").trim().to_owned()
}

/// Those of the first CPU.
fn caches() -> String {
    let one = |index: u32| {
        let fact = |name| read(&format!("/sys/devices/system/cpu/cpu0/cache/index{index}/{name}"));
        let (level, kind, size) = (fact("level"), fact("type"), fact("size"));
        (!size.is_empty()).then(|| match kind.as_str() {
            "Data" => format!("L{level}d {size}"),
            "Instruction" => format!("L{level}i {size}"),
            _ => format!("L{level} {size}"),
        })
    };
    (0..8).map_while(one).collect::<Vec<_>>().join(", ")
}

fn first_line(program: &str, arguments: &[&str]) -> String {
    output(program, arguments).lines().next().unwrap_or_default().to_owned()
}

/// What a program prints, or that it can't be run: then the part that needs it says why.
fn output(program: &str, arguments: &[&str]) -> String {
    match Command::new(program).args(arguments).output() {
        Ok(output) => String::from_utf8_lossy(&output.stdout).trim().to_owned(),
        Err(error) => error.to_string(),
    }
}
