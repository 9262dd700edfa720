//! Loading, unloading, refusals, and what remains when processes or interfaces go away in the middle. Needs root.

#![expect(clippy::unwrap_used, reason = "a panic is how a test reports")]

use std::net::Ipv4Addr;
use std::thread;
use std::time::Duration;

use aya::maps::{Array, Map, MapData};
use filter_common::abi::HEADER;
use filter_common::prefix::{Cells as _, Family, Region, header};
use filter_ctl::kernel::maps::open_table;
use filter_ctl::plan::Room;
use filter_ctl::policy::Prefix;
use filter_tests::flood::{Flood, Kind, Wave};
use filter_tests::kernel_side::{open, pins, test_run};
use filter_tests::lab::{Finished, Host, eventually, fails, join};
use serde_json::Value;

const PIN_ROOT: &str = "/sys/fs/bpf/filter-ctl";

/// A host with veth pairs `flt0`-`peer0` and `flt1`-`peer1`.
fn host() -> Host {
    let host = Host::new("server").unwrap();
    for (device, peer) in [("flt0", "peer0"), ("flt1", "peer1")] {
        host.ip(&format!("link add {device} numrxqueues 2 type veth peer name {peer} numtxqueues 2"))
            .unwrap();
    }
    host
}

/// Makes native mode impossible on a device of [`host`]: fewer receive queues than its peer has transmit queues.
fn refuse_native(host: &Host, device: &str, peer: &str) {
    host.sh("ethtool", ["-L", device, "rx", "1"]).unwrap();
    host.sh("ethtool", ["-L", peer, "tx", "2"]).unwrap();
}

fn runs_xdp(host: &Host, device: &str) -> bool {
    let shown: Value = serde_json::from_str(&host.ip(&format!("-j link show {device}")).unwrap()).unwrap();
    shown[0].get("xdp").is_some()
}

fn status(host: &Host) -> Value {
    host.ctl(&["status", "--json"]).json()
}

#[track_caller]
fn nothing_is_left(host: &Host) {
    assert_eq!(host.sh("find", ["/sys/fs/bpf", "-mindepth", "1", "-not", "-name", "*.debug"]).unwrap(), "");
    assert!(!runs_xdp(host, "flt0") && !runs_xdp(host, "flt1"));
}

#[test]
fn loading_twice_is_loading_once() {
    let host = host();
    host.ctl(&["load", "flt0"]).done();
    let before = status(&host);
    host.ctl(&["block", "add", "203.0.113.7"]).done();
    let again = host.ctl(&["load", "flt0", "flt0"]).done();
    assert!(again.stdout.starts_with("flt0: was already filtering in native mode\n"), "{again:?}");
    assert_eq!(status(&host)["interfaces"][0]["program_id"], before["interfaces"][0]["program_id"]);
    assert_eq!(status(&host)["entries"]["block"], 1);
    fails(
        &host.ctl(&["load", "flt0", "--mode", "generic"]),
        1,
        &["already filtered in native mode", "unload flt0"],
    );
}

#[test]
fn unloading_the_last_interface_leaves_nothing() {
    let host = host();
    host.ctl(&["load", "flt0", "flt1"]).done();
    host.ctl(&["block", "add", "203.0.113.7"]).done();
    let one = host.ctl(&["unload", "flt0"]).done();
    assert_eq!(one.stdout, "flt0: no longer filtered\n");
    assert!(!runs_xdp(&host, "flt0") && runs_xdp(&host, "flt1"));
    assert_eq!(status(&host)["entries"]["block"], 1);
    fails(
        &host.ctl(&["unload", "flt0"]),
        3,
        &["flt0 is not filtered, and nothing was unloaded; flt1 is filtered"],
    );
    let program = status(&host)["interfaces"][0]["program_id"].as_u64().unwrap();

    let last = host.ctl(&["unload", "flt1"]).done();
    assert!(last.stdout.contains("the store keeps 1 entry and what was counted"), "{last:?}");
    nothing_is_left(&host);
    let programs = || {
        aya::programs::loaded_programs().flatten().map(|program| u64::from(program.id())).collect::<Vec<_>>()
    };
    eventually("the kernel has freed the program", || !programs().contains(&program)).unwrap();
}

