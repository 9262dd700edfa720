//! Lists: taken, held to their bounds, overlapping, rolled back, killed in the middle; and what no list may block. Needs
//! root.

#![expect(clippy::unwrap_used, reason = "a panic is how a test reports")]

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use filter_tests::kernel_side::test_run;
use filter_tests::lab::{Finished, Host, Running, eventually, fails, filter_ctl_path};
use serde_json::Value;

const XDP_DROP: u32 = 1;
const XDP_PASS: u32 = 2;

/// How often a command is killed, each time at another moment.
const ROUNDS: u32 = 40;

/// A host that filters `flt0`, in tables of the default size or larger ones.
fn filtering(arguments: &[&str]) -> Host {
    let host = Host::new("server").unwrap();
    host.ip("link add flt0 type veth peer name flt1").unwrap();
    host.ctl(&[&["load", "flt0"], arguments].concat()).done();
    host
}

/// A file that goes with the test.
struct Feed(PathBuf);

impl Feed {
    fn new(text: &str) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let feed = Self(std::env::temp_dir().join(format!("filter-feed-{}-{number}", std::process::id())));
        feed.write(text);
        feed
    }

    fn write(&self, text: &str) {
        fs::write(&self.0, text).unwrap();
    }

    fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// Lines of addresses from 198.18.0.0 on, of RFC 2544's network for tests.
fn addresses(numbers: impl IntoIterator<Item = u32>) -> String {
    let address = |number: u32| std::net::Ipv4Addr::from(0xc612_0000 + number).to_string();
    numbers.into_iter().map(|number| address(number) + "\n").collect()
}

fn add(host: &Host, name: &str, feed: &Feed, more: &[&str]) -> Finished {
    host.ctl(&[&["list", "add", name, "--file", feed.path()], more].concat())
}

/// What `explain` says: the verdict, and the lists that hold the address.
fn explained(host: &Host, address: &str) -> (String, Vec<String>) {
    let said = host.ctl(&["explain", address, "--json"]).done().json();
    let lists =
        said["lists"].as_array().unwrap().iter().map(|list| list["list"].as_str().unwrap().to_owned());
    (said["verdict"].as_str().unwrap().to_owned(), lists.collect())
}

fn verdict(host: &Host, address: &str) -> String {
    explained(host, address).0
}

fn action(host: &Host, source: &str) -> u32 {
    let frame = filter_ctl::kernel::explain::frame_from(source.parse().unwrap());
    host.run(|| test_run("flt0", &frame)).unwrap()
}

fn shown(host: &Host, name: &str) -> Value {
    host.ctl(&["list", "show", name, "--json"]).done().json()
}

#[track_caller]
fn all_is_well(host: &Host) {
    let verified = host.ctl(&["verify"]);
    assert_eq!(verified.code, Some(0), "{}{}", verified.stdout, verified.stderr);
}

/// Added, unchanged, removed.
fn numbers(report: &Value) -> [u64; 3] {
    ["added", "unchanged", "removed"].map(|name| report["lists"][0]["change"][name].as_u64().unwrap())
}

#[test]
fn a_list_is_taken_updated_rolled_back_and_removed() {
    let host = filtering(&[]);
    let feed = Feed::new("# two\n203.0.113.0/24 # scanner\n198.51.100.7\n");
    let added = add(&host, "scan", &feed, &["--json"]).done().json();
    assert_eq!(numbers(&added), [2, 0, 0]);
    assert_eq!(explained(&host, "203.0.113.9"), ("drop".into(), vec!["scan".into()]));

    feed.write("203.0.113.0/24\n2001:db8:bad::/48\n2001:db8:bad::/48\n2001:db8:bad:1::/64\n");
    let dry = host.ctl(&["list", "update", "scan", "--dry-run", "--json"]).done().json();
    assert_eq!((numbers(&dry), verdict(&host, "198.51.100.7")), ([2, 1, 1], "drop".into()));
    let updated = host.ctl(&["list", "update", "scan", "--json"]).done().json();
    assert_eq!(numbers(&updated), [2, 1, 1]);
    let found = &updated["lists"][0]["found"];
    assert_eq!([&found["duplicates"], &found["covered"], &found["refused"]], [1, 1, 0]);
    assert_eq!([verdict(&host, "198.51.100.7"), verdict(&host, "2001:db8:bad::1")], ["pass", "drop"]);
    let again = host.ctl(&["list", "update", "--json"]).done().json();
    assert_eq!(again["lists"][0]["outcome"], "unchanged");
    assert_eq!(shown(&host, "scan")["generation"], 2);

    host.ctl(&["list", "rollback", "scan"]).done();
    assert_eq!([verdict(&host, "198.51.100.7"), verdict(&host, "2001:db8:bad::1")], ["drop", "pass"]);
    assert_eq!(
        (shown(&host, "scan")["generation"].clone(), shown(&host, "scan")["held"].clone()),
        (1.into(), true.into())
    );
    fails(&host.ctl(&["list", "rollback", "scan"]), 1, &["no such generation", "1, 2"]);
    // Back from back.
    host.ctl(&["list", "rollback", "scan", "--to", "2"]).done();
    assert_eq!([verdict(&host, "198.51.100.7"), verdict(&host, "2001:db8:bad::1")], ["pass", "drop"]);
    host.ctl(&["list", "update", "scan"]).done();
    assert_eq!(shown(&host, "scan")["held"], false);
    all_is_well(&host);

    host.ctl(&["list", "remove", "scan"]).done();
    assert_eq!([verdict(&host, "203.0.113.9"), verdict(&host, "2001:db8:bad::1")], ["pass", "pass"]);
    fails(&host.ctl(&["list", "remove", "scan"]), 5, &["no list `scan`", "list ls"]);
    fails(&host.ctl(&["list", "show", "scan"]), 5, &["no list `scan`"]);
    all_is_well(&host);
}

