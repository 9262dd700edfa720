//! The peers, from Debian's packages: made to drop what comes from a set, on a host of the lab. And who says how many
//! frames each has dropped.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use aya::maps::{Map, MapData, PerCpuHashMap};
use filter_tests::lab::Host;

use crate::programs::Set;
use crate::set::{Kind, V4, prefix_v4};
use crate::wire::{INGRESS, Wire};

/// The most addresses that xdp-filter holds.
pub const XDP_FILTER_MOST: u32 = 10_000;

/// Where xdp-filter pins its addresses.
const XDP_FILTER_MAP: &str = "/sys/fs/bpf/xdp-filter/filter_ipv4";

/// Where it pins its program, in the build with all features that passes what nothing matches.
pub const XDP_FILTER_PROGRAM: &str = "/sys/fs/bpf/xdp-filter/programs/in0/xdpfilt_alw_all";

/// The addresses that xdp-filter drops.
pub const XDP_FILTER_SET: Set = Set { kind: Kind::ExactV4, size: XDP_FILTER_MOST };

/// Loads xdp-filter with all its features, and its most addresses. It takes them one a process, so all but the first
/// are written into its map as it has written that one.
pub fn xdp_filter(host: &Host) -> Result<()> {
    host.sh("xdp-filter", ["load", INGRESS, "--features", "all", "--policy", "allow", "--mode", "native"])?;
    let first = prefix_v4(XDP_FILTER_SET.kind, 0).address;
    let text = std::net::Ipv4Addr::from_bits(first).to_string();
    host.sh("xdp-filter", ["ip", &text, "--mode", "src"])?;
    host.run(move || {
        let map = Map::PerCpuHashMap(MapData::from_pin(XDP_FILTER_MAP)?);
        let mut map = PerCpuHashMap::<_, [u8; 4], u64>::try_from(map)?;
        for index in 1..XDP_FILTER_SET.size {
            let values = map.get(&first.to_be_bytes(), 0)?;
            map.insert(prefix_v4(XDP_FILTER_SET.kind, index).address.to_be_bytes(), values, 0)?;
        }
        ensure!(Path::new(XDP_FILTER_PROGRAM).exists(), "xdp-filter is not the build that was asked for");
        Ok(())
    })
}

/// Fills an ipset and drops in iptables' raw table what is in it. Returns how long filling took.
pub fn ipset(host: &Host, set: Set) -> Result<Duration> {
    host.sh("ethtool", ["-K", INGRESS, "gro", "on"])?;
    // Large from the start, which is what is best for it.
    let mut script = format!(
        "create bench hash:net family inet hashsize {} maxelem {}\n",
        set.size.next_power_of_two(),
        set.size
    );
    set.prefixes().for_each(|prefix| script += &format!("add bench {prefix}\n"));
    let took = feed(host, "ipset", &["restore"], &script)?;
    let rule = "-t raw -A PREROUTING -m set --match-set bench src -j DROP";
    host.sh("iptables", rule.split(' '))?;
    Ok(took)
}

/// Fills an interval set of nft and drops at the device's ingress what is in it. Returns how long filling took.
pub fn nft(host: &Host, set: Set) -> Result<Duration> {
    host.sh("ethtool", ["-K", INGRESS, "gro", "on"])?;
    let elements: Vec<String> = disjoint(set)
        .iter()
        .map(|prefix| format!("{}/{}", std::net::Ipv4Addr::from_bits(prefix.address), prefix.length))
        .collect();
    let script = format!(
        "table netdev bench {{\n\
         counter dropped {{ }}\n\
         set blocked {{ type ipv4_addr; flags interval; elements = {{\n{}\n}} }}\n\
         chain ingress {{ type filter hook ingress device \"{INGRESS}\" priority -500;\n\
         ip saddr @blocked counter name dropped drop\n}}\n}}\n",
        elements.join(",\n")
    );
    feed(host, "nft", &["-f", "-"], &script)
}

/// The prefixes of an IPv4 set that no other covers: intervals must not overlap.
fn disjoint(set: Set) -> Vec<V4> {
    let mut all: Vec<V4> = (0..set.size).map(|index| prefix_v4(set.kind, index)).collect();
    // Of those that start at one address the widest comes first.
    all.sort_unstable();
    let mut end = 0;
    all.retain(|prefix| {
        let start = u64::from(prefix.address);
        let is_free = start >= end;
        if is_free {
            end = start + (1 << (32 - prefix.length));
        }
        is_free
    });
    all
}

/// Runs a program that must succeed, with this on standard input, and returns how long it took.
fn feed(host: &Host, program: &str, arguments: &[&str], input: &str) -> Result<Duration> {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let start = Instant::now();
    let mut child = host.spawn(command)?;
    // Where it ends early its words are what matters, not that it did not read on.
    let _ = child.stdin.take().context("standard input was piped")?.write_all(input.as_bytes());
    let output = child.wait_with_output()?;
    let took = start.elapsed();
    ensure!(output.status.success(), "{program} failed: {}", String::from_utf8_lossy(&output.stderr));
    Ok(took)
}

/// Frames that XDP has dropped at the receiver.
pub fn dropped_by_xdp(wire: &Wire) -> Result<u64> {
    let text = wire.receiver.sh("ethtool", ["-S", INGRESS])?;
    let counts = text.lines().filter_map(|line| line.trim().split_once("_xdp_drops: "));
    counts.map(|(_, count)| Ok(count.parse::<u64>()?)).sum()
}

/// Frames that the rule in the raw table has dropped.
pub fn dropped_by_ipset(wire: &Wire) -> Result<u64> {
    let text = wire.receiver.sh("iptables", ["-t", "raw", "-nvxL", "PREROUTING"])?;
    let rule = text.lines().find(|line| line.contains("match-set")).context("iptables lists no such rule")?;
    Ok(rule.split_whitespace().next().context("iptables lists an empty line")?.parse()?)
}

/// Frames that the rule at the ingress has dropped.
pub fn dropped_by_nft(wire: &Wire) -> Result<u64> {
    let text = wire.receiver.sh("nft", ["list", "counter", "netdev", "bench", "dropped"])?;
    let (_, count) = text.split_once("packets ").context("nft lists no counter")?;
    Ok(count.split_whitespace().next().context("nft lists no number")?.parse()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disjoint_prefixes_cover_the_set() {
        let set = Set { kind: Kind::MixedV4, size: 20_000 };
        let disjoint = disjoint(set);
        assert!(disjoint.len() < 20_000);
        let end = |prefix: &V4| u64::from(prefix.address) + (1 << (32 - prefix.length));
        assert!(disjoint.windows(2).all(|pair| end(&pair[0]) <= u64::from(pair[1].address)));
        for prefix in (0..set.size).map(|index| prefix_v4(set.kind, index)) {
            let before = disjoint.partition_point(|other| other.address <= prefix.address);
            assert!(end(&prefix) <= end(&disjoint[before - 1]), "{prefix:?}");
        }
    }
}
