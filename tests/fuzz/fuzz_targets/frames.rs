//! Any bytes as a frame, under the policy of any scenario: no panic, and the naive model says the same.
//!
//! The first two bytes choose the scenario, the rest is the frame.

#![no_main]

use std::sync::LazyLock;

use filter_common::offline::StoppedClock;
use filter_common::{Decision, NO_ENTRY, filter};
use filter_tests::model::judge;
use filter_tests::scenarios::{Scenario, all, host_tables};
use libfuzzer_sys::fuzz_target;

static SCENARIOS: LazyLock<Vec<Scenario>> = LazyLock::new(all);

fuzz_target!(|data: &[u8]| {
    let [high, low, frame @ ..] = data else { return };
    let scenario = &SCENARIOS[usize::from(u16::from_be_bytes([*high, *low])) % SCENARIOS.len()];
    let (reason, verdict, rule) = judge(frame, scenario.policy, scenario.tolerated);
    let entry = rule.map_or(NO_ENTRY, |rule| u32::try_from(rule).expect("few rules") + 1);
    let decision = filter(frame, &StoppedClock(1000), &host_tables(scenario, 1000));
    assert_eq!(decision, Decision { reason, entry, verdict });
});