#[test]
fn what_holds_a_prefix_keeps_it_when_another_lets_go() {
    let host = filtering(&[]);
    let (wide, narrow) =
        (Feed::new("203.0.113.0/24\n"), Feed::new("203.0.113.64/26\n203.0.113.0/24\n198.51.100.1\n"));
    add(&host, "wide", &wide, &[]).done();
    add(&host, "narrow", &narrow, &[]).done();
    host.ctl(&["block", "add", "203.0.113.64/26", "--ttl", "1h", "--reason", "flood"]).done();
    assert_eq!(explained(&host, "203.0.113.70").1, ["narrow", "wide"]);
    let holders = host.ctl(&["show", "203.0.113.64/26", "--json"]).done().json();
    let owners: Vec<_> =
        holders["decides"]["holders"].as_array().unwrap().iter().map(|h| h["owner"].clone()).collect();
    assert_eq!(owners, ["list:narrow", "manual"]);

    // The inner goes, and the outer still covers it.
    host.ctl(&["list", "remove", "narrow"]).done();
    assert_eq!([verdict(&host, "203.0.113.70"), verdict(&host, "198.51.100.1")], ["drop", "pass"]);
    // The outer goes, and the inner is still held.
    host.ctl(&["list", "remove", "wide"]).done();
    assert_eq!([verdict(&host, "203.0.113.70"), verdict(&host, "203.0.113.1")], ["drop", "pass"]);
    all_is_well(&host);
    add(&host, "narrow", &narrow, &[]).done();
    host.ctl(&["block", "del", "203.0.113.64/26"]).done();
    assert_eq!(verdict(&host, "203.0.113.70"), "drop");

    // What a list holds nobody lets go for it.
    let kept = host.ctl(&["block", "del", "203.0.113.0/24", "--any-owner"]);
    assert_eq!(kept.code, Some(5), "{kept:?}");
    assert_eq!(verdict(&host, "203.0.113.1"), "drop");
    fails(&host.ctl(&["block", "del", "203.0.113.0/24", "--owner", "list:narrow"]), 2, &["is a list"]);
    fails(&host.ctl(&["block", "add", "203.0.113.9", "--owner", "list:narrow"]), 2, &["is a list"]);
    host.ctl(&["block", "flush"]).done();
    assert_eq!(verdict(&host, "203.0.113.1"), "drop");
    all_is_well(&host);
}

#[test]
fn ends_and_owners_are_kept_apart() {
    let host = filtering(&[]);
    let feed = Feed::new(
        "create bad hash:net family inet\nadd bad 203.0.113.0/24 timeout 3\nadd bad 198.51.100.0/24 timeout 0\n",
    );
    add(&host, "set", &feed, &[]).done();
    host.ctl(&["block", "add", "203.0.113.0/25", "--ttl", "1h"]).done();
    assert_eq!([verdict(&host, "203.0.113.1"), verdict(&host, "203.0.113.200")], ["drop", "drop"]);
    eventually("the entry of the list ends", || verdict(&host, "203.0.113.200") == "pass").unwrap();
    assert_eq!([verdict(&host, "203.0.113.1"), verdict(&host, "198.51.100.1")], ["drop", "drop"]);
    // Cleared away by the next change, on both sides.
    host.ctl(&["block", "add", "192.0.2.1"]).done();
    all_is_well(&host);
    let after = host.ctl(&["status", "--json"]).done().json();
    assert_eq!(after["entries"]["expired"].as_u64().unwrap_or(0), 0, "{after}");
}

#[test]
fn what_is_no_list_changes_nothing() {
    let host = filtering(&[]);
    let feed = Feed::new(&addresses(0..1000));
    add(&host, "feed", &feed, &[]).done();
    let html = "<!DOCTYPE html><html><body>203.0.113.1</body></html>\n";
    let garbage = format!("{}\x00\x01\x02 binary", addresses(0..3));
    for (text, kind, words) in [
        (String::new(), "empty", "it is empty"),
        ("# nothing today\n".into(), "empty", "it is empty"),
        (html.into(), "unreadable", "HTML"),
        (garbage, "unreadable", "binary"),
        (addresses(0..400), "shrunk", "more than 50 % fewer"),
        (addresses(0..2001), "grown", "more than 100 % more"),
        (addresses(0..1000) + "0.0.0.0/0\n", "wide", "0.0.0.0/0"),
        (addresses(0..1000) + "0.0.0.0/1\n128.0.0.0/1\n", "wide", "128.0.0.0/1"),
        (addresses(0..1000) + &"nonsense\n".repeat(20), "not_a_list", "1001:1"),
    ] {
        feed.write(&text);
        fails(&host.ctl(&["list", "update", "feed"]), 1, &[words, "generation 1 stays in force"]);
        let overview = host.ctl(&["list", "ls", "--json"]).done().json();
        assert_eq!(overview["lists"][0]["trouble"]["kind"], kind, "{words}");
        assert_eq!(
            (overview["lists"][0]["entries"].clone(), verdict(&host, "198.18.3.1")),
            (1000.into(), "drop".into())
        );
    }
    let metrics = host.ctl(&["metrics"]).done().stdout;
    assert!(metrics.contains("xdp_filter_source_errors_total{source=\"feed\"} 9"), "{metrics}");
    assert!(metrics.contains("xdp_filter_source_entries{source=\"feed\"} 1000"), "{metrics}");

    // Whoever means it can say so; but an empty list is never meant.
    feed.write(&addresses(0..10));
    host.ctl(&["list", "update", "feed", "--force"]).done();
    assert_eq!([verdict(&host, "198.18.0.9"), verdict(&host, "198.18.3.1")], ["drop", "pass"]);
    feed.write("");
    fails(&host.ctl(&["list", "update", "feed", "--force"]), 1, &["empty", "list remove"]);
    let gone = Feed::new("");
    fails(&add(&host, "other", &gone, &[]), 1, &["empty", "nothing was changed"]);
    assert_eq!(host.ctl(&["list", "ls", "--json"]).done().json()["lists"].as_array().unwrap().len(), 1);
    all_is_well(&host);
}

#[test]
fn refused_places_are_told_by_line_and_column() {
    let host = filtering(&[]);
    let text = addresses(0..200) + "  203.0.113.7/24 # host bits\n\n010.1.2.3\n";
    let refused = add(&host, "feed", &Feed::new(&text), &["--max-refused", "0"]);
    fails(&refused, 1, &["feed:201:3: `203.0.113.7/24`", "host bits", "feed:203:1: `010.1.2.3`"]);
    let some = add(&host, "feed", &Feed::new(&text), &[]).done();
    assert!(some.stdout.contains("200 added") && some.stdout.contains("2 refused"), "{some:?}");
    assert!(some.stderr.contains("feed:203:1"), "{some:?}");
    let masked = add(&host, "feed", &Feed::new(&text), &["--mask"]).done();
    assert!(masked.stdout.contains("1 refused"), "{masked:?}");
    for (arguments, words) in [
        (&["list", "add", "a/b", "--file", "/dev/null"][..], "can't name a list"),
        (&["list", "add", "a-name-that-is-far-too-long", "--file", "/dev/null"], "can't name a list"),
        (&["list", "add", "feed"], "--url"),
        (&["list", "add", "feed", "--file", "x", "--url", "https://example.org"], "--url"),
        (&["list", "add", "feed", "--file", "x", "--refresh", "1s"], "1m to 30d"),
        (&["list", "add", "feed", "--file", "x", "--max-shrink", "101"], "101"),
    ] {
        fails(&host.ctl(arguments), 2, &[words]);
    }
    fails(&host.ctl(&["list", "add", "other", "--file", "/nonexistent/feed"]), 1, &["/nonexistent/feed"]);
    fails(&add(&host, "feed", &Feed::new(&text), &["--action", "allow"]), 2, &["feed is there"]);
}

