//! Each figure is what was sent, at rest and over reloads, and what can't be known is not told; and the output, however much
//! there is. Needs root.

#![expect(clippy::unwrap_used, reason = "a panic is how a test reports")]

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use filter_ctl::policy::Prefix;
use filter_tests::builds::another_build;
use filter_tests::flood::{Flood, Kind, Wave};
use filter_tests::frames::{ethernet, ipv4, ipv6, protocol, tcp, udp, udp_with};
use filter_tests::kernel_side::{open, test_run};
use filter_tests::lab::{Finished, Host, eventually, fails, filter_ctl_path, join};
use filter_tests::packets::Port;
use serde::Deserialize;
use serde_json::Value;

const STATE: &str = "/var/lib/filter-ctl";

/// A figure by what it is of, and `packets` or `bytes`.
type All = BTreeMap<String, u64>;

/// A server that filters `flt0`, and the network that is connected to it.
fn lab() -> (Host, Host) {
    let (server, network) = (Host::new("server").unwrap(), Host::new("network").unwrap());
    join(&server, "flt0", &network, "peer0").unwrap();
    server.ctl(&["load", "flt0", "--max-ipv4", "2000", "--max-ipv6", "500"]).done();
    (server, network)
}

fn stats(host: &Host) -> Value {
    host.ctl(&["stats", "--over", "0s", "--top", "1000", "--json"]).done().json()
}

/// All figures that `stats` tells.
fn figures(host: &Host) -> All {
    let stats = stats(host);
    let mut all = All::new();
    let mut note = |name: String, figures: &Value| {
        for unit in ["packets", "bytes"] {
            let before = all.insert(format!("{name} {unit}"), figures[unit].as_u64().unwrap());
            assert_eq!(before, None, "{name} twice");
        }
    };
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    for interface in stats["interfaces"].as_array().unwrap() {
        let name = text(&interface["interface"]);
        for verdict in ["passed", "dropped"] {
            note(format!("{name} {verdict}"), &interface[verdict]);
        }
        for row in interface["reasons"].as_array().unwrap() {
            note(format!("{name} {} {}", text(&row["verdict"]), text(&row["reason"])), row);
        }
    }
    for list in stats["lists"].as_array().into_iter().flatten() {
        note(format!("list {}", text(&list["list"])), list);
        note(format!("list {} alone", text(&list["list"])), &list["alone"]);
    }
    for entry in stats["entries"].as_array().unwrap() {
        note(format!("{} {}", text(&entry["action"]), text(&entry["prefix"])), entry);
    }
    all.retain(|_, figure| *figure > 0);
    all
}

/// No figure is smaller than before.
#[track_caller]
fn assert_grown(before: &All, now: &All, when: &str) {
    for (name, figure) in before {
        let now = now.get(name).copied().unwrap_or(0);
        assert!(now >= *figure, "{when}: {name} was {figure} and is {now}");
    }
}

/// What frames of these kinds must be counted as: times, length, and the names of figures.
fn expected(sent: &[(u64, usize, &[&str])]) -> All {
    let mut all = All::new();
    for (times, length, names) in sent {
        for name in *names {
            *all.entry(format!("{name} packets")).or_default() += times;
            *all.entry(format!("{name} bytes")).or_default() += times * *length as u64;
        }
    }
    all
}

