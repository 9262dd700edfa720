//! The scenarios through the loaded program, by `BPF_PROG_TEST_RUN`: verdict, reason, and the counters that
//! moved and no others. Needs root, and nothing but a kernel: this is what the virtual machines run.

#![expect(clippy::unwrap_used, reason = "a panic is how a test reports")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::thread;
use std::time::Duration;

use aya::maps::{Array, Map, MapData};
use aya::programs::{TestRun as _, TestRunOptions, Xdp};
use aya_obj::programs::XdpAttachType;
use filter_common::abi::{Counter, LOOPBACK_IFINDEX, SWITCH, TEST_SLOT, action};
use filter_common::offline::{HostTables, StoppedClock};
use filter_common::packet::Address;
use filter_common::prefix::{self, Edit, Family, Refused, Step, Switch};
use filter_common::sample::SNAP_LENGTH;
use filter_common::{Decision, FOREVER, NO_ENTRY, Reason, Verdict, filter};
use filter_ctl::capture;
use filter_ctl::host::{Monotonic, monotonic_now_s};
use filter_ctl::kernel::explain::Explainer;
use filter_ctl::kernel::loading::Sizes;
use filter_ctl::kernel::maps::open_table;
use filter_ctl::kernel::recorder::Recorder;
use filter_ctl::policy::{Action, Deadline, Entry, Key, Owner, Prefix, ReasonText};
use filter_ctl::record::{Cursor, Reading, Sample};
use filter_tests::frames::{ethernet, ipv4, ipv6, protocol, udp};
use filter_tests::kernel_side::{
    Counted, Counts, add, assert_unused_slots_untouched, counts, enforce, expected, load, moved, open, pins,
    test_run,
};
use filter_tests::lab::{Host, eventually};
use filter_tests::model::judge;
use filter_tests::mutate::Mutator;
use filter_tests::prefixes::{Model, address, key_of, probes, some_change};
use filter_tests::scenarios::{Rule, Scenario, all, host_tables};
use filter_tests::seeded;

/// `enum xdp_action` of linux/bpf.h.
const XDP_DROP: u32 = 1;
const XDP_PASS: u32 = 2;

/// The kernel refuses shorter frames in a test-run.
const SHORTEST: usize = 14;

const INTERFACE: &str = "flt0";

const SIZES: Sizes = Sizes { max_v4: Some(512), max_v6: Some(512) };

/// One test at a time: they share a host, since on an emulated CPU the kernel takes half a minute to verify a program.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

static HOST: OnceLock<Host> = OnceLock::new();

/// A host that filters one end of a veth pair, without entries.
fn filtering_host() -> (&'static Host, MutexGuard<'static, ()>) {
    let turn = ONE_AT_A_TIME.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let host = HOST.get_or_init(|| {
        let host = Host::new("filter").unwrap();
        host.ip(&format!("link add {INTERFACE} type veth peer name flt1")).unwrap();
        host.run(|| load(INTERFACE, SIZES)).unwrap();
        host
    });
    host.run(|| {
        // Not by the controller, which reads nothing that a test left without an owner.
        let mut table = open_table(&pins().set().unwrap().unwrap()).unwrap();
        let all: Vec<_> = table.entries().map(|(id, _)| Edit::Remove(id)).collect();
        table.apply(&all, &Monotonic).unwrap();
        enforce(&[], &[]).unwrap();
        switch().set(0, Switch::settled(0).0, 0).unwrap();
    });
    (host, turn)
}

/// The word that says which slot of the policy is in force.
fn switch() -> Array<MapData, u64> {
    let pin = pins().set().unwrap().unwrap().map(&SWITCH);
    MapData::from_pin(pin).and_then(Map::from_map_data).unwrap().try_into().unwrap()
}

fn xdp_action(verdict: Verdict) -> u32 {
    match verdict {
        Verdict::Pass => XDP_PASS,
        Verdict::Drop => XDP_DROP,
    }
}