#[test]
fn loading_several_is_all_or_nothing() {
    let host = host();
    refuse_native(&host, "flt1", "peer1");
    fails(&host.ctl(&["load", "flt0", "flt1"]), 1, &["flt1: "]);
    nothing_is_left(&host);
    fails(&host.ctl(&["load", "flt0", "nope"]), 1, &["nope: no such interface", "flt0"]);
    nothing_is_left(&host);
    host.ctl(&["load", "flt0"]).done();
    host.ctl(&["block", "add", "203.0.113.7"]).done();
    fails(&host.ctl(&["load", "flt1"]), 1, &["flt1: "]);
    assert!(runs_xdp(&host, "flt0"));
    assert_eq!(status(&host)["entries"]["block"], 1);
    host.ip("link add flt2 type veth peer name peer2").unwrap();
    fails(&host.ctl(&["load", "flt2", "flt1"]), 1, &["flt1: "]);
    assert!(runs_xdp(&host, "flt0") && !runs_xdp(&host, "flt2"));
    fails(&host.ctl(&["load", "lo"]), 1, &["loopback"]);
}

#[test]
fn refusals_name_their_cause() {
    let host = host();
    // Not a refusal any more where the kernel has frags (5.18); `kernel.rs` has the others.
    host.ip("link set peer0 mtu 9000").unwrap();
    host.ctl(&["load", "flt0"]).done();
    assert_eq!(status(&host)["interfaces"][0]["frags"], true);
    host.ctl(&["unload", "flt0"]).done();
    host.ip("link set peer0 mtu 3506").unwrap();
    host.ctl(&["load", "flt0"]).done();
    assert_eq!(status(&host)["interfaces"][0]["frags"], false);
    host.ctl(&["unload", "flt0"]).done();

    // The kernel sees a difference between the peer's queues and ours only if there is one.
    host.ip("link add few type veth peer name many numtxqueues 4").unwrap();
    host.sh("ethtool", ["-L", "few", "rx", "1"]).unwrap();
    host.sh("ethtool", ["-L", "many", "tx", "4"]).unwrap();
    fails(
        &host.ctl(&["load", "few"]),
        1,
        &["few: veth takes native XDP only", "few has", "ethtool -L few rx"],
    );

    host.ip("link add link flt1 name upper type macvlan").unwrap();
    fails(
        &host.ctl(&["load", "upper"]),
        1,
        &["upper: the driver macvlan has no native XDP", "--mode generic"],
    );
    host.ctl(&["load", "upper", "--mode", "generic"]).done();
    assert_eq!(status(&host)["interfaces"][0]["mode"], "generic");
    host.ctl(&["unload", "--all"]).done();

    host.ctl(&["load", "flt0", "--pin-root", "/sys/fs/bpf/other"]).done();
    let other = host.ctl(&["status", "--pin-root", "/sys/fs/bpf/other", "--json"]).json();
    let id = other["interfaces"][0]["program_id"].to_string();
    for mode in ["native", "generic"] {
        let refused = host.ctl(&["load", "flt0", "--mode", mode]);
        fails(
            &refused,
            1,
            &["flt0: another XDP program is attached: filter", &format!("id {id}"), "native mode"],
        );
    }
    host.ctl(&["unload", "--all", "--pin-root", "/sys/fs/bpf/other"]).done();
    nothing_is_left(&host);
}

#[test]
fn a_missing_capability_is_named() {
    let host = host();
    let binary = filter_tests::lab::filter_ctl_path();
    let mut command = std::process::Command::new("setpriv");
    command
        .args(["--bounding-set=-sys_admin,-net_admin", "--inh-caps=-all"])
        .arg(binary)
        .args(["load", "flt0"]);
    let refused = Finished::from(host.output(command).unwrap());
    fails(&refused, 1, &["lacks CAP_NET_ADMIN"]);
    nothing_is_left(&host);
}