#[test]
fn every_figure_is_what_was_sent() {
    const IPV4: u16 = 0x0800;
    const IPV6: u16 = 0x86dd;
    let (server, network) = lab();
    let feed = std::env::temp_dir().join(format!("filter-stats-{}", std::process::id()));
    for (name, text) in [("one", "203.0.113.0/24\n"), ("two", "203.0.113.7\n2001:db8:bad::/48\n")] {
        std::fs::write(&feed, text).unwrap();
        server.ctl(&["list", "add", name, "--file", feed.to_str().unwrap()]).done();
    }
    std::fs::remove_file(&feed).unwrap();
    server.ctl(&["block", "add", "198.51.100.0/24"]).done();
    server.ctl(&["allow", "add", "198.51.100.7", "2001:db8:900d::/48"]).done();
    server.ctl(&["malformed", "pass", "udp_length"]).done();

    let v4 = |source: &str, number, payload: &[u8]| ethernet(&[], IPV4, &ipv4(source, number, payload));
    let v6 = |source: &str, number, payload: &[u8]| ethernet(&[], IPV6, &ipv6(source, number, payload));
    let (udp_ok, tcp_ok) = (udp(b"hello"), tcp());
    let dropped: &[&str] = &["flt0 dropped", "flt0 drop blocked"];
    let passed: &[&str] = &["flt0 passed", "flt0 pass allowed"];
    let sent: [(u64, Vec<u8>, Vec<&str>); 9] = [
        (
            3,
            v4("203.0.113.7", protocol::UDP, &udp_ok),
            [dropped, &["block 203.0.113.7/32", "list one", "list two"]].concat(),
        ),
        (
            5,
            v4("203.0.113.8", protocol::TCP, &tcp_ok),
            [dropped, &["block 203.0.113.0/24", "list one", "list one alone"]].concat(),
        ),
        (
            2,
            v6("2001:db8:bad::1", protocol::TCP, &tcp_ok),
            [dropped, &["block 2001:db8:bad::/48", "list two", "list two alone"]].concat(),
        ),
        (4, v4("198.51.100.1", protocol::UDP, &udp_ok), [dropped, &["block 198.51.100.0/24"]].concat()),
        (6, v4("198.51.100.7", protocol::UDP, &udp_ok), [passed, &["allow 198.51.100.7/32"]].concat()),
        (7, v6("2001:db8:900d::1", protocol::UDP, &udp_ok), [passed, &["allow 2001:db8:900d::/48"]].concat()),
        (8, v4("192.0.2.9", protocol::UDP, &udp_ok), vec!["flt0 passed", "flt0 pass no_match"]),
        // Tolerated, so that it passes from a blocked source, and one that is not.
        (9, v4("203.0.113.7", protocol::UDP, &udp_with(7, b"")), vec!["flt0 passed", "flt0 pass udp_length"]),
        (1, v6("192::1", protocol::TCP, &tcp_ok[..8]), vec!["flt0 dropped", "flt0 drop tcp_truncated"]),
    ];
    let mut port = network.run(|| Port::open("peer0").unwrap());
    for (times, frame, _) in &sent {
        (0..*times).for_each(|_| port.send(frame).unwrap());
    }
    let kinds: Vec<(u64, usize, &[&str])> =
        sent.iter().map(|(times, frame, names)| (*times, frame.len(), names.as_slice())).collect();
    let wanted = expected(&kinds);
    eventually("all is counted", || figures(&server).values().sum::<u64>() >= wanted.values().sum()).unwrap();
    // At rest, so each time the same.
    for _ in 0..3 {
        assert_eq!(figures(&server), wanted);
    }
    let metrics = server.ctl(&["stats", "--prometheus"]).done().stdout;
    assert!(
        metrics.contains(r#"xdp_filter_packets_total{device="flt0",action="drop",reason="blocked"} 14"#),
        "{metrics}"
    );
    // And after all was unloaded and loaded again.
    let told = server.ctl(&["unload", "--all"]).done().stdout;
    assert!(told.contains("the store keeps 6 entries and what was counted"), "{told}");
    server.ctl(&["load", "flt0"]).done();
    assert_eq!(figures(&server), wanted);
}

/// A build of filter-ctl of the same ABI whose programs are others to the kernel.
fn other_build() -> std::path::PathBuf {
    let path = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("filter-ctl-other-stats");
    another_build(&path).unwrap();
    path
}

fn wave() -> Wave {
    let prefix = |text| Prefix::parse(text, false).unwrap();
    let sources = vec![prefix("203.0.113.0/24"), prefix("198.18.0.0/15"), prefix("192.0.2.128/25")];
    Wave { kind: Kind::Udp, target: "192.0.2.1:53".parse().unwrap(), sources }
}

#[test]
fn no_figure_ever_gets_smaller() {
    let (server, network) = lab();
    join(&server, "flt1", &network, "peer1").unwrap();
    server.ctl(&["load", "flt1"]).done();
    server.ctl(&["block", "add", "203.0.113.0/24", "198.18.0.0/15"]).done();
    let flood = Flood::new((&network, "peer0"), (&server, "flt0"), &[wave()]).unwrap();
    let builds = [other_build(), filter_ctl_path()];
    // So that it takes the flood also while it is not filtered.
    server.sh("ethtool", ["-K", "flt0", "gro", "on"]).unwrap();
    let mut before = All::new();
    for round in 0..2 {
        let steps: [&[&str]; 8] = [
            &["unload", "flt0"],
            &["load", "flt0"],
            &["resize", "--max-ipv4", ["3000", "2000"][round % 2]],
            &["upgrade"],
            &["unload", "--all"],
            &["load", "flt0"],
            &["load", "flt1"],
            &["unload", "flt1"],
        ];
        for (number, step) in steps.iter().enumerate() {
            let when = format!("round {round}, {number}: {step:?}");
            let mut command = server.filter_ctl(&[]);
            if step[0] == "upgrade" {
                command = Command::new(&builds[round % 2]);
                command.stdin(Stdio::null());
            }
            let running = flood.start(0, Duration::from_secs(60));
            let arrived = flood.arrived().unwrap();
            eventually("the flood is on", || flood.arrived().unwrap() > arrived).unwrap();
            command.args(*step);
            Finished::from(server.output(command).unwrap()).done();
            running.stop().unwrap();
            if step[0] == "upgrade" {
                // Back, so that the build under test can tell.
                server.ctl(&["upgrade"]).done();
            }
            if server.run(|| open().is_ok()) {
                let now = figures(&server);
                let of_loaded: All = before
                    .iter()
                    .filter(|(name, _)| !name.starts_with("flt") || now.contains_key(*name))
                    .map(|(name, figure)| (name.clone(), *figure))
                    .collect();
                assert_grown(&of_loaded, &now, &when);
                before.extend(now);
            }
        }
        server.ctl(&["load", "flt1"]).done();
        let now = figures(&server);
        assert_grown(&before, &now, "with all that there is");
        assert_eq!(figures(&server), now, "at rest");
    }
    // What each entry dropped is what the interface dropped.
    let drops = |name: &str| before[&format!("{name} packets")];
    assert!(drops("flt0 drop blocked") > 0);
    assert_eq!(
        drops("block 203.0.113.0/24") + drops("block 198.18.0.0/15"),
        drops("flt0 drop blocked"),
        "{before:?}"
    );
}

#[test]
fn what_is_removed_and_added_anew_begins_at_zero() {
    let (server, _network) = lab();
    server.ctl(&["block", "add", "203.0.113.7", "203.0.113.8"]).done();
    let frame = |host: &str| filter_ctl::kernel::explain::frame_from(host.parse().unwrap());
    for source in ["203.0.113.7", "203.0.113.8"] {
        server.run(|| test_run("flt0", &frame(source))).unwrap();
    }
    server.ctl(&["unload", "--all"]).done();
    server.ctl(&["load", "flt0"]).done();
    server.ctl(&["block", "del", "203.0.113.7"]).done();
    server.ctl(&["block", "add", "203.0.113.7"]).done();
    let entries =
        |all: &All| all.keys().filter(|name| name.starts_with("block")).cloned().collect::<Vec<_>>();
    assert_eq!(entries(&figures(&server)), ["block 203.0.113.8/32 bytes", "block 203.0.113.8/32 packets"]);
    // The same, and nothing that was counted once comes back another time.
    server.ctl(&["unload", "--all"]).done();
    server.ctl(&["load", "flt0"]).done();
    assert_eq!(entries(&figures(&server)), ["block 203.0.113.8/32 bytes", "block 203.0.113.8/32 packets"]);
}

/// A server that has counted on both its interfaces, and by two entries.
fn counting() -> (Host, Host, All) {
    let (server, network) = lab();
    join(&server, "flt1", &network, "peer1").unwrap();
    server.ctl(&["load", "flt1"]).done();
    server.ctl(&["block", "add", "203.0.113.0/24", "198.18.0.0/15"]).done();
    for (peer, device, frames) in [("peer0", "flt0", 1000), ("peer1", "flt1", 300)] {
        Flood::new((&network, peer), (&server, device), &[wave()]).unwrap().send(frames).unwrap();
    }
    let all = figures(&server);
    assert_eq!(all["flt1 passed packets"] + all["flt1 dropped packets"], 300);
    (server, network, all)
}

#[test]
fn unloads_and_loads_may_be_killed_at_every_step_and_no_figure_is_lost_or_counted_twice() {
    let (server, _network, wanted) = counting();
    let mut killed = 0;
    for arguments in [&["unload", "flt0"][..], &["unload", "--all"], &["load", "flt0", "flt1"]] {
        for (call, step) in [
            ("pwrite64", 3),
            ("fdatasync", 1),
            ("ftruncate", 1),
            ("unlink", 1),
            ("rmdir", 1),
            ("rename", 1),
            ("bpf", 83),
        ] {
            for position in (1..).step_by(step) {
                let when = format!("{arguments:?}, {call} {position}");
                if arguments[0] == "load" {
                    server.ctl(&["unload", "--all"]).done();
                }
                let mut command = Command::new("strace");
                let inject = format!("inject={call}:signal=KILL:when={position}");
                command.args(["-f", "-qq", "-o", "/dev/null", "-e", &format!("trace={call}"), "-e", &inject]);
                command.arg(filter_ctl_path()).args(arguments);
                let ended = Finished::from(server.output(command).unwrap());
                let loaded = server.ctl(&["load", "flt0", "flt1"]);
                if loaded.code != Some(0) {
                    // Where pins are half removed, the message says so.
                    server.ctl(&["unload", "--all"]);
                    server.ctl(&["load", "flt0", "flt1"]).done();
                }
                assert_eq!(figures(&server), wanted, "{when}: {loaded:?}");
                if ended.code == Some(0) {
                    break;
                }
                killed += 1;
            }
        }
    }
    assert!(killed > 30, "only {killed} commands were killed");
}

#[test]
fn without_a_store_figures_begin_at_zero_and_a_warning_says_so() {
    let (server, _network, wanted) = counting();
    server.sh("chmod", ["777", STATE]).unwrap();
    // As long as the other is loaded, its slot keeps what it counts.
    fails(&server.ctl(&["unload", "flt0"]), 4, &["chmod 700"]);
    server.ctl(&["load", "flt0"]);
    assert_eq!(figures(&server).get("flt0 drop blocked bytes"), wanted.get("flt0 drop blocked bytes"));
    fails(&server.ctl(&["unload", "--all"]), 4, &["what was counted could not be kept", "chmod 700"]);
    let loaded = server.ctl(&["load", "flt0"]);
    fails(&loaded, 4, &["what it had counted can't be told, and it begins at zero", "chmod 700"]);
    assert!(!figures(&server).contains_key("flt0 drop blocked bytes"));
    server.sh("chmod", ["700", STATE]).unwrap();
    assert!(!figures(&server).contains_key("block 203.0.113.0/24 packets"));
}

#[test]
fn a_boot_without_an_unload_begins_at_zero_and_with_one_goes_on() {
    let (server, _network, wanted) = counting();
    server.ctl(&["unload", "--all"]).done();
    reboot_store(&server);
    server.ctl(&["load", "flt0", "flt1"]).done();
    assert_eq!(figures(&server), wanted);
    server.run(|| filter_tests::kernel_side::pins().remove()).unwrap();
    reboot_store(&server);
    server.ctl(&["restore"]).done();
    assert_eq!(figures(&server), All::new());
}

/// Makes the store believe that it was last written in another boot.
fn reboot_store(server: &Host) {
    server.run(|| {
        let db = rusqlite::Connection::open(format!("{STATE}/state.db")).unwrap();
        db.execute("UPDATE state SET boot = 'another'", []).unwrap();
    });
}

/// A process that is killed when the test ends.
struct Spawned(Child);

impl Drop for Spawned {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn spawn(host: &Host, arguments: &[&str]) -> Spawned {
    let mut command = host.filter_ctl(arguments);
    command.stderr(Stdio::null());
    Spawned(host.spawn(command).unwrap())
}

#[test]
fn watching_learns_all_rates_and_each_line_is_json() {
    let (server, network) = lab();
    server.ctl(&["block", "add", "203.0.113.0/24", "198.18.0.0/15"]).done();
    let flood = Flood::new((&network, "peer0"), (&server, "flt0"), &[wave()]).unwrap();
    flood.send(1000).unwrap();
    let mut watch = spawn(&server, &["stats", "--watch", "0.5", "--json", "--all"]);
    let lines = BufReader::new(watch.0.stdout.take().unwrap()).lines();
    let mut known = Vec::new();
    for (number, line) in lines.enumerate() {
        let line: Value = serde_json::from_str(&line.unwrap()).unwrap();
        assert_eq!((&line["schema"], line["entries"].as_array().unwrap().len()), (&1.into(), 2));
        let of = |figures: &Value| ["1s", "10s", "1min"].map(|span| !figures["rates"][span].is_null());
        let (interface, entry) = (of(&line["interfaces"][0]["dropped"]), of(&line["entries"][0]));
        // Without a daemon nothing is known of before; and what is known of one is of the other.
        assert_eq!(interface, entry, "{line}");
        assert_eq!(interface[0], number >= 2, "line {number}");
        assert_eq!(line["entries"][0]["packets_per_second"].is_null(), number == 0);
        known.push(interface);
        if interface[1] {
            assert!(line["rates_over_s"]["entries"]["10s"].as_f64().unwrap() < 20.0);
            break;
        }
        flood.send(10).unwrap();
    }
    assert!(known.len() > 15 && known.iter().all(|known| !known[2]), "{known:?}");
}

#[test]
fn what_the_daemon_recorded_is_told_at_once_and_without_it_nothing() {
    let (server, network) = lab();
    let flood = Flood::new((&network, "peer0"), (&server, "flt0"), &[wave()]).unwrap();
    let rate = || stats(&server)["interfaces"][0]["passed"]["rates"]["1s"]["packets_per_second"].as_f64();
    flood.send(1000).unwrap();
    assert_eq!(rate(), None);
    let daemon = spawn(&server, &["run"]);
    eventually("the daemon has recorded traffic", || {
        flood.send(100).unwrap();
        rate().is_some_and(|rate| rate > 0.0)
    })
    .unwrap();
    let dash = server.ctl(&["stats", "--over", "0s"]).done().stdout;
    assert!(dash.lines().nth(1).unwrap().contains(" - "), "of a minute nothing is known: {dash}");
    drop(daemon);
    eventually("the record is old", || rate().is_none()).unwrap();
}

fn narrow(finished: &Finished) {
    for line in finished.stdout.lines() {
        assert!(line.chars().count() <= 80, "{} columns: {line}", line.chars().count());
        assert!(!line.contains('\x1b'), "no terminal, and {line:?}");
    }
}

#[test]
fn no_line_is_longer_than_a_terminal_is_wide() {
    let server = Host::new("server").unwrap();
    let name = "a-long-name-15b";
    server.ip(&format!("link add {name} type veth peer name peer0")).unwrap();
    server.ctl(&["load", name]).done();
    narrow(&server.ctl(&["stats", "--over", "0s"]).done());
    let all = server.ctl(&["stats", "--over", "0s", "--all", "--json"]).done().json();
    assert_eq!(all["entries"], serde_json::json!([]));
    assert!(server.ctl(&["stats", "--over", "0s", "--all"]).done().stdout.contains("no entry"));

    let address = "2001:db8:1111:2222:3333:4444:5555:6666";
    let why = "a reason that is much longer than what is left of the line";
    server.ctl(&["block", "add", address, "203.0.113.255", "--reason", why]).done();
    server.ctl(&["block", "add", "198.51.100.0/24"]).done();
    // As after years of floods, in each counter.
    server.run(|| {
        let mut filter = open().unwrap();
        let most = filter_common::abi::Counter { packets: u64::MAX / 2, bytes: u64::MAX / 2 };
        let entries = filter.entries().unwrap();
        entries.iter().for_each(|(_, entry)| filter.credit_entry(&entry.key, most));
    });
    server.ctl(&["unload", "--all"]).done();
    let counts: Vec<_> = filter_common::Reason::ALL
        .iter()
        .flat_map(|reason| {
            reason.verdicts().map(|verdict| (reason.name(), verdict.name(), u64::MAX / 200, u64::MAX / 200))
        })
        .collect();
    server.run(|| {
        let db = rusqlite::Connection::open(format!("{STATE}/state.db")).unwrap();
        db.execute("UPDATE carried SET counts = ?1", [serde_json::to_string(&counts).unwrap()]).unwrap();
    });
    server.ctl(&["load", name]).done();
    for arguments in
        [&["stats", "--over", "0s"][..], &["stats", "--over", "10ms"], &["stats", "--over", "0s", "--all"]]
    {
        let told = server.ctl(arguments).done();
        narrow(&told);
        assert!(told.stdout.contains(address) && told.stdout.contains("a reason that"), "{told:?}");
        assert!(told.stdout.contains("  ipv6_too_many_extensions"), "{told:?}");
    }
}

/// What is looked at of a report with a million entries.
#[derive(Deserialize)]
struct Dumped {
    schema: u32,
    entries: Vec<DumpedEntry>,
}

#[derive(Deserialize)]
struct DumpedEntry {
    prefix: String,
    packets: u64,
}

#[test]
fn a_million_entries_are_told_and_a_reader_that_stops_holds_up_nobody() {
    const MANY: u32 = 1_000_000;
    let server = Host::new("server").unwrap();
    server.ip("link add flt0 type veth peer name peer0").unwrap();
    server.ctl(&["load", "flt0", "--max-ipv4", "1100000"]).done();
    let mut command = server.filter_ctl(&["block", "add", "-", "--force"]);
    command.stdin(Stdio::piped()).stdout(Stdio::null());
    let mut child = server.spawn(command).unwrap();
    let address = |number: u32| std::net::Ipv4Addr::from(0x2000_0000 + 2 * number).to_string();
    let input = (0..MANY).map(address).collect::<Vec<_>>().join("\n");
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success());
    let frame = |number: u32| filter_ctl::kernel::explain::frame_from(address(number).parse().unwrap());
    for number in [0, MANY / 2, MANY - 1] {
        server.run(|| test_run("flt0", &frame(number))).unwrap();
    }

    let mut dump = spawn(&server, &["stats", "--all", "--over", "0s", "--json"]);
    let mut pipe = dump.0.stdout.take().unwrap();
    let mut text = vec![0; 4096];
    pipe.read_exact(&mut text).unwrap();
    // It is in the middle of writing, into a pipe that is full.
    server.ctl(&["block", "add", "192.0.2.7", "--lock-wait", "10s"]).done();
    assert!(dump.0.try_wait().unwrap().is_none());
    pipe.read_to_end(&mut text).unwrap();
    let Dumped { schema, entries } = serde_json::from_slice(&text).unwrap();
    assert_eq!((schema, entries.len()), (1, MANY as usize));
    let hit = entries.iter().filter(|entry| entry.packets == 1).map(|entry| entry.prefix.clone());
    assert!(hit.eq([0, MANY / 2, MANY - 1].map(|number| address(number) + "/32")));
    assert!(dump.0.wait().unwrap().success());
    narrow(&server.ctl(&["stats", "--over", "0s"]).done());
    // A million that have counted, carried over an unload.
    server.run(|| {
        let mut filter = open().unwrap();
        let entries = filter.entries().unwrap();
        for (id, entry) in entries {
            let packets = u64::from(id) + 1;
            filter.credit_entry(&entry.key, filter_common::abi::Counter { packets, bytes: 60 * packets });
        }
    });
    let counted = || {
        server.run(|| {
            let counted = open().unwrap().counted_entries(true).unwrap();
            counted
                .iter()
                .map(Result::unwrap)
                .map(|(entry, count)| (entry.key, count.counter))
                .collect::<Vec<_>>()
        })
    };
    let before = counted();
    server.ctl(&["unload", "--all"]).done();
    server.ctl(&["load", "flt0"]).done();
    assert!(counted() == before, "a count was lost");
}
