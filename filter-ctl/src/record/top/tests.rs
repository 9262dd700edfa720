use bytes::Bytes;
use etherparse::PacketBuilder;

use super::*;
use crate::policy::Action;
use crate::record::SampledEntry;
use crate::stats::InterfaceCounts;
use filter_common::abi::REASON_SLOTS;

fn question(by: By) -> Question {
    Question { by, verdict: Verdict::Drop, interface: None }
}

fn key(prefix: &str) -> Key {
    Key { action: Action::Block, prefix: Prefix::parse(prefix, false).unwrap() }
}

fn udp(source: [u8; 4], ports: (u16, u16), payload: usize) -> Vec<u8> {
    let mut frame = Vec::new();
    let builder =
        PacketBuilder::ethernet2([1; 6], [2; 6]).ipv4(source, [192, 0, 2, 1], 64).udp(ports.0, ports.1);
    builder.write(&mut frame, &vec![0; payload]).unwrap();
    frame
}

/// The next frame of a ring of which every frame is sampled.
fn sample(number: u64, frame: &[u8], reason: Reason, entry: Option<&str>) -> Sample {
    let ring = if entry.is_some() { REASON_SLOTS } else { reason.index() };
    Sample {
        stream: Stream { cpu: 0, ring },
        sequence: number,
        number,
        stands_for: 1,
        time: Duration::from_secs(100 + number),
        ifindex: 1,
        interface: Some("eth0".into()),
        queue: 0,
        reason,
        verdict: reason.verdict(),
        entry: entry.map(|prefix| SampledEntry { key: key(prefix), created_s: 7 }),
        length: u32::try_from(frame.len()).unwrap(),
        frame: Bytes::copy_from_slice(frame),
    }
}

fn reading(samples: Vec<Sample>) -> Reading {
    let mut heads: BTreeMap<Stream, u64> = BTreeMap::new();
    samples.iter().for_each(|sample| *heads.entry(sample.stream).or_default() += 1);
    let heads = heads.into_iter().map(|(stream, seen)| Head { stream, seen, taken: seen }).collect();
    Reading { heads, samples, ..Reading::default() }
}

/// Two frames from a blocked network, one from a blocked host, one that can't be read and one that passes.
fn some() -> Reading {
    reading(vec![
        sample(1, &udp([203, 0, 113, 1], (53, 4444), 18), Reason::Blocked, Some("203.0.113.0/24")),
        sample(2, &udp([203, 0, 113, 2], (53, 80), 200), Reason::Blocked, Some("203.0.113.0/24")),
        sample(3, &udp([198, 51, 100, 7], (123, 80), 1472), Reason::Blocked, Some("198.51.100.7")),
        sample(1, &udp([10, 0, 0, 1], (9, 9), 0)[..20], Reason::Ipv4Truncated, None),
        sample(1, &udp([192, 0, 2, 9], (9, 9), 0), Reason::NoMatch, None),
    ])
}

fn counters(entries: &[(&str, u32, u64)], blocked: u64) -> Counters {
    let counter = |packets| Counter { packets, bytes: packets * 60 };
    let entry =
        |(prefix, created_s, packets): &(&str, u32, u64)| ((key(prefix), *created_s), counter(*packets));
    let interface = |name: &str, packets| InterfaceCounts {
        name: name.into(),
        loaded_s: 1,
        by_reason: vec![(Reason::Blocked, Verdict::Drop, counter(packets))],
    };
    Counters {
        at: Duration::from_secs(200),
        interfaces: vec![interface("eth0", blocked), interface("eth1", 1)],
        entries: entries.iter().map(entry).collect(),
    }
}

fn top(question: &Question, reading: &Reading, counted: &Counted) -> Top {
    let mut counting = Counting::new(question, None);
    counting.add(reading);
    counting.finish(&reading.heads, counted, &[], 10)
}

fn rows(top: &Top) -> Vec<(String, u64, bool)> {
    let row = |row: &Row| {
        (row.key.map(|key| key.to_string()).unwrap_or_default(), row.estimate.packets, row.is_exact)
    };
    top.rows.iter().map(row).collect()
}

fn keys(by: By) -> Vec<String> {
    let mut keys: Vec<_> =
        rows(&top(&question(by), &some(), &Counted::default())).into_iter().map(|(key, ..)| key).collect();
    keys.sort();
    keys
}