#[test]
fn an_interface_that_vanished_is_told_and_comes_back() {
    let host = host();
    host.ctl(&["load", "flt0", "flt1"]).done();
    host.ctl(&["block", "add", "203.0.113.7"]).done();
    host.ip("link del flt0").unwrap();
    let gone = host.ctl(&["status"]);
    fails(&gone, 4, &["flt0: the device is gone", "unload flt0"]);
    assert!(gone.stdout.contains("gone"), "{gone:?}");
    let added = host.ctl(&["block", "add", "203.0.113.8"]).done();
    assert!(added.stderr.contains("flt0 is not filtered: its device is gone"), "{added:?}");
    fails(&host.ctl(&["load", "flt0"]), 1, &["flt0: no such interface"]);
    let stats = host.ctl(&["stats", "--over", "0s"]).done();
    assert!(stats.stderr.contains("flt0 is not filtered: its device is gone"), "{stats:?}");

    host.ip("link add flt0 numrxqueues 2 type veth peer name peer0 numtxqueues 2").unwrap();
    assert!(!runs_xdp(&host, "flt0"));
    // A refused load changes nothing about what is there.
    let before = status(&host)["interfaces"][0].clone();
    refuse_native(&host, "flt0", "peer0");
    fails(&host.ctl(&["load", "flt0"]), 1, &["receive queues"]);
    let after = status(&host)["interfaces"][0].clone();
    assert_eq!((&before["state"], &before["program_id"]), (&after["state"], &after["program_id"]));
    assert!(after["loaded_at"].is_string(), "{after}");
    host.sh("ethtool", ["-L", "flt0", "rx", "2"]).unwrap();
    host.ctl(&["load", "flt0"]).done();
    assert!(runs_xdp(&host, "flt0"));
    assert_eq!(host.ctl(&["status"]).code, Some(0));
    assert_eq!(status(&host)["entries"]["block"], 2);

    host.ip("link del flt0").unwrap();
    host.ctl(&["unload", "flt0"]).done();
    assert_eq!(host.ctl(&["status"]).code, Some(0));
    host.ip("link del flt1").unwrap();
    host.ctl(&["unload", "--all"]).done();
    assert_eq!(
        host.sh("ls", ["/sys/fs/bpf"]).unwrap().lines().filter(|name| !name.ends_with(".debug")).count(),
        0
    );
}

#[test]
fn a_renamed_interface_stays_filtered_and_answers_to_both_names() {
    let host = host();
    host.ctl(&["load", "flt0", "flt1"]).done();
    host.ip("link set flt0 name lan0").unwrap();
    let shown = host.ctl(&["status"]).done();
    assert!(shown.stdout.contains("flt0 (now lan0)"), "{shown:?}");
    let again = host.ctl(&["load", "lan0"]).done();
    assert!(again.stdout.starts_with("lan0: was already filtering in native mode\n"), "{again:?}");
    // A new device of the old name must not take its place.
    host.ip("link add flt0 type veth peer name peer2").unwrap();
    fails(&host.ctl(&["load", "flt0"]), 1, &["lan0 was loaded under this name", "unload lan0"]);
    assert!(runs_xdp(&host, "lan0") && !runs_xdp(&host, "flt0"));
    host.ctl(&["unload", "lan0"]).done();
    assert!(!runs_xdp(&host, "lan0"));
    host.ip("link set flt1 name lan1").unwrap();
    host.ctl(&["unload", "flt1"]).done();
    assert!(!runs_xdp(&host, "lan1"));
}

#[test]
fn interfaces_that_swapped_names_are_not_confused() {
    let host = host();
    host.ctl(&["load", "flt0", "flt1"]).done();
    for (from, to) in [("flt0", "tmp0"), ("flt1", "flt0")] {
        host.ip(&format!("link set {from} name {to}")).unwrap();
    }
    fails(&host.ctl(&["unload", "flt0"]), 1, &["flt0 is ambiguous", "loaded as flt1", "is now tmp0"]);
    host.ctl(&["unload", "tmp0"]).done();
    assert!(!runs_xdp(&host, "tmp0") && runs_xdp(&host, "flt0"));
}

#[test]
fn another_network_namespace_does_not_take_over() {
    let (host, elsewhere) = (host(), Host::new("elsewhere").unwrap());
    elsewhere.ip("link add flt0 type veth peer name peer0").unwrap();
    host.ctl(&["load", "flt0"]).done();
    // The same BPF file system, as on any real machine, but another network.
    let network = format!("--net={}", elsewhere.netns_path());
    let there = |arguments: &[&str]| {
        let mut command = std::process::Command::new("nsenter");
        command.arg(&network).arg(filter_tests::lab::filter_ctl_path()).args(arguments);
        Finished::from(host.output(command).unwrap())
    };
    let status = there(&["status"]);
    fails(&status, 4, &["flt0: filtered in another network namespace"]);
    assert!(status.stdout.contains("elsewhere"), "{status:?}");
    fails(&there(&["load", "flt0"]), 1, &["filtered in another network namespace", "--pin-root"]);
    assert!(runs_xdp(&host, "flt0"));
    assert_eq!(host.ctl(&["status"]).code, Some(0));
    there(&["unload", "flt0"]).done();
    assert!(!runs_xdp(&host, "flt0"));
}

