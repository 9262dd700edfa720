//! Upgrades to another build: of the same ABI, and from an older one, under a flood and with good traffic. Needs root.
//!
//! The other build of the same ABI is the one under test with other instructions in its programs. One of an older ABI is
//! made by giving the directory of this ABI the name of that: the links go on running its programs.

#![expect(clippy::unwrap_used, reason = "a panic is how a test reports")]

use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use aya::programs::ProgramInfo;
use aya::programs::links::{FdLink, PinnedLink};
use filter_common::abi::{ABI_VERSION, OLDEST_READABLE, RECORDING, RINGS, SAMPLES};
use filter_ctl::kernel::renames::follow_renames;
use filter_ctl::policy::{Entry, Prefix};
use filter_tests::builds::another_build;
use filter_tests::flood::{Flood, Kind, Wave};
use filter_tests::kernel_side::{open, pins};
use filter_tests::lab::{Finished, Host, eventually, fails, filter_ctl_path, join};
use serde_json::{Value, json};

/// How many upgrades a flood goes through, unless the variable `FILTER_UPGRADES` says otherwise.
const UPGRADES: usize = 20;

/// The filtered interface, and the other end of its cable.
const FILTERED: &str = "flt0";
const PEER: &str = "peer0";

/// Another filtered interface, on which nothing comes in.
const QUIET: &str = "flt2";

/// Where good traffic comes from and goes to.
const GOOD: &str = "192.0.2.2";
const SERVER: &str = "192.0.2.1";

/// A build of filter-ctl of the same ABI whose programs are others to the kernel.
fn other_build() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("filter-ctl-other");
        another_build(&path).unwrap();
        path
    })
}

/// A server that filters what a network floods it with, from two blocked prefixes, and takes what is good.
struct Lab {
    server: Host,
    network: Host,
}

impl Lab {
    fn new() -> Self {
        let (server, network) = (Host::new("server").unwrap(), Host::new("network").unwrap().on_cpu(0));
        join(&server, FILTERED, &network, PEER).unwrap();
        let mac = |host: &Host, device: &str| host.read(&format!("/sys/class/net/{device}/address")).unwrap();
        let (server_mac, network_mac) = (mac(&server, FILTERED), mac(&network, PEER));
        server.ip(&format!("addr add {SERVER}/24 dev {FILTERED}")).unwrap();
        network.ip(&format!("addr add {GOOD}/24 dev {PEER}")).unwrap();
        // Nothing is sent but what the test sends.
        server.ip(&format!("neigh replace {GOOD} lladdr {network_mac} dev {FILTERED}")).unwrap();
        network.ip(&format!("neigh replace {SERVER} lladdr {server_mac} dev {PEER}")).unwrap();
        server.ip(&format!("link add {QUIET} type veth peer name peer2")).unwrap();
        server.ctl(&["load", FILTERED, QUIET, "--max-ipv4", "1000", "--max-ipv6", "100"]).done();
        server.ctl(&["block", "add", "203.0.113.0/24", "--reason", "flood", "--ttl", "1h"]).done();
        server.ctl(&["block", "add", "198.18.0.0/15", "--reason", "also"]).done();
        server.ctl(&["allow", "add", "2001:db8::/32", "--ttl", "2h", "--reason", "ours"]).done();
        server.ctl(&["malformed", "pass", "udp_length"]).done();
        Self { server, network }
    }

