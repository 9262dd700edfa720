//! The flight recorder on the wire: what is kept of floods, of the few frames beside them, and of what passes. Needs
//! root. Run by `cargo xtask test recorder`.

#![expect(clippy::unwrap_used, reason = "a panic is how a test reports")]

use std::io::Read as _;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};

use aya::programs::ProgramInfo;
use filter_common::abi::{DEBUG_PROGRAM, REASON_SLOTS};
use filter_common::{Reason, Verdict};
use filter_ctl::host::monotonic_now_s;
use filter_ctl::kernel::recorder::Recorder;
use filter_ctl::policy::{Action, Key, Prefix};
use filter_ctl::record::{Cursor, Reading, Sample};
use filter_tests::flood::{Flood, Kind, Wave};
use filter_tests::frames::{ethernet, ipv4, protocol, udp, udp_with};
use filter_tests::kernel_side::pins;
use filter_tests::lab::{Host, Running, eventually, join};
use filter_tests::packets::Port;
use serde_json::Value;

const FILTERED: &str = "flt0";
const PEER: &str = "peer0";
const TARGET: &str = "192.0.2.1:53";

/// The prefix of the flood, and another one that is blocked.
const FLOODING: &str = "203.0.113.0/24";
const QUIET: &str = "198.51.100.0/24";

struct Lab {
    server: Host,
    network: Host,
}

impl Lab {
    fn new(mode: &str) -> Self {
        let (server, network) = (Host::new("server").unwrap(), Host::new("network").unwrap());
        join(&server, FILTERED, &network, PEER).unwrap();
        // Else both ends greet each other.
        for (host, device) in [(&server, FILTERED), (&network, PEER)] {
            host.ip(&format!("link set {device} arp off multicast off addrgenmode none")).unwrap();
        }
        server.ctl(&["load", FILTERED, "--mode", mode]).done();
        server.ctl(&["block", "add", FLOODING, QUIET, "--reason", "staged"]).done();
        Self { server, network }
    }

    fn flood(&self, sources: &[&str]) -> Flood<'_> {
        let sources = sources.iter().map(|text| Prefix::parse(text, false).unwrap()).collect();
        let wave = Wave { kind: Kind::Udp, target: TARGET.parse().unwrap(), sources };
        Flood::new((&self.network, PEER), (&self.server, FILTERED), &[wave]).unwrap()
    }

    /// Sends frames as they are, and waits until the filter has them all.
    fn send(&self, frames: &[Vec<u8>]) {
        let before = self.seen_by_interface();
        self.network.run(|| {
            let mut port = Port::open(PEER).unwrap();
            frames.iter().for_each(|frame| port.send(frame).unwrap());
        });
        let arrived = || self.seen_by_interface() >= before + frames.len() as u64;
        eventually("the filter has seen all frames", arrived).unwrap();
    }

    fn seen_by_interface(&self) -> u64 {
        self.counted(|_, _| true)
    }

    /// Frames that the interface counted for these reasons and verdicts.
    fn counted(&self, is_meant: impl Fn(Reason, Verdict) -> bool + Sync) -> u64 {
        self.server.run(|| {
            let maps = filter_ctl::kernel::maps::Maps::open(&pins()).unwrap();
            let interfaces = maps.interface_counts().unwrap();
            let rows = interfaces.iter().flat_map(|interface| &interface.by_reason);
            rows.filter(|(reason, verdict, _)| is_meant(*reason, *verdict)).map(|(.., c)| c.packets).sum()
        })
    }

    fn recorder(&self) -> Recorder {
        self.server.run(|| Recorder::open(&pins()).unwrap())
    }
}

fn key(prefix: &str) -> Key {
    Key { action: Action::Block, prefix: Prefix::parse(prefix, false).unwrap() }
}

/// Datagrams from ten hosts of the quiet prefix, and ten of which the length is wrong.
fn few() -> [Vec<Vec<u8>>; 2] {
    let quiet = (1..=10).map(|host| {
        ethernet(&[], 0x0800, &ipv4(&format!("198.51.100.{host}"), protocol::UDP, &udp(&[host; 30])))
    });
    let wrong = (1..=10).map(|host| {
        ethernet(&[], 0x0800, &ipv4(&format!("192.0.2.{host}"), protocol::UDP, &udp_with(3, &[host; 30])))
    });
    [sorted(quiet.collect()), sorted(wrong.collect())]
}