#[test]
fn the_program_of_another_build_is_not_taken_for_ours() {
    let host = host();
    host.ctl(&["load", "flt0"]).done();
    let abi = pins().abi().to_string_lossy().into_owned();
    host.sh("mv", [&abi, "/sys/fs/bpf/filter-ctl/abi-0"]).unwrap();
    fails(&host.ctl(&["load", "flt0"]), 1, &["flt0 is filtered by another build", "unload flt0"]);
    assert!(runs_xdp(&host, "flt0"));
    // Maps of this build beside the program of the other: what is written there is not enforced, and is said so.
    host.ctl(&["load", "flt1"]).done();
    let added = host.ctl(&["block", "add", "203.0.113.7"]).done();
    assert!(added.stderr.contains("flt0 runs another program"), "{added:?}");
    fails(&host.ctl(&["status"]), 4, &["flt0: runs another program"]);
    host.ctl(&["unload", "--all"]).done();
    nothing_is_left(&host);
}

#[test]
fn an_attachment_without_a_link_is_taken_back() {
    let host = host();
    let binary = filter_tests::lab::filter_ctl_path();
    let under_strace = |options: &[&str]| {
        let mut command = std::process::Command::new("strace");
        command.args(["-qq", "-e", "trace=bpf"]).args(options).arg(&binary).args(["load", "flt0"]);
        Finished::from(host.output(command).unwrap())
    };
    // The first load has no counts to take up, and fewer calls than those after it.
    host.ctl(&["load", "flt0"]).done();
    host.ctl(&["unload", "--all"]).done();
    // Which of its calls makes the link: the last that makes any.
    let traced = under_strace(&[]).done();
    host.ctl(&["unload", "--all"]).done();
    let calls = || traced.stderr.lines().filter(|line| line.starts_with("bpf("));
    let position =
        calls().collect::<Vec<_>>().iter().rposition(|line| line.contains("BPF_LINK_CREATE")).unwrap() + 1;
    // On EINVAL aya falls back to netlink, which the kernel accepts.
    let refused = under_strace(&["-e", &format!("inject=bpf:error=EINVAL:when={position}")]);
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.stderr.contains("refused the program"), "{refused:?}");
    nothing_is_left(&host);
}

#[test]
fn a_dot_in_an_interface_name_is_no_obstacle() {
    let host = host();
    host.ip("link add flt.7 type veth peer name peer.7").unwrap();
    host.ctl(&["load", "flt.7"]).done();
    assert_eq!(status(&host)["interfaces"][0]["interface"], "flt.7");
    host.ctl(&["unload", "flt.7"]).done();
    nothing_is_left(&host);
}

/// A frame from 203.0.113.`host`.
fn frame_from(host: u8) -> Vec<u8> {
    use filter_tests::frames::{ethernet, ipv4, protocol, udp};
    ethernet(&[], 0x0800, &ipv4(&format!("203.0.113.{host}"), protocol::UDP, &udp(b"data")))
}

const XDP_DROP: u32 = 1;

#[test]
fn killing_adds_in_the_middle_loses_and_invents_nothing() {
    const ROUNDS: u64 = 40;
    const BATCH: u32 = 3000;
    let host = host();
    host.ctl(&["load", "flt0"]).done();
    host.ctl(&["block", "add", "203.0.113.7", "--reason", "must stay"]).done();
    let mut random = filter_tests::seeded();
    let mut interrupted = 0;
    for round in 0..ROUNDS {
        let verb = if round % 3 == 2 { "del" } else { "add" };
        let mut command = host.filter_ctl(&["block", verb, "-"]);
        command.stdin(std::process::Stdio::piped());
        let mut child = host.spawn(command).unwrap();
        let input: String =
            (0..BATCH).map(|n| format!("10.{}.{}.{}\n", round / 3, n / 256, n % 256)).collect();
        std::io::Write::write_all(&mut child.stdin.take().unwrap(), input.as_bytes()).unwrap();
        thread::sleep(Duration::from_micros(random.u64(..60_000)));
        child.kill().unwrap();
        interrupted += usize::from(child.wait_with_output().unwrap().status.code().is_none());

        // The old entry drops whatever happened, with nothing repaired yet.
        assert_eq!(host.run(|| test_run("flt0", &frame_from(7))).unwrap(), XDP_DROP, "round {round}");
        // The next command finds every entry in the kernel's table, and no entry half made.
        host.run(move || {
            let filter = open().unwrap();
            filter.table().check().unwrap_or_else(|wrong| panic!("round {round}: {wrong}"));
        });
    }
    assert!(interrupted > 0, "no command was interrupted: the test proves nothing");
    let list = host.ctl(&["block", "list", "--json"]).done().json();
    let kept = list["entries"].as_array().unwrap().iter().find(|entry| entry["prefix"] == "203.0.113.7/32");
    assert_eq!(kept.unwrap()["reason"], "must stay");
    host.ctl(&["block", "flush"]).done();
    host.run(|| open().unwrap().table().check().unwrap());
}

