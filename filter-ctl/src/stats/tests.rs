//! Figures and rates of made-up snapshots and records.

use std::sync::Arc;

use super::*;
use crate::store::history::{Count, Series, Step};

const NOTHING: [Option<Recorded>; 3] = [None, None, None];

fn counter(packets: u64, bytes: u64) -> Counter {
    Counter { packets, bytes }
}

fn snapshot(at: Duration, blocked: Counter, entries: &[(u32, u64)]) -> Snapshot {
    let interface = InterfaceCounts {
        name: "eth0".into(),
        loaded_s: 1,
        by_reason: vec![
            (Reason::NoMatch, Verdict::Pass, counter(4, 240)),
            (Reason::Allowed, Verdict::Pass, counter(1, 60)),
            (Reason::Blocked, Verdict::Drop, blocked),
        ],
    };
    let list =
        ListCounts { owner: Owner::parse("list:drop").unwrap(), counter: blocked, alone: counter(1, 60) };
    let entry = |(id, packets): &(u32, u64)| EntryCount {
        id: *id,
        created_s: 5,
        counter: counter(*packets, 60 * packets),
    };
    Snapshot {
        at,
        began: SystemTime::UNIX_EPOCH,
        took: Duration::ZERO,
        interfaces: vec![interface],
        lists: Some(vec![list]),
        entries: EntryCounts { tables: 7, by_id: entries.iter().map(entry).collect() },
    }
}

fn second(at_s: u64, blocked: u64) -> Snapshot {
    snapshot(Duration::from_secs(at_s), counter(blocked, 60 * blocked), &[])
}

fn past(snapshots: impl IntoIterator<Item = Snapshot>) -> Past {
    let mut past = Past::default();
    snapshots.into_iter().for_each(|snapshot| past.push(snapshot));
    past
}

fn packets(figures: &Figures) -> [Option<f64>; 3] {
    let Rates { second, ten_seconds, minute } = figures.rates;
    [second, ten_seconds, minute].map(|rate| rate.map(|rate| rate.packets_per_second))
}

#[test]
fn totals_are_sums_by_verdict() {
    let now = second(9, 10);
    let nothing = Past::default();
    let [eth0] = &by_interface(&now, &Earlier::new(&now, nothing.last(), &nothing, &NOTHING))[..] else {
        panic!("one")
    };
    assert_eq!((eth0.dropped.packets, eth0.dropped.bytes), (10, 600));
    assert_eq!((eth0.passed.packets, eth0.passed.bytes), (5, 300));
    assert_eq!((eth0.dropped.packets_per_second, packets(&eth0.dropped)), (None, [None; 3]));
}

#[test]
fn a_tolerated_fault_counts_as_passed() {
    let mut now = second(9, 10);
    let by_reason = &mut now.interfaces[0].by_reason;
    by_reason.push((Reason::UdpLength, Verdict::Drop, counter(2, 120)));
    by_reason.push((Reason::UdpLength, Verdict::Pass, counter(3, 180)));
    by_reason.push((Reason::TcpTruncated, Verdict::Drop, counter(0, 0)));
    by_reason.push((Reason::TcpTruncated, Verdict::Pass, counter(0, 0)));
    let nothing = Past::default();
    let eth0 = &by_interface(&now, &Earlier::new(&now, nothing.last(), &nothing, &NOTHING))[0];
    assert_eq!((eth0.passed.packets, eth0.dropped.packets), (8, 12));
    let rows: Vec<_> = eth0.reasons.iter().map(|row| (row.reason, row.verdict)).skip(3).collect();
    assert_eq!(rows, [("udp_length", "drop"), ("udp_length", "pass"), ("tcp_truncated", "drop")]);
}

#[test]
fn rates_are_since_the_snapshot_that_was_told_before() {
    // All came in the first of five seconds.
    let told = second(0, 0);
    let mut past = Past::default();
    past.push(told.clone());
    past.push(second(4, 500));
    let now = second(5, 500);
    let earlier = Earlier::new(&now, Some(&told), &past, &NOTHING);
    assert_eq!(earlier.interval_s(&now), Some(5.0));
    let eth0 = &by_interface(&now, &earlier)[0];
    assert_eq!(eth0.dropped.packets_per_second, Some(100.0));
    assert_eq!(packets(&eth0.dropped)[0], Some(0.0), "the last second");
}

#[test]
fn each_span_has_its_own_rate_once_it_is_over() {
    // Ten packets a second, and from second 80 on a hundred.
    let blocked = |at_s: u64| 10 * at_s.min(80) + 100 * at_s.saturating_sub(80);
    let mut past = Past::default();
    for at_s in 0..90 {
        let now = second(at_s, blocked(at_s));
        let earlier = Earlier::new(&now, past.last(), &past, &NOTHING);
        let eth0 = &by_interface(&now, &earlier)[0];
        let known = packets(&eth0.dropped).map(|rate| rate.is_some());
        assert_eq!(known, [at_s >= 1, at_s >= 10, at_s >= 60], "at second {at_s}");
        if at_s == 89 {
            assert_eq!(packets(&eth0.dropped)[..2], [Some(100.0), Some((900.0 + 10.0) / 10.0)]);
            let over = earlier.over(&now, false);
            assert!(over.minute.is_some_and(|over_s| (60.0..70.0).contains(&over_s)), "{over:?}");
            let list = &by_list(&now, &earlier).unwrap()[0];
            assert_eq!((list.list.as_str(), packets(&list.figures)), ("drop", packets(&eth0.dropped)));
            assert_eq!(packets(&list.alone)[0], Some(0.0));
        }
        past.push(now);
    }
}