fn sorted(mut frames: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    frames.sort();
    frames
}

fn of_entry<'r>(reading: &'r Reading, prefix: &str) -> Vec<&'r Sample> {
    let key = key(prefix);
    reading.samples.iter().filter(|sample| sample.entry.is_some_and(|entry| entry.key == key)).collect()
}

/// Frames that the rings counted, of entries and of reasons.
fn seen(reading: &Reading) -> (u64, u64) {
    let sum = |is_entry: bool| {
        let heads = reading.heads.iter().filter(|head| (head.stream.ring >= REASON_SLOTS) == is_entry);
        heads.map(|head| head.seen).sum()
    };
    (sum(true), sum(false))
}

#[test]
fn a_flood_of_millions_never_hides_ten_frames_of_another_entry_or_reason() {
    let lab = Lab::new("native");
    let flood = lab.flood(&[FLOODING]);
    let [quiet, wrong] = few();
    flood.send(1_000_000).unwrap();
    lab.send(&quiet);
    flood.send(1_000_000).unwrap();
    lab.send(&wrong);
    flood.send(1_000_000).unwrap();

    let reading = lab.recorder().read(&mut Cursor::default()).unwrap();
    assert_eq!(seen(&reading), (3_000_010, 10), "frames are counted exactly");
    let bytes = |samples: Vec<&Sample>| sorted(samples.iter().map(|sample| sample.frame.to_vec()).collect());
    // Ten at once are less than a ring takes as they come, on whichever CPU.
    assert_eq!(bytes(of_entry(&reading, QUIET)), quiet, "all ten, byte for byte");
    let malformed = reading.samples.iter().filter(|sample| sample.reason == Reason::UdpLength).collect();
    assert_eq!(bytes(malformed), wrong, "all ten, byte for byte");
    let flooding = of_entry(&reading, FLOODING);
    assert!(flooding.len() >= 16, "{} samples of the flood", flooding.len());
    // What a responder is told first: each of the three, with exact counts, in the order in which they began.
    let summary = lab.server.ctl(&["record", "summary", "--json"]).done().json();
    let vectors: Vec<_> = summary["vectors"].as_array().unwrap().iter().collect();
    let told: Vec<_> = vectors
        .iter()
        .map(|vector| {
            let text = |value: &Value| value.as_str().map(str::to_owned);
            (text(&vector["entry"]["prefix"]), text(&vector["reason"]).unwrap(), vector["packets"].as_u64())
        })
        .collect();
    let blocked = |prefix: &str, packets| (Some(prefix.to_owned()), "blocked".to_owned(), Some(packets));
    let wrong = (None, "udp_length".to_owned(), Some(10));
    assert_eq!(told, [blocked(FLOODING, 3_000_000), blocked(QUIET, 10), wrong]);
    assert_eq!(vectors[0]["mostly"], "udp to port 53");
    assert!(vectors.iter().all(|vector| vector["first"].as_str() <= vector["last"].as_str()));
    // And of the flood its first frame is still there.
    assert_eq!(flooding[0].number, 1);
    assert!(flooding[0].interface.as_deref() == Some(FILTERED) && flooding[0].length == 60);
}