#[test]
fn no_list_blocks_what_this_host_has_and_needs() {
    let host = filtering(&[]);
    host.ip("addr add 10.9.0.1/24 dev flt0").unwrap();
    host.ip("addr add 203.0.113.10/24 dev flt0").unwrap();
    host.ip("link set flt0 up").unwrap();
    host.ip("link set flt1 up").unwrap();
    host.ip("route add default via 203.0.113.1").unwrap();
    let level1 = Feed::new(
        "0.0.0.0/8\n10.0.0.0/8\n127.0.0.0/8\n169.254.0.0/16\n192.168.0.0/16\n203.0.113.0/24\n224.0.0.0/3\n",
    );
    let dry = add(&host, "level1", &level1, &["--dry-run"]).done();
    assert!(dry.stderr.contains("10.0.0.0/8 of level1 is left out"), "{dry:?}");
    let taken = add(&host, "level1", &level1, &[]).done();
    assert!(
        taken.stderr.contains(
            "203.0.113.0/24 of level1 has holes, since no list may block 203.0.113.1/32, 203.0.113.10/32"
        ),
        "{taken:?}"
    );
    for safe in ["10.9.0.7", "10.200.0.1", "127.0.0.1", "169.254.1.1", "203.0.113.1", "203.0.113.10"] {
        assert_eq!((verdict(&host, safe), action(&host, safe)), ("pass".into(), XDP_PASS), "{safe}");
    }
    for blocked in ["0.1.2.3", "192.168.3.4", "203.0.113.2", "203.0.113.11", "203.0.113.255", "224.0.0.1"] {
        assert_eq!((verdict(&host, blocked), action(&host, blocked)), ("drop".into(), XDP_DROP), "{blocked}");
    }
    let said = host.ctl(&["explain", "203.0.113.1"]).done().stdout;
    assert!(
        said.contains("in the list level1, to block 203.0.113.0/24; but no list may block 203.0.113.1/32"),
        "{said}"
    );
    all_is_well(&host);

    // An operator unblocks one address by a hole, and blocks what is in a hole by hand.
    host.ctl(&["never", "add", "203.0.113.77", "--reason", "a customer"]).done();
    assert_eq!(
        [verdict(&host, "203.0.113.77"), verdict(&host, "203.0.113.76"), verdict(&host, "203.0.113.78")],
        ["pass", "drop", "drop"]
    );
    host.ctl(&["block", "add", "203.0.113.77"]).done();
    assert_eq!(verdict(&host, "203.0.113.77"), "drop");
    host.ctl(&["block", "del", "203.0.113.77"]).done();
    let never = host.ctl(&["never", "list", "--json"]).done().json();
    let row =
        |prefix: &str| never["never"].as_array().unwrap().iter().find(|row| row["prefix"] == prefix).cloned();
    assert_eq!(row("203.0.113.77/32").unwrap()["reason"], "a customer");
    assert_eq!(row("203.0.113.1/32").unwrap()["kind"], "gateway");
    all_is_well(&host);
    host.ctl(&["list", "update"]).done();
    host.ctl(&["list", "remove", "level1"]).done();
    add(&host, "level1", &level1, &[]).done();
    assert_eq!(verdict(&host, "203.0.113.77"), "pass", "a hole outlives the list");
    host.ctl(&["never", "del", "203.0.113.77"]).done();
    assert_eq!(verdict(&host, "203.0.113.77"), "drop");
    fails(&host.ctl(&["never", "del", "203.0.113.77"]), 5, &["no operator added 203.0.113.77/32"]);
    // What is seen can't be taken out.
    assert_eq!(host.ctl(&["never", "del", "203.0.113.1"]).code, Some(5));
    assert_eq!(verdict(&host, "203.0.113.1"), "pass");
    // Allowing has no holes, and comes before all.
    add(&host, "friends", &Feed::new("203.0.113.128/25\n"), &["--action", "allow"]).done();
    assert_eq!([verdict(&host, "203.0.113.200"), verdict(&host, "203.0.113.2")], ["pass", "drop"]);
    all_is_well(&host);
}

#[test]
fn hits_are_told_by_list_and_entry() {
    let host = filtering(&[]);
    let wide = Feed::new("203.0.113.0/24\n");
    add(&host, "wide", &wide, &[]).done();
    add(&host, "narrow", &Feed::new("203.0.113.7 # the worst\n198.51.100.1\n"), &[]).done();
    for (source, times) in [("203.0.113.7", 3), ("203.0.113.8", 2), ("198.51.100.1", 1)] {
        (0..times).for_each(|_| assert_eq!(action(&host, source), XDP_DROP));
    }
    let overview = host.ctl(&["list", "ls", "--json"]).done().json();
    let hits: BTreeMap<&str, [u64; 2]> = overview["lists"]
        .as_array()
        .unwrap()
        .iter()
        .map(|list| {
            (
                list["name"].as_str().unwrap(),
                ["packets", "packets_alone"].map(|name| list[name].as_u64().unwrap()),
            )
        })
        .collect();
    assert_eq!(hits, BTreeMap::from([("narrow", [4, 1]), ("wide", [5, 2])]));
    let narrow = shown(&host, "narrow");
    assert_eq!(
        (narrow["top"][0]["prefix"].as_str(), narrow["top"][0]["packets"].as_u64()),
        (Some("203.0.113.7/32"), Some(3))
    );
    assert_eq!(narrow["top"][0]["comment"], "the worst");
    let said = host.ctl(&["explain", "203.0.113.7"]).done().stdout;
    assert!(
        said.contains("in the list narrow, to block 203.0.113.7/32: the worst")
            && said.contains("in the list wide"),
        "{said}"
    );
    // What entries counted before they left the list is not forgotten: whether they go, or another list keeps them.
    wide.write("192.0.2.0/24\n");
    host.ctl(&["list", "update", "wide"]).done();
    assert_eq!(shown(&host, "wide")["packets"], 5);
    // What the daemon's proofs count, whose addresses lie where lists of bogons block, is nobody's.
    let mut daemon = host.filter_ctl(&["run", "--proof-interval", "100ms"]);
    daemon.stdout(Stdio::null()).stderr(Stdio::null());
    let _daemon = Running(host.spawn(daemon).unwrap());
    let proofs = || host.ctl(&["status", "--json"]).done().json()["daemon"]["proofs"].as_u64();
    eventually("it has proven something", || proofs() > Some(3)).unwrap();
    wide.write("240.0.0.0/4\n");
    host.ctl(&["list", "update", "wide"]).done();
    assert_eq!(shown(&host, "wide")["packets"], 5);
    wide.write("192.0.2.0/24\n");
    host.ctl(&["list", "update", "wide"]).done();
    assert_eq!(shown(&host, "wide")["packets"], 5);
}