    fn flood(&self) -> Flood<'_> {
        let prefix = |text| Prefix::parse(text, false).unwrap();
        let wave = Wave {
            kind: Kind::Udp,
            target: format!("{SERVER}:53").parse().unwrap(),
            sources: vec![prefix("203.0.113.0/24"), prefix("198.18.0.0/15")],
        };
        Flood::new((&self.network, PEER), (&self.server, FILTERED), &[wave]).unwrap()
    }

    /// Runs a build of filter-ctl on the server.
    fn run(&self, build: &Path, arguments: &[&str]) -> Finished {
        self.server.output(self.command(build, arguments)).unwrap().into()
    }

    fn command(&self, build: &Path, arguments: &[&str]) -> Command {
        let mut command = Command::new(build);
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.env_remove("FILTER_CTL_PIN_ROOT");
        command
    }

    /// Chooses another build to upgrade to, or makes the filter that is there one of an older ABI.
    fn prepare(&self, build: &mut PathBuf, is_same_abi: bool) {
        if is_same_abi {
            let this = filter_ctl_path();
            *build = if *build == this { other_build().to_owned() } else { this };
        } else {
            self.age();
        }
    }

    /// Makes the filter that is there one of an older ABI, without the maps that came later.
    fn age(&self) {
        let (ours, older) = (pins(), pins().of_abi(OLDEST_READABLE));
        self.server.run(|| {
            std::fs::rename(ours.abi(), older.abi()).unwrap();
            for map in [RECORDING, RINGS, SAMPLES] {
                std::fs::remove_file(older.map(&map)).unwrap();
            }
        });
    }

    fn entries(&self) -> Vec<Entry> {
        let filter = self.server.run(|| open().unwrap().entries().unwrap());
        filter.into_iter().map(|(_, entry)| entry).collect()
    }

    /// What `stats` says: packets that each entry dropped, by prefix; packets that the interface passed, and dropped.
    fn counted(&self) -> (Vec<(String, u64)>, u64, u64) {
        let stats = self.server.ctl(&["stats", "--over", "0s", "--json"]).done().json();
        let blocks = stats["entries"].as_array().unwrap().iter().filter(|entry| entry["action"] == "block");
        let of = |entry: &Value| {
            (entry["prefix"].as_str().unwrap().to_owned(), entry["packets"].as_u64().unwrap())
        };
        let mut entries: Vec<_> = blocks.map(of).collect();
        entries.sort();
        let interfaces = stats["interfaces"].as_array().unwrap();
        let interface = interfaces.iter().find(|interface| interface["interface"] != QUIET).unwrap();
        let total = |verdict: &str| interface[verdict]["packets"].as_u64().unwrap();
        (entries, total("passed"), total("dropped"))
    }

    /// Checks that there is one whole filter and nothing else.
    #[track_caller]
    fn is_whole(&self, when: &str) {
        assert_eq!(self.server.ctl(&["status"]).code, Some(0), "{when}");
        self.server.run(|| {
            open().unwrap().table().check().unwrap_or_else(|wrong| panic!("{when}: {wrong}"));
            let (sets, incomplete) = pins().sets().unwrap();
            assert!(sets.len() == 1 && incomplete.is_empty(), "{when}: {sets:?}, {incomplete:?}");
            assert!(sets[0].next_interfaces().unwrap().is_empty(), "{when}");
            assert!(!sets[0].next_explain().exists(), "{when}");
            let left: Vec<_> =
                std::fs::read_dir(pins().root()).unwrap().flatten().map(|e| e.path()).collect();
            assert!(left.len() == 2 && left.contains(&pins().abi()), "{when}: {left:?}");
        });
    }
}

/// Packets that a flood has sent, by prefix.
fn sent(flood: &Flood) -> Vec<(String, u64)> {
    let sent = flood.sent().unwrap();
    let mut sent: Vec<_> = sent.iter().map(|(prefix, packets)| (prefix.to_string(), *packets)).collect();
    sent.sort();
    sent
}

fn total(by_prefix: &[(String, u64)]) -> u64 {
    by_prefix.iter().map(|(_, packets)| packets).sum()
}

/// Good datagrams, each of which must arrive before many more are sent, for as long as this lives.
struct Good {
    stop: &'static AtomicBool,
    sender: thread::JoinHandle<u64>,
}

impl Good {
    fn start(lab: &Lab) -> Self {
        let stop: &'static AtomicBool = Box::leak(Box::new(AtomicBool::new(false)));
        let socket = |host: &Host, address: &'static str| {
            let socket = host.run(move || UdpSocket::bind(address).unwrap());
            socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
            socket
        };
        let (from, to) = (socket(&lab.network, "192.0.2.2:5354"), socket(&lab.server, "192.0.2.1:5353"));
        // On the flood's CPU: from two CPUs at once more may come than the cable's ring holds.
        let sender = lab.network.run(move || {
            thread::spawn(move || {
                let mut count = 0u64;
                while !stop.load(Ordering::Relaxed) {
                    from.send_to(&count.to_be_bytes(), "192.0.2.1:5353").unwrap();
                    let mut number = [0; 8];
                    let (length, _) = to.recv_from(&mut number).expect("every good datagram arrives");
                    assert_eq!((length, number), (8, count.to_be_bytes()), "one was lost");
                    count += 1;
                }
                count
            })
        });
        Self { stop, sender }
    }

    /// How many were sent, all of which arrived.
    fn stop(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.sender.join().unwrap()
    }
}