#[test]
fn every_scenario_is_decided_and_counted_as_the_table_says() {
    let (host, _turn) = filtering_host();
    host.run(|| {
        let (mut tried, mut recorded) = (0, 0);
        let recorder = Recorder::open(&pins()).unwrap();
        let mut cursor = Cursor::default();
        for scenario in all().iter().filter(|scenario| scenario.frame.len() >= SHORTEST) {
            let ids = enforce(scenario.policy, scenario.tolerated).unwrap();
            let before = counts().unwrap();
            let seen = recorder.read_tests(&mut cursor).unwrap();
            let verdict = test_run(INTERFACE, &scenario.frame).unwrap();
            let moved = moved(&before, &counts().unwrap());
            let entry = scenario.decided_by.map(|rule| ids[rule]);
            let reading = recorder.read_tests(&mut cursor).unwrap();
            // What is dropped is recorded, and what would be if its fault were not tolerated.
            let is_recorded = scenario.reason.verdict() == Verdict::Drop;
            assert_eq!(
                frames_seen(&reading) - frames_seen(&seen),
                u64::from(is_recorded),
                "{}",
                scenario.name
            );
            for sample in &reading.samples {
                assert_recorded(sample, scenario);
                recorded += 1;
            }
            assert_eq!(
                moved,
                expected(TEST_SLOT, (scenario.reason, scenario.verdict()), entry, scenario.frame.len()),
                "{}",
                scenario.name
            );
            assert_eq!(verdict, xdp_action(scenario.verdict()), "{}", scenario.name);
            tried += 1;
        }
        assert!(tried > 250, "only {tried} scenarios were tried");
        assert!(recorded > 16, "only {recorded} frames were recorded");
        assert_unused_slots_untouched();
    });
}

/// Frames that rings counted, sampled or not.
fn frames_seen(reading: &Reading) -> u64 {
    reading.heads.iter().map(|head| head.seen).sum()
}

/// Checks that what was recorded is the scenario's frame, and what was decided about it.
fn assert_recorded(sample: &Sample, scenario: &Scenario) {
    let Scenario { name, frame, .. } = scenario;
    assert_eq!(sample.frame[..], frame[..frame.len().min(SNAP_LENGTH)], "{name}");
    assert_eq!(sample.length as usize, frame.len(), "{name}");
    assert_eq!((sample.reason, sample.verdict), (scenario.reason, scenario.verdict()), "{name}");
    let entry = scenario.decided_by.map(|rule| &scenario.policy[rule]);
    let key = |rule: &Rule| Key { action: rule.action, prefix: Prefix::parse(rule.prefix, false).unwrap() };
    assert_eq!(sample.entry.map(|entry| entry.key), entry.map(key), "{name}");
    assert_eq!((sample.ifindex, sample.queue), (LOOPBACK_IFINDEX, 0), "{name}");
}

#[test]
fn the_first_bytes_of_frames_of_any_length_are_recorded() {
    let (host, _turn) = filtering_host();
    host.run(|| {
        let recorder = Recorder::open(&pins()).unwrap();
        let mut cursor = Cursor::default();
        for length in (SHORTEST..=2 * SNAP_LENGTH).chain([1514, 3000]) {
            // Too short for what it says to be, and so dropped.
            let mut frame: Vec<u8> =
                (0..length).map(|position| ((position * 7 + length) % 256).try_into().unwrap()).collect();
            frame[12..14].copy_from_slice(&[0x08, 0x00]);
            if let Some(first) = frame.get_mut(14) {
                *first = 0x65;
            }
            let sample = eventually_sampled(&recorder, &mut cursor, &frame);
            assert_eq!(sample.frame[..], frame[..length.min(SNAP_LENGTH)], "{length} bytes");
            assert_eq!(sample.length as usize, length);
        }
    });
}

/// Runs the frame until it is sampled: at once, or after the few that the ring passes over at this pace.
fn eventually_sampled(recorder: &Recorder, cursor: &mut Cursor, frame: &[u8]) -> Sample {
    recorder.read_tests(cursor).unwrap();
    for _ in 0..100_000 {
        test_run(INTERFACE, frame).unwrap();
        if let Some(sample) = recorder.read_tests(cursor).unwrap().samples.pop() {
            return sample;
        }
    }
    panic!("a frame of {} bytes was never sampled", frame.len());
}

/// Frames that are tried at random; `FILTER_FRAMES` changes it. The virtual machines emulate their CPU, and try fewer.
const FRAMES: usize = 200_000;

/// Frames that are tried under one policy.
const FRAMES_A_POLICY: usize = 500;

