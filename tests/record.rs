//! What is recorded of frames is what was sent, whoever reads it and however it ends: commands, capture files as tshark and
//! tcpdump read them, and the daemon's files. Needs root.

#![expect(clippy::unwrap_used, reason = "a panic is how a test reports")]

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use filter_ctl::capture;
use filter_ctl::host::monotonic_now_s;
use filter_ctl::policy::Prefix;
use filter_tests::flood::{Flood, Kind, Wave};
use filter_tests::frames::{ethernet, ipv4, ipv6, protocol, tcp, udp};
use filter_tests::lab::{Finished, Host, Running, eventually, fails, join};
use filter_tests::packets::Port;
use serde_json::Value;

const FILTERED: &str = "flt0";
const PEER: &str = "peer0";
/// Where the daemon's files are.
const FILES: &str = "/var/lib/filter-ctl/record";
/// Bytes that are kept of a frame.
const SNAP: usize = 128;

/// A server that filters, and the network that sends to it.
struct Lab {
    server: Host,
    network: Host,
}

impl Lab {
    fn new() -> Self {
        let (server, network) = (Host::new("server").unwrap(), Host::new("network").unwrap());
        join(&server, FILTERED, &network, PEER).unwrap();
        server.ctl(&["load", FILTERED, "--max-ipv4", "4000", "--max-ipv6", "500"]).done();
        Self { server, network }
    }

    fn port(&self) -> Port {
        self.network.run(|| Port::open(PEER)).unwrap()
    }

    /// Sends frames, and waits until the recorder has counted as many more.
    fn send(&self, frames: &[Vec<u8>]) {
        let before = self.summary()["seen"].as_u64().unwrap();
        let mut port = self.port();
        frames.iter().for_each(|frame| port.send(frame).unwrap());
        let goal = before + frames.len() as u64;
        eventually("the frames were recorded", || self.summary()["seen"].as_u64() >= Some(goal)).unwrap();
    }

    fn shown(&self, arguments: &[&str]) -> Value {
        let shown = self.server.ctl(&[&["record", "show", "--json", "--limit", "10000"], arguments].concat());
        assert!(matches!(shown.code, Some(0 | 5)), "{shown:?}");
        shown.json()
    }

    fn summary(&self) -> Value {
        self.shown(&[])["summary"].clone()
    }

    fn samples(&self, arguments: &[&str]) -> Vec<Value> {
        self.shown(arguments)["samples"].as_array().unwrap().clone()
    }

    fn flood(&self, sources: &[&str]) -> Flood<'_> {
        let sources = sources.iter().map(|source| Prefix::parse(source, false).unwrap()).collect();
        let target: SocketAddr = "192.0.2.1:53".parse().unwrap();
        let wave = Wave { kind: Kind::Udp, target, sources };
        Flood::new((&self.network, PEER), (&self.server, FILTERED), &[wave]).unwrap()
    }

    /// What tshark says of these fields, a line a frame.
    fn fields(&self, file: &str, fields: &[&str]) -> Vec<Vec<String>> {
        let mut arguments = vec!["-n", "-r", file, "-T", "fields", "-E", "separator=|"];
        fields.iter().for_each(|field| arguments.extend(["-e", field]));
        let said = self.server.sh("tshark", arguments).unwrap();
        said.lines().map(|line| line.split('|').map(str::to_owned).collect()).collect()
    }
}