fn samples_are_whole_while_they_are_overwritten(mode: &str) {
    let lab = Lab::new(mode);
    if mode == "generic" {
        // A veth takes redirected frames only through NAPI.
        lab.server.sh("ethtool", ["-K", FILTERED, "gro", "on"]).unwrap();
    }
    let flood = lab.flood(&[FLOODING, QUIET]);
    let recorder = lab.recorder();
    let (mut cursor, mut read, mut lost, mut taken) = (Cursor::default(), 0, 0, 0);
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let sending = scope.spawn(|| {
            flood.send(3_000_000).unwrap();
            is_over.store(true, Ordering::Release);
        });
        loop {
            let was_over = is_over.load(Ordering::Acquire);
            let reading = recorder.read(&mut cursor).unwrap();
            for sample in &reading.samples {
                let source: [u8; 4] = sample.frame[26..30].try_into().unwrap();
                let entry = sample.entry.unwrap().key;
                assert!(entry.prefix.covers(&Prefix::host(source.into())), "{source:?} by {entry:?}");
                assert_eq!((sample.frame.len(), sample.length), (60, 60));
                assert_eq!((sample.reason, sample.verdict), (Reason::Blocked, Verdict::Drop));
            }
            read += reading.samples.len() as u64;
            lost += reading.lost;
            taken = reading.heads.iter().map(|head| head.taken).sum();
            if was_over {
                break;
            }
        }
        sending.join().unwrap();
    });
    assert_eq!(read + lost, taken, "each sample was read or lost");
    assert!(read > 50, "only {read} samples were read");
    let reading = recorder.read(&mut Cursor::default()).unwrap();
    let dropped = lab.counted(|_, verdict| verdict == Verdict::Drop);
    assert_eq!(seen(&reading).0, dropped, "the rings counted what the interface did");
    for head in &reading.heads {
        let of_ring = reading.samples.iter().filter(|sample| sample.stream == head.stream);
        let (stands_for, last) =
            of_ring.fold((0, 0), |(sum, _), sample| (sum + sample.stands_for, sample.number));
        assert_eq!(stands_for, last, "samples stand for all frames up to the last");
        assert!(last <= head.seen);
    }
}

#[test]
fn samples_are_whole_while_they_are_overwritten_in_native_mode() {
    samples_are_whole_while_they_are_overwritten("native");
}

#[test]
fn samples_are_whole_while_they_are_overwritten_in_generic_mode() {
    samples_are_whole_while_they_are_overwritten("generic");
}

#[test]
fn what_a_reader_missed_is_counted() {
    let lab = Lab::new("native");
    let flood = lab.flood(&[FLOODING]);
    let recorder = lab.recorder();
    let mut cursor = Cursor::default();
    flood.send(1_000).unwrap();
    let first = recorder.read(&mut cursor).unwrap();
    // As a reader that is stopped.
    flood.send(2_000_000).unwrap();
    let second = recorder.read(&mut cursor).unwrap();
    let taken: u64 = second.heads.iter().map(|head| head.taken).sum();
    let read = (first.samples.len() + second.samples.len()) as u64;
    assert!(second.lost > 0, "{taken} samples, and none was overwritten");
    assert_eq!(read + first.lost + second.lost, taken);
    let third = recorder.read(&mut cursor).unwrap();
    assert!(third.samples.is_empty() && third.lost == 0, "what was read is not read again");
}

#[test]
fn what_passes_is_recorded_until_the_deadline_and_no_longer() {
    let lab = Lab::new("native");
    let frame =
        |host: u8| ethernet(&[], 0x0800, &ipv4(&format!("192.0.2.{host}"), protocol::UDP, &udp(&[host; 30])));
    let recorder = lab.recorder();
    let mut cursor = Cursor::default();
    lab.send(&[frame(1)]);
    assert!(recorder.read(&mut cursor).unwrap().heads.is_empty(), "what passes is not recorded unasked");

    let until_s = u64::from(monotonic_now_s()) + 600;
    recorder.passed().set_until_s(until_s);
    assert_eq!(recorder.passed().until_s(), until_s);
    lab.send(&[frame(2)]);
    let reading = recorder.read(&mut cursor).unwrap();
    let [sample] = &reading.samples[..] else { panic!("{reading:?}") };
    assert_eq!((sample.reason, sample.verdict, sample.entry), (Reason::NoMatch, Verdict::Pass, None));
    assert_eq!(sample.frame[..], frame(2));

    // A moment that is over, as when nobody is left to turn it off.
    recorder.passed().set_until_s(1);
    lab.send(&[frame(3)]);
    assert!(recorder.read(&mut cursor).unwrap().samples.is_empty());
    recorder.passed().set_until_s(until_s);
    // The ring looks again within seconds.
    let recorded = || {
        lab.send(&[frame(4)]);
        recorder.read(&mut cursor.clone()).unwrap().samples.iter().any(|sample| sample.sequence > 1)
    };
    eventually("frames are recorded again", recorded).unwrap();
    recorder.passed().set_until_s(0);
    let before = recorder.read(&mut cursor).unwrap().heads;
    lab.send(&[frame(5)]);
    assert_eq!(recorder.read(&mut cursor).unwrap().heads, before);
}