#[test]
fn kernel_host_and_model_agree_on_random_frames_and_reach_every_reason() {
    let (host, _turn) = filtering_host();
    host.run(|| {
        let frames =
            std::env::var("FILTER_FRAMES").ok().and_then(|number| number.parse().ok()).unwrap_or(FRAMES);
        let mut random = seeded();
        let mutator = Mutator::default();
        let mut reached = BTreeSet::new();
        let mut try_frames = |scenario: &Scenario, frames: &[Vec<u8>]| {
            let ids = enforce(scenario.policy, scenario.tolerated).unwrap();
            let tables = host_tables(scenario, 1000);
            let explain = Explainer::open(&pins()).unwrap();
            for frame in frames {
                let (reason, verdict, rule) = judge(frame, scenario.policy, scenario.tolerated);
                reached.insert(reason);
                let entry = rule.map_or(NO_ENTRY, |rule| u32::try_from(rule).unwrap() + 1);
                let on_host = filter(&frame[..], &StoppedClock(1000), &tables);
                let shown = || format!("on {frame:02x?} under {:?}", scenario.policy);
                assert_eq!(on_host, Decision { reason, entry, verdict }, "host and model, {}", shown());
                if frame.len() >= SHORTEST {
                    let entry = rule.map_or(NO_ENTRY, |rule| ids[rule]);
                    let in_kernel = explain.decide(frame).unwrap();
                    assert_eq!(
                        in_kernel,
                        Decision { reason, entry, verdict },
                        "kernel and model, {}",
                        shown()
                    );
                }
            }
        };
        // The frames of the table first, so that every reason is reached whatever chance brings.
        for scenario in all() {
            try_frames(&scenario, std::slice::from_ref(&scenario.frame));
        }
        for _ in 0..frames.div_ceil(FRAMES_A_POLICY) {
            let scenario = mutator.scenario(&mut random);
            let frames: Vec<_> = (0..FRAMES_A_POLICY).map(|_| mutator.frame(&mut random)).collect();
            try_frames(scenario, &frames);
        }
        let missing: Vec<_> = Reason::ALL.iter().filter(|reason| !reached.contains(reason)).collect();
        assert!(missing.is_empty(), "no frame reached {missing:?}");
    });
}

#[test]
fn filter_and_explain_agree_and_only_one_counts() {
    const EACH: usize = 20;
    let (host, _turn) = filtering_host();
    host.run(|| {
        let mut random = seeded();
        let mutator = Mutator::default();
        for scenario in all().iter().filter(|scenario| scenario.frame.len() >= SHORTEST) {
            enforce(scenario.policy, scenario.tolerated).unwrap();
            let explain = Explainer::open(&pins()).unwrap();
            let frames: Vec<_> = (0..EACH)
                .map(|_| mutator.frame(&mut random))
                .filter(|frame| frame.len() >= SHORTEST)
                .collect();
            let before = counts().unwrap();
            let decisions: Vec<_> = frames.iter().map(|frame| explain.decide(frame).unwrap()).collect();
            assert_eq!(moved(&before, &counts().unwrap()), Counts::new(), "explaining counts");
            let mut want = Counts::new();
            for (frame, decision) in frames.iter().zip(&decisions) {
                assert_eq!(
                    test_run(INTERFACE, frame).unwrap(),
                    xdp_action(decision.verdict),
                    "{decision:?} for {frame:02x?}"
                );
                let entry = (decision.entry != NO_ENTRY).then_some(decision.entry);
                let reason = (decision.reason, decision.verdict);
                for (counted, counter) in expected(TEST_SLOT, reason, entry, frame.len()) {
                    let sum: &mut Counter = want.entry(counted).or_default();
                    *sum =
                        Counter { packets: sum.packets + counter.packets, bytes: sum.bytes + counter.bytes };
                }
            }
            assert_eq!(
                moved(&before, &counts().unwrap()),
                want,
                "counters under the policy of {}",
                scenario.name
            );
        }
    });
}

/// Public packet captures, beside the project where somebody has put them. Nothing else needs them.
const CORPUS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/corpus");

/// The capture of ordinary traffic, of which an empty policy drops nothing.
const ORDINARY: &str = "pcapplusplus/many-protocols.pcap";

/// What an empty policy drops of the captures in which the corpus' own scanner found no fault. Each has one, as its
/// name says.
const RIGHTLY_DROPPED: [(&str, Reason, u32); 5] = [
    ("tcpdump/icmp-icmp_print-oobr-1.pcap", Reason::IcmpTruncated, 1),
    ("tcpdump/icmpv6-length-zero.pcapng", Reason::IcmpTruncated, 1),
    ("tcpdump/ipv6-too-long-jumbo.pcap", Reason::Ipv6JumboLength, 1),
    ("tcpdump/ipv6_frag6_negative_len.pcap", Reason::Ipv6ExtensionTruncated, 1),
    ("zeek/ipv6_zero_len_ah.pcap", Reason::Ipv6ExtensionLength, 1),
];

