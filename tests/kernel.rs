//! The scenarios through the loaded program, by `BPF_PROG_TEST_RUN`: verdict, reason, and the counters that
//! moved and no others. Needs root, and nothing but a kernel: this is what the virtual machines run.

#![expect(clippy::unwrap_used, reason = "a panic is how a test reports")]

use std::sync::{Mutex, MutexGuard};

use filter_common::abi::{Counter, TEST_SLOT};
use filter_common::testing::StoppedClock;
use filter_common::{NO_ENTRY, Verdict, filter};
use filter_ctl::host::devices::Mode;
use filter_ctl::kernel::loading::{LoadOptions, load};
use filter_ctl::policy::{Action, Prefix};
use filter_tests::kernel_side::{Counts, LOCK_WAIT, counts, enforce, expected, moved, open, pins, test_run};
use filter_tests::lab::Host;
use filter_tests::scenarios::{all, host_tables};

/// `enum xdp_action` of linux/bpf.h.
const XDP_DROP: u32 = 1;
const XDP_PASS: u32 = 2;

/// The kernel refuses shorter frames in a test-run.
const SHORTEST: usize = 14;

const INTERFACE: &str = "flt0";

const OPTIONS: LoadOptions =
    LoadOptions { mode: Mode::Native, max_entries: Some(1024), lock_wait: LOCK_WAIT, verbose: false };

/// One host at a time: in a virtual machine with a few hundred megabytes, maps are the main thing there is.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// A host that filters one end of a veth pair.
fn filtering_host() -> (Host, MutexGuard<'static, ()>) {
    let turn = ONE_AT_A_TIME.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let host = Host::new("filter").unwrap();
    host.ip(&format!("link add {INTERFACE} type veth peer name flt1")).unwrap();
    host.run(|| load(&pins(), &[INTERFACE.into()], OPTIONS)).unwrap();
    (host, turn)
}

fn action(verdict: Verdict) -> u32 {
    match verdict {
        Verdict::Pass => XDP_PASS,
        Verdict::Drop => XDP_DROP,
    }
}

#[test]
fn every_scenario_is_decided_and_counted_as_the_table_says() {
    let (host, _turn) = filtering_host();
    host.run(|| {
        let mut tried = 0;
        for scenario in all().iter().filter(|scenario| scenario.frame.len() >= SHORTEST) {
            let ids = enforce(scenario.policy).unwrap();
            let before = counts().unwrap();
            let verdict = test_run(INTERFACE, &scenario.frame).unwrap();
            let moved = moved(&before, &counts().unwrap());
            let entry = scenario.decided_by.map(|rule| ids[rule]);
            assert_eq!(
                moved,
                expected(TEST_SLOT, scenario.reason, entry, 1, scenario.frame.len()),
                "{}",
                scenario.name
            );
            assert_eq!(verdict, action(scenario.reason.verdict()), "{}", scenario.name);
            tried += 1;
        }
        assert!(tried > 100, "only {tried} scenarios were tried");
    });
}

#[test]
fn kernel_and_host_agree_on_cut_and_mutated_frames() {
    const MUTATIONS_OF_EACH: usize = 40;
    let (host, _turn) = filtering_host();
    host.run(|| {
        let mut random = filter_tests::seeded();
        for scenario in all().iter().filter(|scenario| scenario.frame.len() >= SHORTEST) {
            let ids = enforce(scenario.policy).unwrap();
            let before = counts().unwrap();
            let tables = host_tables(scenario.policy, 1000);
            let mut frames: Vec<Vec<u8>> =
                (SHORTEST..scenario.frame.len()).map(|length| scenario.frame[..length].to_vec()).collect();
            for _ in 0..MUTATIONS_OF_EACH {
                let mut frame = scenario.frame.clone();
                for _ in 0..=random.usize(..3) {
                    let place = random.usize(..frame.len());
                    frame[place] = random.u8(..);
                }
                frames.push(frame);
            }
            let mut want = Counts::new();
            for frame in &frames {
                let decision = filter(&frame[..], &StoppedClock(1000), &tables);
                let verdict = test_run(INTERFACE, frame).unwrap();
                assert_eq!(
                    verdict,
                    action(decision.reason.verdict()),
                    "{decision:?} for {frame:02x?} ({})",
                    scenario.name
                );
                let entry = (decision.entry != NO_ENTRY).then(|| ids[decision.entry as usize - 1]);
                for (counted, counter) in expected(TEST_SLOT, decision.reason, entry, 1, frame.len()) {
                    let sum = want.entry(counted).or_default();
                    *sum =
                        Counter { packets: sum.packets + counter.packets, bytes: sum.bytes + counter.bytes };
                }
            }
            let moved = moved(&before, &counts().unwrap());
            assert_eq!(moved, want, "counters after the frames made from {}", scenario.name);
        }
    });
}

#[test]
fn a_deadline_is_enforced_by_the_program_alone() {
    let (host, _turn) = filtering_host();
    host.run(|| {
        use filter_ctl::host::monotonic_now_s;
        use filter_ctl::plan::Change;
        use filter_ctl::policy::{Deadline, Entry, Key, ReasonText};
        let frame =
            &all().into_iter().find(|scenario| scenario.name == "a block with time left").unwrap().frame;
        let mut filter = open().unwrap();
        let created_s = monotonic_now_s();
        let entry = Entry {
            key: Key { action: Action::Block, prefix: Prefix::parse("203.0.113.0/24", false).unwrap() },
            until: Deadline(created_s + 2),
            created_s,
            reason: ReasonText::default(),
        };
        let current = filter.entries().unwrap();
        filter.change(&current, Change::Add(vec![entry])).unwrap();
        drop(filter);
        // Nothing but the clock changes from here on.
        let mut drops = 0u64;
        filter_tests::lab::eventually("the block ends", || {
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
        enforce(&[]).unwrap();
        let before = counts().unwrap();
        assert_eq!(test_run(INTERFACE, &frame).unwrap(), XDP_PASS);
        let want = expected(TEST_SLOT, filter_common::Reason::NoMatch, None, 1, 1514);
        assert_eq!(moved(&before, &counts().unwrap()), want);
    });
}