#[test]
fn what_many_entries_counted_stays_as_of_few() {
    const MANY: u32 = 400;
    let host = filtering(&[]);
    let hit = || (0..MANY).for_each(|number| assert_eq!(action(&host, addresses([number]).trim()), XDP_DROP));
    let figures = || ["wide", "many"].map(|name| shown(&host, name)["packets"].as_u64().unwrap());
    add(&host, "wide", &Feed::new("198.18.0.0/15\n"), &[]).done();
    let many = Feed::new(&addresses(0..MANY));
    add(&host, "many", &many, &[]).done();
    hit();
    assert_eq!(figures(), [400, 400]);
    many.write("192.0.2.1\n");
    host.ctl(&["list", "update", "many", "--force"]).done();
    assert_eq!(figures(), [400, 400]);
    let file = Feed::new(&addresses(0..MANY));
    host.ctl(&["block", "import", file.path()]).done();
    hit();
    assert_eq!(figures(), [800, 400]);
    host.ctl(&["block", "flush"]).done();
    assert_eq!(figures(), [800, 400]);
    hit();
    assert_eq!(figures(), [1200, 400]);
    all_is_well(&host);
}

#[test]
fn what_no_list_may_block_is_taken_in_all_the_same() {
    let host = filtering(&[]);
    let feed = Feed::new("203.0.113.0/24\n198.51.100.1\n");
    add(&host, "feed", &feed, &[]).done();
    host.ctl(&["never", "add", "203.0.113.0/24"]).done();
    // Nothing of it is enforced; once it may be, it is as it was last.
    feed.write("203.0.113.128/25\n198.51.100.1\n");
    let updated = host.ctl(&["list", "update", "feed", "--json"]).done().json();
    assert_eq!((numbers(&updated), &updated["lists"][0]["outcome"]), ([0, 1, 0], &"taken".into()));
    let again = host.ctl(&["list", "update", "feed", "--json"]).done().json();
    assert_eq!(again["lists"][0]["outcome"], "unchanged");
    host.ctl(&["never", "del", "203.0.113.0/24"]).done();
    assert_eq!([verdict(&host, "203.0.113.1"), verdict(&host, "203.0.113.200")], ["pass", "drop"]);
    all_is_well(&host);
}

#[test]
fn what_a_list_counted_is_told_also_when_its_tables_were_lost() {
    let host = filtering(&[]);
    let hit = |times: u32| (0..times).for_each(|_| assert_eq!(action(&host, "203.0.113.7"), XDP_DROP));
    let told = || shown(&host, "feed")["packets"].as_u64();
    host.ctl(&["block", "add", "203.0.113.7"]).done();
    hit(10);
    add(&host, "feed", &Feed::new("203.0.113.7\n"), &[]).done();
    hit(2);
    assert_eq!(told(), Some(2));
    host.sh("rm", ["-r", "/sys/fs/bpf/filter-ctl"]).unwrap();
    host.ctl(&["load", "flt0"]).done();
    hit(3);
    assert_eq!(told(), Some(3));
    // Unloaded with nothing in counters, and all in the store.
    host.ctl(&["block", "del", "203.0.113.7"]).done();
    host.ctl(&["never", "add", "203.0.113.7"]).done();
    assert_eq!(told(), Some(3));
    host.ctl(&["unload", "--all"]).done();
    host.ctl(&["load", "flt0"]).done();
    assert_eq!(told(), Some(3));
}

/// A prefix in 203.0.113.0/28.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Small {
    length: u32,
    first: u32,
}

impl Small {
    fn any(random: &mut fastrand::Rng) -> Self {
        let length = random.u32(28..=32);
        Self { length, first: random.u32(0..16) >> (32 - length) << (32 - length) }
    }

    fn covers(self, address: u32) -> bool {
        address >> (32 - self.length) == self.first >> (32 - self.length)
    }

    fn text(self) -> String {
        format!("203.0.113.{}/{}", self.first, self.length)
    }
}

/// What the model has of a list, and has counted of it.
struct Counting {
    prefixes: Vec<Small>,
    packets: u64,
}

#[test]
fn what_a_list_counted_stays_whatever_becomes_of_entries() {
    const ROUNDS: u32 = 120;
    const NAMES: [&str; 2] = ["one", "two"];
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let host = filtering(&[]);
    let feeds = NAMES.map(|_| Feed::new(""));
    // The model: what each list has and counted, what no list may block, and what is allowed.
    let mut lists: [Option<Counting>; 2] = [None, None];
    let (mut never, mut allowed) = (Vec::<Small>::new(), Vec::<Small>::new());
    let of_any = |prefixes: &[Small], address| prefixes.iter().any(|prefix| prefix.covers(address));
    let mut done = Vec::new();
    for _ in 0..ROUNDS {
        let (prefix, place) = (Small::any(&mut random), random.usize(0..2));
        let (name, said) = (NAMES[place], prefix.text());
        done.push(match random.u32(0..16) {
            0..=5 => {
                let prefixes: Vec<_> = (0..random.usize(1..5)).map(|_| Small::any(&mut random)).collect();
                let lines: Vec<String> = prefixes.iter().map(|prefix| prefix.text()).collect();
                feeds[place].write(&(lines.join("\n") + "\n"));
                if lists[place].is_some() {
                    host.ctl(&["list", "update", name, "--force"]).done();
                } else {
                    add(&host, name, &feeds[place], &[]).done();
                }
                let packets = lists[place].as_ref().map_or(0, |list| list.packets);
                lists[place] = Some(Counting { prefixes, packets });
                format!("{name}: {lines:?}")
            }
            6 if lists[place].is_some() => {
                host.ctl(&["list", "remove", name]).done();
                lists[place] = None;
                format!("{name}: removed")
            }
            // What operators block changes nothing for lists, nor does its end.
            7..=8 => {
                host.ctl(&["block", "add", &said]).done();
                format!("block {said}")
            }
            9 => {
                host.ctl(&["block", "add", &said, "--ttl", "1s"]).done();
                format!("block {said} for a second")
            }
            10 => {
                host.ctl(&["block", "flush"]);
                "flush".to_owned()
            }
            11..=12 => match never.iter().position(|there| *there == prefix) {
                Some(there) => {
                    host.ctl(&["never", "del", &said]).done();
                    never.remove(there);
                    format!("never: not {said}")
                }
                None => {
                    host.ctl(&["never", "add", &said]).done();
                    never.push(prefix);
                    format!("never {said}")
                }
            },
            13..=14 => match allowed.pop() {
                Some(there) if random.bool() => {
                    host.ctl(&["allow", "del", &there.text()]).done();
                    allowed.retain(|other| *other != there);
                    format!("allow: not {}", there.text())
                }
                there => {
                    allowed.extend(there);
                    host.ctl(&["allow", "add", &said]).done();
                    allowed.push(prefix);
                    format!("allow {said}")
                }
            },
            15 => {
                host.ctl(&["unload", "--all"]).done();
                host.ctl(&["load", "flt0"]).done();
                "reloaded".to_owned()
            }
            _ => continue,
        });
        for _ in 0..random.u32(1..6) {
            let address = random.u32(0..16);
            done.push(format!("from {address}"));
            action(&host, &format!("203.0.113.{address}"));
            for Counting { prefixes, packets } in lists.iter_mut().flatten() {
                let is_held = of_any(prefixes, address) && !of_any(&never, address);
                *packets += u64::from(is_held && !of_any(&allowed, address));
            }
        }
        let told = host.ctl(&["list", "ls", "--json"]).done().json();
        let told = |name: &str| {
            told["lists"]
                .as_array()
                .unwrap()
                .iter()
                .find(|list| list["name"] == name)
                .map(|list| (list["packets"].as_u64().unwrap(), list["bytes"].as_u64().unwrap()))
        };
        for (name, list) in NAMES.iter().zip(&lists) {
            let frame = filter_ctl::kernel::explain::frame_from([203, 0, 113, 1].into()).len() as u64;
            let counted = list.as_ref().map(|list| (list.packets, list.packets * frame));
            assert_eq!(told(name), counted, "{name} after {done:#?}");
        }
    }
    all_is_well(&host);
}