#[test]
fn killing_bulk_changes_never_touches_what_stays() {
    const ROUNDS: u64 = 25;
    const MANY: u32 = 100_000;
    let host = host();
    host.ctl(&["load", "flt0"]).done();
    // All over the address space, nested in what comes and goes and around it.
    let stable: [u8; 16] = std::array::from_fn(|n| u8::try_from(3 + 16 * n).unwrap());
    for last in &stable {
        host.ctl(&["block", "add", &format!("203.0.113.{last}")]).done();
    }
    let input: String =
        (0..MANY).map(|n| format!("203.{}.{}.{}/31\n", n >> 15 & 3, n >> 7 & 255, (n & 127) * 2)).collect();
    let mut random = filter_tests::seeded();
    let mut interrupted = 0;
    for round in 0..ROUNDS {
        let verb = if round % 2 == 1 { "del" } else { "add" };
        let mut command = host.filter_ctl(&["block", verb, "-"]);
        command.stdin(std::process::Stdio::piped());
        let mut child = host.spawn(command).unwrap();
        std::io::Write::write_all(&mut child.stdin.take().unwrap(), input.as_bytes()).unwrap();
        thread::sleep(Duration::from_micros(random.u64(..400_000)));
        child.kill().unwrap();
        interrupted += usize::from(child.wait_with_output().unwrap().status.code().is_none());
        for last in stable {
            let verdict = host.run(move || test_run("flt0", &frame_from(last))).unwrap();
            assert_eq!(verdict, XDP_DROP, "round {round}: 203.0.113.{last}");
        }
        host.run(move || {
            let filter = open().unwrap();
            filter.table().check().unwrap_or_else(|wrong| panic!("round {round}: {wrong}"));
            for last in &stable {
                let prefix = Prefix::parse(&format!("203.0.113.{last}"), false).unwrap();
                let key = filter_ctl::policy::Key { action: filter_ctl::policy::Action::Block, prefix };
                assert!(filter.table().lookup(&key.to_table()).is_some(), "round {round}: {prefix}");
            }
        });
    }
    assert!(interrupted > 0, "no command was interrupted: the test proves nothing");
}

/// A server that filters what a network floods it with, from two blocked prefixes.
fn flooded() -> (Host, Host) {
    let (server, network) = (Host::new("server").unwrap(), Host::new("network").unwrap());
    join(&server, "flt0", &network, "peer0").unwrap();
    server.ctl(&["load", "flt0", "--max-ipv4", "1000", "--max-ipv6", "100"]).done();
    server.ctl(&["block", "add", "203.0.113.0/24", "198.18.0.0/15", "--reason", "flood"]).done();
    (server, network)
}

fn wave() -> Wave {
    let prefix = |text| Prefix::parse(text, false).unwrap();
    Wave {
        kind: Kind::Udp,
        target: "192.0.2.1:53".parse().unwrap(),
        sources: vec![prefix("203.0.113.0/24"), prefix("198.18.0.0/15")],
    }
}

/// Packets that each entry dropped, by prefix, and packets that passed.
fn counted(server: &Host) -> (Vec<(String, u64)>, u64) {
    let stats = server.ctl(&["stats", "--over", "0s", "--json"]).done().json();
    let entries = stats["entries"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| (entry["prefix"].as_str().unwrap().to_owned(), entry["packets"].as_u64().unwrap()));
    let mut entries: Vec<_> = entries.collect();
    entries.sort();
    (entries, stats["interfaces"][0]["passed"]["packets"].as_u64().unwrap())
}