#[test]
fn public_captures_are_decided_alike_and_ordinary_traffic_passes() {
    let Ok(index) = std::fs::read_to_string(format!("{CORPUS}/INDEX.tsv")) else {
        println!("skipped: there are no captures at {CORPUS}");
        return;
    };
    let (host, _turn) = filtering_host();
    host.run(move || {
        enforce(&[], &[]).unwrap();
        let explain = Explainer::open(&pins()).unwrap();
        let (mut frames, mut in_kernel) = (0, 0);
        let mut dropped = BTreeMap::new();
        for row in index.lines().skip(1) {
            let columns: Vec<_> = row.split('\t').collect();
            let (file, faults) = (columns[1], columns[6]);
            let read = capture::for_each(
                format!("{CORPUS}/{file}").as_ref(),
                |capture::Captured { number, frame, .. }| {
                    frames += 1;
                    let (reason, verdict, _) = judge(&frame, &[], &[]);
                    let want = Decision { reason, entry: NO_ENTRY, verdict };
                    assert_eq!(
                        filter(&frame[..], &StoppedClock(1), &HostTables::default()),
                        want,
                        "host, {file}:{number}"
                    );
                    if (SHORTEST..=3520).contains(&frame.len()) {
                        in_kernel += 1;
                        assert_eq!(explain.decide(&frame).unwrap(), want, "kernel, {file}:{number}");
                    }
                    if verdict == Verdict::Drop && (faults.is_empty() || file == ORDINARY) {
                        *dropped.entry((file.to_owned(), reason)).or_insert(0) += 1;
                    }
                    true
                },
            );
            // Some of the files are broken on purpose.
            if let Err(error) = read {
                println!("{file}: {error:#}");
            }
        }
        println!("{frames} frames, {in_kernel} of them in the kernel");
        let dropped: Vec<_> =
            dropped.iter().map(|((file, reason), count)| (file.as_str(), *reason, *count)).collect();
        assert_eq!(dropped, RIGHTLY_DROPPED);
        assert!(frames > 50_000, "only {frames} frames: is the corpus whole?");
    });
}

/// First kernel with XDP frags.
const FRAGS: (u32, u32) = (5, 18);

fn kernel() -> (u32, u32) {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|number| number.parse().unwrap_or(0));
    (numbers.next().unwrap(), numbers.next().unwrap())
}

#[test]
fn frames_beyond_a_page_are_filtered_where_the_kernel_can_and_refused_where_not() {
    let (host, _turn) = filtering_host();
    host.ip("link add big0 type veth peer name big1 mtu 9000").unwrap();
    host.ip("link set big1 mtu 9000").unwrap();
    let loaded = host.run(|| load("big0", SIZES));
    if kernel() < FRAGS {
        let refusal = loaded.unwrap_err().to_string();
        assert!(refusal.contains("the peer's MTU of 9000 is over 3506"), "{refusal}");
        return;
    }
    loaded.unwrap();
    host.run(|| {
        let scenario = |name: &str| all().into_iter().find(|scenario| scenario.name == name).unwrap();
        let blocked = scenario("first address of an IPv4 prefix");
        let ids = enforce(blocked.policy, &[]).unwrap();
        for length in [60, 3520, 3521, 4096, 9014] {
            let mut frame = blocked.frame.clone();
            frame.resize(length, 0);
            let before = counts().unwrap();
            assert_eq!(test_run("big0", &frame).unwrap(), XDP_DROP, "{length} bytes");
            let want = expected(TEST_SLOT, (Reason::Blocked, Verdict::Drop), Some(ids[0]), length);
            assert_eq!(moved(&before, &counts().unwrap()), want, "{length} bytes");
        }
        // Headers that lie behind the linear part are read as well: eight extension headers of 2048 bytes.
        let deep = |last: u8, upper: &[u8]| {
            let mut payload: Vec<u8> = Vec::new();
            for header in 0..8u8 {
                payload.extend([if header == 7 { last } else { 60 }, 255]);
                payload.resize(payload.len() + 2046, 0);
            }
            ethernet(&[], 0x86dd, &ipv6("2001:db8::5", 60, &[&payload[..], upper].concat()))
        };
        for (frame, reason) in [
            (deep(17, &udp(b"data")), Reason::NoMatch),
            (deep(17, &udp(b"")[..7]), Reason::UdpTruncated),
            (deep(60, &udp(b"data")), Reason::Ipv6TooManyExtensions),
        ] {
            let before = counts().unwrap();
            assert_eq!(test_run("big0", &frame).unwrap(), xdp_action(reason.verdict()), "{reason:?}");
            let want = expected(TEST_SLOT, (reason, reason.verdict()), None, frame.len());
            assert_eq!(moved(&before, &counts().unwrap()), want);
        }
    });
}