#[test]
fn no_packet_meets_a_gap_while_a_list_changes() {
    let host = filtering(&["--max-ipv4", "100000"]);
    // Half of the addresses one by one, or as one prefix each: what covers them changes with every update.
    let single = addresses(0..16_384) + &addresses((0..8000).map(|number| 65_536 + number));
    let wide = "198.18.0.0/18\n".to_owned() + &addresses((0..8000).map(|number| 73_536 + number));
    let feed = Feed::new(&single);
    let bounds = ["--max-growth", "1000", "--max-shrink", "100"];
    add(&host, "feed", &feed, &bounds).done();
    let is_over = AtomicBool::new(false);
    let looked = AtomicU32::new(0);
    thread::scope(|scope| {
        let watch = scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                for number in (0..16_384).step_by(1021) {
                    let source = std::net::Ipv4Addr::from(0xc612_0000 + number).to_string();
                    assert_eq!(action(&host, &source), XDP_DROP, "{source} is in both");
                    assert_eq!(action(&host, "203.0.113.1"), XDP_PASS, "it is in neither");
                    looked.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        for round in 0..6 {
            feed.write(if round % 2 == 0 { &wide } else { &single });
            host.ctl(&["list", "update", "feed"]).done();
        }
        is_over.store(true, Ordering::Relaxed);
        watch.join().unwrap();
    });
    assert!(looked.load(Ordering::Relaxed) > 100);
    all_is_well(&host);
}

#[test]
fn killed_at_any_step_the_list_is_the_old_one_or_the_new_one() {
    let host = filtering(&["--max-ipv4", "100000"]);
    host.ctl(&["block", "add", "203.0.113.7"]).done();
    let (old, new) = (addresses(0..12_000), addresses(6000..18_000));
    let feed = Feed::new(&old);
    add(&host, "feed", &feed, &[]).done();
    let begun = Instant::now();
    host.ctl(&["list", "update", "feed"]).done();
    let took = begun.elapsed();
    let mut seen = [0u32; 2];
    for round in 0..ROUNDS {
        feed.write(if round % 2 == 0 { &new } else { &old });
        let mut command = host.filter_ctl(&["list", "update", "feed"]);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = host.spawn(command).unwrap();
        // From its very start until after all is done, which takes longer than finding nothing new.
        thread::sleep(took * 3 * (round * 7 % ROUNDS) / ROUNDS);
        let _ = child.kill();
        child.wait().unwrap();
        // The next command takes up what was begun.
        let [first, last] = ["198.18.0.1", "198.18.69.1"].map(|source| verdict(&host, source));
        let is_new = match (first.as_str(), last.as_str()) {
            ("drop", "pass") => false,
            ("pass", "drop") => true,
            other => panic!("round {round}: neither the old nor the new list: {other:?}"),
        };
        assert_eq!(
            [verdict(&host, "198.18.30.1"), verdict(&host, "203.0.113.7")],
            ["drop", "drop"],
            "round {round}"
        );
        all_is_well(&host);
        seen[usize::from(is_new)] += 1;
    }
    assert!(seen.iter().all(|times| *times > 0), "{seen:?}");
}

/// Runs `list update feed` with a fault put into one of its calls. Returns what it said.
fn update_with(host: &Host, call: &str, fault: &str, position: u32) -> Finished {
    let mut command = Command::new("strace");
    let inject = format!("inject={call}:{fault}:when={position}");
    command.args(["-qq", "-o", "/dev/null", "-e", &format!("trace={call}"), "-e", &inject]);
    command.arg(filter_ctl_path()).args(["list", "update", "feed"]);
    Finished::from(host.output(command).unwrap())
}

#[test]
fn killed_or_refused_at_any_call_the_list_is_whole() {
    let host = filtering(&["--max-ipv4", "20000"]);
    host.ctl(&["block", "add", "203.0.113.7"]).done();
    // The never-block set is the first thing that is written.
    let (old, new) = (addresses(0..3000), addresses(1500..4500));
    let feed = Feed::new(&old);
    add(&host, "feed", &feed, &[]).done();
    let mut is_new = false;
    let mut ends = BTreeMap::<&str, u32>::new();
    let kill = "signal=KILL";
    for (call, fault, step) in [
        ("pwrite64", kill, 5),
        ("fdatasync", kill, 1),
        ("fsync", kill, 1),
        ("ftruncate", kill, 1),
        ("mmap", kill, 23),
        ("pwrite64", "error=ENOSPC", 7),
        ("mmap", "error=ENOMEM", 23),
        ("fdatasync", "error=EIO", 1),
    ] {
        for position in (1..).step_by(step) {
            let when = format!("{call}, {fault}, {position}");
            feed.write(if is_new { &old } else { &new });
            let ended = update_with(&host, call, fault, position);
            let [first, last] = ["198.18.0.1", "198.18.17.1"].map(|source| verdict(&host, source));
            let is_new_now = match (first.as_str(), last.as_str()) {
                ("drop", "pass") => false,
                ("pass", "drop") => true,
                other => panic!("{when}: neither the old nor the new list: {other:?}; {ended:?}"),
            };
            assert_eq!(
                [verdict(&host, "198.18.8.1"), verdict(&host, "203.0.113.7")],
                ["drop", "drop"],
                "{when}"
            );
            all_is_well(&host);
            if ended.code == Some(0) || ended.code == Some(4) {
                assert_ne!(is_new_now, is_new, "{when}: it said that it was done: {ended:?}");
            }
            *ends.entry(if is_new_now == is_new { "old" } else { "new" }).or_default() += 1;
            is_new = is_new_now;
            if ended.code == Some(0) {
                break;
            }
        }
    }
    assert!(ends.len() == 2 && ends["old"] > 10, "{ends:?}");
}

#[test]
fn two_million_lines_of_which_a_third_are_twice_there() {
    let host = filtering(&["--max-ipv4", "1500000"]);
    // Each of 1.4 million once, and of these 600,000 a second time, from the other end.
    let text = addresses(0..1_400_000) + &addresses((800_000..1_400_000).rev());
    let feed = Feed::new(&text);
    let added = add(&host, "large", &feed, &["--json"]).done().json();
    let found = &added["lists"][0]["found"];
    assert_eq!([&found["listed"], &found["duplicates"]], [2_000_000, 600_000]);
    assert_eq!(numbers(&added), [1_400_000, 0, 0]);
    assert_eq!(
        [action(&host, "198.18.0.0"), action(&host, "198.39.92.191"), action(&host, "198.39.92.192")],
        [XDP_DROP, XDP_DROP, XDP_PASS]
    );
    host.ctl(&["list", "remove", "large"]).done();
    assert_eq!(action(&host, "198.18.0.0"), XDP_PASS);
    all_is_well(&host);
}

#[test]
fn a_list_that_does_not_fit_changes_nothing() {
    let host = filtering(&["--max-ipv4", "1000"]);
    add(&host, "small", &Feed::new(&addresses(0..600)), &[]).done();
    let large = Feed::new(&addresses(500..2000));
    fails(&add(&host, "large", &large, &[]), 1, &["resize --max-ipv4", "1400 more"]);
    assert_eq!([verdict(&host, "198.18.0.1"), verdict(&host, "198.18.4.1")], ["drop", "pass"]);
    assert_eq!(host.ctl(&["list", "ls", "--json"]).done().json()["lists"].as_array().unwrap().len(), 1);
    all_is_well(&host);
    host.ctl(&["resize", "--max-ipv4", "4000"]).done();
    add(&host, "large", &large, &[]).done();
    assert_eq!(verdict(&host, "198.18.4.1"), "drop");
    all_is_well(&host);
}

#[test]
fn lists_are_enforced_again_after_all_is_gone() {
    let host = filtering(&[]);
    add(&host, "feed", &Feed::new(&addresses(0..5000)), &[]).done();
    host.ctl(&["never", "add", "198.18.0.9"]).done();
    host.ctl(&["unload", "--all"]).done();
    host.ctl(&["load", "flt0"]).done();
    assert_eq!([verdict(&host, "198.18.0.8"), verdict(&host, "198.18.0.9")], ["drop", "pass"]);
    all_is_well(&host);
    // As a damaged store is: its copy knows the list.
    host.ctl(&["audit"]).done();
    let state = host.ctl(&["repair"]);
    assert_eq!(state.code, Some(0), "{state:?}");
    assert_eq!(verdict(&host, "198.18.0.8"), "drop");
}

#[test]
fn entries_are_exported_for_other_programs() {
    let host = filtering(&[]);
    let feed = Feed::new("203.0.113.0/24\n203.0.113.64/26\n198.51.100.7\n2001:db8:bad::/48\n");
    add(&host, "feed", &feed, &[]).done();
    host.ctl(&["block", "add", "192.0.2.7", "--ttl", "1h"]).done();
    let plain = host.ctl(&["export"]).done().stdout;
    assert_eq!(plain, "192.0.2.7\n198.51.100.7\n203.0.113.0/24\n203.0.113.64/26\n2001:db8:bad::/48\n");
    let of_list = host.ctl(&["export", "--list", "feed", "--format", "json"]).done().json();
    assert_eq!(of_list["entries"].as_array().unwrap().len(), 4);
    let nft = host.ctl(&["export", "--format", "nft"]).done().stdout;
    assert!(nft.contains("203.0.113.0/24,") && !nft.contains("203.0.113.64/26"), "{nft}");
    fails(&host.ctl(&["export", "--list", "nothing"]), 5, &["no list `nothing`"]);
    // What goes out comes in again, from each format.
    for format in ["plain", "ipset", "nft"] {
        let text = host.ctl(&["export", "--format", format, "--list", "feed"]).done().stdout;
        let copy = Feed::new(&text);
        let back = add(&host, format, &copy, &["--json"]).done().json();
        let entries = if format == "nft" { 3 } else { 4 };
        assert_eq!(numbers(&back), [entries, 0, 0], "{format}: {text}");
        assert_eq!(explained(&host, "2001:db8:bad::1").0, "drop");
        host.ctl(&["list", "remove", format]).done();
    }
    all_is_well(&host);
}

/// A server in a host's namespace that answers each request as it is told, until it is dropped.
struct Server {
    port: u16,
    requests: Arc<Mutex<Vec<String>>>,
    answer: Arc<Mutex<String>>,
    is_over: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Server {
    fn new(host: &Host) -> Self {
        host.ip("link set lo up").unwrap();
        let listener = host.run(|| TcpListener::bind("127.0.0.1:0")).unwrap();
        let port = listener.local_addr().unwrap().port();
        let (requests, answer) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(String::new())));
        let is_over = Arc::new(AtomicBool::new(false));
        let thread = thread::spawn({
            let (requests, answer, is_over) =
                (Arc::clone(&requests), Arc::clone(&answer), Arc::clone(&is_over));
            move || {
                listener.set_nonblocking(true).unwrap();
                while !is_over.load(Ordering::Relaxed) {
                    let Ok((stream, _)) = listener.accept() else {
                        thread::sleep(Duration::from_millis(5));
                        continue;
                    };
                    stream.set_nonblocking(false).unwrap();
                    let mut lines = BufReader::new(&stream).lines().map_while(Result::ok);
                    let request: Vec<String> = lines.by_ref().take_while(|line| !line.is_empty()).collect();
                    requests.lock().unwrap().push(request.join("\n").to_lowercase());
                    let _ = (&stream).write_all(answer.lock().unwrap().as_bytes());
                }
            }
        });
        Self { port, requests, answer, is_over, thread: Some(thread) }
    }

    fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}/{path}", self.port)
    }

    fn answers(&self, status: &str, headers: &str, body: &str) {
        let length = body.len();
        *self.answer.lock().unwrap() = format!(
            "HTTP/1.1 {status}\r\nConnection: close\r\n{headers}Content-Length: {length}\r\n\r\n{body}"
        );
    }

    fn last_request(&self) -> String {
        self.requests.lock().unwrap().last().unwrap().clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        let _ = self.thread.take().unwrap().join();
    }
}