#[test]
fn frames_are_told_apart_by_what_is_asked() {
    assert_eq!(keys(By::Sources), ["(no address)", "198.51.100.7", "203.0.113.1", "203.0.113.2"]);
    assert_eq!(keys(By::Prefixes), ["(no address)", "198.51.100.7/32", "203.0.113.0/24"]);
    assert_eq!(keys(By::Destinations), ["(no address)", "192.0.2.1"]);
    assert_eq!(keys(By::Ports), ["(no address)", "4444/udp", "80/udp"]);
    assert_eq!(keys(By::SourcePorts), ["(no address)", "123/udp", "53/udp"]);
    assert_eq!(keys(By::Protocols), ["(no address)", "udp"]);
    assert_eq!(keys(By::Reasons), ["blocked", "ipv4_truncated"]);
    assert_eq!(keys(By::Lengths), ["1024-1518", "128-255", "64", "under 64"]);
}

#[test]
fn groups_have_names_that_people_use() {
    let names = [
        (Group::Length(0), "under 64"),
        (Group::Length(64), "64"),
        (Group::Length(65), "65-127"),
        (Group::Length(1519), "1519 and more"),
        (Group::EtherType(0x0806), "arp"),
        (Group::EtherType(0x88cc), "EtherType 0x88cc"),
        (Group::Portless(1), "icmp (no port)"),
        (Group::Network(Prefix::parse("2001:db8::/64", false).unwrap()), "2001:db8::/64 (no entry)"),
    ];
    for (group, name) in names {
        assert_eq!(group.to_string(), name);
    }
}

#[test]
fn what_passed_is_told_by_networks_where_no_entry_decided() {
    let asked = Question { verdict: Verdict::Pass, ..question(By::Prefixes) };
    let top = top(&asked, &some(), &Counted::default());
    assert_eq!(rows(&top), [("192.0.2.0/24 (no entry)".to_owned(), 1, true)]);
    assert_eq!(top.whole.estimate.packets, 1);
}

#[test]
fn an_entrys_own_count_stands_for_its_samples() {
    let now = counters(&[("203.0.113.0/24", 7, 1_000), ("198.51.100.7", 7, 30)], 1_030);
    let counted = Counted::new(&question(By::Prefixes), &now, None);
    let prefixes = top(&question(By::Prefixes), &some(), &counted);
    let want = [("203.0.113.0/24", 1_000), ("198.51.100.7/32", 30), ("(no address)", 1)];
    assert_eq!(rows(&prefixes), want.map(|(key, packets)| (key.to_owned(), packets, true)));
    assert_eq!(prefixes.whole.estimate.packets, 1_031);

    let counted = Counted::new(&question(By::Sources), &now, None);
    let sources = top(&question(By::Sources), &some(), &counted);
    assert_eq!(rows(&sources)[0], ("198.51.100.7".to_owned(), 30, true));
    assert_eq!(sources.groups, 4);
}

#[test]
fn samples_of_an_entry_that_was_made_anew_count_beside_it() {
    let now = counters(&[("198.51.100.7", 9, 30)], 30);
    let counted = Counted::new(&question(By::Sources), &now, None);
    let sources = top(&question(By::Sources), &some(), &counted);
    assert_eq!(rows(&sources)[0].1, 31);
}

#[test]
fn counts_of_a_time_are_what_was_added_in_it() {
    let before = counters(&[("203.0.113.0/24", 7, 900), ("198.51.100.7", 5, 20)], 500);
    let now = counters(&[("203.0.113.0/24", 7, 1_000), ("198.51.100.7", 7, 30)], 1_030);
    let counted = Counted::new(&question(By::Prefixes), &now, Some(&before));
    let counts: Vec<u64> = counted.entries.values().map(|counter| counter.packets).collect();
    assert_eq!(counts, [30, 100]);
    let reasons = Counted::new(&question(By::Reasons), &now, Some(&before));
    assert_eq!(reasons.reasons[&Reason::Blocked], Counter { packets: 530, bytes: 530 * 60 });
}

#[test]
fn an_interface_is_counted_apart() {
    let asked = Question { interface: Some("eth1".into()), ..question(By::Reasons) };
    let now = counters(&[("203.0.113.0/24", 7, 1_000)], 1_030);
    let counted = Counted::new(&asked, &now, None);
    assert_eq!(rows(&top(&asked, &some(), &counted)), [("blocked".to_owned(), 1, true)]);
    // Entries count for all interfaces together.
    let asked = Question { interface: Some("eth1".into()), ..question(By::Prefixes) };
    let none = top(&asked, &some(), &Counted::new(&asked, &now, None));
    assert_eq!((none.rows.len(), none.whole.estimate.packets), (0, 0));
}

#[test]
fn a_limit_leaves_out_the_smallest() {
    let asked = question(By::Ports);
    let mut counting = Counting::new(&asked, None);
    let read = some();
    counting.add(&read);
    let top = counting.finish(&read.heads, &Counted::default(), &[], 1);
    assert_eq!((rows(&top), top.groups), (vec![("80/udp".to_owned(), 2, true)], 3));
    assert!((top.rows[0].share_percent - 50.0).abs() < 1e-9);
}