#[test]
fn a_deadline_is_enforced_by_the_program_alone() {
    let (host, _turn) = filtering_host();
    host.run(|| {
        let frame =
            &all().into_iter().find(|scenario| scenario.name == "a block with time left").unwrap().frame;
        let mut filter = open().unwrap();
        let created_s = monotonic_now_s();
        let entry = Entry {
            key: Key { action: Action::Block, prefix: Prefix::parse("203.0.113.0/24", false).unwrap() },
            until: Deadline(created_s + 2),
            created_s: created_s.into(),
            owner: Owner::manual(),
            reason: ReasonText::default(),
        };
        add(&mut filter, vec![entry]).unwrap();
        drop(filter);
        // Nothing but the clock changes from here on.
        let mut drops = 0u64;
        eventually("the block ends", || {
            let verdict = test_run(INTERFACE, frame).unwrap();
            drops += u64::from(verdict == XDP_DROP);
            verdict == XDP_PASS
        })
        .unwrap();
        assert!(drops > 0, "it never blocked");
        assert!(monotonic_now_s() >= created_s + 2, "it ended early");
    });
}

#[test]
fn a_frame_of_the_largest_length_is_counted_whole() {
    let (host, _turn) = filtering_host();
    host.run(|| {
        let mut frame = all().into_iter().find(|scenario| scenario.name == "IPv4, no entries").unwrap().frame;
        frame.resize(1514, 0);
        enforce(&[], &[]).unwrap();
        let before = counts().unwrap();
        assert_eq!(test_run(INTERFACE, &frame).unwrap(), XDP_PASS);
        let want = expected(TEST_SLOT, (Reason::NoMatch, Verdict::Pass), None, 1514);
        assert_eq!(moved(&before, &counts().unwrap()), want);
    });
}

/// A frame from an address, with nothing that a parser could stumble over.
fn frame_of(source: &Address) -> Vec<u8> {
    match source {
        Address::V4(octets) => {
            ethernet(&[], 0x0800, &ipv4(&Ipv4Addr::from(*octets).to_string(), protocol::UDP, &udp(b"data")))
        }
        Address::V6(octets) => {
            ethernet(&[], 0x86dd, &ipv6(&Ipv6Addr::from(*octets).to_string(), protocol::UDP, &udp(b"data")))
        }
    }
}

/// What the model wants done with an address under the policy in `slot` at second `now_s`, and by which entry.
fn wanted(
    model: &Model,
    family: Family,
    words: (u64, u64),
    slot: usize,
    now_s: u32,
) -> (Reason, Option<prefix::Key>) {
    let decided = model.decide(family, words);
    let live = |(until_s, _): &(u32, prefix::Key)| *until_s == FOREVER || now_s < *until_s;
    let [allow, block] = [decided[2 * slot], decided[2 * slot + 1]].map(|end| end.filter(live));
    match (allow, block) {
        (Some((_, key)), _) => (Reason::Allowed, Some(key)),
        (None, Some((_, key))) => (Reason::Blocked, Some(key)),
        (None, None) => (Reason::NoMatch, None),
    }
}