/// What the kernel tells of links, from the moment this returns.
fn monitor(host: &Host) -> Child {
    let mut command = Command::new("ip");
    command.args(["monitor", "link"]).stdin(Stdio::null()).stdout(Stdio::piped());
    let child = host.spawn(command).unwrap();
    // It says nothing of itself once it listens; so the kernel is asked.
    let is_listening = || {
        let sockets = host.sh("cat", ["/proc/net/netlink"]).unwrap();
        sockets.lines().any(|line| line.split_whitespace().nth(2) == Some(&child.id().to_string()))
    };
    eventually("ip listens", is_listening).unwrap();
    child
}

#[test]
fn upgrades_under_flood_lose_nothing() {
    let rounds = std::env::var("FILTER_UPGRADES").map_or(UPGRADES, |text| text.parse().unwrap());
    let lab = Lab::new();
    let entries = lab.entries();
    let flood = lab.flood();
    let (_, passed_before, dropped_before) = lab.counted();
    let mut monitor = monitor(&lab.server);
    let good = Good::start(&lab);
    let running = flood.start(0, Duration::from_secs(3600));
    eventually("the flood is on", || flood.arrived().unwrap() > 0).unwrap();
    let mut build = filter_ctl_path();
    for round in 0..rounds {
        let is_same_abi = round % 2 == 0;
        lab.prepare(&mut build, is_same_abi);
        let program =
            || lab.server.run(|| filter_ctl::kernel::interface::program_of(&pins(), FILTERED)).unwrap();
        let explains = || {
            let path = pins().set().unwrap().unwrap().explain();
            ProgramInfo::from_pin(path).unwrap().id()
        };
        let before = (program(), is_same_abi.then(|| lab.server.run(explains)));
        let upgraded = lab.run(&build, &["upgrade", "--json"]).done().json();
        let from = if is_same_abi { ABI_VERSION } else { OLDEST_READABLE };
        assert_eq!((&upgraded["from_abi"], &upgraded["entries"]), (&from.into(), &3.into()), "{upgraded}");
        let interfaces = [FILTERED, QUIET].map(|name| json!({"interface": name, "outcome": "upgraded"}));
        assert_eq!(upgraded["interfaces"], json!(interfaces), "round {round}");
        assert_ne!(program(), before.0, "round {round}");
        assert_ne!(Some(lab.server.run(explains)), before.1, "round {round}");
        // Nothing is left to do for the same build, and something for the other.
        let again = lab.run(&build, &["upgrade"]).done();
        let current = [FILTERED, QUIET].map(|name| format!("{name}: runs this build's program already\n"));
        assert_eq!(again.stdout, current.concat(), "round {round}");
        lab.is_whole(&format!("round {round}"));
    }
    running.stop().unwrap();
    let good = good.stop();
    monitor.kill().unwrap();
    let told = monitor.wait_with_output().unwrap();
    let (by_entry, passed, dropped) = lab.counted();
    let sent = sent(&flood);
    assert_eq!(flood.lost().unwrap(), 0);
    assert_eq!(by_entry, sent, "every packet is counted by its entry, over all upgrades");
    assert_eq!(dropped - dropped_before, total(&sent), "and by its interface");
    assert_eq!(passed - passed_before, good, "good packets passed, and no packet of the flood");
    assert!(good > 0 && total(&sent) > 0);
    assert_eq!(String::from_utf8_lossy(&told.stdout), "", "the kernel told of a change to a link");
    assert_eq!(lab.entries(), entries, "deadlines, owners and reasons");
    let tolerated = lab.server.ctl(&["malformed", "list"]).done();
    assert!(tolerated.stdout.lines().any(|line| line.contains("udp_length") && line.contains("pass")));
}

