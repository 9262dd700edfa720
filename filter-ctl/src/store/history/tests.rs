//! The history against a naive model, and against clocks, files and counters that misbehave.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use filter_common::abi::Counter;
use proptest::prelude::*;

use super::file::{FILE, PAGE_BYTES};
use super::*;

/// A directory that exists as long as a test.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("filter-ctl-history-{}-{number}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn open(&self) -> History {
        let (history, aside) = History::open(&self.0).unwrap();
        assert_eq!(aside, None);
        history
    }

    fn steps(&self, resolution: Resolution) -> Vec<Step> {
        Reader::open(&self.0).unwrap().unwrap().steps(i64::MIN, resolution).unwrap()
    }

    /// Packets of all series by step, and the steps' whole seconds.
    fn sums(&self, resolution: Resolution) -> Vec<(u64, u64)> {
        let sum = |step: Step| (step.interval.as_secs(), step.counts.iter().map(|count| count.packets).sum());
        self.steps(resolution).into_iter().map(sum).collect()
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn counts(name: &str, loaded_s: u32, packets: u64) -> InterfaceCounts {
    let counter = Counter { packets, bytes: packets * 60 };
    InterfaceCounts {
        name: name.into(),
        loaded_s,
        by_reason: vec![(Reason::Blocked, Verdict::Drop, counter)],
    }
}

/// Counts of every reason and verdict there is.
fn all_counts(name: &str, packets: u64) -> InterfaceCounts {
    let counter = Counter { packets, bytes: packets * 60 };
    let pairs = Reason::ALL.iter().flat_map(|reason| reason.verdicts().map(|verdict| (*reason, verdict)));
    let by_reason = pairs.map(|(reason, verdict)| (reason, verdict, counter)).collect();
    InterfaceCounts { name: name.into(), loaded_s: 1, by_reason }
}

fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[test]
fn steps_are_made_into_longer_ones() {
    let (directory, wall) = (Directory::new(), 1_000_000);
    let mut history = directory.open();
    for second in 0..=121 {
        history.record(wall + second as i64, s(second), &[counts("eth0", 1, 5 * second)]).unwrap();
    }
    assert_eq!(directory.sums(Resolution::Second), vec![(1, 5); 121]);
    assert_eq!(directory.sums(Resolution::TenSeconds), vec![(10, 50); 12]);
    assert_eq!(directory.sums(Resolution::Minute), vec![(60, 300); 2]);
    let last = directory.steps(Resolution::Minute).remove(1);
    assert_eq!((last.wall_s, last.per_second(last.counts[0].packets)), (wall + 120, 5.0));
    let series = Series { interface: "eth0".into(), reason: "blocked".into(), verdict: "drop".into() };
    assert_eq!((&*last.counts[0].series, last.counts[0].bytes), (&series, 300 * 60));
}

#[test]
fn idle_series_have_no_rows_and_steps_nevertheless() {
    let directory = Directory::new();
    let mut history = directory.open();
    for second in 0..=10 {
        history.record(0, s(second), &[counts("eth0", 1, 7)]).unwrap();
    }
    assert_eq!(directory.sums(Resolution::Second), vec![(1, 0); 10]);
    assert!(directory.steps(Resolution::TenSeconds)[0].counts.is_empty());
}

#[test]
fn what_can_not_be_compared_is_not_counted() {
    let directory = Directory::new();
    let mut history = directory.open();
    let mut second = 0;
    let mut record = |counts: &[InterfaceCounts]| {
        second += 1;
        history.record(0, s(second), counts).unwrap();
    };
    record(&[counts("eth0", 1, 100)]);
    record(&[counts("eth0", 1, 90)]); // zeroed, and 90 since
    record(&[counts("eth0", 2, 95)]); // loaded anew
    record(&[counts("eth0", 2, 97), counts("eth1", 1, 1_000)]); // a new one
    record(&[counts("eth1", 1, 1_003)]);
    record(&[counts("eth0", 2, 99), counts("eth1", 1, u64::MAX / 60)]); // absurd
    record(&[counts("eth0", 2, 100), counts("eth1", 1, u64::MAX / 60)]);
    let packets: Vec<_> =
        directory.sums(Resolution::Second).into_iter().map(|(_, packets)| packets).collect();
    assert_eq!(packets, [0, 0, 2, 3, 0, 1]);
}

#[test]
fn a_restart_is_a_gap_and_loses_no_count() {
    let directory = Directory::new();
    for (from, to) in [(3, 17), (500, 507)] {
        let mut history = directory.open();
        for second in from..=to {
            history.record(second as i64, s(second), &[counts("eth0", 1, second)]).unwrap();
        }
    }
    // What the first process left over is a step of its own: it does not reach over the gap.
    directory.open().record(600, s(600), &[]).unwrap();
    assert_eq!(directory.sums(Resolution::TenSeconds), [(7, 7), (7, 7), (7, 7)]);
    assert_eq!(directory.sums(Resolution::Minute), [(14, 14), (7, 7)]);
    let ends: Vec<_> = directory.steps(Resolution::Minute).iter().map(|step| step.wall_s).collect();
    assert_eq!(ends, [17, 507]);
}

#[test]
fn a_clock_that_jumps_changes_no_step() {
    let directory = Directory::new();
    let mut history = directory.open();
    let mut walls = Vec::new();
    for second in 1..=60 {
        let wall = match second {
            20..30 => i64::MAX,
            30..40 => -5,
            _ => second as i64,
        };
        history.record(wall, s(second), &[counts("eth0", 1, second)]).unwrap();
        walls.push(wall);
    }
    let steps = directory.steps(Resolution::Second);
    assert_eq!(steps.iter().map(|step| step.wall_s).collect::<Vec<_>>(), walls[1..]);
    assert!(steps.iter().all(|step| step.per_second(step.counts[0].packets) == 1.0));
    assert_eq!(directory.sums(Resolution::Minute), [(59, 59)]);
    let since = Reader::open(&directory.0).unwrap().unwrap().steps(50, Resolution::Second).unwrap();
    assert_eq!(since.len(), 11 + 10);
}

#[test]
fn steps_are_bounded_in_number() {
    let directory = Directory::new();
    let mut history = directory.open();
    history.connection.pragma_update(None, "synchronous", "OFF").unwrap();
    let most = u64::from(Resolution::Second.max_steps());
    for second in 0..=most + 25 {
        // A minute each, so that all three resolutions get as many.
        history.record(second as i64, s(60 * second), &[counts("eth0", 1, second)]).unwrap();
    }
    let steps = directory.steps(Resolution::Second);
    assert_eq!((steps.len() as u64, steps[0].wall_s), (most, 26));
    assert_eq!(directory.steps(Resolution::Minute).len() as u64, most + 25);
    let rows = "SELECT count(*) FROM count WHERE resolution = 1";
    assert_eq!(history.connection.query_row(rows, [], |row| row.get(0)), Ok(3_600));
}

#[test]
fn the_worst_case_is_bounded_in_rows_and_bytes() {
    let directory = Directory::new();
    let mut history = directory.open();
    // All series of 63 interfaces never rest; the bound is a hundredth of the real one, so that it is reached soon.
    history.max_counts = MAX_COUNTS / 100;
    let names: Vec<_> = (0..63).map(|number| format!("interface-{number:05}")).collect();
    let mut sizes = Vec::new();
    for second in 0..=24 {
        let now: Vec<_> = names.iter().map(|name| all_counts(name, (second + 1) << 40)).collect();
        history.record(0, s(60 * second), &now).unwrap();
        let pages =
            |name| history.connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0)).unwrap();
        sizes.push(pages("page_count").unsigned_abs() * PAGE_BYTES);
    }
    let per_step = (63 * all_counts("", 0).by_reason.len()) as u64;
    for resolution in Resolution::ALL {
        let steps = directory.steps(resolution);
        assert_eq!(steps.len() as u64, history.max_counts / per_step);
        assert!(steps.iter().all(|step| step.counts.len() as u64 == per_step));
    }
    assert_eq!(sizes[12], sizes[24], "{sizes:?}");
    // What the rows take is within the bound that SQLite enforces.
    assert!(sizes[24] <= MAX_BYTES / 100, "{sizes:?}");
}