#[test]
fn the_kernel_decides_as_the_model_says_after_any_sequence_of_changes() {
    let (host, _turn) = filtering_host();
    host.run(|| {
        let mut random = seeded();
        let set = pins().set().unwrap().unwrap();
        let mut table = open_table(&set).unwrap();
        let mut switch = switch();
        let explain = Explainer::open(&pins()).unwrap();
        let mut model = Model::default();
        let mut seen = BTreeSet::new();
        let frames: usize =
            std::env::var("FILTER_FRAMES").ok().and_then(|number| number.parse().ok()).unwrap_or(FRAMES);
        let rounds = (frames / 800).clamp(40, 250);
        // On until all of it was seen as well: what a round brings is chance.
        for round in 0.. {
            if round >= rounds && seen.len() == 12 {
                break;
            }
            assert!(round < 100 * rounds, "not everything was tried: {seen:?}");
            let edits = some_change(&mut random, &mut model, &table, monotonic_now_s());
            let keys: Vec<_> = edits.iter().filter_map(|edit| key_of(&table, edit)).collect();
            eventually("ids have rested", || match table.apply(&edits, &Monotonic) {
                Ok(()) => true,
                Err(Refused::Resting(_)) => false,
                Err(refused) => panic!("{refused}"),
            })
            .unwrap();
            let active = random.u8(0..2);
            let (state, slot) = match random.u8(0..4) {
                0 => (Switch::trying(active, FOREVER), usize::from(1 - active)),
                1 => (Switch::trying(active, monotonic_now_s() + 3600), usize::from(1 - active)),
                // Its deadline has come: what was tried is not in force.
                2 => (Switch::trying(active, monotonic_now_s()), usize::from(active)),
                _ => (Switch::settled(active), usize::from(active)),
            };
            switch.set(0, state.0, 0).unwrap();
            for (family, words) in
                keys.iter().take(8).flat_map(|key| probes(&mut random, key)).collect::<Vec<_>>()
            {
                let source = address(family, words);
                let before_s = monotonic_now_s();
                let decision = explain.decide(&frame_of(&source)).unwrap();
                if monotonic_now_s() != before_s {
                    continue; // the second of which the model is asked must be the one that the program saw
                }
                let (reason, key) = wanted(&model, family, words, slot, before_s);
                assert_eq!(decision.reason, reason, "{source:?} under slot {slot}");
                let named = table.entry(decision.entry).map(|entry| entry.key);
                assert_eq!(named, key, "{source:?} under slot {slot}");
                seen.insert((reason, family, slot));
            }
        }
        table.check().unwrap();
    });
}

/// Look-ups while everything else changes; `FILTER_LOOKUPS` changes it. The virtual machines emulate their CPU, and do
/// fewer.
const LOOKUPS: u32 = 100_000_000;

/// Look-ups in one call, of one frame.
const LOOKUPS_A_CALL: u32 = 20_000;

#[test]
fn no_verdict_on_what_stays_is_wrong_while_all_else_changes() {
    let (host, _turn) = filtering_host();
    let lookups =
        std::env::var("FILTER_LOOKUPS").ok().and_then(|number| number.parse().ok()).unwrap_or(LOOKUPS);
    host.run(move || {
        // What stays: blocked and allowed prefixes, and addresses that nothing covers.
        let blocked = [
            "203.0.113.0/24",
            "203.0.113.7",
            "198.51.100.128/25",
            "100.64.0.0/10",
            "2001:db8:bad::/48",
            "2001:db8:bad::7",
        ];
        let allowed = ["203.0.113.9", "192.0.2.0/28", "2001:db8:bad:1::/64"];
        let stays = [
            ("203.0.113.7", Reason::Blocked),
            ("203.0.113.200", Reason::Blocked),
            ("198.51.100.129", Reason::Blocked),
            ("100.99.1.2", Reason::Blocked),
            ("2001:db8:bad::7", Reason::Blocked),
            ("2001:db8:bad:2::1", Reason::Blocked),
            ("203.0.113.9", Reason::Allowed),
            ("192.0.2.3", Reason::Allowed),
            ("2001:db8:bad:1::9", Reason::Allowed),
            ("8.8.8.8", Reason::NoMatch),
            ("198.51.101.1", Reason::NoMatch),
            ("2a00::1", Reason::NoMatch),
        ];
        let entry = |action, text: &str| Entry {
            key: Key { action, prefix: Prefix::parse(text, false).unwrap() },
            until: Deadline::NEVER,
            created_s: monotonic_now_s().into(),
            owner: Owner::manual(),
            reason: ReasonText::default(),
        };
        let mut entries: Vec<_> = blocked.iter().map(|text| entry(Action::Block, text)).collect();
        entries.extend(allowed.iter().map(|text| entry(Action::Allow, text)));
        add(&mut open().unwrap(), entries).unwrap();
        let kept: BTreeSet<prefix::Key> =
            open().unwrap().entries().unwrap().iter().map(|(_, entry)| entry.key.to_table()).collect();

        // The thread that changes has no lock: nobody opens the filter meanwhile.
        let before = counts().unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let churn = thread::spawn({
            let (stop, kept) = (Arc::clone(&stop), kept.clone());
            move || churn(&stop, &kept)
        });
        let frames: Vec<_> = stays
            .iter()
            .map(|(text, reason)| {
                let source = match text.parse().unwrap() {
                    IpAddr::V4(source) => Address::V4(source.octets()),
                    IpAddr::V6(source) => Address::V6(source.octets()),
                };
                (frame_of(&source), *reason)
            })
            .collect();
        let program =
            Xdp::from_pin(pins().set().unwrap().unwrap().program(INTERFACE), XdpAttachType::Interface)
                .unwrap();
        let mut want = Counts::new();
        let calls = lookups.div_ceil(LOOKUPS_A_CALL);
        for (frame, reason) in frames.iter().cycle().take(calls as usize) {
            let options =
                TestRunOptions { data_in: Some(frame), repeat: LOOKUPS_A_CALL, ..TestRunOptions::default() };
            program.test_run(options).unwrap();
            let counter = want.entry(Counted::Slot(TEST_SLOT, *reason, reason.verdict())).or_default();
            counter.packets += u64::from(LOOKUPS_A_CALL);
            counter.bytes += u64::from(LOOKUPS_A_CALL) * frame.len() as u64;
        }
        stop.store(true, Ordering::Relaxed);
        let changes = churn.join().unwrap();
        let mut moved = moved(&before, &counts().unwrap());
        // Which entry is named may change while wider and narrower ones come and go; what is decided may not.
        moved.retain(|counted, _| matches!(counted, Counted::Slot(..)));
        assert_eq!(moved, want, "after {changes} changes");
        println!("{} look-ups, {changes} changes", u64::from(calls) * u64::from(LOOKUPS_A_CALL));
        assert!(changes > 100, "only {changes} changes were made meanwhile");
        open_table(&pins().set().unwrap().unwrap()).unwrap().check().unwrap();
    });
}