#[test]
fn the_record_outlives_a_resize_and_names_what_is_gone() {
    let lab = Lab::new("native");
    let [quiet, _] = few();
    lab.send(&quiet);
    lab.server.ctl(&["resize", "--max-ipv4", "4000"]).done();
    lab.server.ctl(&["block", "del", QUIET]).done();
    lab.server.ctl(&["block", "add", "192.0.2.128/25"]).done();
    let reading = lab.recorder().read(&mut Cursor::default()).unwrap();
    let of_quiet = of_entry(&reading, QUIET);
    assert_eq!(of_quiet.len(), 10, "the entry that dropped is named, though its id is another's");
    assert!(of_quiet.iter().all(|sample| sample.interface.as_deref() == Some(FILTERED)));
    // And an interface that is loaded in the place of another is not taken for it.
    lab.server.ip("link add flt1 type veth peer name peer1").unwrap();
    lab.server.ctl(&["load", "flt1"]).done();
    lab.server.ctl(&["unload", FILTERED]).done();
    lab.server.ip("link add flt2 type veth peer name peer2").unwrap();
    lab.server.ctl(&["load", "flt2"]).done();
    let reading = lab.recorder().read(&mut Cursor::default()).unwrap();
    let names: Vec<_> = reading.samples.iter().map(|sample| sample.interface.as_deref()).collect();
    assert!(names.iter().all(|name| matches!(name, None | Some(FILTERED))), "{names:?}");
}

/// The program that is behind the filtered interface's link: name and digest.
fn program(lab: &Lab) -> (String, u64) {
    lab.server.run(|| {
        let pin = pins().set().unwrap().unwrap().program(FILTERED);
        let info = ProgramInfo::from_pin(pin).unwrap();
        (info.name_as_str().unwrap().to_owned(), info.tag())
    })
}

#[test]
fn debugging_logs_each_frame_and_leaves_the_ordinary_program() {
    let lab = Lab::new("native");
    let [quiet, wrong] = few();
    let passing = ethernet(&[], 0x0800, &ipv4("192.0.2.77", protocol::UDP, &udp(&[7; 10])));
    let before = program(&lab);
    let begin = || {
        let mut command = lab.server.filter_ctl(&["debug", FILTERED, "--for", "1h", "--json"]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let running = Running(lab.server.spawn(command).unwrap());
        eventually("the program that logs runs", || program(&lab).0 == DEBUG_PROGRAM).unwrap();
        running
    };

    let mut debug = begin();
    lab.send(&quiet);
    lab.send(&wrong);
    lab.send(&[passing]);
    debug.signal("INT");
    let mut text = String::new();
    debug.0.stdout.take().unwrap().read_to_string(&mut text).unwrap();
    assert!(debug.0.wait().unwrap().success());
    let mut lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let end = lines.pop().unwrap();
    assert_eq!((&end["logged"], &end["missed"]), (&21.into(), &0.into()));
    let is = |line: &Value, verdict: &str, reason: &str, entry: Option<&str>| {
        line["verdict"] == verdict && line["reason"] == reason && line["entry"].as_str() == entry
    };
    let count = |verdict, reason, entry| lines.iter().filter(|line| is(line, verdict, reason, entry)).count();
    assert_eq!(count("drop", "blocked", Some(QUIET)), 10, "{text}");
    assert_eq!(count("drop", "udp_length", None), 10, "{text}");
    assert_eq!(count("pass", "no_match", None), 1, "{text}");
    assert_eq!(program(&lab), before);

    // Killed, it leaves a filter that filters, and that the next upgrade makes the ordinary one.
    begin().end("KILL");
    let dropped = lab.counted(|_, verdict| verdict == Verdict::Drop);
    lab.send(&quiet);
    assert_eq!(lab.counted(|_, verdict| verdict == Verdict::Drop), dropped + 10);
    assert_eq!(program(&lab).0, DEBUG_PROGRAM);
    lab.server.ctl(&["block", "add", "192.0.2.200"]).done();
    lab.server.ctl(&["upgrade"]).done();
    assert_eq!(program(&lab), before);
    lab.send(&quiet);
    assert_eq!(lab.counted(|_, verdict| verdict == Verdict::Drop), dropped + 20);
}