/// Makes a list look as if it was last up to date so many seconds earlier.
fn age(host: &Host, seconds: i64) {
    host.run(move || {
        let store = rusqlite::Connection::open("/var/lib/filter-ctl/state.db").unwrap();
        store.execute("UPDATE lists SET checked_s = checked_s - ?1", [seconds]).unwrap();
    });
}

#[test]
fn a_server_is_asked_as_little_as_can_be_and_told_no_secret_twice() {
    let host = filtering(&[]);
    let server = Server::new(&host);
    server.answers(
        "200 OK",
        "ETag: \"one\"\r\nLast-Modified: Thu, 26 Nov 2026 08:00:00 GMT\r\n",
        &addresses(0..50),
    );
    let secret = Feed::new("Authorization: Bearer s3cret\n");
    fs::set_permissions(secret.path(), fs::Permissions::from_mode(0o644)).unwrap();
    let url = server.url("feed.txt?key=t0ken");
    let add = ["list", "add", "feed", "--url", &url, "--headers-file", secret.path(), "--refresh", "1m"];
    fails(&host.ctl(&add), 1, &["others may read", "chmod 600"]);
    fs::set_permissions(secret.path(), fs::Permissions::from_mode(0o600)).unwrap();
    host.ctl(&add).done();
    assert!(
        server.last_request().contains("authorization: bearer s3cret")
            && server.last_request().contains("key=t0ken")
    );
    assert!(!server.last_request().contains("if-none-match"));

    server.answers("304 Not Modified", "", "");
    let same = host.ctl(&["list", "update", "feed", "--json"]).done().json();
    assert_eq!(same["lists"][0]["outcome"], "not_modified");
    assert!(server.last_request().contains("if-none-match: \"one\""), "{}", server.last_request());
    assert!(server.last_request().contains("if-modified-since: thu, 26 nov 2026 08:00:00 gmt"));
    // What the server sends anew each time is the same list all the same.
    for etag in ["two", "three"] {
        server.answers("200 OK", &format!("ETag: \"{etag}\"\r\n"), &addresses(0..50));
        let same = host.ctl(&["list", "update", "feed", "--json"]).done().json();
        assert_eq!(same["lists"][0]["outcome"], "unchanged");
    }
    assert_eq!(shown(&host, "feed")["generation"], 1);

    for said in [
        host.ctl(&["list", "show", "feed", "--json"]).done().stdout,
        host.ctl(&["list", "ls"]).done().stdout,
        host.ctl(&["audit", "--json"]).done().stdout,
        host.ctl(&["metrics"]).done().stdout,
    ] {
        assert!(!said.contains("s3cret") && !said.contains("t0ken"), "{said}");
    }
    server.answers("403 Forbidden", "", "");
    let refused = host.ctl(&["list", "update", "feed"]);
    fails(&refused, 1, &["403", "generation 1 stays in force"]);
    assert!(!refused.stderr.contains("t0ken"), "{refused:?}");
    fails(&host.ctl(&["list", "add", "other", "--url", "http://192.0.2.1/feed"]), 1, &["https"]);
    fails(
        &host.ctl(&["list", "add", "other", "--url", "https://me:pass@example.org/"]),
        1,
        &["headers-file"],
    );
    assert_eq!(verdict(&host, "198.18.0.7"), "drop");
}