#[test]
fn names_of_vanished_interfaces_go() {
    let directory = Directory::new();
    let mut history = directory.open();
    history.prune_at = 20;
    history.max_counts = 5;
    for number in 0..100 {
        let name = format!("veth{number}");
        history.record(0, s(2 * number), &[counts(&name, 1, 0)]).unwrap();
        history.record(0, s(2 * number + 1), &[counts(&name, 1, 1)]).unwrap();
        history.prune_at = 20;
    }
    let names: i64 =
        history.connection.query_row("SELECT count(*) FROM series", [], |row| row.get(0)).unwrap();
    assert!(names <= 20 + 15 + 1, "{names}");
}

#[test]
fn a_file_that_is_no_history_is_set_aside() {
    let other = |path: &Path| {
        Connection::open(path)
            .unwrap()
            .execute_batch("CREATE TABLE t (x); INSERT INTO t VALUES (1)")
            .unwrap();
    };
    let newer = |path: &Path| {
        History::open(path.parent().unwrap()).unwrap();
        Connection::open(path).unwrap().pragma_update(None, "user_version", 9).unwrap();
    };
    let text = |path: &Path| fs::write(path, "x".repeat(5_000)).unwrap();
    let short = |path: &Path| fs::write(path, "x").unwrap();
    let damaged = |path: &Path| {
        let (mut history, _) = History::open(path.parent().unwrap()).unwrap();
        for second in 0..100 {
            history.record(0, s(second), &[all_counts("eth0", second)]).unwrap();
        }
        drop(history);
        let mut bytes = fs::read(path).unwrap();
        let half = bytes.len() / 2;
        bytes[half..].fill(0xa5);
        fs::write(path, bytes).unwrap();
    };
    type Make<'m> = &'m dyn Fn(&Path);
    let cases: [(&str, Make); 5] = [
        ("another program", &other),
        ("version 9", &newer),
        ("not a database", &text),
        ("too short", &short),
        ("", &damaged),
    ];
    for (why, make) in cases {
        let directory = Directory::new();
        let path = directory.0.join(FILE);
        make(&path);
        let before = fs::read(&path).unwrap();
        let (mut history, aside) = History::open(&directory.0).unwrap();
        let aside = aside.unwrap();
        assert!(aside.why.contains(why), "{aside:?}");
        assert_eq!(fs::read(&aside.path).unwrap(), before, "{why}");
        history.record(0, s(1), &[]).unwrap();
        history.record(0, s(2), &[]).unwrap();
        assert_eq!(directory.sums(Resolution::Second), [(1, 0)]);
    }
}

