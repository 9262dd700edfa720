//! `top` on the wire: what it says of who and what was dropped and passed, against what was sent. Needs root.

#![expect(clippy::unwrap_used, reason = "a panic is how a test reports")]

use std::collections::BTreeMap;
use std::time::Duration;

use filter_ctl::host::monotonic_now;
use filter_ctl::kernel::recorder::Passed;
use filter_tests::flood::{Flood, Kind, Wave};
use filter_tests::frames::{self, ethernet, ipv4, ipv6, protocol};
use filter_tests::kernel_side::pins;
use filter_tests::lab::{Host, eventually, fails, join};
use filter_tests::packets::Port;
use serde_json::Value;

/// The filtered interface, and the other end of its cable.
const FILTERED: &str = "flt0";
const PEER: &str = "peer0";

struct Lab {
    server: Host,
    network: Host,
}

/// What is sent: how often, the source, and the frame.
type Mix = [(u32, &'static str, Vec<u8>)];

impl Lab {
    fn new() -> Self {
        let (server, network) = (Host::new("server").unwrap(), Host::new("network").unwrap());
        join(&server, FILTERED, &network, PEER).unwrap();
        server.ctl(&["load", FILTERED, "--max-ipv4", "2000", "--max-ipv6", "500"]).done();
        Self { server, network }
    }

    fn top(&self, arguments: &[&str]) -> Value {
        let arguments = [&["top", "--json", "--limit", "100"], arguments].concat();
        self.server.ctl(&arguments).done().json()
    }

    /// Sends a mix over and over, and waits until all frames of it have been counted.
    fn send(&self, rounds: u32, mix: &Mix) {
        let before = self.counted();
        let mut port = self.network.run(|| Port::open(PEER).unwrap());
        for _ in 0..rounds {
            for (count, _, frame) in mix {
                (0..*count).for_each(|_| port.send(frame).unwrap());
            }
        }
        let sent: u32 = mix.iter().map(|(count, ..)| count * rounds).sum();
        eventually("all frames are counted", || self.counted() >= before + u64::from(sent)).unwrap();
    }

    fn counted(&self) -> u64 {
        let stats = self.server.ctl(&["stats", "--over", "0s", "--json"]).done().json();
        let packets = |verdict: &str| stats["interfaces"][0][verdict]["packets"].as_u64().unwrap();
        packets("dropped") + packets("passed")
    }

    /// Until when frames that pass are recorded, and zero if they are not.
    fn recording_passed(&self) -> u64 {
        self.server.run(|| Passed::open(&pins()).unwrap().until_s())
    }
}

/// Rows by key.
fn rows(top: &Value) -> BTreeMap<String, Value> {
    let rows = top["rows"].as_array().unwrap();
    rows.iter().map(|row| (row["key"].as_str().unwrap().to_owned(), row.clone())).collect()
}

/// Checks each true number against the bounds that are stated for it, and which rows have no error.
///
/// Of a hundred intervals five don't hold, so what no draw of chance explains is three times as far away; that 95 hold is
/// checked over many simulated floods.
#[track_caller]
fn holds(top: &Value, truth: &[(&str, u64)], exact: &[&str]) {
    let rows = rows(top);
    assert_eq!(rows.len(), truth.len(), "{top:#}");
    for (key, packets) in truth {
        let row = rows.get(*key).unwrap_or_else(|| panic!("no row {key}: {top:#}"));
        let number = |name: &str| row[name].as_u64().unwrap();
        let (lower, estimate, upper) = (number("packets_lower"), number("packets"), number("packets_upper"));
        let error = if *packets < estimate { estimate - lower } else { upper - estimate };
        assert!(packets.abs_diff(estimate) <= 3 * error, "{packets} of {key}: {row:#}");
        assert_eq!(row["is_exact"], exact.contains(key), "{key}: {row:#}");
        if exact.contains(key) {
            assert_eq!(number("packets"), *packets, "{key}");
        }
        assert!(number("packets_upper") <= top["totals"]["frames"].as_u64().unwrap(), "{row:#}");
    }
}

/// An UDP datagram with these ports.
fn udp(source: &str, ports: (u16, u16), payload: usize) -> Vec<u8> {
    let length = u16::try_from(8 + payload).unwrap();
    let header = [ports.0, ports.1, length, 0].map(u16::to_be_bytes).concat();
    let datagram = [header, vec![0; payload]].concat();
    ethernet(&[], 0x0800, &ipv4(source, protocol::UDP, &datagram))
}

/// What is dropped: a network that answers to DNS and NTP, a host with SYNs, one of IPv6, and datagrams that lie.
fn dropped() -> [(u32, &'static str, Vec<u8>); 5] {
    let lie = frames::udp_with(4, &[0; 18]);
    [
        (6, "203.0.113.1", udp("203.0.113.1", (53, 4444), 400)),
        (3, "203.0.113.2", udp("203.0.113.2", (123, 80), 100)),
        (2, "198.51.100.7", ethernet(&[], 0x0800, &ipv4("198.51.100.7", protocol::TCP, &frames::tcp()))),
        (
            1,
            "2001:db8:bad::7",
            ethernet(&[], 0x86dd, &ipv6("2001:db8:bad::7", protocol::UDP, &frames::udp(&[]))),
        ),
        (1, "10.0.0.1", ethernet(&[], 0x0800, &ipv4("10.0.0.1", protocol::UDP, &lie))),
    ]
}

const BLOCKED: [&str; 3] = ["203.0.113.0/24", "198.51.100.7", "2001:db8:bad::7"];

#[test]
fn the_true_numbers_lie_in_the_stated_intervals() {
    const ROUNDS: u64 = 1000;
    let lab = Lab::new();
    lab.server.ctl(&[&["block", "add"], &BLOCKED[..]].concat()).done();
    lab.send(u32::try_from(ROUNDS).unwrap(), &dropped());

    let sources = lab.top(&["sources"]);
    let truth = [
        ("203.0.113.1", 6 * ROUNDS),
        ("203.0.113.2", 3 * ROUNDS),
        ("198.51.100.7", 2 * ROUNDS),
        ("2001:db8:bad::7", ROUNDS),
        ("10.0.0.1", ROUNDS),
    ];
    holds(&sources, &truth, &["198.51.100.7", "2001:db8:bad::7"]);
    assert_eq!(sources["totals"]["frames"], 13 * ROUNDS);
    assert!(sources["totals"]["kept"].as_u64() < sources["totals"]["sampled"].as_u64());
    assert!(sources["totals"]["unsampled_share"].as_f64().unwrap() > 0.5);

    let prefixes = lab.top(&["prefixes"]);
    let entries = ["203.0.113.0/24", "198.51.100.7/32", "2001:db8:bad::7/128"];
    let counts = [9 * ROUNDS, 2 * ROUNDS, ROUNDS];
    let mut truth: Vec<_> = entries.into_iter().zip(counts).collect();
    truth.push(("10.0.0.0/24 (no entry)", ROUNDS));
    holds(&prefixes, &truth, &entries);

    let reasons = lab.top(&["reasons"]);
    let truth = [("blocked", 12 * ROUNDS), ("udp_length", ROUNDS)];
    holds(&reasons, &truth, &["blocked", "udp_length"]);
    assert_eq!(reasons["whole"]["packets"], 13 * ROUNDS);
    // Since a time there are no counters; but what a ring holds is of one reason.
    let since = lab.top(&["reasons", "--since", "1h"]);
    holds(&since, &truth, &[]);
    assert!(rows(&since).values().all(|row| row["packets_lower"] == row["packets_upper"]), "{since:#}");
    assert_eq!(since["whole"]["packets"], 13 * ROUNDS);

    holds(&lab.top(&["protocols"]), &[("udp", 11 * ROUNDS), ("tcp", 2 * ROUNDS)], &[]);
    let lengths = [("256-511", 6), ("128-255", 3), ("under 64", 2), ("64", 1), ("65-127", 1)];
    let lengths = lengths.map(|(group, frames)| (group, frames * ROUNDS));
    holds(&lab.top(&["lengths"]), &lengths, &[]);
    let text = lab.server.ctl(&["top", "sources"]).done().stdout;
    assert!(text.contains("13,000 frames dropped") && !text.contains('\u{1b}'), "{text}");
    // An interface by name is the only one there is; its entries have no count of their own.
    let named = lab.top(&["prefixes", "--interface", FILTERED]);
    assert!(rows(&named).values().all(|row| row["is_exact"] == false), "{named:#}");
}

#[test]
fn what_is_sampled_whole_has_no_error() {
    let lab = Lab::new();
    lab.server.ctl(&["block", "add", "203.0.113.0/24"]).done();
    let few =
        [(2, "203.0.113.1", udp("203.0.113.1", (53, 4444), 18)), (1, "", udp("203.0.113.2", (53, 80), 18))];
    lab.send(2, &few);
    let ports = lab.top(&["ports"]);
    holds(&ports, &[("4444/udp", 4), ("80/udp", 2)], &["4444/udp", "80/udp"]);
    assert_eq!(rows(&ports)["4444/udp"]["bytes"], 4 * 60);
    assert_eq!(ports["totals"]["unsampled_share"], 0.0);
    holds(&lab.top(&["source-ports"]), &[("53/udp", 6)], &["53/udp"]);
    holds(
        &lab.top(&["sources", "--since", "1h"]),
        &[("203.0.113.1", 4), ("203.0.113.2", 2)],
        &["203.0.113.1", "203.0.113.2"],
    );
}

#[test]
fn a_flood_is_looked_at_while_it_is_on() {
    let lab = Lab::new();
    let source = |text: &str| filter_ctl::policy::Prefix::parse(text, false).unwrap();
    let waves = [(Kind::Udp, "192.0.2.1:53"), (Kind::Syn, "192.0.2.1:80")].map(|(kind, target)| Wave {
        kind,
        target: target.parse().unwrap(),
        sources: vec![source("203.0.113.0/24")],
    });
    lab.server.ctl(&["block", "add", "203.0.113.0/24"]).done();
    let flood = Flood::new((&lab.network, PEER), (&lab.server, FILTERED), &waves).unwrap();
    let running = flood.start(0, Duration::from_secs(60));
    eventually("the flood has begun", || flood.arrived().is_ok_and(|arrived| arrived > 100_000)).unwrap();
    let sent_before = flood.arrived().unwrap();
    let ports = lab.top(&["ports", "--for", "2s"]);
    let prefixes = lab.top(&["prefixes", "--for", "1s"]);
    let text = lab.server.ctl(&["top", "sources", "--for", "1s"]).done().stdout;
    let sent = flood.arrived().unwrap() - sent_before;
    running.stop().unwrap();

    let whole = ports["whole"]["packets"].as_u64().unwrap();
    assert!(whole > 1_000 && whole < sent, "{whole} of {sent}: {ports:#}");
    let rows_of_ports = rows(&ports);
    assert_eq!(rows_of_ports.keys().collect::<Vec<_>>(), ["53/udp", "80/tcp"]);
    let sum: u64 = rows_of_ports.values().map(|row| row["packets"].as_u64().unwrap()).sum();
    assert!(sum.abs_diff(whole) <= 2, "{ports:#}");
    for row in rows_of_ports.values() {
        let (packets, rate) = (row["packets"].as_u64().unwrap(), row["packets_per_second"].as_f64().unwrap());
        let interval_s = ports["interval_s"].as_f64().unwrap();
        #[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
        let wanted = packets as f64 / interval_s;
        assert!((rate - wanted).abs() <= 1.0 && interval_s >= 2.0, "{row:#}");
        assert_eq!(row["is_exact"], false);
    }
    assert!(ports["totals"]["kept"].as_u64().unwrap() > 20, "{ports:#}");
    let prefix = &rows(&prefixes)["203.0.113.0/24"];
    assert_eq!(prefix["is_exact"], true);
    assert!(prefix["packets"].as_u64().unwrap() < sent, "{prefixes:#}");
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
}

#[test]
fn what_passes_is_recorded_for_the_time_that_is_asked_for() {
    let lab = Lab::new();
    lab.server.ctl(&["allow", "add", "203.0.113.0/24"]).done();
    let passing = [
        (2, "203.0.113.1", udp("203.0.113.1", (53, 4444), 400)),
        (1, "10.0.0.1", udp("10.0.0.1", (123, 80), 100)),
    ];
    lab.send(2, &passing);
    // Counters know of what no recorder does.
    let entries = lab.top(&["prefixes", "--passed"]);
    assert_eq!(rows(&entries)["203.0.113.0/24"]["packets"], 4);
    let unrecorded = lab.server.ctl(&["top", "ports", "--passed"]);
    fails(&unrecorded, 5, &["not being recorded", "filter-ctl record passed --for 10m"]);

    let mut command = lab.server.filter_ctl(&["top", "ports", "--passed", "--for", "3s", "--json"]);
    command.stdout(std::process::Stdio::piped());
    let looking = lab.server.spawn(command).unwrap();
    eventually("the recording is on", || lab.recording_passed() > monotonic_now().as_secs()).unwrap();
    lab.send(100, &passing);
    let looked: filter_tests::lab::Finished = looking.wait_with_output().unwrap().into();
    let looked = looked.done().json();
    let found = rows(&looked);
    assert!(found.contains_key("4444/udp") && found.contains_key("80/udp"), "{looked:#}");
    for (key, packets) in [("4444/udp", 200), ("80/udp", 100)] {
        // Recording may have begun before the first reading: then some are not of this time.
        let lower = found[key]["packets_lower"].as_u64().unwrap();
        assert!(lower <= packets, "{looked:#}");
    }
    assert_eq!(lab.recording_passed(), 0);

    // A later end that somebody else wants is kept.
    let until_s = monotonic_now().as_secs() + 600;
    lab.server.run(|| Passed::open(&pins()).unwrap().set_until_s(until_s));
    let _ = lab.server.ctl(&["top", "ports", "--passed", "--for", "1s"]);
    assert_eq!(lab.recording_passed(), until_s);
    let recorded = lab.server.ctl(&["top", "ports", "--passed"]).done();
    assert!(!recorded.stderr.contains("not being recorded"), "{recorded:?}");
}

#[test]
fn a_process_that_is_killed_leaves_nothing_on() {
    let lab = Lab::new();
    let mut looking =
        lab.server.spawn(lab.server.filter_ctl(&["top", "ports", "--passed", "--for", "2s"])).unwrap();
    eventually("the recording is on", || lab.recording_passed() > 0).unwrap();
    looking.kill().unwrap();
    looking.wait().unwrap();
    let until_s = lab.recording_passed();
    assert!(until_s <= monotonic_now().as_secs() + 5, "{until_s}");
}

#[test]
fn the_table_fits_eighty_columns() {
    let lab = Lab::new();
    let source = "2001:db8:1111:2222:3333:4444:5555:6666";
    lab.server.ctl(&["block", "add", "2001:db8::/32"]).done();
    lab.send(20, &[(1, source, ethernet(&[], 0x86dd, &ipv6(source, protocol::UDP, &frames::udp(&[]))))]);
    for by in ["sources", "prefixes", "destinations", "ports", "protocols", "reasons", "lengths"] {
        let shown = lab.server.ctl(&["top", by]).done().stdout;
        let widest = shown.lines().map(|line| line.chars().count()).max().unwrap();
        assert!(widest <= 80 && shown.lines().count() >= 3, "{widest} columns:\n{shown}");
    }
}

#[test]
fn where_there_is_nothing_it_says_why() {
    let host = Host::new("server").unwrap();
    fails(&host.ctl(&["top", "sources"]), 3, &["filter-ctl load"]);
    let lab = Lab::new();
    let top = |arguments: &[&str]| lab.server.ctl(&[&["top"], arguments].concat());
    fails(&top(&["sources"]), 5, &["no frame that was dropped is counted or recorded yet"]);
    fails(&top(&["ports", "--since", "5m"]), 5, &["of the last 5m no frame"]);
    fails(&top(&["ports", "--for", "1s"]), 5, &["no frame was dropped in these 1s"]);
    fails(&top(&["ports", "--interface", "eth9"]), 3, &["eth9 is not filtered", "filter-ctl status"]);
    fails(&top(&["ports", "--for", "0s"]), 2, &["from 1s to 1h"]);
    fails(&top(&["ports", "--for", "1s", "--since", "1s"]), 2, &["cannot be used with"]);
    let empty = top(&["ports", "--json"]);
    assert_eq!((empty.code, empty.json()["rows"].as_array().unwrap().len()), (Some(5), 0));
    assert_eq!(empty.json()["totals"]["unsampled_share"], 0.0);
}