#[test]
fn the_daemon_follows_a_list_and_survives_an_emptied_feed() {
    let host = filtering(&[]);
    let server = Server::new(&host);
    let events = Feed::new("");
    let hook = format!("cat >> {}", events.path());
    let mut daemon = host.filter_ctl(&["run", "--hook", &hook]);
    daemon.stdout(Stdio::null()).stderr(Stdio::null());
    let daemon = host.spawn(daemon).unwrap();
    let daemon = Running(daemon);
    server.answers("200 OK", "", &addresses(0..200));
    let url = server.url("feed");
    host.ctl(&["list", "add", "feed", "--url", &url, "--refresh", "1m"]).done();
    server.answers("200 OK", "", &addresses(100..300));
    age(&host, 70);
    eventually("the daemon fetches the list", || verdict(&host, "198.18.1.10") == "drop").unwrap();
    assert_eq!(verdict(&host, "198.18.0.7"), "pass");
    server.answers("200 OK", "", "");
    age(&host, 70);
    let told = |what: &str| fs::read_to_string(events.path()).unwrap_or_default().contains(what);
    eventually("the refusal is told", || told("list_refused")).unwrap();
    assert!(told("list_taken") && told("\"kind\":\"empty\""), "{:?}", fs::read_to_string(events.path()));
    assert_eq!([verdict(&host, "198.18.1.10"), verdict(&host, "198.18.0.200")], ["drop", "drop"]);
    let metrics = host.ctl(&["metrics"]).done().stdout;
    assert!(metrics.contains("xdp_filter_source_errors_total{source=\"feed\"} 1"), "{metrics}");

    // What an operator rolled back does not come back by itself.
    host.ctl(&["list", "rollback", "feed"]).done();
    server.answers("200 OK", "", &addresses(100..300));
    let asked = server.requests.lock().unwrap().len();
    age(&host, 7000);
    let proofs = || {
        host.ctl(&["metrics"])
            .done()
            .stdout
            .lines()
            .find_map(|line| line.strip_prefix("xdp_filter_proofs_total ")?.parse::<u64>().ok())
    };
    let before = proofs();
    eventually("two more rounds", || proofs() >= before.map(|before| before + 2)).unwrap();
    assert_eq!((server.requests.lock().unwrap().len(), verdict(&host, "198.18.0.7")), (asked, "drop".into()));
    // An address that the host gets is never blocked.
    host.ip("addr add 198.18.0.7/32 dev flt0").unwrap();
    eventually("the address is left out", || verdict(&host, "198.18.0.7") == "pass").unwrap();
    all_is_well(&host);
    drop(daemon);
}