/// Adds and removes blocked prefixes in, around and beside those that are kept, until told to stop. Returns how many.
fn churn(stop: &AtomicBool, kept: &BTreeSet<prefix::Key>) -> u64 {
    let mut random = seeded();
    let mut table = open_table(&pins().set().unwrap().unwrap()).unwrap();
    let around: Vec<prefix::Key> = kept.iter().copied().collect();
    let innocent: Vec<prefix::Key> = ["8.8.8.8", "198.51.101.1", "2a00::1", "203.0.113.9", "192.0.2.3"]
        .map(|text| Key { action: Action::Block, prefix: Prefix::parse(text, false).unwrap() }.to_table())
        .to_vec();
    let mut changes = 0;
    while !stop.load(Ordering::Relaxed) {
        let mut edits = Vec::new();
        let mut touched = BTreeSet::new();
        for _ in 0..random.u32(1..80) {
            let near = around[random.usize(..around.len())];
            let (family, _) = near.family_and_length();
            let length = random.u8(0..=family.bits());
            let (high, low) = prefix::mask(length);
            // The same network wider or narrower, or one that differs somewhere.
            let flip = if random.bool() { 1u64 << random.u32(32..64) } else { 0 };
            let key = prefix::Key {
                high: (near.high ^ flip) & high,
                low: near.low & low,
                step: Step::of(family, length),
                action: action::BLOCK,
            };
            // What passes because nothing covers it must stay so; what is allowed may be blocked as well.
            if kept.contains(&key)
                || innocent[..3].iter().any(|host| key.covers(host))
                || !touched.insert(key)
            {
                continue;
            }
            match table.lookup(&key) {
                Some(id) => edits.push(Edit::Remove(id)),
                None if table.used(family) + 100 < table.geometry().capacity(family) => {
                    let until_s = random.choice([FOREVER, 1, u32::MAX - 1]).unwrap();
                    let base = Counter::default();
                    edits.push(Edit::Insert(prefix::Entry {
                        key,
                        slots: 3,
                        until_s,
                        created_s: 1,
                        note: 0,
                        base,
                    }));
                }
                None => {}
            }
        }
        match table.apply(&edits, &Monotonic) {
            Ok(()) => changes += edits.len() as u64,
            // Not waited for: the next round draws another change, until told to stop. The CPU is the look-ups' meanwhile.
            Err(Refused::Resting(_)) => thread::sleep(Duration::from_millis(20)),
            Err(refused) => panic!("{refused}"),
        }
    }
    changes
}