#[test]
fn tables_grow_and_shrink_under_flood_and_nothing_is_lost() {
    const ROUNDS: usize = 12;
    let (server, network) = flooded();
    let flood = Flood::new((&network, "peer0"), (&server, "flt0"), &[wave()]).unwrap();
    let running = flood.start(0, Duration::from_secs(60));
    eventually("the flood is on", || flood.arrived().unwrap() > 0).unwrap();
    let (_, passed_before) = counted(&server);
    for round in 0..ROUNDS {
        let size = ["1000", "40000", "200000"][round % 3];
        let resized = server.ctl(&["resize", "--max-ipv4", size]).done();
        assert!(resized.stdout.contains("IPv4"), "{resized:?}");
        // More than fits before, and more than fits after, is refused before anything changes.
        let status = status(&server);
        assert_eq!(status["entries"]["ipv4"]["limit"].to_string(), size);
        assert_eq!(status["interfaces"][0]["state"], "attached");
    }
    running.stop().unwrap();
    let sent = flood.sent().unwrap();
    let (dropped, passed) = counted(&server);
    let mut wanted: Vec<_> = sent.iter().map(|(prefix, packets)| (prefix.to_string(), *packets)).collect();
    wanted.sort();
    assert_eq!(flood.lost().unwrap(), 0);
    assert_eq!(dropped, wanted, "every packet is counted by its entry, over all tables");
    assert_eq!(passed, passed_before, "a packet of the flood passed");
    let kept = server.ctl(&["block", "list", "--json"]).done().json();
    assert!(kept["entries"].as_array().unwrap().iter().all(|entry| entry["reason"] == "flood"), "{kept}");
    server.run(|| open().unwrap().table().check().unwrap());
}

/// The largest tables that are tried: no operator's lists of today are larger.
const MOST_V4: u32 = 2_000_000;
const MOST_V6: u32 = 1_000_000;

#[test]
fn three_million_entries_fit_and_one_more_is_refused() {
    let host = host();
    let limits = [MOST_V4, MOST_V6].map(|limit| limit.to_string());
    host.ctl(&["load", "flt0", "--max-ipv4", &limits[0], "--max-ipv6", &limits[1]]).done();
    // No two the same, since the multiplier is odd; all over 32.0.0.0/5.
    let v4 = |n: u32| Ipv4Addr::from(0x2000_0000 | (n.wrapping_mul(0x9e37_79b1) & 0x07ff_ffff));
    let v6 = |n: u32| format!("2400:{:x}:{:x}::/48", n >> 16, n & 0xffff);
    let lines = (0..MOST_V4).map(|n| v4(n).to_string()).chain((0..MOST_V6).map(v6));
    let mut command = host.filter_ctl(&["block", "add", "-", "--force"]);
    command.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::null());
    let mut child = host.spawn(command).unwrap();
    let input = lines.collect::<Vec<_>>().join("\n");
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), input.as_bytes()).unwrap();
    assert!(child.wait_with_output().unwrap().status.success());

    for one_more in ["203.0.113.7", "2001:db8::/32"] {
        fails(&host.ctl(&["block", "add", one_more]), 1, &["nothing was changed", "filter-ctl resize"]);
    }
    let shown = status(&host);
    assert_eq!(shown["entries"]["block"], MOST_V4 + MOST_V6, "{shown}");
    host.run(|| open().unwrap().table().check().unwrap());
    // The first and the last of both, as the program looks them up.
    for source in [v4(0).to_string(), v4(MOST_V4 - 1).to_string(), "2400::1".into(), "2400:f:423f::1".into()]
    {
        let explained = host.ctl(&["explain", &source, "--json"]).json();
        assert_eq!(explained["reason"], "blocked", "{explained}");
    }
    assert_eq!(host.ctl(&["explain", "203.0.113.7", "--json"]).json()["reason"], "no_match");
    // Room for one more is made with all of it in place.
    host.ctl(&["resize", "--max-ipv4", &(MOST_V4 + 1).to_string()]).done();
    host.ctl(&["block", "add", "203.0.113.7"]).done();
    assert_eq!(status(&host)["entries"]["block"], MOST_V4 + MOST_V6 + 1);
}

#[test]
fn killing_resizes_in_the_middle_leaves_a_filter_that_goes_on() {
    const ROUNDS: u64 = 20;
    let (server, network) = flooded();
    let flood = Flood::new((&network, "peer0"), (&server, "flt0"), &[wave()]).unwrap();
    let mut random = filter_tests::seeded();
    let mut interrupted = 0;
    for round in 0..ROUNDS {
        let size = ["1000", "40000"][(round % 2) as usize];
        let mut child = server.spawn(server.filter_ctl(&["resize", "--max-ipv4", size])).unwrap();
        thread::sleep(Duration::from_micros(random.u64(..700_000)));
        child.kill().unwrap();
        interrupted += usize::from(child.wait().unwrap().code().is_none());
        flood.send(2000).unwrap();
        assert_eq!(server.ctl(&["status"]).code, Some(0), "round {round}");
        flood.send(2000).unwrap();
        server.ctl(&["block", "add", &format!("192.0.2.{}", round + 100)]).done();
        server.run(move || {
            let filter = open().unwrap();
            filter.table().check().unwrap_or_else(|wrong| panic!("round {round}: {wrong}"));
            let (sets, incomplete) = pins().sets().unwrap();
            assert!(sets.len() == 1 && incomplete.is_empty(), "round {round}: {sets:?}, {incomplete:?}");
        });
        let sent: u64 = flood.sent().unwrap().iter().map(|(_, packets)| packets).sum();
        let (dropped, _) = counted(&server);
        assert_eq!(dropped.iter().map(|(_, packets)| packets).sum::<u64>(), sent, "round {round}");
    }
    assert!(interrupted > 0, "no resize was interrupted: the test proves nothing");
}