/// A UDP datagram over IPv4, with a payload of this length that begins with a number.
fn numbered(source: &str, number: u32, length: usize) -> Vec<u8> {
    let mut payload = number.to_be_bytes().to_vec();
    payload.resize(length.max(4), 0xa5);
    ethernet(&[], 0x0800, &ipv4(source, protocol::UDP, &udp(&payload)))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A `record follow` that reads from now on.
struct Follower(Running, BufReader<std::process::ChildStdout>);

impl Follower {
    /// Starts it, and waits for the header that says so.
    fn start(host: &Host, arguments: &[&str]) -> Self {
        let command = host.filter_ctl(&[&["record", "follow"], arguments].concat());
        let mut running = Running(host.spawn(command).unwrap());
        let mut out = BufReader::new(running.0.stdout.take().unwrap());
        let mut header = String::new();
        out.read_line(&mut header).unwrap();
        assert!(header.starts_with("time "), "{header}");
        Self(running, out)
    }

    /// Reads a line.
    fn line(&mut self) -> String {
        let mut line = String::new();
        self.1.read_line(&mut line).unwrap();
        line
    }

    /// Waits for its end.
    fn end(mut self) -> Finished {
        let mut stdout = String::new();
        self.1.read_to_string(&mut stdout).unwrap();
        let mut stderr = String::new();
        self.0.0.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
        Finished { code: self.0.0.wait().unwrap().code(), stdout, stderr }
    }
}

/// The number in front of these words.
fn number_before(text: &str, words: &str) -> u64 {
    let before = text.split(words).next().unwrap();
    let number = before.rsplit(|c: char| !(c.is_ascii_digit() || c == ',')).next().unwrap();
    number.replace(',', "").parse().unwrap_or_else(|_| panic!("no number before `{words}` in {text}"))
}

#[test]
fn what_is_shown_of_a_frame_is_what_was_sent() {
    let lab = Lab::new();
    let empty = lab.server.ctl(&["record", "show"]);
    fails(&empty, 5, &["no frame was dropped since the filter was loaded"]);
    lab.server.ctl(&["block", "add", "203.0.113.0/24", "--reason", "ticket \"4711\""]).done();
    lab.server.ctl(&["block", "add", "2001:db8:bad::/48", "--owner", "fail2ban"]).done();
    let ipv4_udp = numbered("203.0.113.5", 1, 300);
    let ipv6_tcp = ethernet(&[], 0x86dd, &ipv6("2001:db8:bad::5", protocol::TCP, &tcp()));
    let mut broken = ethernet(&[], 0x0800, &ipv4("198.51.100.1", protocol::UDP, &udp(b"x")));
    broken.truncate(30);
    let expected = [
        (&ipv4_udp, "blocked", Some(("203.0.113.0/24", "manual")), Some("203.0.113.5")),
        (&ipv6_tcp, "blocked", Some(("2001:db8:bad::/48", "fail2ban")), Some("2001:db8:bad::5")),
        (&broken, "ipv4_truncated", None, None),
    ];
    let before = SystemTime::now();
    lab.send(&expected.map(|(frame, ..)| frame.clone()));
    let after = SystemTime::now();

    let samples = lab.samples(&[]);
    assert_eq!(samples.len(), expected.len(), "{samples:?}");
    let ifindex: u64 =
        lab.server.read(&format!("/sys/class/net/{FILTERED}/ifindex")).unwrap().parse().unwrap();
    for (sample, (frame, reason, entry, source)) in samples.iter().zip(expected) {
        assert_eq!(sample["bytes"], hex(&frame[..frame.len().min(SNAP)]));
        assert_eq!(sample["length"], frame.len());
        assert_eq!((&sample["reason"], &sample["verdict"]), (&Value::from(reason), &Value::from("drop")));
        assert_eq!((&sample["interface"], &sample["ifindex"]), (&FILTERED.into(), &ifindex.into()));
        assert_eq!((&sample["queue"], &sample["stands_for"]), (&0.into(), &1.into()));
        assert_eq!(sample["source"], Value::from(source));
        match entry {
            Some((prefix, owner)) => {
                assert_eq!(
                    (&sample["entry"]["prefix"], &sample["entry"]["owner"]),
                    (&prefix.into(), &owner.into())
                );
                assert_eq!(sample["entry"]["fate"], "present");
            }
            None => assert!(sample["entry"].is_null()),
        }
        let time = humantime(sample["time"].as_str().unwrap());
        assert!((before..=after).contains(&time), "{before:?} {sample} {after:?}");
    }
    let destination_port = u16::from_be_bytes([ipv4_udp[36], ipv4_udp[37]]);
    assert_eq!(samples[0]["destination_port"], destination_port);
    assert_eq!(samples[0]["entry"]["why"], "ticket \"4711\"");
    let printed = lab.server.ctl(&["record", "show"]).done().stdout;
    assert!(printed.contains("block 203.0.113.0/24 of manual: ticket \"4711\""), "{printed}");
    assert!(printed.contains("3 frames recorded, 3 sampled, of which 3 kept and 0 overwritten"), "{printed}");
    assert!(printed.lines().all(|line| line.chars().count() <= 80), "{printed}");
}

/// A time as JSON has it.
fn humantime(text: &str) -> SystemTime {
    let output = Command::new("date").args(["-u", "+%s.%N", "-d", text]).output().unwrap();
    UNIX_EPOCH + seconds(String::from_utf8(output.stdout).unwrap().trim())
}

/// Seconds with nine digits behind the point, as tshark has them.
fn seconds(text: &str) -> Duration {
    let (seconds, nanoseconds) = text.split_once('.').unwrap();
    assert_eq!(nanoseconds.len(), 9, "{text}");
    Duration::new(seconds.parse().unwrap(), nanoseconds.parse().unwrap())
}

#[test]
fn what_is_asked_for_is_shown_and_nothing_else() {
    let lab = Lab::new();
    fails(&lab.network.ctl(&["record", "show"]), 3, &["filter-ctl load IFACE"]);
    lab.server.ctl(&["block", "add", "203.0.113.0/24", "203.0.113.128/25", "198.51.100.7"]).done();
    let mut broken = numbered("198.51.100.1", 1, 4);
    broken.truncate(30);
    let sources = ["203.0.113.5", "203.0.113.200", "198.51.100.7"];
    let mut frames: Vec<_> = (2..).zip(sources).map(|(number, source)| numbered(source, number, 4)).collect();
    frames.push(broken);
    lab.send(&frames);
    let matching = |arguments: &[&str]| lab.samples(arguments).len();
    assert_eq!(matching(&["--reason", "blocked"]), 3);
    assert_eq!(matching(&["--reason", "blocked", "--reason", "ipv4_truncated"]), 4);
    assert_eq!(matching(&["--entry", "203.0.113.0/24"]), 2);
    assert_eq!(matching(&["--entry", "203.0.113.128/25"]), 1);
    assert_eq!(matching(&["--src", "203.0.113.0/25"]), 1);
    assert_eq!(matching(&["--dst", "203.0.113.0/24"]), 0);
    assert_eq!(matching(&["--interface", FILTERED, "--verdict", "drop", "--since", "1h"]), 4);
    assert_eq!(matching(&["--interface", "eth9"]), 0);
    assert_eq!(matching(&["--verdict", "pass"]), 0);
    let newest = lab.server.ctl(&["record", "show", "--json", "--limit", "1"]).done().json();
    assert_eq!(
        (newest["matched"].as_u64(), &newest["samples"][0]["reason"]),
        (Some(4), &"ipv4_truncated".into())
    );

    let none = lab.server.ctl(&["record", "show", "--src", "192.0.2.0/24"]);
    fails(&none, 5, &["no recorded frame matches; there are 4 frames recorded"]);
    fails(&lab.server.ctl(&["record", "show", "--reason", "block"]), 2, &["blocked", "ipv4_truncated"]);
    fails(&lab.server.ctl(&["record", "show", "--src", "203.0.113.5/24"]), 2, &["host bits"]);
}

#[test]
fn the_entry_that_decided_is_named_when_it_is_gone_and_when_another_has_its_place() {
    let lab = Lab::new();
    lab.server.run(|| fs::write("/var/lib/spam.txt", "203.0.113.0/24 ; SBL1234\n")).unwrap();
    lab.server.ctl(&["list", "add", "spam", "--file", "/var/lib/spam.txt", "--format", "spamhaus"]).done();
    lab.server.ctl(&["block", "add", "198.51.100.7", "--reason", "first"]).done();
    lab.send(&[numbered("203.0.113.5", 1, 4), numbered("198.51.100.7", 2, 4)]);
    let samples = lab.samples(&[]);
    let of_list = &samples[0]["entry"];
    assert_eq!((&of_list["owner"], &of_list["lists"][0]), (&"list:spam".into(), &"spam".into()), "{of_list}");
    assert_eq!(of_list["why"], "SBL1234", "{of_list}");

    lab.server.ctl(&["block", "del", "198.51.100.7"]).done();
    let gone = |fate: &str| {
        let entry = lab.samples(&["--src", "198.51.100.7"])[0]["entry"].clone();
        assert_eq!((&entry["prefix"], &entry["fate"]), (&"198.51.100.7/32".into(), &fate.into()), "{entry}");
        assert!(entry["owner"].is_null() && entry["why"].is_null(), "{entry}");
    };
    gone("removed");
    // Tables know an entry's age in whole seconds.
    let made_s = monotonic_now_s();
    eventually("a second has passed", || monotonic_now_s() > made_s).unwrap();
    lab.server.ctl(&["block", "add", "198.51.100.7", "--reason", "second"]).done();
    gone("removed");
    let printed = lab.server.ctl(&["record", "show"]).done().stdout;
    assert!(printed.contains("block 198.51.100.7/32, removed since"), "{printed}");
    lab.server.ctl(&["record", "save", "-w", "/run/gone.pcapng"]).done();
    let comments = lab.fields("/run/gone.pcapng", &["frame.comment"]);
    let expected = [
        "reason=blocked entry=203.0.113.0/24 owner=list:spam list=spam why=\"SBL1234\"",
        "reason=blocked entry=198.51.100.7/32 entry_is=removed",
    ];
    assert_eq!(comments.concat(), expected);
}

#[test]
fn tshark_and_tcpdump_read_what_is_saved() {
    let lab = Lab::new();
    lab.server.ctl(&["block", "add", "203.0.113.0/24", "--reason", "SYN flood"]).done();
    // Of these every second is asked for.
    let frames: Vec<_> = (0..10)
        .map(|number| numbered(["203.0.113.1", "203.0.113.2"][number as usize % 2], number, 200))
        .collect();
    lab.send(&frames);
    lab.server.ctl(&["record", "passed", "--for", "1m"]).done();
    lab.send(&[numbered("198.51.100.9", 100, 8)]);
    let file = "/run/dropped.pcapng";
    let shown = lab.samples(&["--src", "203.0.113.2"]);
    assert_eq!(shown.len(), 5);
    let saved = lab.server.ctl(&["record", "save", "--src", "203.0.113.2", "-w", file]).done();
    assert!(saved.stderr.contains("5 frames written to /run/dropped.pcapng"), "{saved:?}");
    let mode = lab.server.run(|| {
        fs::metadata(file)
            .map(|metadata| std::os::unix::fs::PermissionsExt::mode(&metadata.permissions()) & 0o777)
    });
    assert_eq!(mode.unwrap(), 0o600);

    let fields = [
        "frame.interface_name",
        "frame.interface_queue",
        "frame.packet_flags_direction",
        "frame.verdict.ebpf_xdp",
        "frame.packet_id",
        "frame.drop_count",
        "frame.len",
        "frame.cap_len",
        "ip.src",
        "frame.comment",
    ];
    let comment = "reason=blocked entry=203.0.113.0/24 owner=manual why=\"SYN flood\"";
    let length = frames[1].len().to_string();
    let expected: Vec<Vec<String>> = (0..5)
        .map(|id: u32| {
            let id = id.to_string();
            // Between two that are written there is one that was not asked for.
            [FILTERED, "0", "0x00000001", "1", &id, "1", &length, "128", "203.0.113.2", comment]
                .map(str::to_owned)
                .to_vec()
        })
        .collect();
    assert_eq!(lab.fields(file, &fields), expected);
    let times: Vec<Duration> =
        lab.fields(file, &["frame.time_epoch"]).concat().iter().map(|time| seconds(time)).collect();
    let of_json: Vec<Duration> = shown
        .iter()
        .map(|sample| humantime(sample["time"].as_str().unwrap()).duration_since(UNIX_EPOCH).unwrap())
        .collect();
    // To the nanosecond; the clock may have been set between the two commands.
    let since_first = |times: &[Duration]| times.iter().map(|time| *time - times[0]).collect::<Vec<_>>();
    assert_eq!(since_first(&times), since_first(&of_json));
    assert!(times[0].abs_diff(of_json[0]) < Duration::from_secs(60), "{times:?} {of_json:?}");
    // The bytes, by a third reader.
    let sent: Vec<_> =
        frames.iter().skip(1).step_by(2).map(|frame| (frame[..SNAP].to_vec(), frame.len())).collect();
    assert_eq!(packets(&lab.server, file), sent);

    let piped = "\"$0\" record save -w - | tcpdump -nr - 2>/dev/null";
    let printed =
        lab.server.sh("sh", ["-c", piped, filter_tests::lab::filter_ctl_path().to_str().unwrap()]).unwrap();
    let of = |source: &str| printed.lines().filter(|line| line.contains(source)).count();
    assert_eq!((of("203.0.113.1."), of("203.0.113.2."), of("198.51.100.9.")), (5, 5, 1), "{printed}");
    lab.server.ctl(&["record", "save", "--verdict", "pass", "--src", "198.51.100.9", "-w", file]).done();
    let passed = lab.fields(file, &["frame.verdict.ebpf_xdp", "frame.comment"]);
    assert_eq!(passed, [["2", "reason=no_match"]]);

    // A file that was cut off is read up to there.
    lab.server.ctl(&["record", "save", "-w", file]).done();
    lab.server.run(|| {
        let open = File::options().write(true).open(file).unwrap();
        open.set_len(open.metadata().unwrap().len() - 10).unwrap();
    });
    let count = packets(&lab.server, file).len();
    let mut tshark = Command::new("tshark");
    tshark.args(["-n", "-r", file, "-T", "fields", "-e", "frame.number"]);
    let tshark: Finished = lab.server.output(tshark).unwrap().into();
    assert_eq!((count, tshark.stdout.lines().count()), (10, 10), "{tshark:?}");
    assert!(tshark.stderr.contains("cut short"), "{tshark:?}");
}

#[test]
fn frames_that_pass_are_recorded_for_a_time_and_only_when_asked() {
    let lab = Lab::new();
    let mut port = lab.port();
    port.send(&numbered("198.51.100.9", 1, 8)).unwrap();
    lab.server.ctl(&["record", "passed", "--for", "1m"]).done();
    lab.send(&[numbered("198.51.100.9", 2, 8)]);
    let payloads = |lab: &Lab| -> Vec<String> {
        let samples = lab.samples(&["--src", "198.51.100.9", "--verdict", "pass"]);
        samples.iter().map(|sample| sample["bytes"].as_str().unwrap()[84..92].to_owned()).collect()
    };
    assert_eq!(payloads(&lab), ["00000002"]);
    let status = lab.server.ctl(&["status", "--json"]).done().json();
    assert!((1..=61).contains(&status["passed_recorded_for_s"].as_u64().unwrap()), "{status}");
    assert!(lab.server.ctl(&["status"]).done().stdout.contains("frames that pass are recorded for "));
    lab.server.ctl(&["record", "passed", "--off"]).done();
    // Counted behind it: what was sent before it was looked at by then.
    lab.server.ctl(&["block", "add", "203.0.113.1"]).done();
    port.send(&numbered("198.51.100.9", 3, 8)).unwrap();
    lab.send(&[numbered("203.0.113.1", 4, 8)]);
    assert_eq!(payloads(&lab), ["00000002"]);
    let status = lab.server.ctl(&["status", "--json"]).done().json();
    assert!(status["passed_recorded_for_s"].is_null(), "{status}");
    let audit = lab.server.ctl(&["audit", "--json"]).done().stdout;
    assert!(audit.contains("record passed --for 1m") && audit.contains("record passed --off"), "{audit}");
    // It ends by itself.
    lab.server.ctl(&["record", "passed", "--for", "100ms"]).done();
    eventually("it is over", || {
        lab.server.ctl(&["status", "--json"]).done().json()["passed_recorded_for_s"].is_null()
    })
    .unwrap();
    port.send(&numbered("198.51.100.9", 5, 8)).unwrap();
    lab.send(&[numbered("203.0.113.1", 6, 8)]);
    assert!(!payloads(&lab).contains(&"00000005".to_owned()));
    for (arguments, word) in
        [(&["--for", "0s"][..], "--off ends it"), (&["--for", "2d"], "a day"), (&[], "--for")]
    {
        fails(&lab.server.ctl(&[&["record", "passed"], arguments].concat()), 2, &[word]);
    }
}

#[test]
fn a_capture_is_whole_or_not_there() {
    let lab = Lab::new();
    lab.server.ctl(&["block", "add", "203.0.113.0/24"]).done();
    lab.send(&(0..20).map(|number| numbered("203.0.113.1", number, 200)).collect::<Vec<_>>());
    let host = &lab.server;
    let small = "/run/small";
    host.sh("mkdir", [small]).unwrap();
    host.sh("mount", ["-t", "tmpfs", "-o", "size=4k", "tmpfs", small]).unwrap();
    let listed = || host.sh("ls", ["-A", small]).unwrap();
    let full = host.ctl(&["record", "save", "-w", "/run/small/x.pcapng"]);
    fails(&full, 1, &["could not write /run/small/x.pcapng", "No space left"]);
    assert_eq!(listed(), "");
    host.sh("mount", ["-o", "remount,ro", small]).unwrap();
    fails(&host.ctl(&["record", "save", "-w", "/run/small/x.pcapng"]), 1, &["Read-only file system"]);
    // What was there before stays until the new one is whole.
    host.sh("mount", ["-o", "remount,rw,size=64k", small]).unwrap();
    host.ctl(&["record", "save", "-w", "/run/small/x.pcapng"]).done();
    assert_eq!(listed(), "x.pcapng\n");
    host.sh("sh", ["-c", "head -c 100000 /dev/zero > /run/small/rest 2>/dev/null || true"]).unwrap();
    let before = host.run(|| fs::read("/run/small/x.pcapng")).unwrap();
    fails(&host.ctl(&["record", "save", "-w", "/run/small/x.pcapng"]), 1, &["No space left"]);
    assert_eq!(host.run(|| fs::read("/run/small/x.pcapng")).unwrap(), before);
    assert_eq!(listed(), "rest\nx.pcapng\n");

    fails(&host.ctl(&["record", "save", "-w", "/dev/null"]), 1, &["no regular file"]);
    fails(&host.ctl(&["record", "save", "-w", "-", "--json"]), 2, &["no room for JSON"]);
    let path = filter_tests::lab::filter_ctl_path();
    let command = format!("{} record save -w -", path.display());
    let terminal = host.sh("sh", ["-c", "script -qec \"$0\" /dev/null; true", &command]).unwrap();
    assert!(terminal.contains("no text for a terminal") && !terminal.contains("filter-ctl 0."), "{terminal}");
    let none = host.ctl(&["record", "save", "--src", "192.0.2.7", "-w", "/run/none.pcapng"]);
    fails(&none, 5, &["0 frames written"]);
    assert_eq!(lab.fields("/run/none.pcapng", &["frame.number"]).len(), 0);

    // What comes during a time, until it is over or somebody ends it. Of an entry whose burst is not used up.
    host.ctl(&["block", "add", "203.0.113.2"]).done();
    let save = host.filter_ctl(&["record", "save", "--for", "1h", "-w", "/run/coming.pcapng"]);
    let mut save = Running(host.spawn(save).unwrap());
    eventually("it has begun", || {
        host.run(|| {
            fs::read_dir("/run").unwrap().flatten().any(|entry| {
                entry.file_name().to_string_lossy().starts_with(".coming.pcapng")
                    && entry.metadata().unwrap().len() > 0
            })
        })
    })
    .unwrap();
    lab.send(&[numbered("203.0.113.2", 77, 8)]);
    save.signal("INT");
    assert_eq!(save.0.wait().unwrap().code(), Some(0));
    let coming = lab.fields("/run/coming.pcapng", &["ip.src", "frame.drop_count"]);
    assert_eq!(coming, [["203.0.113.2", "0"]]);
}

#[test]
fn who_follows_sees_each_frame_or_is_told_how_many_were_lost() {
    let lab = Lab::new();
    lab.server.ctl(&["block", "add", "203.0.113.0/24", "--reason", "flood"]).done();
    let mut follower = Follower::start(&lab.server, &[]);
    let mut other = Follower::start(&lab.server, &["--src", "203.0.113.9"]);
    lab.send(&[numbered("203.0.113.8", 1, 8), numbered("203.0.113.9", 2, 8)]);
    for follower in [&mut follower, &mut other] {
        assert!(follower.line().contains("(UTC)"), "the day comes first");
    }
    for source in ["203.0.113.8", "203.0.113.9"] {
        let (frame, who) = (follower.line(), follower.line());
        assert!(frame.contains("drop     blocked"), "{frame}");
        assert!(who.contains(source) && who.contains("block 203.0.113.0/24 of manual: flood"), "{who}");
    }
    other.line();
    assert!(other.line().contains("203.0.113.9"));

    follower.0.signal("STOP");
    // How many are sampled is chance.
    let flood = lab.flood(&["203.0.113.0/24"]);
    eventually("samples were overwritten that it had not read", || {
        flood.send(100_000).unwrap();
        lab.summary()["overwritten"].as_u64() > Some(10)
    })
    .unwrap();
    let sampled = lab.summary()["sampled"].as_u64().unwrap();
    follower.0.signal("CONT");
    // It catches up, and goes on.
    let mut printed = String::new();
    while !printed.contains("overwritten before they could be read") {
        printed += &follower.line();
    }
    follower.0.signal("INT");
    let ended = follower.end().done();
    let shown = number_before(&ended.stderr, " frames shown");
    let lost = number_before(&ended.stderr, " recorded frames were overwritten");
    assert!(lost > 0 && shown > 2, "{ended:?}");
    assert_eq!(shown + lost, sampled, "{ended:?}");

    // One who filters, and one whose filter is unloaded.
    lab.server.ctl(&["unload", "--all"]).done();
    let ended = other.end();
    fails(&ended, 3, &["the filter was unloaded meanwhile", "that did not match"]);
}

#[test]
fn following_ends_when_nobody_reads_and_when_its_time_is_over() {
    let lab = Lab::new();
    lab.server.ctl(&["block", "add", "203.0.113.0/24"]).done();
    let follower = Follower::start(&lab.server, &["--for", "200ms"]);
    let ended = follower.end().done();
    assert!(ended.stderr.contains("0 frames shown"), "{ended:?}");

    let Follower(mut running, out) = Follower::start(&lab.server, &[]);
    drop(out);
    let mut port = lab.port();
    eventually("it has noticed", || {
        port.send(&numbered("203.0.113.9", 1, 8)).unwrap();
        running.0.try_wait().unwrap().is_some()
    })
    .unwrap();
    assert_eq!(running.0.wait().unwrap().code(), Some(0));

    // JSON: a line a frame, and one at the end.
    let command = lab.server.filter_ctl(&["record", "follow", "--json", "--src", "203.0.113.9"]);
    let mut running = Running(lab.server.spawn(command).unwrap());
    let mut out = BufReader::new(running.0.stdout.take().unwrap());
    let sending = std::thread::spawn(move || {
        let mut line = String::new();
        out.read_line(&mut line).unwrap();
        (line, out)
    });
    eventually("it has shown a frame", || {
        port.send(&numbered("203.0.113.9", 3, 8)).unwrap();
        sending.is_finished()
    })
    .unwrap();
    let (line, mut out) = sending.join().unwrap();
    let sample: Value = serde_json::from_str(&line).unwrap();
    assert_eq!((&sample["schema"], &sample["source"]), (&1.into(), &"203.0.113.9".into()));
    running.signal("TERM");
    let mut rest = String::new();
    out.read_to_string(&mut rest).unwrap();
    assert_eq!(running.0.wait().unwrap().code(), Some(0));
    let mut lines: Vec<Value> = rest.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let summary = lines.pop().unwrap()["summary"].clone();
    let shown = 1 + lines.iter().filter(|line| !line["source"].is_null()).count() as u64;
    assert_eq!((summary["shown"].as_u64(), summary["others"].as_u64()), (Some(shown), Some(0)), "{summary}");
}

/// The daemon, until it is dropped.
struct Daemon {
    child: Child,
    log: PathBuf,
}

impl Daemon {
    fn start(host: &Host, arguments: &[&str]) -> Self {
        let log = Path::new("/run/daemon.log").to_owned();
        let mut command = host.filter_ctl(&[&["run", "--proof-interval", "500ms"], arguments].concat());
        command.stdout(Stdio::null()).stderr(host.run(|| File::create(&log)).unwrap());
        let daemon = Self { child: host.spawn(command).unwrap(), log };
        eventually("the daemon looks at the recorder", || !recorded(host).is_null()).unwrap();
        daemon
    }

    /// How often it told an event of this kind.
    fn told(&self, host: &Host, kind: &str) -> usize {
        let text = host.run(|| fs::read_to_string(&self.log)).unwrap();
        text.lines().filter(|line| line.starts_with(&format!("filter-ctl: {kind}: "))).count()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What the daemon says of its files.
fn recorded(host: &Host) -> Value {
    host.ctl(&["status", "--json"]).json()["daemon"]["record"].clone()
}

/// The daemon's files, the oldest first, with their lengths.
fn files(host: &Host) -> Vec<(String, u64)> {
    host.run(|| {
        let Ok(directory) = fs::read_dir(FILES) else { return Vec::new() };
        let mut files: Vec<_> = directory
            .flatten()
            .filter_map(|entry| Some((entry.path().to_str()?.to_owned(), entry.metadata().ok()?.len())))
            .collect();
        files.sort();
        files
    })
}

/// The packets of a capture file: as much as is there of each, and its true length.
fn packets(host: &Host, file: &str) -> Vec<(Vec<u8>, usize)> {
    let mut packets = Vec::new();
    host.run(|| {
        capture::for_each(Path::new(file), |packet| {
            packets.push((packet.frame, packet.original_length));
            true
        })
    })
    .unwrap();
    packets
}

/// The number with which the payload of each frame in a file begins.
fn numbers(host: &Host, file: &str) -> Vec<u32> {
    let number = |(frame, _): (Vec<u8>, usize)| u32::from_be_bytes(frame[42..46].try_into().unwrap());
    packets(host, file).into_iter().map(number).collect()
}

#[test]
fn the_daemon_keeps_what_was_recorded_in_files_of_bounded_size() {
    let lab = Lab::new();
    let sources: Vec<String> = (0..64).map(|host| format!("203.0.113.{host}")).collect();
    let mut block = vec!["block", "add"];
    block.extend(sources.iter().map(String::as_str));
    lab.server.ctl(&block).done();
    let daemon = Daemon::start(
        &lab.server,
        &["--record-size", "64KiB", "--record-total", "192KiB", "--record-age", "1h"],
    );
    let mut port = lab.port();
    let mut sent = 0u32;
    eventually("the oldest file was removed", || {
        for source in &sources {
            port.send(&numbered(source, sent, 100)).unwrap();
            sent += 1;
        }
        let files = files(&lab.server);
        assert!(files.iter().all(|(_, length)| *length <= 64 << 10), "{files:?}");
        assert!(files.iter().map(|(_, length)| length).sum::<u64>() <= 192 << 10, "{files:?}");
        files.first().is_some_and(|(name, _)| !name.contains("/000001-"))
    })
    .unwrap();
    // It says so with its next proof.
    eventually("it says how many", || recorded(&lab.server)["written"].as_u64() > Some(300)).unwrap();
    assert!(recorded(&lab.server)["trouble"].is_null());
    // Each frame at most once, in the order in which they were sent, file after file.
    let last_before = files(&lab.server).last().unwrap().0.clone();
    drop(daemon);
    let daemon = Daemon::start(&lab.server, &["--record-age", "1s"]);
    // Which of them is sampled is chance, since the burst is used up.
    let restart = u32::MAX >> 1;
    let mut number = restart;
    eventually("one of those that come now is in a file", || {
        number += 1;
        port.send(&numbered("203.0.113.1", number, 100)).unwrap();
        let files = files(&lab.server);
        files.iter().any(|(file, _)| numbers(&lab.server, file).iter().any(|number| *number > restart))
    })
    .unwrap();
    let after = files(&lab.server);
    let newer: Vec<_> = after.iter().filter(|(file, _)| *file > last_before).collect();
    // And a new one after its time.
    let newest = newer.last().expect("a new file after a restart").0.clone();
    eventually("there is a newer file", || {
        number += 1;
        port.send(&numbered("203.0.113.1", number, 100)).unwrap();
        files(&lab.server).last().unwrap().0 > newest
    })
    .unwrap();
    let mut seen = BTreeMap::new();
    for (file, _) in files(&lab.server) {
        for number in numbers(&lab.server, &file) {
            assert_eq!(seen.insert(number, file.clone()), None, "twice");
        }
    }
    assert_eq!(daemon.told(&lab.server, "record_unusable"), 0);
}

#[test]
fn a_directory_that_cannot_be_written_is_told_once_and_changes_nothing_else() {
    let lab = Lab::new();
    let host = &lab.server;
    host.ctl(&["block", "add", "203.0.113.0/24"]).done();
    host.sh("mkdir", ["-p", FILES]).unwrap();
    host.sh("mount", ["-t", "tmpfs", "-o", "size=4k", "tmpfs", FILES]).unwrap();
    let daemon = Daemon::start(host, &[]);
    let mut port = lab.port();
    // At once, so that they come in one batch, which is too large: smaller ones fit later, which is no end of the trouble.
    let mut sent = 16;
    for number in 0..sent {
        port.send(&numbered("203.0.113.1", number, 200)).unwrap();
    }
    let mut send_until = |what: &str, is_so: &dyn Fn(&Value) -> bool| {
        eventually(what, || {
            // Some at once: a full disk is full before it has been written to for long.
            for _ in 0..8 {
                sent += 1;
                port.send(&numbered("203.0.113.1", sent, 200)).unwrap();
            }
            is_so(&recorded(host))
        })
        .unwrap();
    };
    send_until("the disk is full", &|state| !state["trouble"].is_null());
    send_until("more are lost", &|state| state["lost"].as_u64() > Some(20));
    assert!(recorded(host)["trouble"].as_str().unwrap().contains("No space left"));
    assert_eq!(daemon.told(host, "record_unusable"), 1);
    // What is there can be read: whole blocks, up to the last. Smaller batches may still have been written.
    let written = || recorded(host)["written"].as_u64();
    let read = || files(host).iter().map(|(file, _)| numbers(host, file).len() as u64).sum::<u64>();
    eventually("all that is written can be read", || Some(read()) == written()).unwrap();
    // The filter does its work, and so does the daemon.
    assert_eq!(host.ctl(&["verify"]).done().code, Some(0));
    host.sh("mount", ["-o", "remount,size=1m", FILES]).unwrap();
    let goal = written().unwrap() + 3;
    send_until("it writes again", &|state| {
        state["trouble"].is_null() && state["written"].as_u64() >= Some(goal)
    });
    // What is in its place can't be written.
    host.sh("umount", ["--lazy", FILES]).unwrap();
    host.sh("mount", ["-t", "tmpfs", "-o", "ro", "tmpfs", FILES]).unwrap();
    send_until("it is read-only", &|state| !state["trouble"].is_null());
    assert!(recorded(host)["trouble"].as_str().unwrap().contains("Read-only file system"));
    assert_eq!(daemon.told(host, "record_unusable"), 2);
    // Unmounted, with the directory below it gone as well.
    host.sh("umount", ["--lazy", FILES]).unwrap();
    host.sh("rm", ["-rf", FILES]).unwrap();
    send_until("it has made the directory anew", &|state| state["trouble"].is_null());
    eventually("it writes there", || !files(host).is_empty()).unwrap();
    host.sh("rm", ["-r", FILES]).unwrap();
    send_until("it has noticed", &|_| !files(host).is_empty());
}

#[test]
fn a_daemon_that_is_killed_leaves_files_that_can_be_read() {
    const KILLS: usize = 4;
    let lab = Lab::new();
    let sources: Vec<String> = (0..64).map(|host| format!("203.0.113.{host}")).collect();
    let mut block = vec!["block", "add"];
    block.extend(sources.iter().map(String::as_str));
    lab.server.ctl(&block).done();
    let flood = lab.flood(&["203.0.113.0/26"]);
    for kill in 1..=KILLS {
        let daemon = Daemon::start(&lab.server, &["--record-size", "64KiB"]);
        let before = files(&lab.server).len();
        let flooding = flood.start(0, Duration::from_secs(60));
        eventually("it writes", || files(&lab.server).len() > before).unwrap();
        drop(daemon); // by SIGKILL
        flooding.stop().unwrap();
        assert!(files(&lab.server).len() >= kill);
    }
    let mut frames = 0;
    for (file, _) in files(&lab.server) {
        let mut tshark = Command::new("tshark");
        tshark.args(["-n", "-r", &file, "-T", "fields", "-e", "frame.verdict.ebpf_xdp"]);
        let read: Finished = lab.server.output(tshark).unwrap().into();
        assert!(read.code == Some(0) || read.stderr.contains("cut short"), "{file}: {}", read.stderr);
        assert!(read.stdout.lines().all(|verdict| verdict == "1"), "{file}");
        frames += read.stdout.lines().count();
    }
    assert!(frames > 100, "{frames}");
}
