//! The scenarios on the host: the pure code against the plainest tables.

use std::collections::BTreeSet;

use filter_common::testing::StoppedClock;
use filter_common::{Decision, NO_ENTRY, Reason, Verdict, filter};
use filter_tests::scenarios::{all, host_tables};

/// The moment at which frames arrive.
const NOW_S: u32 = 1000;

#[test]
fn every_scenario_is_decided_as_the_table_says() {
    for scenario in all() {
        let tables = host_tables(scenario.policy, NOW_S);
        let entry = scenario.decided_by.map_or(NO_ENTRY, |rule| u32::try_from(rule).unwrap() + 1);
        let expected = Decision { reason: scenario.reason, entry };
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
    let names: BTreeSet<_> = all().iter().map(|scenario| scenario.name).collect();
    assert_eq!(names.len(), all().len());
}

#[test]
fn cutting_a_frame_never_turns_a_drop_into_a_pass() {
    for scenario in all().iter().filter(|scenario| scenario.reason.verdict() == Verdict::Drop) {
        let tables = host_tables(scenario.policy, NOW_S);
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
        let tables = host_tables(scenario.policy, NOW_S);
        let (macs, rest) = scenario.frame.split_at(12);
        let already =
            rest.chunks(4).take_while(|tag| matches!(tag, [0x81 | 0x88 | 0x91 | 0x92, 0 | 0xa8, ..])).count();
        let mut tagged = macs.to_vec();
        for _ in already..4 {
            tagged.extend([0x81, 0x00, 0x20, 0x07]);
        }
        tagged.extend(rest);
        let decision = filter(&tagged[..], &StoppedClock(NOW_S), &tables);
        assert_eq!(decision.reason, scenario.reason, "{} behind tags", scenario.name);
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