/// Kills an upgrade, of the same ABI or from an older one by turns, sends, and looks whether the next command and the
/// next upgrade leave a whole filter that has counted everything.
fn after_each_kill(lab: &Lab, flood: &Flood, is_same_abi: bool, build: &Path, when: &str) {
    flood.send(500).unwrap();
    // Any other command of this ABI goes on or says what to do, and the flood is dropped whatever it says.
    let status = lab.run(build, &["status"]);
    if is_same_abi {
        assert_eq!(status.code, Some(0), "{when}: {status:?}");
    } else if status.code != Some(0) {
        fails(&status, 3, &["run `filter-ctl upgrade`"]);
    }
    flood.send(500).unwrap();
    lab.run(build, &["upgrade"]).done();
    flood.send(500).unwrap();
    lab.is_whole(when);
    let (by_entry, ..) = lab.counted();
    assert_eq!(by_entry, sent(flood), "{when}");
}

#[test]
fn killing_upgrades_in_the_middle_leaves_a_filter_that_goes_on() {
    const ROUNDS: u64 = 24;
    let lab = Lab::new();
    let entries = lab.entries();
    let flood = lab.flood();
    let (_, passed_before, dropped_before) = lab.counted();
    let mut build = filter_ctl_path();
    let mut random = filter_tests::seeded();
    let mut interrupted = 0;
    for round in 0..ROUNDS {
        let is_same_abi = round % 2 == 0;
        lab.prepare(&mut build, is_same_abi);
        let mut child = lab.server.spawn(lab.command(&build, &["upgrade"])).unwrap();
        thread::sleep(Duration::from_micros(random.u64(..900_000)));
        child.kill().unwrap();
        interrupted += usize::from(child.wait().unwrap().code().is_none());
        after_each_kill(&lab, &flood, is_same_abi, &build, &format!("round {round}"));
    }
    assert!(interrupted > 0, "no upgrade was interrupted: the test proves nothing");
    let (_, passed, dropped) = lab.counted();
    assert_eq!((dropped - dropped_before, passed), (total(&sent(&flood)), passed_before));
    assert_eq!(lab.entries(), entries);
}

/// Runs an upgrade under strace, with these options.
fn traced(lab: &Lab, build: &Path, calls: &str, options: &[&str]) -> Finished {
    let mut command = Command::new("strace");
    command.args(["-qq", "-e", &format!("trace={calls}")]).args(options).arg(build).arg("upgrade");
    lab.server.output(command).unwrap().into()
}

#[test]
fn an_upgrade_may_be_killed_at_any_change_to_pins_and_links() {
    let lab = Lab::new();
    let flood = lab.flood();
    let mut build = filter_ctl_path();
    let mut killed = 0;
    for is_same_abi in [true, false] {
        for call in ["linkat", "unlink", "rmdir", "rename"] {
            for position in (1..).step_by(if call == "unlink" { 3 } else { 1 }) {
                lab.prepare(&mut build, is_same_abi);
                let inject = format!("inject={call}:signal=KILL:when={position}");
                let ended = traced(&lab, &build, call, &["-e", &inject]);
                after_each_kill(
                    &lab,
                    &flood,
                    is_same_abi,
                    &build,
                    &format!("{call} {position}, {is_same_abi}"),
                );
                if ended.code == Some(0) {
                    break;
                }
                killed += 1;
            }
        }
    }
    assert!(killed > 10, "only {killed} upgrades were killed");
}

/// The positions, among its calls of bpf(2), of those that replace the program behind a link.
fn switches(traced: &Finished) -> Vec<usize> {
    let calls = (1..).zip(traced.stderr.lines().filter(|line| line.starts_with("bpf(")));
    calls.filter(|(_, call)| call.contains("BPF_LINK_UPDATE")).map(|(position, _)| position).collect()
}

