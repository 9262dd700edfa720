//! The scenarios on the host: the pure code against the plainest tables.

use std::collections::BTreeSet;

use filter_common::offline::StoppedClock;
use filter_common::{Decision, NO_ENTRY, Reason, Verdict, filter};
use filter_tests::mutate::Mutator;
use filter_tests::scenarios::{Scenario, all, host_tables};

/// The moment at which frames arrive.
const NOW_S: u32 = 1000;

#[test]
fn every_scenario_is_decided_as_the_table_says() {
    for scenario in all() {
        let tables = host_tables(&scenario, NOW_S);
        let entry = scenario.decided_by.map_or(NO_ENTRY, |rule| u32::try_from(rule).unwrap() + 1);
        let expected = Decision { reason: scenario.reason, entry, verdict: scenario.verdict() };
        assert_eq!(filter(&scenario.frame[..], &StoppedClock(NOW_S), &tables), expected, "{}", scenario.name);
    }
}

#[test]
fn the_table_reaches_every_reason() {
    let reached: BTreeSet<Reason> = all().iter().map(|scenario| scenario.reason).collect();
    let missing: Vec<_> = Reason::ALL.iter().filter(|reason| !reached.contains(reason)).collect();
    assert!(missing.is_empty(), "no scenario for {missing:?}");
}

#[test]
fn the_table_has_no_name_twice() {
    let names: BTreeSet<_> = all().into_iter().map(|scenario| scenario.name).collect();
    assert_eq!(names.len(), all().len());
    assert!(names.len() >= 250, "only {} scenarios", names.len());
}

#[test]
fn cutting_a_frame_never_turns_a_drop_into_a_pass() {
    for scenario in all().iter().filter(|scenario| scenario.verdict() == Verdict::Drop) {
        let tables = host_tables(scenario, NOW_S);
        for length in 0..scenario.frame.len() {
            let decision = filter(&scenario.frame[..length], &StoppedClock(NOW_S), &tables);
            assert_eq!(
                decision.reason.verdict(),
                Verdict::Drop,
                "{} cut to {length}: {decision:?}",
                scenario.name
            );
        }
    }
}

#[test]
fn tags_never_change_a_decision() {
    for scenario in all().iter().filter(|scenario| scenario.frame.len() >= 14) {
        let tables = host_tables(scenario, NOW_S);
        let (macs, rest) = scenario.frame.split_at(12);
        let already =
            rest.chunks(4).take_while(|tag| matches!(tag, [0x81 | 0x88 | 0x91 | 0x92, 0 | 0xa8, ..])).count();
        let mut tagged = macs.to_vec();
        for _ in already..4 {
            tagged.extend([0x81, 0x00, 0x20, 0x07]);
        }
        tagged.extend(rest);
        let decision = filter(&tagged[..], &StoppedClock(NOW_S), &tables);
        let untagged = filter(&scenario.frame[..], &StoppedClock(NOW_S), &tables);
        assert_eq!(decision, untagged, "{} behind tags", scenario.name);
    }
}

/// Random frames for the properties below.
const FRAMES: usize = 100_000;

#[test]
fn cutting_a_random_frame_never_turns_a_drop_into_a_pass() {
    let (mut random, mutator) = (filter_tests::seeded(), Mutator::default());
    for _ in 0..FRAMES {
        let scenario = Scenario { tolerated: &[], ..mutator.scenario(&mut random).clone() };
        let tables = host_tables(&scenario, NOW_S);
        let frame = mutator.frame(&mut random);
        let whole = filter(&frame[..], &StoppedClock(NOW_S), &tables);
        if whole.verdict == Verdict::Drop && !frame.is_empty() {
            let cut = &frame[..random.usize(..frame.len())];
            let decision = filter(cut, &StoppedClock(NOW_S), &tables);
            assert_eq!(
                decision.verdict,
                Verdict::Drop,
                "{whole:?}, cut to {}: {decision:?}: {frame:02x?}",
                cut.len()
            );
        }
    }
}

#[test]
fn a_tag_never_changes_the_decision_about_a_random_frame() {
    let (mut random, mutator) = (filter_tests::seeded(), Mutator::default());
    for _ in 0..FRAMES {
        let scenario = mutator.scenario(&mut random);
        let tables = host_tables(scenario, NOW_S);
        let mut frame = mutator.frame(&mut random);
        let decision = filter(&frame[..], &StoppedClock(NOW_S), &tables);
        // One more tag is too many behind four, and a frame without EtherType has nowhere to put one.
        let tags = frame.get(12..).unwrap_or_default().chunks(4).take_while(|tag| {
            matches!(tag, [0x81, 0, ..] | [0x88, 0xa8, ..] | [0x91, 0, ..] | [0x92, 0, ..])
        });
        if frame.len() >= 14 && tags.count() < 4 {
            frame.splice(12..12, [0x88, 0xa8, 0x0f, 0xff]);
            assert_eq!(filter(&frame[..], &StoppedClock(NOW_S), &tables), decision, "{frame:02x?}");
        }
    }
}

#[test]
fn the_readme_lists_every_reason() {
    let readme = include_str!("../README.md");
    let row = |reason: &Reason| {
        format!("| `{}` | {} | {} |", reason.name(), reason.verdict().name(), reason.sentence())
    };
    let want: Vec<String> = Reason::ALL.iter().map(row).collect();
    assert!(
        readme.contains(&want.join("\n")),
        "README.md must hold exactly these rows:\n{}",
        want.join("\n")
    );
}

#[test]
fn what_the_stack_has_merged_beyond_64_kib_is_no_malformed_packet() {
    use filter_tests::frames::{Ipv4, Ipv6, ethernet, protocol, tcp_with};
    let segment = tcp_with(0x50, &vec![0; 70_000]);
    // Length fields of zero, as BIG TCP leaves them; the real length would not fit.
    let mut ipv4 = Ipv4 { protocol: protocol::TCP, total_length: Some(0), ..Ipv4::default() }.packet(&[]);
    ipv4.extend(&segment);
    let mut ipv6 =
        Ipv6 { next_header: protocol::TCP, payload_length: Some(0), ..Ipv6::default() }.packet(&[]);
    ipv6.extend(&segment);
    let mut jumbogram = Ipv6 { next_header: 0, payload_length: Some(0), ..Ipv6::default() }.packet(&[]);
    jumbogram.extend([protocol::TCP, 0, 0xc2, 4, 0, 1, 0x11, 0x84]);
    jumbogram.extend(&segment);
    for (ether_type, packet) in [(0x0800, ipv4), (0x86dd, ipv6), (0x86dd, jumbogram)] {
        let frame = ethernet(&[], ether_type, &packet);
        let (reason, verdict, _) = filter_tests::model::judge(&frame, &[], &[]);
        assert_eq!((reason, verdict), (Reason::NoMatch, Verdict::Pass));
        let tables = filter_common::offline::HostTables::default();
        assert_eq!(filter(&frame[..], &StoppedClock(NOW_S), &tables).reason, reason);
    }
}