#[test]
fn a_resize_in_which_the_kernel_refuses_anything_is_made_or_not() {
    /// Every so many calls one is refused: a prime, so that all kinds of call are met.
    const STEP: usize = 37;
    let (server, _network) = flooded();
    let traced = |options: &[&str], size: u32| {
        let mut command = std::process::Command::new("strace");
        command.args(["-qq", "-e", "trace=bpf"]).args(options);
        command.arg(filter_tests::lab::filter_ctl_path()).args(["resize", "--max-ipv4", &size.to_string()]);
        Finished::from(server.output(command).unwrap())
    };
    let shown = traced(&[], 2000).done();
    let calls: Vec<&str> = shown.stderr.lines().filter(|line| line.starts_with("bpf(")).collect();
    let switch = calls.iter().rposition(|line| line.contains("BPF_LINK_UPDATE")).unwrap() + 1;
    let (mut limit, mut refused) = (2000, 0);
    for position in (1..calls.len()).step_by(STEP).chain([switch]) {
        let asked = limit + 1;
        let ended = traced(&["-e", &format!("inject=bpf:error=ENOMEM:when={position}")], asked);
        let said = ended.stderr.lines().last().unwrap_or_default().to_owned();
        assert!(matches!(ended.code, Some(0 | 1)), "{position}: {:?}: {said}", ended.code);
        assert_eq!(server.run(|| test_run("flt0", &frame_from(7))).unwrap(), XDP_DROP, "{position}");
        assert_eq!(server.ctl(&["status"]).code, Some(0), "{position}: {said}");
        if ended.code == Some(0) {
            limit = asked;
        } else {
            refused += 1;
        }
        server.run(move || {
            let (sets, incomplete) = pins().sets().unwrap();
            assert!(sets.len() == 1 && incomplete.is_empty(), "{position}: {sets:?}, {incomplete:?}");
            let filter = open().unwrap();
            assert_eq!(filter.room(Family::V4), Room { used: 2, limit }, "{position}: {said}");
            filter.table().check().unwrap();
        });
    }
    assert!(refused > 5, "only {refused} resizes were refused");
}

#[test]
fn a_resize_may_be_killed_at_any_change_to_the_pins() {
    let (server, network) = flooded();
    let flood = Flood::new((&network, "peer0"), (&server, "flt0"), &[wave()]).unwrap();
    let mut killed = 0;
    let mut size = 1000;
    for call in ["unlink", "rmdir", "rename"] {
        for position in (1..).step_by(2) {
            size += 1;
            let mut command = std::process::Command::new("strace");
            let inject = format!("inject={call}:signal=KILL:when={position}");
            command.args(["-qq", "-e", &format!("trace={call}"), "-e", &inject]);
            command.arg(filter_tests::lab::filter_ctl_path()).args([
                "resize",
                "--max-ipv4",
                &size.to_string(),
            ]);
            let ended = Finished::from(server.output(command).unwrap());
            let shown = format!("{call} {position}");
            flood.send(500).unwrap();
            // Whatever comes next finishes it or takes it back: here the one that must not take the filter for
            // another's.
            server.ctl(&["load", "flt0"]).done();
            assert_eq!(server.ctl(&["status"]).code, Some(0), "{shown}");
            server.run(move || {
                open().unwrap().table().check().unwrap_or_else(|wrong| panic!("{shown}: {wrong}"));
                let (sets, incomplete) = pins().sets().unwrap();
                assert!(sets.len() == 1 && incomplete.is_empty(), "{shown}: {sets:?}, {incomplete:?}");
            });
            if ended.code == Some(0) {
                break;
            }
            killed += 1;
        }
    }
    assert!(killed > 5, "only {killed} resizes were killed");
    let sent: u64 = flood.sent().unwrap().iter().map(|(_, packets)| packets).sum();
    let (dropped, _) = counted(&server);
    assert_eq!(dropped.iter().map(|(_, packets)| packets).sum::<u64>(), sent);
}