#[test]
fn an_upgrade_may_be_killed_before_between_and_after_its_switches() {
    let lab = Lab::new();
    let flood = lab.flood();
    let mut build = filter_ctl_path();
    for is_same_abi in [true, false] {
        lab.prepare(&mut build, is_same_abi);
        let switches = switches(&traced(&lab, &build, "bpf", &[]).done());
        assert_eq!(switches.len(), 2, "one for each interface");
        for position in switches.into_iter().flat_map(|position| [position, position + 1]) {
            lab.prepare(&mut build, is_same_abi);
            let inject = format!("inject=bpf:signal=KILL:when={position}");
            let ended = traced(&lab, &build, "bpf", &["-e", &inject]);
            assert_eq!(ended.code, None, "{position}");
            after_each_kill(&lab, &flood, is_same_abi, &build, &format!("{position}, {is_same_abi}"));
        }
    }
}

#[test]
fn what_an_older_build_left_half_done_is_taken_over() {
    let lab = Lab::new();
    let flood = lab.flood();
    flood.send(500).unwrap();
    let resize = |size: &str, options: &[&str]| -> Finished {
        let mut command = Command::new("strace");
        command.args(["-qq", "-e", "trace=bpf"]).args(options).arg(filter_ctl_path());
        command.args(["resize", "--max-ipv4", size]);
        lab.server.output(command).unwrap().into()
    };
    // One interface is left with the program of the older set, and has counted there what it is to be credited with.
    let between = switches(&resize("2000", &[]).done())[0] + 1;
    let killed = resize("3000", &["-e", &format!("inject=bpf:signal=KILL:when={between}")]);
    assert_eq!(killed.code, None);
    flood.send(500).unwrap();
    lab.server.run(|| assert_eq!(pins().sets().unwrap().0.len(), 2));
    lab.age();
    let upgraded = lab.server.ctl(&["upgrade"]).done();
    assert!(upgraded.stdout.contains("3 entries taken over"), "{upgraded:?}");
    flood.send(500).unwrap();
    lab.is_whole("after the upgrade");
    assert_eq!(lab.counted().0, sent(&flood));
    let status = lab.server.ctl(&["status", "--json"]).done().json();
    assert_eq!(status["entries"]["ipv4"]["limit"], 3000);
}

#[test]
fn where_the_kernel_refuses_anything_the_other_build_filters_on() {
    /// Every so many calls one is refused: a prime, so that all kinds of call are met.
    const STEP: usize = 23;
    let lab = Lab::new();
    let flood = lab.flood();
    let program = || lab.server.run(|| filter_ctl::kernel::interface::program_of(&pins(), FILTERED)).unwrap();
    let mut build = filter_ctl_path();
    for is_same_abi in [true, false] {
        // As it was, for the next try: what was made is removed, and the older one is still there.
        let is_as_before = || {
            let (ours, older) = (pins(), pins().of_abi(OLDEST_READABLE));
            let is_there =
                |pins: filter_ctl::kernel::Pins| lab.server.run(move || pins.set().unwrap().is_some());
            (is_there(ours), is_there(older)) == (is_same_abi, !is_same_abi)
        };
        lab.prepare(&mut build, is_same_abi);
        let shown = traced(&lab, &build, "bpf", &[]).done();
        let calls = shown.stderr.lines().filter(|line| line.starts_with("bpf(")).count();
        let mut refused = 0;
        lab.prepare(&mut build, is_same_abi);
        for position in (1..calls).step_by(STEP).chain(switches(&shown)) {
            let before = program();
            let ended =
                traced(&lab, &build, "bpf", &["-e", &format!("inject=bpf:error=ENOMEM:when={position}")]);
            let when = format!("call {position}: {}", ended.stderr.lines().last().unwrap_or_default());
            assert!(matches!(ended.code, Some(0 | 1 | 4)), "{:?}, {when}", ended.code);
            flood.send(500).unwrap();
            // It is made and can't be said to be, at worst.
            if ended.code != Some(1) {
                lab.is_whole(&when);
                lab.prepare(&mut build, is_same_abi);
            } else {
                refused += 1;
                assert_eq!(program(), before, "{when}");
                assert!(is_as_before(), "{when}");
            }
        }
        assert!(refused > 5, "only {refused} upgrades were refused");
        lab.run(&build, &["upgrade"]).done();
        lab.is_whole("at the end");
        assert_eq!(lab.counted().0, sent(&flood));
    }
}