#[test]
fn any_interval_finds_what_it_needs_and_keeps_few() {
    for interval_ms in [100, 300, 700, 1000, 1100, 2500, 3000, 4900] {
        let times = (0..).map(|number| number * interval_ms).take_while(|ms| *ms < 200_000);
        let past = past(times.map(|ms| snapshot(Duration::from_millis(ms), counter(0, 0), &[])));
        let now = snapshot(past.last().unwrap().at + Duration::from_millis(interval_ms), counter(0, 0), &[]);
        let over = Earlier::new(&now, past.last(), &past, &NOTHING).over(&now, false);
        assert!(over.ten_seconds.is_some() && over.minute.is_some(), "every {interval_ms} ms: {over:?}");
        assert_eq!(over.second.is_some(), interval_ms < 2000, "every {interval_ms} ms: {over:?}");
        let kept = format!("{past:?}").matches("Snapshot {").count();
        assert!(kept <= 30, "every {interval_ms} ms {kept} are kept");
    }
}

#[test]
fn what_is_loaded_or_made_anew_has_no_rate_of_before() {
    let past = past([second(9, 10)]);
    let mut now = second(10, 30);
    now.interfaces[0].loaded_s = 9;
    assert_eq!(
        packets(&by_interface(&now, &Earlier::new(&now, past.last(), &past, &NOTHING))[0].dropped),
        [None; 3]
    );
    let shrunk = second(10, 3);
    assert_eq!(
        by_interface(&shrunk, &Earlier::new(&shrunk, past.last(), &past, &NOTHING))[0]
            .dropped
            .packets_per_second,
        None
    );
}

#[test]
fn an_entry_that_is_new_had_counted_nothing_and_other_tables_tell_nothing() {
    let at = |at_s: u64, entries: &[(u32, u64)]| snapshot(Duration::from_secs(at_s), counter(0, 0), entries);
    let past = past([at(9, &[(1, 5), (4, 9)])]);
    let mut now = at(10, &[(1, 7), (3, 2), (4, 12)]);
    now.entries.by_id[2].created_s = 9;
    let rates = |now: &Snapshot| {
        let earlier = Earlier::new(now, past.last(), &past, &NOTHING);
        now.entries.by_id.iter().map(|count| packets(&of_entry(now, &earlier, *count))[0]).collect::<Vec<_>>()
    };
    assert_eq!(rates(&now), [Some(2.0), Some(2.0), Some(12.0)]);
    now.entries.tables = 8;
    assert_eq!(rates(&now), [None; 3]);
}

/// A second in which 50 packets of `eth0` were blocked, and one passed.
fn step() -> Step {
    let count = |reason: &str, verdict: &str, packets| Count {
        series: Arc::new(Series { interface: "eth0".into(), reason: reason.into(), verdict: verdict.into() }),
        packets,
        bytes: 60 * packets,
    };
    let counts = vec![count("blocked", "drop", 50), count("allowed", "pass", 1)];
    Step { wall_s: 0, interval: Duration::from_secs(1), counts }
}

#[test]
fn what_the_daemon_recorded_stands_in_for_snapshots_where_it_covers_the_time() {
    let nothing = Past::default();
    let rates = |steps: usize, loaded_s: u32| {
        let recorded = Recorded::of(&vec![step(); steps]);
        let mut now = second(1000, 10);
        now.interfaces[0].loaded_s = loaded_s;
        let eth0 = by_interface(&now, &Earlier::new(&now, nothing.last(), &nothing, &recorded)).remove(0);
        assert_eq!(packets(&eth0.reasons[2].figures), packets(&eth0.dropped));
        packets(&eth0.dropped)
    };
    assert_eq!(rates(0, 1), [None; 3]);
    assert_eq!(rates(59, 1), [Some(50.0), Some(50.0), None]);
    assert_eq!(rates(60, 1), [Some(50.0); 3]);
    // Loaded half a minute ago: of the minute nothing is known.
    assert_eq!(rates(60, 970), [Some(50.0), Some(50.0), None]);
    // A long step is no second.
    let mut long = step();
    long.interval = Duration::from_secs(30);
    assert_eq!(Recorded::of(&[long]).map(|recorded| recorded.is_some()), [false; 3]);
    // What was measured comes first.
    let past = past([second(999, 3)]);
    let recorded = Recorded::of(&vec![step(); 60]);
    let now = second(1000, 10);
    let eth0 = &by_interface(&now, &Earlier::new(&now, past.last(), &past, &recorded))[0];
    assert_eq!(packets(&eth0.dropped), [Some(7.0), Some(50.0), Some(50.0)]);
    assert_eq!(packets(&eth0.passed), [Some(0.0), Some(1.0), Some(1.0)]);
}