#[test]
fn a_failed_write_is_made_up_for() {
    let directory = Directory::new();
    let mut history = directory.open();
    history.record(1, s(1), &[counts("eth0", 1, 10)]).unwrap();
    history.record(2, s(2), &[counts("eth0", 1, 20)]).unwrap();
    // As a disk that is full: no page more.
    let pages: i64 = history.connection.pragma_query_value(None, "page_count", |row| row.get(0)).unwrap();
    history.connection.pragma_update(None, "max_page_count", pages).unwrap();
    let full = history.record(3, s(3), &(0..63).map(|n| all_counts(&n.to_string(), 1)).collect::<Vec<_>>());
    full.unwrap(); // new interfaces count nothing yet
    let many: Vec<_> = (0..63).map(|n| all_counts(&n.to_string(), 2)).collect();
    let error = history.record(4, s(4), &many).unwrap_err();
    assert!(format!("{error:#}").contains("full"), "{error:#}");
    history.connection.pragma_update(None, "max_page_count", 10_000).unwrap();
    history.record(5, s(5), &many).unwrap();
    let per_step = many.len() as u64 * many[0].by_reason.len() as u64;
    assert_eq!(directory.sums(Resolution::Second), [(1, 10), (1, 0), (2, per_step)]);
}

#[test]
fn there_may_be_nothing_to_read_or_nowhere_to_write() {
    let directory = Directory::new();
    assert!(Reader::open(&directory.0).unwrap().is_none());
    assert!(History::open(&directory.0.join("missing")).is_err());
    Connection::open(directory.0.join(FILE)).unwrap().execute_batch("CREATE TABLE t (x)").unwrap();
    let error = Reader::open(&directory.0).unwrap_err().to_string();
    assert!(error.contains("another program"), "{error}");
}