#[test]
fn files_of_any_format_are_imported_once() {
    let host = filtering(&[]);
    let csv = Feed::new("ipAddress,countryCode,score\n203.0.113.7,\"AT, x\",100\n2001:db8::7,CH,90\n");
    host.ctl(&["block", "import", csv.path(), "--reason", "flood", "--ttl", "1h"]).done();
    let list = host.ctl(&["block", "list", "--json"]).done().json();
    assert_eq!(
        (list["entries"][0]["prefix"].as_str(), list["entries"][0]["reason"].as_str()),
        (Some("203.0.113.7/32"), Some("flood"))
    );
    assert_eq!([verdict(&host, "203.0.113.7"), verdict(&host, "2001:db8::7")], ["drop", "drop"]);

    let set = Feed::new(
        "create s hash:ip family inet\nadd s 203.0.113.8 timeout 600\nadd s 203.0.113.9 timeout 0\n",
    );
    let dry = host.ctl(&["block", "import", set.path(), "--dry-run"]).done();
    assert!(
        dry.stdout.contains("would add 203.0.113.8/32") && verdict(&host, "203.0.113.8") == "pass",
        "{dry:?}"
    );
    host.ctl(&["block", "add", "203.0.113.9", "--ttl", "1h"]).done();
    host.ctl(&["block", "import", set.path()]).done();
    let list = host.ctl(&["block", "list", "--json"]).done().json();
    let left = |prefix: &str| {
        let entries = list["entries"].as_array().unwrap();
        entries.iter().find(|entry| entry["prefix"] == prefix).unwrap()["expires_in_s"].as_u64()
    };
    assert!(left("203.0.113.8/32").is_some_and(|left_s| (590..=600).contains(&left_s)), "{list}");
    assert_eq!(left("203.0.113.9/32"), None, "never shorter");

    let bad = Feed::new("203.0.113.20\nnonsense\n203.0.113.21\n");
    fails(&host.ctl(&["block", "import", bad.path()]), 1, &[":2:1: `nonsense`", "nothing was changed"]);
    assert_eq!(verdict(&host, "203.0.113.20"), "pass");
    fails(&host.ctl(&["block", "import", Feed::new("").path()]), 2, &["no entry"]);
    fails(&host.ctl(&["block", "import", Feed::new("0.0.0.0/0\n").path()]), 1, &["every address", "--force"]);
}

#[test]
fn what_an_operator_does_meanwhile_counts_more_than_what_was_fetched() {
    let host = filtering(&[]);
    let server = Server::new(&host);
    server.answers("200 OK", "ETag: \"one\"\r\n", &addresses(0..50));
    let url = server.url("feed");
    host.ctl(&["list", "add", "feed", "--url", &url]).done();
    // Allowing in place of blocking is another list, also where the server has nothing new.
    server.answers("304 Not Modified", "", "");
    let other = host.ctl(&["list", "add", "feed", "--url", &url, "--action", "allow"]);
    fails(&other, 2, &["feed is there to block"]);
    server.answers("200 OK", "ETag: \"two\"\r\n", &addresses(0..60));
    host.ctl(&["list", "update", "feed"]).done();
    for (meanwhile, then) in [(&["list", "rollback", "feed"][..], 1), (&["list", "remove", "feed"], 0)] {
        // An answer that comes when the operator is done.
        let asked = server.requests.lock().unwrap().len();
        let answer = server.answer.lock().unwrap();
        let update = host.spawn({
            let mut command = host.filter_ctl(&["list", "update", "feed"]);
            command.stdout(Stdio::null()).stderr(Stdio::piped());
            command
        });
        eventually("it is asked", || server.requests.lock().unwrap().len() > asked).unwrap();
        host.ctl(meanwhile).done();
        drop(answer);
        let ended: Finished = update.unwrap().wait_with_output().unwrap().into();
        fails(&ended, 1, &["changed by somebody else"]);
        let lists = host.ctl(&["list", "ls", "--json"]).done().json();
        let lists = lists["lists"].as_array().unwrap();
        assert_eq!(lists.first().map_or(0, |list| list["generation"].as_i64().unwrap()), then);
        assert!(lists.first().is_none_or(|list| list["held"] == true && list["troubles"] == 0), "{lists:?}");
    }
    all_is_well(&host);
}

#[test]
fn a_list_takes_back_what_it_left_when_the_store_was_lost() {
    let host = filtering(&[]);
    let feed = Feed::new(&addresses(0..100));
    add(&host, "feed", &feed, &[]).done();
    host.run(|| fs::remove_dir_all("/var/lib/filter-ctl")).unwrap();
    assert_eq!(verdict(&host, "198.18.0.7"), "drop", "what is enforced outlives the store");
    feed.write(&addresses(50..120));
    add(&host, "feed", &feed, &[]).done();
    assert_eq!([verdict(&host, "198.18.0.7"), verdict(&host, "198.18.0.70")], ["pass", "drop"]);
    all_is_well(&host);
    host.ctl(&["list", "remove", "feed"]).done();
    assert_eq!(host.ctl(&["export"]).done().stdout, "");
    all_is_well(&host);
}

#[test]
fn on_a_disk_that_can_only_be_read_lists_and_holes_stay_as_they_are() {
    let host = filtering(&[]);
    let feed = Feed::new("create s hash:ip\nadd s 203.0.113.1 timeout 4\nadd s 203.0.113.2\n");
    add(&host, "feed", &feed, &[]).done();
    host.sh("mount", ["-o", "remount,ro", "/var/lib"]).unwrap();
    for arguments in [
        &["never", "add", "203.0.113.2"][..],
        &["list", "update", "feed", "--force"],
        &["list", "remove", "feed"],
        &["list", "add", "other", "--file", feed.path()],
    ] {
        fails(&host.ctl(arguments), 1, &["nothing was changed"]);
        assert_eq!(verdict(&host, "203.0.113.2"), "drop", "{arguments:?}");
    }
    eventually("the entry ends", || verdict(&host, "203.0.113.1") == "pass").unwrap();
    host.ctl(&["block", "add", "192.0.2.1"]);
    host.sh("mount", ["-o", "remount,rw", "/var/lib"]).unwrap();
    host.ctl(&["block", "add", "192.0.2.2"]).done();
    all_is_well(&host);
    assert_eq!([verdict(&host, "203.0.113.2"), verdict(&host, "192.0.2.1")], ["drop", "drop"]);
}

#[test]
fn holes_that_do_not_fit_leave_out_what_is_around_them() {
    let host = filtering(&["--max-ipv6", "20"]);
    add(&host, "six", &Feed::new("2001:db8::/32\n2001:db9::/32\n"), &[]).done();
    host.ip("link set flt0 up").unwrap();
    host.ip("addr add 2001:db8:77::1/64 dev flt0 nodad").unwrap();
    let update = add(&host, "four", &Feed::new("198.51.100.0/24\n"), &[]).done();
    assert!(update.stderr.contains("no room for a hole in 2001:db8::/32"), "{update:?}");
    assert_eq!(
        ["2001:db8:77::1", "2001:db8::5", "2001:db9::5", "198.51.100.1"].map(|source| verdict(&host, source)),
        ["pass", "pass", "drop", "drop"]
    );
    all_is_well(&host);
}
