//! What an operator types and reads: exit codes, messages, JSON, and commands that meet each other. Needs root.

#![expect(clippy::unwrap_used, reason = "a panic is how a test reports")]

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::Stdio;

use filter_ctl::kernel::Lock;
use filter_tests::kernel_side::{LOCK_WAIT, pins};
use filter_tests::lab::{Finished, Host, eventually, fails, join};
use serde_json::Value;

/// A host with an interface `flt0`, not yet filtered.
fn host() -> Host {
    let host = Host::new("server").unwrap();
    host.ip("link add flt0 type veth peer name flt1").unwrap();
    host
}

/// A host that filters `flt0`.
fn filtering() -> Host {
    let host = host();
    host.ctl(&["load", "flt0"]).done();
    host
}

/// Runs filter-ctl with text on its standard input.
fn with_input(host: &Host, arguments: &[&str], input: &str) -> Finished {
    let mut command = host.filter_ctl(arguments);
    command.stdin(Stdio::piped());
    let mut child = host.spawn(command).unwrap();
    // A command that refuses its arguments does not read.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap().into()
}

/// Prefixes of `block list` or `allow list`.
fn listed(host: &Host, action: &str) -> Vec<String> {
    let list = host.ctl(&[action, "list", "--json"]).done().json();
    list["entries"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| entry["prefix"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn without_a_filter_every_command_says_so() {
    let host = host();
    for arguments in [
        &["status"][..],
        &["stats"],
        &["block", "list"],
        &["block", "add", "203.0.113.7"],
        &["allow", "del", "203.0.113.7"],
        &["block", "flush"],
        &["unload", "flt0"],
        &["unload", "--all"],
    ] {
        fails(&host.ctl(arguments), 3, &["no loaded filter", "filter-ctl load"]);
    }
    // Where there is no BPF file system, a filter may well be loaded.
    let blind = host.ctl(&["status", "--pin-root", "/proc/filter-ctl"]);
    fails(&blind, 3, &["not on a BPF file system", "nsenter"]);
}

#[test]
fn nonsense_is_a_usage_error_and_changes_nothing() {
    let host = filtering();
    let long = "x".repeat(97);
    for (arguments, words) in [
        (&["block", "add", "203.0.113.7", "nonsense"][..], &["`nonsense`"][..]),
        (&["block", "add", "203.0.113.7/24"], &["203.0.113.0/24", "--mask"]),
        (&["block", "add", "203.0.113.0/33"], &["over 32"]),
        (&["block", "add", "203.0.113.7", "--ttl", "0s"], &["--ttl"]),
        (&["block", "add", "203.0.113.7", "--ttl", "100y"], &["ten years"]),
        (&["block", "add", "203.0.113.7", "--ttl", "soon"], &["--ttl"]),
        (&["block", "add", "203.0.113.7", "--reason", &long], &["97 bytes"]),
        (&["block", "add", "203.0.113.7", "--reason", "a\u{1b}b"], &["control"]),
        (&["block", "add"], &["PREFIX"]),
        (&["load"], &["IFACE"]),
        (&["unload"], &["IFACE"]),
        (&["unload", "flt0", "--all"], &["--all"]),
        (&["stats", "--watch", "0"], &["0.1"]),
        (&["frobnicate"], &["frobnicate"]),
        (&["explain"], &["--frame"]),
        (&["explain", "203.0.113.7", "--frame", "00"], &["--frame"]),
        (&["explain", "--frame", "0g"], &["hex"]),
        (&["explain", "--pcap", "/dev/null"], &["FILE:N"]),
        (&["explain", "203.0.113.7", "--block", "203.0.113.0/24"], &["--offline"]),
        (&["malformed", "pass", "blocked"], &["`blocked` is no fault", "udp_length"]),
        (&["load", "flt0", "--max-ipv4", "0"], &["--max-ipv4"]),
        (&["load", "flt0", "--max-ipv6", "4194305"], &["--max-ipv6"]),
        (&["resize"], &["--max-ipv4"]),
        (&["status", "--lock-wait", "300000000000y"], &["--lock-wait", "a day"]),
    ] {
        fails(&host.ctl(arguments), 2, words);
    }
    assert_eq!(listed(&host, "block"), [""; 0]);
}

#[test]
fn entries_are_listed_as_they_are_enforced() {
    let host = filtering();
    let added = host
        .ctl(&[
            "block",
            "add",
            "203.0.113.7",
            "::ffff:198.51.100.0/120",
            "2001:db8:bad::/48",
            "--reason",
            "SYN flood",
            "--ttl",
            "2h",
        ])
        .done();
    assert!(added.stdout.contains("added: block 203.0.113.7/32, for 2h\n"), "{added:?}");
    host.ctl(&["block", "add", "192.0.2.77/26", "--mask"]).done();
    assert_eq!(
        listed(&host, "block"),
        ["192.0.2.64/26", "198.51.100.0/24", "203.0.113.7/32", "2001:db8:bad::/48"]
    );
    let list = host.ctl(&["block", "list", "--json"]).done().json();
    let entry = list["entries"][2].clone();
    assert_eq!((entry["action"].as_str(), entry["reason"].as_str()), (Some("block"), Some("SYN flood")));
    let left = entry["expires_in_s"].as_u64().unwrap();
    assert!((7100..=7200).contains(&left), "{entry}");
    assert_eq!(list["entries"][0]["expires_at"], Value::Null);
    let table = host.ctl(&["block", "list"]).done().stdout;
    assert!(
        table.lines().any(|line| line.starts_with("203.0.113.7/32") && line.ends_with("SYN flood")),
        "{table}"
    );
    assert_eq!(listed(&host, "allow"), [""; 0]);
}

#[test]
fn adding_again_extends_to_the_later_deadline() {
    let host = filtering();
    let left = || {
        let list = host.ctl(&["block", "list", "--json"]).done().json();
        (
            list["entries"][0]["expires_in_s"].as_u64(),
            list["entries"][0]["reason"].as_str().map(str::to_owned),
        )
    };
    host.ctl(&["block", "add", "203.0.113.7", "--ttl", "1h", "--reason", "scan"]).done();
    let changed = host.ctl(&["block", "add", "203.0.113.7", "--ttl", "2h"]).done();
    assert!(changed.stdout.starts_with("changed: "), "{changed:?}");
    let unchanged = host.ctl(&["block", "add", "203.0.113.7", "--ttl", "5m"]).done();
    assert!(unchanged.stdout.starts_with("unchanged: "), "{unchanged:?}");
    assert!(matches!(left(), (Some(7000..=7200), Some(reason)) if reason == "scan"), "{:?}", left());
    host.ctl(&["block", "add", "203.0.113.7"]).done();
    assert_eq!(left(), (None, Some("scan".into())));
}

#[test]
fn removing_is_exact_and_says_what_still_covers() {
    let host = filtering();
    host.ctl(&["block", "add", "203.0.0.0/16", "203.0.113.0/24", "198.51.100.1"]).done();
    let nothing = host.ctl(&["block", "del", "203.0.113.9", "192.0.2.9"]);
    fails(
        &nothing,
        5,
        &["no block entry 203.0.113.9/32; block 203.0.113.0/24 covers it", "no block entry 192.0.2.9/32\n"],
    );
    let some = host.ctl(&["block", "del", "198.51.100.1", "192.0.2.9"]);
    fails(&some, 4, &["no block entry 192.0.2.9/32"]);
    assert!(some.stdout.contains("removed: block 198.51.100.1/32"), "{some:?}");
    let inner = host.ctl(&["block", "del", "203.0.113.0/24"]).done();
    assert!(inner.stderr.contains("203.0.113.0/24 is still covered by block 203.0.0.0/16"), "{inner:?}");
    let json = host.ctl(&["block", "del", "203.0.0.0/16", "--json"]).done().json();
    assert_eq!(json["removed"][0]["prefix"], "203.0.0.0/16");
    fails(&host.ctl(&["allow", "del", "203.0.0.0/16"]), 5, &["no allow entry"]);
    host.ctl(&["block", "flush"]).done();
}

#[test]
fn flush_removes_one_kind_only() {
    let host = filtering();
    host.ctl(&["block", "add", "203.0.113.0/24", "198.51.100.1"]).done();
    host.ctl(&["allow", "add", "203.0.113.7"]).done();
    let flushed = host.ctl(&["block", "flush"]).done();
    assert_eq!(flushed.stdout, "removed all block entries: 2 entries\n");
    assert_eq!((listed(&host, "block").len(), listed(&host, "allow").len()), (0, 1));
    assert_eq!(host.ctl(&["block", "flush"]).done().stdout, "removed all block entries: 0 entries\n");
}

#[test]
fn a_block_without_effect_is_pointed_out() {
    let host = filtering();
    host.ctl(&["allow", "add", "203.0.113.0/24"]).done();
    let blocked = host.ctl(&["block", "add", "203.0.113.7", "203.0.114.7"]).done();
    assert!(
        blocked.stderr.contains("block 203.0.113.7/32 has no effect while allow 203.0.113.0/24 stands"),
        "{blocked:?}"
    );
    assert!(!blocked.stderr.contains("203.0.114.7"), "{blocked:?}");
}

#[test]
fn prefixes_come_from_standard_input_and_all_faults_are_told() {
    let host = filtering();
    with_input(
        &host,
        &["block", "add", "-"],
        "# list\n203.0.113.7 # scanner\r\n\n2001:db8:bad::/48\n203.0.113.7\n",
    )
    .done();
    assert_eq!(listed(&host, "block"), ["203.0.113.7/32", "2001:db8:bad::/48"]);
    fails(&with_input(&host, &["block", "add", "-"], "# nothing\n"), 2, &["holds no prefix"]);
    let refused = with_input(&host, &["block", "add", "-"], "198.51.100.1\nnonsense\n198.51.100.1/8\n");
    fails(&refused, 2, &["line 2: `nonsense`", "line 3: `198.51.100.1/8`", "nothing was changed"]);
    assert_eq!(listed(&host, "block").len(), 2);
    with_input(&host, &["block", "del", "-"], "203.0.113.7\n2001:db8:bad::/48").done();
    assert_eq!(listed(&host, "block").len(), 0);
}

#[test]
fn a_full_table_is_refused_before_the_first_write() {
    let host = host();
    host.ctl(&["load", "flt0", "--max-ipv4", "4", "--max-ipv6", "2"]).done();
    host.ctl(&["block", "add", "203.0.113.1", "203.0.113.2", "203.0.113.3"]).done();
    let full = host.ctl(&["block", "add", "203.0.113.4", "203.0.113.5"]);
    fails(&full, 1, &["at most 4 IPv4", "3 are in use", "2 more", "resize --max-ipv4"]);
    assert_eq!(listed(&host, "block").len(), 3);
    host.ctl(&["allow", "add", "203.0.113.4"]).done();
    fails(&host.ctl(&["allow", "add", "203.0.113.5"]), 1, &["4 are in use"]);
    // What is there can still be extended, and what has expired makes room.
    host.ctl(&["block", "add", "203.0.113.1", "--reason", "still works"]).done();
    host.ctl(&["block", "del", "203.0.113.2"]).done();
    host.ctl(&["block", "add", "203.0.113.6", "--ttl", "1s"]).done();
    eventually("an expired entry makes room", || host.ctl(&["block", "add", "203.0.113.7"]).code == Some(0))
        .unwrap();
    assert_eq!(listed(&host, "block"), ["203.0.113.1/32", "203.0.113.3/32", "203.0.113.7/32"]);
    fails(&host.ctl(&["load", "flt0", "--max-ipv4", "8"]), 1, &["--max-ipv4 4, not 8", "resize"]);
}

#[test]
fn tables_are_resized_to_what_fits_and_no_less() {
    let host = host();
    let loaded = host.ctl(&["load", "flt0", "--max-ipv4", "4", "--max-ipv6", "2"]).done();
    assert!(
        loaded.stdout.contains("room for 4 IPv4 and 2 IPv6 entries") && loaded.stdout.contains("MiB"),
        "{loaded:?}"
    );
    // Nine tenths and more is said, by the command that fills and by `status`.
    let added = host.ctl(&["block", "add", "203.0.113.1", "203.0.113.2", "203.0.113.3"]).done();
    assert!(!added.stderr.contains("in use"), "{added:?}");
    let added = host.ctl(&["block", "add", "203.0.113.0/24", "2001:db8::/32", "--reason", "kept"]).done();
    assert!(
        added.stderr.contains("4 of 4 IPv4 entries are in use") && added.stderr.contains("resize"),
        "{added:?}"
    );
    let status = host.ctl(&["status"]).done();
    assert!(status.stdout.contains("4 of 4 IPv4, 1 of 2 IPv6"), "{status:?}");
    assert!(status.stderr.contains("4 of 4 IPv4 entries are in use"), "{status:?}");

    fails(&host.ctl(&["resize", "--max-ipv4", "3"]), 1, &["4 entries are in use", "nothing was changed"]);
    fails(&host.ctl(&["block", "add", "203.0.113.4"]), 1, &["at most 4"]);
    let resized = host.ctl(&["resize", "--max-ipv4", "5"]).done();
    assert!(resized.stdout.contains("room for 5 IPv4 and 2 IPv6 entries"), "{resized:?}");
    host.ctl(&["block", "add", "203.0.113.4"]).done();
    fails(&host.ctl(&["block", "add", "203.0.113.5"]), 1, &["at most 5"]);
    assert_eq!(listed(&host, "block").len(), 6);
    let json = host.ctl(&["resize", "--max-ipv6", "1", "--json"]).done().json();
    assert_eq!((json["max_ipv4"].as_u64(), json["max_ipv6"].as_u64()), (Some(5), Some(1)));
    let status = host.ctl(&["status", "--json"]).done().json();
    assert_eq!(status["entries"]["ipv6"]["near_full"], true, "{status}");
    assert!(status["memory"]["tables_bytes"].as_u64() > status["memory"]["counters_bytes"].as_u64());
    let kept = host.ctl(&["block", "list", "--json"]).done().json();
    let reason = |prefix| {
        kept["entries"].as_array().unwrap().iter().find(|e| e["prefix"] == prefix).unwrap()["reason"].clone()
    };
    assert_eq!((reason("2001:db8::/32"), reason("203.0.113.1/32")), ("kept".into(), Value::Null));
    // What does not fit in memory is refused, whatever this host has.
    let available = status["memory"]["available_bytes"].as_u64().unwrap();
    let vast = host.ctl(&["resize", "--max-ipv4", "4194304", "--max-ipv6", "4194304"]);
    if available < 1 << 30 {
        fails(&vast, 1, &["MiB of memory are available"]);
    } else {
        vast.done();
        host.ctl(&["resize", "--max-ipv4", "6", "--max-ipv6", "2"]).done();
    }
    assert_eq!(listed(&host, "block").len(), 6);
}

#[test]
fn what_would_lock_the_operator_out_needs_force() {
    let (server, client) = (host(), Host::new("client").unwrap());
    join(&server, "eth0", &client, "eth0").unwrap();
    server.ip("addr add 192.0.2.1/24 dev eth0").unwrap();
    server.ip("addr add 2001:db8::1/64 dev eth0").unwrap();
    server.ip("route add default via 192.0.2.254").unwrap();
    client.ip("addr add 192.0.2.2/24 dev eth0").unwrap();
    client.ip("addr add 192.0.2.3/24 dev eth0").unwrap();
    server.ctl(&["load", "flt0"]).done();

    // An SSH session is an established connection to port 22, whoever is behind it.
    let listener = server.run(|| TcpListener::bind("192.0.2.1:22").unwrap());
    let session = client.run(|| TcpStream::connect("192.0.2.1:22").unwrap());
    let (mut accepted, _) = listener.accept().unwrap();

    for (prefix, harm) in [
        ("192.0.2.1", "192.0.2.1, an address of this host"),
        ("192.0.2.0/31", "192.0.2.1, an address of this host"),
        ("2001:db8::/32", "2001:db8::1, an address of this host"),
        ("192.0.2.254", "192.0.2.254, the gateway"),
        ("192.0.2.2", "192.0.2.2, which is connected to this host by SSH"),
        ("192.0.2.2/31", "192.0.2.2, which is connected to this host by SSH"),
        ("0.0.0.0/0", "every address"),
        ("::/0", "every address"),
    ] {
        fails(
            &server.ctl(&["block", "add", "203.0.113.7", prefix]),
            1,
            &[harm, "--force", "nothing was added"],
        );
    }
    // Who bans whoever is connected by SSH may, and nothing worse.
    for (prefix, harm) in [("192.0.2.0/30", "an address of this host"), ("192.0.2.252/30", "the gateway")] {
        fails(&server.ctl(&["block", "add", prefix, "--cut-ssh"]), 1, &[harm, "nothing was added"]);
    }
    server.ctl(&["block", "add", "192.0.2.2/31", "--cut-ssh"]).done();
    server.ctl(&["block", "del", "192.0.2.2/31"]).done();
    fails(&server.ctl(&["allow", "add", "0.0.0.0/0"]), 1, &["no block would have any effect"]);
    assert_eq!(listed(&server, "block"), [""; 0]);
    server.ctl(&["allow", "add", "192.0.2.0/24"]).done();
    server.ctl(&["block", "add", "192.0.2.3"]).done();
    server.ctl(&["block", "add", "192.0.2.2", "0.0.0.0/0", "--force"]).done();

    // Once the session is over, its address is like any other.
    server.ctl(&["block", "flush"]).done();
    drop(session);
    accepted.read_to_end(&mut Vec::new()).unwrap();
    drop(accepted);
    server.ctl(&["block", "add", "192.0.2.2"]).done();
}

#[test]
fn two_hundred_concurrent_adds_lose_none() {
    const COMMANDS: u8 = 200;
    let host = filtering();
    let children: Vec<_> = (0..COMMANDS)
        .map(|number| {
            let prefix = format!("203.0.113.{number}");
            host.spawn(host.filter_ctl(&["block", "add", &prefix, "--lock-wait", "60s"])).unwrap()
        })
        .collect();
    for child in children {
        Finished::from(child.wait_with_output().unwrap()).done();
    }
    let mut want: Vec<String> = (0..COMMANDS).map(|number| format!("203.0.113.{number}/32")).collect();
    let mut have = listed(&host, "block");
    want.sort();
    have.sort();
    assert_eq!(have, want);
}

#[test]
fn the_wait_for_the_lock_is_bounded() {
    let host = filtering();
    let lock = host.run(|| Lock::acquire(&pins(), LOCK_WAIT).unwrap());
    let refused = host.ctl(&["block", "add", "203.0.113.7", "--lock-wait", "50ms"]);
    fails(&refused, 1, &["lock", "50ms", "--lock-wait"]);
    drop(lock);
    host.ctl(&["block", "add", "203.0.113.7", "--lock-wait", "50ms"]).done();
}

#[test]
fn everything_that_prints_prints_json() {
    let host = host();
    for arguments in [
        &["load", "flt0"][..],
        &["load", "flt0"],
        &["status"],
        &["block", "add", "203.0.113.7"],
        &["allow", "add", "203.0.113.7"],
        &["block", "list"],
        &["stats", "--over", "0s"],
        &["stats", "--over", "10ms"],
        &["block", "del", "203.0.113.7"],
        &["allow", "flush"],
        &["explain", "203.0.113.7"],
        &["explain", "--offline", "203.0.113.7"],
        &["malformed", "list"],
        &["malformed", "pass", "udp_length"],
        &["unload", "--all"],
    ] {
        let arguments: Vec<_> = arguments.iter().copied().chain(["--json"]).collect();
        host.ctl(&arguments).done().json();
    }
    let error = host.ctl(&["status", "--json"]);
    assert_eq!((error.code, error.stdout.as_str()), (Some(3), ""));
    let error: Value = serde_json::from_str(&error.stderr).unwrap();
    assert_eq!((&error["schema"], &error["error"]["exit_code"]), (&1.into(), &3.into()));
    assert!(error["error"]["message"].as_str().unwrap().contains("no loaded filter"));
    let usage = host.ctl(&["block", "add", "--json"]);
    let error: Value = serde_json::from_str(&usage.stderr).unwrap();
    assert_eq!((usage.code, &error["error"]["exit_code"]), (Some(2), &2.into()));
}

#[test]
fn an_address_is_explained_by_the_kernel_and_offline_alike() {
    let host = filtering();
    host.ctl(&["block", "add", "203.0.0.0/16", "203.0.113.0/24", "--ttl", "1h", "--reason", "SYN flood"])
        .done();
    host.ctl(&["allow", "add", "203.0.113.7", "2001:db8::/32"]).done();
    let offline = [
        "--offline",
        "--block",
        "203.0.0.0/16",
        "--block",
        "203.0.113.0/24",
        "--allow",
        "203.0.113.7",
        "--allow",
        "2001:db8::/32",
    ];
    for (address, verdict, reason, entry, covering) in [
        ("203.0.113.8", "drop", "blocked", Some("203.0.113.0/24"), 2),
        ("::ffff:203.0.113.8", "drop", "blocked", Some("203.0.113.0/24"), 2),
        ("203.0.1.1", "drop", "blocked", Some("203.0.0.0/16"), 1),
        ("203.0.113.7", "pass", "allowed", Some("203.0.113.7/32"), 3),
        ("198.51.100.1", "pass", "no_match", None, 0),
        ("2001:db8::5", "pass", "allowed", Some("2001:db8::/32"), 1),
    ] {
        let online = host.ctl(&["explain", address, "--json"]).done().json();
        let offline: Vec<_> = ["explain", address, "--json"].into_iter().chain(offline).collect();
        let offline = host.ctl(&offline).done().json();
        for answer in [&online, &offline] {
            assert_eq!(
                (&answer["verdict"], &answer["reason"]),
                (&verdict.into(), &reason.into()),
                "{answer}"
            );
            assert_eq!(answer["entry"]["prefix"].as_str(), entry, "{answer}");
            assert_eq!(answer["covering"].as_array().unwrap().len(), covering, "{answer}");
        }
        assert_eq!((&online["offline"], &offline["offline"]), (&false.into(), &true.into()));
        assert_eq!(online["packet"], offline["packet"]);
    }
    let words = host.ctl(&["explain", "203.0.113.8"]).done().stdout;
    for said in [
        "drop: blocked",
        "decided by block 203.0.113.0/24",
        "SYN flood",
        "also covered by block 203.0.0.0/16",
    ] {
        assert!(words.contains(said), "{words}");
    }
    let stats = host.ctl(&["stats", "--over", "0s", "--json"]).done().json();
    assert_eq!(stats["entries"], serde_json::json!([]), "explaining counts nothing");
}

#[test]
fn frames_and_captures_are_explained() {
    use filter_tests::frames::{ethernet, ipv4, protocol, udp};
    let host = filtering();
    let frame = ethernet(&[(0x8100, 5)], 0x0800, &ipv4("203.0.113.8", protocol::UDP, &udp(b"data")));
    let hex: String = frame.iter().map(|byte| format!("{byte:02x} ")).collect();
    let answer = host.ctl(&["explain", "--frame", &hex, "--json"]).done().json();
    assert_eq!(answer["reason"], "no_match");
    let transport = serde_json::json!({"protocol": "udp", "source_port": 12345, "destination_port": 53});
    assert_eq!(answer["packet"]["transport"], transport);
    let cut = host.ctl(&["explain", "--frame", &hex[..99]]).done().stdout;
    assert!(cut.contains("drop: ipv4_truncated") && cut.contains("33 bytes: can't be read"), "{cut}");
    fails(&host.ctl(&["explain", "--frame", "00"]), 1, &["1 bytes long", "--offline"]);
    let short = host.ctl(&["explain", "--frame", "00", "--offline"]).done().stdout;
    assert!(short.contains("drop: ethernet_truncated"), "{short}");

    // A capture by hand: magic, version 2.4, no offset, snap length, Ethernet; then two records.
    let mut capture =
        [&0xa1b2_c3d4u32.to_le_bytes()[..], &[2, 0, 4, 0], &[0; 8], &[0, 0, 1, 0], &[1, 0, 0, 0]].concat();
    for frame in [&frame[..20], &frame[..]] {
        let length = u32::try_from(frame.len()).unwrap().to_le_bytes();
        capture.extend([&[0; 8], &length[..], &length, frame].concat());
    }
    let path = std::env::temp_dir().join(format!("filter-ctl-test-{}.pcap", std::process::id()));
    std::fs::write(&path, &capture).unwrap();
    let packet = |number: u32| format!("{}:{number}", path.display());
    host.ctl(&["block", "add", "203.0.113.8"]).done();
    let second = host.ctl(&["explain", "--pcap", &packet(2), "--json"]).done().json();
    assert_eq!((&second["reason"], &second["length"]), (&"blocked".into(), &frame.len().into()));
    assert_eq!(
        host.ctl(&["explain", "--pcap", &packet(1), "--json"]).done().json()["reason"],
        "ipv4_truncated"
    );
    fails(&host.ctl(&["explain", "--pcap", &packet(3)]), 1, &["has no packet 3"]);
    std::fs::write(&path, &capture[..capture.len() - 1]).unwrap();
    fails(&host.ctl(&["explain", "--pcap", &packet(2)]), 1, &["has no packet 2"]);
    // A snap length: the record says that the frame was longer.
    capture[36] += 1;
    std::fs::write(&path, &capture).unwrap();
    fails(&host.ctl(&["explain", "--pcap", &packet(1)]), 1, &["captured only to 20 of its 21 bytes"]);
    std::fs::write(&path, "no capture at all, whatever its name").unwrap();
    fails(&host.ctl(&["explain", "--pcap", &packet(1)]), 1, &["is no pcap or pcapng file"]);
    std::fs::remove_file(&path).unwrap();
}

#[test]
fn faults_can_be_tolerated_and_are_listed() {
    let host = filtering();
    let verdict = |fault: &str| {
        let list = host.ctl(&["malformed", "list", "--json"]).done().json();
        let fault =
            list["faults"].as_array().unwrap().iter().find(|listed| listed["reason"] == fault).cloned();
        fault.unwrap()["verdict"].as_str().unwrap().to_owned()
    };
    assert_eq!(verdict("udp_length"), "drop");
    assert_eq!(
        host.ctl(&["malformed", "pass", "udp_length", "vlan_too_deep"]).done().stdout,
        "udp_length: pass\nvlan_too_deep: pass\n"
    );
    assert_eq!((verdict("udp_length"), verdict("tcp_truncated")), ("pass".into(), "drop".into()));
    // One wrong name, and nothing is set.
    assert_eq!(host.ctl(&["malformed", "drop", "udp_length", "nonsense"]).code, Some(2));
    assert_eq!(verdict("udp_length"), "pass");
    host.ctl(&["malformed", "drop", "udp_length"]).done();
    assert_eq!(verdict("udp_length"), "drop");
    let mut command = host.filter_ctl(&["malformed", "pass", "udp_length"]);
    command.stdout(std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap());
    let unreported = Finished::from(host.spawn(command).unwrap().wait_with_output().unwrap());
    fails(&unreported, 4, &["the change was made"]);
    // Where nothing is filtered, an explanation of what would be says so.
    host.ip("link del flt0").unwrap();
    let explained = host.ctl(&["explain", "203.0.113.7"]).done();
    assert!(explained.stderr.contains("flt0 is not filtered"), "{explained:?}");
    assert!(host.ctl(&["malformed", "list"]).done().stderr.contains("flt0 is not filtered"));
}

#[test]
fn a_change_that_cant_be_reported_is_made_all_the_same() {
    let host = filtering();
    let with_output = |arguments: &[&str], output: Stdio| {
        let mut command = host.filter_ctl(arguments);
        command.stdout(output);
        Finished::from(host.spawn(command).unwrap().wait_with_output().unwrap())
    };
    let full = || Stdio::from(std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap());
    fails(
        &with_output(&["block", "add", "203.0.113.7"], full()),
        4,
        &["the change was made", "standard output"],
    );
    assert_eq!(listed(&host, "block"), ["203.0.113.7/32"]);
    fails(&with_output(&["block", "list"], full()), 1, &["standard output"]);
    fails(&with_output(&["load", "flt0"], full()), 4, &["the change was made"]);
    // A closed pipe does not change what the exit code says.
    let closed = || Stdio::from(std::io::pipe().unwrap().1);
    assert_eq!(with_output(&["block", "del", "203.0.113.7", "203.0.113.8"], closed()).code, Some(4));
    assert_eq!(with_output(&["completions", "bash"], closed()).code, Some(0));
}

#[test]
fn a_time_to_live_starts_when_the_entry_is_made() {
    let host = filtering();
    let lock = host.run(|| Lock::acquire(&pins(), LOCK_WAIT).unwrap());
    let add = host
        .spawn(host.filter_ctl(&["block", "add", "203.0.113.7", "--ttl", "30s", "--lock-wait", "60s"]))
        .unwrap();
    let start = std::time::Instant::now();
    eventually("the command has waited", || start.elapsed().as_secs() >= 2).unwrap();
    drop(lock);
    Finished::from(add.wait_with_output().unwrap()).done();
    let list = host.ctl(&["block", "list", "--json"]).done().json();
    assert!(list["entries"][0]["expires_in_s"].as_u64().unwrap() >= 29, "{list}");
}

#[test]
fn what_comes_from_strangers_does_not_reach_the_terminal_raw() {
    let host = filtering();
    let refused = with_input(&host, &["block", "add", "-"], "\u{1b}[31mHELLO\u{7}\n");
    fails(&refused, 2, &["\\u{1b}[31mHELLO\\u{7}"]);
    assert!(!refused.stderr.contains('\u{1b}'));
    host.ip("link add \u{1b}[31mx type veth peer name peer9").unwrap();
    let named = host.ctl(&["load", "nope"]);
    assert!(named.stderr.contains("[31mx") && !named.stderr.contains('\u{1b}'), "{named:?}");
}

#[test]
fn statistics_can_be_watched() {
    let host = filtering();
    let mut child = host.spawn(host.filter_ctl(&["stats", "--watch", "0.1", "--json"])).unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().unwrap()));
    let mut next = || serde_json::from_str::<Value>(&lines.next().unwrap().unwrap()).unwrap();
    assert_eq!(next()["interval_s"], Value::Null);
    let second = next();
    assert!(second["interval_s"].as_f64().unwrap() >= 0.1, "{second}");
    assert_eq!(second["interfaces"][0]["dropped"]["packets_per_second"], 0.0);
    host.ctl(&["unload", "--all"]).done();
    let status = child.wait().unwrap();
    assert_eq!(status.code(), Some(3), "a watch ends when the filter is gone");
}

#[test]
fn a_closed_pipe_is_no_fault() {
    let host = filtering();
    let many: String = (0..2000).map(|number| format!("10.{}.{}.1\n", number / 256, number % 256)).collect();
    with_input(&host, &["block", "add", "-"], &many).done();
    let mut child = host.spawn(host.filter_ctl(&["block", "list", "--json"])).unwrap();
    child.stdout.take().unwrap().read_exact(&mut [0]).unwrap();
    let finished = Finished::from(child.wait_with_output().unwrap());
    assert_eq!((finished.code, finished.stderr.as_str()), (Some(0), ""));
}

#[test]
fn completions_are_scripts() {
    let host = host();
    let script = host.ctl(&["completions", "bash"]).done().stdout;
    assert!(script.contains("complete -F "), "{script}");
    // Longer than an argument may be.
    host.run(|| std::fs::write("/run/completions", script)).unwrap();
    // As bash calls it when a word is to be completed.
    let complete = |words: &str, current: usize| {
        let call = format!(
            ". /run/completions; COMP_WORDS=({words}); COMP_CWORD={current}; _filter__ctl filter-ctl \"${{COMP_WORDS[{current}]}}\" \
             \"${{COMP_WORDS[{current}-1]}}\"; echo \"${{COMPREPLY[@]}}\""
        );
        host.sh("bash", ["-c", &call]).unwrap()
    };
    assert!(complete("filter-ctl blo", 1).contains("block"));
    assert!(complete("filter-ctl block a", 2).contains("add"));
    assert!(complete("filter-ctl stats --w", 2).contains("--watch"));
    assert!(complete("filter-ctl allow add --t", 3).contains("--ttl"));
}

#[test]
fn a_pin_root_that_others_could_prepare_is_refused() {
    let host = host();
    host.sh("mkdir", ["-m", "755", "/sys/fs/bpf/theirs"]).unwrap();
    host.sh("chown", ["65534", "/sys/fs/bpf/theirs"]).unwrap();
    host.sh("mkdir", ["-m", "777", "/sys/fs/bpf/open"]).unwrap();
    let with_root = |root| host.ctl(&["load", "flt0", "--pin-root", root]);
    fails(&with_root("/sys/fs/bpf/theirs"), 1, &["belongs to user 65534"]);
    fails(&with_root("/sys/fs/bpf/open"), 1, &["can be written by others", "chmod 700"]);
    fails(&with_root("/sys/fs/bpf/a.b"), 1, &["dot"]);
    fails(&with_root("/proc/filter"), 1, &["not on a BPF file system", "mount -t bpf"]);
    host.sh("ln", ["-s", "/sys/fs/bpf/theirs", "/sys/fs/bpf/link"]).unwrap();
    fails(&with_root("/sys/fs/bpf/link"), 1, &["symbolic link"]);
    fails(&with_root("/sys/fs/bpf/no/where"), 1, &["/sys/fs/bpf/no"]);
    assert_eq!(host.ctl(&["status", "--pin-root", "/sys/fs/bpf/open"]).code, Some(1));
    with_root("/sys/fs/bpf/own").done();
    let mode = host.sh("stat", ["-c", "%a %u", "/sys/fs/bpf/own"]).unwrap();
    assert_eq!(mode, "700 0\n");
}

#[test]
fn somebody_who_is_not_root_can_prepare_nothing() {
    let host = host();
    // As `mount -t bpf bpf /sys/fs/bpf` leaves it.
    host.sh("mount", ["-t", "bpf", "-o", "mode=1777", "bpf", "/sys/fs/bpf"]).unwrap();
    // The build may lie where nobody else can go.
    host.sh("mount", ["-t", "tmpfs", "tmpfs", "/mnt"]).unwrap();
    host.sh(
        "install",
        ["-m", "755", &filter_tests::lab::filter_ctl_path().to_string_lossy(), "/mnt/filter-ctl"],
    )
    .unwrap();
    let as_nobody = |arguments: &[&str]| {
        let mut command = std::process::Command::new("setpriv");
        command.args(["--reuid=65534", "--clear-groups", "/mnt/filter-ctl"]).args(arguments);
        Finished::from(host.output(command).unwrap())
    };
    fails(&as_nobody(&["load", "flt0"]), 1, &["needs root"]);
    host.ctl(&["load", "flt0"]).done();
    fails(&as_nobody(&["load", "flt0"]), 1, &["root"]);
    fails(&as_nobody(&["status"]), 1, &["run it as root"]);
}

#[test]
fn a_pin_that_is_not_ours_is_left_alone() {
    let entries = || pins().set().unwrap().unwrap().map(&filter_common::abi::ENTRIES);
    let host = filtering();
    host.run(move || {
        let path = entries();
        std::fs::remove_file(&path).unwrap();
        aya::maps::Array::<_, u32>::create(7, 0).unwrap().pin(&path).unwrap();
    });
    for arguments in [&["block", "add", "203.0.113.7"][..], &["status"], &["load", "flt0"]] {
        fails(&host.ctl(arguments), 1, &["entries is not a map of this program", "left alone"]);
    }
    host.run(move || std::fs::remove_file(entries()).unwrap());
    // A new map in its place would be one that the running program does not use.
    for arguments in [&["status"][..], &["load", "flt0"], &["load", "flt1"]] {
        fails(&host.ctl(arguments), 1, &["entries is missing", "unload --all"]);
    }
    // Whatever the state of the maps, the filter can be taken off.
    host.ctl(&["unload", "--all"]).done();
    assert!(!host.ip("link show flt0").unwrap().contains("xdp"));
}