#[test]
fn other_builds_are_told_from_this_one() {
    let lab = Lab::new();
    lab.age();
    for arguments in [
        &["status"][..],
        &["block", "add", "192.0.2.9"],
        &["stats", "--over", "0s"],
        &["explain", "192.0.2.9"],
        &["resize", "--max-ipv4", "2000"],
        &["load", FILTERED],
    ] {
        let words = format!("filtered by another build (ABI {OLDEST_READABLE}): run `filter-ctl upgrade`");
        fails(&lab.server.ctl(arguments), 3, &[&words]);
    }
    let rename = |from: u32, to: u32| {
        let (from, to) = (pins().of_abi(from).abi(), pins().of_abi(to).abi());
        lab.server.run(|| std::fs::rename(from, to)).unwrap();
    };
    rename(OLDEST_READABLE, ABI_VERSION + 1);
    for arguments in [&["status"][..], &["upgrade"], &["load", FILTERED]] {
        fails(&lab.server.ctl(arguments), 3, &["a newer build made what is pinned", "use that build"]);
    }
    rename(ABI_VERSION + 1, OLDEST_READABLE - 1);
    fails(&lab.server.ctl(&["upgrade"]), 3, &["unload --all"]);
    rename(OLDEST_READABLE - 1, OLDEST_READABLE);
    let unloaded = lab.server.ctl(&["unload", "--all"]).done();
    assert!(unloaded.stdout.contains("the store keeps 3 entries and what was counted"), "{unloaded:?}");
    assert!(!lab.server.run(|| pins().root().exists()));
    fails(&lab.server.ctl(&["upgrade"]), 3, &["filter-ctl load"]);
}

#[test]
fn unloading_waits_for_nobody_who_holds_the_link() {
    let lab = Lab::new();
    let held = lab.server.run(|| FdLink::from(PinnedLink::from_pin(pins().link(FILTERED)).unwrap()));
    lab.server.ctl(&["unload", FILTERED]).done();
    let shown = lab.server.ip(&format!("-j link show {FILTERED}")).unwrap();
    let shown: Value = serde_json::from_str(&shown).unwrap();
    assert!(shown[0].get("xdp").is_none(), "{shown}");
    assert!(held.info().is_ok(), "the link is still open");
    lab.server.ctl(&["load", FILTERED]).done();
    assert_eq!(lab.server.ctl(&["status"]).code, Some(0));
}

#[test]
fn pins_and_counters_follow_a_new_name() {
    let lab = Lab::new();
    let flood = lab.flood();
    flood.send(1000).unwrap();
    let before = lab.counted();
    let follow = || lab.server.run(|| follow_renames(&mut open().unwrap()).unwrap());
    assert_eq!(follow(), []);
    lab.server.ip(&format!("link set {FILTERED} name lan0")).unwrap();
    assert_eq!(follow(), [(FILTERED.to_owned(), "lan0".to_owned())]);
    assert_eq!(follow(), []);
    let status = lab.server.ctl(&["status", "--json"]).done().json();
    let interfaces = status["interfaces"].as_array().unwrap();
    let interface = interfaces.iter().find(|interface| interface["interface"] != QUIET).unwrap();
    assert_eq!((&interface["interface"], &interface["device"]), (&"lan0".into(), &"lan0".into()));
    assert!(interface["loaded_at"].is_string(), "{interface}");
    assert_eq!(lab.counted(), before);

    // Two that change names with each other stay as they are, since each has the other's pins; and one that takes the
    // name which another gives up follows it.
    lab.server.ip("link add flt1 type veth peer name peer1").unwrap();
    lab.server.ctl(&["load", "flt1"]).done();
    for (from, to) in [("lan0", "tmp0"), ("flt1", "lan0"), ("tmp0", "flt1")] {
        lab.server.ip(&format!("link set {from} name {to}")).unwrap();
    }
    assert_eq!(follow(), []);
    lab.server.ip("link set flt1 name lan1").unwrap();
    let followed = [("lan0", "lan1"), ("flt1", "lan0")].map(|(from, to)| (from.to_owned(), to.to_owned()));
    assert_eq!(follow(), followed);
    assert_eq!(lab.server.ctl(&["status"]).code, Some(0));
    let pinned = lab.server.run(|| pins().loaded_interfaces().unwrap());
    assert_eq!(pinned, [QUIET, "lan0", "lan1"]);
}