#[test]
fn damaged_tables_are_told_and_taken_off() {
    let host = host();
    host.ctl(&["load", "flt0", "--max-ipv4", "100", "--max-ipv6", "100"]).done();
    host.ctl(&["block", "add", "203.0.113.7", "203.0.113.8"]).done();
    let damage = |region: Region, index: usize, word: u64| {
        host.run(move || {
            let table = open_table(&pins().set().unwrap().unwrap()).unwrap();
            table.cells().store(region, index, [word]);
        });
    };
    let word_at = |region: Region, index: usize| {
        host.run(move || {
            let table = open_table(&pins().set().unwrap().unwrap()).unwrap();
            let [word] = table.cells().load(region, index);
            word
        })
    };
    // An order that names an id beyond the table, one that names an entry that is none, and one whose address is right.
    let before = word_at(Region::Order, 0);
    for word in [u64::MAX, 77, before | 0xff_ffff] {
        damage(Region::Order, 0, word);
        fails(&host.ctl(&["block", "list"]), 1, &["can't be read", "unload --all"]);
        assert!(matches!(host.ctl(&["block", "add", "192.0.2.9"]).code, Some(0 | 1 | 4)));
        assert!(matches!(host.ctl(&["block", "del", "192.0.2.9"]).code, Some(0 | 1 | 4 | 5)));
        assert!(matches!(host.ctl(&["block", "add", "203.0.113.0/24"]).code, Some(0 | 1 | 4)));
        assert!(matches!(host.ctl(&["block", "del", "203.0.113.0/24"]).code, Some(0 | 1 | 4 | 5)));
        damage(Region::Order, 0, before);
    }
    // What was changed with damage in the order is put right by what the entries say.
    damage(Region::Header, header::DIRTY, 1);
    assert_eq!(host.ctl(&["status"]).code, Some(0));
    host.run(|| open().unwrap().table().check().unwrap());
    // A slot that names a record beyond the table: the reader's way and the writer's.
    let (slot, before) =
        (0..).map(|slot| (slot, word_at(Region::Buckets, slot))).find(|(_, word)| *word != 0).unwrap();
    damage(Region::Buckets, slot, before | 0xff_ffff);
    for arguments in [["block", "add"], ["block", "del"]] {
        let finished = host.ctl(&[&arguments[..], &["203.0.113.7", "203.0.113.8"]].concat());
        assert!(matches!(finished.code, Some(0 | 1 | 4 | 5)), "{finished:?}");
    }
    assert_eq!(host.ctl(&["explain", "203.0.113.7"]).code, Some(0));
    host.ctl(&["block", "add", "203.0.113.7", "203.0.113.8"]);
    for (position, word) in [
        (header::USED_V4, u64::from(u32::MAX)),
        (header::HIGHEST, 1 << 31),
        (header::FREE_FIRST, 1 << 24),
        (header::HIGHEST_NOTE, 1 << 16),
    ] {
        let before = word_at(Region::Header, position);
        damage(Region::Header, position, word);
        for arguments in
            [&["status"][..], &["block", "list"], &["block", "add", "192.0.2.1"], &["load", "flt1"]]
        {
            fails(&host.ctl(arguments), 1, &["never writes", "unload --all"]);
        }
        let set = host.run(|| pins().set().unwrap().unwrap().map(&HEADER));
        host.run(move || {
            let map = MapData::from_pin(&set).and_then(Map::from_map_data).unwrap();
            let mut map: Array<_, [u64; 32]> = map.try_into().unwrap();
            let mut words = map.get(&0, 0).unwrap();
            words[position] = before;
            map.set(0, words, 0).unwrap();
        });
    }
    damage(Region::Header, header::USED_V4, u64::from(u32::MAX));
    // Whatever lies in the tables, the filter can be taken off.
    host.ctl(&["unload", "--all"]).done();
    nothing_is_left(&host);
}

#[test]
fn the_pin_root_is_an_option() {
    let host = host();
    host.ctl(&["load", "flt0", "--pin-root", "/sys/fs/bpf/elsewhere"]).done();
    fails(&host.ctl(&["status"]), 3, &[PIN_ROOT]);
    let mut command = host.filter_ctl(&["status"]);
    command.env("FILTER_CTL_PIN_ROOT", "/sys/fs/bpf/elsewhere");
    Finished::from(host.output(command).unwrap()).done();
}