#[test]
fn the_resolution_follows_the_span() {
    let of = |text| Resolution::for_span(humantime::parse_duration(text).unwrap());
    assert_eq!(
        ["5m", "10m", "1h", "2h", "30d"].map(of),
        [
            Resolution::Second,
            Resolution::TenSeconds,
            Resolution::TenSeconds,
            Resolution::Minute,
            Resolution::Minute
        ]
    );
}

#[derive(Clone, Debug)]
enum Act {
    /// Time passes, in seconds, counters grow by so much, and the clock says this.
    Sample(u64, [u64; 2], i64),
    Zero,
    Restart,
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        20 => (prop_oneof![Just(1u64), 1u64..150], [0u64..3, 0u64..1_000_000], any::<i64>())
            .prop_map(|(time, growth, wall)| Act::Sample(time, growth, wall)),
        1 => Just(Act::Zero),
        1 => Just(Act::Restart),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Every second-step is what the model says, and the longer ones are sums of consecutive ones between boundaries.
    #[test]
    fn steps_are_those_of_a_naive_model(acts in prop::collection::vec(act(), 0..80)) {
        let directory = Directory::new();
        let mut history = directory.open();
        let (mut at, mut counters) = (7, [0u64; 2]);
        // Of each step, whether a new group of 10 s or 60 s begins with it, its seconds, its growth, and the clock.
        let mut model: Vec<([bool; 2], u64, [u64; 2], i64)> = Vec::new();
        let mut before: Option<(u64, [u64; 2])> = None;
        let (mut begins, mut ended) = ([true; 2], [0usize; 2]);
        for act in acts {
            match act {
                Act::Zero => counters = [0; 2],
                Act::Restart => {
                    drop(history);
                    history = directory.open();
                    before = None;
                }
                Act::Sample(time, growth, wall) => {
                    at += time;
                    counters = [counters[0] + growth[0], counters[1] + growth[1]];
                    let sample = [counts("a", 1, counters[0]), counts("b", 1, counters[1])];
                    history.record(wall, s(at), &sample).unwrap();
                    let crossed = match before {
                        Some((then, old)) => {
                            let grew = [0, 1].map(|which| counters[which].saturating_sub(old[which]));
                            model.push((begins, at - then, grew, wall));
                            begins = [false; 2];
                            [then / 10 != at / 10, then / 60 != at / 60]
                        }
                        None => [true; 2],
                    };
                    for which in [0, 1].into_iter().filter(|which| crossed[*which]) {
                        begins[which] = true;
                        ended[which] = model.len();
                    }
                    before = Some((at, counters));
                }
            }
        }
        for (which, resolution) in Resolution::ALL.into_iter().enumerate() {
            let mut expected: Vec<(u64, [u64; 2], i64)> = Vec::new();
            let complete = if which == 0 { model.len() } else { ended[which - 1] };
            for (begins, time, grew, wall) in &model[..complete] {
                match expected.last_mut() {
                    Some(last) if which > 0 && !begins[which - 1] => {
                        *last = (last.0 + time, [last.1[0] + grew[0], last.1[1] + grew[1]], *wall);
                    }
                    _ => expected.push((*time, *grew, *wall)),
                }
            }
            let found: Vec<_> = directory.steps(resolution).iter().map(|step| {
                let by_name: BTreeMap<_, _> =
                    step.counts.iter().map(|count| (count.series.interface.as_str(), count.packets)).collect();
                assert!(by_name.values().all(|packets| *packets > 0));
                let of = |name| by_name.get(name).copied().unwrap_or(0);
                (step.interval.as_secs(), [of("a"), of("b")], step.wall_s)
            }).collect();
            prop_assert_eq!(found, expected, "{:?}", resolution);
        }
    }
}
